"""Networks for several threads in the pipeline: what is divided, stated, and refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from test_manifest import make

from edgeopt import devices
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Source
from edgeopt.core.kernels import OpKey
from edgeopt.graph.importer import import_model
from edgeopt.graph.load import load_model
from edgeopt.pipeline import local_table
from edgeopt.pipeline.artifact import make_artifact
from edgeopt.pipeline.bench import bench_bundle

KEYS = (OpKey("pointwise", (28, 28, 48), (28, 28, 96)),)


def test_a_large_network_is_divided(data_dir: Path) -> None:
    network = import_model(
        load_model(data_dir / "mlperf_tiny" / "vww_96_int8.op18.onnx")
    ).network  # fmt: skip
    target = devices.load("rpi4").target
    one, four = make_artifact(network, target), make_artifact(network, replace(target, threads=4))
    assert (one.threads, four.threads) == (1, 4)
    for alone, divided in zip(one.functions, four.functions, strict=True):
        assert divided.parts in (1, 2, 3, 4)
        assert divided.scratch_bytes >= alone.scratch_bytes
        if divided.parts == 1:
            assert divided == alone
    packed = zip(one.constants, four.constants, strict=True)
    assert all(a[name].tobytes() == b[name].tobytes() for a, b in packed for name in a)


def test_a_small_network_stays_on_one_thread() -> None:
    model = Path(__file__).parents[1] / "models" / "tiny_cnn.onnx"
    network = import_model(load_model(model)).network
    made = make_artifact(network, replace(devices.load("rpi4").target, threads=4))
    assert made.threads == 1 and made.target.threads == 1


def test_without_a_table_of_threads_the_time_of_one_is_stated_as_such() -> None:
    profile = devices.load("rpi4")
    one = local_table.model_for(profile)
    two = local_table.model_for(profile.with_threads(2))
    found, alone = two.predict(KEYS), one.predict(KEYS)
    assert (found.value, found.high) == (alone.value, alone.high)
    assert found.low == alone.low / 2 and found.source == Source.ESTIMATED
    assert found.how == f"on one thread, 2 were not measured: {alone.how}"
    assert two.predict_each(KEYS)[0].how.startswith("on one thread, 2 were not measured: ")


def test_strict_refuses_what_no_table_of_threads_holds() -> None:
    with pytest.raises(InputError) as caught:
        local_table.model_for(devices.load("rpi4").with_threads(2), strict=True)
    assert "no latency table of 2 threads exists" in str(caught.value)


def test_a_bundle_is_not_timed_on_more_threads_than_it_has(tmp_path: Path) -> None:
    manifest = msgspec.structs.replace(make({}), device="local")
    (tmp_path / "manifest.json").write_bytes(manifest.encode())
    with pytest.raises(InputError) as caught:
        bench_bundle(tmp_path, threads=2)
    assert "the bundle was compiled for 1 thread" in str(caught.value)
    assert "compile it with --threads 2" in str(caught.value)
