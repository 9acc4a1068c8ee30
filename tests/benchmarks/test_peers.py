"""The protocol between the benchmark and a peer's worker, with onnxruntime as the peer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.peers import PEERS, PeerError, Worker, environment, interpreter
from benchmarks.peers import table as peer_table

SCRIPTS = Path(peer_table.__file__).parent


@pytest.fixture
def worker() -> Iterator[Worker]:
    spec = PEERS["onnxruntime"]
    python = interpreter(spec, Path("unused"))
    found = Worker([python, SCRIPTS / spec.worker[0]], environment(1))
    yield found
    found.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 4, 5])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "fp32.onnx")
    image = np.random.default_rng(0).standard_normal((1, 3, 4, 5)).astype(np.float32)
    np.save(tmp_path / "image.npy", image)
    return tmp_path


def test_a_worker_converts_loads_and_runs(worker: Worker, folder: Path) -> None:
    file, _ = worker.convert(folder, "fp32", folder / "out")
    assert worker.load(file, 1, folder / "image.npy", "fp32").startswith("onnxruntime ")
    image = np.load(folder / "image.npy")
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = np.einsum("oc,nchw->nohw", weight, image)
    np.testing.assert_allclose(worker.output(), expected.ravel(), rtol=1e-5)
    samples = worker.run(7)
    assert len(samples) == 7 and min(samples) > 0


def test_a_failure_is_told_and_the_worker_lives_on(worker: Worker, folder: Path) -> None:
    (folder / "int8.onnx").write_bytes(b"not a model")
    with pytest.raises(PeerError, match=r"(?i)protobuf"):
        worker.load(folder / "int8.onnx", 1, folder / "image.npy", "int8")
    worker.load(folder / "fp32.onnx", 1, folder / "image.npy", "fp32")
    assert len(worker.output()) == 40


def test_a_dead_worker_is_an_error_not_a_hang() -> None:
    import sys

    gone = Worker([sys.executable, "-c", "import sys; sys.exit('no such library')"], {})
    with pytest.raises(PeerError, match="died with 1: no such library"):
        gone.output()
    gone.close()


def test_every_worker_script_exists() -> None:
    for spec in PEERS.values():
        assert (SCRIPTS / spec.worker[0]).is_file()
        assert all("==" in requirement for requirement in spec.requirements)
