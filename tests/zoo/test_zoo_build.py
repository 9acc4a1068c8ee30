from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeopt import zoo
from edgeopt.core.errors import InputError
from edgeopt.core.files import digest
from edgeopt.ofa.distill import DistillOptions
from edgeopt.ofa.predictor import load_predictor
from edgeopt.pipeline.zoo import ZooOptions, build_entry, main

OPTIONS = ZooOptions(
    subnets=26, fresh=3, real_images=40, anchors=2, int8_subnets=2, workers=1,
    distill=DistillOptions(images=24, steps=4, batch=12),
)  # fmt: skip


def test_the_card_states_what_the_table_holds(built: Path) -> None:
    card = zoo.load_folder(built).card
    rows = [line.split(",") for line in (built / "evaluations.csv").read_text().splitlines()]
    assert rows[0] == ["subnet", "right", "images", "accuracy"]
    right = {row[0]: int(row[1]) for row in rows[1:]}
    space = zoo.load_folder(built).space
    assert len(right) == card.accuracy.subnets == 28
    assert {row[2] for row in rows[1:]} == {"60"}
    assert card.accuracy.largest == right[str(space.max_config())] / 60
    assert card.accuracy.smallest == right[str(space.min_config())] / 60
    assert card.accuracy.maximum == max(right.values()) / 60
    assert card.macs_largest > card.macs_smallest > 0
    assert card.calibration.subnets == 3 and card.calibration.real_images == 40
    assert card.calibration.mean_loss == pytest.approx(
        card.calibration.real_mean - card.calibration.shipped_mean
    )


def test_int8_rows_compare_like_with_like(built: Path) -> None:
    card = zoo.load_folder(built).card
    assert card.int8 is not None and len(card.int8.rows) == 2
    table = {
        line.split(",")[0]: float(line.split(",")[3])
        for line in (built / "evaluations.csv").read_text().splitlines()[1:]
    }
    for row in card.int8.rows:
        assert row.fp32 == pytest.approx(table[row.subnet], abs=1e-4)
    assert card.int8.worst_loss == max(r.fp32 - r.int8 for r in card.int8.rows)


def test_the_page_says_what_the_card_says(built: Path) -> None:
    page = (built / "README.md").read_text()
    card = zoo.load_folder(built).card
    assert f"| largest subnet | {card.accuracy.largest:.2%} |" in page
    assert "- seed: 7" in page and "- weights: Apache-2.0" in page
    assert "a, b, c, d" in page


def test_building_again_uses_what_is_there_and_gives_the_same(
    built: Path, ingredients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "edgeopt.pipeline.zoo_build.distill_images", lambda *_: pytest.fail("again")
    )
    monkeypatch.setattr("edgeopt.ofa.evaluate.count_right", lambda *_: pytest.fail("again"))
    out = tmp_path / "tiny_net"
    build_entry(
        ingredients / "space.toml", ingredients / "weights.npz", ingredients / "data.npz", out,
        work=ingredients / "work", options=OPTIONS, training={"seed": 7},
        licences={"weights": "Apache-2.0"},
    )  # fmt: skip
    for path in built.iterdir():
        if path.suffix != ".npz":
            assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    assert np.array_equal(zoo.load_folder(out).calibration, zoo.load_folder(built).calibration)


def test_the_predictor_is_of_the_entry(built: Path) -> None:
    entry = zoo.load_folder(built)
    assert load_predictor(entry.predictor, entry.space).quality.measured == 28
    assert entry.card.digests["predictor.json"] == digest(entry.predictor)


def test_labels_beyond_the_classes_are_refused(ingredients: Path, tmp_path: Path) -> None:
    images = np.zeros((4, 16, 16, 3), np.uint8)
    labels = np.array([0, 1, 2, 9])
    np.savez(
        tmp_path / "data.npz", train_images=images, train_labels=labels, test_images=images,
        test_labels=labels,
    )  # fmt: skip
    with pytest.raises(InputError, match="labels run from 0 to 9"):
        build_entry(
            ingredients / "space.toml", ingredients / "weights.npz", tmp_path / "data.npz",
            tmp_path / "x", work=tmp_path / "work", options=OPTIONS,
        )  # fmt: skip
    assert not (tmp_path / "x").exists()


def test_the_command_line_reports_what_is_wrong(
    ingredients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(
        ["--space", str(tmp_path / "none.toml"), "--weights", "w", "--data", "d",
         "--out", str(tmp_path / "o"), "--work", str(tmp_path / "w")]
    )  # fmt: skip
    assert code == 2
    assert "no such search space" in capsys.readouterr().err


def test_what_training_was_like_is_taken_from_a_file(
    built: Path, ingredients: Path, tmp_path: Path
) -> None:
    about = tmp_path / "about.json"
    about.write_text(json.dumps({"training": {"epochs": 3}, "licences": {"data": "none"}}))
    out = tmp_path / "again"
    code = main(
        ["--space", str(ingredients / "space.toml"), "--weights", str(ingredients / "weights.npz"),
         "--data", str(ingredients / "data.npz"), "--out", str(out), "--about", str(about),
         "--work", str(tmp_path / "work"), "--subnets", "22", "--int8-subnets", "0",
         "--test-images", "20", "--workers", "1", "--distill-steps", "2"]
    )  # fmt: skip
    assert code == 0
    card = zoo.load_folder(out).card
    assert card.training == {"epochs": 3} and card.int8 is None
    assert card.accuracy.images == 20
