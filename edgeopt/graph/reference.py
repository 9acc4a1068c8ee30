"""onnxruntime as the reference that everything else is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeopt.core.errors import InputError
from edgeopt.core.network import Array


def run_onnx(
    model: bytes, inputs: Mapping[str, Array], *, optimize: bool = False
) -> dict[str, Array]:
    """Run a model once in onnxruntime, on one thread.

    Args:
        model: a serialised ModelProto without external data.
        inputs: by name, in the layout of the model.
        optimize: let onnxruntime fuse if it can; off, every node computes what it says.

    Returns:
        The outputs by name.

    Raises:
        InputError: onnxruntime cannot load or run the model.
    """
    return Session(model, optimize=optimize).run(inputs)


class Session:
    """A model loaded in onnxruntime, to be run on several inputs.

    Attributes:
        outputs: their names, in order.
        optimized: whether onnxruntime rewrote the model; False, too, if it tried and failed.
    """

    def __init__(self, model: bytes, *, optimize: bool = False) -> None:
        self.optimized = optimize
        try:
            self._session = self._load(model)
        except InputError:
            if not optimize:
                raise
            # Some of onnxruntime's rewrites fail on sound models, for instance where quantized
            # layers share a zero point; run as written, the network means the same.
            self.optimized = False
            self._session = self._load(model)
        self.outputs = tuple(item.name for item in self._session.get_outputs())

    def _load(self, model: bytes) -> Any:
        import onnxruntime

        level = onnxruntime.GraphOptimizationLevel
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.graph_optimization_level = (
            level.ORT_ENABLE_ALL if self.optimized else level.ORT_DISABLE_ALL
        )
        # Without this, x86 processors that lack VNNI saturate the sums of integer kernels.
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no narrower base
            raise InputError(
                f"onnxruntime cannot load the model: {str(error)[:300]}",
                where="reference run",
                hint="check the model with onnx.checker",
            ) from error

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name.

        Raises:
            InputError: a missing input, or one of another shape or type.
        """
        try:
            results = self._session.run(None, {k: np.asarray(v) for k, v in inputs.items()})
        except Exception as error:
            raise InputError(
                f"onnxruntime cannot run the model: {str(error)[:300]}",
                where="reference run",
                hint="inputs must have the names, shapes and types of the model",
            ) from error
        return dict(zip(self.outputs, results, strict=True))
