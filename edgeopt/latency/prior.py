"""What a core's costs are before anything was measured on it, and how wrong that may be.

A cost (one term of one class in one precision) is a figure from the facts times the exponential of
a sum of factors: one for the whole core, one for all arithmetic, one for the arithmetic of its
class, and so on. Measurements move the factors, so that what one kernel shows is shared by those
like it, as far as they are alike. Each factor has a standard deviation for what the device's facts
leave open and one for what its runtime does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeopt.latency.fit import Matrix
from edgeopt.latency.peaks import Peaks
from edgeopt.latency.work import CLASSES, COLUMNS, WIDTH

#: Precision -> class -> (share of the peak that is sustained, cycles a vector of activations).
#: Source: section `kernels` of benchmarks/RESULTS.md, edgeopt's kernels on an x86-64 server core;
#: shares are means over its kernels. Grouped convolutions run as several small ones. Nothing was
#: measured of softmax and fallback kernels but that they take tens of cycles a value.
SHARES: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "f32": {
        "pointwise": (0.85, 0.25), "conv2d": (0.9, 0.5), "grouped": (0.4, 0.5),
        "depthwise": (0.6, 0.4), "linear": (0.5, 0.25), "pooling": (1.0, 0.6),
        "elementwise": (1.0, 0.4), "movement": (1.0, 2.0), "softmax": (1.0, 60.0),
        "fallback": (0.05, 60.0),
    },
    "i8": {
        "pointwise": (0.54, 0.7), "conv2d": (0.7, 0.7), "grouped": (0.3, 0.7),
        "depthwise": (0.27, 1.0), "linear": (0.47, 0.7), "pooling": (1.0, 1.5),
        "elementwise": (1.0, 3.0), "movement": (1.0, 3.0), "softmax": (1.0, 60.0),
        "fallback": (0.05, 60.0),
    },
}  # fmt: skip
#: Classes whose costs are guesses.
GUESSED = ("softmax", "fallback")
#: Without vector registers every operand is loaded by an instruction of its own.
SCALAR_SHARE = 0.5
#: A call of generated C with its loop set-up; runtimes that interpret a graph take microseconds,
#: which is what the wide deviation of the factor is for.
CALL_CYCLES = 60.0
#: A byte that misses the core's own cache, and one from memory: the same core reads 31, 17 and 7
#: bytes a cycle from its second cache, its third, and memory (`peak` line of the same section).
FAR_BYTES_PER_CYCLE, COLD_BYTES_PER_CYCLE = 17.0, 7.0
#: Vector instructions of an exponential in f32; int8 looks values up.
CURVE_INSTRUCTIONS = {"f32": 20.0, "i8": 1.0}
#: Unpacking a weight, in multiplications of int8, with products that sum several lanes (four times
#: those of f32 a cycle) and without. Section `lowbit_aarch64` of benchmarks/RESULTS.md, one pixel:
#: 1.7 times the instructions with dot products, 1.04 without; `lowbit_kernels` on x86-64: 1.02.
UNPACK_DOT_MACS, UNPACK_MACS = 0.7, 0.05
DOT_RATIO = 4.0
#: Cycles a run costs whatever the network.
RUN_CYCLES = 100.0

OWN = "edgeopt"
UNKNOWN_THREADS = 0


@dataclass(frozen=True, slots=True)
class Factor:
    """One way in which costs may be off together.

    `device` and `runtime` are standard deviations of its natural logarithm: how much of the error
    another runtime on the same device would share, and how much is the runtime's own.
    """

    name: str
    device: float
    runtime: float
    touches: Callable[[str, str, str], bool]  # class, term, precision


def _factors() -> tuple[Factor, ...]:
    def of(**want: str) -> Callable[[str, str, str], bool]:
        def touches(kind: str, term: str, precision: str) -> bool:
            have = {"kind": kind, "term": term, "precision": precision}
            return all(have[name] in value.split() for name, value in want.items())

        return touches

    found = [
        Factor("speed", 0.2, 0.4, lambda kind, term, precision: True),
        Factor("compute", 0.15, 0.4, of(term="mac")),
        Factor("memory", 0.3, 0.4, of(term="activation weight")),
        Factor("far", 0.8, 0.3, of(term="far")),
        Factor("cold", 1.0, 0.3, of(term="cold")),
        Factor("call", 0.3, 2.0, of(term="call")),
        Factor("run", 0.3, 2.0, of(term="run")),
        Factor("curve", 0.1, 0.8, of(term="curve")),
        Factor("unpacking", 0.3, 0.4, of(term="unpack")),
        Factor("i8 compute", 0.2, 0.4, of(term="mac", precision="i8")),
        Factor("i8 memory", 0.1, 0.4, of(term="activation", precision="i8")),
    ]
    for kind in CLASSES:
        found += [
            Factor(f"{kind} compute", 0.15, 0.5, of(kind=kind, term="mac")),
            Factor(
                f"{kind} activation",
                0.1,
                1.5 if kind in GUESSED else 0.5,
                of(kind=kind, term="activation"),
            ),
            Factor(f"{kind} weight", 0.1, 0.4, of(kind=kind, term="weight")),
            Factor(f"{kind} call", 0.1, 1.0, of(kind=kind, term="call")),
            Factor(f"{kind} i8", 0.1, 0.3, of(kind=kind, precision="i8", term="mac activation")),
        ]
    return tuple(found)


FACTORS = _factors()
NAMES = tuple(factor.name for factor in FACTORS)
#: Factors that came to be after the first files were written: these may lack them.
LATER = ("unpacking",)
#: [WIDTH, factors]: 1 where a factor touches a cost.
LOADINGS: Matrix = np.array(
    [[float(factor.touches(*column)) for factor in FACTORS] for column in COLUMNS]
)
DEVICE: Matrix = np.array([factor.device for factor in FACTORS])
RUNTIME: Matrix = np.array([factor.runtime for factor in FACTORS])
#: The shares above are of edgeopt's own kernels: what is open is how they carry over to a core.
OWN_RUNTIME = 0.5
#: More deviation of the whole core where nobody says how many threads ran.
THREADS_UNSTATED = 0.6
assert LOADINGS.shape == (WIDTH, len(FACTORS))


def base_costs(peaks: Peaks, threads: int = 1) -> Matrix:
    """The costs [WIDTH] in nanoseconds that the facts give; ``threads`` divide what is divided."""
    ns = 1e9 / peaks.clock_hz
    sums = peaks.lanes > 1 and (
        peaks.macs_per_cycle["i8"] >= DOT_RATIO * peaks.macs_per_cycle["f32"]
    )
    unpacking = UNPACK_DOT_MACS if sums else UNPACK_MACS
    vector_bytes = 4.0 * peaks.lanes
    divided = max(1, threads)
    costs: Matrix = np.zeros(WIDTH)
    for index, (kind, term, precision) in enumerate(COLUMNS):
        if kind == "network":
            costs[index] = ns / COLD_BYTES_PER_CYCLE if term == "cold" else ns * RUN_CYCLES
            continue
        share, vector_cycles = SHARES[precision][kind]
        share *= 1.0 if peaks.lanes > 1 else SCALAR_SHARE
        cycles = {
            "call": CALL_CYCLES,
            "mac": 1 / (peaks.macs_per_cycle[precision] * share * divided),
            "activation": vector_cycles / vector_bytes / divided,
            "weight": 1 / vector_bytes / divided,
            "far": 1 / FAR_BYTES_PER_CYCLE,
            "unpack": unpacking / (peaks.macs_per_cycle["i8"] * share * divided),
            "curve": CURVE_INSTRUCTIONS[precision] / peaks.lanes / divided,
        }
        costs[index] = cycles[term] * ns
    return costs


#: How other runtimes differ from edgeopt's kernels, as factors of their costs. Source: the same
#: section, onnxruntime's time / edgeopt's (means by class), and its 7 to 17 us for the smallest
#: kernels, a hundred times a call of generated C. Others are taken to be like it, more or less.
OTHER_RUNTIMES: Mapping[str, float] = {"speed": 2.1, "depthwise compute": 2.3, "call": 100.0}
#: In int8 besides. On x86-64 as above; on Arm onnxruntime executes 1.7 times edgeopt's instructions
#: in int8 where it executes 3.4 times in fp32 (section `aarch64`, geometric means).
OTHER_RUNTIMES_I8: Mapping[str, Mapping[str, float]] = {
    "x86_64": {"i8 compute": 1.9, "depthwise i8": 3.0},
    "aarch64": {"i8 compute": 0.5, "i8 memory": 0.5},
}


def expectation(runtime: str, arch: str) -> Matrix:
    """The factors [factors] expected before anything was measured."""
    if runtime == OWN:
        return np.zeros(len(NAMES))
    known = {**OTHER_RUNTIMES, **OTHER_RUNTIMES_I8.get(arch, {})}
    return np.array([math.log(known.get(name, 1.0)) for name in NAMES])


def deviations(runtime: str, threads: int) -> tuple[Matrix, Matrix]:
    """Standard deviations [factors] of what the device and what the runtime leave open."""
    own: Matrix = RUNTIME * (OWN_RUNTIME if runtime == OWN else 1.0)
    if threads == UNKNOWN_THREADS:
        own = own.copy()
        own[NAMES.index("speed")] = float(np.hypot(own[NAMES.index("speed")], THREADS_UNSTATED))
    return DEVICE, own
