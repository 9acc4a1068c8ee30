"""Elastic zoo entries: built without training from a tiny fp32 entry, loaded, refused."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgeopt import zoo
from edgeopt.core.errors import InputError
from edgeopt.core.files import digest
from edgeopt.core.space import SubnetConfig
from edgeopt.ofa.distill import DistillOptions
from edgeopt.ofa.plans import BlockPlan, average_bits, read_evaluations
from edgeopt.pipeline.elastic_files import load_elastic
from edgeopt.pipeline.elastic_pairs import weight_bytes
from edgeopt.pipeline.zoo_elastic import ElasticOptions, build_elastic, main
from edgeopt.zoo import elastic

OPTIONS = ElasticOptions(
    pairs=10, exact_subnets=2, compared=2, compared_images=20, real_images=30, plan_images=20,
    anchors=3, workers=1, distill=DistillOptions(images=24, steps=6, batch=8),
)  # fmt: skip


@pytest.fixture(scope="session")
def quantized(built: Path, ingredients: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("zoo") / "tiny_net_q"
    build_elastic(
        zoo.load_folder(built), None, None, ingredients / "data.npz", out,
        work=ingredients / "elastic", options=OPTIONS, training={"seed": 7},
        licences={"weights": "Apache-2.0"},
    )  # fmt: skip
    return out


@pytest.fixture
def copied(quantized: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(quantized, tmp_path / "tiny_net_q"))


def test_the_card_states_what_was_counted(quantized: Path, built: Path) -> None:
    entry = elastic.load("tiny_net_q", quantized.parent)
    card, space = entry.card, entry.space
    assert not card.trained and card.base == "tiny_net"
    kinds = ["w8", "w4", "w3", "w2", "mixed 4", "mixed 3.5", "mixed 3"]
    assert [row.kind for row in card.rows] == 2 * kinds
    assert {row.subnet for row in card.rows} == {str(space.min_config()), str(space.max_config())}
    for row in card.rows:
        config, plan = SubnetConfig.parse(row.subnet), BlockPlan.parse(row.plan)
        assert row.images == 60 and 0 <= row.accuracy <= 1
        assert row.average_bits == average_bits(space, config, plan)
        assert row.weight_bytes == weight_bytes(space, config, plan)
        if row.kind.startswith("mixed"):
            assert set(plan.genes) <= {2, 4, 8}
        assert row.weights_only is not None and 0 <= row.weights_only <= 1
    lost = statistics.fmean((row.weights_only or 0) - row.accuracy for row in card.rows)
    assert card.activation_loss == pytest.approx(max(0.0, lost))
    unknown = tuple(msgspec.structs.replace(row, weights_only=None) for row in card.rows)
    assert msgspec.structs.replace(card, rows=unknown).activation_loss is None
    by_kind = {row.kind: row.weight_bytes for row in card.rows[:4]}
    assert by_kind["w8"] > by_kind["w4"] == by_kind["w3"] > by_kind["w2"]
    rows = read_evaluations(entry.evaluations, space)
    assert len(rows) == card.pairs >= 10
    load_elastic(space, entry.weights, entry.quantizers)
    assert len(entry.calibration) == card.calibration_images == 24
    assert not np.array_equal(entry.calibration, zoo.load_folder(built).calibration)
    page = (quantized / "README.md").read_text()
    assert "without training" in page and "- seed: 7" in page
    assert f"{card.rows[0].accuracy:.2%}" in page


def test_building_again_uses_what_is_there(
    quantized: Path, built: Path, ingredients: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    again = "edgeopt.pipeline.zoo_elastic.count_exactly"
    monkeypatch.setattr(again, lambda *_: pytest.fail("counted again"))
    monkeypatch.setattr("edgeopt.pipeline.elastic_evaluate.count_right", lambda *_: pytest.fail(""))
    build_elastic(
        zoo.load_folder(built), None, None, ingredients / "data.npz", tmp_path / "tiny_net_q",
        work=ingredients / "elastic", options=OPTIONS, training={"seed": 7},
        licences={"weights": "Apache-2.0"},
    )  # fmt: skip
    first, second = (elastic.load_folder(f) for f in (quantized, tmp_path / "tiny_net_q"))
    assert first.card.rows == second.card.rows
    assert first.evaluations == second.evaluations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema=9), "schema 9 is not supported"),
        (lambda c: c.update(name="other"), "is the card of 'other', not 'tiny_net_q'"),
        (lambda c: c.update(space="other"), "space is 'tiny', the card says 'other'"),
        (lambda c: c.update(colour="blue"), "unknown field `colour`"),
        (lambda c: c["digests"].pop("quantizers.npz"), "digests do not cover .* quantizers.npz"),
        (lambda c: c["digests"].update({"../x": "0"}), "digests do not cover .*../x"),
        (lambda c: c["digests"].update({"weights.npz": "0"}), "is not the file its model card"),
    ],
)
def test_a_wrong_card_is_refused(
    copied: Path, change: Callable[[dict[str, object]], None], message: str
) -> None:
    card = json.loads((copied / elastic.CARD).read_text())
    change(card)
    (copied / elastic.CARD).write_text(json.dumps(card))
    with pytest.raises(InputError, match=message):
        elastic.load_folder(copied)


def test_a_predictor_may_be_added(copied: Path) -> None:
    assert elastic.load_folder(copied).predictor is None
    (copied / "predictor.json").write_bytes(b"{}")
    card = json.loads((copied / elastic.CARD).read_text())
    card["digests"]["predictor.json"] = digest(b"{}")
    (copied / elastic.CARD).write_text(json.dumps(card))
    assert elastic.load_folder(copied).predictor == b"{}"


def test_an_unknown_name_gets_a_near_miss(quantized: Path) -> None:
    with pytest.raises(InputError, match="no elastic supernet 'tiny_net_p'") as caught:
        elastic.load("tiny_net_p", quantized.parent)
    assert "tiny_net_q" in caught.value.hint


def test_the_command_says_what_is_wrong(
    ingredients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", "none.npz", "--out", str(tmp_path / "q"), "--work", str(tmp_path / "w")]
    assert main(["--base", "zoo:none", *arguments]) == 2
    assert "no supernet 'none' in the zoo" in capsys.readouterr().err
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize("name", elastic.names())
def test_every_shipped_entry_is_sound(name: str) -> None:
    entry = elastic.load(name)
    load_elastic(entry.space, entry.weights, entry.quantizers)
    rows = read_evaluations(entry.evaluations, entry.space)
    assert len(rows) == entry.card.pairs
    assert {row.images for row in rows} == {entry.card.pair_images}
    assert len({row.subnet for row in entry.card.rows}) >= 5
