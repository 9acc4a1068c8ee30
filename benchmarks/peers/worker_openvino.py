"""OpenVINO, CPU plugin, latency hint, float32 inference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
from worker import Array, Peer, fit, serve


class OpenVino(Peer):
    def load(self, file: Path, threads: int, image: Array, precision: str) -> str:
        core = ov.Core()
        compiled = core.compile_model(
            core.read_model(file),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "INFERENCE_PRECISION_HINT": "f32",
            },
        )
        port = compiled.input(0)
        dtype = np.dtype(port.element_type.to_dtype())
        self._request = compiled.create_infer_request()
        self._value = ov.Tensor(fit(image, tuple(port.shape), dtype), shared_memory=True)
        self._request.set_input_tensor(self._value)
        return f"OpenVINO {ov.__version__.split('-')[0]}"

    def run(self) -> None:
        self._request.start_async()
        self._request.wait()

    def output(self) -> Array:
        return np.array(self._request.get_output_tensor(0).data)


if __name__ == "__main__":
    serve(OpenVino())
