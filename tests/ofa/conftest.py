"""A space and a supernet small enough for tests."""

from __future__ import annotations

import pytest
import torch

from edgeopt.core.space import SearchSpace, parse_space
from edgeopt.ofa.supernet import Supernet

TINY = """
schema = 1
name = "tiny"
classes = 4

[input]
channels = 3
resolutions = [12, 16]
mean = [0.5, 0.4, 0.3]
std = [0.25, 0.2, 0.3]

[elastic]
kernels = [3, 5, 7]
expands = [2, 3]

[stem]
width = 8
stride = 1
activation = "hardswish"

[first]
width = 8
stride = 2
activation = "relu"

[[stages]]
width = 8
stride = 1
activation = "relu"
se = false
depths = [1, 2]

[[stages]]
width = 16
stride = 2
activation = "hardswish"
se = true
depths = [1, 2, 3]

[head]
expand_width = 24
mix_width = 16
"""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny networks gain nothing from threads, and lose much on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> SearchSpace:
    return parse_space(TINY)


def randomized(space: SearchSpace, seed: int = 0) -> Supernet:
    """A supernet in eval mode none of whose tensors is at its neutral start."""
    net = Supernet(space)
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            if name.endswith("_matrix"):
                tensor.copy_(torch.eye(tensor.shape[0]) + 0.05 * noise(tensor))
            elif name.endswith("running_var"):
                tensor.copy_(0.5 + noise(tensor).abs())
            elif tensor.dim() == 1:
                tensor.copy_(0.2 * noise(tensor) + (1.0 if name.endswith("bn.weight") else 0.0))
            else:
                tensor.copy_(noise(tensor) * (2.0 / tensor[0].numel()) ** 0.5)
    return net.eval()
