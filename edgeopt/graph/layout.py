"""Where the elements of a tensor lie: lazy transposes and reshapes.

ONNX describes a tensor's elements in one order, memory may hold them in another. A `Layout` says
which: the elements in ONNX order are viewed as an array of shape ``view``, and memory holds its
transpose by ``perm``. A transpose or a reshape in the graph then only changes the description;
elements move (`conversion`) when an operator needs them in a given order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edgeopt.core.network import Array

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Memory holds ``transpose(reshape(onnx_value, view), perm)``."""

    view: Shape
    perm: tuple[int, ...]

    def __post_init__(self) -> None:
        if sorted(self.perm) != list(range(len(self.view))):
            raise ValueError(f"{self.perm} does not permute the axes of {self.view}")

    @property
    def physical(self) -> Shape:
        """The view's dimensions in memory order."""
        return tuple(self.view[axis] for axis in self.perm)

    @property
    def is_plain(self) -> bool:
        """Whether memory order is ONNX order."""
        moved = [axis for axis in self.perm if self.view[axis] != 1]
        return moved == sorted(moved)

    def transposed(self, shape: Shape, perm: tuple[int, ...]) -> Layout | None:
        """The layout, in the same memory, of the value of ``shape`` transposed by ``perm``.

        None if the view does not split into the axes of ``shape``.
        """
        fine = _refine(self.view, shape)
        if fine is None:
            return None
        groups = _groups(fine, shape)
        order = [part for axis in perm for part in groups[axis]]
        place = {part: index for index, part in enumerate(order)}
        memory = _expanded(self, fine)
        return Layout(tuple(fine[p] for p in order), tuple(place[part] for part in memory))


def plain(shape: Shape) -> Layout:
    """ONNX order."""
    return Layout(shape, tuple(range(len(shape))))


def channels_last(shape: Shape) -> Layout:
    """NHWC for a 4-D map, ONNX order for anything else."""
    return Layout(shape, (0, 2, 3, 1)) if len(shape) == 4 else plain(shape)


def conversion(source: Layout, target: Layout) -> list[tuple[Shape, tuple[int, ...]]]:
    """Steps (reshape memory to a shape, then transpose by a permutation) from source to target.

    Empty if nothing moves. Shapes start with a batch of 1 and runs of axes that stay together
    are merged.
    """
    if source.is_plain and target.is_plain:
        return []
    if source.is_plain:
        fine: Shape | None = target.view
    elif target.is_plain:
        fine = source.view
    else:
        fine = _refine(source.view, target.view)
    if fine is None:  # the two views cut the elements differently: through ONNX order
        middle = plain((math.prod(source.view),))
        steps = conversion(source, middle) + conversion(middle, target)
        return [] if _undone(steps) else steps
    whole = plain(fine)
    have = _expanded(whole if source.is_plain else source, fine)
    want = _expanded(whole if target.is_plain else target, fine)
    have = [axis for axis in have if fine[axis] != 1]
    want = [axis for axis in want if fine[axis] != 1]
    if have == want:
        return []
    following = dict(pairwise(want))
    runs: list[list[int]] = []
    for axis in have:
        if runs and following.get(runs[-1][-1]) == axis:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    first = {run[0]: index for index, run in enumerate(runs)}
    shape = (1, *(math.prod(fine[axis] for axis in run) for run in runs))
    perm = (0, *(first[axis] + 1 for axis in want if axis in first))
    return [(shape, perm)]


def _undone(steps: list[tuple[Shape, tuple[int, ...]]]) -> bool:
    """Whether the second of two transposes is the first one's inverse."""
    if len(steps) != 2:
        return False
    (first, there), (second, back) = steps
    moved = tuple(first[axis] for axis in there)
    return second == moved and [there[axis] for axis in back] == list(range(len(there)))


def to_physical(value: Array, layout: Layout) -> Array:
    """An array in ONNX order, as memory holds it (shaped as `Layout.physical`)."""
    return np.ascontiguousarray(value.reshape(layout.view).transpose(layout.perm))


def to_onnx(stored: Array, layout: Layout, shape: Shape) -> Array:
    """The inverse of `to_physical`, reshaped to ``shape``."""
    back = np.argsort(layout.perm)
    return np.ascontiguousarray(stored.reshape(layout.physical).transpose(back)).reshape(shape)


def _refine(a: Shape, b: Shape) -> Shape | None:
    """The coarsest factors that both shapes are groups of; None if there are none."""
    ends = sorted({*_strides(a), *_strides(b)})
    if any(large % small for small, large in pairwise(ends)):
        return None
    return tuple(large // small for small, large in reversed(list(pairwise(ends))))


def _strides(shape: Shape) -> list[int]:
    ends = [1]
    for dim in reversed(shape):
        ends.append(ends[-1] * dim)
    return ends


def _groups(fine: Shape, shape: Shape) -> list[list[int]]:
    """For each dimension of ``shape``, the indices of the factors it is made of."""
    groups: list[list[int]] = []
    index = 0
    for dim in shape:
        group: list[int] = []
        size = 1
        while size < dim:
            size *= fine[index]
            group.append(index)
            index += 1
        groups.append(group)
    return groups


def _expanded(layout: Layout, fine: Shape) -> list[int]:
    """The factors of ``fine`` in memory order."""
    if layout.view == fine:
        return list(layout.perm)
    if len(layout.view) == len(layout.perm) and layout.is_plain:
        return list(range(len(fine)))
    groups = _groups(fine, layout.view)
    return [part for axis in layout.perm for part in groups[axis]]
