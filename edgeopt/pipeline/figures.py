"""The figures of a bundle: each with its interval, its source and how it is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeopt.codegen.objects import object_size
from edgeopt.core.device import DeviceProfile
from edgeopt.core.estimates import LatencyModel, Source
from edgeopt.core.files import digest
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Network
from edgeopt.pipeline import local_table, plans
from edgeopt.pipeline.artifact import Artifact
from edgeopt.pipeline.manifest import Figure, KernelInfo

if TYPE_CHECKING:
    from edgeopt.pipeline.proof import Proof
    from edgeopt.pipeline.source import Chosen


def accuracy(chosen: Chosen) -> Figure | None:
    """The predicted accuracy of a searched subnet; a given network's is not known."""
    if chosen.accuracy is None:
        return None
    known = chosen.accuracy
    low, high = max(0.0, known.low), min(1.0, known.high)
    return Figure("accuracy", known.value, known.source, known.how, low, high)


def latency_of(model: LatencyModel, keys: Sequence[OpKey]) -> Figure:
    """What the latency model says of a whole network."""
    found = model.predict(keys)
    # A sum of measured kernels is still a prediction of the network.
    return Figure("latency_ns", found.value, Source.ESTIMATED, found.how, found.low, found.high)


def static(artifact: Artifact, kernels: bytes | None) -> tuple[Figure, ...]:
    """Memory and work: exact by construction.

    Args:
        artifact: the lowered network.
        kernels: the built object; None leaves code size and flash out.
    """
    memory, weights = artifact.plan, artifact.weight_bytes
    exact = Source.COMPUTED
    found = [
        Figure("arena_bytes", memory.arena_bytes, exact, "the memory plan, proven free of overlap"),
        Figure("arena_lower_bound_bytes", memory.lower_bound_bytes, exact,
               "the largest set of buffers live at once"),
        Figure("weight_bytes", weights, exact, "packed constants, as the kernels read them"),
    ]  # fmt: skip
    if kernels is not None:
        code = object_size(kernels).code_bytes
        found += [
            Figure("code_bytes", code, exact, "loaded sections of the kernels' object"),
            Figure("flash_bytes", weights + code, exact, "weights and kernels"),
        ]
    found.append(
        Figure("macs", sum(k.macs for k in artifact.graph.keys), exact, "convolutions and linear")
    )
    return tuple(found)


def collect(
    model: LatencyModel,
    chosen: Chosen,
    artifact: Artifact,
    kernels: bytes,
    proof: Proof,
) -> tuple[Figure, ...]:
    """Every figure of a compile; a measured latency wins over a predicted one."""
    known = accuracy(chosen)
    figures = [] if known is None else [known]
    if proof.figures:
        return (*figures, *proof.figures)
    if proof.latency is not None:
        figures.append(proof.latency)
    else:
        figures.append(latency_of(model, artifact.graph.keys))
    return (*figures, *static(artifact, kernels))


def kernel_table(
    model: LatencyModel,
    artifact: Artifact,
    measured_ns: Sequence[float] = (),
    source: Source = Source.MEASURED,
) -> tuple[KernelInfo, ...]:
    """Every kernel with its latency, in execution order.

    Args:
        model: predicts what was not measured.
        artifact: the lowered network.
        measured_ns: times of the kernels in the network itself, where it ran.
        source: how these are known.
    """
    if len(measured_ns) == len(artifact.graph.keys):
        estimates = [(value, source) for value in measured_ns]
    else:
        found = model.predict_each(artifact.graph.keys)
        estimates = [(estimate.value, estimate.source) for estimate in found]
    seen: set[str] = set()
    rows = []
    for kernel, function, constants, estimate in zip(
        artifact.graph.kernels, artifact.functions, artifact.constants, estimates, strict=True
    ):
        weight_bytes = 0
        for array in constants.values():
            code = digest(array.tobytes())
            if code not in seen:
                weight_bytes += array.nbytes
                seen.add(code)
        rows.append(
            KernelInfo(
                name=kernel.name,
                key=str(kernel.key),
                template=function.template,
                ops=kernel.sources,
                output=kernel.output,
                latency_ns=estimate[0],
                latency_source=estimate[1].value,
                weight_bytes=weight_bytes,
                scratch_bytes=function.scratch_bytes,
                tile=str(function.choice),
                weights=kernel.key.weight_type if kernel.key.weight_count else "",
            )
        )
    return tuple(rows)


def fallback_notes(artifact: Artifact, kernels: Sequence[KernelInfo]) -> tuple[str, ...]:
    """What has no template, with its share of the time and of the multiply-accumulates."""
    if not artifact.fallbacks:
        return ()
    from edgeopt.codegen import fallback

    extra = {kernel.name: fallback.macs(kernel) for kernel in artifact.fallbacks}
    macs = sum(key.macs for key in artifact.graph.keys) + sum(extra.values())
    total_ns = sum(info.latency_ns for info in kernels)
    notes = []
    for info in (info for info in kernels if info.name in extra):
        time = f"{100 * info.latency_ns / total_ns:.1f} % of the time ({info.latency_source})"
        work = f"{100 * extra[info.name] / macs:.1f} %" if macs else "none"
        notes.append(
            f"{info.name} has no template: compiled by TVM's own legalization, slower; "
            f"{time}, {work} of the multiply-accumulates"
        )
    return tuple(notes)


def weight_bits(network: Network) -> tuple[Figure, ...]:
    """Bits of a weight on average, where some have fewer than eight."""
    bits = plans.average_bits(network)
    if bits is None or bits == 8:
        return ()
    how = "of integer weights on average, as the model stores them"
    return (Figure("weight_bits", bits, Source.COMPUTED, how),)


def widened_notes(network: Network, artifact: Artifact) -> tuple[str, ...]:
    """Layers whose narrow weights are stored in more bits, because no kernel reads them."""
    bits = {op.name: op.attrs["weight_bits"] for op in network.ops if "weight_bits" in op.attrs}
    widened = [
        (f"{bits[source]}", f"{kernel.key.weight_bits or 8}", kernel.key.op, source)
        for kernel in artifact.graph.kernels
        for source in kernel.sources
        if source in bits and (kernel.key.weight_bits or 8) != bits[source]
    ]
    notes = []
    for kind in sorted({found[:3] for found in widened}):
        width, stored, op = kind
        names = [found[3] for found in widened if found[:3] == kind]
        named = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        kept, kernel = ("as int8", "packed") if stored == "8" else (f"in {stored}", "narrower")
        notes.append(
            f"weights of {width} bits are stored {kept} in {len(names)} {op} "
            f"layer{'s' if len(names) > 1 else ''}, for which there is no {kernel} kernel: {named}"
        )
    return tuple(notes)


def model_for(profile: DeviceProfile, *, strict: bool, any_table: bool = False) -> LatencyModel:
    """The device's latency model."""
    return local_table.model_for(profile, strict=strict, any_table=any_table)
