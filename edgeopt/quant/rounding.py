"""Rounding weights so that a layer's output changes least, not the weights themselves.

With X the inputs of a layer on calibration images and A = X^T X, rounding W to Q costs

    sum((X W^T - X Q^T) ** 2) = trace((W - Q) A (W - Q)^T)

Rounding to nearest takes A for a diagonal. Here columns are rounded one after the other and the
columns to come make up for the error so far (optimal brain surgery: Frantar et al. 2022), then
visited again one by one, each taking its best value given all others. Both are closed forms that
go through the columns a few times, where gradient descent on the same objective (AdaRound: Nagel
et al. 2020) takes a thousand products with A; benchmarks/ptq.py runs both.

Groups of a convolution are layers of their own and are rounded side by side.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeopt.core import lowbits

Doubles = npt.NDArray[np.float64]

#: Added to the diagonal of A, as a share of its mean.
DAMPING = 0.01
#: Visits of every column after the first.
SWEEPS = 2
#: How often scales are fitted to the integers, and these rounded again.
REFITS = 2
#: Columns whose effect on later ones is added up before it is applied.
_BLOCK = 64


def error(weight: Doubles, real: Doubles, gram: Doubles) -> float:
    """The squared change of outputs, summed.

    Args:
        weight: [G, O, n].
        real: rounded weights, of the same shape.
        gram: A of each group [G, n, n].
    """
    off = weight - real
    return float(np.einsum("goi,gij,goj->", off, gram, off, optimize=True))


def nearest(weight: Doubles, scale: Doubles, bits: int) -> Doubles:
    """Whole numbers closest to the weights; ``scale`` [G, O, 1]."""
    steps: Doubles = lowbits.nearest(weight / scale, bits).astype(np.float64)
    return steps


def compensated(
    weight: Doubles, gram: Doubles, scale: Doubles, bits: int, *, sweeps: int = SWEEPS
) -> Doubles:
    """Whole numbers [G, O, n] of ``bits`` with a small `error`.

    Never worse than `nearest`: that is where the columns' second visits begin if it is better.
    """
    damped = _damped(gram)
    first = _surgery(weight, damped, scale, bits)
    plain = nearest(weight, scale, bits)
    worse = _each(weight, first * scale, gram) > _each(weight, plain * scale, gram)
    found = np.where(worse, plain, first)
    for _ in range(sweeps):
        if not _visit(weight, damped, scale, bits, found):
            break
    ended = _each(weight, found * scale, gram) <= _each(weight, plain * scale, gram)
    result: Doubles = np.where(ended, found, plain)
    return result


def fitted(
    weight: Doubles, gram: Doubles, scale: Doubles, bits: int, *, refits: int = REFITS
) -> tuple[Doubles, Doubles]:
    """Whole numbers and scales [G, O, 1] that were fitted to them.

    A channel's best scale for given integers q is ``(w A q) / (q A q)``.
    """
    steps = compensated(weight, gram, scale, bits)
    damped = _damped(gram)
    for _ in range(refits):
        product = steps @ gram
        power = (product * steps).sum(2, keepdims=True)
        wanted = (product * weight).sum(2, keepdims=True)
        good = (power > 0) & (wanted > 0)
        ratio = np.divide(wanted, power, out=np.ones_like(power), where=good)
        tried: Doubles = np.where(good, ratio, scale).astype(np.float32).astype(np.float64)
        again = steps.copy()
        _visit(weight, damped, tried, bits, again)
        better = _each(weight, again * tried, gram) < _each(weight, steps * scale, gram)
        if not better.any():
            break
        steps = np.where(better, again, steps)
        scale = np.asarray(np.where(better, tried, scale), np.float64)
    return steps, scale


def matched(weight: Doubles, cross: Doubles, gram: Doubles) -> Doubles:
    """Real weights that give on changed inputs Y what ``weight`` gives on X, as well as may be.

    Args:
        weight: [G, O, n].
        cross: X^T Y [G, n, n].
        gram: Y^T Y [G, n, n].
    """
    shift = DAMPING * _mean_diagonal(gram) * np.eye(gram.shape[1])
    # The damping pulls towards the weights as they are, not towards zero.
    right = weight @ (cross + shift)
    solved = np.linalg.solve(gram + shift, right.transpose(0, 2, 1))
    found: Doubles = np.asarray(solved.transpose(0, 2, 1), np.float64)
    return found


def _mean_diagonal(gram: Doubles) -> Doubles:
    mean = np.einsum("gii->g", gram) / gram.shape[1]
    found: Doubles = np.where(mean > 0, mean, 1.0)[:, None, None]
    return found


def _damped(gram: Doubles) -> Doubles:
    found: Doubles = gram + DAMPING * _mean_diagonal(gram) * np.eye(gram.shape[1])
    return found


def _each(weight: Doubles, real: Doubles, gram: Doubles) -> Doubles:
    """`error` of each channel [G, O, 1]."""
    off = weight - real
    found: Doubles = ((off @ gram) * off).sum(2, keepdims=True)
    return found


def _surgery(weight: Doubles, gram: Doubles, scale: Doubles, bits: int) -> Doubles:
    """Columns in order of their weight in A, each one's error spread over those to come."""
    groups, _, n = weight.shape
    order = np.argsort(-np.einsum("gii->gi", gram), axis=1, kind="stable")
    at = np.arange(groups)[:, None]
    sorted_gram = gram[at[:, :, None], order[:, :, None], order[:, None, :]]
    # Row j of this upper factor of the inverse says what column j's error does to later ones.
    factor = np.linalg.cholesky(np.linalg.inv(sorted_gram)).transpose(0, 2, 1)
    left = np.take_along_axis(weight, order[:, None, :], 2)
    steps = np.empty_like(left)
    for start in range(0, n, _BLOCK):
        end = min(start + _BLOCK, n)
        offs = np.zeros((*left.shape[:2], end - start))
        for j in range(start, end):
            column = left[:, :, j : j + 1]
            steps[:, :, j : j + 1] = nearest(column, scale, bits)
            off = (column - steps[:, :, j : j + 1] * scale) / factor[:, j : j + 1, j : j + 1]
            left[:, :, j + 1 : end] -= off * factor[:, j : j + 1, j + 1 : end]
            offs[:, :, j - start] = off[:, :, 0]
        left[:, :, end:] -= offs @ factor[:, start:end, end:]
    back = np.argsort(order, axis=1)
    found: Doubles = np.take_along_axis(steps, back[:, None, :], 2)
    return found


def _visit(weight: Doubles, gram: Doubles, scale: Doubles, bits: int, steps: Doubles) -> bool:
    """Each column at its best given all others, in place; whether anything changed."""
    pull = (weight - steps * scale) @ gram  # [G, O, n]
    diagonal = np.einsum("gii->gi", gram)
    n, changed = weight.shape[2], False
    for start in range(0, n, _BLOCK):
        end = min(start + _BLOCK, n)
        before = steps[:, :, start:end].copy()
        for j in range(start, end):
            old = steps[:, :, j]
            wanted = old * scale[:, :, 0] + pull[:, :, j] / diagonal[:, j : j + 1]
            new = lowbits.nearest(wanted / scale[:, :, 0], bits)
            moved = (new - old) * scale[:, :, 0]
            steps[:, :, j] = new
            pull[:, :, j:end] -= moved[:, :, None] * gram[:, j : j + 1, j:end]
        moves = (steps[:, :, start:end] - before) * scale
        if np.any(moves):
            changed = True
            pull[:, :, end:] -= moves @ gram[:, start:end, end:]
    return changed
