"""`profile` on a board that a link reaches: this machine over its own link, as any board."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from edgeopt import devices
from edgeopt.core.errors import InputError, ToolError
from edgeopt.devices import transports
from edgeopt.devices.transports import BoardFacts
from edgeopt.devices.transports.local import LocalLink
from edgeopt.latency import protocol
from edgeopt.latency.table import load_table
from edgeopt.pipeline.boards import Reach
from edgeopt.pipeline.profile import ProfileRequest, parse_meters, profile

MODEL = Path(__file__).resolve().parents[1] / "models" / "tiny_cnn.onnx"
OVER_A_LINK = Reach(transport="local")
QUICK = protocol.Protocol(spread=1.0, drift=1e9, max_settle=3, max_windows=3)


@pytest.fixture(autouse=True)
def quick(stage_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE_DIR", str(stage_cache))
    monkeypatch.setattr(protocol, "Protocol", lambda: QUICK)


@pytest.fixture
def request_(tmp_path: Path) -> ProfileRequest:
    return ProfileRequest(
        device="local", space="", models=(MODEL,), reach=OVER_A_LINK, precisions=("f32",),
        out=tmp_path / "out.latency.jsonl", networks=0, tiles=False,
    )  # fmt: skip


def test_both_meters_fill_tables_over_a_link(
    request_: ProfileRequest, needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    needs_tool("gcc")
    stages: list[str] = []

    def progress(event: str, fields: Mapping[str, object]) -> None:
        if event == "end":
            stages.append(str(fields["text"]))

    ours = profile(request_, progress)
    assert "over this machine" in stages[0]
    assert ours.measured == 6 and not ours.skipped
    conditions = load_table(ours.path).conditions
    assert conditions["board"] == "this machine" and conditions["pinned_cpu"].isdecimal()
    assert conditions["board_core"] == devices.load("local").mcpu
    assert "board_lock" not in conditions
    theirs = profile(replace(request_, runtime="onnxruntime", out=tmp_path / "ort.latency.jsonl"))
    table = load_table(theirs.path)
    import onnxruntime

    assert (table.runtime, table.runtime_version) == ("onnxruntime", onnxruntime.__version__)
    assert set(table.entries) < set(ours.table.entries) and len(table.entries) == 5
    assert list(theirs.skipped.values()) == ["no ONNX model can be made of this kernel"]
    assert not list(Path(tmp_path).glob("**/*.journal"))


def test_a_processor_that_is_not_permitted_is_recorded(
    request_: ProfileRequest, needs_tool: Callable[[str], str]
) -> None:
    needs_tool("gcc")
    report = profile(replace(request_, reach=Reach(transport="local", cpu="1000")))
    told = report.table.conditions["pinned_cpu"]
    assert told == "none: the board did not permit processor 1000"
    for text in ("-1", "two", "99999"):
        with pytest.raises(InputError, match="is no processor"):
            profile(replace(request_, reach=Reach(transport="local", cpu=text), force=True))


@pytest.mark.parametrize(
    ("facts", "message", "hint"),
    [
        ({"python3": None}, "no python3 on the board", "apt-get install -y python3-pip"),
        ({"onnxruntime": None}, "has no onnxruntime", "/python3 -m pip install onnxruntime"),
    ],
)
def test_what_onnxruntime_needs_is_named(
    request_: ProfileRequest, monkeypatch: pytest.MonkeyPatch, facts: dict[str, None],
    message: str, hint: str,
) -> None:  # fmt: skip
    whole = BoardFacts("x86_64", python3="/usr/bin/python3", onnxruntime="1.2")
    monkeypatch.setattr(LocalLink, "facts", lambda self: replace(whole, **facts))
    with pytest.raises(ToolError, match=message) as caught:
        profile(replace(request_, runtime="onnxruntime"))
    assert hint in caught.value.hint and "--meter tvm" in caught.value.hint
    assert caught.value.where == "this machine"


def test_another_board_than_the_profile_says(
    request_: ProfileRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = replace(request_, device="rpi4")
    with pytest.raises(InputError, match="the board is x86_64, the profile rpi4 is aarch64"):
        profile(request)
    local = devices.load("local")
    able = replace(local, features=local.features | {"amx-int8"})
    monkeypatch.setattr(devices, "load", lambda *args: able)
    with pytest.raises(InputError, match="the board has no amx-int8, which the profile local"):
        profile(request_)


def test_emulated_times_are_kept_apart(
    request_: ProfileRequest, needs_tool: Callable[[str], str]
) -> None:
    needs_tool("qemu-aarch64")
    request = replace(request_, device="rpi4", reach=Reach(transport="qemu_user"), out=None)
    with pytest.raises(InputError, match="under an emulator say nothing") as caught:
        profile(request)
    assert "--out" in caught.value.hint


def test_two_profilers_refuse_each_other(request_: ProfileRequest, tmp_path: Path) -> None:
    from edgeopt.latency.lock import BoardBusyError, BoardLock
    from edgeopt.latency.meters.session import Session

    session = Session(lambda: transports.open_link(devices.load("local")))
    other = BoardLock(session)
    assert other.take() == ""
    try:
        with pytest.raises(BoardBusyError, match="another profiler measures on it"):
            profile(request_)
    finally:
        other.release()
        session.close()


def test_meters_have_names() -> None:
    assert parse_meters("tvm, ort,tvm") == ("edgeopt", "onnxruntime")
    with pytest.raises(InputError, match="unknown meter 'otr'") as caught:
        parse_meters("otr")
    assert "ort" in caught.value.hint


@pytest.mark.slow
def test_whole_networks_under_a_boards_onnxruntime(
    tmp_path: Path, needs_tool: Callable[[str], str]
) -> None:
    from edgeopt.latency.lock import NAME
    from edgeopt.ofa.spaces import load_space
    from edgeopt.pipeline.boards import open_board
    from edgeopt.pipeline.enumerate import lowered, subnets
    from edgeopt.pipeline.ort_networks import BoardOrtNetworks

    space = load_space("cifar")
    (config,) = subnets(space, 1, 0)
    graphs = {precision: lowered(space, config, precision) for precision in ("f32", "i8")}
    device = devices.load("local")
    with open_board(device, OVER_A_LINK, tmp_path / "locks") as board:
        networks = BoardOrtNetworks(graphs, board, min_us=500, runs=5)
        for name in graphs:
            visit = networks(name)
            assert len(visit.samples_ns) == len(visit.anchors_ns) >= 5
            assert 1e3 < min(visit.samples_ns) < 1e9 and min(visit.anchors_ns) > 0
        networks.close()
        held = Path(tempfile.gettempdir()) / NAME
        assert held.is_symlink()
    assert not held.is_symlink()
