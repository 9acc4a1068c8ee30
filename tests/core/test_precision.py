"""Precision plans: values, files, and what bad ones are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.core.errors import InputError
from edgeopt.core.precision import LayerPrecision, PrecisionPlan, read_plan, write_plan

PRECISIONS = st.builds(
    LayerPrecision,
    weight_bits=st.sampled_from((2, 3, 4, 8)),
    activation_bits=st.integers(4, 8),
    granularity=st.sampled_from(("tensor", "channel")),
    symmetric=st.booleans(),
) | st.builds(LayerPrecision, granularity=st.just("group"), group=st.integers(1, 64))
NAMES = st.text("abc.0123456789", min_size=1, max_size=12)


@given(st.builds(PrecisionPlan, PRECISIONS, st.dictionaries(NAMES, PRECISIONS, max_size=5)))
def test_plans_are_read_as_written(plan: PrecisionPlan) -> None:
    assert read_plan(write_plan(plan)) == plan


def test_average_counts_weights() -> None:
    plan = PrecisionPlan(LayerPrecision(4), {"big": LayerPrecision(2)})
    assert plan.average_bits({"big": 300, "small": 100}) == 2.5


@pytest.mark.parametrize(
    "text,message",
    [
        ("{", "not JSON"),
        ("[]", "not a precision plan of schema 1"),
        ('{"schema": 2}', "not a precision plan of schema 1"),
        ('{"schema": 1, "layer": {}}', "unknown field 'layer'"),
        ('{"schema": 1, "layers": []}', "'layers' is not an object"),
        ('{"schema": 1, "layers": {"a": 4}}', "layer 'a': not an object"),
        ('{"schema": 1, "layers": {"a": {"weight_bits": 5}}}', "layer 'a': weight_bits is 5"),
        ('{"schema": 1, "layers": {"a": {"weight_bits": true}}}', "weight_bits is True"),
        ('{"schema": 1, "layers": {"a": {"weight_bit": 4}}}', "unknown field 'weight_bit'"),
        ('{"schema": 1, "default": {"activation_bits": 3}}', "activation_bits is 3"),
        ('{"schema": 1, "default": {"granularity": "group"}}', "with groups of 0"),
        ('{"schema": 1, "default": {"granularity": "block"}}', "granularity is 'block'"),
    ],
)
def test_what_is_no_plan_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_plan(text, where="plan.json")
    assert message in str(caught.value) and "plan.json" in str(caught.value)


def test_unknown_layers_are_named_with_near_misses() -> None:
    plan = PrecisionPlan(layers={"block1.expnd.conv": LayerPrecision(4)})
    with pytest.raises(InputError, match=r"there is no layer 'block1\.expnd") as caught:
        plan.check(["block1.expand.conv", "stem.conv"])
    assert "block1.expand.conv" in caught.value.hint


def test_what_no_kernel_computes_is_said() -> None:
    plan = PrecisionPlan(
        layers={
            "a": LayerPrecision(3), "b": LayerPrecision(4, activation_bits=6),
            "c": LayerPrecision(4, granularity="group", group=32),
            "d": LayerPrecision(8, symmetric=False), "e": LayerPrecision(2),
        }
    )  # fmt: skip
    found = plan.obstacles("abcdef")
    assert list(found) == ["a", "b", "c", "d"]
    assert "3 bits" in found["a"] and "simulation" in found["b"]
    assert "groups" in found["c"] and "zero point" in found["d"]
