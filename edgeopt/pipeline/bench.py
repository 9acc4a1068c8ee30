"""Timing a bundle on this machine, alone or in turns with onnxruntime."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgeopt import devices
from edgeopt.codegen import programs, toolchain, verify
from edgeopt.codegen.names import identifier
from edgeopt.codegen.verify import Engine, Missing
from edgeopt.core.errors import BoardError, InputError
from edgeopt.pipeline import bundle
from edgeopt.pipeline.manifest import load_bundle

#: Turns between the engines when they are compared: a drift of the machine hits both.
TURNS = 10


@dataclass(frozen=True, slots=True)
class EngineTime:
    """Whole inferences of one engine."""

    name: str
    runs: int
    median_ns: float
    min_ns: float
    p90_ns: float


@dataclass(frozen=True, slots=True)
class KernelTime:
    """One kernel's share of an inference."""

    name: str
    median_ns: float
    share: float


@dataclass(frozen=True, slots=True)
class BenchResult:
    """What a bench found; ``ratio`` is onnxruntime's median by the artifact's."""

    engines: tuple[EngineTime, ...]
    kernels: tuple[KernelTime, ...] = ()
    ratio: float | None = None

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"schema": 1, **asdict(self)}


def bench_bundle(
    folder: Path,
    *,
    runs: int = 300,
    against_ort: bool = False,
    kernels: bool = False,
    threads: int | None = None,
) -> BenchResult:
    """Build a bundle's bench program from its files and run it here.

    Args:
        folder: of the bundle.
        runs: counted inferences of each engine.
        against_ort: alternate with onnxruntime on the bundle's own ONNX model.
        kernels: time every kernel as well.
        threads: of every engine; as many as the bundle was compiled for by default.

    Raises:
        InputError: no bundle, or one that was changed; more threads than it was compiled for.
        BoardError: the bundle is for another processor than this machine's.
        ToolError: no compiler, or it fails.
    """
    manifest, files = bundle.read_files(folder)
    profile = devices.load("local")
    engine = verify.engine_for(profile)
    target = devices.load(manifest.device) if manifest.device != "local" else profile
    if target.arch != profile.arch or isinstance(engine, Missing):
        raise BoardError(
            f"the bundle is for {target.title} ({target.arch}), this machine is {profile.arch}",
            where=str(folder),
            hint="build its bench program with CMake and run it on the board",
        )
    threads = manifest.threads if threads is None else threads
    if threads > manifest.threads:
        raise InputError(
            f"the bundle was compiled for {manifest.threads} "
            f"thread{'s' if manifest.threads > 1 else ''}",
            where="--threads",
            hint=f"compile it with --threads {threads}",
        )
    options = ("--threads", str(threads)) if manifest.threads > 1 else ()
    name = identifier(manifest.name)
    wanted = ("bench", "bench_kernels") if kernels else ("bench",)
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as work:
        compiler = toolchain.find(profile)
        paths = programs.build(files, name, compiler, Path(work), wanted=wanted).paths
        ours: list[float] = []
        theirs: list[float] = []
        session = None
        if against_ort:
            model = "model_int8.onnx" if manifest.precision == "int8" else "model.onnx"
            if model not in files:
                model = "model.onnx"
            session = OrtTimer(files[model], threads)
        turns = TURNS if session is not None else 1
        for _ in range(turns):
            ours += run_bench(engine, paths["bench"], max(10, runs // turns), options)
            if session is not None:
                theirs += session.run(max(10, runs // turns))
        engines = [summarise("edgeopt", ours)]
        ratio = None
        if theirs:
            engines.append(summarise("onnxruntime", theirs))
            ratio = engines[1].median_ns / engines[0].median_ns
        timed: tuple[KernelTime, ...] = ()
        if kernels:
            arguments = ("--runs", str(runs), *options)
            text = verify.run_program(engine, paths["bench_kernels"], arguments)
            timed = _kernels(json.loads(text), [k.name for k in manifest.kernels])
    return BenchResult(tuple(engines), timed, ratio)


def is_firmware(folder: Path) -> bool:
    """Whether a bundle is for a microcontroller.

    Raises:
        InputError: no bundle, or one that was changed.
    """
    device = load_bundle(folder).device
    return device != "local" and devices.load(device).kind == "firmware"


def run_bench(engine: Engine, program: Path, runs: int, options: Sequence[str] = ()) -> list[float]:
    """Times (ns) of single inferences by a bench program."""
    arguments = ("--runs", str(runs), "--min-ms", "0", "--samples", *options)
    text = verify.run_program(engine, program, arguments)
    return [float(value) for value in json.loads(text)["samples_ns"]]


class OrtTimer:
    """onnxruntime as a user would set it up: so many threads, all optimizations.

    Raises:
        InputError: the model has inputs that are not tensors of static shape.
    """

    def __init__(self, model: bytes, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        rng = np.random.default_rng(0)
        kinds = {"tensor(float)": np.float32, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8}
        self._feed = {}
        for item in self._session.get_inputs():
            if item.type not in kinds or not all(isinstance(d, int) for d in item.shape):
                raise InputError(f"input {item.name!r} is {item.type} {item.shape}")
            values = rng.standard_normal(item.shape)
            self._feed[item.name] = values.astype(kinds[item.type])

    def run(self, runs: int) -> list[float]:
        """Times (ns) of single inferences."""
        clock, run, feed = time.perf_counter_ns, self._session.run, self._feed
        for _ in range(5):
            run(None, feed)
        samples = []
        for _ in range(runs):
            begin = clock()
            run(None, feed)
            samples.append(float(clock() - begin))
        return samples


def summarise(name: str, samples: Sequence[float]) -> EngineTime:
    """Median, fastest and 90th percentile of samples (ns)."""
    ordered = sorted(samples)
    return EngineTime(
        name=name,
        runs=len(ordered),
        median_ns=statistics.median(ordered),
        min_ns=ordered[0],
        p90_ns=ordered[int(0.9 * (len(ordered) - 1))],
    )


def _kernels(result: dict[str, list[dict[str, float]]], names: list[str]) -> tuple[KernelTime, ...]:
    rows = [(names[int(k["index"])], k["median_ns"]) for k in result["kernels"]]
    total = sum(time_ns for _, time_ns in rows) or 1.0
    return tuple(KernelTime(name, time_ns, time_ns / total) for name, time_ns in rows)
