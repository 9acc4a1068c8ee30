"""What the memory planner and its proof agree on: names, and who may write over what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeopt.core.kernels import Kernel, KernelGraph

#: Kernels whose every output element depends on the same element of input 0 (and others).
_ELEMENTWISE = frozenset({"activation", "add", "mul", "scale", "copy"})


def scratch_name(kernel: str) -> str:
    """The name of a kernel's scratch buffer in a plan; no tensor has it."""
    return f"scratch:{kernel}"


def overwritable(kernel: Kernel) -> tuple[int, ...]:
    """Positions of the inputs that a kernel's output may share storage with.

    An elementwise kernel may write over an operand of the output's shape and type; a convolution
    or linear layer may write over the residual, which it reads where it writes, but never over
    the map whose neighbours it still needs.
    """
    key = kernel.key
    if key.residual:
        return (len(kernel.inputs) - 1,)
    if key.op not in _ELEMENTWISE or key.dtype != key.out_dtype:
        return ()
    # The gate of a `scale` is read for every pixel; only the map is elementwise.
    return (0, 1) if key.op in ("add", "mul") and len(kernel.inputs) == 2 else (0,)


def scratch_list(
    graph: KernelGraph, scratch_bytes: Mapping[str, int] | Sequence[int]
) -> Sequence[int]:
    """Working memory of each kernel, in execution order."""
    if isinstance(scratch_bytes, Mapping):
        return [scratch_bytes.get(kernel.name, 0) for kernel in graph.kernels]
    if scratch_bytes and len(scratch_bytes) != len(graph.kernels):
        raise ValueError(f"{len(scratch_bytes)} scratch sizes for {len(graph.kernels)} kernels")
    return scratch_bytes or [0] * len(graph.kernels)
