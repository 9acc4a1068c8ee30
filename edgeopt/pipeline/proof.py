"""The proof of a compile: PyTorch, onnxruntime and the artifact compute the same.

The reference is the network run in torch: in float32, or in integers bit for bit as `core.affine`
defines them. Against it run onnxruntime on the exported model, the artifact built for this
machine, and the artifact built for the device.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgeopt import devices
from edgeopt.codegen import programs, toolchain, verify
from edgeopt.codegen.testvectors import TestVectors
from edgeopt.codegen.verify import Comparison, Engine, Missing
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError, ToolError
from edgeopt.core.estimates import Source
from edgeopt.core.files import digest
from edgeopt.core.network import Network
from edgeopt.graph.qdq_narrow import widened
from edgeopt.pipeline import bundle, firmware
from edgeopt.pipeline.artifact import Artifact, build_kernels, make_artifact, versions_text
from edgeopt.pipeline.cache import Files, StageCache
from edgeopt.pipeline.manifest import Check, Figure

if TYPE_CHECKING:
    from edgeopt.pipeline.firmware import Board
    from edgeopt.pipeline.source import Cached, Final

#: fp32 engines may differ by this, relative to the largest magnitude of an output vector.
FP32_TOLERANCE = 1e-4
#: Share of int8 output elements on which onnxruntime must agree, and by how much others may differ.
ORT_EQUAL_SHARE, ORT_STEPS = 0.99, 1
#: Steps of int8 that outputs in fixed point may be off: one for each requantization that sat next
#: to a half, carried through the network. Firmware itself is compared bit for bit.
FIXED_STEPS = 16
BENCH_RUNS = 300
#: Where onnxruntime computes each node as the model says, in float32.
AS_WRITTEN = "host, model as written"

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Proof:
    """What was checked, and the latency where the device is this machine."""

    checks: tuple[Check, ...]
    latency: Figure | None = None
    kernel_ns: tuple[float, ...] = ()  # medians, where some kernels have no template
    figures: tuple[Figure, ...] = ()  # of firmware, all there are but the accuracy

    @property
    def summary(self) -> str:
        """For the stage's line."""
        counts = {kind: sum(c.result == kind for c in self.checks)
                  for kind in ("passed", "failed", "skipped")}  # fmt: skip
        return ", ".join(f"{n} {kind}" for kind, n in counts.items() if n or kind == "passed")

    def require(self) -> None:
        """Fail where a check failed.

        Raises:
            ToolError: naming the first.
        """
        failed = [check for check in self.checks if check.result == "failed"]
        if failed:
            raise ToolError(
                f"{len(failed)} of {len(self.checks)} checks failed, the first: "
                f"{failed[0].what} ({failed[0].where}): {failed[0].detail}",
                where="verify",
                hint="the bundle was written so that it can be looked at; do not deploy it",
            )


class _Stored(msgspec.Struct, frozen=True):
    checks: tuple[Check, ...]
    latency: Figure | None
    kernel_ns: tuple[float, ...]


def reference_vectors(final: Final, inputs: Mapping[str, npt.NDArray[Any]]) -> TestVectors:
    """Test vectors of the final network: inputs as it stores them, outputs of the torch reference.

    Args:
        final: the final model.
        inputs: model input name -> [N, ...] in the model's layout.
    """
    from edgeopt.quant.simulate import Simulator

    network = final.imported.network
    stored = {
        tensor: np.concatenate(
            [final.imported.inputs[name].from_onnx(row[None]) for row in inputs[name]]
        )
        for name, tensor in zip(final.imported.inputs, network.inputs, strict=True)
    }
    outputs = Simulator(network).run(stored)
    return TestVectors(
        {name: array[:, None] for name, array in stored.items()},
        {name: _with_batch(outputs[name], network, name) for name in network.outputs},
        0.0 if is_integer(network) else FP32_TOLERANCE,
    )


def is_integer(network: Network) -> bool:
    """Whether all arithmetic is in integers, so that engines must agree bit for bit."""
    return all(
        op.kind in ("quantize", "dequantize", "reshape", "transpose")
        or network.tensors[op.output].dtype in ("i8", "u8")
        for op in network.ops
    ) and any(tensor.dtype in ("i8", "u8") for tensor in network.tensors.values())


def _with_batch(array: npt.NDArray[Any], network: Network, name: str) -> npt.NDArray[Any]:
    shape = network.tensors[name].shape
    return array.reshape(len(array) * array[0].size // int(np.prod(shape)), *shape)


def prove(
    name: str,
    profile: DeviceProfile,
    model: Mapping[str, bytes],
    final: Final,
    artifact: Artifact,
    files: Mapping[str, bytes],
    vectors: TestVectors,
    cached: Cached,
    cache: StageCache,
) -> tuple[Proof, bool]:
    """Check all engines against each other.

    Args:
        name: of the network.
        profile: the device.
        model: ``vectors.npz`` and ``model.onnx`` of the network stage.
        final: the model that was compiled.
        artifact: lowered for the device.
        files: of the bundle.
        vectors: reference inputs and outputs.
        cached: the stage cache.
        cache: of built kernels, for the artifact of this machine.
    """
    host = replace(devices.load("local"), threads=profile.threads)
    compilers = {profile.name: _version(profile), host.name: _version(host)}
    engine = verify.engine_for(profile)
    inputs = {
        "files": digest(json.dumps({k: digest(v) for k, v in sorted(files.items())}).encode()),
        "vectors": digest(model["vectors.npz"]),
        "host": host.fingerprint,
        "device": profile.fingerprint,
        "compilers": json.dumps(compilers),
        "engine": str(engine),
        "versions": versions_text(),
    }

    def make() -> Files:
        checks = _engine_checks(model, final, vectors)
        latency: Figure | None = None
        kernel_ns: tuple[float, ...] = ()
        if profile.folder is not None:
            checks += _host_checks(name, host, final, vectors, cache)
        if isinstance(engine, Missing):
            checks.append(as_check(verify.skipped("torch = artifact", engine)))
        else:
            checks += artifact_checks(files, name, profile, engine, vectors)
            if engine.where == "host":
                each = bool(artifact.fallbacks) and artifact.threads == 1
                latency, kernel_ns = measure(files, name, profile, engine, each=each)
        return {"proof.json": msgspec.json.encode(_Stored(tuple(checks), latency, kernel_ns))}

    stored, hit = cached("verify", inputs, make)
    found = msgspec.json.decode(stored["proof.json"], type=_Stored)
    return Proof(found.checks, found.latency, found.kernel_ns), hit


def prove_firmware(
    name: str,
    board: Board,
    model: Mapping[str, bytes],
    final: Final,
    artifact: Artifact,
    files: Mapping[str, bytes],
    vectors: TestVectors,
    own: TestVectors,
    cached: Cached,
) -> tuple[Proof, bool]:
    """Check engines and firmware against each other; ``own`` are the board's own vectors.

    The remaining arguments are those of `prove`.
    """
    inputs = {
        "model": digest(final.model),
        "vectors": digest(model["vectors.npz"] + vectors.output_bytes + own.output_bytes),
        "versions": versions_text(),
    }

    def make() -> Files:
        checks = _engine_checks(model, final, vectors)
        if own is not vectors:
            checks.append(
                as_check(
                    verify.compare(
                        vectors.outputs, own.outputs, what="torch ~ fixed-point reference",
                        where="host", tolerance=FP32_TOLERANCE * 100, max_steps=FIXED_STEPS,
                        min_equal=0.0,
                    )
                )
            )  # fmt: skip
        return {"engines.json": msgspec.json.encode(_Stored(tuple(checks), None, ()))}

    stored, hit = cached("engines", inputs, make)
    engines = msgspec.json.decode(stored["engines.json"], type=_Stored).checks
    count = len(artifact.graph.kernels)
    embedded = min(bundle.EMBEDDED_VECTORS, own.count)
    found, same = firmware.weigh(name, board, count, files, own, embedded, cached)
    return Proof(
        (*engines, *found.checks),
        kernel_ns=firmware.kernel_ns(board, found),
        figures=firmware.figures_of(board, artifact, found),
    ), hit and same


def _version(profile: DeviceProfile) -> str:
    try:
        compiler = toolchain.find(profile)
    except ToolError:
        return "none"
    return f"{compiler.name} {compiler.version}"


def _engine_checks(model: Mapping[str, bytes], final: Final, vectors: TestVectors) -> list[Check]:
    """Torch against onnxruntime: the float model as trained, then the final one."""
    from edgeopt.pipeline.source import load_npz

    arrays = load_npz(model["vectors.npz"])
    inputs = {k.partition(":")[2]: v for k, v in arrays.items() if k.startswith("input:")}
    trained = {k.partition(":")[2]: v for k, v in arrays.items() if k.startswith("torch:")}
    checks = []
    if trained:
        outputs = run_onnx_rows(model["model.onnx"], inputs)
        checks.append(
            as_check(
                verify.compare(
                    {name: trained[name][:, None] for name in trained}, outputs,
                    what="torch = onnxruntime (fp32)", where="host", tolerance=FP32_TOLERANCE,
                )
            )
        )  # fmt: skip
    if not trained or final.precision == "int8":
        checks += against_ort(final, inputs, vectors)
    return checks


def against_ort(
    final: Final,
    inputs: Mapping[str, npt.NDArray[Any]],
    vectors: TestVectors,
    *,
    fixed: bool = False,
) -> list[Check]:
    """The reference against onnxruntime on the final model.

    Args:
        final: the model that was compiled.
        inputs: model input name -> [N, ...] in the model's layout.
        vectors: the reference's inputs and outputs.
        fixed: the reference requantizes in fixed point, and so may be off by `FIXED_STEPS`.
    """
    network = final.imported.network
    integer = final.precision == "int8"

    def compared(model: bytes, *, optimize: bool, loose: bool = fixed) -> Comparison:
        outputs = run_onnx_rows(model, inputs, optimize=optimize)
        moved = {
            tensor: np.stack([final.imported.outputs[o].from_onnx(row) for row in outputs[o]])
            for o, tensor in zip(final.imported.outputs, network.outputs, strict=True)
        }
        return verify.compare(
            _in_steps(network, vectors.outputs) if integer else dict(vectors.outputs),
            _in_steps(network, moved) if integer else moved,
            what="fixed-point reference ~ onnxruntime (int8)"
            if fixed
            else "torch simulation ~ onnxruntime (float32)"
            if loose
            else "torch simulation = onnxruntime (int8)"
            if integer
            else "torch = onnxruntime (fp32)",
            where="host",
            tolerance=FP32_TOLERANCE,
            max_steps=FIXED_STEPS if loose else ORT_STEPS if integer else 0,
            min_equal=0.0 if loose else ORT_EQUAL_SHARE if integer else 1.0,
        )

    # Optimized, onnxruntime runs integer models in integers, but rewrites some operators, such as
    # softmax, into forms that differ from the model as written; then that is what counts.
    twin = widened(final.model) if integer else None
    found = compared(twin or final.model, optimize=integer)
    if integer and found.result == "failed":
        found = replace(compared(twin or final.model, optimize=False), where=AS_WRITTEN)
    if twin is None:
        return [as_check(found)]
    # onnxruntime multiplies narrow weights in float32, where sums that sit next to a half may fall
    # to the other side, layer by layer; the same integers as int8, in integers.
    detail = f"{found.detail}; narrow weights read as int8, for which it has integer kernels"
    try:
        written = replace(compared(final.model, optimize=False, loose=True), where=AS_WRITTEN)
    except InputError as error:
        missing = f"narrow weights: {error.what}"
        written = replace(found, result="skipped", detail=missing, where=AS_WRITTEN, vectors=0)
    return [as_check(replace(found, detail=detail)), as_check(written)]


def run_onnx_rows(
    model: bytes, inputs: Mapping[str, npt.NDArray[Any]], *, optimize: bool = False
) -> Arrays:
    """Onnxruntime's outputs [N, ...] of a model with a batch of 1, row by row."""
    from edgeopt.graph.reference import Session

    session = Session(model, optimize=optimize)
    count = len(next(iter(inputs.values())))
    rows = [session.run({k: v[i : i + 1] for k, v in inputs.items()}) for i in range(count)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _in_steps(network: Network, outputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """Dequantized outputs as the integers they came from; others as they are."""
    made_by = {op.output: op for op in network.ops}
    steps: Arrays = {}
    for name, array in outputs.items():
        op = made_by.get(name)
        quant = network.tensors[op.inputs[0]].quant if op is not None else None
        if op is not None and op.kind == "dequantize" and quant is not None:
            array = np.rint(array / np.float32(quant.scale)).astype(np.int32)
        steps[name] = array
    return steps


def _host_checks(
    name: str, host: DeviceProfile, final: Final, vectors: TestVectors, cache: StageCache
) -> list[Check]:
    """The same network built for this machine and run here."""
    engine = verify.engine_for(host)
    if isinstance(engine, Missing):
        return [as_check(verify.skipped("torch = artifact", engine))]
    artifact = make_artifact(final.imported.network, host.target)
    kernels, _ = build_kernels(artifact, name, cache)
    code = bundle.render_code(name, "edgeopt verify", {}, artifact, kernels, vectors)
    return artifact_checks(code.files, name, host, engine, vectors)


def artifact_checks(
    files: Mapping[str, bytes],
    name: str,
    profile: DeviceProfile,
    engine: Engine,
    vectors: TestVectors,
) -> list[Check]:
    """The reference against an artifact's programs, built from ``files`` and run on ``engine``."""
    where = f"{profile.arch} on {engine.where}"
    try:
        compiler = toolchain.find(profile)
    except ToolError as error:
        return [Check("torch = artifact", where, "skipped", f"{error.what}; {error.hint}")]
    from edgeopt.codegen.names import identifier

    done = verify.run_artifact(files, identifier(name), compiler, engine, vectors)
    compared = verify.compare(
        vectors.outputs, done.outputs, what="torch = artifact", where=where,
        tolerance=vectors.tolerance,
    )  # fmt: skip
    checks = [as_check(compared), as_check(done.self_test, where=where)]
    if done.alone is not None:
        same = verify.compare(
            done.alone, done.outputs, what=f"one thread = {threads_of(files, name)}", where=where,
            tolerance=0.0,
        )  # fmt: skip
        checks.append(as_check(replace(same, result="passed" if same.bit_exact else "failed")))
    return checks


def threads_of(files: Mapping[str, bytes], name: str) -> str:
    """How many threads a bundle's code uses, in words."""
    from edgeopt.codegen.names import identifier, macro

    header = files[f"include/{identifier(name)}.h"].decode()
    found = re.search(rf"#define {re.escape(macro(name))}_THREADS (\d+)", header)
    return f"{found[1]} threads" if found else "one thread"


def as_check(found: Comparison, where: str = "") -> Check:
    """A comparison as the manifest keeps it."""
    kept = asdict(found)
    return Check(
        kept["what"], where or kept["where"], kept["result"], kept["detail"], kept["vectors"],
        kept["max_error"],
    )  # fmt: skip


def measure(
    files: Mapping[str, bytes],
    name: str,
    profile: DeviceProfile,
    engine: Engine,
    *,
    each: bool = False,
) -> tuple[Figure, tuple[float, ...]]:
    """The artifact's latency on this machine: median of whole runs, with its own threads.

    With ``each``, the median of every kernel in its place in the network (ns), too.
    """
    from edgeopt.codegen.names import identifier

    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        built = programs.build(
            files, identifier(name), toolchain.find(profile), Path(folder),
            wanted=("bench", "bench_kernels") if each else ("bench",),
        )  # fmt: skip
        text = verify.run_program(engine, built.paths["bench"], ("--runs", str(BENCH_RUNS)))
        kernel_ns: tuple[float, ...] = ()
        if each:
            rows = verify.run_program(
                engine, built.paths["bench_kernels"], ("--runs", str(BENCH_RUNS))
            )
            kernel_ns = tuple(float(row["median_ns"]) for row in json.loads(rows)["kernels"])
    result = json.loads(text)
    figure = Figure(
        "latency_ns",
        float(result["median_ns"]),
        Source.MEASURED,
        f"median of {result['runs']} runs on this machine, {threads_of(files, name)}; "
        "10th to 90th percentile",
        float(result["p10_ns"]),
        float(result["p90_ns"]),
    )
    return figure, kernel_ns
