"""Packed weights in latency models: fewer bytes, more instructions, classes of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from keys import pointwise, truth_ns

from edgeopt import devices
from edgeopt.core.estimates import Source
from edgeopt.core.kernels import OpKey
from edgeopt.latency.active import choose
from edgeopt.latency.corefile import load_fit, save_fit
from edgeopt.latency.coremodel import core_model, core_of_kernels, learn_core
from edgeopt.latency.model import TableModel, weight_bytes
from edgeopt.latency.prior import LATER, NAMES, deviations
from edgeopt.latency.table import LatencyTable, Measurement
from edgeopt.latency.work import COLUMNS, Unit, work_of

PI = devices.load("rpi4")
INT8 = [pointwise(h, i, o, "i8") for h in (4, 8) for i in (16, 48, 96) for o in (24, 40, 120)]


def few(key: OpKey, bits: int) -> OpKey:
    return replace(key, weight_bits=bits)


def table(times: dict[OpKey, float]) -> LatencyTable:
    entries = {key: Measurement(ns, ns * 0.01, 100, 0, 5) for key, ns in times.items()}
    return LatencyTable("rpi4", PI.fingerprint, "edgeopt", "0", 1, entries=entries)


def test_weights_take_the_bytes_they_have() -> None:
    key = pointwise(4, 33, 3, "i8")
    assert [few(key, bits).weight_bytes for bits in (0, 4, 2)] == [99, 50, 25]
    assert pointwise(4, 33, 3).weight_bytes == 396
    assert weight_bytes([few(key, 4), key]) == 149


def test_unpacking_is_work_and_is_shared_by_the_pixels_of_a_tile() -> None:
    at = COLUMNS.index(("pointwise", "unpack", "i8"))
    peaks = core_model(PI).peaks
    many, one = pointwise(8, 64, 64, "i8"), pointwise(1, 64, 64, "i8")
    assert work_of(many, peaks)[at] == 0
    assert work_of(few(many, 4), peaks)[at] == many.macs / 4
    assert work_of(few(one, 4), peaks)[at] == one.macs


@pytest.mark.parametrize("name", ["rpi4", "rpi5", "local"])
def test_facts_alone_price_packed_weights(name: str) -> None:
    """More instructions than with int8 weights, and not many."""
    model = core_model(devices.load(name))
    key = pointwise(8, 64, 64, "i8")
    usual, four = model.predict_each([key, few(key, 4)])
    assert usual.value < four.value < 1.6 * usual.value
    assert four.source is Source.ESTIMATED


@pytest.mark.parametrize("name", ["rpi5", "local"])
def test_weights_from_memory_come_faster_packed(name: str) -> None:
    model = core_model(devices.load(name))
    large = [OpKey("linear", (8192,), (8192,), dtype="i8", out_dtype="i8")] * 4
    packed = [few(key, 2) for key in large]
    whole = model.predict(large).value
    assert model.predict(packed).value < whole


def test_measured_packed_kernels_have_a_class_of_their_own() -> None:
    times = {key: truth_ns(key) for key in INT8}
    times |= {few(key, 4): 1.3 * truth_ns(key) for key in INT8}
    model = TableModel(table(times))
    new = pointwise(8, 64, 72, "i8")
    usual, four = model.predict_each([new, few(new, 4)])
    assert four.value / usual.value == pytest.approx(1.3, rel=0.05)


def test_unmeasured_packed_kernels_follow_their_int8_ones() -> None:
    times = {key: 7 * truth_ns(key) for key in INT8}
    core = core_of_kernels(PI, times, runtime="edgeopt", threads=1)
    model = TableModel(table(times), beyond=core.predict_each)
    key = INT8[7]
    usual, four = model.predict_each([key, few(key, 4)])
    facts = [e.value for e in core.predict_each([key, few(key, 4)])]
    assert four.value == pytest.approx(usual.value * facts[1] / facts[0])
    assert four.low <= 0.61 * four.value and four.high >= 1.39 * four.value
    assert "the same kernel with int8 weights" in four.how and four.coverage == 0


def test_profiles_choose_from_packed_classes_too() -> None:
    keys = [*INT8, *(few(key, 2) for key in INT8)]
    chosen = choose(keys, {}, dict.fromkeys(keys, 1.0), lambda key: 1.0, count=6)
    assert {key.weight_type for key in chosen} == {"i8", "w2"}


def test_unpacking_costs_more_where_a_product_sums_several_lanes() -> None:
    """The rest of a product is one instruction there, and three where there is no such product."""

    def share(name: str) -> float:
        model, key = core_model(devices.load(name)), pointwise(8, 64, 64, "i8")
        usual, four = (e.value for e in model.predict_each([key, few(key, 4)]))
        return four / usual - 1

    assert share("rpi5") > 0.08 > 0.02 > share("rpi4") > 0


def test_a_core_learns_what_unpacking_costs(tmp_path: Path) -> None:
    pi = devices.load("rpi5")  # where it is a part that can be told from the rest
    model = core_model(pi)
    slow = np.where([term == "unpack" for _, term, _ in COLUMNS], 2.0, 1.0)
    units = [Unit(str(key), (key,)) for k in INT8 for key in (k, few(k, 4))]
    times = [float(work_of(u.keys[0], model.peaks) @ (model.base * slow)) for u in units]
    fit, _ = learn_core(pi, units, times, runtime="edgeopt", origin="made up")
    assert fit.belief.mean[NAMES.index("unpacking")] > 0.4
    assert {"pointwise i8", "pointwise w4"} == set(fit.classes)
    assert core_model(pi, fit=fit).supported(few(INT8[0], 4))
    assert not core_model(pi, fit=fit).supported(few(INT8[0], 2))


def test_files_from_before_packed_weights_keep_their_meaning(tmp_path: Path) -> None:
    units = [Unit(str(key), (key,)) for key in INT8]
    fit, _ = learn_core(PI, units, [truth_ns(k) for k in INT8], runtime="edgeopt", origin="x")
    path = tmp_path / "new.core.json"
    save_fit(fit, path)
    document = json.loads(path.read_text())
    at = list(document["factors"]).index(LATER[0])
    del document["factors"][LATER[0]]
    rows = [[], *document["correlations"]]
    rows = [[v for j, v in enumerate(row) if j != at] for i, row in enumerate(rows) if i != at]
    document["correlations"] = rows[1:]
    path.write_text(json.dumps(document))
    belief, index = load_fit(path).belief, NAMES.index(LATER[0])
    device, own = deviations("edgeopt", 1)
    assert belief.mean[index] == 0
    assert belief.covariance[index, index] == pytest.approx(device[index] ** 2 + own[index] ** 2)
    kept = [i for i in range(len(NAMES)) if i != index]
    assert np.allclose(belief.mean[kept], fit.belief.mean[kept], atol=1e-4)
