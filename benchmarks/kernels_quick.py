"""Whole networks of template kernels against onnxruntime, one thread: ratios and per-kernel times.

    python benchmarks/kernels_quick.py [--nets 10] [--size 32] [--seed 0] [--int8] [--profile]

Networks are random MobileNetV3 subnets with random weights: only their speed means anything,
though the outputs are compared as well (float only).
"""

from __future__ import annotations

import argparse
import ctypes
import math
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeopt.codegen import build, schedules
from edgeopt.codegen.abi import symbol_of
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec
from edgeopt.devices import local

DRIVER = r"""
#include <stdint.h>
#include <time.h>
typedef int32_t (*fn)(void*,void*,void*,void*,void*,void*,void*,void*,void*,void*);
static uint64_t now(void){struct timespec t;clock_gettime(CLOCK_MONOTONIC,&t);
  return (uint64_t)t.tv_sec*1000000000u+(uint64_t)t.tv_nsec;}
void run(int n, fn *f, void *(*a)[10], int reps, uint64_t *total, uint64_t *each){
  for(int r=0;r<reps;r++){uint64_t s=now();
    for(int i=0;i<n;i++) f[i](a[i][0],a[i][1],a[i][2],a[i][3],a[i][4],a[i][5],a[i][6],a[i][7],
                              a[i][8],a[i][9]);
    total[r]=now()-s;}
  if(each) for(int r=0;r<reps;r++) for(int i=0;i<n;i++){uint64_t s=now();
    f[i](a[i][0],a[i][1],a[i][2],a[i][3],a[i][4],a[i][5],a[i][6],a[i][7],a[i][8],a[i][9]);
    uint64_t e=now()-s; if(r==0||e<each[i]) each[i]=e;}
}
"""


@dataclass
class Step:
    key: OpKey
    inputs: list[str]
    output: str
    constants: dict[str, np.ndarray] = field(default_factory=dict)


class Net:
    """Kernel steps and the ONNX graph of one random network, built together."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng = rng
        self.steps: list[Step] = []
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shapes = {"x": (size, size, 3)}

    def name(self) -> str:
        return f"t{len(self.nodes)}_{len(self.steps)}"

    def constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, op: str, inputs: list[str], **attrs: object) -> str:
        out = self.name() + op
        self.nodes.append(helper.make_node(op, inputs, [out], **attrs))
        return out

    def conv(
        self,
        x: str,
        out_c: int,
        k: int = 1,
        s: int = 1,
        act: str = "none",
        depthwise: bool = False,
        residual: str = "",
    ) -> str:
        h, w, c = self.shapes[x]
        groups = c if depthwise else 1
        pad = k // 2
        out = ((h + 2 * pad - k) // s + 1, (w + 2 * pad - k) // s + 1, out_c)
        op = "depthwise" if depthwise else "pointwise" if (k, s) == (1, 1) else "conv2d"
        key = OpKey(
            op,
            (h, w, c),
            out,
            kernel=(k, k),
            strides=(s, s),
            pads=(pad,) * 4,
            groups=groups,
            activation=act,
            residual=bool(residual),
        )
        fan = k * k * c // groups
        weight = self.rng.standard_normal((out_c, k, k, c // groups)) * math.sqrt(2 / fan)
        weight = weight.astype(np.float32)
        bias = (self.rng.standard_normal(out_c) * 0.1).astype(np.float32)
        y = self.node(
            "Conv",
            [x, self.constant(weight.transpose(0, 3, 1, 2)), self.constant(bias)],
            kernel_shape=[k, k],
            strides=[s, s],
            pads=[pad] * 4,
            group=groups,
        )
        y = self.act(y, act)
        if residual:
            y = self.node("Add", [y, residual])
        self.shapes[y] = out
        self.steps.append(
            Step(key, [x, residual] if residual else [x], y, {"w": weight, "b": bias})
        )
        return y

    def act(self, y: str, act: str) -> str:
        if act == "relu":
            return self.node("Relu", [y])
        if act == "hardswish":
            return self.node("HardSwish", [y])
        if act == "hardsigmoid":
            return self.node("HardSigmoid", [y], alpha=1 / 6, beta=0.5)
        return y

    def gap(self, x: str) -> str:
        y = self.node("GlobalAveragePool", [x])
        self.shapes[y] = (1, 1, self.shapes[x][2])
        self.steps.append(Step(OpKey("global_avgpool", self.shapes[x], self.shapes[y]), [x], y))
        return y

    def se(self, x: str) -> str:
        c = self.shapes[x][2]
        gate = self.conv(self.gap(x), max(8, (c // 4 + 4) // 8 * 8), act="relu")
        gate = self.conv(gate, c, act="hardsigmoid")
        y = self.node("Mul", [x, gate])
        self.shapes[y] = self.shapes[x]
        key = OpKey("scale", self.shapes[x], self.shapes[x], inputs=2)
        self.steps.append(Step(key, [x, gate], y))
        return y

    def block(self, x: str, expand: float, out_c: int, k: int, s: int, act: str, se: bool) -> str:
        c = self.shapes[x][2]
        y = x
        mid = int(c * expand + 4) // 8 * 8
        if expand != 1:
            y = self.conv(y, mid, act=act)
        y = self.conv(y, mid if expand != 1 else c, k, s, act, depthwise=True)
        if se:
            y = self.se(y)
        return self.conv(y, out_c, residual=x if s == 1 and c == out_c else "")

    def head(self, x: str, wide: int, mix: int, classes: int) -> None:
        x = self.conv(x, wide, act="hardswish")
        x = self.conv(self.gap(x), mix, act="hardswish")
        flat = self.node("Flatten", [x])
        w = (self.rng.standard_normal((classes, mix)) / math.sqrt(mix)).astype(np.float32)
        b = self.rng.standard_normal(classes).astype(np.float32)
        y = self.node("Gemm", [flat, self.constant(w), self.constant(b)], transB=1)
        self.shapes[y] = (classes,)
        self.steps.append(Step(OpKey("linear", (mix,), (classes,)), [x], y, {"w": w, "b": b}))
        self.output = y

    def model(self) -> bytes:
        h, w, c = self.shapes["x"]
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, c, h, w])],
            [helper.make_tensor_value_info(self.output, TensorProto.FLOAT, None)],
            self.weights,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        made.ir_version = 9
        return bytes(made.SerializeToString())


def cifar(rng: np.random.Generator, size: int) -> Net:
    net = Net(rng, size)
    x = net.conv("x", 16, 3, 1, "hardswish")
    x = net.block(x, 1, 16, 3, 2, "relu", False)
    stages = (
        (24, 1, "relu", False, 2),
        (32, 2, "relu", False, 2),
        (48, 1, "hardswish", True, 3),
        (80, 2, "hardswish", True, 3),
    )
    for width, stride, act, se, deepest in stages:
        for i in range(int(rng.integers(1, deepest + 1))):
            k, e = int(rng.choice([3, 5])), int(rng.choice([2, 3, 4]))
            x = net.block(x, e, width, k, stride if i == 0 else 1, act, se)
    net.head(x, 240, 128, 10)
    return net


def large(rng: np.random.Generator, size: int) -> Net:
    net = Net(rng, size)
    x = net.conv("x", 16, 3, 2, "hardswish")
    x = net.block(x, 1, 16, 3, 1, "relu", False)
    stages = (
        (24, 2, "relu", False),
        (40, 2, "relu", True),
        (80, 2, "hardswish", False),
        (112, 1, "hardswish", True),
        (160, 2, "hardswish", True),
    )
    for width, stride, act, se in stages:
        for i in range(int(rng.integers(2, 5))):
            k, e = int(rng.choice([3, 5, 7])), int(rng.choice([3, 4, 6]))
            x = net.block(x, e, width, k, stride if i == 0 else 1, act, se)
    net.head(x, 960, 1280, 1000)
    return net


def aligned(array: np.ndarray) -> np.ndarray:
    raw = np.zeros(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    view = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def to_int8(step: Step, rng: np.random.Generator) -> Step:
    """The same kernel in int8, with plausible constants."""
    key = replace(step.key, dtype="i8", out_dtype="i8", residual=False)
    constants: dict[str, np.ndarray] = {}
    if "w" in step.constants:
        n = key.out_shape[-1]
        constants = {
            "w": rng.integers(-127, 128, step.constants["w"].shape).astype(np.int8),
            "b": rng.integers(-100, 100, n).astype(np.int32),
            "multiplier": np.full(n, 1e-3, np.float32),
            "qparams": np.array([3, -5, -128, 127], np.int32),
            "lut": np.arange(-128, 128).astype(np.int8),
        }
    elif key.op == "scale":
        constants = {
            "multiplier": np.full(1, 0.01, np.float32),
            "qparams": np.array([3, -128, -5, -128, 127], np.int32),
        }
    elif key.op == "activation":
        constants = {"lut": np.arange(-128, 128).astype(np.int8)}
    elif key.op == "global_avgpool":
        constants = {
            "multiplier": np.full(1, 0.01, np.float32),
            "qparams": np.array([3, -5, -128, 127], np.int32),
        }
    return Step(key, step.inputs[: key.inputs], step.output, constants)


@dataclass
class Runner:
    run: Callable[[int, bool], tuple[np.ndarray, np.ndarray | None]]
    compute: Callable[[np.ndarray], np.ndarray]
    build_s: float
    keep: list[object]


def runner(net: Net, steps: list[Step], target: TargetSpec, folder: Path) -> Runner:
    start = time.perf_counter()
    data = build.compile_kernels([step.key for step in steps], target)
    build_s = time.perf_counter() - start
    (folder / "k.o").write_bytes(data)
    (folder / "d.c").write_text(DRIVER)
    subprocess.run(
        [
            "gcc",
            "-O2",
            "-shared",
            "-fPIC",
            "-o",
            str(folder / "k.so"),
            str(folder / "d.c"),
            str(folder / "k.o"),
            "-lm",
        ],
        check=True,
    )
    library = ctypes.CDLL(str(folder / "k.so"))
    kind = np.int8 if steps[0].key.dtype == "i8" else np.float32
    buffers = {name: aligned(np.zeros(shape, kind)) for name, shape in net.shapes.items()}
    keep: list[object] = [buffers]
    functions = (ctypes.c_void_p * len(steps))()
    table = np.zeros((len(steps), 10), np.uint64)
    scratch = aligned(np.zeros(1 << 22, np.uint8))
    for i, step in enumerate(steps):
        template = schedules.select(step.key, target)
        assert template is not None, step.key
        packed = template.pack(step.key, target, step.constants)
        functions[i] = ctypes.cast(getattr(library, symbol_of(step.key)), ctypes.c_void_p).value
        given = list(step.inputs)
        for j, arg in enumerate(template.function(step.key, target).args):
            if arg.kind in ("input", "residual"):
                array = buffers[given.pop(0)]
            elif arg.kind == "const":
                array = aligned(packed[arg.name])
                keep.append(array)
            else:
                array = buffers[step.output] if arg.kind == "output" else scratch
            table[i, j] = array.ctypes.data
    keep += [functions, table, scratch, library]

    def run(reps: int, profile: bool) -> tuple[np.ndarray, np.ndarray | None]:
        total = np.zeros(reps, np.uint64)
        each = np.zeros(len(steps), np.uint64)
        library.run(
            len(steps),
            functions,
            table.ctypes.data_as(ctypes.c_void_p),
            reps,
            total.ctypes.data_as(ctypes.c_void_p),
            each.ctypes.data_as(ctypes.c_void_p) if profile else None,
        )
        return total / 1e3, each / 1e3 if profile else None

    def compute(x: np.ndarray) -> np.ndarray:
        buffers["x"][...] = x
        run(1, False)
        return buffers[net.output].copy()

    return Runner(run, compute, build_s, keep)


def main() -> None:
    import onnxruntime as ort

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", type=int, default=10)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    target = local.target_spec() if hasattr(local, "target_spec") else HOST
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    ratios, fastest = [], []
    for index in range(args.nets):
        rng = np.random.default_rng(args.seed + index)
        net = cifar(rng, args.size) if args.size <= 64 else large(rng, args.size)
        steps = [to_int8(s, rng) for s in net.steps] if args.int8 else net.steps
        session = ort.InferenceSession(net.model(), options, providers=["CPUExecutionProvider"])
        x = rng.standard_normal(net.shapes["x"]).astype(np.float32)
        feed = {"x": np.ascontiguousarray(x.transpose(2, 0, 1)[None])}
        with tempfile.TemporaryDirectory() as folder:
            ours = runner(net, steps, target, Path(folder))
            want = session.run(None, feed)[0].reshape(-1)
            error = 0.0
            if not args.int8:
                got = ours.compute(x).reshape(-1)
                error = float(np.abs(got - want).max() / np.abs(want).max())
            mine, theirs = [], []
            for _ in range(5):  # interleaved, so that drift meets both
                mine.append(ours.run(150 if args.size <= 64 else 15, False)[0])
                for _ in range(60 if args.size <= 64 else 8):
                    start = time.perf_counter()
                    session.run(None, feed)
                    theirs.append((time.perf_counter() - start) * 1e6)
            us, ort_us = float(np.median(np.concatenate(mine))), float(np.median(theirs))
            fastest.append(min(theirs) / float(np.concatenate(mine).min()))
            ratios.append(ort_us / us)
            macs = sum(s.key.macs for s in steps)
            print(
                f"net {index}: {len({s.key for s in steps})} keys, {macs / 1e6:.1f} M MACs, "
                f"build {ours.build_s:.1f} s, edgeopt {us:.1f} us "
                f"({2 * macs / us / 1e3:.1f} GOP/s), onnxruntime f32 {ort_us:.1f} us, "
                f"ratio {ratios[-1]:.2f} (of fastest runs {fastest[-1]:.2f}), error {error:.1e}",
                flush=True,
            )
            if args.profile:
                each = ours.run(100, True)[1]
                assert each is not None
                for step, time_us in zip(steps, each, strict=True):
                    rate = 2 * step.key.macs / time_us / 1e3
                    print(f"  {time_us:8.2f} us {rate:6.1f} GOP/s  {step.key}")
    for name, found in (("medians", ratios), ("fastest runs", fastest)):
        print(f"{name}: geomean {np.exp(np.mean(np.log(found))):.3f}, lowest {min(found):.3f}")


HOST = TargetSpec(
    arch="x86_64", triple="x86_64-linux-gnu", mcpu="x86-64-v3",
    features=frozenset({"avx2", "fma"}), vector_bits=256, vector_registers=16,
    l1d_bytes=32768, l2_bytes=524288, cores=1,
)  # fmt: skip

if __name__ == "__main__":
    main()
