"""From kernels to networks: on a recorded machine, and on ones whose truth is known."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from keys import many, table_of, truth_ns

from edgeopt.core.errors import InputError
from edgeopt.core.kernels import OpKey
from edgeopt.core.space import SubnetConfig
from edgeopt.latency.combine import METHODS, _bounded, _unbounded, combine
from edgeopt.latency.model import TableModel
from edgeopt.latency.table import LatencyTable, load_table
from edgeopt.latency.truth import HeldOut, Truth, half_width, judge
from edgeopt.ofa.spaces import load_space

RECORDED = Path(__file__).parent / "recorded"
Networks = dict[str, tuple[tuple[OpKey, ...], float]]


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    """261 kernels of the cifar space, measured on a shared virtual machine."""
    return load_table(RECORDED / "zen3.latency.jsonl")


@pytest.fixture(scope="module")
def networks() -> Networks:
    """90 of its subnets in two precisions, measured there as they are deployed."""
    from edgeopt.codegen.lower import lower_shapes
    from edgeopt.ofa.describe import describe

    space = load_space("cifar")
    found = {}
    for name, value in json.loads((RECORDED / "zen3_networks.json").read_text()).items():
        precision, _, subnet = name.partition(" ")
        network = describe(space, SubnetConfig.parse(subnet))
        found[name] = (lower_shapes(network, precision).keys, value)
    return found


def split(networks: Networks, seed: int, fitted: int) -> tuple[Networks, Networks]:
    subnets = sorted({name.partition(" ")[2] for name in networks})
    random.Random(seed).shuffle(subnets)
    chosen = set(subnets[:fitted])
    inside = {n: v for n, v in networks.items() if n.partition(" ")[2] in chosen}
    return inside, {n: v for n, v in networks.items() if n not in inside}


def truth_of(table: LatencyTable, held: Networks) -> Truth:
    model = TableModel(table)
    return judge(
        [
            HeldOut(name, value, model.predict(keys).value, model.own_uncertainty(keys))
            for name, (keys, value) in held.items()
        ]
    )


def test_a_recorded_machine_is_predicted(table: LatencyTable, networks: Networks) -> None:
    fitted, held = split(networks, 0, 24)
    found = combine(table, fitted)
    calibration = found.calibration
    assert calibration is not None and {name for name, _ in calibration.candidates} == set(METHODS)
    truth = truth_of(found, held)
    assert truth.mape < 0.02 and truth.within_10 == 1.0 and truth.spearman > 0.99
    assert calibration.method != "isolated"


def test_kernels_alone_come_near(table: LatencyTable, networks: Networks) -> None:
    fitted, held = split(networks, 1, 12)
    truth = truth_of(combine(table, fitted, ("isolated",)), held)
    assert truth.mape < 0.03 and truth.within_10 > 0.97 and truth.spearman > 0.98


def test_networks_alone_need_no_kernels(table: LatencyTable, networks: Networks) -> None:
    fitted, held = split(networks, 2, 30)
    found = combine(replace(table, entries={}), fitted)
    assert found.calibration is not None and found.calibration.method == "decomposition"
    truth = truth_of(found, held)
    assert truth.mape < 0.03 and truth.within_10 > 0.97


def test_the_interval_covers_90_percent_of_networks_it_has_not_seen(
    table: LatencyTable, networks: Networks
) -> None:
    """Of the held-out networks, half make the interval and the others are asked."""
    shares = []
    for seed in range(3):
        fitted, held = split(networks, seed, 16)
        found = combine(table, fitted, ("both",))
        ratios = [row.log_ratio for row in truth_of(found, held).rows]
        source = random.Random(seed)
        for _ in range(50):
            source.shuffle(ratios)
            half = len(ratios) // 2
            width = half_width(ratios[:half])
            shares.append(np.mean([abs(value) <= width for value in ratios[half:]]))
    assert 0.85 <= float(np.mean(shares)) <= 0.95


def test_predictions_carry_the_interval_of_the_held_out(
    table: LatencyTable, networks: Networks
) -> None:
    fitted, held = split(networks, 3, 16)
    found = combine(table, fitted, ("both",))
    truth = truth_of(found, held)
    model = TableModel(replace(found, truth=truth))
    inside = []
    for keys, value in held.values():
        estimate = model.predict(keys)
        assert estimate.coverage == 1.0
        assert estimate.high >= estimate.value * math.exp(truth.interval) * 0.999999
        inside.append(estimate.low <= value <= estimate.high)
    assert np.mean(inside) >= 0.89
    assert f"{truth.networks} whole networks never fitted to" in estimate.how
    # A network that the table knows less of has a wider interval.
    known = sorted(found.entries)
    thin = replace(
        found, truth=truth, in_network={}, entries={k: found.entries[k] for k in known[::3]}
    )
    keys = next(iter(held.values()))[0]
    estimate = TableModel(thin).predict(keys)
    assert estimate.coverage < 0.7
    assert estimate.high / estimate.value > 1.02 * math.exp(truth.interval)


def made_up(
    keys: list[OpKey], count: int, step: Callable[[OpKey], float], seed: int = 1
) -> dict[str, tuple[list[OpKey], float]]:
    source = random.Random(seed)
    found = {}
    for index in range(count):
        chosen = source.choices(keys, k=source.randint(10, 40))
        found[f"n{index:03}"] = (chosen, sum(map(step, chosen)) + 3000)
    return found


def test_what_kernels_take_only_within_networks_is_found() -> None:
    """Depthwise kernels that take half as long again: a split finds it, a sum cannot."""
    keys = many(40)

    def inside(key: OpKey) -> float:
        return truth_ns(key) * (1.5 if key.op == "depthwise" else 1.0)

    found = combine(table_of(keys), made_up(keys, 60, inside))
    assert found.calibration is not None and found.calibration.method == "both"
    errors = dict(found.calibration.candidates)
    assert errors["both"] < 0.2 * errors["isolated"]
    ratio = [found.in_network[k] / truth_ns(k) for k in keys if k.op == "depthwise"]
    assert np.median(ratio) == pytest.approx(1.5, rel=0.05)


def test_the_simplest_of_equals_is_taken() -> None:
    keys = many(40)
    found = combine(table_of(keys), made_up(keys, 40, lambda key: 1.1 * truth_ns(key)))
    assert found.calibration is not None and found.calibration.method == "isolated"
    assert not found.in_network
    assert found.calibration.scale == pytest.approx(1.1, rel=0.01)


def test_bounds_change_nothing_where_they_are_not_met() -> None:
    source = np.random.default_rng(4)
    groups = source.integers(0, 3, 20)
    shares = source.uniform(0, 1, (30, 20)) / 10
    own = source.uniform(0.001, 0.002, 30)
    shares *= source.uniform(0.9, 1.0, (30, 1)) / shares.sum(1, keepdims=True)
    free, extra = _unbounded(shares, np.eye(3)[groups], own, 0.01, 0.1)
    bound, other = _bounded(shares, groups, own, 0.01, 0.1)
    assert extra > 0 and free.min() > 0
    assert free == pytest.approx(bound, rel=1e-2) and extra == pytest.approx(other, rel=0.05)


def test_times_are_never_negative() -> None:
    keys = many(30)
    source = random.Random(2)
    noisy = {
        n: (k, v * source.uniform(0.3, 2)) for n, (k, v) in made_up(keys, 12, truth_ns).items()
    }
    found = combine(replace(table_of(keys), entries={}), noisy)
    assert all(value > 0 for value in found.in_network.values())


def test_refusals() -> None:
    keys = many(10)
    with pytest.raises(InputError, match="7 whole networks are too few"):
        combine(table_of(keys), made_up(keys, 7, truth_ns))
    with pytest.raises(InputError, match="is called magic") as caught:
        combine(table_of(keys), made_up(keys, 9, truth_ns), ("magic",))
    assert "isolated, decomposition, both" in caught.value.hint
