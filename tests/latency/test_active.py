"""Which kernels are measured first."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
from keys import depthwise, many, pointwise, truth_ns

from edgeopt import devices
from edgeopt.core.estimates import LatencyModel
from edgeopt.core.kernels import OpKey
from edgeopt.latency.active import choose
from edgeopt.latency.model import TableModel
from edgeopt.latency.select import estimates
from edgeopt.latency.table import load_table
from edgeopt.ofa.spaces import load_space
from edgeopt.pipeline.space_kernels import space_kernels

RECORDED = Path(__file__).parent / "recorded" / "zen3.latency.jsonl"
SPACE = load_space("cifar")


def one(key: OpKey) -> float:
    return 1.0


def test_what_is_used_most_comes_first() -> None:
    keys = many(60)
    weights = dict.fromkeys(keys, 1.0) | {keys[17]: 40.0}
    assert choose(keys, {}, weights, one, count=1) == [keys[17]]


def test_what_costs_much_waits() -> None:
    keys = many(60)
    weights = dict.fromkeys(keys, 1.0)
    first = choose(keys, {}, weights, one, count=1)[0]
    dear = choose(keys, {}, weights, lambda key: 1e4 if key == first else 1.0, count=30)
    assert first not in dear


def test_what_is_alike_is_not_measured_twice() -> None:
    alike = [pointwise(8, 64, 64 + 8 * step) for step in range(3)]
    other = [depthwise(16, 8, 7), depthwise(4, 160, 3)]
    chosen = choose([*alike, *other], {}, dict.fromkeys((*alike, *other), 1.0), one, count=3)
    assert len(set(chosen) & set(alike)) == 1


def test_the_order_is_one() -> None:
    """A shorter list is how a longer one begins, whatever order things are given in."""
    keys = many(80)
    weights = {key: float(1 + key.macs) for key in keys}
    measured = {key: truth_ns(key) for key in keys[:20]}
    longer = choose(keys[20:], measured, weights, one, count=24)
    assert len(set(longer)) == 24
    shuffled = keys[20:]
    random.Random(1).shuffle(shuffled)
    backwards = dict(reversed(measured.items()))
    assert choose(shuffled, backwards, weights, one, count=9) == longer[:9]


def test_no_more_than_there_is_or_may_be_spent() -> None:
    keys = many(12)
    weights = dict.fromkeys(keys, 1.0)
    assert sorted(choose(keys, {}, weights, one, count=99)) == sorted(keys)
    assert len(choose(keys, {}, weights, one, count=99, within_s=4.5)) == 4
    assert len(choose(keys, {}, weights, one, count=99, within_s=0.5)) == 1
    assert choose([], {}, {}, one, count=3) == []


def test_chosen_kernels_tell_more_than_random_ones() -> None:
    """On a recorded machine: how wrong the sums of 180 subnets' kernels are."""
    table = load_table(RECORDED)
    parts = [space_kernels(SPACE, precision) for precision in ("f32", "i8")]
    usage = {key: value for part in parts for key, value in part.usage.items()}
    source = random.Random(0)
    networks = [part.keys_of(SPACE.sample(source)) for part in parts for _ in range(90)]

    def model(known: list[OpKey]) -> TableModel:
        return TableModel(replace(table, entries={key: table.entries[key] for key in known}))

    def error(known: list[OpKey]) -> float:
        found = model(known)
        found.predict_each(list(usage))
        true = np.array([sum(table.entries[k].median_ns for k in keys) for keys in networks])
        sums = np.array([sum(e.value for e in found.predict_each(keys)) for keys in networks])
        return float(np.abs(np.log(sums / true)).mean())

    chosen: list[OpKey] = []
    before: LatencyModel = estimates(devices.load("rpi4"))  # another processor: rough weights
    for _ in range(2):
        times = before.predict_each(list(usage))
        weights = {k: usage[k] * e.value for k, e in zip(usage, times, strict=True)}
        measured = {key: table.entries[key].median_ns for key in chosen}
        left = [key for key in usage if key not in measured]
        chosen += choose(left, measured, weights, one, count=32)
        before = model(chosen)
    others = []
    for seed in range(5):
        order = sorted(usage)
        random.Random(seed).shuffle(order)
        others.append(error(order[:64]))
    assert error(chosen) < 0.75 * float(np.mean(others))
