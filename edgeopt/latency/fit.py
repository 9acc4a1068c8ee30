"""Fitting non-negative costs to measured times, by relative error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def fit_costs(terms: Matrix, times: Matrix, *, rounds: int = 30, floor: float = 0.05) -> Matrix:
    """Non-negative factors [K] with ``terms`` [N,K] @ factors close to ``times`` [N].

    Relative error is what is minimised, robustly: rows are reweighted towards least absolute
    deviation (``floor`` is the relative error under which rows count as equally good).
    """
    from scipy.optimize import nnls

    largest = np.abs(terms).max(axis=0)
    scale = np.where(largest > 0, largest, 1.0)
    weights = 1.0 / times
    factors: Matrix = np.zeros(terms.shape[1])
    for _ in range(rounds):
        solution, _ = nnls(terms / scale * weights[:, None], times * weights)
        factors = solution / scale
        error = np.abs(terms @ factors - times) / times
        weights = 1.0 / (times * np.sqrt(np.maximum(error, floor)))
    return factors


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """How predictions compare with measurements they were not fitted to."""

    mape: float  # mean absolute relative error
    median_error: float
    worst_error: float
    within_5: float  # share of predictions within 5 %
    within_10: float
    spearman: float
    count: int


def compare(predicted: Matrix, measured: Matrix) -> ErrorReport:
    """The error figures of ``predicted`` against ``measured`` (both positive)."""
    from scipy.stats import spearmanr

    error = np.abs(predicted - measured) / measured
    constant = len(measured) < 3 or np.ptp(measured) == 0 or np.ptp(predicted) == 0
    return ErrorReport(
        mape=float(error.mean()),
        median_error=float(np.median(error)),
        worst_error=float(error.max()),
        within_5=float((error <= 0.05).mean()),
        within_10=float((error <= 0.10).mean()),
        spearman=0.0 if constant else float(spearmanr(predicted, measured).statistic),
        count=len(measured),
    )
