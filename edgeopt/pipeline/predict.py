"""What an ONNX network would cost on a board, from its table, without building it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeopt import devices, latency
from edgeopt.codegen.blocks import fused
from edgeopt.codegen.lower import lower_shapes
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError, suggest
from edgeopt.core.estimates import Estimate, LatencyModel
from edgeopt.core.kernels import Kernel, KernelGraph, OpKey
from edgeopt.core.network import Network
from edgeopt.graph.importer import import_model
from edgeopt.graph.load import load_model, parse_input_shapes
from edgeopt.latency.coremodel import CoreModel
from edgeopt.latency.model import TableModel
from edgeopt.latency.select import RUNTIME, refused_tables
from edgeopt.latency.work import class_of, weight_bytes
from edgeopt.pipeline import figures, firmware_meter
from edgeopt.pipeline.artifact import make_artifact
from edgeopt.pipeline.kernel_store import codegen_version
from edgeopt.pipeline.manifest import Figure, KernelInfo, Record
from edgeopt.pipeline.tiles import choices_of


class ClassShare(Record, frozen=True):
    """The kernels of one class in one precision, and what their times rest on."""

    kind: str  # "depthwise"
    precision: str
    kernels: int
    latency_ns: float
    share: float  # of the kernels' time
    basis: str  # see `BASES`


class Coverage(Record, frozen=True):
    """Shares of the predicted time by what they rest on; they add up to one."""

    measured: float = 0.0
    fitted: float = 0.0
    facts: float = 0.0


#: measured: these very kernels were. fitted: others of their class were, under this runtime.
#: facts: the rest.
BASES = ("measured", "fitted", "facts")


class Prediction(Record, frozen=True):
    """The answer of ``edgeopt predict``."""

    schema: int
    device: str
    model: str
    precision: str
    runtime: str
    threads: int
    figures: tuple[Figure, ...]
    counted: bool  # under emulation; what is called measured below was not timed on a board
    coverage: Coverage
    classes: tuple[ClassShare, ...]  # slowest first
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
    runtime: str = RUNTIME,
    any_table: bool = False,
    threads: int = 1,
) -> Prediction:
    """Latency and memory of a network on a device.

    Args:
        model: the ONNX file.
        device: name or path of a device profile.
        precision: ``int8`` predicts a float network as it will be once quantized.
        input_shapes: for dynamic inputs.
        strict: refuse kernels that the latency table does not hold.
        profile_dirs: more device profiles.
        runtime: what will run the network: edgeopt's kernels, onnxruntime, or what measurements
            of the device are kept under.
        any_table: predict from a table of other code, governor or threads where there is no other.
        threads: how many threads run it.

    Raises:
        InputError: the model or the device cannot be used.
    """
    if precision not in ("", "fp32", "int8"):
        raise InputError(
            f"unknown precision {precision!r}",
            where="--precision",
            hint=suggest(precision, ["fp32", "int8"], noun="precision"),
        )
    profile = devices.load(device, profile_dirs).with_threads(threads)
    if runtime == RUNTIME:
        predictor = figures.model_for(profile, strict=strict, any_table=any_table)
    else:
        predictor = latency.load_model(
            profile, runtime=runtime, runtime_version=_installed(profile, runtime), strict=strict,
            threads=threads, any_table=any_table,
        )  # fmt: skip
    imported = import_model(load_model(model, input_shapes=parse_input_shapes(input_shapes)))
    network = imported.network
    integer = any(t.dtype in ("i8", "u8") for t in network.tensors.values())
    if precision == "fp32" and integer:
        raise InputError(
            "the network is quantized already", where=str(model), hint="leave out --precision"
        )
    if runtime == RUNTIME and not integer and not precision and "f32" not in profile.precisions:
        raise InputError(
            f"the network is in float, and {profile.name} has int8 kernels only",
            where=str(model), hint="predict it as it will be once quantized: --precision int8",
        )  # fmt: skip
    notes = [] if any_table else _refused(profile, runtime)
    keys: tuple[OpKey, ...]
    if runtime == RUNTIME and (integer or precision != "int8"):
        artifact = make_artifact(network, profile.target, choices_of(profile))
        kernels = figures.kernel_table(predictor, artifact)
        keys = artifact.graph.keys
        known = (figures.latency_of(predictor, keys), *figures.static(artifact, None))
        notes += figures.fallback_notes(artifact, kernels)
    else:
        graph = graph_for(network, profile, runtime, precision)
        keys = graph.keys
        each = predictor.predict_each(keys)
        kernels = tuple(_info(*pair) for pair in zip(graph.kernels, each, strict=True))
        known = (figures.latency_of(predictor, keys),)
        notes.append(
            "memory is not stated: the network has not been quantized yet"
            if runtime == RUNTIME
            else f"memory is not stated: {runtime} plans its own"
        )
    classes = _classes(predictor, keys, [kernel.latency_ns for kernel in kernels])
    return Prediction(
        schema=1,
        device=profile.name,
        model=model.name,
        precision="int8" if integer else precision or "fp32",
        runtime=runtime,
        threads=threads,
        figures=known,
        counted=isinstance(predictor, firmware_meter.Simulated),
        coverage=_coverage(classes),
        classes=classes,
        kernels=kernels,
        notes=tuple(notes),
    )


def _installed(profile: DeviceProfile, runtime: str) -> str | None:
    """The version of a runtime that the device has, where that can be told from here."""
    from importlib import metadata

    if runtime == RUNTIME:
        firmware = profile.kind == "firmware"
        return firmware_meter.ckernels_version() if firmware else codegen_version()
    if runtime == "onnxruntime" and profile.folder is None:
        return metadata.version("onnxruntime")
    return None


def _refused(profile: DeviceProfile, runtime: str) -> list[str]:
    """Notes on tables that were measured, and are not predicted from."""
    tables = refused_tables(profile, runtime=runtime, runtime_version=_installed(profile, runtime))
    return [
        f"a measured table was not used: {why}; measure again, or ask for it with --any-table"
        for _, why in tables
    ]


def graph_for(
    network: Network, profile: DeviceProfile, runtime: str, precision: str = ""
) -> KernelGraph:
    """A network's kernels as a runtime runs them: only edgeopt joins whole blocks.

    Args:
        network: float or quantized.
        profile: the device.
        runtime: what will run it.
        precision: ``int8`` takes a float network as it will be once quantized.
    """
    integer = any(t.dtype in ("i8", "u8") for t in network.tensors.values())
    as_int8 = "i8" if precision == "int8" and not integer else "f32"
    graph = lower_shapes(network, as_int8, profile.target if runtime == RUNTIME else None)
    return fused(graph, profile.target) if runtime == RUNTIME else graph


def _info(kernel: Kernel, estimate: Estimate) -> KernelInfo:
    return KernelInfo(
        kernel.name, str(kernel.key), "", kernel.sources, kernel.output, estimate.value,
        estimate.source.value, weight_bytes(kernel.key), 0,
    )  # fmt: skip


def _basis(model: LatencyModel, key: OpKey) -> str:
    inner = getattr(model, "model", model)  # of one thread, asked about several
    if isinstance(inner, TableModel):
        return "measured" if key in inner.table.entries else "fitted"
    if isinstance(inner, CoreModel) and inner.supported(key):
        return "fitted"
    return "facts"


def _classes(
    model: LatencyModel, keys: Sequence[OpKey], times_ns: Sequence[float]
) -> tuple[ClassShare, ...]:
    whole = sum(times_ns) or 1.0
    groups: dict[tuple[str, str, str], list[float]] = {}
    for key, time_ns in zip(keys, times_ns, strict=True):
        kind = "block" if key.parts else class_of(key)
        groups.setdefault((kind, key.precision, _basis(model, key)), []).append(time_ns)
    found = [
        ClassShare(kind, precision, len(times), sum(times), sum(times) / whole, basis)
        for (kind, precision, basis), times in groups.items()
    ]
    return tuple(sorted(found, key=lambda row: -row.latency_ns))


def _coverage(classes: Sequence[ClassShare]) -> Coverage:
    share = {name: sum(row.share for row in classes if row.basis == name) for name in BASES}
    return Coverage(**share)
