"""LiteRT with the XNNPACK delegate; converted by litert-torch, quantized by its own quantizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from worker import Array, Peer, fit, serve


class LiteRt(Peer):
    def convert(self, folder: Path, precision: str, out: Path) -> tuple[Path, str]:
        given = folder / f"{precision}.tflite"
        if given.exists():
            return given, "reference file"
        fp32 = out / "fp32.tflite"
        if not fp32.exists():
            if (folder / "fp32.tflite").exists():
                fp32 = folder / "fp32.tflite"
            else:
                self._convert(folder, fp32)
        if precision == "fp32":
            return fp32, "litert-torch"
        int8 = out / "int8.tflite"
        if not int8.exists():
            self._quantize(folder, fp32, int8)
        return int8, "litert-torch + ai-edge-quantizer"

    def _convert(self, folder: Path, target: Path) -> None:
        import litert_torch
        import torch

        module = torch.export.load(folder / "module.pt2").module()
        shape = np.load(folder / "images.npy", mmap_mode="r").shape
        image = torch.zeros((1, shape[2], shape[3], shape[1]))  # channels last, as LiteRT likes it
        moved = litert_torch.to_channel_last_io(module, args=[0])
        litert_torch.convert(moved, (image,)).export(str(target))

    def _quantize(self, folder: Path, source: Path, target: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter
        from ai_edge_quantizer import quantizer, recipe

        signatures = Interpreter(str(source)).get_signature_list()
        name, signature = next(iter(signatures.items()))
        images = np.load(folder / "images.npy").transpose(0, 2, 3, 1)
        data = {name: [{signature["inputs"][0]: image[None]} for image in images]}
        tool = quantizer.Quantizer(str(source))
        tool.load_quantization_recipe(recipe.static_wi8_ai8())
        result = tool.quantize(tool.calibrate(data))
        result.export_model(str(target), overwrite=True)

    def load(self, file: Path, threads: int, image: Array, precision: str) -> str:
        from importlib.metadata import version

        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self._interpreter: Any = Interpreter(
            str(file), num_threads=threads,
            experimental_op_resolver_type=OpResolverType.AUTO,  # with XNNPACK
        )  # fmt: skip
        self._interpreter.allocate_tensors()
        (item,) = self._interpreter.get_input_details()
        self._index = item["index"]
        self._value = fit(image, tuple(item["shape"]), item["dtype"])
        self._interpreter.set_tensor(self._index, self._value)
        self._interpreter.invoke()
        return f"LiteRT {version('ai-edge-litert')}"

    def run(self) -> None:
        self._interpreter.invoke()

    def output(self) -> Array:
        item = self._interpreter.get_output_details()[0]
        return self._interpreter.get_tensor(item["index"])


if __name__ == "__main__":
    serve(LiteRt())
