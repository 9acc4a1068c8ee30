"""What is measured for a predictor of plans, and plans chosen from divergences."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from edgeopt.ofa.describe import describe
from edgeopt.ofa.plan_genes import Planned
from edgeopt.ofa.plans import average_bits, canonical, sample, uniform
from edgeopt.ofa.spaces import load_space
from edgeopt.pipeline.elastic_pairs import drawn, promising, weight_bytes
from edgeopt.pipeline.elastic_plans import average_limit, with_genes
from edgeopt.quant.allocate import allocate

SPACE = load_space("cifar")


class Larger:
    """Says that larger is better, and eight bits everywhere best."""

    def predict(self, candidates: Sequence[Planned]) -> npt.NDArray[np.float64]:
        size = np.array([sum(c.subnet.expands) + sum(c.subnet.depths) for c in candidates])
        loss = np.array([
            sum(4.0 ** -b for b in (*c.plan.blocks, *c.plan.head)) for c in candidates
        ])  # fmt: skip
        return np.asarray(1 - 1 / size - loss / 20)


def test_drawn_pairs_have_the_ends_and_repeat() -> None:
    pairs = drawn(SPACE, 20, 3)
    assert pairs == drawn(SPACE, 20, 3) and len(set(pairs)) == len(pairs) >= 20
    for config in (SPACE.max_config(), SPACE.min_config()):
        for bits in (8, 4, 2):
            assert (config, canonical(SPACE, config, uniform(SPACE, bits))) in pairs


def test_promising_pairs_are_a_front() -> None:
    predictor = Larger()
    found = promising(SPACE, predictor, 12, 0, evaluations=150)  # type: ignore[arg-type]
    assert 2 <= len(found) <= 12
    rows = np.array([
        (-accuracy, describe(SPACE, c).macs, weight_bytes(SPACE, c, p))
        for (c, p), accuracy in zip(
            found, predictor.predict([Planned(c, p) for c, p in found if p]), strict=True
        )
        if p
    ])  # fmt: skip
    for row in rows:
        assert not ((rows <= row).all(1) & (rows < row).any(1)).any()
    assert found == promising(SPACE, predictor, 12, 0, evaluations=150)  # type: ignore[arg-type]


def test_shares_of_genes_add_up_to_the_average() -> None:
    rng = random.Random(2)
    for _ in range(20):
        config = SPACE.sample(rng)
        genes = (*SPACE.active(config), *range(SPACE.block_count, SPACE.block_count + 3))
        table = {str(gene): {b: 1.0 / b for b in (2, 4, 8)} for gene in genes}
        plan = sample(SPACE, config, rng)
        bits = {str(gene): plan.genes[gene] for gene in genes}
        limit = average_limit(SPACE, config, table, 4.0)
        assert limit.spent(bits) == pytest.approx(average_bits(SPACE, config, plan))
        assert with_genes(SPACE, config, {int(n): b for n, b in bits.items()}) == plan
        chosen = allocate(table, [limit]).bits
        best = with_genes(SPACE, config, {int(n): b for n, b in chosen.items()})
        assert average_bits(SPACE, config, best) <= 4.0


def test_an_average_below_every_plan_gives_the_narrowest() -> None:
    config = SPACE.min_config()
    table = {
        str(gene): {2: 1.0, 8: 0.0}
        for gene in (*SPACE.active(config), *range(SPACE.block_count, SPACE.block_count + 3))
    }
    limit = average_limit(SPACE, config, table, 1.9)
    assert set(allocate(table, [limit]).bits.values()) == {2}
    narrowest = canonical(SPACE, config, uniform(SPACE, 2))
    assert limit.most == pytest.approx(average_bits(SPACE, config, narrowest))
