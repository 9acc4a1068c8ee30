"""Running lowered networks by their compiled kernels, one call after another."""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from edgeopt.codegen import build, schedules
from edgeopt.codegen.abi import symbol_of
from edgeopt.core.kernels import Kernel, KernelGraph
from edgeopt.core.target import TargetSpec
from edgeopt.graph.importer import Imported, import_model
from edgeopt.quant.calibration import calibrate
from edgeopt.quant.export import quantize_model

HOST = TargetSpec(
    arch="x86_64", triple="x86_64-linux-gnu", mcpu="x86-64-v3",
    features=frozenset({"avx2", "fma"}), vector_bits=256, vector_registers=16,
    l1d_bytes=32768, l2_bytes=524288, cores=1,
)  # fmt: skip
NUMPY = {"f32": np.float32, "i8": np.int8, "u8": np.uint8, "i32": np.int32, "i64": np.int64}
_GUARD = 64


def import_checked(model: onnx.ModelProto) -> Imported:
    """Import a model, through shape inference."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    return import_model(inferred, isolated=False)


def feeds_of(model: onnx.ModelProto, seed: int) -> dict[str, np.ndarray]:
    """Random inputs."""
    rng = np.random.default_rng(seed)
    constants = {item.name for item in model.graph.initializer}
    found = {}
    for info in model.graph.input:
        if info.name in constants:
            continue
        kind = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        if kind == np.float32:
            found[info.name] = rng.standard_normal(shape).astype(kind)
        else:
            limits = np.iinfo(kind)
            found[info.name] = rng.integers(limits.min, limits.max + 1, shape).astype(kind)
    return found


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in int8, by edgeopt's own quantizer."""
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(5)
    images = rng.standard_normal((4, *shape[1:])).astype(np.float32)
    return quantize_model(model, calibrate(model, images))


def _aligned(size_bytes: int) -> np.ndarray:
    raw = np.zeros(size_bytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size_bytes]


class Kernels:
    """Compiled kernels of several networks; those without a template through the fallback."""

    def __init__(self, graphs: Sequence[KernelGraph], folder: Path) -> None:
        from edgeopt.codegen import fallback

        primfuncs, called = {}, {}
        for kernel in (kernel for graph in graphs for kernel in graph.kernels):
            symbol = symbol_of(kernel.key)
            if symbol not in primfuncs:
                template = schedules.select(kernel.key, HOST)
                if template is None:
                    primfuncs[symbol] = fallback.primfunc(kernel, HOST)
                    continue
                primfuncs[symbol] = template.primfunc(kernel.key, HOST)
                called.update(dict.fromkeys(template.shared(kernel.key, HOST)))
        obj, shared = folder / "kernels.o", folder / "kernels.so"
        obj.write_bytes(build.compile_object(primfuncs, HOST, called))
        subprocess.run(
            ["gcc", "-shared", "-o", str(shared), str(obj), "-lm"], check=True, capture_output=True
        )
        self._library = ctypes.CDLL(str(shared))

    def call(self, kernel: Kernel, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """One kernel; checks that nothing is written past its output."""
        from edgeopt.codegen import fallback

        template = schedules.select(kernel.key, HOST)
        if template is None:
            function = fallback.function(kernel, HOST)
            packed = fallback.pack(kernel, HOST)
        else:
            function = template.function(kernel.key, HOST)
            packed = template.pack(kernel.key, HOST, kernel.constants)
        given, held, output = list(inputs), [], None
        size = 0
        for arg in function.args:
            if arg.kind == "const":
                data = np.ascontiguousarray(packed[arg.name]).reshape(-1).view(np.uint8)
            elif arg.kind == "scratch":
                data = np.full(function.scratch_bytes, 77, np.uint8)
            elif arg.kind == "output":
                size = math.prod(kernel.key.out_shape) * NUMPY[arg.dtype]().nbytes
                data = np.full(size + _GUARD, 77, np.uint8)
            else:
                data = np.ascontiguousarray(given.pop(0)).reshape(-1).view(np.uint8)
            held.append(_aligned(data.nbytes))
            held[-1][:] = data
            if arg.kind == "output":
                output = held[-1]
        assert not given and output is not None
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in held]
        assert getattr(self._library, symbol_of(kernel.key))(*pointers) == 0
        assert (output[size:] == 77).all(), f"{kernel.key} wrote past its output"
        return output[:size].view(NUMPY[kernel.key.out_dtype]).copy()

    def run(self, graph: KernelGraph, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every tensor of a network."""
        values: dict[str, np.ndarray] = dict(inputs)

        def read(name: str) -> np.ndarray:
            return values[graph.aliases.get(name, name)]

        for kernel in graph.kernels:
            values[kernel.output] = self.call(kernel, [read(name) for name in kernel.inputs])
        shapes = {name: graph.tensors[name].shape for name in (*values, *graph.outputs)}
        return {name: read(name).reshape(shape) for name, shape in shapes.items()}


def run(
    imported: Imported, graph: KernelGraph, kernels: Kernels, feeds: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """A model's outputs as the model gives them."""
    physical = {name: imported.inputs[name].from_onnx(value) for name, value in feeds.items()}
    values = kernels.run(graph, physical)
    return {name: imported.outputs[name].to_onnx(values[name]) for name in graph.outputs}
