"""Regressions that are fitted with scikit-learn or numpy, stored as numbers, applied by numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Linear(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="linear"):
    """offset + features · weights."""

    offset: float
    weights: list[float]


class Kernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="kernel"):
    """A line plus squared-exponential bumps at the measured subnets."""

    offset: float
    centre: list[float]
    scale: list[float]
    length: float
    slope: float  # weight of the linear part of the kernel
    support: list[list[float]]  # standardized features
    weights: list[float]


class Trees(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="trees"):
    """Regression trees to be added up; a leaf is its own child."""

    offset: float
    feature: list[list[int]]
    threshold: list[list[float]]
    left: list[list[int]]
    right: list[list[int]]
    value: list[list[float]]


Model: TypeAlias = Linear | Kernel | Trees
Fit: TypeAlias = Callable[[Floats, Floats, int], Model]  # features, targets, seed


def _fit_linear(x: Floats, y: Floats, seed: int) -> Linear:
    from sklearn.linear_model import RidgeCV

    centre, scale = _standard(x)
    model = RidgeCV(np.geomspace(1e-3, 1e3, 25)).fit((x - centre) / scale, y)
    weights = np.asarray(model.coef_, np.float64) / scale
    offset = float(model.intercept_) - float(weights @ centre)
    return Linear(offset, [float(w) for w in weights])


def _fit_kernel(x: Floats, y: Floats, seed: int) -> Kernel:
    centre, scale = _standard(x)
    z, offset = (x - centre) / scale, float(y.mean())
    rest = y - offset
    best: tuple[float, float, float, Floats] | None = None
    for length in (0.7, 1.0, 1.5, 2.5):
        for slope in (0.0, 0.3, 3.0):
            gram = _kernel(z, z, length, slope)
            values, vectors = np.linalg.eigh(gram)
            for noise in np.geomspace(1e-3, 3.0, 10):
                inverse = (vectors / (np.maximum(values, 0) + noise)) @ vectors.T
                weights = inverse @ rest
                # exact leave-one-out errors of a kernel model
                error = float(np.square(weights / np.diag(inverse)).mean())
                if best is None or error < best[0]:
                    best = (error, length, slope, weights)
    assert best is not None
    _, length, slope, weights = best
    return Kernel(
        offset, centre.tolist(), scale.tolist(), length, slope, z.tolist(), weights.tolist()
    )


def _fit_trees(x: Floats, y: Floats, seed: int) -> Trees:
    from sklearn.ensemble import GradientBoostingRegressor

    rate = 0.06
    model = GradientBoostingRegressor(
        n_estimators=250, max_depth=3, learning_rate=rate, subsample=0.7, max_features=0.5,
        random_state=seed,
    ).fit(x, y)  # fmt: skip
    parts: list[list[list[float]]] = [[], [], [], [], []]
    for (estimator,) in model.estimators_:
        tree = estimator.tree_
        itself = np.arange(tree.node_count)
        leaf = tree.children_left < 0
        for part, array in zip(
            parts,
            (
                np.where(leaf, 0, tree.feature),
                tree.threshold,
                np.where(leaf, itself, tree.children_left),
                np.where(leaf, itself, tree.children_right),
                rate * tree.value[:, 0, 0],
            ),
            strict=True,
        ):
            part.append(array.tolist())
    feature, threshold, left, right, value = parts
    whole = msgspec.convert([feature, left, right], list[list[list[int]]], strict=False)
    return Trees(float(y.mean()), whole[0], threshold, whole[1], whole[2], value)


#: By name; each fits features [rows, columns] to targets [rows].
FAMILIES: dict[str, Fit] = {"linear": _fit_linear, "kernel": _fit_kernel, "trees": _fit_trees}


def _standard(x: Floats) -> tuple[Floats, Floats]:
    scale = x.std(0)
    return x.mean(0), np.where(scale > 1e-12, scale, 1.0)


def _kernel(a: Floats, b: Floats, length: float, slope: float) -> Floats:
    square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    width = a.shape[1]
    bumps = np.exp(-np.maximum(square, 0) / (2 * length**2 * width))
    return np.asarray(bumps + slope * (a @ b.T) / width)


def apply(model: Model, x: Floats) -> Floats:
    """Predictions for features [rows, columns]."""
    return compiled(model)(x)


def compiled(model: Model) -> Callable[[Floats], Floats]:
    """The same as a function, its numbers turned into arrays once."""
    if isinstance(model, Linear):
        weights = np.array(model.weights)
        return lambda x: np.asarray(model.offset + x @ weights)
    if isinstance(model, Kernel):
        centre, scale, support = (np.array(v) for v in (model.centre, model.scale, model.support))
        weights = np.array(model.weights)
        return lambda x: np.asarray(
            model.offset
            + _kernel((x - centre) / scale, support, model.length, model.slope) @ weights
        )
    return _forest(model)


def _forest(model: Trees) -> Callable[[Floats], Floats]:
    """All trees walked at once: nodes are numbered through."""
    sizes = [len(tree) for tree in model.feature]
    roots = np.cumsum([0, *sizes[:-1]])

    def chain(parts: list[list[int]]) -> npt.NDArray[np.int64]:
        return np.concatenate(
            [np.array(p, np.int64) + r for p, r in zip(parts, roots, strict=True)]
        )

    feature = np.concatenate([np.array(p, np.int64) for p in model.feature])
    threshold = np.concatenate([np.array(p, np.float64) for p in model.threshold])
    value = np.concatenate([np.array(p, np.float64) for p in model.value])
    children = np.stack([chain(model.left), chain(model.right)], 1)

    def predict(x: Floats) -> Floats:
        single = x.astype(np.float32)  # what the trees were fitted to
        node = np.broadcast_to(roots, (len(x), len(roots)))
        rows = np.arange(len(x))[:, None]
        while True:
            right = (single[rows, feature[node]] > threshold[node]).astype(np.int64)
            following = children[node, right]
            if (following == node).all():
                return np.asarray(model.offset + value[node].sum(1))
            node = following

    return predict


def problem(model: Model, width: int) -> str:
    """What is wrong with a stored model; empty where nothing is."""
    numbers = [np.asarray(v, np.float64).ravel() for v in _arrays(model)]
    if not all(np.isfinite(n).all() for n in numbers):
        return "holds numbers that are not finite"
    if isinstance(model, Linear):
        good = len(model.weights) == width
    elif isinstance(model, Kernel):
        good = (
            len(model.centre) == len(model.scale) == width
            and all(len(row) == width for row in model.support)
            and len(model.support) == len(model.weights) > 0
            and min(model.scale) > 0
            and model.length > 0
        )
    else:
        good = _sound_trees(model, width)
    return "" if good else f"a {type(model).__name__.lower()} model of the wrong shape"


def _arrays(model: Model) -> list[object]:
    if isinstance(model, Linear):
        return [model.offset, model.weights]
    if isinstance(model, Kernel):
        flat = [number for row in model.support for number in row]
        return [model.offset, model.centre, model.scale, model.length, model.slope, flat,
                model.weights]  # fmt: skip
    flat = [number for part in (model.threshold, model.value) for row in part for number in row]
    return [model.offset, flat]


def _sound_trees(model: Trees, width: int) -> bool:
    columns = (model.feature, model.threshold, model.left, model.right, model.value)
    if len({len(column) for column in columns}) != 1:
        return False
    for feature, threshold, left, right, value in zip(*columns, strict=True):
        count = len(feature)
        if {len(threshold), len(left), len(right), len(value)} != {count} or count == 0:
            return False
        for node, (column, low, high) in enumerate(zip(feature, left, right, strict=True)):
            leaf = low == high == node
            # children stand after their parent, so that every walk ends
            if not 0 <= column < width or not (
                leaf or node < min(low, high) <= max(low, high) < count
            ):
                return False
    return True
