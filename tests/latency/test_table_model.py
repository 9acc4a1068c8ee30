"""Predicting from tables: sums, what is missing, and calibration on whole networks."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from keys import depthwise, many, pointwise, table_of, truth_ns

from edgeopt.core.errors import InputError
from edgeopt.core.estimates import LatencyModel, Source
from edgeopt.core.kernels import OpKey
from edgeopt.latency.model import TableModel, calibrate


def test_measured_kernels_add_up() -> None:
    keys = many(20)
    model: LatencyModel = TableModel(table_of(keys))
    network = [*keys, keys[0]]
    estimate = model.predict(network)
    assert estimate.value == pytest.approx(sum(truth_ns(key) for key in network))
    assert estimate.source is Source.MEASURED and estimate.coverage == 1.0
    assert "never checked against whole networks" in estimate.how
    assert [part.value for part in model.predict_each(keys)] == [truth_ns(key) for key in keys]


def test_missing_kernels_are_estimated_and_said_to_be() -> None:
    keys = many(240)
    known, unknown = keys[:200], keys[200:]
    model = TableModel(table_of(known))
    parts = model.predict_each(unknown)
    assert all(part.source is Source.ESTIMATED and part.coverage == 0 for part in parts)
    errors = [abs(p.value / truth_ns(k) - 1) for p, k in zip(parts, unknown, strict=True)]
    assert float(np.median(errors)) < 0.08
    inside = [p.low <= truth_ns(k) <= p.high for p, k in zip(parts, unknown, strict=True)]
    assert np.mean(inside) > 0.7
    mixed = model.predict([known[0], unknown[0]])
    assert 0 < mixed.coverage < 1 and mixed.source is Source.ESTIMATED
    assert mixed.how.startswith("sum of 2 kernels, 1 measured")
    assert model.missing([unknown[0], known[0], unknown[0]]) == (unknown[0],)


def test_a_class_the_table_lacks_is_never_zero() -> None:
    model = TableModel(table_of([pointwise(8, c, 16) for c in range(8, 80, 8)]))
    linear = OpKey("linear", (64,), (10,))
    (estimate,) = model.predict_each([linear])
    assert estimate.value > 0
    assert estimate.high >= 4 * estimate.value and "other kernels" in estimate.how
    assert model.predict_each([depthwise(8, 16, 3, "i8")])[0].value > 0


def test_strict_lists_what_is_missing() -> None:
    keys = many(10)
    model = TableModel(table_of(keys[:2]), strict=True)
    model.predict(keys[:2])
    with pytest.raises(InputError, match="8 kernels are not in the latency table") as caught:
        model.predict(keys)
    assert str(keys[2]) in caught.value.what and "and 3 more" in caught.value.what
    assert "edgeopt profile" in caught.value.hint


def test_empty_table() -> None:
    with pytest.raises(InputError, match="the latency table is empty"):
        TableModel(table_of([])).predict(many(1))


def networks(keys: list[OpKey], noise: float) -> dict[str, tuple[list[OpKey], float]]:
    source = random.Random(1)
    found = {}
    for index in range(30):
        chosen = source.choices(keys, k=source.randint(10, 40))
        whole = 1.15 * sum(map(truth_ns, chosen)) + 80 * len(chosen) + 3000
        found[f"n{index:02}"] = (chosen, whole * source.uniform(1 - noise, 1 + noise))
    return found


def test_calibration_finds_the_step_to_whole_networks() -> None:
    keys = many(60)
    table = table_of(keys)
    found = calibrate(table, networks(keys, 0.0))
    assert found.networks == 30
    assert found.mape < 0.005 and found.within_5 == 1.0 and found.spearman > 0.99
    model = TableModel(replace(table, calibration=found))
    chosen = keys[:17]
    expected = 1.15 * sum(map(truth_ns, chosen)) + 80 * 17 + 3000
    estimate = model.predict(chosen)
    assert estimate.value == pytest.approx(expected, rel=0.02)
    assert "error on 30 whole networks left out" in estimate.how


def test_calibration_states_noise_it_cannot_explain() -> None:
    keys = many(60)
    found = calibrate(table_of(keys), networks(keys, 0.2))
    assert 0.05 < found.mape < 0.2
    assert found.low < 0.9 and found.high > 1.1


def test_calibration_needs_networks() -> None:
    keys = many(10)
    few = dict(list(networks(keys, 0.0).items())[:7])
    with pytest.raises(InputError, match="7 whole networks are too few"):
        calibrate(table_of(keys), few)


def test_repeated_predictions_come_from_a_cache() -> None:
    keys = many(80)
    model = TableModel(table_of(keys[:40]))
    first = model.predict_each(keys)
    again = model.predict_each(keys)
    assert all(a is b for a, b in zip(first, again, strict=True))


BLOCK = OpKey(
    "irb", (8, 8, 16), (8, 8, 16), kernel=(3, 3), pads=(1, 1, 1, 1), residual=True,
    variant="e64.relu",
)  # fmt: skip


def test_a_block_is_estimated_from_its_parts_until_it_is_measured() -> None:
    keys = [*many(40), *BLOCK.parts]
    (estimate,) = TableModel(table_of(keys)).predict_each([BLOCK])
    assert estimate.value == pytest.approx(sum(truth_ns(part) for part in BLOCK.parts))
    assert estimate.low < estimate.value <= estimate.high
    assert estimate.source is Source.ESTIMATED and "that it joins" in estimate.how
    (measured,) = TableModel(table_of([*keys, BLOCK])).predict_each([BLOCK])
    assert measured.source is Source.MEASURED and measured.value == truth_ns(BLOCK)


def test_measured_blocks_tell_nothing_of_other_kernels() -> None:
    keys = many(40)
    with_block = TableModel(table_of([*keys, BLOCK]))
    new = pointwise(9, 31, 33)
    assert with_block.predict_each([new]) == TableModel(table_of(keys)).predict_each([new])
