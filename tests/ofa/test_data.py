from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeopt.core.errors import InputError
from edgeopt.core.space import SearchSpace
from edgeopt.ofa.data import augment, check_labels, load_images, normalize, pad

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 3, 0, 1])


def _save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_npz_of_pixels(tmp_path: Path) -> None:
    path = _save(tmp_path / "d.npz", images=PIXELS, labels=LABELS)
    data = load_images(path, "test", 16)
    assert np.array_equal(data.images, PIXELS)
    assert np.array_equal(data.labels, LABELS)
    assert len(data.head(2)) == 2
    assert load_images(path, "test", 8).images.shape == (6, 8, 8, 3)
    path = _save(
        tmp_path / "s.npz", train_images=PIXELS, train_labels=LABELS, test_images=PIXELS[:2],
        test_labels=LABELS[:2], classes=np.array(["a", "b", "c", "d"]),
    )  # fmt: skip
    data = load_images(path, "test", 16)
    assert (len(data), data.classes) == (2, ("a", "b", "c", "d"))


def test_npz_of_jpegs(tmp_path: Path) -> None:
    blobs = []
    for pixels in PIXELS:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        blobs.append(stream.getvalue())
    path = _save(
        tmp_path / "j.npz",
        test_jpeg=np.frombuffer(b"".join(blobs), np.uint8),
        test_offsets=np.cumsum([0, *map(len, blobs)]),
        test_labels=LABELS,
    )
    assert np.array_equal(load_images(path, "test", 16).images, PIXELS)


def test_folder_of_images(tmp_path: Path) -> None:
    for index, pixels in enumerate(PIXELS):
        folder = tmp_path / "test" / ("cat" if index % 2 else "ant")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (tmp_path / "test" / "ant" / "notes.txt").write_text("not an image")
    data = load_images(tmp_path, "test", 16)
    assert data.classes == ("ant", "cat")
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(data.images, PIXELS[[0, 2, 4, 1, 3, 5]])
    assert load_images(tmp_path, "test", 16, channels=1).images.shape == (6, 16, 16, 1)


def test_cifar_reads(data_dir: Path) -> None:
    data = load_images(data_dir / "cifar10" / "cifar10_jpeg.npz", "test", 32)
    assert data.images.shape == (10_000, 32, 32, 3)
    assert np.bincount(data.labels).tolist() == [1000] * 10
    assert data.classes[3] == "cat"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS}, "holds no labels for the split 'test'"),
        ({"labels": LABELS}, "holds no images for the split 'test'"),
        ({"images": PIXELS.astype(np.float32), "labels": LABELS}, "images are float32"),
        ({"images": PIXELS[..., 0], "labels": LABELS}, r"not uint8 \[N,H,W,3\]"),
        ({"images": PIXELS, "labels": LABELS[:3]}, "not 6 whole numbers"),
        ({"images": PIXELS, "labels": LABELS * 1.0}, "labels are float64"),
        ({"images": PIXELS[:0], "labels": LABELS[:0]}, "holds no images"),
        ({"images": np.array([{}]), "labels": LABELS}, "not a readable npz file"),
        (
            {"jpeg": np.zeros(9, np.uint8), "offsets": np.array([0, 99]), "labels": LABELS[:1]},
            "offsets do not rise within the JPEG bytes",
        ),
        (
            {"jpeg": np.zeros((3, 3), np.uint8), "offsets": np.array([0, 9]), "labels": LABELS[:1]},
            "must be one-dimensional",
        ),
        (
            {"jpeg": np.zeros(9, np.uint8), "offsets": np.array([0, 9]), "labels": LABELS[:1]},
            "image 0: not a readable image",
        ),
    ],
)
def test_bad_npz_files_are_refused(tmp_path: Path, arrays: Any, message: str) -> None:
    path = _save(tmp_path / "d.npz", **arrays)
    with pytest.raises(InputError, match=message):
        load_images(path, "test", 16)


def test_other_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        load_images(tmp_path / "none", "test", 16)
    (tmp_path / "d.csv").write_text("1,2")
    with pytest.raises(InputError, match="not a data set"):
        load_images(tmp_path / "d.csv", "test", 16)
    (tmp_path / "d.npz").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not a readable npz file"):
        load_images(tmp_path / "d.npz", "test", 16)
    (tmp_path / "folder" / "a").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no images"):
        load_images(tmp_path / "folder", "test", 16)
    (tmp_path / "folder" / "a" / "x.png").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"x\.png: not a readable image"):
        load_images(tmp_path / "folder", "test", 16)


def test_labels_outside_the_space_are_refused(tiny: SearchSpace, tmp_path: Path) -> None:
    data = load_images(_save(tmp_path / "d.npz", images=PIXELS, labels=LABELS + 1), "test", 16)
    with pytest.raises(InputError, match="labels run from 1 to 4, but tiny has 4 classes"):
        check_labels(data, tiny, "d.npz")


def test_normalization(tiny: SearchSpace) -> None:
    x = normalize(PIXELS, tiny).numpy()
    expected = (PIXELS / 255 - np.array(tiny.mean)) / np.array(tiny.std)
    assert x.shape == (6, 3, 16, 16)
    assert np.allclose(x, expected.transpose(0, 3, 1, 2), atol=1e-5)


def test_augmentation_crops_and_mirrors() -> None:
    padded = pad(PIXELS, 2)
    assert padded.shape == (6, 20, 20, 3)
    assert np.array_equal(padded[:, 2:-2, 2:-2], PIXELS)
    picks = np.array([3, 3, 0, 5] * 20)
    crops = augment(padded, picks, 16, np.random.default_rng(1))
    assert np.array_equal(crops, augment(padded, picks, 16, np.random.default_rng(1)))
    seen = set()
    for pick, crop in zip(picks, crops, strict=True):
        found = [
            (top, left, mirrored)
            for top in range(5)
            for left in range(5)
            for mirrored in (False, True)
            if np.array_equal(
                crop, padded[pick, top : top + 16, left : left + 16][:, :: -1 if mirrored else 1]
            )
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 30
