"""Single kernels against what the core can do at most, and against onnxruntime, one thread.

    python benchmarks/kernels.py [--precision f32 i8] [--only pointwise] [--net 224] [--no-peer]
                                 [--seconds 0.2] [--svg benchmarks/roofline.svg]

Peak multiply-adds and read bandwidth of every cache level are measured in the same run. Columns:
``us`` the median and ``best`` the fastest time of one call with warm caches, ``GOP/s`` (two a
multiply-add of the direct convolution, padding not counted: in Winograd's domain there are fewer,
so shares may pass 100 %) or ``GB/s`` (kernels without any), ``peak`` its share of the peak that the
core reached in the same turns, ``roof`` its share of what peak and bandwidth allow (bandwidth of
the smallest cache that holds inputs, weights and output), both of the fastest time. ``ort`` is
onnxruntime's time for a model of this layer alone, in turns with ours, less its time for a model
that copies one number; it includes its conversion of layouts, which whole networks pay less often.
``x`` is the ratio of medians.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import kernel_shapes
import numpy as np
import one_layer
import roofline
from machine import Machine, Peaks

from edgeopt.codegen import build, schedules
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import DTYPE_BYTES, Array
from edgeopt.core.target import TargetSpec
from edgeopt.devices import local

TURNS = 5
SHORTEST_SAMPLE_NS = 20_000
EXTRA_BYTES = 256


@dataclass(frozen=True, slots=True)
class Row:
    """One measured kernel."""

    kind: str
    net: str
    key: OpKey
    median_us: float
    best_us: float
    peer_us: float
    peak: float  # operations a nanosecond that the core reached in the same turns

    @property
    def moved_bytes(self) -> int:
        """Activations and weights, each moved once."""
        return self.key.activation_bytes + self.key.weight_count * DTYPE_BYTES[self.key.dtype]

    @property
    def operations(self) -> float:
        """Two a multiply-add of a number that is not padding."""
        key = self.key
        if key.op not in one_layer.CONVOLUTIONS or not any(key.pads):
            return 2.0 * key.macs
        share = 1.0
        for axis in (0, 1):
            places = [
                out * key.strides[axis] + tap * key.dilations[axis] - key.pads[axis]
                for out in range(key.out_shape[axis])
                for tap in range(key.kernel[axis])
            ]
            share *= sum(0 <= place < key.in_shape[axis] for place in places) / len(places)
        return 2.0 * key.macs * share

    def rate(self) -> float:
        """Operations a nanosecond, of the fastest time."""
        return self.operations / self.best_us / 1e3

    def shares(self, peaks: Peaks) -> tuple[float, float]:
        """Of the compute peak, and of what peak and bandwidth allow."""
        least_ns = self.moved_bytes / peaks.bandwidth(self.moved_bytes)
        least_ns = max(least_ns, self.operations / self.peak)
        return self.rate() / self.peak, least_ns / (1e3 * self.best_us)


def aligned(array: Array) -> Array:
    """A copy that starts at a cache line, with room to read past its end."""
    raw = np.zeros(array.nbytes + 64 + EXTRA_BYTES, np.uint8)
    start = -raw.ctypes.data % 64
    view = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


class Timed:
    """A compiled kernel with its buffers."""

    def __init__(self, machine: Machine, key: OpKey, target: TargetSpec, folder: Path) -> None:
        template = schedules.select(key, target)
        if template is None:
            raise SystemExit(f"no template implements {key}")
        function = template.function(key, target)
        rng = np.random.default_rng(1)
        packed = template.pack(key, target, one_layer.constants(key, rng))
        given = one_layer.arguments(function, packed, rng)
        self._keep = [aligned(array) for _, array in given]
        self._pointers = [array.ctypes.data for array in self._keep]
        self._library = link(build.compile_kernels([key], target), folder)
        self._function = getattr(self._library, function.symbol)
        self._machine = machine
        self._inner = 1
        self._inner = max(int(SHORTEST_SAMPLE_NS / min(self.samples(3))), 1)

    def samples(self, count: int) -> list[float]:
        """Nanoseconds a call."""
        return self._machine.time(self._function, self._pointers, count, self._inner)


def link(data: bytes, folder: Path) -> ctypes.CDLL:
    """Load an object as a shared library."""
    obj = folder / "kernel.o"
    shared = Path(tempfile.mkstemp(suffix=".so", dir=folder)[1])
    obj.write_bytes(data)
    subprocess.run(["gcc", "-shared", "-o", str(shared), str(obj), "-lm"], check=True)
    return ctypes.CDLL(str(shared))


def calls(run: Callable[[], object], seconds: float) -> list[float]:
    """Nanoseconds of each call, for about so many seconds."""
    found = []
    end = time.perf_counter() + seconds
    while not found or time.perf_counter() < end:
        start = time.perf_counter_ns()
        run()
        found.append(float(time.perf_counter_ns() - start))
    return found


def measure(
    machine: Machine, layer: tuple[str, str, OpKey], target: TargetSpec, seconds: float, peer: bool
) -> Row:
    """Time one kernel, in turns with onnxruntime."""
    kind, net, key = layer
    with tempfile.TemporaryDirectory() as folder:
        ours = Timed(machine, key, target, Path(folder))
        theirs = one_layer.session(key) if peer else None
        empty = one_layer.empty_session() if peer else None
        per_call = min(ours.samples(3)) * ours._inner
        count = max(int(seconds / TURNS * 1e9 / per_call), 5)
        mine: list[float] = []
        other: list[float] = []
        nothing: list[float] = []
        peak = 0.0
        for _ in range(TURNS):
            mine += ours.samples(count)
            peak = max(peak, machine.peak(key.precision))
            if theirs is not None and empty is not None:
                other += calls(theirs, seconds / TURNS)
                nothing += calls(empty, seconds / TURNS / 10)
    peer_ns = statistics.median(other) - statistics.median(nothing) if other else 0.0
    median_us, best_us = statistics.median(mine) / 1e3, min(mine) / 1e3
    return Row(kind, net, key, median_us, best_us, peer_ns / 1e3, peak)


def describe(key: OpKey) -> str:
    """Shapes in short."""
    text = "x".join(map(str, key.in_shape)) + "->" + "x".join(map(str, key.out_shape))
    if key.kernel != (1, 1):
        text += f" k{key.kernel[0]}x{key.kernel[1]}"
    return text + (f" s{key.strides[0]}" if key.strides != (1, 1) else "")


def line(row: Row, peaks: Peaks) -> str:
    """One kernel of the table."""
    peak, roof = row.shares(peaks)
    rate = f"{row.rate():6.1f} GOP/s {100 * peak:4.0f} %"
    if not row.key.macs:
        rate = f"{row.moved_bytes / row.best_us / 1e3:6.1f} GB/s       "
    peer = f"{row.peer_us:9.1f} {row.peer_us / row.median_us:6.2f}" if row.peer_us else ""
    return (
        f"{row.key.op:14} {row.key.precision:3} {describe(row.key):40} {row.net:17} "
        f"{row.median_us:8.1f} {row.best_us:8.1f} {rate} {100 * roof:4.0f} % {peer}"
    )


def summary(rows: list[Row], peaks: Peaks) -> list[str]:
    """Each class: geometric means, and how many reach the goals."""
    lines = []
    for precision in ("f32", "i8"):
        for kind in dict.fromkeys(row.kind for row in rows):
            some = [r for r in rows if r.kind == kind and r.key.precision == precision]
            if not some:
                continue
            peak, roof = zip(*(row.shares(peaks) for row in some), strict=True)
            mean = statistics.geometric_mean
            text = f"{kind} {precision}: {len(some)} kernels, roof mean {100 * mean(roof):.0f} %"
            text += f" lowest {100 * min(roof):.0f} %"
            if all(row.key.macs for row in some):
                text += f"; peak mean {100 * mean(peak):.0f} % lowest {100 * min(peak):.0f} %"
                text += f", {sum(p >= 0.7 for p in peak)} at 70 % of peak or more"
            text += f", {sum(r >= 0.6 for r in roof)} at 60 % of roof or more"
            if all(row.peer_us for row in some):
                ratios = [max(row.peer_us, 0.01) / row.median_us for row in some]
                text += f"; onnxruntime / edgeopt mean {mean(ratios):.2f} lowest {min(ratios):.2f}"
            lines.append(text)
    return lines


def main() -> None:
    """Measure, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--precision", nargs="+", choices=("f32", "i8"), default=["f32", "i8"])
    parser.add_argument("--only", default="", help="only kernels whose class contains this")
    parser.add_argument("--net", default="", help="only kernels whose network contains this")
    parser.add_argument("--no-peer", action="store_true", help="leave onnxruntime out")
    parser.add_argument("--seconds", type=float, default=0.2, help="for each kernel and engine")
    parser.add_argument("--svg", type=Path, help="where the roofline picture goes")
    args = parser.parse_args()
    target = local.probe().target
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder))
        for precision in args.precision:
            for layer in kernel_shapes.layers(precision):
                if args.only in layer[0] and args.net in layer[1]:
                    rows.append(measure(machine, layer, target, args.seconds, not args.no_peer))
                    peaks = machine.measure(target.l1d_bytes, target.l2_bytes)
                    print(line(rows[-1], peaks), flush=True)
    levels = ", ".join(f"{rate:.0f} GB/s from {size >> 10} KiB" for size, rate in peaks.read_gbs)
    print(f"\npeak {peaks.float_gflops:.1f} GFLOP/s, int8 {peaks.integer_gops:.1f} GOP/s, {levels}")
    print("\n".join(summary(rows, peaks)))
    if args.svg:
        roofline.draw(args.svg, peaks, rows)


if __name__ == "__main__":
    main()
