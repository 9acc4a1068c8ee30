"""Bits for each layer by integer programming: the least sensitivity that meets every budget.

A choice of one width a layer with additive costs is a multiple-choice knapsack (HAWQ-V3: Yao et
al. 2021). CP-SAT solves it to optimality for any network; the answer says whether it did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeopt.core.errors import InfeasibleError, InputError
from edgeopt.core.units import show_duration, show_size

#: layer -> width -> a number
Table = Mapping[str, Mapping[int, float]]

#: Sensitivities are rounded to this many steps of the largest sum there can be.
_RESOLUTION = 2**40
DEFAULT_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Limit:
    """A budget on the sum of a cost over all layers.

    Attributes:
        name: what is spent: ``flash``, ``latency`` or ``average bits``.
        costs: of every layer at every width it may have, in whole units (bytes, ns, bits).
        most: the largest sum allowed.
        fixed: what is spent whatever the plan is.
    """

    name: str
    costs: Table
    most: float
    fixed: float = 0.0

    def spent(self, bits: Mapping[str, int]) -> float:
        """What a choice of widths costs."""
        return self.fixed + sum(self.costs[name][width] for name, width in bits.items())

    def show(self, value: float) -> str:
        """A sum of the costs, as a person reads it."""
        return {"flash": show_size, "latency": show_duration}.get(self.name, _plain)(value)


def _plain(value: float) -> str:
    return f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Allocation:
    """Chosen widths.

    Attributes:
        bits: by layer.
        sensitivity: summed over layers.
        optimal: proven; otherwise the best found in the time there was.
        spent: by budget.
    """

    bits: Mapping[str, int]
    sensitivity: float
    optimal: bool
    spent: Mapping[str, float]


def flash_limit(
    weights: Mapping[str, int], widths: Mapping[str, Sequence[int]], most: float, fixed: float = 0.0
) -> Limit:
    """A budget of flash: packed weights; three bits take the room of four.

    Args:
        weights: how many each layer has.
        widths: those each may have.
        most: bytes allowed in all.
        fixed: bytes of biases, scales and code.
    """
    costs = {
        name: {bits: float(stored_bytes(weights[name], bits)) for bits in choices}
        for name, choices in widths.items()
    }
    return Limit("flash", costs, most, fixed)


def stored_bytes(count: int, bits: int) -> int:
    """Bytes that weights take in flash."""
    room = 4 if bits == 3 else bits
    return -(-count * room // 8)


def average_limit(
    weights: Mapping[str, int], widths: Mapping[str, Sequence[int]], most: float
) -> Limit:
    """A budget of bits of a weight on average."""
    total = sum(weights[name] for name in widths)
    costs = {
        name: {bits: bits * weights[name] / total for bits in choices}
        for name, choices in widths.items()
    }
    return Limit("average bits", costs, most)


def allocate(
    sensitivity: Table, limits: Sequence[Limit], *, limit_s: float = DEFAULT_LIMIT_S, seed: int = 0
) -> Allocation:
    """Choose a width for every layer.

    Args:
        sensitivity: what each layer costs in accuracy at each width it may have.
        limits: budgets on sums.
        limit_s: how long the solver may take.
        seed: of the solver.

    Raises:
        InfeasibleError: no choice meets a budget; the nearest is named.
        InputError: a sensitivity or cost is missing or not finite.
    """
    from ortools.sat.python import cp_model

    _check(sensitivity, limits)
    for limit in limits:
        _check_alone(sensitivity, limit)
    model = cp_model.CpModel()
    chosen = {
        (name, bits): model.new_bool_var(f"{name}={bits}")
        for name, row in sensitivity.items()
        for bits in row
    }
    for name, row in sensitivity.items():
        model.add_exactly_one(chosen[name, bits] for bits in row)
    for limit in limits:
        whole, most = _whole(sensitivity, limit)
        model.add(sum(whole[pair] * variable for pair, variable in chosen.items()) <= most)
    # Measured noise may be below zero; a constant a layer does not change the choice.
    low = {name: min(row.values()) for name, row in sensitivity.items()}
    reach = sum(max(row.values()) - low[name] for name, row in sensitivity.items())
    unit = reach / _RESOLUTION if reach > 0 else 1.0
    model.minimize(
        sum(
            round((sensitivity[name][bits] - low[name]) / unit) * variable
            for (name, bits), variable in chosen.items()
        )
    )
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = limit_s
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        raise _together(sensitivity, limits)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise InfeasibleError(
            f"no plan was found in {limit_s:g} s", where="integer program",
            hint="allow more, or fewer widths",
        )  # fmt: skip
    bits = {name: next(b for b in row if solver.value(chosen[name, b])) for name, row in
            sensitivity.items()}  # fmt: skip
    return Allocation(
        bits=bits,
        sensitivity=sum(sensitivity[name][width] for name, width in bits.items()),
        optimal=status == cp_model.OPTIMAL,
        spent={limit.name: limit.spent(bits) for limit in limits},
    )


def _check(sensitivity: Table, limits: Sequence[Limit]) -> None:
    if not sensitivity:
        raise InputError("there are no layers to choose bits for", where="plan")
    for name, row in sensitivity.items():
        if not row:
            raise InputError("has no width to choose from", where=f"layer {name!r}")
        for bits, value in row.items():
            if not np.isfinite(value):
                raise InputError(
                    f"its sensitivity at {bits} bits is {value}", where=f"layer {name!r}",
                    hint="check the images and the model for values that are not finite",
                )  # fmt: skip
            for limit in limits:
                if bits not in limit.costs.get(name, {}):
                    raise InputError(
                        f"its {limit.name} at {bits} bits is not known", where=f"layer {name!r}"
                    )


def _check_alone(sensitivity: Table, limit: Limit) -> None:
    """Whether the cheapest choice meets one budget."""
    cheapest = {
        name: min(row, key=lambda b, n=name: limit.costs[n][b])  # type: ignore[misc]
        for name, row in sensitivity.items()
    }
    least = limit.spent(cheapest)
    widths = sorted({bits for row in sensitivity.values() for bits in row})
    if least > limit.most:
        raise InfeasibleError(
            f"no plan meets {limit.name} of at most {limit.show(limit.most)}: the least is "
            f"{limit.show(least)}",
            where="plan",
            hint=f"allow {limit.show(least)}, or widths below {widths[0]}",
        )


def _whole(sensitivity: Table, limit: Limit) -> tuple[dict[tuple[str, int], int], int]:
    """Costs and what may be spent as integers, never allowing more than the budget."""
    room = limit.most - limit.fixed
    values = [limit.costs[name][bits] for name, row in sensitivity.items() for bits in row]
    if all(float(value).is_integer() for value in values):
        unit = 1.0
    else:
        unit = max(max(values) * len(sensitivity), room, 1e-30) / _RESOLUTION
    whole = {
        (name, bits): int(np.ceil(limit.costs[name][bits] / unit - 1e-9))
        for name, row in sensitivity.items()
        for bits in row
    }
    return whole, int(np.floor(room / unit + len(sensitivity) * (unit != 1.0)))


def _together(sensitivity: Table, limits: Sequence[Limit]) -> InfeasibleError:
    """Budgets that can be met one by one, but not all at once."""
    parts = []
    for limit in limits:
        others = [other for other in limits if other is not limit]
        found = _least(sensitivity, limit, others)
        if found is not None:
            parts.append(f"{limit.name} {limit.show(found)}")
    names = " and ".join(f"{limit.name} {limit.show(limit.most)}" for limit in limits)
    return InfeasibleError(
        f"no plan meets {names} together", where="plan",
        hint=f"allow {' or '.join(parts)}" if parts else "allow more of them",
    )  # fmt: skip


def _least(sensitivity: Table, wanted: Limit, others: Sequence[Limit]) -> float | None:
    """The least of one cost within the other budgets."""
    from dataclasses import replace

    try:
        found = allocate({n: {b: wanted.costs[n][b] for b in row} for n, row in
                          sensitivity.items()}, others)  # fmt: skip
    except InfeasibleError:
        return None
    return replace(wanted, most=np.inf).spent(found.bits)
