"""The once-for-all authors' networks: keys, shapes, weights, logits, recalibration."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeopt.core.space import SearchSpace, SubnetConfig, parse_space
from edgeopt.ofa.bn import recalibrate_bn
from edgeopt.ofa.checkpoint import load_ofa_state_dict
from edgeopt.ofa.extract import extract
from edgeopt.ofa.supernet import Supernet

NAMES = ("tiny_mbv3_w0.25_c10", "ofa_mbv3_d234_e346_k357_w1.0")
TOLERANCE = 1e-5


class Golden:
    def __init__(self, folder: Path, name: str) -> None:
        self.arrays = np.load(folder / f"{name}_golden.npz")
        self.configs: dict[str, Any] = json.loads((folder / f"{name}_configs.json").read_text())
        self.keys: dict[str, Any] = json.loads((folder / f"{name}_keys.json").read_text())
        self.size: int = self.configs["meta"]["resolution"]
        self.space = _space(name, self.size)
        self.state = self._stored() if "sd/classifier.linear.bias" in self.arrays else self._made()
        self.x = torch.from_numpy(self.arrays["x"])

    def _stored(self) -> dict[str, torch.Tensor]:
        names = [name for name in self.arrays.files if name.startswith("sd/")]
        return {name[3:]: torch.from_numpy(self.arrays[name]) for name in names}

    def _made(self) -> dict[str, torch.Tensor]:
        state = {
            key: torch.zeros(shape, dtype=getattr(torch, kind.removeprefix("torch.")))
            for key, shape, kind in self.keys["supernet"]
        }
        _randomize(state, self.configs["meta"]["seed"])
        return state

    def config(self, index: int) -> SubnetConfig:
        setting = self.configs["subnets"][index]["setting"]

        def spread(value: object, count: int) -> tuple[int, ...]:
            return tuple(value) if isinstance(value, list) else (int(str(value)),) * count

        return SubnetConfig(
            spread(setting["ks"], 20), spread(setting["e"], 20), spread(setting["d"], 5), self.size
        )


def _space(name: str, size: int) -> SearchSpace:
    text = (resources.files("edgeopt.ofa.spaces") / "ofa_mbv3.toml").read_text()
    text = text.replace("  128, 132,", f"  {size}, 128, 132,")
    if name.startswith("tiny"):
        text = text.replace("width_multiplier = 1.0", "width_multiplier = 0.25")
        text = text.replace("classes = 1000", "classes = 10")
    return parse_space(text)


def _randomize(state: dict[str, torch.Tensor], seed: int) -> None:
    """The draws that the golden data was made with, in the order of its state dict."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator)

    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        if key.endswith("_matrix"):
            value.copy_(torch.eye(value.shape[0]) + 0.05 * normal(value))
        elif key.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif key.endswith("running_mean"):
            value.copy_(0.1 * normal(value))
        elif value.dim() == 1 and key.endswith("bn.weight"):
            value.copy_(0.75 + 0.5 * torch.rand(value.shape, generator=generator))
            if "point_linear" in key:
                value.mul_(0.3)
        elif value.dim() == 1:
            value.copy_(0.05 * normal(value))
        else:
            value.copy_(normal(value) * (2.0 / value[0].numel()) ** 0.5)


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest, data_dir: Path) -> Golden:
    return Golden(data_dir / "ofa_golden", request.param)


def test_regenerated_weights_are_the_authors(golden: Golden) -> None:
    digest = hashlib.sha256()
    for key, shape, _ in golden.keys["supernet"]:
        assert list(golden.state[key].shape) == shape
        digest.update(key.encode())
        digest.update(golden.state[key].contiguous().numpy().tobytes())
    assert digest.hexdigest() == golden.configs["meta"]["supernet_sha256"]


def test_keys_and_shapes(golden: Golden) -> None:
    own = {name: list(t.shape) for name, t in Supernet(golden.space).state_dict().items()}
    assert own == {name: shape for name, shape, _ in golden.keys["supernet"]}


def test_logits_and_extracted_weights(golden: Golden) -> None:
    net = load_ofa_state_dict(golden.space, golden.state)
    for index, entry in enumerate(golden.configs["subnets"]):
        config = golden.config(index)
        static = extract(net, config)
        with torch.no_grad():
            active, extracted = net(golden.x, config), static(golden.x)
        expected = torch.from_numpy(golden.arrays[f"logits_dyn_{index}"])
        assert float((active - expected).abs().max()) <= TOLERANCE, entry["tag"]
        assert float((extracted - expected).abs().max()) <= TOLERANCE, entry["tag"]
        state = static.state_dict()
        listed = golden.keys["subnets"][entry["tag"]]
        assert [[k, list(v.shape)] for k, v in state.items()] == [[k, s] for k, s, _ in listed]
        assert sum(p.numel() for p in static.parameters()) == entry["n_params"]
        for name in golden.arrays.files:
            if name.startswith(f"sub_{index}/"):
                theirs = torch.from_numpy(golden.arrays[name])
                ours = state[name.removeprefix(f"sub_{index}/")]
                assert float((ours - theirs).abs().max()) <= TOLERANCE, name


def test_old_names_load_too(golden: Golden) -> None:
    old = {
        "module." + key.replace(".conv.", ".mobile_inverted_conv.", 1)
        if key.startswith("blocks.")
        else key: value
        for key, value in golden.state.items()
    }
    net = load_ofa_state_dict(golden.space, old)
    with torch.no_grad():
        logits = net(golden.x, golden.config(0))
    expected = torch.from_numpy(golden.arrays["logits_dyn_0"])
    assert float((logits - expected).abs().max()) <= TOLERANCE


def test_recalibration(golden: Golden) -> None:
    static = extract(load_ofa_state_dict(golden.space, golden.state), golden.config(2))
    generator = torch.Generator().manual_seed(7)
    size = golden.size
    batches = [torch.randn(8, 3, size, size, generator=generator) for _ in range(4)]
    recalibrate_bn(static, torch.cat(batches), batch=8)
    with torch.no_grad():
        logits = static(golden.x)
    # maps of one pixel have variances of eight numbers, which amplify the last bit
    expected = torch.from_numpy(golden.arrays["logits_recal_2"])
    assert float((logits - expected).abs().max()) <= 2e-4
