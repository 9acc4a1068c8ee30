"""Estimates from cost figures: shipped boards and mistakes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from keys import depthwise, pointwise

from edgeopt import devices
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import LatencyModel, Source
from edgeopt.core.kernels import KERNEL_OPS, OpKey
from edgeopt.latency import model_digest
from edgeopt.latency.analytic import CLASS_OF, load_analytic

BOARDS = [
    name
    for name in devices.available()
    if name != "local" and (devices.shipped_dir() / name / "latency.toml").is_file()
]


PRECISIONS = [(name, p) for name in BOARDS for p in devices.load(name).precisions]


def test_every_operator_has_a_class() -> None:
    assert set(CLASS_OF) == KERNEL_OPS


@pytest.mark.parametrize(("name", "dtype"), PRECISIONS)
def test_every_board_estimates_every_operator(name: str, dtype: str) -> None:
    model: LatencyModel = load_analytic(devices.load(name))
    for op in sorted(KERNEL_OPS):
        variant = "e32.relu" if op == "irb" else ""
        key = OpKey(op, (8, 8, 16), (8, 8, 16), dtype=dtype, out_dtype=dtype, variant=variant)
        estimate = model.predict([key])
        assert 0 < estimate.low < estimate.value < estimate.high
        assert estimate.source is Source.ESTIMATED and estimate.coverage == 0
        assert estimate.how.startswith("estimated")
        assert model.predict([key, key]).value == pytest.approx(2 * estimate.value)


def test_more_work_takes_longer() -> None:
    for name in BOARDS:
        model, dtype = load_analytic(devices.load(name)), devices.load(name).precisions[-1]
        small, large = model.predict_each(
            [pointwise(8, 16, 32, dtype), pointwise(8, 32, 64, dtype)]
        )
        assert small.value < large.value
        three, seven = model.predict_each([depthwise(8, 16, 3, dtype), depthwise(8, 16, 7, dtype)])
        assert three.value < seven.value


def test_a_block_costs_what_its_parts_do() -> None:
    block = OpKey(
        "irb", (8, 8, 16), (4, 4, 24), kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1),
        variant="e64.relu6",
    )  # fmt: skip
    model = load_analytic(devices.load("nucleo-l4r5zi"))
    parts = model.predict(block.parts)
    assert model.predict([block]).value == pytest.approx(parts.value)


def test_cortex_m4_against_published_instruction_counts() -> None:
    """DS-CNN of MLPerf Tiny: 8,440,000 instructions (microTVM with CMSIS-NN), 99.8 ms."""

    def i8(op: str, *args: object, **more: object) -> OpKey:
        return OpKey(op, *args, dtype="i8", out_dtype="i8", **more)  # type: ignore[arg-type]

    block = [
        i8("depthwise", (25, 5, 64), (25, 5, 64), kernel=(3, 3), pads=(1, 1, 1, 1), groups=64),
        i8("pointwise", (25, 5, 64), (25, 5, 64)),
    ]  # fmt: skip
    network = [
        i8("conv2d", (49, 10, 1), (25, 5, 64), kernel=(10, 4), strides=(2, 2)),
        *block * 4,
        i8("global_avgpool", (25, 5, 64), (1, 1, 64)),
        i8("linear", (64,), (12,)),
    ]
    estimate = load_analytic(devices.load("nucleo-l4r5zi")).predict(network)
    assert estimate.value == pytest.approx(99.8e6, rel=0.25)
    assert estimate.low <= 62.9e6 and estimate.high >= 99.8e6


def test_a_board_without_figures(tmp_path: Path) -> None:
    profile = replace(devices.load("nucleo-l4r5zi"), folder=tmp_path)
    with pytest.raises(InputError, match="neither a measured table nor latency figures"):
        load_analytic(profile)


def test_digest_follows_the_figures(tmp_path: Path) -> None:
    board = devices.load("nucleo-l4r5zi")
    before = model_digest(load_analytic(board))
    assert before == model_digest(load_analytic(board))
    path = tmp_path / "latency.toml"
    path.write_text(shipped("nucleo-l4r5zi").read_text().replace("per_mac = ", "per_mac = 1", 1))
    assert model_digest(load_analytic(board, path)) != before


def shipped(name: str) -> Path:
    return devices.shipped_dir() / name / "latency.toml"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema = 1", "schema = 2", "schema: 2 is not known"),
        ('unit = "cycles"', 'unit = "ms"', "unknown value 'ms'"),
        ("per_mac = ", "per_mca = ", "per_mac is missing"),
        ("per_mac = ", "per_mac = -", "is not between 0 and"),
        ("low = 0.5", "low = 1.5", "1.5 is not between 0 and 1"),
        ("threads = 1", "threads = 0", "0 is not between 1 and"),
        ("[f32.movement]", "[f32.movements]", "movement is missing"),
        ('how = "', 'howw = "', "how is missing"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "latency.toml"
    path.write_text(shipped("nucleo-l4r5zi").read_text().replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        load_analytic(devices.load("nucleo-l4r5zi"), path)
    assert message in caught.value.what
    assert re.match(rf"{re.escape(str(path))}(:\d+)?$", caught.value.where)


def test_a_class_that_costs_nothing(tmp_path: Path) -> None:
    text = shipped("nucleo-l4r5zi").read_text()
    cut = re.sub(r"(\[i8.movement\]\n)per_call = .*\nper_activation_byte = .*\n", r"\1", text)
    assert cut != text
    (tmp_path / "latency.toml").write_text(cut)
    with pytest.raises(InputError, match="costs nothing at all"):
        load_analytic(devices.load("nucleo-l4r5zi"), tmp_path / "latency.toml")


def test_precision_missing_from_the_figures(tmp_path: Path) -> None:
    text = shipped("nucleo-l4r5zi").read_text()
    (tmp_path / "latency.toml").write_text(text[: text.index("[i8.interval]")])
    model = load_analytic(devices.load("nucleo-l4r5zi"), tmp_path / "latency.toml")
    with pytest.raises(InputError, match="no latency figures for i8 kernels") as caught:
        model.predict([pointwise(8, 16, 16, "i8")])
    assert "figures exist for f32" in caught.value.hint
