"""One meaning of integers: from `core` through ONNX to kernels, for random tensors, bit for bit.

What `core.affine`, `core.lowbits` and `core.narrow` say is computed here in plain numpy. Against it
go a model exported with the same integers and imported again: run by the reference, by the torch
simulation, by onnxruntime, and by compiled kernels, with packed weights where they have fewer than
eight bits, and with biases and multipliers as they are and in one word.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import kernel_harness as harness
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeopt.codegen import build, reference
from edgeopt.codegen.constants import have_words
from edgeopt.codegen.lower import lower
from edgeopt.core import affine, lowbits, narrow
from edgeopt.core.network import Network, Quant
from edgeopt.core.precision import LayerPrecision, PrecisionPlan
from edgeopt.core.target import TargetSpec
from edgeopt.graph.importer import import_model
from edgeopt.graph.qdq_narrow import widened
from edgeopt.graph.reference import Session
from edgeopt.quant.calibration import Calibration
from edgeopt.quant.export import quantize_model
from edgeopt.quant.simulate import Simulator
from edgeopt.quant.weights import StoredWeights

#: This machine, with short constants.
SHORT = replace(harness.HOST, compact=True, narrow=True)
KINDS = ("conv2d", "pointwise", "linear")
BITS = (8, 4, 2)
#: Shapes of weights as ONNX has them, and of the input.
WEIGHTS = {"conv2d": (12, 8, 3, 3), "pointwise": (20, 16, 1, 1), "linear": (10, 40)}
INPUTS = {"conv2d": (1, 8, 7, 6), "pointwise": (1, 16, 5, 5), "linear": (1, 40)}


@dataclass(frozen=True)
class Drawn:
    """Everything that a layer of a kind and width needs."""

    kind: str
    bits: int
    seed: int
    quant_x: Quant
    quant_y: Quant
    relu: bool

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def weights(self) -> StoredWeights:
        """Int8 weights rounded a second time, with the scales that go with them."""
        rng, shape = self.rng, WEIGHTS[self.kind]
        stored = rng.integers(-127, 128, shape).astype(np.int8)
        fine = rng.uniform(0.001, 0.004, shape[0]).astype(np.float32)
        step = rng.uniform(0.7, 1.3, shape[0]).astype(np.float32) * lowbits.double_step(self.bits)
        given_step = None if self.bits == 8 else step.astype(np.float32)
        values = lowbits.round_again(stored, self.bits, given_step)
        unit = np.float32(lowbits.unit(self.bits))
        scale = fine if given_step is None else (fine * given_step * unit).astype(np.float32)
        bias = rng.standard_normal(shape[0]).astype(np.float32)
        return StoredWeights(values, scale, self.bits, bias)

    def stored_input(self) -> np.ndarray:
        return self.rng.integers(-128, 128, INPUTS[self.kind]).astype(np.int8)


def exported_integers(drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """Scales of the weights and biases, as near to those drawn as words allow."""
    given_, x, y = drawn.weights(), drawn.quant_x, drawn.quant_y
    assert given_.bias is not None
    step = (np.float32(x.scale) * given_.scale).astype(np.float32)
    bias = np.rint(given_.bias.astype(np.float64) / step)
    scale = narrow.weight_scales(x.scale, given_.scale, y.scale)
    if scale is not None:
        np.testing.assert_allclose(scale, given_.scale, rtol=0.01)
        factor = affine.multiplier(x.scale, scale, y.scale)
        finer = (np.float32(x.scale) * scale).astype(np.float32)
        sums = given_.weight.reshape(len(scale), -1).astype(np.int64).sum(axis=1)
        short = narrow.biases(bias * (step.astype(np.float64) / finer), sums, x.zero_point, factor)
        if short is not None:
            off = np.abs(short - bias * (step.astype(np.float64) / finer)) * factor
            assert (off <= 1.001 * np.maximum(1 / 16, factor / 2)).all()
            return scale, short.astype(np.int64)
    return given_.scale, bias.astype(np.int64)


def expected(drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """What `core` says: [O] or [O, H, W], as int8; and where a product was rounded to a half."""
    given_ = drawn.weights()
    x = drawn.stored_input().astype(np.int64) - drawn.quant_x.zero_point
    w = given_.weight.astype(np.int64)
    if drawn.kind == "linear":
        acc = (x @ w.T).T
    else:
        pad = w.shape[2] // 2
        x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))
        stride = 2 if drawn.kind == "conv2d" else 1
        acc = np.einsum("nchwij,ocij->onhw", windows[:, :, ::stride, ::stride], w)
    scale, bias = exported_integers(drawn)
    acc = np.moveaxis(acc + bias.reshape(-1, *(1,) * (acc.ndim - 1)), 0, -1)
    factor = affine.multiplier(drawn.quant_x.scale, scale, drawn.quant_y.scale)
    zero = drawn.quant_y.zero_point
    found = affine.requantize(acc.astype(np.int32), factor, zero, zero if drawn.relu else -128)
    halves = (acc.astype(np.float32) * factor) % 1 == 0.5
    both = (np.moveaxis(value, -1, 0) for value in (found, halves))
    first, second = (value.reshape(found.shape[-1], *found.shape[1:-1]) for value in both)
    return first, second


def exported(drawn: Drawn) -> bytes:
    """The layer as a QDQ model that holds exactly these integers."""
    given_ = drawn.weights()
    shape = (-1,) + (1,) * (given_.weight.ndim - 1)
    constants = {"w": (given_.weight * given_.scale.reshape(shape)).astype(np.float32),
                 "b": given_.bias}  # fmt: skip
    result = "c" if drawn.relu else "y"
    if drawn.kind == "linear":
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], [result], "the_layer", transB=1)]
    else:
        pad, stride = WEIGHTS[drawn.kind][2] // 2, 2 if drawn.kind == "conv2d" else 1
        nodes = [helper.make_node("Conv", ["x", "w", "b"], [result], "the_layer",
                                  pads=[pad] * 4, strides=[stride] * 2)]  # fmt: skip
    if drawn.relu:
        nodes.append(helper.make_node("Relu", ["c"], ["y"], "relu"))
    out = [1, WEIGHTS[drawn.kind][0], *[None] * (len(INPUTS[drawn.kind]) - 2)]
    graph = helper.make_graph(
        nodes, "one", [helper.make_tensor_value_info("x", TensorProto.FLOAT, INPUTS[drawn.kind])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    calibration = Calibration(
        {"x": drawn.quant_x, "y": drawn.quant_y}, {"x": np.zeros(1, np.float32)}, "mse", 1
    )
    plan = PrecisionPlan(layers={"the_layer": LayerPrecision(drawn.bits)})
    made = quantize_model(model, calibration, plan=plan, stored={"the_layer": given_})
    data: bytes = made.SerializeToString()
    return data


def as_steps(real: np.ndarray, quant: Quant) -> np.ndarray:
    steps: np.ndarray = np.rint(real / np.float32(quant.scale)).astype(np.int64) + quant.zero_point
    return steps


def channels_first(value: np.ndarray) -> np.ndarray:
    moved: np.ndarray = np.moveaxis(value[0], -1, 0) if value.ndim == 4 else value[0]
    return moved


@functools.cache
def library(folder: Path, target: TargetSpec) -> tuple[dict[tuple[str, int], str], object]:
    """Every kernel that the examples need, compiled once: weights are no part of their code."""
    folder = folder / ("narrow" if target.narrow else "wide")
    folder.mkdir()
    keys = {}
    for kind in KINDS:
        for bits in BITS:
            drawn = Drawn(kind, bits, 0, Quant(0.05, 3), Quant(0.1, -5), relu=False)
            network = import_model(onnx.load_from_string(exported(drawn)), isolated=False).network
            kernel = next(k for k in lower(network, target).kernels if k.key.op == kind)
            assert kernel.key.weight_bits == (0 if bits == 8 else bits)
            keys[kind, bits] = kernel.key
    made = harness.link(build.compile_kernels(list(keys.values()), target), folder)
    return {at: str(key) for at, key in keys.items()}, made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


def compiled(drawn: Drawn, network: Network, folder: Path, target: TargetSpec) -> np.ndarray:
    """The layer's kernel for this machine, its weights packed."""
    keys, loaded = library(folder, target)
    kernel = next(k for k in lower(network, target).kernels if k.key.op == drawn.kind)
    assert str(kernel.key) == keys[drawn.kind, drawn.bits]
    x = drawn.stored_input()
    x = x[0].transpose(1, 2, 0) if x.ndim == 4 else x[0]
    constants = {name: np.asarray(value) for name, value in kernel.constants.items()}
    found = harness.run(loaded, kernel.key, target, [x], constants)
    return found.reshape(kernel.key.out_shape)


scales = st.floats(0.005, 0.2).map(lambda value: float(np.float32(value)))
quants = st.builds(Quant, scales, st.integers(-128, 127))
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=12, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(seed=seeds, quant_x=quants, quant_y=quants, relu=st.booleans())
def test_all_compute_what_core_says(
    kind: str, bits: int, seed: int, quant_x: Quant, quant_y: Quant, relu: bool, folder: Path
) -> None:
    drawn = Drawn(kind, bits, seed, quant_x, quant_y, relu)
    wanted, halves = expected(drawn)
    model = exported(drawn)
    network = import_model(onnx.load_from_string(model), isolated=False).network
    layer = next(op for op in network.ops if op.name == "the_layer")
    weight = drawn.weights().weight
    moved = weight.transpose(0, 2, 3, 1) if weight.ndim == 4 else weight
    np.testing.assert_array_equal(layer.constants["w"], moved)
    np.testing.assert_array_equal(layer.constants["w_scale"], exported_integers(drawn)[0])

    stored = drawn.stored_input()
    real = affine.dequantize(stored, quant_x.scale, quant_x.zero_point)
    image = real.transpose(0, 2, 3, 1) if real.ndim == 4 else real
    engines = {
        "reference": reference.run_network(network, {"x": image})["y"],
        "kernels of the reference": reference.run_kernels(lower(network), {"x": image})["y"],
        "simulation": Simulator(network).run({"x": image})["y"],
    }
    for name, found in engines.items():
        steps = as_steps(channels_first(np.asarray(found)), quant_y)
        np.testing.assert_array_equal(steps, wanted.reshape(steps.shape), name)

    lowered = next(k for k in lower(network, harness.HOST).kernels if k.key.op == kind)
    short = have_words(lowered.constants)
    event(f"short constants: {short}")
    for target in (harness.HOST, SHORT) if short else (harness.HOST,):
        kernel = compiled(drawn, network, folder, target)
        kernel = np.moveaxis(kernel, -1, 0) if kernel.ndim == 3 else kernel
        np.testing.assert_array_equal(kernel, wanted.reshape(kernel.shape), "compiled kernel")

    twin = Session(widened(model) or model, optimize=True).run({"x": real})["y"][0]
    found = as_steps(twin, quant_y).reshape(wanted.shape)
    differs = found != wanted
    assert not (differs & ~halves).any(), "onnxruntime, in integers"
    assert (np.abs(found - wanted)[differs] <= 1).all()  # the exact product lies on one side
    written = Session(model).run({"x": real})["y"][0]
    off = np.abs(as_steps(written, quant_y) - wanted.reshape(written.shape))
    assert off.max() <= 1  # sums in float32 that lie next to a half
    assert off.sum() <= 1 + off.size // 50
