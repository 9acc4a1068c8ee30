"""Ways to time kernels. A meter is a `Meter`; the conformance suite holds for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from edgeopt.core.kernels import OpKey


@dataclass(frozen=True, slots=True)
class Window:
    """One visit to a kernel: samples taken right after one another, in nanoseconds."""

    key: OpKey
    samples_ns: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A kernel that turned out not to be timeable: it crashes, hangs, or gives nonsense."""

    key: OpKey
    why: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Something went wrong and was got over: recorded, so that a table can say how it came."""

    what: str


Outcome = Window | Refused | Fault


class Meter(Protocol):
    """Times single kernels on one device with one runtime."""

    @property
    def runtime(self) -> str:
        """What runs the kernels: part of a table's identity."""
        ...

    @property
    def runtime_version(self) -> str:
        """Changes whenever the same key would run different code."""
        ...

    @property
    def threads(self) -> int:
        """Threads a kernel may use."""
        ...

    def prepare(self, keys: Sequence[OpKey]) -> dict[OpKey, str]:
        """Build what is needed to time ``keys``.

        Returns:
            The keys that cannot be timed, each with the reason.
        """
        ...

    def visit(self, keys: Sequence[OpKey]) -> Iterator[Outcome]:
        """Time each of ``keys`` (prepared before) once, in any order, yielding as it goes.

        Raises:
            BoardError: the device does not answer as it should.
        """
        ...


@runtime_checkable
class Grouping(Protocol):
    """A meter to which some kernels are cheaper to visit together: they are of one program."""

    def groups(self, keys: Sequence[OpKey]) -> list[list[OpKey]]:
        """``keys``, divided into those that are visited together."""
        ...


#: Name -> where it is; what a user can choose from. `tvm` times edgeopt's own kernels.
METERS = {
    "ort": "edgeopt.latency.meters.ort:OrtMeter",
    "tvm": "edgeopt.latency.meters.program:ProgramMeter",
    "replay": "edgeopt.latency.meters.replay:ReplayMeter",
}
