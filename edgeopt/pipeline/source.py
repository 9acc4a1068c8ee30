"""Where the network comes from: a zoo supernet that is searched, or an ONNX file.

Either way the result is an fp32 (or already quantized) ONNX model, inputs to test it with, and
what a float reference in torch gives for them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Estimate, Source
from edgeopt.core.files import digest, read_bytes
from edgeopt.core.precision import PrecisionPlan, write_plan
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.pipeline import mixed, plans
from edgeopt.pipeline.artifact import versions_text
from edgeopt.pipeline.cache import Files
from edgeopt.pipeline.calibration_data import (
    VECTORS,
    calibration_images,
    calibration_inputs,
    inputs_digest,
)
from edgeopt.pipeline.manifest import PointInfo

if TYPE_CHECKING:
    from edgeopt.codegen.testvectors import TestVectors
    from edgeopt.graph.importer import Imported
    from edgeopt.ofa.plans import BlockPlan
    from edgeopt.pipeline.compile import CompileRequest
    from edgeopt.zoo import ZooEntry
    from edgeopt.zoo.elastic import ElasticEntry

Cached = Callable[[str, Mapping[str, str], Callable[[], Files]], tuple[Files, bool]]
Detail = Callable[[str, str], None]
Floats = npt.NDArray[np.float32]

MAX_MODEL_BYTES = 2**31
EVALUATIONS = 2500

_FULL_NAME = {"f32": "fp32", "i8": "int8"}


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is to be compiled, and why.

    Attributes:
        source: ``zoo:<name>`` or ``onnx:<file>``.
        precision: ``f32`` or ``i8``; for an ONNX file ``as-is`` where it stays what it is.
        subnet: the searched subnet; None for an ONNX file.
        accuracy: predicted; None where nothing is known.
        document: the search result as JSON.
        points: every candidate that was evaluated.
        model: the ONNX file's bytes; empty for a subnet.
        plan: bits of each layer's weights; None where all have eight.
        plan_name: how errors name it.
        elastic: the supernet with weights of every width; then ``entry`` is None.
        block_plan: the same plan by the subnet's blocks.
    """

    source: str
    source_sha256: str
    precision: str
    summary: str
    cached: bool
    subnet: SubnetConfig | None = None
    space: SearchSpace | None = None
    entry: ZooEntry | None = None
    accuracy: Estimate | None = None
    statistics: dict[str, float] = field(default_factory=dict)
    document: bytes = b"{}"
    points: tuple[PointInfo, ...] = ()
    notes: tuple[str, ...] = ()
    model: bytes = b""
    plan: PrecisionPlan | None = None
    plan_name: str = "precision plan"
    elastic: ElasticEntry | None = None
    block_plan: BlockPlan | None = None

    @property
    def estimated(self) -> dict[str, float]:
        """What the search took it for, by the names of a budget's fields; empty without one."""
        precision = _FULL_NAME.get(self.precision) if self.block_plan is None else self.block_plan
        name = str(self.subnet), str(precision)
        for point in self.points:
            if (point.subnet, point.precision) == name:
                return {
                    "latency_ns": point.latency_ns,
                    "ram_bytes": point.ram_bytes,
                    "flash_bytes": point.flash_bytes,
                }
        return {}


@dataclass(frozen=True, slots=True)
class Final:
    """The model that is compiled: fp32, or quantized."""

    model: bytes
    file_name: str
    precision: str  # "fp32" or "int8", as a user writes it
    imported: Imported
    summary: str
    notes: tuple[str, ...] = ()
    plan: PrecisionPlan | None = None  # where not all weights have eight bits


def choose(
    request: CompileRequest,
    profile: DeviceProfile,
    precisions: tuple[str, ...],
    cached: Cached,
    detail: Detail,
) -> Chosen:
    """Search the zoo entry, or take the given model as it is."""
    if request.plan is not None and request.model is None:
        raise InputError(
            "a plan names the layers of one network, and a search has many", where="--plan",
            hint="give the ONNX network that it was made for",
        )  # fmt: skip
    if request.model is not None:
        return _from_file(request, precisions)
    if request.precision == mixed.NAME:
        return mixed.choose(request, profile, cached, detail)
    return _from_zoo(request, profile, precisions, cached, detail)


def _from_file(request: CompileRequest, precisions: tuple[str, ...]) -> Chosen:
    assert request.model is not None
    if request.budget.min_accuracy is not None:
        raise InputError(
            "the accuracy of a given ONNX network is not known",
            where="--accuracy",
            hint="leave it out, or search a zoo supernet",
        )
    data = read_bytes(request.model, max_bytes=MAX_MODEL_BYTES, noun="ONNX model")
    wanted = "i8" if request.precision == "int8" else "as-is"
    if wanted == "as-is" and "f32" not in precisions:
        wanted = "i8"
    if request.precision == mixed.NAME and request.plan is None:
        wanted = mixed.NAME
    plan = None if request.plan is None else plans.load(request.plan)
    if plan is not None:
        if "i8" not in precisions:
            raise InputError(
                f"weights of few bits are integers, and {_FULL_NAME[precisions[0]]} is asked for",
                where="--plan", hint="leave --precision out, or choose a board with int8 kernels",
            )  # fmt: skip
        wanted = "i8"
    return Chosen(
        source=f"onnx:{request.model.name}",
        source_sha256=digest(data),
        precision=wanted,
        summary=f"{request.model.name}, nothing to search",
        cached=False,
        model=data,
        plan=plan,
        plan_name=str(request.plan),
    )


def check_plan(chosen: Chosen, network: Files, profile: DeviceProfile) -> None:
    """Refuse a plan early: of other layers, of a quantized model, or without kernels to run it.

    Raises:
        InputError: naming the layer, and what the board has.
    """
    if chosen.plan is None:
        return
    from edgeopt.graph.importer import import_network
    from edgeopt.graph.load import parse_model
    from edgeopt.graph.qdq_build import is_quantized

    model = parse_model(network["model.onnx"])
    if is_quantized(model):
        raise InputError(
            "the model is quantized already, and keeps the bits that it has",
            where=chosen.plan_name, hint="give its float form, or leave --plan out",
        )  # fmt: skip
    shape = import_network(model, isolated=False)
    plans.check_board(chosen.plan, shape, profile, where=chosen.plan_name)


def _from_zoo(
    request: CompileRequest,
    profile: DeviceProfile,
    precisions: tuple[str, ...],
    cached: Cached,
    detail: Detail,
) -> Chosen:
    from edgeopt import latency, zoo
    from edgeopt.pipeline.local_table import model_for

    entry = zoo.load(request.supernet)
    model = model_for(
        profile, strict=request.strict, any_table=request.any_table, space=entry.space,
        detail=lambda text: detail("search", text),
    )  # fmt: skip
    inputs = {
        "entry": entry.digest,
        "device": profile.fingerprint,
        "latency": latency.model_digest(model),
        "budget": repr(request.budget),
        "precisions": ",".join(precisions),
        "seed": str(request.seed),
        "evaluations": str(EVALUATIONS),
        "strict": str(request.strict),
    }

    def make() -> Files:
        from edgeopt.pipeline.searching import search_entry

        found = search_entry(
            entry, profile, model, precisions, request.budget, request.seed, EVALUATIONS,
            lambda text: detail("search", text),
        )  # fmt: skip
        return {"search.json": msgspec.json.format(msgspec.json.encode(found)) + b"\n"}

    files, hit = cached("search", inputs, make)
    found = msgspec.json.decode(files["search.json"], type=SearchDocument)
    subnet = SubnetConfig.parse(found.subnet)
    return Chosen(
        source=f"zoo:{entry.name}",
        source_sha256=entry.digest,
        precision=found.precision,
        summary=f"{len(found.points):,} candidates, best {100 * found.accuracy.value:.1f} % "
        f"({_FULL_NAME[found.precision]})",
        cached=hit,
        subnet=subnet,
        space=entry.space,
        entry=entry,
        accuracy=Estimate(
            found.accuracy.value, found.accuracy.low, found.accuracy.high, Source.ESTIMATED, 0.0,
            found.accuracy.how,
        ),
        statistics={"candidates": float(len(found.points)), "space": float(found.space_size)},
        document=files["search.json"],
        points=found.points,
    )  # fmt: skip


class AccuracyInfo(msgspec.Struct, frozen=True):
    """A predicted accuracy with its 90 % interval."""

    value: float
    low: float
    high: float
    how: str


class SearchDocument(msgspec.Struct, frozen=True):
    """A search result as it is kept."""

    subnet: str
    precision: str
    accuracy: AccuracyInfo
    space_size: int
    points: tuple[PointInfo, ...]
    plan: str = ""  # of the subnet's blocks, where it was searched too


def make_onnx(request: CompileRequest, chosen: Chosen, cached: Cached) -> tuple[Files, bool]:
    """``model.onnx`` (fp32, or as given) and ``vectors.npz``: test inputs and torch's outputs.

    ``vectors.npz`` holds ``input`` [N,...] in the model's layout and, for a subnet, ``torch``.
    """
    inputs = {
        "source": chosen.source_sha256,
        "subnet": str(chosen.subnet),
        "plan": str(chosen.block_plan or ""),
        "data": inputs_digest(request.data),
        "shapes": ";".join(request.input_shapes),
        "versions": versions_text(),
    }
    if chosen.subnet is None:
        return cached("import", inputs, lambda: _load_file(request))
    if chosen.elastic is not None:
        return cached("extract-plan", inputs, lambda: mixed.extract(request, chosen))
    return cached("extract", inputs, lambda: _extract(request, chosen))


def _load_file(request: CompileRequest) -> Files:
    from edgeopt.graph.load import load_model, parse_input_shapes

    assert request.model is not None
    shapes = parse_input_shapes(request.input_shapes)
    model = load_model(request.model, input_shapes=shapes)
    arrays: dict[str, Any] = {}
    from edgeopt.graph.importer import import_model

    imported = import_model(model)
    rng = np.random.default_rng(0)
    calibration = None if request.data is None else calibration_inputs(request.data, imported)
    for name in imported.network.inputs:
        interface = next(i for i in imported.inputs.values() if i.name == name)
        if calibration is not None:
            arrays[f"input:{name}"] = calibration[:VECTORS]
        elif np.dtype(interface.onnx_dtype).kind == "f":
            arrays[f"input:{name}"] = rng.standard_normal(
                (VECTORS, *interface.onnx_shape[1:]), np.float32
            )
        else:
            info = np.iinfo(interface.onnx_dtype)
            arrays[f"input:{name}"] = rng.integers(
                info.min, info.max + 1, (VECTORS, *interface.onnx_shape[1:]),
                dtype=interface.onnx_dtype,
            )  # fmt: skip
    data = model.SerializeToString(deterministic=True)
    return {"model.onnx": data, "vectors.npz": pack_npz(arrays)}


def _extract(request: CompileRequest, chosen: Chosen) -> Files:
    import torch

    from edgeopt.graph.build import build_onnx
    from edgeopt.ofa.bn import recalibrate_bn
    from edgeopt.ofa.checkpoint import load_weights
    from edgeopt.ofa.data import normalize
    from edgeopt.ofa.export import metadata, to_network
    from edgeopt.ofa.extract import extract

    entry, space, subnet = chosen.entry, chosen.space, chosen.subnet
    assert entry is not None and space is not None and subnet is not None
    images = normalize(calibration_images(request.data, chosen), space)
    net = extract(load_weights(space, entry.weights), subnet)
    recalibrate_bn(net, images)
    net.eval()
    with torch.no_grad():
        outputs = net(images[:VECTORS]).numpy()
    model = build_onnx(to_network(net, "subnet"), metadata(space, subnet))
    arrays = {"input:image": images[:VECTORS].contiguous().numpy(), "torch:logits": outputs}
    return {"model.onnx": model, "vectors.npz": pack_npz(arrays)}


def quantize(
    request: CompileRequest, chosen: Chosen, network: Files, cached: Cached
) -> tuple[Final, bool]:
    """The final model: as it is, or calibrated and quantized to int8."""
    from edgeopt.graph.edges import with_edges
    from edgeopt.graph.importer import import_model
    from edgeopt.graph.load import parse_model
    from edgeopt.graph.qdq_build import is_quantized

    model = parse_model(network["model.onnx"])
    already = is_quantized(model)
    if chosen.precision == mixed.NAME and not already:
        raise InputError(
            "a float network has no plan of its layers' bits", where=f"--precision {mixed.NAME}",
            hint="make one with edgeopt quantize --precision mixed and compile what it writes, or "
            "give a plan: --precision int8 --plan plan.json",
        )  # fmt: skip
    if chosen.precision != "i8" or already:
        precision = "int8" if already else "fp32"
        summary = "quantized already, kept as it is" if already else "fp32, nothing to quantize"
        return Final(
            network["model.onnx"], "model.onnx", precision,
            with_edges(import_model(model, isolated=False), request.io), summary,
        ), False  # fmt: skip
    if chosen.subnet is None and request.data is None:
        raise InputError(
            "quantizing a float network needs inputs to calibrate on",
            where="--precision int8",
            hint="give --data with an npz of images, or compile it in fp32",
        )
    plan = chosen.plan or PrecisionPlan()
    stored = mixed.stored_weights(network)
    inputs = {
        "model": digest(network["model.onnx"]),
        "stored": digest(network.get("stored.npz", b"")),
        "data": inputs_digest(request.data),
        "entry": "" if chosen.entry is None else chosen.entry.digest,
        "plan": write_plan(plan),
        "versions": versions_text(),
    }

    def make() -> Files:
        from edgeopt.quant.calibration import calibrate
        from edgeopt.quant.export import quantize_model

        calibration = calibrate(model, _calibration(request, chosen, model))
        quantized = quantize_model(model, calibration, plan=plan, stored=stored)
        return {"model_int8.onnx": quantized.SerializeToString(deterministic=True)}

    files, hit = cached("quantize", inputs, make)
    data = files["model_int8.onnx"]
    where = "the zoo's own images" if request.data is None else request.data.name
    imported = with_edges(import_model(parse_model(data), isolated=False), request.io)
    bits = plans.average_bits(imported.network) or 8.0
    weights = "int8 weights" if bits == 8 else f"weights of {bits:.2g} bits on average"
    return Final(
        data,
        "model_int8.onnx",
        "int8",
        imported,
        f"{weights} by channel, activations calibrated on {where}",
        plan=None if plan == PrecisionPlan() else plan,
    ), hit


def _calibration(request: CompileRequest, chosen: Chosen, model: Any) -> Floats:
    if chosen.subnet is not None:
        from edgeopt.ofa.data import normalize

        assert chosen.space is not None
        images = normalize(calibration_images(request.data, chosen), chosen.space)
        result: Floats = images.contiguous().numpy()
        return result
    from edgeopt.graph.importer import import_model

    assert request.data is not None
    return calibration_inputs(request.data, import_model(model))


def pack_npz(arrays: Mapping[str, Any]) -> bytes:
    """Arrays as a stage's npz file."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def load_npz(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Arrays of a stage's npz file."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def test_vectors(final: Final, network: Files, cached: Cached) -> TestVectors:
    """Inputs and reference outputs the artifact is checked with, and that ship with it."""
    from edgeopt.codegen.testvectors import TestVectors
    from edgeopt.pipeline.proof import reference_vectors

    inputs = {
        "model": digest(final.model),
        "vectors": digest(network["vectors.npz"]),
        "edges": repr([final.imported.network.tensors[name] for name in
                       (*final.imported.network.inputs, *final.imported.network.outputs)]),
        "versions": versions_text(),
    }  # fmt: skip

    def make() -> Files:
        arrays = load_npz(network["vectors.npz"])
        raw = {k.partition(":")[2]: v for k, v in arrays.items() if k.startswith("input:")}
        vectors = reference_vectors(final, raw)
        found = {f"input:{name}": array for name, array in vectors.inputs.items()}
        found |= {f"output:{name}": array for name, array in vectors.outputs.items()}
        return {"vectors.npz": pack_npz({**found, "tolerance": np.float64(vectors.tolerance)})}

    files, _ = cached("vectors", inputs, make)
    arrays = load_npz(files["vectors.npz"])
    graph = final.imported.network
    return TestVectors(
        {name: arrays[f"input:{name}"] for name in graph.inputs},
        {name: arrays[f"output:{name}"] for name in graph.outputs},
        float(arrays["tolerance"]),
    )
