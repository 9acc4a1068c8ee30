"""Which primitive operators become one kernel.

A group is a root operator with what is computed on its result while that is still in registers:

* float: any activation after a convolution, linear layer, addition or product; after a
  convolution or linear layer also the addition of a residual, and an activation after that;
* int8: after a convolution or linear layer any activation (a clamp if both tensors have the same
  quantization, else a table); after an addition or product a clamp.

A group runs where its last operator stood, when all of its inputs are ready.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeopt.core import moves
from edgeopt.core.activations import CLAMPS
from edgeopt.core.network import Network, Op

#: Operators that sum products, and so have weights.
ACCUMULATING = frozenset({"conv2d", "linear"})
_ELEMENTWISE = frozenset({"add", "mul"}) | moves.PAIRS.keys()
_ROOTS = ACCUMULATING | _ELEMENTWISE


@dataclass(slots=True)
class Group:
    """Operators of one kernel, in execution order from the root.

    `residual` names the tensor that the kernel adds, `activation` comes before it,
    `residual_activation` after.
    """

    root: Op
    output: str
    activation: Op | None = None
    residual: str | None = None
    residual_activation: Op | None = None
    add: Op | None = None

    @property
    def ops(self) -> tuple[Op, ...]:
        """All operators of the group."""
        parts = (self.root, self.activation, self.add, self.residual_activation)
        return tuple(op for op in parts if op is not None)


def key_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A tensor's shape as keys write it: without the batch of 1."""
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else (shape or (1,))


def is_integer(network: Network, op: Op) -> bool:
    """Whether the operator computes on int8."""
    return network.tensors[op.inputs[0]].dtype == "i8"


def is_clamp(network: Network, activation: Op) -> bool:
    """Whether an int8 activation is a clamp of stored values: no table needed."""
    quant = network.tensors[activation.inputs[0]].quant
    same = quant == network.tensors[activation.output].quant
    return same and activation.attrs["function"] in CLAMPS


def _fusible_activation(network: Network, root: Op, candidate: Op) -> bool:
    if candidate.kind != "activation":
        return False
    if not is_integer(network, candidate):
        return True
    if root.kind in moves.PAIRS:
        return False
    return root.kind in ACCUMULATING or is_clamp(network, candidate)


def groups(network: Network) -> list[Group]:
    """Partition the operators into kernels, in execution order."""
    ops, tensors = network.ops, network.tensors
    readers: dict[str, list[int]] = {}
    for index, op in enumerate(ops):
        for name in op.inputs:
            readers.setdefault(name, []).append(index)
    kept = set(network.outputs)
    taken = bytearray(len(ops))
    found: list[tuple[int, Group]] = []
    # Backwards: where two convolutions are added, the later one takes the sum. Sums and products
    # that no convolution took are roots themselves; the rest stands alone.
    starts = [index for index in range(len(ops) - 1, -1, -1) if ops[index].kind in ACCUMULATING]
    starts += [index for index, op in enumerate(ops) if op.kind in _ELEMENTWISE]
    starts += [index for index, op in enumerate(ops) if op.kind not in _ROOTS]
    for start in starts:
        if taken[start]:
            continue
        root = ops[start]
        group = Group(root, root.output)
        last = start
        while root.kind in _ROOTS and group.output not in kept:
            following = readers.get(group.output, ())
            if len(following) != 1 or taken[following[0]]:
                break
            op = ops[following[0]]
            if op.kind == "activation":
                if group.add is not None and group.residual_activation is None:
                    group.residual_activation = op
                elif (
                    group.add is None
                    and group.activation is None
                    and _fusible_activation(network, root, op)
                ):
                    group.activation = op
                else:
                    break
            elif (
                op.kind == "add"
                and group.add is None
                and root.kind in ACCUMULATING
                and len(op.inputs) == 2
                and tensors[op.output].dtype == "f32"
                and tensors[op.inputs[0]].shape == tensors[op.inputs[1]].shape
            ):
                group.add = op
                group.residual = op.inputs[1] if op.inputs[0] == group.output else op.inputs[0]
            else:
                break
            last = following[0]
            taken[last] = 1
            group.output = op.output
        found.append((last, group))
    found.sort(key=lambda item: item[0])
    return [group for _, group in found]
