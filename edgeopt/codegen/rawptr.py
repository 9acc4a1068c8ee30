"""From a PrimFunc of TVM's own legalization to a C function over raw pointers.

TVM's usual calling convention links argument checks, strings and a runtime into every kernel.
Here the buffers of the parameters are declared over plain pointers instead, and large
intermediate buffers over one trailing scratch pointer, which the memory planner places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edgeopt.core.errors import InputError
from edgeopt.core.target import TargetSpec

#: Intermediate buffers up to this size stay on the stack.
STACK_BYTES = 512
_ALIGNMENT_BYTES = 64


@dataclass(frozen=True, slots=True)
class RawFunction:
    """A lowered function; its last parameter is scratch if ``scratch_bytes`` is not 0."""

    symbol: str
    primfunc: Any
    scratch_bytes: int


def to_raw_pointer(primfunc: Any, symbol: str, target: TargetSpec) -> RawFunction:
    """Lower a PrimFunc over buffers to ``int32_t symbol(T0 *, T1 *, ..., [uint8_t *scratch])``.

    The parameters keep their order. Every shape must be static.

    Raises:
        InputError: a shape is symbolic.
    """
    from tvm import tirx
    from tvm.ir import PointerType, PrimType

    body = _lowered(primfunc, symbol, target)
    parameters: list[Any] = []
    declared: list[Any] = []
    for index, parameter in enumerate(body.params):
        if not tirx.is_buffer_var(parameter):
            raise InputError(
                f"parameter {parameter.name} is not a buffer", where=symbol,
                hint="export the model with fixed shapes",
            )  # fmt: skip
        _static_bytes(parameter, symbol)
        pointer = tirx.Var(f"p{index}", PointerType(PrimType(str(parameter.ty.dtype))))
        parameters.append(pointer)
        declared.append(tirx.DeclBuffer(parameter, data=pointer))
    scratch = tirx.Var("scratch", PointerType(PrimType("uint8")))
    inner, scratch_bytes = _place(body.body, scratch, symbol)
    if scratch_bytes:
        parameters.append(scratch)
    end = tirx.Return(tirx.const(0, "int32"))
    sequence = tirx.SeqStmt([*declared, *_statements(inner), end])
    raw = tirx.PrimFunc(parameters, sequence, ret_type=PrimType("int32"))
    return RawFunction(symbol, raw.with_attr("global_symbol", symbol), scratch_bytes)


def _lowered(primfunc: Any, symbol: str, target: TargetSpec) -> Any:
    """Loops over flat buffers, without blocks."""
    import tvm
    from tvm import s_tir, tirx

    from edgeopt.codegen.build import tvm_target

    named = primfunc.with_attr("global_symbol", symbol).with_attr("target", tvm_target(target))
    module = tvm.IRModule({symbol: named})
    passes = [
        s_tir.transform.CanonicalizeLoop(),
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.CompactBufferAllocation(),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.StmtSimplify(),
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.BF16ComputeLegalize(),
        tirx.transform.NarrowDataType(32),
        s_tir.transform.LoopPartition(),
        tirx.transform.VectorizeLoop(True),
        tirx.transform.StorageRewrite(),
        tirx.transform.UnrollLoop(),
        tirx.transform.StmtSimplify(),
        tirx.transform.RemoveNoOp(),
        s_tir.transform.RewriteUnsafeSelect(),
        tirx.transform.CommonSubexprElim(),
    ]
    return tvm.ir.transform.Sequential(passes)(module)[symbol]


def _statements(body: Any) -> list[Any]:
    from tvm import tirx

    return list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]


def _static_bytes(buffer: Any, symbol: str) -> int:
    from tvm import tirx
    from tvm.runtime import DataType

    sizes = []
    for extent in buffer.ty.shape:
        if not isinstance(extent, (int, tirx.IntImm)):
            raise InputError(
                f"a buffer has the symbolic size {extent}", where=symbol,
                hint="export the model with fixed shapes",
            )  # fmt: skip
        sizes.append(int(extent))
    kind = DataType(str(buffer.ty.dtype))
    element_bytes: int = -(-kind.bits * kind.lanes // 8)
    return math.prod(sizes) * element_bytes


def _place(body: Any, scratch: Any, symbol: str) -> tuple[Any, int]:
    """Declare large allocations over the scratch pointer, one after another."""
    from tvm import tirx
    from tvm.ir import PointerType, PrimType

    used = 0

    def walk(node: Any) -> Any:
        nonlocal used
        if isinstance(node, tirx.SeqStmt):
            return tirx.SeqStmt([walk(child) for child in node.seq])
        if isinstance(node, tirx.For):
            return tirx.For(
                node.loop_var, node.min, node.extent, node.kind, walk(node.body),
                node.thread_binding, node.annotations, node.step,
            )  # fmt: skip
        if isinstance(node, tirx.While):
            return tirx.While(node.condition, walk(node.body))
        if isinstance(node, tirx.IfThenElse):
            other = None if node.else_case is None else walk(node.else_case)
            return tirx.IfThenElse(node.condition, walk(node.then_case), other)
        if isinstance(node, tirx.AttrStmt):
            return tirx.AttrStmt(node.node, node.attr_key, node.value, walk(node.body))
        if not isinstance(node, tirx.AllocBuffer):
            return node
        size = _static_bytes(node.buffer, symbol)
        if size <= STACK_BYTES:
            return node
        pointer = tirx.handle_add_byte_offset(scratch, used) if used else scratch
        used += -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        kind = PointerType(PrimType(str(node.buffer.ty.dtype)))
        return tirx.DeclBuffer(node.buffer, data=tirx.reinterpret(kind, pointer))

    return walk(body), used
