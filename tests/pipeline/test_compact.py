"""What is predicted, and compiled, where flash is limited."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeopt import devices
from edgeopt.codegen import cost
from edgeopt.core.choice import Choice
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Budget, Source
from edgeopt.core.kernels import OpKey
from edgeopt.latency.select import RUNTIME, made_table_dir, table_path
from edgeopt.latency.table import LatencyTable, Measurement
from edgeopt.ofa.spaces import load_space
from edgeopt.pipeline import local_table, source, tiles
from edgeopt.pipeline.cache import StageCache
from edgeopt.pipeline.compile import CompileRequest, compile_network
from edgeopt.pipeline.kernel_store import codegen_version, linked_bytes

ROWS = OpKey(
    "depthwise", (16, 16, 32), (16, 16, 32), dtype="i8", out_dtype="i8", kernel=(3, 3),
    pads=(1, 1, 1, 1), groups=32,
)  # fmt: skip
POINTWISE = OpKey("pointwise", (16, 16, 32), (16, 16, 16), dtype="i8", out_dtype="i8")


@pytest.fixture
def x86_64() -> None:
    if devices.load("local").arch != "x86_64":
        pytest.skip("only x86-64 has kernels of fewer bytes")


@pytest.mark.usefixtures("x86_64")
def test_compact_kernels_are_predicted_slower() -> None:
    known = devices.load("local")
    profile = replace(
        known, vector_bits=256, vector_registers=16, mcpu="x86-64-v3",
        features=frozenset(f for f in known.features if not f.startswith("avx512")),
    )  # fmt: skip
    usual, compact = (local_table.model_for(p) for p in (profile, profile.compacted()))
    fifteen = (15, 15, ROWS.in_shape[2])
    narrow = replace(ROWS, in_shape=fifteen, out_shape=fifteen)  # no whole tiles of two pixels
    keys = [ROWS, POINTWISE, replace(ROWS, dtype="f32", out_dtype="f32"), narrow]
    before, after = usual.predict_each(keys), compact.predict_each(keys)
    assert after[2] == before[2]
    for index, least, mean, most in (
        (0, 1.34, 1.46, 1.66),
        (1, 0.9, 1.06, 1.38),
        (3, 1, 1.03, 1.66),
    ):
        assert after[index].value == pytest.approx(mean * before[index].value)
        assert after[index].low == pytest.approx(least * before[index].low)
        assert after[index].high == pytest.approx(most * before[index].high)
        assert after[index].source is Source.ESTIMATED
        assert f"compact kernels taken for {mean:.2f}" in after[index].how
    whole, times = compact.predict(keys), sum(e.value for e in after) / sum(e.value for e in before)
    assert whole.value == pytest.approx(times * usual.predict(keys).value)
    assert compact.digest != getattr(usual, "digest", "")
    assert compact.predict(keys[2:3]) == usual.predict(keys[2:3])


def test_other_boards_are_predicted_as_they_were() -> None:
    profile = devices.load("rpi4")
    usual, compact = (local_table.model_for(p) for p in (profile, profile.compacted()))
    assert compact.predict([ROWS, POINTWISE]) == usual.predict([ROWS, POINTWISE])


def test_a_first_table_of_this_machine_is_of_usual_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE_DIR", str(tmp_path))
    measured = []
    monkeypatch.setattr(
        local_table, "_measure_quickly", lambda profile, *rest: measured.append(profile.target)
    )
    local = devices.load("local")
    local_table.model_for(local.compacted(), space=load_space("cifar"))
    assert measured == [local.target]


@pytest.mark.usefixtures("x86_64")
def test_measured_tilings_do_not_undo_what_kernels_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE_DIR", str(tmp_path))
    profile = devices.load("local")
    stem = OpKey("conv2d", (16, 16, 3), (8, 8, 16), dtype="i8", out_dtype="i8", kernel=(3, 3),
                 strides=(2, 2), pads=(1, 1, 1, 1))  # fmt: skip
    chosen = {ROWS: Choice(8, 1), stem: Choice(2, 1)}
    LatencyTable(
        profile.name, profile.fingerprint, RUNTIME, codegen_version(), 1,
        {key: Measurement(1000.0, 1.0, 5, choice=choice) for key, choice in chosen.items()},
    ).save(table_path(made_table_dir(), profile))  # fmt: skip
    assert tiles.choices_of(profile) == chosen
    assert tiles.choices_of(profile.compacted()) == {stem: Choice(2, 1)}


@pytest.mark.slow
@pytest.mark.usefixtures("x86_64")
def test_a_budget_of_flash_is_kept_with_compact_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that takes code for a third of what it is finds too large a network, and again."""
    fewer = {
        name: tuple(None if size is None else size // 3 for size in sizes)
        for name, sizes in cost.CODE_BYTES.items()
    }
    monkeypatch.setattr(cost, "CODE_BYTES", fewer)
    monkeypatch.setattr(cost, "_KNOWN", {})
    asked = 160_000
    request = CompileRequest(
        device="local", out=tmp_path / "b", precision="int8", budget=Budget(flash_bytes=asked)
    )
    manifest = compile_network(request)
    flash, code = manifest.figure("flash_bytes"), manifest.figure("code_bytes")
    assert flash is not None and code is not None and flash.value <= asked
    assert any("as --flash asks" in note for note in manifest.notes)
    again = [note for note in manifest.notes if note.startswith("searched again")]
    assert again and f"bytes where at most {asked:,} bytes was asked for" in again[0]
    keys = [OpKey.parse(kernel.key) for kernel in manifest.kernels]
    target = devices.load("local").target
    usual = linked_bytes(keys, target, StageCache(None))
    compact = linked_bytes(keys, replace(target, compact=True, narrow=True), StageCache(None))
    assert compact == code.value < 0.9 * usual


@pytest.mark.usefixtures("x86_64")
@pytest.mark.parametrize("precision", ["int8", "mixed"])
def test_a_search_with_plenty_of_flash_reckons_with_usual_kernels(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = []

    def choose(request: CompileRequest, profile: DeviceProfile, *rest: object) -> None:
        searched.append(profile.compact)
        raise InputError("enough", where="test")

    monkeypatch.setattr(source, "choose", choose)
    for flash in (800_000, 300_000):
        request = CompileRequest(
            device="local", out=tmp_path / "b", precision=precision,
            budget=Budget(flash_bytes=flash),
        )  # fmt: skip
        with pytest.raises(InputError, match="enough"):
            compile_network(request)
    assert searched == [False, True]


@pytest.mark.slow
@pytest.mark.usefixtures("x86_64")
def test_usual_kernels_are_kept_where_they_fit(tmp_path: Path) -> None:
    request = CompileRequest(
        device="local", out=tmp_path / "a", precision="int8", budget=Budget(flash_bytes=10_000_000)
    )
    roomy = compile_network(request)
    assert not any("as --flash asks" in note for note in roomy.notes)
    flash, code = roomy.figure("flash_bytes"), roomy.figure("code_bytes")
    assert flash is not None and code is not None
    keys = [OpKey.parse(kernel.key) for kernel in roomy.kernels]
    target = devices.load("local").target
    assert code.value == linked_bytes(keys, target, StageCache(None))

    model = tmp_path / "a" / "model_int8.onnx"
    for spare, compact in ((0, False), (-1, True)):
        budget = Budget(flash_bytes=int(flash.value) + spare)
        request = CompileRequest(
            device="local", out=tmp_path / f"b{spare}", model=model, budget=budget
        )
        found = compile_network(request)
        assert any("as --flash asks" in note for note in found.notes) == compact
