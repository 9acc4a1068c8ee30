"""Cross-layer equalization changes weights and never the function."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import quant_models as models
from onnx import numpy_helper

from edgeopt.graph.reference import run_onnx
from edgeopt.quant.equalize import equalize


def chain(activation: str, seed: int = 0) -> onnx.ModelProto:
    """Expansion, depthwise, projection, with channels of very different ranges."""
    m = models.Maker(seed=seed)

    def act(x: str) -> str:
        return m.op(activation, x) if activation else x

    x = act(m.conv("image", 3, 12, 3))
    x = act(m.conv(x, 12, 12, 3, groups=12))
    x = m.conv(x, 12, 8, bias=False)
    x = act(m.conv(x, 8, 10))
    x = m.op("Flatten", m.op("GlobalAveragePool", x))
    return m.finish(m.linear(x, 10, 5))


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", ""])
@pytest.mark.parametrize("seed", range(3))
def test_the_function_is_unchanged_and_ranges_are_even(activation: str, seed: int) -> None:
    model = chain(activation, seed)
    evened, pairs = equalize(model)
    assert pairs == 3
    pictures = models.images(model, 4)
    for image in pictures:
        before, after = (
            run_onnx(m.SerializeToString(), {"image": image[None]})["scores"]
            for m in (model, evened)
        )
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    convs = [node for node in evened.graph.node if node.op_type == "Conv"]
    known = weights(evened)
    first, second, third = (known[node.input[1]] for node in convs[:3])
    out = np.abs(first).reshape(12, -1).max(1)
    between = np.abs(second).reshape(12, -1).max(1)
    into = np.abs(third).swapaxes(0, 1).reshape(12, -1).max(1)
    np.testing.assert_allclose(out, between, rtol=0.05)
    np.testing.assert_allclose(between, into, rtol=0.05)


def test_it_stops_at_what_is_not_homogeneous_or_read_twice() -> None:
    for activation in ("HardSwish", "Sigmoid", "Tanh"):
        model = chain(activation)
        _, pairs = equalize(model)
        assert pairs == 1  # projection to expansion, with nothing between
    _, pairs = equalize(models.mobile())
    assert pairs == 2  # expansion and depthwise, squeeze and excite; not over Relu6, sums, gates
    m = models.Maker()
    x = m.op("Relu", m.conv("image", 3, 6, 1))
    y = m.op("Add", m.conv(x, 6, 6), x)
    y = m.op("Flatten", m.op("GlobalAveragePool", y))
    unchanged = m.finish(m.linear(y, 6, 5))
    same, pairs = equalize(unchanged)
    assert pairs == 0 and same is unchanged


def test_dead_channels_stay_as_they_are() -> None:
    model = chain("Relu")
    for item in model.graph.initializer:
        array = numpy_helper.to_array(item).copy()
        if array.shape == (12, 3, 3, 3):
            array[4] = 0
            item.CopyFrom(numpy_helper.from_array(array, item.name))
    evened, _ = equalize(model)
    assert all(np.isfinite(value).all() for value in weights(evened).values())
    image = models.images(model, 1)
    before, after = (
        run_onnx(m.SerializeToString(), {"image": image})["scores"] for m in (model, evened)
    )
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
