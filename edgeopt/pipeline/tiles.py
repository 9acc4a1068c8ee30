"""Which tiling each kernel of a device runs best with: measured once, kept in its latency table.

Candidates of a kernel are linked into one program and visited in turn. That takes a fraction of
the time that measuring a kernel well takes, so profiling and choosing are one pass: first the
tiling, then, of that tiling alone, the latency.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import BoardError, InputError
from edgeopt.core.files import read_bytes, write_atomic
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec

#: A tiling replaces the model's own when it is faster by this share: less is noise.
MARGIN = 0.02
#: Candidates this much slower than the best of the first round are not visited again.
CLOSE = 0.15
#: Data of the kernels that one run of a program holds at once.
MAX_BYTES = 128 << 20
_NOTES = "edgeopt-tiles"

Candidates = Mapping[OpKey, Sequence[Choice]]


class Program(Protocol):
    """A bench program (see `edgeopt.codegen.bench`)."""

    def run(self, args: Sequence[str]) -> Iterator[str]:
        """Run it, yielding the lines of its standard output."""
        ...


def choices_of(profile: DeviceProfile) -> dict[OpKey, Choice]:
    """The measured tilings of a device, by the table of the code as it is now; else none.

    Where networks are to take little flash, compact kernels stay as they are.

    Raises:
        InputError: the table is broken.
    """
    from edgeopt import latency
    from edgeopt.codegen import schedules
    from edgeopt.pipeline.kernel_store import codegen_version

    table = latency.find_table(profile, runtime_version=codegen_version())
    if table is None:
        return {}
    target = profile.target
    return {k: c for k, c in table.choices.items() if not schedules.is_compact(k, target)}


def candidates_of(
    keys: Sequence[OpKey], target: TargetSpec, at_most: int | None = None
) -> dict[OpKey, tuple[Choice, ...]]:
    """The kernels that can be tiled in several ways, with their tilings, the model's first."""
    from edgeopt.codegen import schedules

    found = {}
    for key in dict.fromkeys(keys):
        template = schedules.select(key, target)
        if template is None:
            continue
        if at_most is None:
            choices = template.candidates(key, target)
        else:
            choices = template.candidates(key, target, at_most)
        if len(choices) > 1:
            found[key] = choices
    return found


def time_all(
    program: Program, candidates: Candidates, *, passes: int = 3, min_us: int = 150
) -> dict[tuple[OpKey, Choice], float]:
    """Fastest sample of each tiling, in nanoseconds.

    The fastest, because whatever else a machine does only adds to it.

    Raises:
        BoardError: the program prints something else.
    """
    from edgeopt.codegen.bench import identity

    wanted = {identity(key, c): (key, c) for key, choices in candidates.items() for c in choices}
    best: dict[tuple[OpKey, Choice], float] = {}
    options = ["--passes", str(passes), "--samples", "3", "--min-us", str(min_us)]
    for group in _groups(candidates):
        names = [identity(key, choice) for key in group for choice in candidates[key]]
        _read(program.run([*options, *names]), wanted, best)
    if len(best) != len(wanted):
        raise BoardError(
            f"the bench program timed {len(best)} of {len(wanted)} tilings", where="bench program",
            hint="a kernel may crash; report the command with --dump-dir",
        )  # fmt: skip
    return best


def _groups(candidates: Candidates) -> list[list[OpKey]]:
    """Kernels whose tilings are visited in turn: as many as their data leaves memory for."""
    groups: list[list[OpKey]] = []
    used = MAX_BYTES + 1
    for key, choices in candidates.items():
        data = key.activation_bytes + key.weight_bytes
        if used + len(choices) * data > MAX_BYTES:
            groups.append([])
            used = 0
        groups[-1].append(key)
        used += len(choices) * data
    return groups


def _read(
    lines: Iterator[str],
    wanted: Mapping[str, tuple[OpKey, Choice]],
    best: dict[tuple[OpKey, Choice], float],
) -> None:
    for line in lines:
        try:
            message = json.loads(line)
            if "key" in message:
                which = wanted[message["key"]]
                best[which] = min(best.get(which, float("inf")), *map(float, message["ns"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            shown = "".join(c if c.isprintable() else "?" for c in line[:80])
            raise BoardError(
                f"printed something other than times: {shown!r}", where="bench program",
                hint="does something else write to the same standard output?",
            ) from error  # fmt: skip


def choose(program: Program, candidates: Candidates) -> dict[OpKey, Choice]:
    """The best tiling of each kernel: a short round over all, a longer one over the close ones.

    Raises:
        BoardError: the program fails, or prints something else.
    """
    first = time_all(program, candidates)
    close = {}
    for key, choices in candidates.items():
        best = min(first[key, choice] for choice in choices)
        kept = [c for c in choices if first[key, c] <= best * (1 + CLOSE)]
        if len(kept) > 1:
            close[key] = kept
    # Another run: where a program's buffers lie in memory changes the time of large kernels.
    second = time_all(program, close, passes=8)
    times = {which: min(value, second.get(which, value)) for which, value in first.items()}
    return {
        key: pick({choice: times[key, choice] for choice in close.get(key, choices)})
        for key, choices in candidates.items()
    }


def pick(times: Mapping[Choice, float]) -> Choice:
    """The fastest tiling; the model's own unless another is faster by `MARGIN`."""
    best = min(times, key=lambda choice: times[choice])
    own = times.get(MODEL)
    if own is not None and times[best] > own * (1 - MARGIN):
        return MODEL
    return best


def save_notes(path: Path, version: str, choices: Mapping[OpKey, Choice]) -> None:
    """Keep what was chosen while a measurement goes on, so that it can be resumed.

    Raises:
        InputError: the file cannot be written.
    """
    chosen = {str(key): str(choice) for key, choice in choices.items()}
    write_atomic(path, json.dumps({_NOTES: 1, "version": version, "choices": chosen}))


def load_notes(path: Path, version: str) -> dict[OpKey, Choice]:
    """What an interrupted measurement of the same code had chosen; else nothing.

    Raises:
        InputError: the file is broken.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(read_bytes(path, max_bytes=64 << 20, noun="notes of tilings"))
        if found[_NOTES] != 1:
            raise ValueError("another version")
        if found["version"] != version:
            return {}
        return {OpKey.parse(k): Choice.parse(v) for k, v in found["choices"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InputError) as error:
        raise InputError(
            "the notes of chosen tilings are broken", where=str(path),
            hint="remove the file to begin anew",
        ) from error  # fmt: skip
