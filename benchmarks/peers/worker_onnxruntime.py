"""onnxruntime, CPU provider, all optimizations."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from worker import Array, Peer, fit, serve

TYPES = {"tensor(float)": np.float32, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8}


class OnnxRuntime(Peer):
    """``--x64quantprecision`` trades the 8-bit kernels' speed for exact sums (AVX2 only)."""

    def __init__(self, exact: bool) -> None:
        self._exact = exact

    def load(self, file: Path, threads: int, image: Array, precision: str) -> str:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        if self._exact:
            options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        (item,) = self._session.get_inputs()
        value = fit(image, tuple(item.shape), TYPES[item.type])
        # Bound once, outputs kept by onnxruntime: its fastest way to be called.
        binding: Any = self._session.io_binding()
        self._value = ort.OrtValue.ortvalue_from_numpy(value)
        binding.bind_ortvalue_input(item.name, self._value)
        for out in self._session.get_outputs():
            binding.bind_output(out.name, "cpu")
        self._binding = binding
        return f"onnxruntime {ort.__version__}"

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def output(self) -> Array:
        return self._binding.copy_outputs_to_cpu()[0]


if __name__ == "__main__":
    serve(OnnxRuntime("--x64quantprecision" in sys.argv))
