"""A whole zoo entry, built in seconds from random weights of a tiny space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

SPACE = """
schema = 1
name = "tiny"
summary = "for tests"
classes = 4
labels = ["a", "b", "c", "d"]
[input]
channels = 3
resolutions = [16]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
[elastic]
kernels = [3, 5]
expands = [2, 3]
[stem]
width = 8
stride = 2
activation = "hardswish"
[first]
width = 8
stride = 1
activation = "relu"
[[stages]]
width = 8
stride = 2
activation = "relu"
se = false
depths = [1, 2]
[[stages]]
width = 16
stride = 2
activation = "hardswish"
se = true
depths = [1, 2]
[head]
expand_width = 32
mix_width = 16
"""


@pytest.fixture(scope="session")
def ingredients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with space.toml, weights.npz and data.npz."""
    import torch

    from edgeopt.core.space import parse_space
    from edgeopt.ofa.checkpoint import save_weights
    from edgeopt.ofa.supernet import Supernet

    folder = tmp_path_factory.mktemp("ingredients")
    (folder / "space.toml").write_text(SPACE)
    torch.manual_seed(0)
    save_weights(Supernet(parse_space(SPACE)), folder / "weights.npz")
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (120, 4, 4, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    labels = rng.integers(0, 4, 120)
    np.savez(
        folder / "data.npz", train_images=smooth[:60], train_labels=labels[:60],
        test_images=smooth[60:], test_labels=labels[60:],
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def built(ingredients: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The entry's folder."""
    from edgeopt.ofa.distill import DistillOptions
    from edgeopt.pipeline.zoo import ZooOptions, build_entry

    folder = tmp_path_factory.mktemp("zoo") / "tiny_net"
    build_entry(
        ingredients / "space.toml", ingredients / "weights.npz", ingredients / "data.npz", folder,
        work=ingredients / "work",
        options=ZooOptions(
            subnets=26, fresh=3, real_images=40, anchors=2, int8_subnets=2, workers=1,
            distill=DistillOptions(images=24, steps=4, batch=12),
        ),
        training={"seed": 7}, licences={"weights": "Apache-2.0"},
    )  # fmt: skip
    return folder
