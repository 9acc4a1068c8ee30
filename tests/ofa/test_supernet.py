from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from edgeopt.core.errors import InputError
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa.bn import recalibrate_bn
from edgeopt.ofa.extract import adopt_statistics, build, extract
from edgeopt.ofa.layers import ElasticDepthwise
from edgeopt.ofa.sorting import channel_orders, reorder_channels
from edgeopt.ofa.spaces import load_space
from edgeopt.ofa.supernet import Supernet
from tests.ofa.conftest import randomized


def images(space: SearchSpace, config: SubnetConfig, count: int = 3, seed: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = config.resolution
    return torch.randn(count, space.in_channels, size, size, generator=generator)


def test_supernet_has_the_authors_size() -> None:
    net = Supernet(load_space("ofa_mbv3"))
    assert len(net.state_dict()) == 475
    assert sum(p.numel() for p in net.parameters()) == 7_678_880


@pytest.mark.parametrize("name", ["tiny", "cifar"])
def test_extracted_subnet_equals_the_active_supernet(name: str, tiny: SearchSpace) -> None:
    space = tiny if name == "tiny" else load_space(name)
    net = randomized(space)
    rng = random.Random(1)
    configs = [space.max_config(), space.min_config(), *(space.sample(rng) for _ in range(6))]
    for config in configs:
        static = extract(net, config)
        x = images(space, config)
        with torch.no_grad():
            assert torch.equal(static(x), net(x, config)), str(config)
        kinds = {type(part) for part in static.modules() if not list(part.children())}
        assert kinds <= {
            nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.ReLU, nn.Hardswish, nn.Hardsigmoid,
        }  # fmt: skip


def test_extraction_copies(tiny: SearchSpace) -> None:
    net = randomized(tiny)
    static = extract(net, tiny.max_config())
    x = images(tiny, tiny.max_config())
    before = static(x).detach().clone()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(static(x), before)


def test_extracting_a_foreign_subnet_is_refused(tiny: SearchSpace) -> None:
    with pytest.raises(InputError, match="kernels has 10 entries, not 5"):
        extract(Supernet(tiny), load_space("cifar").max_config())


def test_small_kernels_are_transformed_centres() -> None:
    layer = ElasticDepthwise(8, (3, 5, 7), 1)
    with torch.no_grad():
        for name, value in layer.named_parameters():
            if name.endswith("_matrix"):
                value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(3)))
    full = layer.conv.weight.detach()
    five = full[:4, :, 1:6, 1:6].reshape(4, 25) @ layer.get_parameter("7to5_matrix").detach().T
    assert torch.allclose(layer.weight(4, 5).detach(), five.view(4, 1, 5, 5))
    centre = five.view(4, 1, 5, 5)[:, :, 1:4, 1:4].reshape(4, 9)
    three = centre @ layer.get_parameter("5to3_matrix").detach().T
    assert torch.allclose(layer.weight(4, 3).detach(), three.view(4, 1, 3, 3), atol=1e-6)
    assert torch.equal(layer.weight(8, 7), layer.conv.weight)


def test_sorting_keeps_the_largest_subnet_and_helps_smaller_ones(tiny: SearchSpace) -> None:
    net = randomized(tiny)
    x = images(tiny, tiny.max_config())
    with torch.no_grad():
        before = net(x)
        state = net.state_dict()
        reorder_channels(state, channel_orders(state))
        assert torch.allclose(net(x), before, atol=1e-5)
    importance = (
        net.state_dict()["blocks.1.conv.point_linear.conv.conv.weight"].abs().sum((0, 2, 3))
    )
    assert torch.equal(importance, importance.sort(descending=True).values)


def test_cleared_outer_taps_make_large_kernels_act_as_small_ones(tiny: SearchSpace) -> None:
    net = Supernet(tiny).eval()
    net.zero_outer_taps()
    x = images(tiny, tiny.max_config())
    small = tiny.uniform(3, 3, max)
    with torch.no_grad():
        assert torch.allclose(net(x), net(x, small), atol=1e-5)
    net.zero_residual_scales()
    assert float(net.state_dict()["blocks.2.conv.point_linear.bn.bn.weight"].abs().sum()) == 0


def test_recalibration_averages_batch_statistics(tiny: SearchSpace) -> None:
    static = extract(randomized(tiny), tiny.min_config())
    x = images(tiny, tiny.min_config(), count=5)
    recalibrate_bn(static, x, batch=2)
    with torch.no_grad():
        stem = [static.first_conv.get_submodule("conv")(x[i : i + 2]) for i in (0, 2, 4)]
    sizes = torch.tensor([2.0, 2.0, 1.0])
    means = torch.stack([part.mean((0, 2, 3)) for part in stem])
    variances = torch.stack([part.var((0, 2, 3), correction=0) for part in stem])
    bn = static.first_conv.get_submodule("bn")
    assert isinstance(bn, nn.BatchNorm2d)
    assert bn.running_mean is not None and bn.running_var is not None
    assert torch.allclose(bn.running_mean, (sizes[:, None] * means).sum(0) / 5, atol=1e-6)
    assert torch.allclose(bn.running_var, (sizes[:, None] * variances).sum(0) / 5, atol=1e-5)
    # with one batch, normalizing by the measured statistics is normalizing by the batch's own
    recalibrate_bn(static, x, batch=5)
    with torch.no_grad():
        in_eval = static(x)
        static.train()
        assert torch.allclose(static(x), in_eval, atol=1e-4)


def test_statistics_go_back_into_the_supernet(tiny: SearchSpace) -> None:
    net = randomized(tiny)
    static = extract(net, tiny.max_config())
    x = images(tiny, tiny.max_config())
    recalibrate_bn(static, x)
    adopt_statistics(net, static)
    with torch.no_grad():
        assert torch.equal(net(x), static(x))


def test_build_gives_fresh_weights_in_eval_mode(tiny: SearchSpace) -> None:
    assert not build(tiny, tiny.min_config()).training
