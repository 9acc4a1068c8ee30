"""One conformance suite for every meter, and what a bench program may not print."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
from keys import depthwise, many, pointwise, table_of, truth_ns

from edgeopt.core.errors import BoardError, InputError
from edgeopt.core.kernels import OpKey
from edgeopt.graph.opkey_model import feeds_of, model_of
from edgeopt.latency.meters import METERS, Meter, Window
from edgeopt.latency.meters.ort import OrtMeter
from edgeopt.latency.meters.program import BenchProgram, ProgramMeter
from edgeopt.latency.meters.replay import ReplayMeter

GOOD = [pointwise(4, 8, 16), depthwise(8, 16, 3), pointwise(4, 8, 8, "i8")]
BAD = OpKey("fallback", (8,), (8,), variant="abc")


class Printer:
    """Prints what a bench program prints, for the kernels linked into it."""

    def __init__(self, keys: Sequence[OpKey]) -> None:
        self.keys = {key.digest: key for key in keys}
        self.runs: list[list[str]] = []

    def run(self, args: Sequence[str]) -> Iterator[str]:
        self.runs.append(list(args))
        wanted = [arg for arg in args if arg in self.keys]
        samples = int(args[args.index("--samples") + 1])
        yield json.dumps({"bench": 1, "kernels": len(wanted), "clock_ns": 30})
        for digest in reversed(wanted):
            times = [truth_ns(self.keys[digest])] * samples
            yield json.dumps({"key": digest, "pass": 0, "calls": 10, "ns": times})
        yield '{"done": true}'


def build(keys: Sequence[OpKey]) -> tuple[BenchProgram | None, Mapping[OpKey, str]]:
    failed = {key: "no template" for key in keys if key.op == "fallback"}
    kept = [key for key in keys if key not in failed]
    return (Printer(kept) if kept else None), failed


MAKERS: dict[str, Callable[[], Meter]] = {
    "ort": lambda: OrtMeter(samples=3, min_us=20),
    "tvm": lambda: ProgramMeter(build, "v1", samples=3, batch=2),
    "replay": lambda: ReplayMeter(table_of(GOOD), samples=3),
}


def test_every_meter_is_tested() -> None:
    assert set(MAKERS) == set(METERS)
    for name, place in METERS.items():
        module, _, attribute = place.partition(":")
        assert type(MAKERS[name]()) is getattr(importlib.import_module(module), attribute)


@pytest.fixture(params=sorted(METERS))
def meter(request: pytest.FixtureRequest) -> Meter:
    return MAKERS[request.param]()


def test_meter_says_what_it_is(meter: Meter) -> None:
    assert meter.runtime and meter.runtime_version and meter.threads == 1
    assert all(c.isalnum() for c in meter.runtime)


def test_meter_times_what_it_prepared(meter: Meter) -> None:
    assert meter.prepare(GOOD) == {}
    windows = list(meter.visit(GOOD))
    assert sorted(str(w.key) for w in windows) == sorted(map(str, GOOD))
    assert all(len(w.samples_ns) == 3 for w in windows)
    assert all(value > 0 for w in windows for value in w.samples_ns)
    again = list(meter.visit(GOOD[:1]))
    assert [w.key for w in again] == GOOD[:1]


def test_meter_names_what_it_cannot_time(meter: Meter) -> None:
    failed = meter.prepare([GOOD[0], BAD])
    assert set(failed) == {BAD} and failed[BAD]
    assert len(list(meter.visit([GOOD[0]]))) == 1


def test_meter_prepares_in_steps(meter: Meter) -> None:
    meter.prepare(GOOD[:1])
    assert meter.prepare(GOOD) == {}
    assert len(list(meter.visit(GOOD))) == 3


def test_programs_are_built_in_batches_and_asked_for_their_own_kernels() -> None:
    batches: list[int] = []
    programs: list[Printer] = []

    def building(keys: Sequence[OpKey]) -> tuple[BenchProgram | None, Mapping[OpKey, str]]:
        batches.append(len(keys))
        programs.append(Printer(keys))
        return programs[-1], {}

    keys = many(10)
    meter = ProgramMeter(building, "1", batch=4, cpu=1, flush_bytes=4096)
    meter.prepare(keys)
    assert batches == [4, 4, 2]
    meter.prepare(keys)
    assert batches == [4, 4, 2]
    assert len(list(meter.visit([keys[0], keys[9]]))) == 2
    assert [len(program.runs) for program in programs] == [1, 0, 1]
    args = programs[0].runs[0]
    assert args[args.index("--cpu") + 1] == "1"
    assert args[args.index("--flush-bytes") + 1] == "4096"
    assert args[-1] == keys[0].digest


class Fixed:
    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines

    def run(self, args: Sequence[str]) -> Iterator[str]:
        return iter(self.lines)


HEAD = '{"bench": 1, "kernels": 1, "clock_ns": 30}'
DIGEST = GOOD[0].digest
WINDOW = f'{{"key": "{DIGEST}", "ns": [1.0]}}'


def test_samples_beside_a_slow_anchor_do_not_count() -> None:
    def window(ns: list[float], anchors: list[float]) -> Fixed:
        line = json.dumps({"key": DIGEST, "calls": 1, "ns": ns, "anchors": anchors})
        return Fixed([HEAD, line, '{"done": true}'])

    runs = iter(
        [
            window([10.0, 14.0, 11.0], [4.0, 6.0, 4.1]),
            window([13.0, 14.0], [6.0, 5.0]),
            window([10.5], [3.0]),
        ]
    )
    seen: list[Sequence[str]] = []

    class Program:
        def run(self, args: Sequence[str]) -> Iterator[str]:
            seen.append(args)
            return next(runs).run(args)

    meter = ProgramMeter(lambda keys: (Program(), {}), "1", chain=27)
    meter.prepare(GOOD[:1])
    times = [[w.samples_ns for w in meter.visit(GOOD[:1]) if isinstance(w, Window)] for _ in "abc"]
    # In the second visit the machine never was at its best: all of it is kept.
    assert times == [[(10.0, 11.0)], [(13.0, 14.0)], [(10.5,)]]
    assert [args[args.index("--chain") + 1] for args in seen] == ["27"] * 3
    assert len({args[args.index("--seed") + 1] for args in seen}) == 3
    odd = ProgramMeter(lambda keys: (window([1.0, 2.0], [1.0]), {}), "1", chain=27)
    odd.prepare(GOOD[:1])
    with pytest.raises(BoardError, match="anchors that are not the samples'"):
        list(odd.visit(GOOD[:1]))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "stopped without a time for pointwise"),
        ([HEAD], "stopped without a time for pointwise"),
        ([HEAD, '{"done": true}'], "stopped without a time for pointwise"),
        ([HEAD, f'{{"key": "{DIGEST}", "ns": [1.0]}}'], "stopped before its end"),
        (['{"bench": 7}'], "unknown version"),
        ([HEAD, "Segmentation fault\x1b[31m"], r"not JSON: 'Segmentation fault\?\[31m'"),
        ([HEAD, "[1]"], "not an object"),
        ([HEAD, "x" * 70_000], "more than 64 KiB"),
        ([HEAD, '{"key": "ffffffffffff", "ns": [1.0]}'], "nobody asked for"),
        ([HEAD, f'{{"key": "{DIGEST}", "ns": []}}'], "without times"),
        ([HEAD, f'{{"key": "{DIGEST}", "ns": ["1"]}}'], "not a number"),
        ([HEAD, f'{{"key": "{DIGEST}", "ns": [NaN]}}'], "not a number"),
        ([HEAD, f'{{"key": "{DIGEST}", "ns": [-1.0]}}'], "a negative time"),
        ([HEAD, f'{{"key": "{DIGEST}", "ns": [0.0], "calls": 9}}'], "a time of zero for 9 calls"),
        ([HEAD, f'{{"key": "{DIGEST}", "ns": [1e18]}}'], "cannot be: 1e\\+09 s of measuring"),
        ([HEAD, f'{{"key": "{DIGEST}", "ns": [1.0], "calls": -3}}'], "a count of calls"),
        ([HEAD, WINDOW, '{"done": true}', "more"], "something after its end"),
        ([HEAD, *[f'{{"key": "{DIGEST}", "ns": [1.0]}}'] * 2], "a second result of one"),
    ],
)
def test_strange_output_is_refused(lines: list[str], message: str) -> None:
    meter = ProgramMeter(lambda keys: (Fixed(lines), {}), "1")
    meter.prepare(GOOD[:1])
    with pytest.raises(BoardError, match=message):
        list(meter.visit(GOOD[:1]))


def kernels_of(dtype: str) -> list[OpKey]:
    lut = "lut" if dtype == "i8" else "hardswish"

    def key(op: str, *args: object, **more: object) -> OpKey:
        return OpKey(op, *args, dtype=dtype, out_dtype=dtype, **more)  # type: ignore[arg-type]

    return [
        key("pointwise", (4, 4, 8), (4, 4, 16), activation=lut),
        key("pointwise", (4, 4, 8), (4, 4, 8), residual=True, residual_activation="relu"),
        key("conv2d", (8, 8, 3), (4, 4, 8), kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
        key("linear", (16,), (10,)),
        key("maxpool", (8, 8, 4), (4, 4, 4), kernel=(2, 2), strides=(2, 2)),
        key("avgpool", (8, 8, 4), (4, 4, 4), kernel=(2, 2), strides=(2, 2)),
        key("global_avgpool", (8, 8, 4), (1, 1, 4)),
        key("scale", (4, 4, 8), (4, 4, 8), inputs=2),
        key("add", (4, 4, 8), (4, 4, 8), inputs=2, activation="relu6"),
        key("mul", (4, 4, 8), (4, 4, 8), variant="channel"),
        key("concat", (4, 4, 8), (4, 4, 24), inputs=2, variant="axis2.8-16"),
        key("transpose", (4, 6, 8), (8, 4, 6), variant="perm2-0-1"),
        key("resize", (4, 4, 8), (8, 8, 8)),
        key("activation", (4, 4, 8), (4, 4, 8), activation=lut),
    ]


@pytest.mark.parametrize(
    "key",
    [
        *kernels_of("f32"),
        *kernels_of("i8"),
        OpKey("quantize", (4, 4, 8), (4, 4, 8), out_dtype="i8"),
        OpKey("dequantize", (4, 4, 8), (4, 4, 8), dtype="i8"),
        OpKey("softmax", (10,), (10,)),
        OpKey("activation", (8,), (8,), activation="clip_-1.0_1.0"),
        OpKey("activation", (8,), (8,), activation="silu"),
        OpKey("activation", (8,), (8,), activation="gelu_tanh"),
        OpKey(
            "irb",
            (8, 8, 4),
            (4, 4, 6),
            kernel=(3, 3),
            strides=(2, 2),
            pads=(1, 1, 1, 1),
            variant="e16.relu6",
        ),
        OpKey("irb", (6, 6, 4), (6, 6, 4), residual=True, variant="e8.hardswish"),
    ],
    ids=str,
)
def test_models_of_kernels_run_and_have_their_shapes(key: OpKey) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(model_of(key), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, feeds_of(key))
    shape = key.out_shape
    assert result.shape == ((1, shape[2], *shape[:2]) if len(shape) == 3 else (1, *shape))
    assert result.dtype == {"f32": "float32", "i8": "int8"}[key.out_dtype]


@pytest.mark.parametrize(
    "key",
    [
        BAD,
        OpKey("transpose", (4, 4), (4, 4), variant="odd"),
        OpKey("concat", (4,), (8,), inputs=2, variant="odd"),
        OpKey("activation", (8,), (8,), activation="nonsense"),
        OpKey("softmax", (4, 4), (4, 4), variant="axis0"),
    ],
    ids=str,
)
def test_kernels_without_a_model(key: OpKey) -> None:
    with pytest.raises(InputError, match="no ONNX model can be made") as caught:
        model_of(key)
    assert caught.value.where == str(key)
