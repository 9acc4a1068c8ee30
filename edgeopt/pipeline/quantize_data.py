"""Images that networks are calibrated and judged on, from files nobody vouches for."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError
from edgeopt.core.files import digest, read_bytes
from edgeopt.quant.observe import check_images

MAX_FILE_BYTES = 4 << 30
#: Images that activation ranges are chosen on.
CALIBRATION = 256
_HINT = "write numpy.savez(file, images=array, labels=classes), images float32 [N, ...]"


@dataclass(frozen=True, slots=True)
class Data:
    """Images in the layout of the model's input, and their classes where they are known.

    Attributes:
        calibration: ranges are chosen and weights rounded on these.
        judged: the drop is measured on these.
        labels: classes of the judged images.
        calibration_labels: classes of the others.
        shared: both are the same images: there were too few to divide.
        sha256: of the files.
    """

    calibration: npt.NDArray[np.float32]
    judged: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None
    calibration_labels: npt.NDArray[np.int64] | None
    shared: bool
    sha256: str


def load_inputs(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Read a model's inputs [N, ...] from what `load_data` takes, without labels.

    Raises:
        InputError: unreadable, empty, not finite, or of another shape or type.
    """
    images, _, _ = _folder(path, shape) if path.is_dir() else _file(path)
    return check_images(images, shape, str(path))


def load_data(path: Path, shape: tuple[int, ...], classes: int | None) -> Data:
    """Read images (and labels) for a model.

    Args:
        path: an ``.npz`` with ``images`` or ``inputs`` and maybe ``labels``, an ``.npy`` of
            images, or a folder of ``.npy`` files, one image or several each, and maybe
            ``labels.npy``.
        shape: of the model's input, [1, ...].
        classes: how many the model tells apart; None if its output is no row of scores.

    Raises:
        InputError: unreadable, empty, not finite, or of another shape or type.
    """
    images, labels, code = _folder(path, shape) if path.is_dir() else _file(path)
    array = check_images(images, shape, str(path))
    known = None if labels is None else _labels(labels, len(array), classes, path)
    # At least half of the images judge, and what judged has not been seen by what was chosen.
    first = CALIBRATION if len(array) >= 2 * CALIBRATION else len(array)
    shared = first == len(array)
    rest = slice(0, None) if shared else slice(first, None)
    return Data(
        calibration=array[:first],
        judged=array[rest],
        labels=None if known is None else known[rest],
        calibration_labels=None if known is None else known[:first],
        shared=shared,
        sha256=code,
    )


def _read(path: Path) -> tuple[Any, bytes]:
    """The array or archive in a file, and its bytes."""
    data = read_bytes(path, max_bytes=MAX_FILE_BYTES, noun="data file")
    if not data:
        raise InputError("the file is empty", where=str(path), hint=_HINT)
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, data
        return {name: loaded[name] for name in loaded.files}, data
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, MemoryError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"not a readable npz or npy file: {reason}", where=str(path), hint=_HINT
        ) from error


def _file(path: Path) -> tuple[Any, Any, str]:
    loaded, data = _read(path)
    if isinstance(loaded, dict):
        name = next((n for n in ("images", "inputs") if n in loaded), None)
        if name is None:
            found = ", ".join(sorted(loaded)[:8]) or "nothing"
            raise InputError(f"it holds no array 'images' but {found}", where=str(path), hint=_HINT)
        return loaded[name], loaded.get("labels"), digest(data)
    return loaded, None, digest(data)


def _folder(path: Path, shape: tuple[int, ...]) -> tuple[Any, Any, str]:
    files = sorted(file for file in path.glob("*.npy") if file.name != "labels.npy")
    if not files:
        raise InputError("the folder holds no .npy files", where=str(path), hint=_HINT)
    parts, codes = [], []
    for file in files:
        array, data = _read(file)
        if not isinstance(array, np.ndarray):
            raise InputError("not a readable npz or npy file: an archive", where=str(file))
        one = array[None] if array.ndim == len(shape) - 1 else array
        parts.append(check_images(one, shape, str(file)))
        codes.append(digest(data))
    labels = None
    if (path / "labels.npy").exists():
        labels, data = _read(path / "labels.npy")
        codes.append(digest(data))
    return np.concatenate(parts), labels, digest("\n".join(codes).encode())


def _labels(labels: Any, count: int, classes: int | None, path: Path) -> npt.NDArray[np.int64]:
    where = str(path)
    if classes is None:
        raise InputError(
            "there are labels, but the model's output is no row of class scores", where=where,
            hint="leave the labels out: the drop is then told by the outputs' noise",
        )  # fmt: skip
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(
            f"labels are {labels.dtype} {list(labels.shape)}, not whole numbers [N]", where=where,
            hint="give the class of each image, counted from 0",
        )  # fmt: skip
    if len(labels) != count:
        raise InputError(f"{count} images but {len(labels)} labels", where=where, hint=_HINT)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"labels reach from {low} to {high}, but the model has {classes} classes",
            where=where, hint="count classes from 0, in the order of the model's outputs",
        )  # fmt: skip
    found: npt.NDArray[np.int64] = labels.astype(np.int64)
    return found
