"""Makes the ONNX files in this folder: small networks with random weights, same bytes every time.

python tests/models/make.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent


def tiny_cnn() -> onnx.ModelProto:
    """Stem, depthwise, pointwise, a residual, an operator without a template, and a classifier."""
    rng = np.random.default_rng(7)
    weights: dict[str, np.ndarray] = {}

    def weight(name: str, *shape: int) -> str:
        scale = np.sqrt(2.0 / max(1, int(np.prod(shape[1:]))))
        weights[name] = (scale * rng.standard_normal(shape)).astype(np.float32)
        return name

    def conv(source: str, out: str, o: int, i: int, k: int, **attributes: object) -> onnx.NodeProto:
        inputs = [source, weight(f"{out}_w", o, i, k, k), weight(f"{out}_b", o)]
        return helper.make_node("Conv", inputs, [out], name=out, **attributes)

    nodes = [
        conv("image", "stem", 8, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["stem"], ["stem_relu"], name="stem_relu"),
        conv("stem_relu", "depth", 8, 1, 5, pads=[2, 2, 2, 2], group=8),
        helper.make_node("HardSwish", ["depth"], ["depth_act"], name="depth_act"),
        conv("depth_act", "point", 8, 8, 1),
        helper.make_node("Add", ["point", "stem_relu"], ["sum"], name="sum"),
        helper.make_node("Softplus", ["sum"], ["softplus"], name="softplus"),
        helper.make_node("GlobalAveragePool", ["softplus"], ["pool"], name="pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], name="flat"),
        helper.make_node(
            "Gemm", ["flat", weight("fc_w", 10, 8), weight("fc_b", 10)], ["scores"], name="fc",
            transB=1,
        ),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "tiny_cnn",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    (HERE / "tiny_cnn.onnx").write_bytes(tiny_cnn().SerializeToString(deterministic=True))
