"""A space taken apart: its kernels, how often they run, and its subnets' times, many at once."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec
from edgeopt.latency.model import TableModel
from edgeopt.latency.table import Calibration, LatencyTable, Measurement
from edgeopt.latency.truth import HeldOut, judge
from edgeopt.ofa.genes import SubnetDomain
from edgeopt.ofa.spaces import load_space
from edgeopt.pipeline.enumerate import kernels_of_space, lowered
from edgeopt.pipeline.space_kernels import SpaceKernels, space_kernels
from edgeopt.pipeline.space_latency import SpaceLatency

CIFAR = load_space("cifar")
#: The large space with two of its resolutions: small enough to take apart in a test.
LARGE = replace(load_space("ofa_mbv3"), resolutions=(128, 224))
HOST = TargetSpec(
    arch="x86_64", triple="x86_64-linux-gnu", mcpu="x86-64-v3",
    features=frozenset({"avx2", "fma"}), vector_bits=256, vector_registers=16,
    l1d_bytes=32768, l2_bytes=524288, cores=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def parts() -> dict[str, SpaceKernels]:
    found = {f"cifar {precision}": space_kernels(CIFAR, precision) for precision in ("f32", "i8")}
    return found | {"large f32": space_kernels(LARGE, "f32", HOST)}


NAMES = ("cifar f32", "cifar i8", "large f32")


@pytest.mark.parametrize("name", NAMES)
def test_every_subnet_is_made_of_its_parts(parts: dict[str, SpaceKernels], name: str) -> None:
    found = parts[name]
    target = HOST if found.space is LARGE else None
    source = random.Random(7)
    for _ in range(30):
        config = found.space.sample(source)
        keys = lowered(found.space, config, found.precision, target).keys
        assert Counter(found.keys_of(config)) == Counter(keys)


def test_blocks_are_fused_where_they_are_faster_so(parts: dict[str, SpaceKernels]) -> None:
    assert any(key.op == "irb" for key in parts["large f32"].keys)


def test_all_kernels_and_no_others(parts: dict[str, SpaceKernels]) -> None:
    assert len(parts["cifar f32"].keys) == 129 and len(parts["cifar i8"].keys) == 132
    both = {*parts["cifar f32"].keys, *parts["cifar i8"].keys}
    assert set(kernels_of_space(CIFAR, ("f32", "i8"))) == both


def test_usage_is_what_random_subnets_have(parts: dict[str, SpaceKernels]) -> None:
    found = parts["cifar f32"]
    source = random.Random(3)
    counts: Counter[OpKey] = Counter()
    for _ in range(4000):
        counts.update(found.keys_of(CIFAR.sample(source)))
    for key, usage in found.usage.items():
        assert counts[key] / 4000 == pytest.approx(usage, abs=0.06)


def table_of(keys: tuple[OpKey, ...], seed: int, calibrated: bool, judged: bool) -> LatencyTable:
    """Times and figures without pattern; a third of the kernels is missing."""
    source = random.Random(seed)
    entries = {
        key: Measurement(1e3 * source.uniform(0.2, 9), source.uniform(0, 90), 9, 0, 3)
        for key in keys
        if source.random() < 0.67
    }
    inside = {key: 1e3 * source.uniform(0.2, 9) for key in entries if source.random() < 0.3}
    calibration = Calibration(
        source.uniform(0.8, 1.3), source.uniform(0, 50), source.uniform(0, 0.1),
        source.uniform(0, 5000), 30, 0.03, 0.09, 0.8, 1.0, 0.99, 0.95, 1.05,
    )  # fmt: skip
    rows = [
        HeldOut(f"n{i}", 1e5 * source.uniform(0.9, 1.1), 1e5, source.uniform(0, 0.1))
        for i in range(20)
    ]
    return LatencyTable(
        "pi", "f" * 16, "edgeopt", "1", 1, entries,
        calibration=calibration if calibrated else None,
        in_network=inside if calibrated else {}, truth=judge(rows) if judged else None,
    )  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**31), name=st.sampled_from(NAMES), calibrated=st.booleans(),
    judged=st.booleans(),
)  # fmt: skip
def test_many_at_once_is_the_same_to_the_last_bit(
    parts: dict[str, SpaceKernels], seed: int, name: str, calibrated: bool, judged: bool
) -> None:
    found = parts[name]
    space, target = found.space, HOST if found.space is LARGE else None
    model = TableModel(table_of(found.keys, seed, calibrated, judged))
    fast = SpaceLatency(found, model)
    source = random.Random(seed)
    configs = [space.min_config(), space.max_config()]
    configs += [space.sample(source) for _ in range(10)]
    many = fast.predict_configs(configs)
    assert (fast.values(fast.encode(configs)) == many.value).all()
    for index, config in enumerate(configs):
        one = model.predict(lowered(space, config, found.precision, target).keys)
        row = (many.value[index], many.low[index], many.high[index], many.coverage[index])
        assert row == (one.value, one.low, one.high, one.coverage)


def test_genes_are_those_of_the_search(parts: dict[str, SpaceKernels]) -> None:
    found = parts["cifar i8"]
    fast = SpaceLatency(found, TableModel(table_of(found.keys, 1, True, True)))
    domain = SubnetDomain(CIFAR)
    source = random.Random(5)
    configs = [CIFAR.sample(source) for _ in range(50)]
    assert fast.encode(configs).tolist() == [list(domain.encode(c)) for c in configs]
    assert len(fast.predict(fast.encode([])).value) == 0


def test_a_hundred_thousand_subnets(parts: dict[str, SpaceKernels]) -> None:
    """That it is fast is measured by benchmarks/profiling.py; here, that it does not blow up."""
    found = parts["large f32"]
    fast = SpaceLatency(found, TableModel(table_of(found.keys, 1, True, True)))
    sizes = np.array(SubnetDomain(LARGE).cardinalities)
    genes = np.random.default_rng(0).integers(0, sizes, (100_000, len(sizes)))
    began = time.monotonic()
    result = fast.predict(genes)
    print(f"{len(genes) / (time.monotonic() - began):,.0f} subnets a second")
    assert result.value.shape == (100_000,)
    assert (result.low <= result.value).all() and (result.value <= result.high).all()
