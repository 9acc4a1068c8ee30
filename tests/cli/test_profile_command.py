"""``edgeopt profile`` as a user meets it: summary, report, options that exclude each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Cli

from edgeopt import devices
from edgeopt.devices.transports.local import LocalLink
from edgeopt.latency import protocol
from edgeopt.latency.table import LatencyTable, Measurement, load_table
from edgeopt.pipeline.enumerate import kernels_of_models

QUICK = protocol.Protocol(spread=1.0, drift=1e9, max_settle=3, max_windows=3)


@pytest.fixture
def recorded(tiny_model: Path, tmp_path: Path) -> Path:
    keys = kernels_of_models([tiny_model], ["f32"], devices.load("rpi4").target)
    first, *others = keys
    entries = {key: Measurement(100.0 + key.macs / 8, 1.0, 15, 0, 3) for key in others}
    table = LatencyTable("rpi4", "f" * 16, "edgeopt", "recorded", 1, entries)
    table.save(tmp_path / "recorded.latency.jsonl")
    assert first not in entries
    return tmp_path / "recorded.latency.jsonl"


def test_summary_and_report(cli: Cli, tiny_model: Path, recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.latency.jsonl"
    options = ("--space", "", "--precision", "fp32", "-d", "rpi4", "--replay", recorded, "-o", out)
    done = cli("profile", tiny_model, *options, "-q")
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "5, 5 measured now" in said and "1 kernel: not in the recorded table" in said
    assert "anchor at most 0.0% above its best" in said
    page = tmp_path / "out.latency.html"
    assert str(page) in done.out and "Latency against work" in page.read_text()
    again = cli("profile", tiny_model, *options, "--json", "--force", "--no-report")
    document = json.loads(again.out)
    assert document["kernels"] == 5 and list(document["skipped"].values()) == [
        "not in the recorded table"
    ]
    assert document["faults"] == [] and document["hints"] == [] and document["truth"] is None
    named = tmp_path / "named.html"
    assert cli("profile", tiny_model, *options, "--force", "-q", "--report", named).code == 0
    assert named.is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--meter", "tvm", "--runtime", "edgeopt"), "--meter and --runtime say the same"),
        (("--meter", "tvm,otr"), "unknown meter 'otr'"),
        (("--meter", "tvm,ort", "-o", "x"), "two meters write two tables"),
        (("--cpu", "first", "--space", "cifar"), "'first' is no processor"),
        (("-d", "rpi4"), "cannot be timed on this machine"),
        (("-d", "rpi4", "--host", "a b"), "--host"),
        (("--new", "--name", "My Board"), "'My Board' is no name of a device"),
    ],
)
def test_wrong_options(cli: Cli, options: tuple[str, ...], message: str) -> None:
    outcome = cli("profile", *options)
    assert outcome.code == 2 and message in " ".join(outcome.err.split())


def test_new_profiles_are_shown(cli: Cli, tmp_path: Path) -> None:
    done = cli("profile", "--new", "--name", "mine", "--out", tmp_path)
    assert done.code == 0 and "measured: /proc/meminfo: MemTotal" in done.out
    assert devices.load(tmp_path / "mine").name == "mine"
    again = cli("profile", "--new", "--name", "mine", "--out", tmp_path, "--json", "--force")
    assert json.loads(again.out)["name"] == "mine"
    assert cli("profile", "--new", "--name", "mine", "--out", tmp_path).code == 2


@pytest.mark.slow
def test_one_meter_goes_on_where_the_other_cannot(
    cli: Cli, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, needs_tool: Callable[[str], str],
    tmp_path: Path,
) -> None:  # fmt: skip
    needs_tool("gcc")
    cli("profile", "--new", "--name", "lacking", "--out", tmp_path)
    honest = LocalLink.facts
    monkeypatch.setattr(LocalLink, "facts", lambda link: replace(honest(link), onnxruntime=None))
    monkeypatch.setattr(protocol, "Protocol", lambda: QUICK)
    done = cli(
        "profile", tiny_model, "-d", tmp_path / "lacking", "--space", "", "--precision", "fp32",
        "--transport", "local", "--meter", "ort,tvm", "--no-tiles", "-q", "--no-report",
    )  # fmt: skip
    assert done.code == 4 and "-m pip install onnxruntime" in done.err
    path = next(word for word in done.out.split() if word.endswith(".latency.jsonl"))
    assert len(load_table(Path(path)).entries) == 6
