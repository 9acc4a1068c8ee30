"""What an ONNX network would cost on a board, from its table, without building it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeopt import devices
from edgeopt.codegen.blocks import fused
from edgeopt.codegen.lower import lower_shapes
from edgeopt.core.errors import InputError, suggest
from edgeopt.graph.importer import import_model
from edgeopt.graph.load import load_model, parse_input_shapes
from edgeopt.pipeline import figures
from edgeopt.pipeline.artifact import make_artifact
from edgeopt.pipeline.manifest import Figure, KernelInfo, Record
from edgeopt.pipeline.tiles import choices_of


class Prediction(Record, frozen=True):
    """The answer of ``edgeopt predict``."""

    schema: int
    device: str
    model: str
    precision: str
    figures: tuple[Figure, ...]
    kernels: tuple[KernelInfo, ...]
    notes: tuple[str, ...]


def predict_model(
    model: Path,
    *,
    device: str,
    precision: str = "",
    input_shapes: Sequence[str] = (),
    strict: bool = False,
    profile_dirs: Sequence[Path] = (),
) -> Prediction:
    """Latency and memory of a network on a device.

    Args:
        model: the ONNX file.
        device: name or path of a device profile.
        precision: ``int8`` predicts a float network as it will be once quantized.
        input_shapes: for dynamic inputs.
        strict: refuse kernels that the latency table does not hold.
        profile_dirs: more device profiles.

    Raises:
        InputError: the model or the device cannot be used.
    """
    if precision not in ("", "fp32", "int8"):
        raise InputError(
            f"unknown precision {precision!r}",
            where="--precision",
            hint=suggest(precision, ["fp32", "int8"], noun="precision"),
        )
    profile = devices.load(device, profile_dirs)
    latency = figures.model_for(profile, strict=strict)
    imported = import_model(load_model(model, input_shapes=parse_input_shapes(input_shapes)))
    network = imported.network
    integer = any(t.dtype in ("i8", "u8") for t in network.tensors.values())
    notes: list[str] = []
    if precision == "int8" and not integer:
        graph = fused(lower_shapes(network, "i8"), profile.target)
        estimates = latency.predict_each(graph.keys)
        kernels = tuple(
            KernelInfo(k.name, str(k.key), "", k.sources, k.output, e.value, e.source.value,
                       k.key.weight_count, 0)
            for k, e in zip(graph.kernels, estimates, strict=True)
        )  # fmt: skip
        known: tuple[Figure, ...] = (figures.latency_of(latency, graph.keys),)
        notes.append("memory is not stated: the network has not been quantized yet")
    else:
        if precision == "fp32" and integer:
            raise InputError(
                "the network is quantized already", where=str(model), hint="leave out --precision"
            )
        artifact = make_artifact(network, profile.target, choices_of(profile))
        kernels = figures.kernel_table(latency, artifact)
        known = (figures.latency_of(latency, artifact.graph.keys),
                 *figures.static(artifact, None))  # fmt: skip
        notes += figures.fallback_notes(artifact, kernels)
    return Prediction(
        1, profile.name, model.name, "int8" if integer else precision or "fp32", known, kernels,
        tuple(notes),
    )  # fmt: skip
