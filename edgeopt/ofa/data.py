"""Images with labels: npz files and folders, and batches of them for training."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from edgeopt.core.space import SearchSpace

U8 = npt.NDArray[np.uint8]

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"})
_MAX_PIXEL_BYTES = 16 << 30


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images uint8 [N,H,W,C] and their class indices int64 [N]."""

    images: U8
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def head(self, count: int) -> ImageSet:
        """The first ``count`` images."""
        return ImageSet(self.images[:count], self.labels[:count], self.classes)


def load_images(path: Path, split: str, size: int, channels: int = 3) -> ImageSet:
    """Read a data set.

    Args:
        path: an ``.npz`` file or a folder.

            * npz: ``images`` uint8 [N,H,W,C] and ``labels``, or ``{split}_images`` and
              ``{split}_labels``, or JPEG bytes as ``{split}_jpeg``, ``{split}_offsets``,
              ``{split}_labels`` (image i is bytes offsets[i] to offsets[i+1]).
            * folder: one subfolder a class, perhaps inside a folder named ``split``.
        split: ``train`` or ``test``.
        size: side that images are scaled to where theirs differs.
        channels: 3, or 1 for grey images.

    Raises:
        InputError: missing, unreadable, or not one of these forms.
    """
    if path.is_dir():
        return _from_folder(path, split, size, channels)
    if not path.is_file():
        raise InputError("no such file or folder", where=str(path), hint="check the path")
    if path.suffix != ".npz":
        raise InputError(
            "not a data set", where=str(path), hint="give an .npz file or a folder of images"
        )
    return _from_npz(path, split, size, channels)


def _from_npz(path: Path, split: str, size: int, channels: int) -> ImageSet:
    where = str(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = set(archive.files)
            prefix = f"{split}_" if f"{split}_labels" in names else ""
            if f"{prefix}labels" not in names:
                raise InputError(
                    f"holds no labels for the split {split!r}", where=where,
                    hint=f"it has {', '.join(sorted(names)) or 'nothing'}; "
                    f"needed: {split}_images and {split}_labels, or images and labels",
                )  # fmt: skip
            labels = np.asarray(archive[f"{prefix}labels"])
            classes = archive["classes"] if "classes" in names else np.zeros(0, "U1")
            if f"{prefix}jpeg" in names and f"{prefix}offsets" in names:
                images = _decode(
                    archive[f"{prefix}jpeg"], archive[f"{prefix}offsets"], size, channels, where
                )
            elif f"{prefix}images" in names:
                images = np.asarray(archive[f"{prefix}images"])
            else:
                raise InputError(
                    f"holds no images for the split {split!r}", where=where,
                    hint=f"add an array {prefix}images, uint8 [N,H,W,{channels}]",
                )  # fmt: skip
    except (ValueError, OSError, zipfile.BadZipFile, KeyError, EOFError) as error:
        raise InputError(
            f"not a readable npz file: {error}", where=where,
            hint="write it with numpy.savez, without Python objects",
        ) from error  # fmt: skip
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != channels:
        raise InputError(
            f"images are {images.dtype} {list(images.shape)}, not uint8 [N,H,W,{channels}]",
            where=where,
        )
    names_of = tuple(str(name) for name in np.asarray(classes).ravel())
    return _checked(_resized(images, size), labels, names_of, where)


def _decode(jpeg: U8, offsets: npt.NDArray[np.int64], size: int, channels: int, where: str) -> U8:
    if jpeg.ndim != 1 or jpeg.dtype != np.uint8 or offsets.ndim != 1 or offsets.size < 2:
        raise InputError("JPEG bytes and offsets must be one-dimensional", where=where)
    bounds = offsets.astype(np.int64)
    if bounds[0] < 0 or bounds[-1] > jpeg.size or bool((np.diff(bounds) <= 0).any()):
        raise InputError("offsets do not rise within the JPEG bytes", where=where)
    data = jpeg.tobytes()
    count = bounds.size - 1
    out = _allocate(count, size, channels, where)
    for index in range(count):
        blob = data[bounds[index] : bounds[index + 1]]
        out[index] = _pixels(io.BytesIO(blob), size, channels, f"{where}: image {index}")
    return out


def _pixels(source: io.BytesIO | Path, size: int, channels: int, where: str) -> U8:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source) as opened:
                picture = opened.convert("RGB" if channels == 3 else "L")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError,
            Image.DecompressionBombWarning) as error:  # fmt: skip
        raise InputError(f"not a readable image: {error}", where=where) from error
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8).reshape(size, size, channels)


def _from_folder(path: Path, split: str, size: int, channels: int) -> ImageSet:
    root = path / split if (path / split).is_dir() else path
    classes = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = [
        (file, index)
        for index, name in enumerate(classes)
        for file in sorted((root / name).iterdir())
        if file.suffix.lower() in _SUFFIXES
    ]
    if not files:
        raise InputError(
            "holds no images", where=str(root),
            hint="put the images of each class into a subfolder named after it",
        )  # fmt: skip
    images = _allocate(len(files), size, channels, str(root))

    def read(position: int) -> None:
        file = files[position][0]
        images[position] = _pixels(file, size, channels, str(file))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(len(files))))
    labels = np.array([index for _, index in files])
    return _checked(images, labels, tuple(classes), str(root))


def _allocate(count: int, size: int, channels: int, where: str) -> U8:
    if count * size * size * channels > _MAX_PIXEL_BYTES:
        raise InputError(f"{count} images of {size}x{size} do not fit in memory", where=where)
    return np.empty((count, size, size, channels), np.uint8)


def _resized(images: U8, size: int) -> U8:
    if images.shape[1:3] == (size, size):
        return images
    from PIL import Image

    def one(pixels: U8) -> U8:
        picture = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
        scaled = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR), np.uint8)
        return scaled.reshape(size, size, -1)

    return np.stack([one(pixels) for pixels in images])


def _checked(
    images: U8, labels: npt.NDArray[np.generic], classes: tuple[str, ...], where: str
) -> ImageSet:
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.shape[0] != images.shape[0]:
        raise InputError(
            f"labels are {labels.dtype} {list(labels.shape)}, not {images.shape[0]} whole numbers",
            where=where,
        )
    if images.shape[0] == 0:
        raise InputError("holds no images", where=where)
    return ImageSet(images, labels.astype(np.int64), classes)


def check_labels(data: ImageSet, space: SearchSpace, where: str) -> None:
    """Refuse labels outside the space's classes.

    Raises:
        InputError: naming the range found.
    """
    low, high = int(data.labels.min()), int(data.labels.max())
    if low < 0 or high >= space.classes:
        raise InputError(
            f"labels run from {low} to {high}, but {space.name} has {space.classes} classes",
            where=where,
        )


def normalize(images: U8, space: SearchSpace) -> Tensor:
    """Images uint8 [N,H,W,C] to the network's input float32 [N,C,H,W], channels last in memory."""
    import torch

    scale = (1.0 / (255.0 * np.asarray(space.std))).astype(np.float32)
    shift = (-np.asarray(space.mean) / np.asarray(space.std)).astype(np.float32)
    x = torch.from_numpy(np.ascontiguousarray(images)).float()
    x.mul_(torch.from_numpy(scale)).add_(torch.from_numpy(shift))
    return x.permute(0, 3, 1, 2)


def augment(padded: U8, picks: npt.NDArray[np.int64], size: int, rng: np.random.Generator) -> U8:
    """Random crops of ``size`` from padded images [N,P,P,C], half of them mirrored."""
    count, room = picks.shape[0], padded.shape[1] - size
    top = rng.integers(0, room + 1, (count, 1, 1))
    left = rng.integers(0, room + 1, (count, 1, 1))
    steps = np.arange(size)
    mirrored = rng.random((count, 1, 1)) < 0.5
    columns = left + np.where(mirrored, size - 1 - steps, steps)
    rows = top + steps[:, None]
    crops: U8 = padded[picks[:, None, None], rows, columns]
    return crops


def pad(images: U8, pixels: int) -> U8:
    """Reflect the border by ``pixels`` on every side."""
    edges = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
    return np.pad(images, edges, mode="reflect") if pixels else images


def batches(count: int, batch: int) -> Iterator[slice]:
    """Slices of ``batch`` that cover ``count``."""
    for start in range(0, count, batch):
        yield slice(start, min(start + batch, count))
