from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeopt.core.errors import EdgeoptError, InputError
from edgeopt.core.space import SearchSpace, Stage
from edgeopt.ofa.bn import recalibrate_bn
from edgeopt.ofa.data import normalize
from edgeopt.ofa.distill import DistillOptions, distill_images
from edgeopt.ofa.extract import StaticNet, extract
from edgeopt.ofa.supernet import Supernet

SPACE = SearchSpace(
    name="tiny", kernels=(3,), expands=(2, 3), resolutions=(16,),
    stages=(Stage(8, 2, "relu", False, (1, 2)), Stage(16, 2, "hardswish", True, (1,))),
    stem_width=8, stem_stride=1, stem_activation="hardswish", first_width=8, first_stride=1,
    first_activation="relu", expand_width=32, mix_width=16, classes=4,
)  # fmt: skip
OPTIONS = DistillOptions(images=48, steps=60, batch=24, seed=3)


def real_images(count: int, seed: int) -> np.ndarray:
    """Coloured discs on gradients: structured, and far from noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:16, 0:16]
    images = []
    for _ in range(count):
        base = (x * rng.uniform(-6, 6) + y * rng.uniform(-6, 6))[..., None] + rng.uniform(
            60, 200, 3
        )
        cx, cy = rng.uniform(3, 13, 2)
        disc = ((x - cx) ** 2 + (y - cy) ** 2 < rng.uniform(4, 25))[..., None]
        images.append(np.where(disc, rng.uniform(0, 255, 3), base))
    return np.clip(np.stack(images), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    torch.manual_seed(0)
    return Supernet(SPACE).eval()


@pytest.fixture(scope="module")
def anchors(supernet: Supernet) -> list[StaticNet]:
    nets = [extract(supernet, c) for c in (SPACE.max_config(), SPACE.min_config())]
    for net in nets:
        recalibrate_bn(net, normalize(real_images(300, 0), SPACE))
    return nets


@pytest.fixture(scope="module")
def distilled(anchors: list[StaticNet]) -> np.ndarray:
    return distill_images(anchors, SPACE, OPTIONS)


def gap(supernet: Supernet, images: np.ndarray) -> float:
    """How far statistics from ``images`` are from those of real images, in another subnet."""
    config = SPACE.uniform(3, 2, 1)
    stats = []
    for data in (real_images(300, 1), images):
        net = extract(supernet, config)
        recalibrate_bn(net, normalize(data, SPACE))
        stats.append(
            [(m.running_mean, m.running_var) for m in net.modules()
             if isinstance(m, torch.nn.BatchNorm2d)]
        )  # fmt: skip
    return float(
        sum(
            (((b[0] - a[0]) / a[1].sqrt()) ** 2).mean() + ((b[1] / a[1]).sqrt() - 1).square().mean()
            for a, b in zip(*stats, strict=True)
        )
    )


def test_images_are_pixels(distilled: np.ndarray) -> None:
    assert distilled.shape == (48, 16, 16, 3) and distilled.dtype == np.uint8
    assert distilled.std() > 10


def test_statistics_come_close_to_real_ones_in_an_unseen_subnet(
    supernet: Supernet, distilled: np.ndarray
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, distilled.shape, np.uint8)
    assert gap(supernet, distilled) < 0.5 * gap(supernet, noise)


def test_the_same_seed_gives_the_same_images(
    anchors: list[StaticNet], distilled: np.ndarray
) -> None:
    assert np.array_equal(distill_images(anchors, SPACE, OPTIONS), distilled)


def test_mismatch_falls_and_is_reported(anchors: list[StaticNet]) -> None:
    seen: list[tuple[int, int, float]] = []
    distill_images(anchors, SPACE, OPTIONS, lambda *a: seen.append(a))
    assert [s[:2] for s in seen] == [(i + 1, 60) for i in range(60)]
    first, last = (np.mean([s[2] for s in part]) for part in (seen[:6], seen[-6:]))
    assert last < 0.7 * first


def test_anchors_are_left_as_they_were(supernet: Supernet) -> None:
    net = extract(supernet, SPACE.min_config())
    recalibrate_bn(net, normalize(real_images(100, 0), SPACE))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    distill_images([net], SPACE, DistillOptions(images=8, steps=3, batch=4))
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_anchors_are_needed() -> None:
    with pytest.raises(InputError, match="no subnet to take statistics from"):
        distill_images([], SPACE)


def test_statistics_that_are_not_finite_are_reported(supernet: Supernet) -> None:
    net = extract(supernet, SPACE.min_config())
    next(m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)).running_mean.fill_(
        float("nan")
    )
    with pytest.raises(EdgeoptError, match="mismatch became nan at step 0"):
        distill_images([net], SPACE, DistillOptions(images=8, steps=2, batch=4))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch": 1}, "batch must be 2 to 512, not 1"), ({"images": 64}, "batch must be 2 to 64"),
     ({"steps": 0}, "steps must be positive")],
)  # fmt: skip
def test_options_are_checked(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DistillOptions(**options)
