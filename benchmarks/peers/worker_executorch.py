"""ExecuTorch with the XNNPACK partitioner; 8-bit by PT2E and the XNNPACK quantizer."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from worker import Array, Peer, serve


class ExecuTorch(Peer):
    def convert(self, folder: Path, precision: str, out: Path) -> tuple[Path, str]:
        target = out / f"{precision}.pte"
        if not target.exists():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
                XnnpackPartitioner,
            )
            from executorch.exir import to_edge_transform_and_lower

            program = torch.export.load(folder / "module.pt2")
            images = torch.from_numpy(np.load(folder / "images.npy"))
            if precision == "int8":
                program = self._quantize(program, images)
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            target.write_bytes(lowered.to_executorch().buffer)
        return target, "XNNPACK partitioner"

    def _quantize(
        self, program: torch.export.ExportedProgram, images: torch.Tensor
    ) -> torch.export.ExportedProgram:
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        quantizer = XNNPACKQuantizer()
        quantizer.set_global(get_symmetric_quantization_config(is_per_channel=True))
        prepared = prepare_pt2e(program.module(), quantizer)
        for image in images:
            prepared(image[None])
        return torch.export.export(convert_pt2e(prepared), (images[:1],))

    def load(self, file: Path, threads: int, image: Array, precision: str) -> str:
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime, Verification

        portable_lib._unsafe_reset_threadpool(threads)
        self._program = Runtime.get().load_program(file, verification=Verification.Minimal)
        self._method = self._program.load_method("forward")
        self._inputs = (torch.from_numpy(np.ascontiguousarray(image)),)
        return f"ExecuTorch {version('executorch')}"

    def run(self) -> None:
        self._method.execute(self._inputs)

    def output(self) -> Array:
        return self._method.execute(self._inputs)[0].numpy()


if __name__ == "__main__":
    serve(ExecuTorch())
