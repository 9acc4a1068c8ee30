"""Where the tensors of a network live in the generated C, as C expressions."""

from __future__ import annotations

from dataclasses import dataclass

from edgeopt.codegen import names
from edgeopt.codegen.abi import Arg
from edgeopt.codegen.carrays import BYTES, c_type
from edgeopt.core.kernels import KernelGraph, MemoryPlan

#: Alignment of activations that kernels rely on (see `codegen.abi`).
ACTIVATION_ALIGNMENT_BYTES = 16


@dataclass(frozen=True, slots=True)
class Copy:
    """An output that is only a view of an input or of another output."""

    target: str
    source: str
    bytes: int


class CStorage:
    """Where each tensor lives: the caller's inputs and outputs, or an offset into the arena.

    Raises:
        ValueError: the plan is misaligned or leaves its arena, or a name occurs twice.
    """

    def __init__(self, graph: KernelGraph, plan: MemoryPlan) -> None:
        if len(set(graph.inputs)) + len(set(graph.outputs)) != len(graph.inputs + graph.outputs):
            raise ValueError("a network input or output is named twice")
        if plan.alignment_bytes % ACTIVATION_ALIGNMENT_BYTES:
            raise ValueError(f"alignment {plan.alignment_bytes} is too small for the kernels")
        for buffer in plan.buffers:
            end = buffer.offset_bytes + buffer.size_bytes
            if buffer.offset_bytes % ACTIVATION_ALIGNMENT_BYTES or end > plan.arena_bytes:
                raise ValueError(f"buffer {buffer.name!r} is misaligned or leaves the arena")
        self._graph = graph
        self._buffers = {buffer.name: buffer for buffer in plan.buffers}
        self._external = {n: f"in->{names.identifier(n)}" for n in graph.inputs}
        self._read_only = frozenset(graph.inputs)
        copies = []
        for name in graph.outputs:
            target = f"out->{names.identifier(name)}"
            root = self.root(name)
            if root in self._external:
                copies.append(Copy(target, self._external[root], graph.tensors[name].size_bytes))
            else:
                self._external[root] = target
        self.copies = tuple(copies)

    def root(self, tensor: str) -> str:
        """The tensor whose memory this one shares.

        Raises:
            ValueError: the aliases run in a circle.
        """
        seen = {tensor}
        while tensor in self._graph.aliases:
            tensor = self._graph.aliases[tensor]
            if tensor in seen:
                raise ValueError(f"tensor {tensor!r} is an alias of itself")
            seen.add(tensor)
        return tensor

    def pointer(self, tensor: str, arg: Arg) -> str:
        """The C expression a kernel receives for an activation.

        Raises:
            ValueError: the types differ, an input would be written, or there is no place for it.
        """
        declared = self._graph.tensors[tensor]
        if declared.dtype != arg.dtype:
            raise ValueError(f"{tensor!r} is {declared.dtype}, its kernel has {arg.dtype}")
        root = self.root(tensor)
        if arg.kind == "output" and root in self._read_only:
            raise ValueError(f"a kernel writes into the network's input {root!r}")
        begins = self._graph.offsets.get(tensor, 0)
        if root in self._external:
            elements = begins // BYTES[self._graph.tensors[root].dtype]
            return self._external[root] + (f" + {elements}" if elements else "")
        const = "" if arg.kind == "output" else "const "
        offset = self.offset(root, begins + declared.size_bytes) + begins
        return f"AT({const}{c_type(arg.dtype)}, {offset})"

    def offset(self, name: str, size_bytes: int) -> int:
        """Where the plan put a buffer of at least that size.

        Raises:
            ValueError: it did not.
        """
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size_bytes < size_bytes:
            raise ValueError(f"the memory plan has no buffer of {size_bytes} bytes for {name!r}")
        return buffer.offset_bytes
