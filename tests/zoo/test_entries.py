from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeopt import zoo
from edgeopt.core.errors import InputError
from edgeopt.core.files import digest


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / built.name))


def rewrite(folder: Path, change: Callable[[dict], None]) -> None:
    card = json.loads((folder / "card.json").read_text())
    change(card)
    (folder / "card.json").write_text(json.dumps(card))


def replace(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    rewrite(folder, lambda card: card["digests"].update({name: digest(data)}))


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def test_an_entry_loads_by_name(built: Path) -> None:
    assert zoo.names(built.parent) == ("tiny_net",)
    entry = zoo.load("tiny_net", built.parent)
    assert entry.name == "tiny_net" and entry.space.name == "tiny"
    assert entry.calibration.shape == (24, 16, 16, 3)
    assert entry.weights.is_file()
    assert entry.digest == digest((built / "card.json").read_bytes())
    assert entry.int8_loss >= 0
    assert entry.card.training == {"seed": 7}


def test_an_unknown_name_gets_a_near_miss(built: Path) -> None:
    with pytest.raises(InputError, match="no supernet 'tinynet' in the zoo") as caught:
        zoo.load("tinynet", built.parent)
    assert "did you mean tiny_net?" in caught.value.hint


@pytest.mark.parametrize("name", ["..", "../tiny_net", "", "/etc", "tiny_net/"])
def test_a_name_is_not_a_path(built: Path, name: str) -> None:
    with pytest.raises(InputError, match="no supernet"):
        zoo.load(name, built.parent)


@pytest.mark.parametrize(
    "name", ["weights.npz", "calibration.npz", "predictor.json", "space.toml", "evaluations.csv"]
)
def test_a_changed_or_missing_file_is_refused(copied: Path, name: str) -> None:
    path = copied / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InputError, match="is not the file its model card describes") as caught:
        zoo.load_folder(copied)
    assert caught.value.where.endswith(name) and "reinstall" in caught.value.hint
    path.unlink()
    with pytest.raises(InputError, match="no such file of the zoo entry"):
        zoo.load_folder(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema=2), "schema 2 is not supported"),
        (lambda c: c.update(name="other"), "is the card of 'other', not 'tiny_net'"),
        (lambda c: c.update(space="other"), "space is 'tiny', the card says 'other'"),
        (lambda c: c.update(colour="blue"), "unknown field `colour`"),
        (lambda c: c.pop("accuracy"), "missing required field `accuracy`"),
        (lambda c: c["digests"].pop("weights.npz"), "digests do not cover .* weights.npz"),
        (lambda c: c["digests"].update({"../x": "0"}), "digests do not cover .* ../x"),
    ],
)
def test_a_wrong_card_is_refused(
    copied: Path, change: Callable[[dict], None], message: str
) -> None:
    rewrite(copied, change)
    with pytest.raises(InputError, match=message):
        zoo.load_folder(copied)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK", "not readable"),
        (npz(other=np.zeros(3)), "not readable"),
        (npz(images=np.zeros((2, 8, 8, 3), np.uint8)), r"uint8 \[2, 8, 8, 3\], not uint8"),
        (npz(images=np.zeros((2, 16, 16, 3))), "images are float64"),
        (npz(images=np.zeros((0, 16, 16, 3), np.uint8)), r"\[0, 16, 16, 3\]"),
    ],
)
def test_wrong_calibration_images_are_refused(copied: Path, data: bytes, message: str) -> None:
    replace(copied, "calibration.npz", data)
    with pytest.raises(InputError, match=message):
        zoo.load_folder(copied)


def test_a_space_that_is_not_text_is_refused(copied: Path) -> None:
    replace(copied, "space.toml", b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        zoo.load_folder(copied)


@pytest.mark.parametrize("name", zoo.names())
def test_every_shipped_entry_is_sound(name: str) -> None:
    from edgeopt.ofa.checkpoint import load_weights
    from edgeopt.ofa.predictor import load_predictor

    entry = zoo.load(name)
    load_weights(entry.space, entry.weights)
    predictor = load_predictor(entry.predictor, entry.space)
    rows = (entry.folder / "evaluations.csv").read_text().splitlines()[1:]
    accuracies = [float(row.split(",")[3]) for row in rows]
    card = entry.card
    assert len(rows) == card.accuracy.subnets
    assert min(accuracies) == pytest.approx(card.accuracy.minimum, abs=1e-4)
    assert max(accuracies) == pytest.approx(card.accuracy.maximum, abs=1e-4)
    assert predictor.quality.measured == card.prediction.measured == len(rows)
    ends = predictor.predict([entry.space.max_config(), entry.space.min_config()])
    assert ends[0] == pytest.approx(card.accuracy.largest, abs=0.02)
    assert ends[1] == pytest.approx(card.accuracy.smallest, abs=0.02)
