"""What a compile calibrates on: images of a subnet, inputs of an ONNX model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError
from edgeopt.core.files import digest, read_bytes
from edgeopt.pipeline.quantize_data import load_inputs

if TYPE_CHECKING:
    from edgeopt.graph.importer import Imported
    from edgeopt.pipeline.source import Chosen

#: Images that batch-norm statistics and activation ranges of a subnet are measured on.
CALIBRATION_IMAGES = 512
#: Vectors every bundle is checked with.
VECTORS = 16
_MAX_DATA_BYTES = 2**33


def calibration_images(data: Path | None, chosen: Chosen) -> npt.NDArray[np.uint8]:
    """uint8 [N,H,W,C] images to calibrate a subnet on: the user's, or the zoo's own."""
    from edgeopt.ofa.data import load_images

    entry = chosen.entry or chosen.elastic
    assert entry is not None and chosen.subnet is not None
    if data is None:
        shipped: npt.NDArray[np.uint8] = entry.calibration
        return shipped
    loaded = load_images(data, "train", chosen.subnet.resolution)
    images: npt.NDArray[np.uint8] = loaded.images[:CALIBRATION_IMAGES]
    return images


def calibration_inputs(data: Path, imported: Imported) -> npt.NDArray[np.float32]:
    """Inputs [N, ...] of an ONNX model in its layout, at least as many as a bundle has vectors.

    Raises:
        InputError: the model has several inputs, or the files do not fit it
            (see `edgeopt.pipeline.quantize_data.load_data`).
    """
    if len(imported.inputs) != 1:
        raise InputError(
            f"the model has {len(imported.inputs)} inputs; calibration feeds one", where=str(data),
            hint="compile it in fp32, or give one that is quantized already",
        )  # fmt: skip
    (interface,) = imported.inputs.values()
    found = load_inputs(data, interface.onnx_shape)
    while len(found) < VECTORS:
        found = np.concatenate([found, found])
    return found


def inputs_digest(path: Path | None) -> str:
    """Changes whenever the data could; folders are told by their files' sizes and times."""
    if path is None:
        return ""
    if path.is_dir():
        listing = sorted(f"{p.relative_to(path)} {p.stat().st_size} {p.stat().st_mtime_ns}"
                         for p in path.rglob("*") if p.is_file())  # fmt: skip
        return digest("\n".join(listing).encode())
    return digest(read_bytes(path, max_bytes=_MAX_DATA_BYTES, noun="data file"))
