"""Precision plans of a space: text, layers, sampling, evaluations as a file."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edgeopt.core.errors import InputError
from edgeopt.core.space import SearchSpace
from edgeopt.ofa.describe import describe
from edgeopt.ofa.plans import (
    BlockPlan,
    PlanEvaluation,
    average_bits,
    canonical,
    layer_bits,
    read_evaluations,
    sample,
    to_precision,
    uniform,
    validate,
    weight_counts,
    write_evaluations,
)


def test_text_and_precisions_go_there_and_back(tiny: SearchSpace) -> None:
    rng = random.Random(1)
    for _ in range(200):
        config = tiny.sample(rng)
        plan = sample(tiny, config, rng, (2, 3, 4, 8))
        assert BlockPlan.parse(str(plan)) == plan == canonical(tiny, config, plan)
        precision = to_precision(tiny, config, plan)
        precision.check(weight_counts(tiny, config))


def test_a_plan_reaches_the_pointwise_layers_and_no_others(tiny: SearchSpace) -> None:
    config = tiny.max_config()
    precision = to_precision(tiny, config, BlockPlan((2, 4, 8, 2, 4), (4, 8, 2)))
    ops = {op.name: op for op in describe(tiny, config).ops}
    for name in weight_counts(tiny, config):
        expected = 8
        if name.startswith("block") and not name.startswith("block0"):
            expected = (2, 4, 8, 2, 4)[int(name[5]) - 1]
        if ops[name].attrs.get("groups", 1) != 1:
            expected = 8
        expected = {"head.expand.conv": 4, "head.classifier": 2}.get(name, expected)
        assert precision.of(name).weight_bits == expected, name
    assert "block3.se.reduce.conv" not in precision.layers  # at 8: not listed
    assert layer_bits(tiny, config, uniform(tiny, 4))["block4.se.expand.conv"] == 4


def test_average_bits_count_every_weight(tiny: SearchSpace) -> None:
    config = tiny.max_config()
    assert average_bits(tiny, config, uniform(tiny, 8)) == 8
    counts = weight_counts(tiny, config)
    plan = uniform(tiny, 2)
    assert average_bits(tiny, config, plan) == pytest.approx(
        to_precision(tiny, config, plan).average_bits(counts)
    )
    assert 2 < average_bits(tiny, config, plan) < 6  # depthwise layers keep eight


def test_unused_blocks_do_not_tell_plans_apart(tiny: SearchSpace) -> None:
    config = tiny.min_config()  # uses blocks 0 and 2
    a, b = BlockPlan((2, 2, 4, 2, 2), (8, 8, 8)), BlockPlan((2, 4, 4, 3, 8), (8, 8, 8))
    assert canonical(tiny, config, a) == canonical(tiny, config, b)
    assert to_precision(tiny, config, a) == to_precision(tiny, config, b)


def test_sampled_plans_reach_all_average_bits(tiny: SearchSpace) -> None:
    rng = random.Random(0)
    config = tiny.max_config()
    averages = [float(np.mean(sample(tiny, config, rng).genes)) for _ in range(600)]
    shares = np.histogram(averages, [2, 3.5, 5, 6.5, 8.01])[0] / 600
    assert (shares > 0.17).all()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("w4.4", "not a plan"),
        ("h4-w4", "not a plan"),
        ("w4.5.4-h4.4.4", "'5' is no width"),
        ("w4.-h4.4.4", "'' is no width"),
        ("w4.4-h4.4", "2 widths for 3 layers"),
        ("", "not a plan"),
    ],
)
def test_text_that_is_no_plan_is_refused(text: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        BlockPlan.parse(text)


def test_plans_of_other_spaces_are_refused(tiny: SearchSpace) -> None:
    with pytest.raises(InputError, match="bits of 2 blocks"):
        validate(tiny, BlockPlan((4, 4), (8, 8, 8)))
    with pytest.raises(InputError, match="5 bits do not exist"):
        validate(tiny, BlockPlan((4, 4, 5, 4, 4), (8, 8, 8)))


def test_evaluations_are_read_as_they_were_written(tiny: SearchSpace) -> None:
    rng = random.Random(2)
    rows = []
    for number in range(20):
        config = tiny.sample(rng)
        plan = None if number % 5 == 0 else sample(tiny, config, rng)
        rows.append(PlanEvaluation(config, plan, number, 50))
    data = write_evaluations(rows)
    assert data.splitlines()[0] == b"subnet,plan,right,images,accuracy"
    assert read_evaluations(data, tiny) == rows
    old = b"subnet,right,images,accuracy\n%s,3,4,0.75\n" % str(rows[0].config).encode()
    assert read_evaluations(old, tiny) == [PlanEvaluation(rows[0].config, None, 3, 4)]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{c},w4.4-h4.4.4,1,2,0.5", "bits of 2 blocks"),
        ("r9-d1-k1-e1,,1,2,0.5", "kernels has 1"),
        ("{c},,3,2,1.5", "3 of 2 images"),
        ("{c},,x,2,1.5", "not counts"),
        ("{c},,0,0,0", "0 of 0"),
    ],
)
def test_wrong_lines_are_named(tiny: SearchSpace, line: str, what: str) -> None:
    text = "subnet,plan,right,images,accuracy\n" + line.format(c=tiny.max_config()) + "\n"
    with pytest.raises(InputError, match=what) as caught:
        read_evaluations(text.encode(), tiny)
    assert "line 2" in str(caught.value)
    with pytest.raises(InputError, match="no column 'right'"):
        read_evaluations(b"subnet,plan\n", tiny)
    with pytest.raises(InputError, match="UTF-8"):
        read_evaluations(b"\xff\xfe", tiny)
