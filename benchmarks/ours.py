"""The real artifact of a model: compiled, rendered and built as a bundle is, ready to be timed."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from peers.worker import fit

import edgeopt
from edgeopt import devices
from edgeopt.codegen import programs, toolchain, verify
from edgeopt.codegen.blocks import fused
from edgeopt.codegen.lower import lower
from edgeopt.codegen.testvectors import TestVectors
from edgeopt.core.choice import Choice
from edgeopt.core.errors import ToolError
from edgeopt.core.kernels import OpKey
from edgeopt.core.network import Network
from edgeopt.graph.importer import Imported, import_model
from edgeopt.graph.load import parse_model
from edgeopt.graph.reference import Session
from edgeopt.pipeline import bundle
from edgeopt.pipeline.artifact import build_kernels, make_artifact
from edgeopt.pipeline.cache import StageCache, default_cache_dir
from edgeopt.pipeline.kernel_programs import KernelPrograms

#: Float outputs may differ by this from onnxruntime's, relative to the largest.
TOLERANCE = 1e-3
PROGRAMS = ("bench", "bench_kernels", "self_test")


@dataclass(frozen=True, slots=True)
class KernelTime:
    """A kernel of a network in the order it runs."""

    key: OpKey
    latency_ns: float


class Ours:
    """An artifact for this machine, kept in ``folder`` until edgeopt changes.

    Args:
        folder: of the model's files (see `models.prepare`).
        precision: ``fp32`` or ``int8``.
        threads: how many the artifact runs on.
        tiles: ``measured``, as after ``edgeopt profile``, or ``model``.
    """

    def __init__(self, folder: Path, precision: str, threads: int, tiles: str) -> None:
        self._device = devices.load("local")
        engine = verify.engine_for(self._device)
        assert isinstance(engine, verify.Engine)
        self._engine = engine
        self._place = folder / f"edgeopt-{precision}-{threads}-{tiles}"
        about = self._place / "about.json"
        if not about.exists() or json.loads(about.read_text())["source"] != source_digest():
            shutil.rmtree(self._place, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=folder) as work:
                self._build(folder, precision, threads, tiles == "measured", Path(work))
        facts = json.loads(about.read_text())
        self.macs: int = facts["macs"]
        self.threads: int = facts["threads"]  # fewer than asked for where more would not pay
        self.check: str = facts["check"]
        self._keys = [OpKey.parse(text) for text in facts["keys"]]

    def _build(
        self, folder: Path, precision: str, threads: int, measured: bool, work: Path
    ) -> None:
        device = self._device.with_threads(threads)
        cache = StageCache(default_cache_dir())
        data = (folder / f"{precision}.onnx").read_bytes()
        image = np.load(folder / "images.npy")[:1]
        imported = import_model(parse_model(data), isolated=False)
        choices = self._tilings(imported.network, work, cache) if measured else {}
        artifact = make_artifact(imported.network, device.target, choices)
        kernels, _ = build_kernels(artifact, "net", cache)
        vectors = _vectors(data, imported, image, optimize=precision == "int8")
        code = bundle.render_code("net", "benchmark", {}, artifact, kernels, vectors)
        built = programs.build(code.files, "net", toolchain.find(device), work, wanted=PROGRAMS)
        check = ""
        try:
            verify.run_program(self._engine, built.paths["self_test"], ())
        except ToolError as error:
            check = str(error).splitlines()[0]
        self._place.mkdir()
        for path in built.paths.values():
            shutil.copy2(path, self._place)
        facts = {
            "macs": imported.network.macs,
            "threads": artifact.threads,
            "check": check,
            "keys": [str(key) for key in artifact.graph.keys],
            "source": source_digest(),
        }
        (self._place / "about.json").write_text(json.dumps(facts))

    def _tilings(self, network: Network, work: Path, cache: StageCache) -> dict[OpKey, Choice]:
        """The tilings that are fastest here, as `edgeopt profile` measures them."""
        programs = KernelPrograms(self._device, self._engine.argv, work, cache, tune=True)
        graph = lower(network)  # what several threads run; one thread may run blocks fused
        keys = [*graph.keys, *fused(graph, self._device.target).keys]
        programs.bench(tuple(dict.fromkeys(keys)))
        return programs.choices

    def run(self, runs: int, *options: str) -> list[float]:
        """Nanoseconds of single inferences."""
        arguments = ("--runs", str(runs), "--min-ms", "0", "--samples", *options)
        text = verify.run_program(self._engine, self._place / "bench", arguments)
        return [float(value) for value in json.loads(text)["samples_ns"]]

    def kernels(self, runs: int) -> list[KernelTime]:
        """Each kernel's median time inside whole inferences."""
        arguments = ("--runs", str(runs), "--min-ms", "0")
        text = verify.run_program(self._engine, self._place / "bench_kernels", arguments)
        rows = json.loads(text)["kernels"]
        return [
            KernelTime(key, float(row["median_ns"]))
            for key, row in zip(self._keys, rows, strict=True)
        ]


@functools.cache
def source_digest() -> str:
    """Of all files of the edgeopt package: artifacts are built again when one changes."""
    root = Path(edgeopt.__file__).parent
    total = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix in (".py", ".c", ".h", ".j2", ".toml"):
            total.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return total.hexdigest()


def _vectors(data: bytes, imported: Imported, image: np.ndarray, *, optimize: bool) -> TestVectors:
    """What onnxruntime computes: floats as written, quantized layers in integers."""
    name, face = next(iter(imported.inputs.items()))
    value = fit(image, face.onnx_shape, np.dtype(face.onnx_dtype))
    results = Session(data, optimize=optimize).run({name: value})
    inputs = {imported.network.inputs[0]: face.from_onnx(value)[None]}
    names = zip(imported.outputs.items(), imported.network.outputs, strict=True)
    outputs = {tensor: face.from_onnx(results[name])[None] for (name, face), tensor in names}
    return TestVectors(inputs, outputs, TOLERANCE)
