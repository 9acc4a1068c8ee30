from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeopt.core.errors import EdgeoptError, InputError
from edgeopt.core.space import SearchSpace
from edgeopt.ofa.checkpoint import load_weights
from edgeopt.ofa.schedule import TrainOptions
from edgeopt.ofa.train import CHECKPOINT, JOURNAL, train

SHORT = TrainOptions(
    epochs=4, batch=16, learning_rate=0.1, checkpoint_seconds=0, evaluate_seconds=1e9, grow=0.3,
    shrink=0.5, crop_pad=1,
)  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four kinds of 16x16 images that differ in colour and direction."""
    rng = np.random.default_rng(0)
    labels = np.arange(256) % 4
    ramp = np.linspace(0, 160, 16)
    images = rng.integers(0, 60, (256, 16, 16, 3)).astype(np.float64)
    for index, label in enumerate(labels):
        shade = ramp[:, None] if label < 2 else ramp[None, :]
        images[index, :, :, label % 2] += shade
    path = tmp_path / "data.npz"
    pixels = images.astype(np.uint8)
    np.savez(
        path, train_images=pixels[:192], train_labels=labels[:192], test_images=pixels[192:],
        test_labels=labels[192:],
    )  # fmt: skip
    return path


def _state(folder: Path) -> dict[str, torch.Tensor]:
    value = torch.load(folder / CHECKPOINT, weights_only=True)
    return {f"{part}/{k}": v for part in ("weights", "average") for k, v in value[part].items()}


def test_training_learns_and_ships_usable_weights(
    tiny: SearchSpace, data: Path, tmp_path: Path
) -> None:
    events: list[dict[str, object]] = []
    options = replace(SHORT, epochs=10, checkpoint_seconds=1e9, ema_decay=0.9)
    result = train(tiny, data, tmp_path / "run", options, lambda e: events.append(dict(e)))
    assert result.steps == 10 * 12
    assert result.accuracy_largest > 0.8
    assert result.accuracy_smallest > 0.5
    net = load_weights(tiny, result.weights)
    assert net.state_dict()["first_conv.bn.running_mean"].abs().sum() > 0
    journal = [json.loads(line) for line in (tmp_path / "run" / JOURNAL).read_text().splitlines()]
    assert journal == events
    kinds = [e["event"] for e in events]
    assert (kinds[0], kinds[-1]) == ("start", "end")
    assert events[-1]["largest"] == result.accuracy_largest


def test_a_run_is_evaluated_on_the_way(tiny: SearchSpace, data: Path, tmp_path: Path) -> None:
    events: list[dict[str, object]] = []
    options = replace(SHORT, epochs=0.25, evaluate_seconds=0, evaluate_images=20)
    train(tiny, data, tmp_path / "run", options, lambda e: events.append(dict(e)))
    evaluated = [e for e in events if e["event"] == "evaluate"]
    assert len(evaluated) == 3
    assert evaluated[0]["images"] == 20
    # smaller subnets are looked at once they are trained
    assert ["smallest" in e for e in evaluated] == [False, False, True]


def test_a_killed_run_goes_on_exactly(tiny: SearchSpace, data: Path, tmp_path: Path) -> None:
    train(tiny, data, tmp_path / "whole", SHORT)
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.ofa.conftest import TINY\n"
        "from tests.ofa.test_train import SHORT\n"
        "from edgeopt.core.space import parse_space; from edgeopt.ofa.train import train\n"
        "train(parse_space(TINY), Path(sys.argv[1]), Path(sys.argv[2]), SHORT)\n"
    )
    folder = tmp_path / "cut"
    process = subprocess.Popen([sys.executable, "-c", code, str(data), str(folder)])
    checkpoint = folder / CHECKPOINT
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < torch.load(checkpoint, weights_only=True)["step"] <= 48
    train(tiny, data, folder, SHORT)
    whole, cut = _state(tmp_path / "whole"), _state(folder)
    for name, tensor in whole.items():
        assert torch.equal(cut[name], tensor), name


def test_workers_average_their_gradients(tiny: SearchSpace, data: Path, tmp_path: Path) -> None:
    options = replace(SHORT, epochs=0.5, workers=2, checkpoint_seconds=1e9)
    result = train(tiny, data, tmp_path / "two", options)
    assert result.steps == 6
    again = train(tiny, data, tmp_path / "again", options)
    assert again.steps == 6
    first, second = _state(tmp_path / "two"), _state(tmp_path / "again")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_wall_clock_budget_ends_the_run(tiny: SearchSpace, data: Path, tmp_path: Path) -> None:
    options = replace(SHORT, epochs=10_000, minutes=0.02)
    result = train(tiny, data, tmp_path / "run", options)
    assert result.steps < 10_000 * 12


def test_another_run_in_the_folder_is_refused(
    tiny: SearchSpace, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    train(tiny, data, folder, replace(SHORT, epochs=0.2))
    with pytest.raises(InputError, match="holds a run with another space, data set or options"):
        train(tiny, data, folder, replace(SHORT, epochs=0.2, seed=1))
    (folder / CHECKPOINT).write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not a readable training checkpoint"):
        train(tiny, data, folder, replace(SHORT, epochs=0.2))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot create"):
        train(tiny, data, tmp_path / "file" / "run", SHORT)


def test_divergence_is_reported(tiny: SearchSpace, data: Path, tmp_path: Path) -> None:
    options = replace(SHORT, learning_rate=1e30, warmup=0.0)
    with pytest.raises(EdgeoptError, match="the loss became") as caught:
        train(tiny, data, tmp_path / "run", options)
    assert "lower the learning rate" in caught.value.hint


def test_phases_choose_subnets(tiny: SearchSpace) -> None:
    grow = list(SHORT.subnets(tiny, 0.1, 0))
    assert grow == [(tiny.uniform(3, 3, max), False)]
    assert list(SHORT.subnets(tiny, 0.4, 0)) == [(tiny.max_config(), False)]
    sandwich = list(SHORT.subnets(tiny, 0.9, 7))
    assert sandwich == list(SHORT.subnets(tiny, 0.9, 7))
    assert [flag for _, flag in sandwich] == [False, True, True]
    assert sandwich[0][0] == tiny.max_config()
    assert replace(sandwich[-1][0], resolution=16) == replace(tiny.min_config(), resolution=16)
    assert {config.resolution for config, _ in sandwich} == {16}


def test_rate_warms_up_and_ends_at_zero() -> None:
    rates = [SHORT.rate(p / 100) for p in range(101)]
    assert rates[0] < 0.1 * max(rates)
    assert 0.9 < max(rates) / SHORT.learning_rate <= 1
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)
    assert all(a >= b for a, b in pairwise(rates[10:]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be positive"),
        ({"epochs": float("nan")}, "epochs is nan"),
        ({"minutes": -1.0}, "minutes must be positive"),
        ({"workers": 0}, "workers must be 1 to 256"),
        ({"batch": 1}, "batch must be at least 2 images a worker"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"grow": 0.9}, "grow <= shrink"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"samples": 99}, "samples must be"),
    ],
)
def test_bad_options_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SHORT, **change)  # type: ignore[arg-type]
