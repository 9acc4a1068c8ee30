"""Choosing tilings: what is measured decides, is kept in the table, and is what compile uses."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgeopt import devices
from edgeopt.codegen import cost
from edgeopt.codegen.bench import identity
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.errors import BoardError, InputError
from edgeopt.core.estimates import Estimate, Source
from edgeopt.core.kernels import OpKey
from edgeopt.latency.select import load_model, table_path, user_table_dir
from edgeopt.latency.table import LatencyTable, Measurement, load_table
from edgeopt.ofa.describe import describe
from edgeopt.ofa.spaces import load_space
from edgeopt.pipeline import tiles
from edgeopt.pipeline.cache import StageCache
from edgeopt.pipeline.compile import CompileRequest, compile_network
from edgeopt.pipeline.kernel_store import codegen_version
from edgeopt.pipeline.profile import ProfileRequest, profile
from edgeopt.pipeline.tuning import WIDE, slowest, tuned

MODELS = Path(__file__).resolve().parents[1] / "models"
KEYS = tuple(OpKey("pointwise", (7, 7, n), (7, 7, 64)) for n in (16, 24, 40))
CHOICES = (MODEL, Choice(4, 2), Choice(6, 2, "p"), Choice(2, 3))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEOPT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@dataclass
class Timed:
    """A bench program that prints given times, with noise that only adds."""

    times: dict[str, float]
    runs: list[list[str]] = field(default_factory=list)
    source: random.Random = field(default_factory=lambda: random.Random(3))

    def run(self, args: Sequence[str]) -> Iterator[str]:
        names = [a for a in args if a in self.times]
        self.runs.append(names)
        passes = int(args[args.index("--passes") + 1])
        yield '{"bench": 1, "kernels": 1, "clock_ns": 20}'
        for _ in range(passes):
            for name in names:
                noisy = [self.times[name] * self.source.choice([1, 1.001, 1.5]) for _ in range(3)]
                yield json.dumps({"key": name, "pass": 0, "calls": 1, "ns": noisy})
        yield '{"done": true}'


def timed(table: Sequence[Sequence[float]]) -> Timed:
    rows = zip(KEYS, table, strict=True)
    return Timed({identity(k, c): t for k, r in rows for c, t in zip(CHOICES, r, strict=True)})


def test_the_fastest_tiling_is_chosen_and_the_model_unless_clearly_slower() -> None:
    program = timed([(100, 90, 120, 300), (100, 99, 400, 300), (100, 101, 80, 70)])
    found = tiles.choose(program, dict.fromkeys(KEYS, CHOICES))
    assert found == {KEYS[0]: Choice(4, 2), KEYS[1]: MODEL, KEYS[2]: Choice(2, 3)}
    # slow ones are not visited again
    assert identity(KEYS[0], Choice(2, 3)) not in program.runs[-1]
    assert identity(KEYS[1], MODEL) in program.runs[-1]


def test_kernels_are_visited_in_groups_that_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    program = timed([(100, 90, 120, 300)] * 3)
    monkeypatch.setattr(tiles, "MAX_BYTES", 1)
    found = tiles.time_all(program, dict.fromkeys(KEYS, CHOICES))
    assert len(found) == 12 and [len(run) for run in program.runs] == [4, 4, 4]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"key": "other", "ns": [1]}', "something other than times"),
        ("Segmentation\x1b fault", r"something other than times: 'Segmentation\? fault'"),
        ('{"done": true}', "timed 0 of 12 tilings"),
    ],
)
def test_strange_programs(line: str, message: str) -> None:
    class Strange:
        def run(self, args: Sequence[str]) -> Iterator[str]:
            yield line

    with pytest.raises(BoardError, match=message):
        tiles.time_all(Strange(), dict.fromkeys(KEYS, CHOICES))


def test_notes_are_read_back_and_only_for_the_same_code(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    assert tiles.load_notes(path, "a") == {}
    chosen = dict(zip(KEYS, CHOICES, strict=False))
    tiles.save_notes(path, "a", chosen)
    assert tiles.load_notes(path, "a") == chosen
    assert tiles.load_notes(path, "b") == {}
    path.write_text('{"edgeopt-tiles": 1, "version": "a", "choices": {"x": 1}}')
    with pytest.raises(InputError, match="notes of chosen tilings are broken"):
        tiles.load_notes(path, "a")


def test_a_search_counts_the_scratch_of_the_chosen_tilings() -> None:
    space, target = load_space("cifar"), devices.load("local").target
    network = describe(space, space.min_config())
    plain = cost.evaluate(network, "i8", target)
    bands = {
        key: max(choices, key=lambda choice: choice.band)
        for key, choices in tiles.candidates_of(plain.keys, target).items()
        if key.op == "depthwise"
    }
    assert bands
    chosen = cost.evaluate(network, "i8", target, dict.fromkeys(bands, Choice(band=1)))
    assert chosen.arena_bytes <= plain.arena_bytes
    assert cost.evaluate(network, "i8", target) == plain


def test_the_slowest_kernels_count_all_their_calls() -> None:
    local = devices.load("local")
    latency = load_model(local)
    small, large = KEYS[0], OpKey("pointwise", (28, 28, 40), (28, 28, 64))
    single = OpKey("softmax", (10,), (10,))
    assert slowest([small, large, single], latency, {small: (), large: ()}, 5) == [large, small]
    assert slowest([small] * 100 + [large], latency, {small: (), large: ()}, 1) == [small]


def test_tuning_measures_once(needs_tool: Callable[[str], str], tmp_path: Path) -> None:
    needs_tool("gcc")
    local, cache = devices.load("local"), StageCache(tmp_path / "stages")
    key = OpKey("depthwise", (6, 6, 32), (6, 6, 32), kernel=(3, 3), pads=(1,) * 4, groups=32)
    said: list[str] = []
    found = tuned([key, *KEYS], local, Constant(key), 1, cache, said.append)
    assert set(found) == {key}
    wide = tiles.candidates_of([key], local.target, WIDE)[key]
    assert found[key] in wide and len(wide) > 3
    assert said == [f"tuning kernel 1 of 1, {len(wide)} tilings"]
    assert tuned([key, *KEYS], local, Constant(key), 1, cache, said.append) == found
    assert len(said) == 1


def test_tuning_is_refused_where_nothing_can_be_measured(tmp_path: Path) -> None:
    cache = StageCache(None)
    with pytest.raises(InputError, match="0 kernels cannot be tuned"):
        tuned(KEYS, devices.load("local"), Constant(KEYS[0]), 0, cache)
    with pytest.raises(InputError, match="cannot be timed on this machine"):
        tuned(KEYS, devices.load("rpi5"), Constant(KEYS[0]), 1, cache)


@dataclass
class Constant:
    """A latency model to which one kernel is slow and all others are fast."""

    slow: OpKey

    def predict_each(self, keys: Sequence[OpKey]) -> list[Estimate]:
        times = [2.0 if key == self.slow else 1.0 for key in keys]
        return [Estimate(t, t, t, Source.ESTIMATED, 0.0, "made up") for t in times]

    def predict(self, keys: Sequence[OpKey]) -> Estimate:
        raise NotImplementedError


@pytest.mark.slow
def test_profile_chooses_and_compile_uses_it(
    needs_tool: Callable[[str], str], tmp_path: Path
) -> None:
    needs_tool("gcc")
    request = ProfileRequest(
        space="", models=(MODELS / "tiny_cnn.onnx",), precisions=("f32",), networks=0
    )
    local = devices.load("local")
    path = table_path(user_table_dir(), local)
    report = profile(request)
    assert report.path == path and not path.with_name(path.name + ".tiles").exists()
    table = load_table(path)
    assert table.choices == report.table.choices and table.entries
    assert tiles.choices_of(local) == table.choices

    # whatever was measured here: let the table name other tilings for all kernels with several
    open_keys = tiles.candidates_of(tuple(table.entries), local.target)
    assert open_keys
    forced = {key: choices[-1] for key, choices in open_keys.items()}
    LatencyTable(
        table.device, table.fingerprint, table.runtime, codegen_version(), 1,
        {key: Measurement(1000.0, 1.0, 5, choice=forced.get(key, MODEL)) for key in table.entries},
    ).save(path)  # fmt: skip
    manifest = compile_network(
        CompileRequest("local", tmp_path / "out", model=MODELS / "tiny_cnn.onnx", precision="fp32")
    )
    found = {OpKey.parse(kernel.key): kernel.tile for kernel in manifest.kernels}
    assert {key: found[key] for key in forced} == {k: str(c) for k, c in forced.items()}
    assert all(check.result != "failed" for check in manifest.checks)
