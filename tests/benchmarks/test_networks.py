"""What the networks benchmark makes of its figures."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    # By its path: other tests have a module of this name.
    spec = spec_from_file_location("benchmark_networks", ROOT / "benchmarks" / "networks.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def row(networks: ModuleType, model: str, ours: float, **peers: float) -> object:
    counts = dict.fromkeys(peers, 200)
    return networks.Row(model, "fp32", 1, 1000, ours, "", dict(peers), counts, {})


def test_means_are_geometric_and_slower_models_are_named(networks: ModuleType) -> None:
    rows = [
        row(networks, "kws", 100.0, onnxruntime=400.0, openvino=200.0),
        row(networks, "vww", 100.0, onnxruntime=100.0, openvino=50.0),
    ]
    text = networks.table(rows, ["onnxruntime", "openvino"], 10.0)
    assert "against onnxruntime: geometric mean 2.00, least 1.00, on 2 of 2 models" in text
    assert (
        "against the best peer of each: geometric mean 1.00, slower on 1 of 2: vww (0.50)" in text
    )
    assert "20.0   200 %" in text  # 2 * 1000 operations in 100 ns, of 10


def test_what_is_missing_is_said(networks: ModuleType) -> None:
    known = row(networks, "kws", 100.0, onnxruntime=400.0)
    known.runs["onnxruntime"] = 20  # type: ignore[attr-defined]
    known.notes["iree"] = "cannot be installed: no such package"  # type: ignore[attr-defined]
    text = networks.table([known], ["onnxruntime", "iree"], None)
    assert "note: iree: cannot be installed: no such package [kws]" in text
    assert "note: onnxruntime: 20 runs only [kws]" in text


def test_a_peer_with_another_result_is_named(networks: ModuleType) -> None:
    outputs = {"onnxruntime": [1.0, -2.0], "openvino": [1.0, -2.0001], "iree": [1.0, 2.0]}
    assert list(networks.disagreements(outputs)) == ["iree"]


def test_slow_peers_run_less_often(networks: ModuleType) -> None:
    whole = 200 // networks.TURNS
    assert networks.turn([], 200) == whole
    assert networks.turn([networks.SLOW_NS / 2], 200) == whole
    slow = networks.turn([networks.SLOW_NS * 2], 200)
    assert slow < whole and slow * networks.TURNS == networks.SLOW_RUNS


def test_rows_are_kept_and_read_back(networks: ModuleType, tmp_path: Path) -> None:
    import json
    from dataclasses import asdict

    known = row(networks, "kws", 100.0, onnxruntime=400.0)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([asdict(known)]))  # type: ignore[call-overload]
    assert networks.load_rows(path) == [known]
    assert networks.load_rows(tmp_path / "other.json") == []


def test_scaling_is_against_one_thread(networks: ModuleType) -> None:
    one = row(networks, "kws", 100.0)
    two = networks.Row("kws", "fp32", 2, 1000, 50.0)
    assert networks.scaling([one, two]) == ["kws fp32: 2 threads 2.00x one"]
