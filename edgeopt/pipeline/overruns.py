"""What a compiled network takes beyond its budget, and how the next search makes up for it.

A search stands on estimates, code above all; what was compiled is exact. Where it misses, the
budget is searched again with as much less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InfeasibleError
from edgeopt.core.estimates import Budget
from edgeopt.core.units import show_duration
from edgeopt.pipeline.manifest import Figure

#: What the next search leaves unused: the next network's estimate is off by something else. Code
#: is a part of flash, and off by a few percent.
_SPARE_LATENCY, _SPARE_BYTES = 0.02, 0.005


@dataclass(frozen=True, slots=True)
class Excess:
    """A figure that came out above its budget."""

    name: str  # of the budget's field
    wanted: float
    found: float

    @property
    def text(self) -> str:
        """In words."""
        noun = {"latency_ns": "latency", "ram_bytes": "RAM", "flash_bytes": "flash"}[self.name]
        found, wanted = (self._shown(value) for value in (self.found, self.wanted))
        return f"{noun} {found} where at most {wanted} was asked for"

    def _shown(self, value: float) -> str:
        return show_duration(value) if self.name == "latency_ns" else f"{value:,.0f} bytes"


class OverBudgetError(Exception):
    """A compiled network takes more than it may."""

    def __init__(self, found: tuple[Excess, ...]) -> None:
        super().__init__(found)
        self.found = found


def excesses(figures: Sequence[Figure], budget: Budget) -> tuple[Excess, ...]:
    """Which figures of a compiled network miss the budget.

    Where nothing but the network takes RAM that is counted (Linux), its arena is the RAM.
    """
    values = {figure.name: figure.value for figure in figures}
    if "ram_bytes" not in values and "arena_bytes" in values:
        values["ram_bytes"] = values["arena_bytes"]
    wanted = {name: getattr(budget, name) for name in ("latency_ns", "ram_bytes", "flash_bytes")}
    return tuple(
        Excess(name, limit, values[name])
        for name, limit in wanted.items()
        if limit is not None and name in values and values[name] > limit
    )


def tightened(
    budget: Budget,
    found: Sequence[Excess],
    target: Budget,
    attempt: int = 1,
    estimated: Mapping[str, float] = MappingProxyType({}),
) -> Budget:
    """A budget to search with so that what comes out meets ``target``.

    ``estimated`` is what the search took the network for, by the names of the budget's fields: it
    may have left some of the budget, and is not to find that network again.
    Latency is taken to be off by a factor, bytes by a difference where that asks for less: code is
    much the same in all networks. Each further ``attempt`` leaves four times the bytes: estimates
    that missed twice are off by more than chance.
    """
    changes = {}
    for excess in found:
        goal = getattr(target, excess.name)
        now = min(getattr(budget, excess.name), estimated.get(excess.name, math.inf))
        less = now * goal / excess.found
        if excess.name == "latency_ns":
            less *= 1 - _SPARE_LATENCY
        else:
            less = min(less, now + goal - excess.found) * (1 - _SPARE_BYTES * 4 ** (attempt - 1))
        changes[excess.name] = max(1, int(less))
    return replace(budget, **changes)


def refuse(found: Sequence[Excess], profile: DeviceProfile) -> InfeasibleError:
    """The error of a network that is over its budget."""
    hint = "allow more, or compile a smaller network; what was found is exact"
    if any(excess.name == "latency_ns" for excess in found):
        hint += " but for the latency, which is simulated"
    return InfeasibleError(
        "; ".join(excess.text for excess in found), where=f"device {profile.name}", hint=hint
    )


def check(figures: Sequence[Figure], budget: Budget) -> None:
    """Refuse a network that misses its budget.

    Raises:
        OverBudgetError: with what it takes too much.
    """
    if found := excesses(figures, budget):
        raise OverBudgetError(found)


def notes(figures: Sequence[Figure], budget: Budget) -> tuple[str, ...]:
    """What a finished network takes beyond its budget, said beside it.

    On Linux that is a latency: measured or predicted it is not exact, and nothing is refused.
    """
    return tuple(f"over the budget: {excess.text}" for excess in excesses(figures, budget))
