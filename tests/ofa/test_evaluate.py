from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeopt.core.errors import InputError
from edgeopt.core.space import SearchSpace, Stage, SubnetConfig
from edgeopt.ofa.bn import recalibrate_bn
from edgeopt.ofa.data import ImageSet, normalize
from edgeopt.ofa.evaluate import Evaluation, evaluate_subnets, fold_batch_norm, prepare
from edgeopt.ofa.extract import extract
from edgeopt.ofa.supernet import Supernet

SPACE = SearchSpace(
    name="tiny", kernels=(3, 5), expands=(2, 3), resolutions=(16,),
    stages=(Stage(8, 2, "relu", False, (1, 2)), Stage(16, 2, "hardswish", True, (1, 2))),
    stem_width=8, stem_stride=1, stem_activation="hardswish", first_width=8, first_stride=2,
    first_activation="relu", expand_width=32, mix_width=16, classes=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    torch.manual_seed(0)
    return Supernet(SPACE).eval()


@pytest.fixture(scope="module")
def test_set() -> ImageSet:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (130, 16, 16, 3), np.uint8)
    return ImageSet(images, rng.integers(0, 4, 130))


@pytest.fixture(scope="module")
def calibration() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (64, 16, 16, 3), np.uint8)


def draw(count: int) -> list[SubnetConfig]:
    rng = random.Random(0)
    found: dict[SubnetConfig, None] = {}
    while len(found) < count:
        found[SPACE.sample(rng)] = None
    return list(found)


def test_counts_are_those_of_the_plain_network(
    supernet: Supernet, test_set: ImageSet, calibration: np.ndarray
) -> None:
    configs = [SPACE.max_config(), SPACE.min_config(), SPACE.max_config()]
    results = evaluate_subnets(supernet, configs, calibration, test_set, workers=1)
    assert [r.config for r in results] == configs
    for result in results:
        net = extract(supernet, result.config)
        recalibrate_bn(net, normalize(calibration, SPACE))
        with torch.no_grad():
            guess = net(normalize(test_set.images, SPACE)).argmax(1).numpy()
        assert result.right == int((guess == test_set.labels).sum())
        assert result.accuracy == result.right / 130


def test_folding_changes_nothing(supernet: Supernet, calibration: np.ndarray) -> None:
    x = normalize(calibration, SPACE)
    net = prepare(supernet, SPACE.max_config(), x)
    with torch.no_grad():
        before = net(x)
        folded = fold_batch_norm(net)
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
        torch.testing.assert_close(folded(x), before, rtol=1e-4, atol=1e-4)


def test_workers_give_the_same_counts(
    supernet: Supernet, test_set: ImageSet, calibration: np.ndarray
) -> None:
    configs = draw(3)
    one = evaluate_subnets(supernet, configs, calibration, test_set, workers=1)
    two = evaluate_subnets(supernet, configs, calibration, test_set, workers=2)
    assert one == two


def test_a_cut_run_goes_on_where_it_stopped(
    supernet: Supernet, test_set: ImageSet, calibration: np.ndarray, tmp_path: Path
) -> None:
    configs, journal = draw(5), tmp_path / "journal.jsonl"
    whole = evaluate_subnets(supernet, configs, calibration, test_set, workers=1)
    evaluate_subnets(supernet, configs[:2], calibration, test_set, journal=journal, workers=1)
    with journal.open("ab") as stream:
        stream.write(b'{"subnet": "r16-d1')  # the machine went down while this was written
    run: list[Evaluation] = []
    seen: list[tuple[int, int]] = []

    def tell(result: Evaluation, done: int, planned: int) -> None:
        run.append(result)
        seen.append((done, planned))

    resumed = evaluate_subnets(
        supernet, configs, calibration, test_set, journal=journal, workers=1, on_result=tell
    )
    assert resumed == whole
    assert [r.config for r in run] == configs[2:]
    assert seen == [(3, 5), (4, 5), (5, 5)]
    assert all(json.loads(line) for line in journal.read_text().splitlines())
    again = evaluate_subnets(
        supernet, configs, calibration, test_set, journal=journal, workers=1,
        on_result=lambda *_: pytest.fail("ran again"),
    )  # fmt: skip
    assert again == whole


def test_a_journal_of_other_weights_is_refused(
    supernet: Supernet, test_set: ImageSet, calibration: np.ndarray, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.jsonl"
    evaluate_subnets(supernet, draw(1), calibration, test_set, journal=journal, workers=1)
    torch.manual_seed(1)
    with pytest.raises(InputError, match="evaluations of other weights or images") as caught:
        evaluate_subnets(
            Supernet(SPACE), draw(1), calibration, test_set, journal=journal, workers=1
        )
    assert str(journal) in str(caught.value) and "remove it" in caught.value.hint
    with pytest.raises(InputError, match="other weights or images"):
        evaluate_subnets(supernet, draw(1), calibration[1:], test_set, journal=journal, workers=1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "not a line of a journal: b'nonsense'"),
        ('{"subnet": "r16-d1.1-k3.3.3.3-e2.2.2.2", "right": 1000}', "not an evaluation"),
        ('{"subnet": "x", "right": 1}', "'x' is not a subnet"),
    ],
)
def test_a_damaged_journal_is_refused(
    supernet: Supernet, test_set: ImageSet, calibration: np.ndarray, tmp_path: Path,
    line: str, message: str,
) -> None:  # fmt: skip
    journal = tmp_path / "journal.jsonl"
    evaluate_subnets(supernet, draw(1), calibration, test_set, journal=journal, workers=1)
    with journal.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(InputError, match=message):
        evaluate_subnets(supernet, draw(1), calibration, test_set, journal=journal, workers=1)


def test_a_subnet_of_another_space_is_refused(
    supernet: Supernet, test_set: ImageSet, calibration: np.ndarray
) -> None:
    odd = SubnetConfig((7,) * 4, (2,) * 4, (1, 1), 16)
    with pytest.raises(InputError, match="kernel of block 0 is 7"):
        evaluate_subnets(supernet, [odd], calibration, test_set, workers=1)


def test_a_journal_that_cannot_be_written_is_an_input_error(
    supernet: Supernet, test_set: ImageSet, calibration: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="cannot write: No such file"):
        evaluate_subnets(
            supernet, draw(1), calibration, test_set, journal=tmp_path / "no" / "j", workers=1
        )
