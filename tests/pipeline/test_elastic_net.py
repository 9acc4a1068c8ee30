"""Elastic supernets: what a subnet of given bits computes, exports and keeps."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgeopt.core.errors import InputError
from edgeopt.core.lowbits import largest
from edgeopt.core.precision import LayerPrecision
from edgeopt.core.space import SearchSpace, parse_space
from edgeopt.graph.build import build_onnx
from edgeopt.graph.importer import import_model
from edgeopt.ofa.export import to_network
from edgeopt.ofa.plans import sample, to_precision, uniform
from edgeopt.pipeline.elastic import ElasticNet
from edgeopt.pipeline.elastic_files import QUANTIZERS, load_elastic, save_elastic
from edgeopt.quant.calibration import calibrate
from edgeopt.quant.export import quantize_model
from tests.ofa.conftest import TINY, randomized


@pytest.fixture
def space() -> SearchSpace:
    torch.set_num_threads(1)
    return parse_space(TINY)


@pytest.fixture
def net(space: SearchSpace) -> ElasticNet:
    found = ElasticNet(randomized(space)).eval()
    found.fit()
    return found


def _images(count: int = 8) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_supernet_computes_what_the_extracted_subnet_does(
    net: ElasticNet, space: SearchSpace
) -> None:
    rng, images = random.Random(0), _images()
    for _ in range(4):
        config = space.sample(rng)
        plan = sample(space, config, rng, (2, 3, 4, 8))
        x = images[:, :, : config.resolution, : config.resolution]
        with torch.no_grad():
            whole = net(x, config, plan)
            apart = net.extract(config, plan).net(x)
        assert torch.allclose(whole, apart, rtol=1e-4, atol=1e-4)


def test_without_a_plan_weights_are_float(net: ElasticNet, space: SearchSpace) -> None:
    images, config = _images(), space.max_config()
    with torch.no_grad():
        plain = net.net(images, config)
        assert not torch.equal(net(images, config, uniform(space, 2)), plain)
        assert torch.equal(net(images, config, None), plain)


def test_all_widths_share_one_set_of_integers(net: ElasticNet, space: SearchSpace) -> None:
    config = space.max_config()
    stored = {bits: net.extract(config, uniform(space, bits)).stored() for bits in (8, 4, 3, 2)}
    for name, eight in stored[8].items():
        for bits in (4, 3, 2):
            low = stored[bits][name]
            assert np.abs(low.weight).max() <= largest(low.bits)
            agree = np.sign(low.weight.astype(int)) * np.sign(eight.weight.astype(int))
            assert agree.min() >= 0  # nothing changes its sign


def test_exports_exactly_the_integers_of_the_supernet(net: ElasticNet, space: SearchSpace) -> None:
    rng, images = random.Random(3), _images(32)
    config = space.max_config()
    plan = sample(space, config, rng, (2, 4, 8))
    with torch.no_grad():  # factors of both signs
        for name, parameter in net.net.named_parameters():
            if name.endswith("bn.weight"):
                parameter[::3] *= -1
    subnet = net.prepare(config, plan, images)
    model = onnx.load_model_from_string(build_onnx(to_network(subnet.net)))
    ranges = calibrate(model, images.numpy())
    stored = subnet.stored()
    precision = to_precision(space, config, plan)
    quantized = quantize_model(model, ranges, plan=precision, stored=stored)
    network = import_model(quantized).network
    checked = 0
    for op in network.ops:
        if op.kind not in ("conv2d", "linear"):
            continue
        name = next(n for n in stored if n in (op.name, op.name.removesuffix("_quant")))
        weight = op.constants["w"]
        own = stored[name].weight * np.sign(stored[name].scale).astype(np.int8).reshape(
            (-1,) + (1,) * (stored[name].weight.ndim - 1)
        )
        if op.kind == "conv2d":
            own = own.transpose(0, 2, 3, 1)
        assert np.array_equal(weight.reshape(own.shape), own), name
        # but for what makes constants short: see tests/quant/test_short_constants.py
        assert np.allclose(op.constants["w_scale"], np.abs(stored[name].scale), rtol=0.01)
        checked += 1
    assert checked == len(stored)


def test_files_bring_back_the_same_net(net: ElasticNet, space: SearchSpace, tmp_path: Path) -> None:
    with torch.no_grad():
        for parameter in net.quantizers.parameters():
            parameter += 0.1 * torch.rand(parameter.shape)
    save_elastic(net, tmp_path / "weights.npz", tmp_path / QUANTIZERS)
    again = load_elastic(space, tmp_path / "weights.npz", tmp_path / QUANTIZERS)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    # without trained quantizers they are fitted, which is all an untrained supernet needs
    fitted = load_elastic(space, tmp_path / "weights.npz", None)
    net.fit()
    for name, tensor in net.quantizers.state_dict().items():
        assert torch.equal(tensor, fitted.quantizers.state_dict()[name]), name


@pytest.mark.parametrize(
    "form",
    [
        LayerPrecision(granularity="tensor"),
        LayerPrecision(granularity="group", group=4, symmetric=False),
    ],
    ids=lambda form: form.granularity,
)
def test_supernets_of_other_forms(space: SearchSpace, tmp_path: Path, form: LayerPrecision) -> None:
    net = ElasticNet(randomized(space), form).eval()
    net.fit()
    save_elastic(net, tmp_path / "weights.npz", tmp_path / QUANTIZERS)
    again = load_elastic(space, tmp_path / "weights.npz", tmp_path / QUANTIZERS)
    assert again.form == form
    images, rng = _images(), random.Random(5)
    for _ in range(3):
        config = space.sample(rng)
        plan = sample(space, config, rng, (2, 3, 4, 8))
        x = images[:, :, : config.resolution, : config.resolution]
        with torch.no_grad():
            subnet = again.extract(config, plan)
            assert torch.allclose(net(x, config, plan), subnet.net(x), rtol=1e-4, atol=1e-4)
        if form.granularity == "tensor":  # channels of one scale are what kernels take
            assert all(len(w.scale) == len(w.weight) for w in subnet.stored().values())
        else:
            with pytest.raises(InputError, match="for simulation: one accumulator has one scale"):
                subnet.stored()


def test_damaged_files_are_refused(net: ElasticNet, space: SearchSpace, tmp_path: Path) -> None:
    weights, path = tmp_path / "weights.npz", tmp_path / QUANTIZERS
    save_elastic(net, weights, path)
    with np.load(path) as archive:
        good = {name: archive[name] for name in archive.files}

    def refused(message: str, **changed: object) -> None:
        arrays = {**good, **changed}
        np.savez(path, **{k: v for k, v in arrays.items() if v is not None})  # type: ignore[arg-type]
        with pytest.raises(InputError, match=message):
            load_elastic(space, weights, path)

    first = next(name for name in good if name != "__header__")
    refused("1 arrays missing or unexpected", **{first: None})
    refused("1 arrays missing or unexpected, first 'odd'", odd=np.zeros(3, np.float32))
    refused("not floating point", **{first: good[first].astype(np.int32)})
    refused("not floating point", **{first: good[first][:-1]})
    refused("values that no scale has", **{first: good[first] * np.float32("nan")})
    refused("values that no scale has", **{first: good[first] + np.float32(1000)})
    refused("the header does not say", __header__=np.array("{}"))
    refused("the header does not say", __header__=np.array('{"format": "edgeopt-quantizers/1"}'))
    other = '{"format": "edgeopt-quantizers/2", "space": "other"}'
    refused("of space 'other'", __header__=np.array(other))
    start = '{"format": "edgeopt-quantizers/2", "space": "tiny", "form": '
    for form in ('"group"', '{"granularity": "rows"}', '{"group": 4}', '{"granularity": 4}'):
        refused("states a form that is none", __header__=np.array(start + form + "}"))
    zeros = '{"granularity": "channel", "symmetric": false}'
    refused("arrays missing or unexpected", __header__=np.array(start + zeros + "}"))
    refused("unpacks to", **{first: np.zeros(2_000_000, np.float32)})
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not a readable quantizers file"):
        load_elastic(space, weights, path)
