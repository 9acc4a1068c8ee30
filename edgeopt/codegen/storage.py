"""What the memory planner and its proof agree on: names, and who may write over what."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from edgeopt.codegen.abi import SAME_PLACE
from edgeopt.core.kernels import Kernel, KernelGraph, OpKey
from edgeopt.core.network import DTYPE_BYTES

#: Kernels whose every output element depends on the same element of input 0 (and others).
_ELEMENTWISE = frozenset({"activation", "add", "mul", "scale", "copy"})

#: Kernels whose output pixel depends on a window of input 0.
_WINDOWED = frozenset({"pointwise", "depthwise", "conv2d", "maxpool", "avgpool", "irb"})


def scratch_name(kernel: str) -> str:
    """The name of a kernel's scratch buffer in a plan; no tensor has it."""
    return f"scratch:{kernel}"


def overwritable(kernel: Kernel, ordered_pixels: int = 0) -> tuple[int, ...]:
    """Positions of the inputs that a kernel's output may share storage with.

    An elementwise kernel may write over an operand of the output's shape and type; a convolution
    or linear layer may write over the residual, which it reads where it writes, but not over
    the map whose neighbours it still needs, unless it promises so (`abi.SAME_PLACE`).
    """
    key = kernel.key
    if ordered_pixels == SAME_PLACE:
        return (0,)
    if key.residual:
        return (len(kernel.inputs) - 1,)
    if key.op not in _ELEMENTWISE or key.dtype != key.out_dtype:
        return ()
    # The gate of a `scale` is read for every pixel; only the map is elementwise.
    return (0, 1) if key.op in ("add", "mul") and len(kernel.inputs) == 2 else (0,)


@functools.lru_cache(maxsize=65536)
def overlap_distance(key: OpKey, ordered_pixels: int) -> int | None:
    """How many bytes before its input a kernel's output must start to be written over it.

    Follows from what `KernelFunction.ordered_pixels` promises: block after block of output pixels,
    what has been written must end before what is still read begins. None where nothing is promised.
    """
    if ordered_pixels <= 0 or key.op not in _WINDOWED:
        return None
    if len(key.in_shape) != 3 or len(key.out_shape) != 3:
        return None
    rows, columns, channels = key.out_shape
    wide = key.in_shape[1]
    pixel = key.in_shape[2] * DTYPE_BYTES[key.dtype]
    written = channels * DTYPE_BYTES[key.out_dtype]
    tops = [max(0, row * key.strides[0] - key.pads[0]) for row in range(rows + 1)]
    distance = 0
    for first in range(0, rows * columns, ordered_pixels):
        row, column = divmod(first, columns)
        unread = tops[row] * wide + max(0, column * key.strides[1] - key.pads[1])
        if row + 1 < rows:  # the next row's windows begin at the left again
            unread = min(unread, tops[row + 1] * wide)
        ends = min(first + ordered_pixels, rows * columns)
        distance = max(distance, ends * written - unread * pixel)
    return distance


def by_kernel(
    graph: KernelGraph, numbers: Mapping[str, int] | Sequence[int], what: str
) -> Sequence[int]:
    """One number a kernel, in execution order, of a table by name or a list; 0 where none is."""
    if isinstance(numbers, Mapping):
        return [numbers.get(kernel.name, 0) for kernel in graph.kernels]
    if numbers and len(numbers) != len(graph.kernels):
        raise ValueError(f"{len(numbers)} {what} for {len(graph.kernels)} kernels")
    return numbers or [0] * len(graph.kernels)
