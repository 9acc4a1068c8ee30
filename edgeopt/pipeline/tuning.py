"""``--tune``: a wide measured search for the tilings of a network's slowest kernels.

What it finds is kept in the stage cache, by kernel, machine and code: a repeated compile measures
nothing and gives the same bytes.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgeopt.core.choice import Choice
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import LatencyModel
from edgeopt.core.kernels import OpKey
from edgeopt.pipeline import tiles
from edgeopt.pipeline.cache import StageCache
from edgeopt.pipeline.kernel_store import codegen_version

#: Tilings that are measured of each kernel.
WIDE = 40
_STAGE, _FILE = "tile", "choice.txt"


def slowest(
    keys: Sequence[OpKey], latency: LatencyModel, target_keys: Mapping[OpKey, object], count: int
) -> list[OpKey]:
    """The kernels of ``target_keys`` that take most of a network's time, in all their calls."""
    calls = Counter(keys)
    found = [key for key in calls if key in target_keys]
    times = {
        key: estimate.value * calls[key]
        for key, estimate in zip(found, latency.predict_each(found), strict=True)
    }
    return sorted(found, key=lambda key: (-times[key], str(key)))[:count]


def tuned(
    keys: Sequence[OpKey],
    profile: DeviceProfile,
    latency: LatencyModel,
    count: int,
    cache: StageCache,
    detail: Callable[[str], None] = lambda text: None,
) -> dict[OpKey, Choice]:
    """The best tilings of the ``count`` slowest kernels, each among `WIDE` candidates.

    Args:
        keys: the network's kernels, in execution order.
        profile: the device; its programs must run on this machine.
        latency: says which kernels take longest.
        count: kernels to search.
        cache: keeps what was found.
        detail: told what takes time.

    Raises:
        InputError: a count below 1, or the device's programs cannot be timed here.
        ToolError: a compiler is missing or fails.
        BoardError: a program fails.
    """
    from edgeopt.pipeline.local_table import local_programs

    if count < 1:
        raise InputError(f"{count} kernels cannot be tuned", where="--tune", hint="give 1 or more")
    candidates = tiles.candidates_of(keys, profile.target, WIDE)
    found: dict[OpKey, Choice] = {}
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        programs = local_programs(profile, Path(folder), cache)
        chosen = slowest(keys, latency, candidates, count)
        for number, key in enumerate(chosen, start=1):
            inputs = {
                "key": str(key),
                "device": profile.fingerprint,
                "wide": str(WIDE),
                "compact": str(profile.compact),
            }
            files = cache.get(_STAGE, inputs, code=codegen_version())
            if files is None:
                detail(f"tuning kernel {number} of {len(chosen)}, {len(candidates[key])} tilings")
                program = programs.program([(key, choice) for choice in candidates[key]])
                best = tiles.choose(program, {key: candidates[key]})[key]
                files = {_FILE: str(best).encode()}
                cache.put(_STAGE, inputs, files, code=codegen_version())
            found[key] = Choice.parse(files[_FILE].decode())
    return found
