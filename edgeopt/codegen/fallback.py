"""Kernels that no template implements, through TVM's own legalization.

The operator arrives as an ONNX model of one node (`Kernel.payload`). TVM imports it, legalizes
it to loops, fuses all of them into one function, and `codegen.rawptr` turns that into a function
over raw pointers. The result is correct and slow; reports name every kernel made this way.

A payload of an untrusted model is imported by TVM in this process. What TVM reads of it has
passed `graph.validate` and shape inference in a child process before.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeopt.codegen.abi import Arg, KernelFunction, symbol_of
from edgeopt.core.errors import InputError
from edgeopt.core.kernels import Kernel
from edgeopt.core.network import Array
from edgeopt.core.target import TargetSpec

_DTYPES: Mapping[str, str] = {
    "float32": "f32", "int8": "i8", "uint8": "u8", "int32": "i32", "int64": "i64", "bool": "u8",
}  # fmt: skip
_HINT = "replace it in the network, or cut it off and run it outside"


@dataclass(frozen=True, slots=True)
class Lowered:
    """A payload compiled as far as raw pointers."""

    primfunc: Any
    constants: tuple[Array, ...]
    input_dtypes: tuple[str, ...]
    output_dtype: str
    scratch_bytes: int


def function(kernel: Kernel, target: TargetSpec) -> KernelFunction:
    """Symbol, parameters and scratch of a fallback kernel.

    Raises:
        InputError: TVM cannot compile it.
    """
    lowered = _of(kernel, target)
    args = [Arg("input", f"x{i}", dtype) for i, dtype in enumerate(lowered.input_dtypes)]
    args += [
        Arg("const", f"c{index}", _dtype(array.dtype.name, kernel.name))
        for index, array in enumerate(lowered.constants)
    ]
    args.append(Arg("output", "y", lowered.output_dtype))
    if lowered.scratch_bytes:
        args.append(Arg("scratch", "scratch", "u8"))
    symbol = symbol_of(kernel.key)
    return KernelFunction(kernel.key, symbol, tuple(args), lowered.scratch_bytes, "fallback")


def pack(kernel: Kernel, target: TargetSpec) -> dict[str, Array]:
    """The constants of a fallback kernel, by the names of its parameters."""
    lowered = _of(kernel, target)
    return {f"c{index}": array.reshape(-1) for index, array in enumerate(lowered.constants)}


def primfunc(kernel: Kernel, target: TargetSpec) -> Any:
    """A fallback kernel as a raw-pointer TVM PrimFunc named by its key.

    Raises:
        InputError: TVM cannot compile it.
    """
    return _of(kernel, target).primfunc.with_attr("global_symbol", symbol_of(kernel.key))


def input_bytes(kernel: Kernel) -> list[int]:
    """Sizes of a fallback kernel's inputs."""
    return [math.prod(shape) * width for shape, width in _interface(kernel.payload)[:-1]]


def macs(kernel: Kernel) -> int:
    """Multiply-accumulates of a fallback kernel that sums products; 0 for others."""
    import onnx

    model = onnx.load_from_string(kernel.payload)
    node = model.graph.node[0]
    *inputs, output = (shape for shape, _ in _interface(kernel.payload))
    dims: dict[str, tuple[int, ...]] = {
        item.name: tuple(item.dims) for item in model.graph.initializer
    }
    names = [item.name for item in model.graph.input if item.name not in dims]
    dims |= dict(zip(names, inputs, strict=True))
    if node.op_type == "Conv":
        return math.prod(output) * math.prod(dims[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        return math.prod(dims[node.input[0]]) * math.prod(dims[node.input[1]][1:])
    if node.op_type in ("MatMul", "Gemm"):
        shape: tuple[int, ...] = dims[node.input[0]]
        flipped = any(item.name == "transA" and item.i for item in node.attribute)
        return math.prod(output) * shape[-2 if flipped else -1]
    return 0


def _interface(payload: bytes) -> list[tuple[tuple[int, ...], int]]:
    """Shape and bytes of an element of every input, then of the output."""
    import onnx

    model = onnx.load_from_string(payload)
    constants = {item.name for item in model.graph.initializer}
    values = [item for item in model.graph.input if item.name not in constants]
    found = []
    for item in (*values, model.graph.output[0]):
        kind = onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)
        shape = tuple(dim.dim_value for dim in item.type.tensor_type.shape.dim)
        found.append((shape, int(kind.itemsize)))
    return found


def _of(kernel: Kernel, target: TargetSpec) -> Lowered:
    payload = kernel.payload
    if not payload:
        raise InputError(
            f"no kernel template implements {kernel.key} on {target.arch}",
            where=f"operator {kernel.name!r}",
            hint="choose another device, or replace the operator in the network",
        )
    try:
        return _lower(payload, target)
    except InputError as error:
        where = f"operator {kernel.name!r}"
        raise InputError(error.what, where=where, hint=error.hint or _HINT) from error


@functools.lru_cache(maxsize=256)
def _lower(payload: bytes, target: TargetSpec) -> Lowered:
    import onnx

    from edgeopt.codegen.rawptr import to_raw_pointer

    model = onnx.load_from_string(payload)
    op = model.graph.node[0].op_type
    fused, constants = _one_primfunc(model, op, target)
    raw = to_raw_pointer(_inlined(fused), "edgeopt_fallback", target)
    initial = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in initial]
    names = [
        onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type).name
        for item in (*inputs, model.graph.output[0])
    ]
    dtypes = tuple(_dtype(name, op) for name in names)
    return Lowered(raw.primfunc, constants, dtypes[:-1], dtypes[-1], raw.scratch_bytes)


def _dtype(name: str, where: str) -> str:
    known = _DTYPES.get(name)
    if known is None:
        raise InputError(f"values of type {name} are not supported", where=where, hint=_HINT)
    return known


def _one_primfunc(model: Any, op: str, target: TargetSpec) -> tuple[Any, tuple[Array, ...]]:
    """The model as a single PrimFunc of its inputs, its constants and its output."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    from edgeopt.codegen.build import tvm_target

    try:
        module = from_onnx(model, keep_params_in_input=False)
        built_for = tvm_target(target)
        with built_for:
            passes = [
                relax.transform.DecomposeOpsForInference(),
                *relax.backend.cpu_generic.legalize_passes(built_for),
            ]
            module = tvm.ir.transform.Sequential(passes)(module)
        grouped, constants = _grouped(module, op)
        merged = relax.transform.FuseTIR()(grouped)
    except InputError:
        raise
    except Exception as error:  # TVM raises Python's own exceptions, and several of its own
        lines = [line for line in str(error).splitlines() if line.strip()]
        detail = lines[-1].strip()[:200] if lines else type(error).__name__
        raise InputError(f"TVM cannot compile {op}: {detail}", where=op, hint=_HINT) from error
    result = merged["group"]
    if not isinstance(result, tvm.tirx.PrimFunc):
        raise InputError(f"TVM cannot fuse {op} into one function", where=op, hint=_HINT)
    return result, constants


def _grouped(module: Any, op: str) -> tuple[Any, tuple[Array, ...]]:
    """Every call of ``main`` in one function to be fused; constants become its parameters."""
    import tvm
    from tvm import relax

    main = module["main"]
    call_tir = tvm.ir.Op.get("relax.call_tir")
    bindings = [b for block in main.body.blocks for b in block.bindings]
    parameters = [relax.Var(f"x{i}", var.ty) for i, var in enumerate(main.params)]
    known: dict[Any, Any] = dict(zip(main.params, parameters, strict=True))
    constants: list[Array] = []
    lifted: list[list[Any]] = []  # for each binding, its arguments
    for binding in bindings:
        value = binding.value
        if isinstance(value, relax.Var):
            lifted.append([value])
            continue
        if getattr(value, "op", None) != call_tir:
            raise InputError(
                f"TVM cannot compile {op}: it depends on data in a way that is not static",
                where=op,
                hint=_HINT,
            )
        arguments = []
        for argument in value.args[1]:
            if isinstance(argument, tvm.ir.GenericConst):
                var = relax.Var(f"c{len(constants)}", argument.ty)
                constants.append(np.ascontiguousarray(argument.value.numpy()))
                parameters.append(var)
                known[var] = var
                argument = var
            arguments.append(argument)
        lifted.append(arguments)
    builder = relax.BlockBuilder(module)
    with builder.function("group", parameters):
        with builder.dataflow():
            for binding, arguments in zip(bindings, lifted, strict=True):
                value = binding.value
                if isinstance(value, relax.Var):
                    known[binding.var] = known[value]
                    continue
                call = relax.call_tir(
                    value.args[0], [known[argument] for argument in arguments], value.ty_args[0]
                )
                known[binding.var] = builder.emit(call)
            result = builder.emit_output(known[main.body.body])
        builder.emit_func_output(result)
    made = builder.get()
    variable = made.get_global_var("group")
    made.update_func(variable, made[variable].with_attr("Primitive", 1))
    outer = [relax.Var(f"p{i}", var.ty) for i, var in enumerate(parameters)]
    caller = relax.BlockBuilder(made)
    with caller.function("caller", outer):
        with caller.dataflow():
            result = caller.emit_output(caller.emit(relax.Call(variable, outer)))
        caller.emit_func_output(result)
    return caller.get(), tuple(constants)


def _inlined(primfunc: Any) -> Any:
    """Compute elementwise intermediates where they are read, if nothing is computed twice."""
    import tvm
    from tvm import s_tir

    schedule = s_tir.Schedule(tvm.IRModule({"main": primfunc}))
    root = schedule.get_sblock("root")
    for block in schedule.get_child_blocks(root):
        name = schedule.get(block).name_hint
        if not _is_map(schedule, block):
            continue
        readers = schedule.get_consumers(block)
        if len(readers) != 1 or not _is_map(schedule, readers[0]):
            continue
        try:
            schedule.compute_inline(schedule.get_sblock(name))
        except s_tir.schedule.ScheduleError:
            continue
    return schedule.mod["main"]


def _is_map(schedule: Any, block: Any) -> bool:
    """Whether a block computes each of its elements once, from single elements."""
    from tvm import tirx

    return all(var.iter_type == tirx.IterVar.DataPar for var in schedule.get(block).iter_vars)
