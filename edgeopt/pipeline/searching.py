"""Searching a zoo entry for a device: the cost of a candidate comes from lowering it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeopt.codegen import cost
from edgeopt.codegen.ckernels import sizes
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Budget, LatencyModel
from edgeopt.ofa.describe import describe
from edgeopt.ofa.pool import Candidate, Costs
from edgeopt.ofa.search import search
from edgeopt.pipeline import firmware
from edgeopt.pipeline.joint import Choice, JointDomain, joint_predictor
from edgeopt.pipeline.manifest import PointInfo
from edgeopt.pipeline.source import AccuracyInfo, SearchDocument
from edgeopt.pipeline.tiles import choices_of

if TYPE_CHECKING:
    from edgeopt.zoo import ZooEntry


def search_entry(
    entry: ZooEntry,
    profile: DeviceProfile,
    latency: LatencyModel,
    precisions: tuple[str, ...],
    budget: Budget,
    seed: int,
    evaluations: int,
    detail: Callable[[str], None],
) -> SearchDocument:
    """The best subnet and precision within a budget.

    Raises:
        InfeasibleError: nothing meets it; the nearest candidate is named.
    """
    from edgeopt.ofa.predictor import load_predictor

    space, target = entry.space, profile.target
    tiles = choices_of(profile)
    predictor = load_predictor(entry.predictor, space)

    def costs(choice: Choice) -> Costs:
        found = cost.evaluate(describe(space, choice.subnet), choice.precision, target, tiles)
        ram_bytes, code_bytes = found.arena_bytes, found.code_bytes_estimate
        if profile.kind == "firmware":  # which also states what is beside arena and kernels
            ram_bytes += firmware.outside_bytes(found.keys)
            code_bytes += sizes.runner_bytes(target, len(found.keys))
        return Costs(
            latency=latency.predict(found.keys),
            ram_bytes=ram_bytes,
            flash_bytes=found.weight_bytes + code_bytes,
        )

    def progress(done: int, planned: int, best: float | None) -> None:
        text = f"{done:,} of {planned:,} candidates"
        detail(text if best is None else f"{text}, best {100 * best:.1f} %")

    domain = JointDomain(space, precisions)
    loss = {"f32": 0.0, "i8": int8_loss(entry) if "i8" in precisions else 0.0}
    result = search(
        domain, joint_predictor(predictor.predict, loss), costs, budget,
        seed=seed, evaluations=evaluations, progress=progress,
    )  # fmt: skip
    best = result.best
    front = {candidate.config for candidate in result.front}
    return SearchDocument(
        subnet=str(best.config.subnet),
        precision=best.config.precision,
        accuracy=_accuracy(best, predictor.interval, predictor.how, entry),
        space_size=domain.size,
        points=tuple(_point(c, c.config in front) for c in result.evaluated),
    )


def int8_loss(entry: ZooEntry) -> float:
    """Mean accuracy (0..1) that int8 was measured to cost; never counted as a gain.

    Raises:
        InputError: the entry's card has no such measurement.
    """
    if entry.card.int8 is None:
        raise InputError(
            "what int8 costs was not measured for this supernet",
            where=f"zoo entry {entry.name}",
            hint="compile with --precision fp32, or build the entry again",
        )
    return max(0.0, entry.card.int8.mean_loss)


def _accuracy(
    best: Candidate[Choice], interval: tuple[float, float], how: str, entry: ZooEntry
) -> AccuracyInfo:
    value = best.accuracy
    if best.config.precision == "i8":
        how += f", less {100 * int8_loss(entry):.2f} points for int8 (mean of measured subnets)"
    return AccuracyInfo(value, value + interval[0], value + interval[1], how)


def _point(candidate: Candidate[Choice], pareto: bool) -> PointInfo:
    return PointInfo(
        subnet=str(candidate.config.subnet),
        precision={"f32": "fp32", "i8": "int8"}[candidate.config.precision],
        accuracy=candidate.accuracy,
        latency_ns=candidate.costs.latency.value,
        ram_bytes=candidate.costs.ram_bytes,
        flash_bytes=candidate.costs.flash_bytes,
        feasible=candidate.feasible,
        pareto=pareto,
    )
