"""From kernels to whole networks: three ways, and which of them predicts left-out networks best.

- ``isolated``: the sum of measured kernels, a factor, and what a network costs by itself.
- ``decomposition``: whole networks alone. Their times are split by non-negative least squares,
  first onto physical costs of the classes, then onto kernels around these.
- ``both``: the same split around the measured kernels.

A split has many more unknowns than networks, so each kernel is held to what is believed of it (its
class's costs, or its measurement), and kernels of a class are held together; how firmly is decided
by cross-validation inside the networks given. The error of the whole procedure comes from another
one around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError
from edgeopt.core.kernels import OpKey
from edgeopt.latency.analytic import CLASS_OF
from edgeopt.latency.classes import cost_terms
from edgeopt.latency.fit import Matrix, compare, fit_costs
from edgeopt.latency.model import TableModel, weight_bytes
from edgeopt.latency.table import Calibration, LatencyTable
from edgeopt.latency.truth import half_width

METHODS = ("isolated", "decomposition", "both")
MIN_NETWORKS = 8
_FOLDS = 5
#: Of reweighting, where many costs are fitted at once.
ROUNDS = 10
#: How firmly kernels are held to their class, and classes to what is believed of them.
_FIRM = (0.003, 0.03, 0.3, 3.0)
_CLASS_FIRM = (0.003, 0.1)

Rows = npt.NDArray[np.int64]
Networks = Mapping[str, tuple[Sequence[OpKey], float]]


@dataclass(frozen=True, slots=True)
class _Problem:
    """Networks as counts of kernels."""

    keys: tuple[OpKey, ...]
    groups: Rows  # of each kernel, an index
    counts: Matrix  # [networks, kernels]
    times: Matrix  # nanoseconds
    reads: Matrix  # bytes of weights of each network
    isolated: Matrix | None  # nanoseconds of each kernel by itself; None if nothing was measured
    terms: Matrix  # of each kernel's physical costs, by class: [kernels, classes * terms]


@dataclass(frozen=True, slots=True)
class _Fit:
    """What a method found: nanoseconds of each kernel in networks, and of a network besides."""

    scale: float
    per_kernel_ns: float
    per_weight_byte_ns: float
    per_network_ns: float
    kernels: Matrix | None  # None: the isolated ones, scaled

    def predict(self, problem: _Problem, rows: Rows) -> Matrix:
        counts = problem.counts[rows]
        if self.kernels is not None:
            within: Matrix = counts @ self.kernels + self.per_network_ns
            return within
        assert problem.isolated is not None
        found: Matrix = (
            self.scale * (counts @ problem.isolated)
            + self.per_kernel_ns * counts.sum(1)
            + self.per_weight_byte_ns * problem.reads[rows]
            + self.per_network_ns
        )
        return found


def combine(
    table: LatencyTable, networks: Networks, methods: Sequence[str] = METHODS
) -> LatencyTable:
    """The table with the step to whole networks by the best of ``methods``.

    Args:
        table: measured kernels, or none at all (then only ``decomposition`` is possible).
        networks: name -> (kernels, measured nanoseconds); at least 8.
        methods: what to try.

    Raises:
        InputError: fewer than 8 networks, or an unknown method.
    """
    if len(networks) < MIN_NETWORKS:
        raise InputError(
            f"{len(networks)} whole networks are too few to calibrate a table with",
            hint=f"measure at least {MIN_NETWORKS}",
        )
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise InputError(
            f"no way from kernels to networks is called {', '.join(unknown) or 'nothing'}",
            hint=f"known are {', '.join(METHODS)}",
        )
    from threadpoolctl import threadpool_limits

    # Systems this small are solved faster by one thread, above all where others are busy.
    with threadpool_limits(limits=1):
        return _combined(table, networks, methods)


def _combined(table: LatencyTable, networks: Networks, methods: Sequence[str]) -> LatencyTable:
    problem = _problem(table, networks)
    if problem.isolated is None:
        methods = ("decomposition",)
    every = np.arange(len(problem.times))
    left_out: dict[str, Matrix] = {}
    for method in methods:
        predicted = np.empty_like(problem.times)
        for held, rest in _folds(every, 2 * _FOLDS if len(every) < 40 else _FOLDS):
            predicted[held] = _fit(problem, rest, method).predict(problem, held)
        left_out[method] = predicted
    errors = {
        method: float(np.mean(np.abs(predicted / problem.times - 1)))
        for method, predicted in left_out.items()
    }
    # Nothing but a clear gain is worth a split that is harder to understand.
    best = min(methods, key=lambda m: errors[m] * (1.0 if m == "isolated" else 1.02))
    fit = _fit(problem, every, best)
    report = compare(left_out[best], problem.times)
    width = half_width(np.log(problem.times / left_out[best]).tolist())
    inside: dict[OpKey, float] = {}
    if fit.kernels is not None:
        inside = {k: max(float(v), 0.1) for k, v in zip(problem.keys, fit.kernels, strict=True)}
    calibration = Calibration(
        scale=max(fit.scale, 1e-6),
        per_kernel_ns=fit.per_kernel_ns,
        per_weight_byte_ns=fit.per_weight_byte_ns,
        per_network_ns=fit.per_network_ns,
        networks=len(every),
        mape=report.mape,
        worst_error=report.worst_error,
        within_5=report.within_5,
        within_10=report.within_10,
        spearman=report.spearman,
        low=float(np.exp(-width)),
        high=float(np.exp(width)),
        method=best,
        candidates=tuple(errors.items()),
    )
    return replace(table, calibration=calibration, in_network=inside, truth=None)


def _problem(table: LatencyTable, networks: Networks) -> _Problem:
    items = [networks[name] for name in sorted(networks)]
    inside = dict.fromkeys(key for keys, _ in items for key in keys)
    # What is measured but in none of these networks has its class's part in their lessons too.
    keys = tuple({**inside, **dict.fromkeys(table.entries)})
    index = {key: number for number, key in enumerate(keys)}
    counts = np.zeros((len(items), len(keys)))
    for row, (members, _) in enumerate(items):
        for key in members:
            counts[row, index[key]] += 1
    isolated = None
    if table.entries:
        model = TableModel(replace(table, calibration=None, in_network={}, truth=None))
        isolated = np.array([part.value for part in model.predict_each(keys)])
    names = [(CLASS_OF[key.op], key.weight_type) for key in keys]
    known = {name: number for number, name in enumerate(sorted(set(names)))}
    groups = np.array([known[name] for name in names])
    plain = cost_terms(keys)
    width = plain.shape[1]
    terms = np.zeros((len(keys), len(known) * width))
    for row, group in enumerate(groups):
        terms[row, group * width : (group + 1) * width] = plain[row]
    return _Problem(
        keys, groups, counts, np.array([time for _, time in items]),
        np.array([float(weight_bytes(members)) for members, _ in items]), isolated, terms,
    )  # fmt: skip


def _folds(rows: Rows, folds: int) -> list[tuple[Rows, Rows]]:
    """Pairs of rows held out and the rest; subnets come in all precisions, side by side."""
    order = np.random.default_rng(0).permutation(len(rows))
    folds = min(folds, len(rows))
    return [
        (rows[order[fold::folds]], np.delete(rows[order], np.s_[fold::folds]))
        for fold in range(folds)
    ]


def _fit(problem: _Problem, rows: Rows, method: str) -> _Fit:
    if method == "isolated":
        return _fit_sum(problem, rows)
    beliefs = (_by_terms,) if method == "decomposition" else (_by_sum, _by_class)
    wrong: dict[tuple[int, float, float], list[float]] = {}
    for held, rest in _folds(rows, 4):
        for index, belief in enumerate(beliefs):
            believed, scale = belief(problem, rest)
            for firm in _FIRM:
                for class_firm in _CLASS_FIRM:
                    found = _split(problem, rest, believed, firm, class_firm, scale, exact=False)
                    error = found.predict(problem, held) / problem.times[held] - 1
                    wrong.setdefault((index, firm, class_firm), []).extend(np.abs(error).tolist())
    # The firmest of equals.
    best = min(wrong, key=lambda at: (float(np.mean(wrong[at])), -at[1], -at[2]))
    believed, scale = beliefs[best[0]](problem, rows)
    return _split(problem, rows, believed, best[1], best[2], scale)


def _by_sum(problem: _Problem, rows: Rows) -> tuple[Matrix, float]:
    """Kernels take what they do by themselves, times one factor."""
    assert problem.isolated is not None
    base = _fit_sum(problem, rows)
    return base.scale * problem.isolated + base.per_kernel_ns, base.scale


def _by_class(problem: _Problem, rows: Rows) -> tuple[Matrix, float]:
    """A factor for each class, and physical costs: what networks save on, or spend besides."""
    assert problem.isolated is not None
    alone = np.eye(int(problem.groups.max()) + 1)[problem.groups] * problem.isolated[:, None]
    terms = np.column_stack([alone, problem.terms])
    found = terms @ fit_costs(
        problem.counts[rows] @ terms, problem.times[rows], floor=0.02, rounds=ROUNDS
    )
    return np.maximum(found, 1.0), _fit_sum(problem, rows).scale


def _by_terms(problem: _Problem, rows: Rows) -> tuple[Matrix, float]:
    """Physical costs of the classes from networks alone."""
    terms = problem.counts[rows] @ problem.terms
    found = problem.terms @ fit_costs(terms, problem.times[rows], floor=0.02, rounds=ROUNDS)
    return np.maximum(found, 1.0), 1.0


def _fit_sum(problem: _Problem, rows: Rows) -> _Fit:
    """One factor for all kernels, and overheads."""
    assert problem.isolated is not None
    counts = problem.counts[rows]
    terms = np.column_stack(
        [counts @ problem.isolated, counts.sum(1), problem.reads[rows], np.ones(len(rows))]
    )
    factors = fit_costs(terms, problem.times[rows], floor=0.02).tolist()
    return _Fit(factors[0], factors[1], factors[2], factors[3], None)


def _split(
    problem: _Problem,
    rows: Rows,
    believed: Matrix,
    firm: float,
    class_firm: float,
    scale: float,
    *,
    exact: bool = True,
) -> _Fit:
    """Non-negative least squares onto kernels, relative to what is believed of them.

    Unknown are each kernel's factor, each class's, and a network's own time. Minimised are the
    networks' relative errors, how far kernels' factors are from their class's, and these from 1.
    """
    times = problem.times[rows]
    shares = problem.counts[rows] * believed / times[:, None]
    classes = np.eye(int(problem.groups.max()) + 1)[problem.groups]
    own = 1e3 / times
    factors, extra = _unbounded(shares, classes, own, firm / 100, class_firm)
    if extra < 0:
        factors, extra = _unbounded(shares, classes, 0 * own, firm / 100, class_firm)
    if not exact:  # near enough to choose how firmly
        factors = np.maximum(factors, 0.0)
    elif factors.min() < 0 or extra < 0:  # else it is the solution within the bounds too
        factors, extra = _bounded(shares, problem.groups, own, firm / 100, class_firm)
    return _Fit(scale, 0.0, 0.0, 1e3 * extra, believed * factors)


def _unbounded(
    shares: Matrix, classes: Matrix, own: Matrix, firm: float, class_firm: float
) -> tuple[Matrix, float]:
    """Kernels' factors and a network's own time, of any sign: one small system of equations."""
    towards = shares.T / firm + classes @ ((shares @ classes).T / class_firm)
    loose = 1e6 / max(float((own**2).mean()), 1e-30)  # a network's own time is held to nothing
    system = shares @ towards + loose * np.outer(own, own) + np.eye(len(own))
    solved = np.linalg.solve(system, 1.0 - shares.sum(1))
    return 1.0 + towards @ solved, float(loose * own @ solved)


def _bounded(
    shares: Matrix, groups: Rows, own: Matrix, firm: float, class_firm: float
) -> tuple[Matrix, float]:
    """The same with nothing below zero."""
    from scipy.optimize import nnls

    count, classes = len(shares), int(groups.max()) + 1
    used = np.flatnonzero(shares.any(0))
    # Only kernels that these networks run have factors of their own; others take their class's.
    width = len(used) + classes + 1
    matrix = np.zeros((count + len(used) + classes, width))
    right = np.zeros(len(matrix))
    matrix[:count, : len(used)] = shares[:, used]
    matrix[:count, -1] = own
    right[:count] = 1.0
    place, root = np.arange(len(used)), np.sqrt(firm)
    matrix[count + place, place] = root
    matrix[count + place, len(used) + groups[used]] = -root
    at, place = count + len(used), np.arange(classes)
    matrix[at + place, len(used) + place] = right[at:] = np.sqrt(class_firm)
    found, _ = nnls(matrix, right, maxiter=50 * width)
    factors: Matrix = found[len(used) + groups]
    factors[used] = found[: len(used)]
    return factors, float(found[-1])
