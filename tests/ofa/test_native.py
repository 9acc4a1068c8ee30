"""Our gradients against torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgeopt.ofa import native


@pytest.fixture(autouse=True)
def _compiled() -> None:
    if native.library() is None:
        pytest.skip("no C compiler: apt-get install -y gcc")


@pytest.mark.parametrize("kernel", [5, 7])
@pytest.mark.parametrize(
    ("channels", "size", "stride"), [(24, 8, 1), (40, 9, 2), (8, 3, 1), (16, 2, 2), (8, 1, 1)]
)
def test_depthwise_gradients(kernel: int, channels: int, size: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(kernel + size)
    x = torch.randn(3, channels, size, size + 1, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(channels, 1, kernel, kernel, generator=generator).requires_grad_()
    ours = native.depthwise(x, weight, stride)
    theirs = F.conv2d(x, weight, None, stride, kernel // 2, 1, channels)
    assert torch.equal(ours, theirs)
    assert "Depthwise" in str(ours.grad_fn)
    upstream = torch.randn(ours.shape, generator=generator)
    for mine, reference in zip(
        torch.autograd.grad(ours, (x, weight), upstream),
        torch.autograd.grad(theirs, (x, weight), upstream),
        strict=True,
    ):
        assert torch.allclose(mine, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", ["", "relu", "hardswish"])
@pytest.mark.parametrize(("channels", "size"), [(8, 9), (72, 4), (16, 1)])
def test_normalization_gradients(activation: str, channels: int, size: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    # per-channel means far from zero: sums must not cancel
    x = torch.randn(6, channels, size, size, generator=generator)
    x = 2 * x + 3 * torch.randn(1, channels, 1, 1, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    gamma = torch.randn(channels, generator=generator).requires_grad_()
    beta = torch.randn(channels, generator=generator).requires_grad_()
    ours = native.norm_act(x, gamma, beta, 1e-5, activation)
    assert "NormAct" in str(ours.grad_fn)
    plain = F.batch_norm(x, None, None, gamma, beta, True, 0.0, 1e-5)
    theirs = native.activate(plain.clone(), activation)
    assert torch.allclose(ours, theirs, atol=2e-5)
    # where the activation has a kink, the last bit decides on which side a value lies
    smooth = (plain.detach().abs() > 1e-4) & ((plain.detach().abs() - 3).abs() > 1e-4)
    upstream = torch.randn(ours.shape, generator=generator) * smooth
    for mine, reference in zip(
        torch.autograd.grad(ours, (x, gamma, beta), upstream),
        torch.autograd.grad(theirs, (x, gamma, beta), upstream),
        strict=True,
    ):
        assert torch.allclose(mine, reference, rtol=1e-3, atol=1e-4)


def test_maps_in_another_order_are_left_to_torch() -> None:
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    weight = torch.randn(8, 1, 5, 5, requires_grad=True)
    assert "Depthwise" not in str(native.depthwise(x, weight, 1).grad_fn)
    y = native.norm_act(x, torch.ones(8), torch.zeros(8), 1e-5, "relu")
    assert torch.allclose(y, F.batch_norm(x, None, None, training=True).relu(), atol=1e-5)


def test_loading_it_leaves_denormals_alone() -> None:
    native.library()
    tiny = np.array([1e-40], np.float32)
    assert (tiny * np.float32(0.5) > 0).all()
