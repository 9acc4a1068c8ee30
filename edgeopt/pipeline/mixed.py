"""Architecture and precision plan chosen together, from a supernet that has weights of every width.

`edgeopt compile --precision mixed` searches subnets and the bits of their layers at once
(`ofa.plan_genes`), priced by the kernels that the board has for packed weights. What comes out is
exported with the supernet's own integers, so that the network is the one that was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Budget, Estimate, LatencyModel, Source
from edgeopt.core.space import SubnetConfig
from edgeopt.ofa.plan_genes import PLAN_FEATURES
from edgeopt.ofa.plans import BlockPlan, average_bits, to_precision, uniform
from edgeopt.pipeline.cache import Files, StageCache, default_cache_dir
from edgeopt.pipeline.manifest import PointInfo

if TYPE_CHECKING:
    from edgeopt.ofa.plan_genes import Planned
    from edgeopt.ofa.plan_predictor import PlanPredictor
    from edgeopt.ofa.pool import Candidate, Costs
    from edgeopt.pipeline.compile import CompileRequest
    from edgeopt.pipeline.source import Cached, Chosen, Detail, SearchDocument
    from edgeopt.quant.weights import StoredWeights
    from edgeopt.zoo.elastic import ElasticEntry

#: What `edgeopt compile --precision` calls it.
NAME = "mixed"
#: Candidates costed exactly. Screening by tables looks at some hundred for each of them: twice as
#: many found nothing better in four cases (section `plan_search` of benchmarks/RESULTS.md).
EVALUATIONS = 600
#: What a microcontroller's runner may take more than is estimated of it: a network found too large
#: is searched for again, which takes longer than so many bytes are worth.
_RUNNER_SPARE_BYTES = 300


def check_board(profile: DeviceProfile) -> tuple[int, ...]:
    """The widths of weights that a plan may use on a board.

    Raises:
        InputError: it has none but eight bits.
    """
    from edgeopt.pipeline.planned import deployable_bits

    bits = deployable_bits(profile.target) if "i8" in profile.precisions else ()
    if len(bits) < 2:
        names = {"f32": "fp32", "i8": "int8"}
        raise InputError(
            f"device {profile.name} has no kernels that read weights of fewer than 8 bits",
            where=f"--precision {NAME}",
            hint=f"it has: {', '.join(names[p] for p in profile.precisions)}",
        )
    return bits


def find_entry(name: str) -> ElasticEntry:
    """The elastic supernet of that name, or the one that was made of it.

    Raises:
        InputError: there is none.
    """
    from edgeopt.zoo import elastic

    known = elastic.names()
    if name in known:
        return elastic.load(name)
    for other in known:
        entry = elastic.load(other)
        if entry.card.base == name:
            return entry
    raise InputError(
        f"supernet {name!r} has no weights of fewer than 8 bits",
        where=f"--precision {NAME}",
        hint=f"choose --supernet {known[0]}, or fine-tune this one with edgeopt train --quantize"
        if known
        else "fine-tune it with edgeopt train --quantize, or compile it with --precision int8",
    )


def predictor_of(entry: ElasticEntry, cached: Cached) -> PlanPredictor:
    """The entry's predictor; fitted to its evaluations, once, where it ships none."""
    from edgeopt import zoo
    from edgeopt.ofa.plan_predictor import fit_plan_predictor, load_plan_predictor
    from edgeopt.ofa.plans import read_evaluations
    from edgeopt.ofa.predictor import load_predictor

    where = f"zoo entry {entry.name}"
    if entry.predictor is not None:
        return load_plan_predictor(entry.predictor, entry.space, where)

    def make() -> Files:
        rows = read_evaluations(entry.evaluations, entry.space, where)
        base = zoo.load(entry.card.base) if entry.card.base in zoo.names() else None
        subnets = None if base is None else load_predictor(base.predictor, entry.space, where)
        found = fit_plan_predictor(entry.space, rows, subnets=subnets)
        return {"predictor.json": found.dump()}

    files, _ = cached("plan-predictor", {"entry": entry.digest, "features": PLAN_FEATURES}, make)
    return load_plan_predictor(files["predictor.json"], entry.space, where)


def in_integers(
    entry: ElasticEntry, predictor: PlanPredictor
) -> tuple[Callable[[Sequence[Planned]], npt.NDArray[np.float64]], str]:
    """Accuracies (0..1) as a board will compute, in integers alone, and how they are known.

    The predictor's pairs were measured with activations in float; what eight bits cost is the mean
    over the card's exact counts, and left out where the card does not have it.
    """
    loss = entry.card.activation_loss
    if loss is None:
        return predictor.predict, f"{predictor.how}, activations in float"
    known = sum(row.weights_only is not None for row in entry.card.rows)
    how = (
        f"{predictor.how}, less {100 * loss:.2f} points for activations of eight bits (mean of "
        f"{known} exact counts)"
    )
    return lambda candidates: predictor.predict(candidates) - loss, how


def choose(
    request: CompileRequest, profile: DeviceProfile, cached: Cached, detail: Detail
) -> Chosen:
    """Search subnets and plans of an elastic supernet.

    Raises:
        InfeasibleError: nothing meets the budget.
        InputError: no such supernet, or a board without kernels for few bits.
    """
    from edgeopt import latency
    from edgeopt.pipeline.local_table import model_for
    from edgeopt.pipeline.source import Chosen, SearchDocument

    bits = check_board(profile)
    entry = find_entry(request.supernet)
    model = model_for(
        profile, strict=request.strict, any_table=request.any_table, space=entry.space, packed=True,
        detail=lambda text: detail("search", text),
    )  # fmt: skip
    inputs = {
        "entry": entry.digest,
        "device": profile.fingerprint,
        "latency": latency.model_digest(model),
        "budget": repr(request.budget),
        "bits": ",".join(str(b) for b in bits),
        "seed": str(request.seed),
        "evaluations": str(EVALUATIONS),
        "strict": str(request.strict),
    }

    def make() -> Files:
        found = _searched(
            entry, predictor_of(entry, cached), profile, model, bits, request.budget,
            request.seed, EVALUATIONS, StageCache(default_cache_dir() if request.cache else None),
            lambda text: detail("search", text),
        )  # fmt: skip
        return {"search.json": msgspec.json.format(msgspec.json.encode(found)) + b"\n"}

    files, hit = cached("search-plans", inputs, make)
    found = msgspec.json.decode(files["search.json"], type=SearchDocument)
    subnet, plan = SubnetConfig.parse(found.subnet), BlockPlan.parse(found.plan)
    known = found.accuracy
    mean = average_bits(entry.space, subnet, plan)
    return Chosen(
        source=f"zoo:{entry.name}",
        source_sha256=entry.digest,
        precision="i8",
        summary=f"{len(found.points):,} candidates, best {100 * known.value:.1f} % "
        f"({mean:.2f} bits a weight)",
        cached=hit,
        subnet=subnet,
        space=entry.space,
        elastic=entry,
        block_plan=plan,
        accuracy=Estimate(known.value, known.low, known.high, Source.ESTIMATED, 0.0, known.how),
        statistics={"candidates": float(len(found.points)), "space": float(found.space_size)},
        document=files["search.json"],
        points=found.points,
        notes=(_against_int8(subnet, plan, entry, profile),),
        plan=to_precision(entry.space, subnet, plan),
        plan_name=f"plan {plan}",
    )


def _searched(
    entry: ElasticEntry,
    predictor: PlanPredictor,
    profile: DeviceProfile,
    latency: LatencyModel,
    bits: tuple[int, ...],
    budget: Budget,
    seed: int,
    evaluations: int,
    store: StageCache,
    detail: Callable[[str], None],
) -> SearchDocument:
    """The best subnet within a budget, and the plan that moves its outputs least.

    Raises:
        InfeasibleError: nothing meets it; the nearest candidate is named.
    """
    from edgeopt.ofa import plan_search
    from edgeopt.ofa.plan_genes import PlanDomain
    from edgeopt.pipeline.planned import PlanCosts
    from edgeopt.pipeline.replan import settled
    from edgeopt.pipeline.source import AccuracyInfo, SearchDocument

    domain = PlanDomain(entry.space, bits)
    costs = PlanCosts(domain, profile, latency)

    predict, how = in_integers(entry, predictor)

    def progress(done: int, planned: int, best: float | None) -> None:
        text = f"{done:,} of {planned:,} candidates"
        detail(text if best is None else f"{text}, best {100 * best:.1f} %")

    result = plan_search.search_plans(
        domain, predict, costs, budget, costs.screen, seed=seed, evaluations=evaluations,
        progress=progress,
    )  # fmt: skip
    detail("measuring plans of the best subnets")
    # Kernels are compiled for this, a microcontroller's runner is not.
    spare_bytes = _RUNNER_SPARE_BYTES if profile.kind == "firmware" else 0

    def price(planned: Planned) -> Costs:
        found = costs.linked(planned, store)
        return replace(found, flash_bytes=found.flash_bytes + spare_bytes)

    best = settled(entry, result, costs, predict, budget, price)
    front = {candidate.config for candidate in (*result.front, best)}
    costed = {candidate.config: candidate for candidate in (*result.evaluated, best)}.values()
    low, high = predictor.interval
    return SearchDocument(
        subnet=str(best.config.subnet),
        precision="i8",
        accuracy=AccuracyInfo(
            best.accuracy, best.accuracy + low, best.accuracy + high,
            how,
        ),
        space_size=domain.size,
        points=tuple(_point(c, c.config in front) for c in costed),
        plan=str(best.config.plan),
    )  # fmt: skip


def _point(candidate: Candidate[Planned], pareto: bool) -> PointInfo:
    return PointInfo(
        subnet=str(candidate.config.subnet),
        precision=str(candidate.config.plan),
        accuracy=candidate.accuracy,
        latency_ns=candidate.costs.latency.value,
        ram_bytes=candidate.costs.ram_bytes,
        flash_bytes=candidate.costs.flash_bytes,
        feasible=candidate.feasible,
        pareto=pareto,
    )


def _against_int8(
    subnet: SubnetConfig, plan: BlockPlan, entry: ElasticEntry, profile: DeviceProfile
) -> str:
    """What the plan saves, in constants as kernels read them."""
    from edgeopt.codegen import cost
    from edgeopt.ofa.plan_genes import Planned
    from edgeopt.pipeline.planned import describe_planned

    packed, whole = (
        cost.evaluate(
            describe_planned(entry.space, Planned(subnet, p)), "i8", profile.target, place=False
        ).weight_bytes
        for p in (plan, uniform(entry.space, 8))
    )
    return (
        f"plan {plan}: {average_bits(entry.space, subnet, plan):.2f} bits a weight, constants of "
        f"{packed:,} bytes, {packed / whole:.2f} of the {whole:,} that int8 takes"
    )


# -- extraction ----------------------------------------------------------------------------------


def extract(request: CompileRequest, chosen: Chosen) -> Files:
    """The subnet in fp32 with the values of its quantized weights, test inputs, and the integers.

    ``stored.npz`` holds the supernet's integers of every layer: see `stored_weights`.
    """
    import torch

    from edgeopt.graph.build import build_onnx
    from edgeopt.ofa.data import normalize
    from edgeopt.ofa.export import metadata, to_network
    from edgeopt.pipeline.calibration_data import VECTORS, calibration_images
    from edgeopt.pipeline.elastic_files import load_elastic
    from edgeopt.pipeline.source import pack_npz

    entry, space, subnet, plan = chosen.elastic, chosen.space, chosen.subnet, chosen.block_plan
    assert entry is not None and space is not None and subnet is not None and plan is not None
    images = normalize(calibration_images(request.data, chosen), space)
    net = load_elastic(space, entry.weights, entry.quantizers)
    found = net.prepare(subnet, plan, images)
    with torch.no_grad():
        outputs = found.net.eval()(images[:VECTORS]).numpy()
    told = metadata(space, subnet) | {"edgeopt.plan": str(plan)}
    model = build_onnx(to_network(found.net, "subnet"), told)
    arrays: dict[str, Any] = {
        "input:image": images[:VECTORS].contiguous().numpy(),
        "torch:logits": outputs,
    }
    stored: dict[str, Any] = {}
    for name, weights in found.stored().items():
        stored[f"{name}:weight"], stored[f"{name}:scale"] = weights.weight, weights.scale
        stored[f"{name}:bits"] = np.int64(weights.bits)
        if weights.bias is not None:
            stored[f"{name}:bias"] = weights.bias
    return {
        "model.onnx": model, "vectors.npz": pack_npz(arrays), "stored.npz": pack_npz(stored),
    }  # fmt: skip


def stored_weights(network: Mapping[str, bytes]) -> dict[str, StoredWeights]:
    """The integers that `extract` kept, by layer; none where it did not make the network."""
    from edgeopt.pipeline.source import load_npz
    from edgeopt.quant.weights import StoredWeights

    if "stored.npz" not in network:
        return {}
    arrays = load_npz(network["stored.npz"])
    layers = [name.removesuffix(":weight") for name in arrays if name.endswith(":weight")]
    return {
        name: StoredWeights(
            arrays[f"{name}:weight"], arrays[f"{name}:scale"], int(arrays[f"{name}:bits"]),
            arrays.get(f"{name}:bias"),
        )
        for name in layers
    }  # fmt: skip
