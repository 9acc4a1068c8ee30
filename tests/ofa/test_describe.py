"""The description of a subnet, its ONNX file and torch agree."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgeopt.core.errors import InputError
from edgeopt.core.network import Network
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.graph.importer import import_network
from edgeopt.ofa.describe import describe
from edgeopt.ofa.export import export_onnx, to_network
from edgeopt.ofa.extract import extract
from edgeopt.ofa.spaces import load_space
from tests.ofa.conftest import randomized


def _configs(space: SearchSpace, count: int) -> list[SubnetConfig]:
    rng = random.Random(4)
    return [space.max_config(), space.min_config(), *(space.sample(rng) for _ in range(count))]


def _structure(network: Network) -> list[tuple[object, ...]]:
    """Operators with their shapes, and which earlier operator each input comes from."""
    at = dict.fromkeys(network.inputs, -1)
    rows: list[tuple[object, ...]] = []
    for index, op in enumerate(network.ops):
        sources = tuple(at[name] for name in op.inputs)
        at[op.output] = index
        shape = network.tensors[op.output].shape
        name = "" if op.kind == "reshape" else op.name  # the importer names those itself
        rows.append((name, op.kind, dict(op.attrs), shape, sources))
    return rows


def test_onnx_file_computes_what_torch_does(tiny: SearchSpace, tmp_path: Path) -> None:
    for space, count in ((tiny, 3), (load_space("cifar"), 1)):
        net = randomized(space)
        for config in _configs(space, count):
            static = extract(net, config)
            path = tmp_path / "net.onnx"
            export_onnx(static, path, space=space, config=config)
            x = torch.randn(
                1, 3, config.resolution, config.resolution,
                generator=torch.Generator().manual_seed(1),
            )  # fmt: skip
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            (logits,) = session.run(None, {"image": x.numpy()})
            with torch.no_grad():
                expected = static(x).numpy()
            error = np.abs(logits - expected).max() / np.abs(expected).max()
            assert error <= 1e-5, str(config)


def test_importing_the_file_gives_the_description(tiny: SearchSpace, tmp_path: Path) -> None:
    for space, count in ((tiny, 3), (load_space("cifar"), 1)):
        net = randomized(space)
        for config in _configs(space, count):
            path = tmp_path / "net.onnx"
            written = export_onnx(extract(net, config), path)
            imported = import_network(onnx.load(path))
            described = describe(space, config)
            assert _structure(imported) == _structure(described) == _structure(written)
            assert imported.macs == described.macs
            for got, op in zip(imported.ops, written.ops, strict=True):
                assert set(got.constants) == set(op.constants)
                for name, value in op.constants.items():
                    assert np.array_equal(got.constants[name], value), (op.name, name)


def test_export_is_deterministic_and_describes_itself(tiny: SearchSpace, tmp_path: Path) -> None:
    net, config = randomized(tiny), tiny.min_config()
    for name in ("a.onnx", "b.onnx"):
        export_onnx(extract(net, config), tmp_path / name, space=tiny, config=config)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    model = onnx.load(tmp_path / "a.onnx")
    entries = {entry.key: entry.value for entry in model.metadata_props}
    assert SubnetConfig.parse(entries["edgeopt.subnet"]) == config
    assert entries["edgeopt.input_mean"] == "[0.5, 0.4, 0.3]"
    assert entries["edgeopt.input_std"] == "[0.25, 0.2, 0.3]"
    assert {entry.version for entry in model.opset_import} == {18}
    assert {node.op_type for node in model.graph.node} <= {
        "Conv", "Relu", "HardSwish", "HardSigmoid", "Add", "Mul", "GlobalAveragePool", "Reshape",
        "Gemm",
    }  # fmt: skip


def test_the_cifar_space_spans_its_boards() -> None:
    space = load_space("cifar")
    largest, smallest = (
        describe(space, config) for config in (space.max_config(), space.min_config())
    )
    assert largest.macs < 13e6
    assert smallest.macs < largest.macs / 4
    weights = sum(p.numel() for p in extract(randomized(space), space.min_config()).parameters())
    assert weights < 100_000


def test_weights_are_shaped_as_kinds_say(tiny: SearchSpace) -> None:
    network = to_network(extract(randomized(tiny), tiny.max_config()))
    for op in network.ops:
        if op.kind == "conv2d":
            source, out = network.tensors[op.inputs[0]].shape, network.tensors[op.output].shape
            groups = op.attrs["groups"]
            assert isinstance(groups, int)
            assert op.constants["w"].shape == (out[3], *op.attrs["kernel"], source[3] // groups)  # type: ignore[misc]
            assert op.constants["b"].shape == (out[3],)


def test_other_batches_are_refused(tiny: SearchSpace) -> None:
    with pytest.raises(InputError, match="batch 2 is not supported"):
        describe(tiny, tiny.min_config(), batch=2)
