"""Calibrating a board's core from a file of measurements, and everything a bad file is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.cells import nas_bench_201, random_cell
from edgeopt import devices
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Source
from edgeopt.core.kernels import OpKey
from edgeopt.graph import check, isolate
from edgeopt.graph.importer import import_network
from edgeopt.graph.load import load_model
from edgeopt.latency.corefile import load_fit
from edgeopt.latency.coremodel import CoreModel, core_model
from edgeopt.latency.measured import read_measured
from edgeopt.latency.prior import NAMES
from edgeopt.latency.select import estimates, made_table_dir, table_path
from edgeopt.latency.table import LatencyTable, Measurement
from edgeopt.pipeline import firmware_meter
from edgeopt.pipeline.calibrate import Request, calibrate
from edgeopt.pipeline.predict import graph_for, predict_model

PI = devices.load("rpi4")


@pytest.fixture(autouse=True)
def own_tables(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def checked_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are checked in this process, where a test does not write broken ones."""
    if "bad_row" in request.node.name:
        return

    def checked_isolated(*args: Any, timeout_s: float) -> onnx.ModelProto:
        return check.checked(*args)

    monkeypatch.setattr(isolate, "checked_isolated", checked_isolated)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve networks of NAS-Bench-201's kind."""
    folder, source = tmp_path_factory.mktemp("networks"), np.random.default_rng(3)
    return [
        nas_bench_201(folder / f"net{index}.onnx", random_cell(source), 8 * (1 + index % 3))
        for index in range(12)
    ]


def truth(path: Path, precision: str = "") -> float:
    """Milliseconds on a board that is three times slower than it should be, at 3x3 five times."""
    model = core_model(PI)
    wrong = {"speed": 1.1, "conv2d compute": 0.5}
    belief = replace(model.belief, mean=np.array([wrong.get(name, 0.0) for name in NAMES]))
    model = replace(model, belief=belief)
    network = import_network(load_model(path, isolated=False))
    return model.predict(graph_for(network, PI, "edgeopt", precision).keys).value / 1e6


def write(folder: Path, *lines: str) -> Path:
    path = folder / "measurements.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def rows(networks: list[Path], precision: str = "") -> list[str]:
    return [f"{path},{truth(path, precision):.6f},{precision}" for path in networks]


def test_networks_teach(tmp_path: Path, networks: list[Path]) -> None:
    path = write(tmp_path, "model,ms,precision", *rows(networks[:8]))
    done = calibrate(Request("rpi4", path))
    assert done.mape_before > 0.3 and done.mape_left_out is not None
    assert done.mape_after < done.mape_left_out < 0.25 * done.mape_before
    assert (done.runtime, done.threads, len(done.rows)) == ("edgeopt", 1, 8)
    found = predict_model(networks[9], device="rpi4")
    latency = found.figures[0]
    real_ns = 1e6 * truth(networks[9])
    assert latency.low is not None and latency.high is not None
    assert latency.value == pytest.approx(real_ns, rel=0.1)
    assert latency.low < real_ns < latency.high
    assert "8 units measured under edgeopt; error on rows left out" in latency.how
    assert found.coverage.fitted > 0.95 and found.coverage.measured == 0
    # int8 was not measured, and says so; its arithmetic shares what is wrong with the board.
    integer = predict_model(networks[9], device="rpi4", precision="int8")
    assert integer.coverage.facts > 0.5


def test_one_network_helps(tmp_path: Path, networks: list[Path]) -> None:
    path = write(tmp_path, "model,ms,precision", *rows(networks[:1]))
    done = calibrate(Request("rpi4", path))
    assert done.mape_left_out is None and done.spearman_left_out is None
    before = estimates(PI, [tmp_path / "absent"])
    assert done.mape_after < 0.3 * done.mape_before
    errors = [abs(predict_model(p, device="rpi4").figures[0].value / truth(p) / 1e6 - 1)
              for p in networks[1:5]]  # fmt: skip
    assert max(errors) < 0.5 * done.mape_before
    assert isinstance(before, CoreModel)


def test_int8_and_kernels_and_paths_beside_the_file(tmp_path: Path, networks: list[Path]) -> None:
    (tmp_path / "net.onnx").write_bytes(networks[0].read_bytes())
    key = OpKey("pointwise", (8, 8, 16), (8, 8, 32))
    path = write(
        tmp_path, "\ufeffmodel, kernel, ms, precision, note", "",
        f"net.onnx,,{truth(networks[0], 'int8')},int8,", f'net.onnx,,{truth(networks[0])},,"a, b"',
        f",{key},0.05,,",
    )  # fmt: skip
    done = calibrate(Request("rpi4", path))
    assert [row.name for row in done.rows] == ["net.onnx", "net.onnx", str(key)]
    fit = load_fit(Path(done.path))
    assert fit.classes["conv2d i8"] > 0 and fit.classes["pointwise f32"] > 0
    assert fit.origin.startswith("measurements.csv (sha256 ")


def test_update_goes_on_from_earlier_measurements(tmp_path: Path, networks: list[Path]) -> None:
    calibrate(Request("rpi4", write(tmp_path, "model,ms,precision", *rows(networks[:6]))))
    more = write(tmp_path, "model,ms,precision", *rows(networks[6:8]))
    afresh = calibrate(Request("rpi4", more, out=tmp_path / "x.core.json"))
    onward = calibrate(Request("rpi4", more, update=True))
    assert onward.mape_before < 0.3 * afresh.mape_before
    assert "started from 6 earlier measurements: measurements.csv" in onward.notes[0]
    assert load_fit(Path(onward.path)).classes["conv2d f32"] > 6
    alone = calibrate(Request("pixel3", write(tmp_path, "model,ms", f"{networks[0]},1.0"),
                              update=True))  # fmt: skip
    assert alone.notes[0] == "nothing was learnt before: started from the processor's facts"


def test_runtimes_and_threads_are_kept_apart(tmp_path: Path, networks: list[Path]) -> None:
    lines = [f"{path},{1 + index / 4},{('onnxruntime', 'tflite')[index % 2]},{1 + index % 2}"
             for index, path in enumerate(networks[:6])]  # fmt: skip
    path = write(tmp_path, "model,ms,runtime,threads", *lines)
    with pytest.raises(InputError, match="rows of several runtimes: onnxruntime, tflite") as caught:
        calibrate(Request("rpi4", path))
    assert caught.value.hint == "choose one with --runtime"
    done = calibrate(Request("rpi4", path, runtime="tflite"))
    assert (done.threads, len(done.rows)) == (2, 3)
    assert done.notes == ("3 rows of other runtimes or threads are left out",)
    assert Path(done.path).name == "rpi4.tflite.2t.core.json"
    found = predict_model(networks[7], device="rpi4", runtime="tflite", threads=2)
    assert found.threads == 2 and found.coverage.fitted > 0
    with pytest.raises(InputError, match="nothing is known of tflite with 3 threads") as caught:
        predict_model(networks[7], device="rpi4", runtime="tflite", threads=3)
    assert caught.value.hint == "measurements are of 2"
    with pytest.raises(InputError, match="no row is of runtime tflit and 1 threads"):
        calibrate(Request("rpi4", path, runtime="tflit"))
    with pytest.raises(InputError, match=r"a runtime cannot be called '\.\./x'"):
        calibrate(Request("rpi4", path, runtime="../x"))
    path = write(tmp_path, "model,ms,threads", f"{networks[0]},1,1", f"{networks[1]},1,2")
    with pytest.raises(InputError, match="rows of several numbers of threads: 1, 2"):
        calibrate(Request("rpi4", path))


def test_every_bad_row_is_named(tmp_path: Path, networks: list[Path]) -> None:
    good, other = networks[0], networks[1]
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    path = write(
        tmp_path,
        "model,kernel,ms,precision,threads,runtime,device",
        f"{good},,1.0,,,,",
        "absent.onnx,,1.0,,,,",  # 3
        f"{other},,-2,,,,",
        f"{other},,nan,,,,",
        f"{other},,inf,,,,",
        f"{other},,fast,,,,",
        f"{other},,0,,,,",  # 8
        f"{other},,1.0,int9,,,",
        f"{other},,1.0,,none,,",
        f"{other},,1.0,,,a b,",
        f"{other},,1.0,,,,rpi5",
        f"{good},,2.0,,,,rpi4",  # 13
        ",,1.0,,,,",
        f"{good},relu,1.0,,,,",
        ",pointwise in_shape=8,1.0,,,,",
        f"{other},,1.0",  # 17
        f"{other},,1.0,,,,",
        f"{'x' * 5000},,1.0,,,,",
    )
    with pytest.raises(InputError) as caught:
        calibrate(Request("rpi4", path))
    what = caught.value.what
    assert what.startswith("16 rows cannot be used:") and caught.value.where == str(path)
    for text in (
        "line 3: no such model: 'absent.onnx'",
        "line 4: ms must be positive, not -2",
        "line 5: ms is not a number (NaN)",
        "line 6: inf ms cannot be",
        "line 7: ms must be a number, not 'fast'",
        "line 8: ms must be positive, not 0",
        "line 9: unknown precision 'int9': did you mean int8?",
        "line 10: threads must be a whole number from 1, not 'none'",
        "line 11: a runtime's name has letters",
        "line 12: measured on 'rpi5', not on rpi4",
        "line 13: the same network and conditions as line 2",
        "line 14: name a model or a kernel",
        "line 15: name a model or a kernel",
        "line 16: not a kernel:",
        "line 17: 3 fields under 7 columns",
        "line 19: no such model: 'xxxx",
    ):
        assert text in what, text
    assert "line 18" not in what
    path = write(tmp_path, "model,ms", *(f"absent{n}.onnx,1" for n in range(30)))
    with pytest.raises(InputError, match=r"(?s)30 rows cannot be used.*and 10 more\n"):
        calibrate(Request("rpi4", path))
    path = write(tmp_path, "model,ms", f"{broken},1.0", f"{good},1.0")
    with pytest.raises(InputError, match=r"(?s)1 row cannot be used:\s+line 2: broken.onnx: "):
        calibrate(Request("rpi4", path))


def test_times_that_no_core_could_reach(tmp_path: Path, networks: list[Path]) -> None:
    path = write(tmp_path, "model,ms", f"{networks[0]},0.0001")
    with pytest.raises(InputError, match="less than the processor's cores could take") as caught:
        calibrate(Request("rpi4", path))
    assert "in milliseconds? an accelerator is another device" in caught.value.hint


def test_a_precision_the_board_or_the_model_does_not_have(
    tmp_path: Path, networks: list[Path]
) -> None:
    path = write(tmp_path, "model,ms,precision", f"{networks[0]},10,fp32")
    with pytest.raises(InputError, match="line 2: esp32c3 does not compute in f32"):
        calibrate(Request("esp32c3", path))


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (b"", "the file is empty", "start with model,ms"),
        (b"model,ms\n", "there are no measurements", "give at least one row"),
        (b"modle,ms\n", "unknown column 'modle'", "did you mean model?"),
        (b"model,ms,ms\n", "column 'ms' appears twice", "keep one"),
        (b"model\n", "columns ms, and model or kernel, are needed", "model,ms"),
        (b"ms\n", "columns ms, and model or kernel, are needed", "model,ms"),
        (b'model,ms\n"a,1\n', "not CSV", "quote fields"),
        (b"model,ms\na\xff,1\n", "not UTF-8 text", "write a CSV"),
        (b"model,ms\na\x00b,1\n", "no such model", "correct it"),
    ],
)
def test_a_file_that_is_not_one(tmp_path: Path, text: bytes, message: str, hint: str) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(text)
    with pytest.raises(InputError) as caught:
        calibrate(Request("rpi4", path))
    assert message in caught.value.what and hint in caught.value.hint
    assert caught.value.where.startswith(str(path))
    with pytest.raises(InputError, match="no such file of measurements"):
        calibrate(Request("rpi4", tmp_path / "absent.csv"))


@pytest.mark.parametrize("precision", ["", "int8"])
@pytest.mark.parametrize("runtime", ["edgeopt", "onnxruntime", "hw-nas-bench"])
def test_networks_outside_the_space(networks: list[Path], precision: str, runtime: str) -> None:
    """Residual cells, 3x3 convolutions and pooling, in both precisions, under every runtime."""
    found = predict_model(networks[4], device="rpi4", precision=precision, runtime=runtime)
    latency = found.figures[0]
    assert latency.low is not None and latency.high is not None
    assert 0 < latency.low < latency.value < latency.high
    kinds = {row.kind for row in found.classes}
    assert {"conv2d", "linear"} <= kinds and sum(r.share for r in found.classes) == pytest.approx(1)
    covered = found.coverage
    assert covered.measured + covered.fitted + covered.facts == pytest.approx(1)
    assert (covered.fitted > 0) == (runtime == "hw-nas-bench")
    assert sum(row.kernels for row in found.classes) == len(found.kernels)
    assert found.runtime == runtime


def test_more_work_in_a_cell_takes_longer(tmp_path: Path) -> None:
    light = nas_bench_201(tmp_path / "a.onnx", ["skip_connect"] * 6)
    heavy = nas_bench_201(tmp_path / "b.onnx", ["nor_conv_3x3"] * 6)
    values = [
        predict_model(path, device="pixel3", runtime="hw-nas-bench").figures[0].value
        for path in (light, heavy)
    ]
    assert values[0] < 0.6 * values[1]


def test_a_runtime_nobody_knows(networks: list[Path]) -> None:
    with pytest.raises(InputError, match="nothing is known of runtime 'onnxrutime'") as caught:
        predict_model(networks[0], device="rpi4", runtime="onnxrutime")
    assert "did you mean onnxruntime" in caught.value.hint
    with pytest.raises(InputError, match="no measured latency table exists"):
        predict_model(networks[0], device="rpi4", runtime="hw-nas-bench", strict=True)


def test_the_answer_is_json(tmp_path: Path, networks: list[Path]) -> None:
    import msgspec

    done = calibrate(Request("rpi4", write(tmp_path, "model,ms,precision", *rows(networks[:2]))))
    document = json.loads(msgspec.json.encode(done))
    assert document["schema"] == 1 and document["mape_left_out"] is None


FIELDS = st.one_of(
    st.sampled_from(["model", "ms", "kernel", "1", "-1", "nan", "1e999", "", '"', "int8", "\x00"]),
    st.text(max_size=8),
)


@given(st.lists(st.lists(FIELDS, max_size=4), max_size=4), st.booleans())
@settings(max_examples=150)
def test_no_file_is_met_with_anything_but_an_answer(
    tmp_path_factory: pytest.TempPathFactory, lines: list[list[str]], header: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    text = "\n".join(",".join(fields) for fields in lines)
    path.write_text(("model,ms\n" if header else "") + text, encoding="utf-8", errors="replace")
    with pytest.raises(InputError) as caught:
        read_measured(path, "rpi4")
    assert caught.value.where.startswith(str(path)) and caught.value.hint


def test_a_float_network_on_a_board_of_integers(networks: list[Path]) -> None:
    with pytest.raises(InputError, match="has int8 kernels only") as caught:
        predict_model(networks[0], device="nucleo-l4r5zi")
    assert caught.value.where == str(networks[0]) and "--precision int8" in caught.value.hint
    found = predict_model(networks[0], device="nucleo-l4r5zi", precision="int8")
    assert any(k.key.startswith("quantize") and k.latency_ns > 0 for k in found.kernels)
    assert found.figures[0].value > 0


def test_counted_kernels_are_not_called_measured(networks: list[Path]) -> None:
    board = devices.load("nucleo-l4r5zi")
    network = import_network(load_model(networks[0], isolated=False))
    keys = graph_for(network, board, "edgeopt", "int8").keys
    table = LatencyTable(
        board.name, board.fingerprint, "edgeopt", firmware_meter.ckernels_version(), 1,
        {key: Measurement(1000.0, 1.0, 1) for key in keys}, source=Source.SIMULATED,
    )  # fmt: skip
    table.save(table_path(made_table_dir(), board))
    found = predict_model(networks[0], device="nucleo-l4r5zi", precision="int8")
    assert found.counted and found.coverage.measured == pytest.approx(1.0)
    assert {kernel.latency_source for kernel in found.kernels} == {"simulated"}
    assert not [note for note in found.notes if "was not used" in note]
    assert not predict_model(networks[0], device="rpi4", precision="int8").counted
