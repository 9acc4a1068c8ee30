"""A model of the catalogue as files that runtimes and converters read, made once and kept.

``fp32.onnx``, ``int8.onnx``, the torch program ``module.pt2`` and ``images.npy`` (calibration
images [N,C,H,W]); ``fp32.tflite`` and ``int8.tflite`` where they are given.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from edgeopt.core.files import digest

from .catalog import Model, data_dir

if TYPE_CHECKING:
    import onnx

OPSET = 18


def to_onnx(module: nn.Module, shape: tuple[int, ...]) -> bytes:
    """A torch module as fp32 ONNX, batch norm folded where it stands behind a convolution."""
    from edgeopt.ofa.export import to_network
    from edgeopt.ofa.extract import StaticNet

    if isinstance(module, StaticNet):
        from edgeopt.graph.build import build_onnx

        return build_onnx(to_network(module))
    target = io.BytesIO()
    with warnings.catch_warnings():  # torch's exporter uses deprecated parts of torch itself
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, (torch.zeros(shape),), dynamo=True, opset_version=OPSET, verbose=False,
            input_names=["image"], output_names=["logits"],
        )  # fmt: skip
    assert program is not None
    program.save(target)
    return target.getvalue()


def static_batch(data: bytes) -> bytes:
    """The same model for a batch of one, where the batch was left open."""
    import onnx

    model = onnx.load_model_from_string(data)
    for value in (*model.graph.input, *model.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if not first.dim_value:
            first.dim_value = 1
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model).SerializeToString()


def to_int8(data: bytes, images: np.ndarray) -> bytes:
    """The quantized model by edgeopt's own quantizer: QDQ, per-channel weights."""
    from edgeopt.graph.load import parse_model
    from edgeopt.quant.calibration import calibrate
    from edgeopt.quant.export import quantize_model

    model: onnx.ModelProto = parse_model(data)
    return quantize_model(model, calibrate(model, images)).SerializeToString()


def prepare(model: Model, cache: Path) -> Path:
    """The folder of a model's files under ``cache``; what is there already is kept.

    Raises:
        FileNotFoundError: the model is given as a file and there is no folder of reference data.
    """
    source = b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py")))
    folder = cache / f"{model.name}-{digest(source)[:12]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        fresh = Path(work) / "files"
        fresh.mkdir()
        _write(model, fresh)
        shutil.move(fresh, folder)
    return folder


def _write(model: Model, folder: Path) -> None:
    module, images = model.module(), model.images()
    np.save(folder / "images.npy", images.numpy())
    torch.export.save(torch.export.export(module, (torch.zeros(model.shape),)),
                      folder / "module.pt2")  # fmt: skip
    for (precision, kind), name in model.given.items():
        root = data_dir()
        if root is None:
            raise FileNotFoundError(f"{name}: EDGEOPT_DATA does not name the reference data")
        content = (root / "mlperf_tiny" / name).read_bytes()
        content = static_batch(content) if kind == "onnx" else content
        (folder / f"{precision}.{kind}").write_bytes(content)
    fp32 = folder / "fp32.onnx"
    if not fp32.exists():
        fp32.write_bytes(to_onnx(module, model.shape))
    if not (folder / "int8.onnx").exists():
        (folder / "int8.onnx").write_bytes(to_int8(fp32.read_bytes(), images.numpy()))
