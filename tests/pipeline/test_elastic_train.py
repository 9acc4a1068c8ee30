"""Fine-tuning for quantization: it learns, is resumed exactly, and refuses what it cannot use."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from edgeopt import zoo
from edgeopt.core.errors import InputError
from edgeopt.core.space import SearchSpace, SubnetConfig, parse_space
from edgeopt.ofa.checkpoint import load_weights, save_weights
from edgeopt.ofa.data import load_images, normalize
from edgeopt.ofa.evaluate import prepare
from edgeopt.ofa.genes import features
from edgeopt.ofa.loop import CHECKPOINT, JOURNAL, accuracy
from edgeopt.ofa.plans import uniform
from edgeopt.ofa.schedule import TrainOptions, at_resolution
from edgeopt.ofa.train import train
from edgeopt.pipeline.elastic import ElasticNet
from edgeopt.pipeline.elastic_files import QUANTIZERS, load_elastic, save_elastic
from edgeopt.pipeline.elastic_train import (
    QuantizeOptions,
    Start,
    guide_of,
    quantize_supernet,
    zoo_start,
)
from tests.ofa.conftest import TINY, randomized

SHORT = QuantizeOptions(
    epochs=1, batch=16, checkpoint_seconds=0, evaluate_seconds=1e9, crop_pad=1, learning_rate=0.02,
)  # fmt: skip


def space_of_tests() -> SearchSpace:
    return parse_space(TINY)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    torch.set_num_threads(1)
    return space_of_tests()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four kinds of 16x16 images that differ in colour and direction."""
    rng = np.random.default_rng(0)
    labels = np.arange(256) % 4
    ramp = np.linspace(0, 160, 16)
    images = rng.integers(0, 60, (256, 16, 16, 3)).astype(np.float64)
    for index, label in enumerate(labels):
        images[index, :, :, label % 2] += ramp[:, None] if label < 2 else ramp[None, :]
    path = tmp_path_factory.mktemp("data") / "data.npz"
    pixels = images.astype(np.uint8)
    np.savez(
        path, train_images=pixels[:192], train_labels=labels[:192], test_images=pixels[192:],
        test_labels=labels[192:],
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def weights(space: SearchSpace, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = TrainOptions(
        epochs=8, batch=16, learning_rate=0.1, checkpoint_seconds=1e9, evaluate_seconds=1e9,
        crop_pad=1, ema_decay=0.9, grow=0.2, shrink=0.4,
    )  # fmt: skip
    return train(space, data, tmp_path_factory.mktemp("fp32"), options).weights


def test_two_bits_learn_what_rounding_lost(
    space: SearchSpace, data: Path, weights: Path, tmp_path: Path
) -> None:
    options = replace(SHORT, epochs=8, checkpoint_seconds=1e9, ema_decay=0.9)
    result = quantize_supernet(space, Start(weights), data, tmp_path / "run", options)
    assert result.steps == 8 * 12
    assert result.largest[8] > 0.8
    test, real = load_images(data, "test", 16), load_images(data, "train", 16)
    fitted = load_elastic(space, weights, None)
    trained = load_elastic(space, result.weights, result.quantizers)

    def loss(net: ElasticNet) -> float:
        images, x = normalize(real.images, space), normalize(test.images, space)
        total = 0.0
        for config in (space.max_config(), space.min_config()):
            with torch.no_grad():
                logits = net.prepare(config, uniform(space, 2), images).net(x)
            total += float(F.cross_entropy(logits, torch.from_numpy(test.labels)))
        return total

    assert loss(trained) < loss(fitted)
    # what the result says is what the files give
    static = trained.prepare(space.max_config(), uniform(space, 2), normalize(real.images, space))
    assert accuracy(static.net, test, space) == pytest.approx(result.largest[2], abs=0.02)
    # steps learned: they are no longer those of the least squared error
    for name, tensor in fitted.quantizers.state_dict().items():
        if "log_step" in name and name.startswith(("stem", "block0")):
            continue  # always of eight bits
        assert not torch.equal(tensor, trained.quantizers.state_dict()[name]), name


def test_a_killed_run_goes_on_exactly(
    space: SearchSpace, data: Path, weights: Path, tmp_path: Path
) -> None:
    quantize_supernet(space, Start(weights), data, tmp_path / "whole", SHORT)
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.pipeline.test_elastic_train import SHORT, space_of_tests\n"
        "from edgeopt.pipeline.elastic_train import Start, quantize_supernet\n"
        "weights, data, out = map(Path, sys.argv[1:])\n"
        "quantize_supernet(space_of_tests(), Start(weights), data, out, SHORT)\n"
    )
    folder = tmp_path / "cut"
    process = subprocess.Popen([sys.executable, "-c", code, str(weights), str(data), str(folder)])
    while process.poll() is None and not (folder / CHECKPOINT).exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < torch.load(folder / CHECKPOINT, weights_only=True)["step"] <= 12
    quantize_supernet(space, Start(weights), data, folder, SHORT)
    whole, cut = (
        torch.load(f / CHECKPOINT, weights_only=True) for f in (tmp_path / "whole", folder)
    )
    for part in ("weights", "velocity", "average", "squares"):
        for name, tensor in whole[part].items():
            assert torch.equal(cut[part][name], tensor), f"{part} {name}"
    assert (folder / JOURNAL).read_text().count('"event": "start"') >= 2


def test_another_start_in_the_folder_is_refused(
    space: SearchSpace, data: Path, weights: Path, tmp_path: Path
) -> None:
    folder, short = tmp_path / "run", replace(SHORT, epochs=0.1)
    quantize_supernet(space, Start(weights), data, folder, short)
    other = tmp_path / "other.npz"
    save_weights(randomized(space, 5), other)
    with pytest.raises(InputError, match="holds a run with another space, data set or options"):
        quantize_supernet(space, Start(other), data, folder, short)
    with pytest.raises(InputError, match="holds a run with another space, data set or options"):
        quantize_supernet(space, Start(weights), data, folder, replace(short, kurtosis=0.5))


def test_a_fine_tuned_supernet_is_where_another_run_starts(
    space: SearchSpace, data: Path, weights: Path, tmp_path: Path
) -> None:
    found = quantize_supernet(space, Start(weights), data, tmp_path / "first", SHORT)
    start = Start(found.weights, found.quantizers)
    still = replace(SHORT, epochs=1e-6, learning_rate=1e-9, scale_rate=0.0, kurtosis=0.0)
    again = quantize_supernet(space, start, data, tmp_path / "second", still)
    before = load_elastic(space, found.weights, found.quantizers).state_dict()
    after = load_elastic(space, again.weights, again.quantizers).state_dict()
    fitted = load_elastic(space, found.weights, None).state_dict()
    steps = [name for name in before if "log_step" in name]
    assert any(not torch.allclose(fitted[name], before[name]) for name in steps)
    for name in steps:
        torch.testing.assert_close(after[name], before[name])
    with pytest.raises(InputError, match="holds a run with another space, data set or options"):
        quantize_supernet(space, Start(found.weights), data, tmp_path / "second", still)
    with pytest.raises(InputError, match="no such quantizers file"):
        quantize_supernet(space, Start(weights, tmp_path / "none.npz"), data, tmp_path / "x", SHORT)


def test_entries_of_the_zoo_are_starts() -> None:
    space, start = zoo_start("cifar_mbv3")
    assert start.quantizers is None and start.weights.exists()
    again, start = zoo_start("cifar_mbv3_q")
    assert again == space and start.quantizers is not None
    assert {path.parent.name for path in start.files} == {"cifar_mbv3_q"}
    with pytest.raises(InputError, match="no supernet 'cifar_mbv4' in the zoo"):
        zoo_start("cifar_mbv4")


def test_one_subnet_alone_and_its_plans(space: SearchSpace) -> None:
    only = replace(SHORT, only=str(space.min_config()))
    assert {only.subnet(space, step) for step in range(20)} == {space.min_config()}
    drawn = [SHORT.subnet(space, step) for step in range(200)]
    assert drawn == [SHORT.subnet(space, step) for step in range(200)]
    assert 20 < drawn.count(space.max_config()) < 60
    smallest = at_resolution(space.min_config(), max(space.resolutions))
    assert drawn.count(smallest) > 10
    for step in range(50):
        high, middle, low = SHORT.plans(space, step)
        assert set(high.genes) <= {4, 8}
        assert set(middle.genes) <= {2, 3, 4, 8}
        assert len(set(low.genes)) == 1 and low.genes[0] < 8
    with pytest.raises(InputError, match="is not a subnet"):
        replace(SHORT, only="all").subnet(space, 0)


def test_a_run_is_guided_by_the_largest_as_it_found_it(
    space: SearchSpace, weights: Path, data: Path, tmp_path: Path
) -> None:
    images = normalize(load_images(data, "train", 16).images, space)
    supernet = ElasticNet(load_weights(space, weights)).eval()
    supernet.fit()
    with torch.no_grad():
        for parameter in supernet.quantizers.parameters():
            parameter.mul_(1.05)  # what fitting again would not find
    path, quantizers = tmp_path / "weights.npz", tmp_path / QUANTIZERS
    save_elastic(supernet, path, quantizers)
    with torch.no_grad():
        fp32 = prepare(load_weights(space, path), space.max_config(), images)(images)
        eight = supernet.prepare(space.max_config(), uniform(space, 8), images).net(images)
        first = guide_of(space, Start(path), SHORT.form, images)(images)
        later = guide_of(space, Start(path, quantizers), SHORT.form, images)(images)
    torch.testing.assert_close(first, fp32)
    torch.testing.assert_close(later, eight)
    assert (fp32 - eight).abs().max() > 100 * (later - eight).abs().max()


def test_subnets_of_every_size_are_drawn() -> None:
    """Even choices add up to middling sizes; the subnets of a training run reach either end."""
    space = zoo.load("cifar_mbv3").space

    def log_macs(configs: list[SubnetConfig]) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = features(space, configs)[:, -2]
        return found

    rng = random.Random(0)
    even = log_macs([space.sample(rng) for _ in range(300)])
    extremes = {space.min_config(), space.max_config()}
    own = [c for c in (SHORT.subnet(space, step) for step in range(400)) if c not in extremes]
    drawn = log_macs(own)
    assert len(set(own)) > 0.8 * len(own)
    assert drawn.std() > 1.2 * even.std()
    assert drawn.min() < even.min() and drawn.max() > even.max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be positive"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"scale_rate": -1.0}, "scale_rate must not be negative"),
        ({"kurtosis": -0.1}, "kurtosis must not be negative"),
        ({"guide_weight": 1.5}, "guide_weight must be 0 to 1"),
        ({"batch": 1}, "batch must be at least 2 images a worker"),
    ],
)
def test_bad_options_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SHORT, **change)  # type: ignore[arg-type]
