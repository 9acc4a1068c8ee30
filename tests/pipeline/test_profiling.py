"""Profiling a device: what is measured, replayed, kept, refused."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from edgeopt import devices, latency
from edgeopt.codegen import schedules
from edgeopt.core.errors import BoardError, InputError
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec
from edgeopt.latency.model import TableModel
from edgeopt.latency.table import LatencyTable, Measurement, load_table
from edgeopt.ofa.spaces import load_space
from edgeopt.pipeline import enumerate as kernels
from edgeopt.pipeline import kernel_programs, local_table
from edgeopt.pipeline.cache import StageCache
from edgeopt.pipeline.kernel_constants import constants_of, input_bytes_of
from edgeopt.pipeline.kernel_programs import KernelPrograms, LocalProgram
from edgeopt.pipeline.kernel_store import codegen_version
from edgeopt.pipeline.local_table import QUICK, model_for, quick_table
from edgeopt.pipeline.network_times import NetworkLog, ProgramNetworks, Rules, measure, read_visit
from edgeopt.pipeline.profile import ProfileRequest, parse_precisions, profile

MODELS = Path(__file__).resolve().parents[1] / "models"
SPACE = load_space("cifar")
HOST = TargetSpec(
    arch="x86_64", triple="x86_64-linux-gnu", mcpu="x86-64-v3",
    features=frozenset({"avx2", "fma"}), vector_bits=256, vector_registers=16,
    l1d_bytes=32768, l2_bytes=524288, cores=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def all_keys() -> tuple[OpKey, ...]:
    return kernels.kernels_of_space(SPACE, ("f32", "i8"))


@pytest.fixture
def recorded(all_keys: tuple[OpKey, ...], tmp_path: Path) -> Path:
    entries = {key: Measurement(100.0 + key.macs / 8, 1.0, 15, 0, 3) for key in all_keys}
    table = LatencyTable("rpi4", "f" * 16, "edgeopt", "recorded", 1, entries)
    table.save(tmp_path / "recorded.latency.jsonl")
    return tmp_path / "recorded.latency.jsonl"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEOPT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_subnet_is_made_of_the_enumerated_kernels(all_keys: tuple[OpKey, ...]) -> None:
    known = set(all_keys)
    source = random.Random(99)
    for _ in range(100):
        config = SPACE.sample(source)
        for precision in ("f32", "i8"):
            assert set(kernels.lowered(SPACE, config, precision).keys) <= known


def test_subnets_are_distinct_and_grow(all_keys: tuple[OpKey, ...]) -> None:
    few, more = kernels.subnets(SPACE, 8, 3), kernels.subnets(SPACE, 20, 3)
    assert more[:8] == few and len(set(map(str, more))) == 20


def test_spread_covers_every_kind(all_keys: tuple[OpKey, ...]) -> None:
    chosen = kernels.spread(all_keys, 32)
    assert len(chosen) <= 60
    assert {(k.op, k.precision) for k in all_keys} - {(k.op, k.precision) for k in chosen} == set()
    work = sorted(k.macs for k in all_keys if k.op == "pointwise")
    picked = [k.macs for k in chosen if k.op == "pointwise"]
    assert min(picked) == work[0] and max(picked) == work[-1]


def test_made_up_constants_fit_every_template(all_keys: tuple[OpKey, ...]) -> None:
    extra = [
        OpKey("add", (4, 4, 8), (4, 4, 8), variant="channel", dtype=d, out_dtype=d)
        for d in ("f32", "i8")
    ] + [
        OpKey("concat", (4, 4, 8), (4, 4, 24), inputs=2, variant="axis2.8-16", dtype=d, out_dtype=d)
        for d in ("f32", "i8")
    ]
    for key in (*all_keys, *extra):
        template = schedules.select(key, HOST)
        assert template is not None, key
        packed = template.pack(key, HOST, constants_of(key))
        function = template.function(key, HOST)
        assert set(packed) == {arg.name for arg in function.args if arg.kind == "const"}
        given = [arg for arg in function.args if arg.kind in ("input", "residual")]
        assert len(input_bytes_of(key)) == len(given)


def test_replay_needs_no_hardware(recorded: Path, tmp_path: Path) -> None:
    events: list[str] = []

    def progress(event: str, fields: Mapping[str, object]) -> None:
        if event == "end":
            events.append(str(fields["stage"]))

    out = tmp_path / "out.latency.jsonl"
    request = ProfileRequest(device="rpi4", replay=recorded, out=out)
    report = profile(request, progress)
    assert events == ["device", "enumerate", "measure", "networks", "table"]
    table = load_table(out)
    assert table == report.table
    assert set(table.entries) == set(load_table(recorded).entries)
    assert table.fingerprint == devices.load("rpi4").fingerprint
    assert not list(tmp_path.glob("*.journal"))
    again = profile(request)
    assert again.measured == 0 and again.table == table
    assert profile(replace(request, force=True)).measured == len(table.entries)


def test_a_table_is_found_and_used(recorded: Path) -> None:
    pi = devices.load("rpi4")
    before = latency.load_model(pi).predict([OpKey("linear", (64,), (10,))])
    assert before.coverage == 0
    profile(ProfileRequest(device="rpi4", replay=recorded))
    model = latency.load_model(pi, strict=True)
    assert isinstance(model, TableModel)
    keys = kernels.lowered(SPACE, SPACE.min_config(), "i8").keys
    assert model.predict(keys).coverage == 1.0
    assert latency.latency_source(pi) == f"measured ({len(model.table.entries)} kernels)"
    # It timed other code than the present one, so the pipeline passes it over.
    assert not isinstance(model_for(pi), TableModel)


def test_a_table_of_a_changed_profile_is_refused(recorded: Path) -> None:
    pi = devices.load("rpi4")
    profile(ProfileRequest(device="rpi4", replay=recorded))
    changed = replace(pi, features=pi.features | {"dotprod"})
    with pytest.raises(InputError, match="another version of device rpi4"):
        latency.load_model(changed)


def test_a_table_under_the_wrong_name_is_refused(recorded: Path) -> None:
    profile(ProfileRequest(device="rpi4", replay=recorded))
    from edgeopt.latency.select import table_path, user_table_dir

    pi, five = devices.load("rpi4"), devices.load("rpi5")
    table_path(user_table_dir(), pi).rename(table_path(user_table_dir(), five))
    with pytest.raises(InputError, match="the table is of rpi4, edgeopt, 1 threads"):
        latency.load_model(five)
    out = table_path(user_table_dir(), five)
    with pytest.raises(InputError, match="the table there is of rpi4"):
        profile(ProfileRequest(device="rpi5", replay=recorded, out=out))


def test_strict_without_a_table() -> None:
    with pytest.raises(InputError, match="no measured latency table exists"):
        latency.load_model(devices.load("rpi4"), strict=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "rpi44"}, "unknown device 'rpi44'"),
        ({"runtime": "onxruntime"}, "unknown runtime 'onxruntime'"),
        ({"device": "rpi4"}, "cannot be timed on this machine"),
        ({"space": "", "runtime": "onnxruntime"}, "there is nothing to measure"),
        ({"space": "cifarr", "runtime": "onnxruntime"}, "unknown search space 'cifarr'"),
        ({"precisions": ("i4",), "runtime": "onnxruntime"}, "has no i4 kernels"),
        ({"models": (Path("/nowhere.onnx"),), "runtime": "onnxruntime"}, "no such"),
        ({"replay": Path("/nowhere"), "out": Path("/tmp/x")}, "no such latency table"),
    ],
)
def test_refusals(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        profile(replace(ProfileRequest(), **changes))  # type: ignore[arg-type]


def test_precisions() -> None:
    assert parse_precisions("auto") == ("f32", "i8")
    with pytest.raises(InputError, match="unknown precision 'int4'") as caught:
        parse_precisions("int4")
    assert "did you mean int8" in caught.value.hint


def script(text: str) -> LocalProgram:
    return LocalProgram((sys.executable, "-c", text))


def test_programs_give_their_lines() -> None:
    program = script("import sys; print('a'); print(sys.argv[1:]); sys.stdout.write('end')")
    assert list(program.run(["x", "y"])) == ["a", "['x', 'y']", "end"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys; sys.exit('a kernel\x1b failed')", "status 1: a kernel\ufffd failed"),
        ("print('x' * 300000)", "a line without end"),
        ("import time; time.sleep(30)", r"was silent for 0\.5 s"),
    ],
)
def test_programs_that_misbehave(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_programs, "IDLE_S", 0.5)
    with pytest.raises(BoardError, match=message):
        list(script(text).run([]))


def test_programs_that_do_not_start() -> None:
    with pytest.raises(BoardError, match="cannot start: No such file"):
        list(LocalProgram(("/nowhere/bench",)).run([]))


@pytest.mark.parametrize("text", ["", "[]", '{"samples_ns": 3}', "Segmentation fault"])
def test_strange_bench_results(text: str) -> None:
    with pytest.raises(BoardError, match="something other than a bench result"):
        read_visit(text)


@pytest.mark.parametrize("value", [[], [0], [float("inf")], [-1.0]])
def test_unusable_bench_results(value: list[float]) -> None:
    with pytest.raises(BoardError, match="no usable times"):
        read_visit(json.dumps({"samples_ns": value}))


def test_networks_are_timed_in_turn(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import json; open({log!r}, 'a').write({name!r});"
        " print(json.dumps({{'samples_ns': [{ns}] * 20}}))"
    )
    programs = {
        name: script(code.format(log=str(log), name=name, ns=ns))
        for name, ns in (("a", 100.0), ("b", 200.0))
    }
    visit, rules = ProgramNetworks(programs), Rules(max_visits=3)
    found = measure(tuple(programs), visit, NetworkLog(), rules=rules)
    assert {name: row.median_ns for name, row in found.items()} == {"a": 100.0, "b": 200.0}
    rounds = log.read_text()
    assert [sorted(rounds[at : at + 2]) for at in (0, 2, 4)] == [["a", "b"]] * 3


@pytest.mark.slow
def test_real_kernels_and_networks_are_timed(
    needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    needs_tool("gcc")
    local = devices.load("local")
    graph = kernels.lowered(SPACE, SPACE.min_config(), "i8")
    fallback = OpKey("fallback", (8,), (8,), variant="abc")
    programs = KernelPrograms(local, (), tmp_path, StageCache(tmp_path / "cache"))
    bench, failed = programs.bench([*graph.keys[:4], fallback])
    assert bench is not None and set(failed) == {fallback}
    assert "no kernel template" in failed[fallback]
    lines = list(bench.run(["--passes", "1", "--samples", "2", "--min-us", "10"]))
    assert json.loads(lines[0])["kernels"] == len(set(graph.keys[:4]))
    # A kernel without a template is timed where its payload is known.
    found = kernels.kernels_of_models([MODELS / "tiny_cnn.onnx"], ["f32"])
    programs.fallbacks = {key: kernel for key, kernel in found.items() if kernel.payload}
    (known,) = programs.fallbacks
    bench, failed = programs.bench([known, graph.keys[0]])
    assert bench is not None and not failed
    lines = list(bench.run(["--passes", "1", "--samples", "2", "--min-us", "10"]))
    assert json.loads(lines[0])["kernels"] == 2
    visit = ProgramNetworks({"net": programs.network(graph)}, min_ms=5)
    found_ns = measure(("net",), visit, NetworkLog(), rules=Rules(max_visits=2))["net"].median_ns
    assert found_ns > 1000


@pytest.mark.slow
def test_quick_table_of_this_machine(needs_tool: Callable[[str], str]) -> None:
    needs_tool("gcc")
    keys = kernels.lowered(SPACE, SPACE.min_config(), "f32").keys
    # Machines are shared: the test may take as long as it takes.
    table = quick_table(devices.load("local"), keys, at_most=6, budget_s=600)
    assert 6 <= len(table.entries) <= 14
    assert table.runtime_version == codegen_version()
    assert table.conditions["kind"] == QUICK
    estimate = TableModel(table).predict(keys)
    assert 0 < estimate.coverage < 1 and estimate.low < estimate.value < estimate.high


@pytest.mark.slow
def test_a_machine_too_busy_to_be_measured_is_estimated(
    needs_tool: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_tool("gcc")
    local = devices.load("local")
    keys = kernels.lowered(SPACE, SPACE.min_config(), "f32").keys
    with pytest.raises(BoardError, match="no kernel was measured within 0 s"):
        quick_table(local, keys, budget_s=0.0, at_most=2)

    def fails(*args: object, **more: object) -> LatencyTable:
        raise BoardError("too busy")

    monkeypatch.setattr(local_table, "quick_table", fails)
    said: list[str] = []
    model = model_for(local, space=SPACE, detail=said.append)
    assert not isinstance(model, TableModel)
    assert said[-1] == "could not measure this machine: too busy"
    assert model.predict(keys).how.startswith("estimated from the facts of its profile alone")
