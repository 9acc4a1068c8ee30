"""The model of a core: from facts alone, and learning from kernels, blocks and networks."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from keys import depthwise, pointwise

from edgeopt import devices, latency
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import LatencyModel, Source
from edgeopt.core.kernels import KERNEL_OPS, OpKey
from edgeopt.latency import model_digest
from edgeopt.latency.corefile import load_fit, save_fit
from edgeopt.latency.coremodel import CoreFit, CoreModel, core_model, learn_core
from edgeopt.latency.model import TableModel
from edgeopt.latency.peaks import peaks_of
from edgeopt.latency.prior import LOADINGS, NAMES, base_costs
from edgeopt.latency.select import estimates, find_fits, fit_path, latency_source
from edgeopt.latency.table import LatencyTable, Measurement
from edgeopt.latency.work import COLUMNS, Unit, cold_bytes, work_of

BOARDS = [name for name in devices.available() if name != "local"]
PI = devices.load("rpi4")


PRECISIONS = [(name, p) for name in [*BOARDS, "local"] for p in devices.load(name).precisions]


def every_operator(dtype: str) -> list[OpKey]:
    return [
        OpKey(op, (8, 8, 16), (8, 8, 16), dtype=dtype, out_dtype=dtype,
              variant="e32.relu" if op == "irb" else "")
        for op in sorted(KERNEL_OPS)
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "dtype"), PRECISIONS)
def test_every_operator_on_every_board_from_facts(name: str, dtype: str) -> None:
    model: LatencyModel = core_model(devices.load(name))
    for key in every_operator(dtype):
        (found,) = model.predict_each([key])
        assert 0 < found.low < found.value < found.high
        assert found.source is Source.ESTIMATED and found.coverage == 0
        # Nobody measured anything: the interval has to be wide, but not without end.
        assert 1.5 < found.high / found.value < 50
        assert "facts of its profile alone" in found.how


def test_more_work_takes_longer() -> None:
    for name in BOARDS:
        model, dtype = core_model(devices.load(name)), devices.load(name).precisions[-1]
        small, large = model.predict_each(
            [pointwise(8, 16, 32, dtype), pointwise(8, 32, 64, dtype)]
        )
        assert small.value < large.value
        three, seven = model.predict_each([depthwise(8, 16, 3, dtype), depthwise(8, 16, 7, dtype)])
        assert three.value < seven.value


def test_nothing_beats_the_peak() -> None:
    """4 lanes a cycle at 1.5 GHz bound what one Cortex-A72 can compute."""
    model = core_model(PI)
    assert model.peaks.macs_per_ns("f32") == 6.0
    model = replace(model, base=model.base * 1e-3)  # costs that no core could have
    for key in (pointwise(16, 64, 64), depthwise(16, 64, 3)):
        assert model.predict([key]).value >= key.macs / 6.0


def test_peaks_of_known_cores() -> None:
    five, nucleo = devices.load("rpi5"), devices.load("nucleo-l4r5zi")
    assert peaks_of(PI).macs_per_cycle == {"f32": 4.0, "i8": pytest.approx(16 / 3)}
    assert peaks_of(five).macs_per_cycle == {"f32": 8.0, "i8": 32.0}
    assert peaks_of(nucleo).macs_per_cycle == {"f32": pytest.approx(1 / 3), "i8": 2.0}
    bare = replace(nucleo, features=frozenset({"thumb2", "mclass"}))
    assert peaks_of(bare).macs_per_cycle == {"f32": 0.01, "i8": 1.0}  # no FPU, no SMLAD
    assert "vector pipes" in peaks_of(replace(PI, vector_issue=None)).assumed
    unknown = peaks_of(replace(PI, clock_hz=None))
    assert unknown.assumed == ("clock",) and unknown.clock_hz == 2_000_000_000


def test_the_clock_scales_everything() -> None:
    key = pointwise(16, 32, 64)
    slow = core_model(replace(PI, clock_hz=1_000_000_000)).predict([key])
    fast = core_model(replace(PI, clock_hz=2_000_000_000)).predict([key])
    assert slow.value == pytest.approx(2 * fast.value)


def test_a_block_costs_what_its_parts_do() -> None:
    block = OpKey(
        "irb", (8, 8, 16), (4, 4, 24), kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1),
        variant="e64.relu6",
    )  # fmt: skip
    model = core_model(PI)
    assert model.predict([block]).value == pytest.approx(model.predict(block.parts).value)


def test_weights_beyond_the_last_cache_are_cold() -> None:
    peaks = peaks_of(PI)
    assert cold_bytes(1_000_000, peaks) == 0
    assert cold_bytes(2_000_000, peaks) == 2_000_000
    assert cold_bytes(10**9, replace(peaks, last_bytes=0)) == 0
    keys = [pointwise(4, 512, 512)] * 3  # 3 MB of weights in all
    model = core_model(PI)
    whole, parts = model.predict(keys), model.predict_each(keys)
    assert whole.value > 1.05 * sum(part.value for part in parts)


def test_every_cost_has_a_factor_and_every_factor_a_cost() -> None:
    assert (LOADINGS.sum(axis=1) >= 2).all() and (LOADINGS.sum(axis=0) >= 1).all()
    assert (base_costs(peaks_of(PI)) > 0).all()
    assert len(set(NAMES)) == len(NAMES) and len(set(COLUMNS)) == len(COLUMNS)


def test_a_precision_the_device_does_not_have() -> None:
    model = core_model(replace(PI, precisions=("f32",)))
    with pytest.raises(InputError, match="i8 kernels do not run there") as caught:
        model.predict([pointwise(8, 16, 16, "i8")])
    assert "its precisions are f32" in caught.value.hint


def test_conversions_run_where_one_of_their_precisions_does() -> None:
    model = core_model(replace(PI, precisions=("i8",)))
    into = OpKey("quantize", (8, 8, 3), (8, 8, 3), out_dtype="i8")
    found = model.predict([into])
    assert 0 < found.low < found.value < found.high
    assert found.value == pytest.approx(core_model(PI).predict([into]).value)


def truth() -> CoreModel:
    """A core that is not as its facts say: slower arithmetic, quicker memory, costly calls."""
    model = core_model(PI)
    wrong = dict.fromkeys(NAMES, 0.0) | {
        "speed": 0.3, "compute": 0.2, "depthwise compute": 0.5, "memory": -0.4, "call": 1.5,
    }  # fmt: skip
    mean = np.array([wrong[name] for name in NAMES])
    return replace(model, belief=replace(model.belief, mean=mean))


def networks(count: int, seed: int) -> list[Unit]:
    source = np.random.default_rng(seed)
    found = []
    for index in range(count):
        keys = []
        for _ in range(int(source.integers(3, 12))):
            h, c, k = (int(source.choice(v)) for v in ([4, 8, 16], [16, 32, 48, 96], [3, 5]))
            keys += [pointwise(h, c, 2 * c), depthwise(h, 2 * c, k), pointwise(h, 2 * c, c)]
        found.append(Unit(f"network {index}", tuple(keys)))
    return found


def taught(count: int, noise: float = 0.02, wild: int | None = None) -> tuple[CoreModel, CoreFit]:
    units, source = networks(count, 1), np.random.default_rng(2)
    times = [truth().predict(u.keys).value * np.exp(noise * source.standard_normal())
             for u in units]  # fmt: skip
    if wild is not None:
        times[wild] *= 20
    fit, left_out = learn_core(PI, units, times, runtime="edgeopt", origin="made up")
    assert left_out.shape == (count,)
    return core_model(PI, fit=fit), fit


def error(model: CoreModel) -> float:
    held = networks(40, 99)
    pairs = [(model.predict(unit.keys).value, truth().predict(unit.keys).value) for unit in held]
    return float(np.mean([abs(found / real - 1) for found, real in pairs]))


def test_one_network_helps_and_many_converge() -> None:
    before = error(core_model(PI))
    one, ten, fifty = (error(taught(count)[0]) for count in (1, 10, 50))
    assert before > 0.25 and one < 0.5 * before and fifty < ten < one and fifty < 0.02


def test_one_network_does_not_make_anything_absurd() -> None:
    """What it says nothing of stays near what the facts say: here int8, pooling, transposes."""
    facts, (model, fit) = core_model(PI), taught(1)
    for dtype in ("f32", "i8"):
        for key in every_operator(dtype):
            old, new = facts.predict([key]), model.predict([key])
            assert 0.5 < new.value / old.value < 3
            assert new.high / new.low < 1.05 * old.high / old.low
    assert "too few to state an error" in model.how and fit.trust.rows == 1


def test_a_wild_measurement_does_not_bend_the_rest() -> None:
    assert error(taught(20, wild=7)[0]) < 0.06


def test_intervals_cover_what_they_promise() -> None:
    model, fit = taught(40, noise=0.05)
    held, source = networks(100, 5), np.random.default_rng(6)
    inside = []
    for unit in held:
        found, real = model.predict(unit.keys), truth().predict(unit.keys).value
        inside.append(found.low <= real * np.exp(0.05 * source.standard_normal()) <= found.high)
    assert 0.8 <= np.mean(inside) <= 1.0
    assert 0.8 <= fit.trust.covered <= 1 and 0.01 < fit.trust.mape < 0.1


def test_single_kernels_teach_as_well() -> None:
    units = [Unit(str(key), (key,)) for key in
             [pointwise(8, 16 * n, 32) for n in range(1, 9)] + [depthwise(8, 32, 3)]]  # fmt: skip
    fit, _ = learn_core(
        PI, units, [truth().predict(unit.keys).value for unit in units], runtime="edgeopt",
        origin="made up",
    )  # fmt: skip
    assert fit.classes == {"depthwise f32": 1, "pointwise f32": 8}
    model = core_model(PI, fit=fit)
    assert error(model) < 0.5 * error(core_model(PI))
    assert model.supported(pointwise(8, 8, 8)) and not model.supported(pointwise(8, 8, 8, "i8"))


def test_learning_goes_on_from_what_was_learnt() -> None:
    first, _ = taught(5)
    units = networks(30, 77)
    fit, _ = learn_core(
        PI, units, [truth().predict(unit.keys).value for unit in units], runtime="edgeopt",
        origin="made up", onto=first,
    )  # fmt: skip
    assert error(core_model(PI, fit=fit)) < error(first)
    assert fit.classes["pointwise f32"] > first.classes["pointwise f32"]


def test_another_runtime_tells_part() -> None:
    """What the device's facts leave open is shared, what the runtime does is not."""
    facts = core_model(PI)
    units = networks(30, 3)
    times = [3 * facts.predict(unit.keys).value for unit in units]
    fit, _ = learn_core(PI, units, times, runtime="other", origin="made up")
    model = core_model(PI, fit=fit)
    key = pointwise(16, 64, 64)
    same = core_model(PI, runtime="other", fit=fit).predict([key])
    carried, plain = model.predict([key]), facts.predict([key])
    assert same.value == pytest.approx(3 * plain.value, rel=0.15)
    assert plain.value < carried.value < 1.6 * plain.value
    assert same.high / same.low < carried.high / carried.low < plain.high / plain.low
    assert "another runtime, other" in carried.how and model.other == "other"


def test_nothing_to_learn_from() -> None:
    with pytest.raises(InputError, match="there are no measurements"):
        learn_core(PI, [], [], runtime="edgeopt", origin="")


def test_digest_follows_what_was_learnt() -> None:
    assert model_digest(core_model(PI)) == model_digest(core_model(PI))
    assert model_digest(taught(5)[0]) != model_digest(core_model(PI))


def test_a_fit_comes_back_from_its_file(tmp_path: Path) -> None:
    model, fit = taught(12)
    path = tmp_path / "x.core.json"
    save_fit(fit, path)
    again = core_model(PI, fit=load_fit(path))
    for unit in networks(5, 8):
        old, new = model.predict(unit.keys), again.predict(unit.keys)
        assert (new.value, new.low, new.high) == pytest.approx((old.value, old.low, old.high), 1e-3)
    assert load_fit(path).trust == fit.trust and again.how == model.how


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (r"\{", "", "not a core fit"),
        ('"schema": 1', '"schema": 2', "schema 2 is not known"),
        ("edgeopt-core-fit", "edgeopt-core-fat", "format is 'edgeopt-core-fat'"),
        ('"noise"', '"nose"', "unknown field `nose`"),
        ('"speed"', '"sped"', "unknown factor 'sped'"),
        ('"threads": 1', '"threads": -1', "threads, noise or widen cannot be"),
        ('"widen":[^}]*', '"widen":1e300', "threads, noise or widen cannot be"),
        ('"mape":', '"mape":-', "rows and mape cannot be"),
        (r'  "call": .*\n', "", "factor 'call' is missing"),
        ('"call": .*,', '"call": [0.1, -1.0],', "deviations positive"),
        ('"call": .*,', '"call": [1e300, 1.0],', "must be between -50 and 50"),
        ('"threads": 1', '"threads": "one"', "Expected `int`"),
        (r"\n  \[(-?[0-9.]+)\]", r"\n  [\1,0.5]", "do not match the factors"),
        (r"\n  \[-?[0-9.]+\]", "\n  [7.0]", "not those of anything"),
    ],
)
def test_a_broken_fit_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "x.core.json"
    save_fit(taught(3)[1], path)
    text = path.read_text()
    damaged = re.sub(old, new, text, count=1)
    assert damaged != text
    path.write_text(damaged)
    with pytest.raises(InputError) as caught:
        load_fit(path)
    assert message in caught.value.what and caught.value.where == str(path)
    assert "table calibrate" in caught.value.hint


def test_which_model_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE_DIR", str(tmp_path))
    folder = tmp_path / "tables"
    folder.mkdir()
    assert set(find_fits(PI)) == {("hw-nas-bench", 0)}
    assert "another runtime, hw-nas-bench" in estimates(PI).predict([pointwise(8, 8, 8)]).how
    assert latency_source(PI) == "estimated (from measurements under hw-nas-bench)"
    fit = taught(8)[1]
    save_fit(fit, fit_path(folder, PI, "edgeopt", 1))
    model = latency.load_model(PI)
    assert isinstance(model, CoreModel) and model.trust == fit.trust
    assert latency_source(PI).startswith("estimated (8 measurements, ")
    save_fit(replace(fit, device="rpi5"), fit_path(folder, PI, "edgeopt", 1))
    with pytest.raises(InputError, match="measurements of rpi5"):
        find_fits(PI)


def test_runtimes_nobody_measured() -> None:
    published = estimates(PI, runtime="hw-nas-bench")
    assert isinstance(published, CoreModel) and published.threads == 0
    other = estimates(PI, runtime="onnxruntime").predict([pointwise(8, 16, 16)])
    assert other.value > estimates(PI).predict([pointwise(8, 16, 16)]).value
    with pytest.raises(InputError, match="nothing is known of runtime 'hw-nas-bnch'") as caught:
        estimates(PI, runtime="hw-nas-bnch")
    assert "did you mean hw-nas-bench" in caught.value.hint


def benchmark(name: str) -> ModuleType:
    folder = str(Path(__file__).resolve().parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def test_shipped_fits_are_what_the_derivation_gives(data_dir: Path) -> None:
    derive = benchmark("derive_boards")
    for source in benchmark("board_data").SOURCES[:2]:
        fresh = derive.derive(source, data_dir / "latency")
        shipped = find_fits(devices.load(source.device))[source.runtime, 0]
        assert fresh.belief.mean == pytest.approx(shipped.belief.mean, abs=0.02)
        assert fresh.trust.mape == pytest.approx(shipped.trust.mape, rel=0.05)
        assert "not stated upstream" in shipped.origin and "MIT" in shipped.origin


@pytest.mark.parametrize(
    ("device", "rows", "prior", "spearman", "mape"),
    [("rpi4", 96, 0.93, 0.98, 0.18), ("pixel3", 96, 0.95, 0.99, 0.07), ("note10", 1632, 0.98, 0.98,
                                                                      0.06)],
)  # fmt: skip
def test_published_rows(
    data_dir: Path, device: str, rows: int, prior: float, spearman: float, mape: float
) -> None:
    """Order from facts alone; error of layers and blocks left out, as the shipped files say."""
    data, bench = benchmark("board_data"), benchmark("board_estimates")
    source = next(s for s in data.SOURCES if s.device == device)
    found = data.read(source, data_dir / "latency")
    assert len(found) == rows
    profile = devices.load(device)
    facts = core_model(profile, runtime=source.runtime, threads=0)
    value, by = bench.predictions(facts, found)
    times = bench.times_of(found)
    assert bench.compare(value, times).spearman > prior
    assert np.mean(np.abs(np.log(value / times)) <= np.log(by)) >= 0.85
    trust = find_fits(profile)[source.runtime, 0].trust
    assert trust.rows == rows and trust.spearman > spearman and trust.mape < mape
    work = work_of(found[0].unit.keys[0], facts.peaks)
    assert work.shape == (len(COLUMNS),) and (work >= 0).all()


def test_a_table_is_no_guide_to_classes_it_lacks_but_the_core_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class without measurements follows the core that the table's other kernels show."""
    monkeypatch.setenv("EDGEOPT_CACHE_DIR", str(tmp_path))
    keys = [pointwise(8, 8 * n, 8 * m) for n in range(1, 6) for m in range(1, 6)]
    keys += [depthwise(8, 8 * n, k) for n in range(1, 6) for k in (3, 5)]
    slow = replace(truth(), base=truth().base * 3)
    entries = {key: Measurement(slow.predict_each([key])[0].value, 1.0, 15) for key in keys}
    table = LatencyTable("rpi4", PI.fingerprint, "edgeopt", "1", 1, entries)
    folder = tmp_path / "tables"
    folder.mkdir()
    table.save(latency.table_path(folder, PI))
    model = latency.load_model(PI)
    assert isinstance(model, TableModel)
    unseen = [
        OpKey("conv2d", (16, 16, 32), (16, 16, 32), kernel=(3, 3), pads=(1, 1, 1, 1)),
        OpKey("global_avgpool", (16, 16, 64), (1, 1, 64)),
        OpKey("linear", (512,), (100,)),
    ]
    for key in unseen:
        (found,), (real,) = model.predict_each([key]), slow.predict_each([key])
        assert found.low < real.value < found.high and found.coverage == 0
        assert 0.5 < found.value / real.value < 2
        assert "the table's kernels of other classes" in found.how
        (facts,) = core_model(PI).predict_each([key])
        assert abs(np.log(found.value / real.value)) < abs(np.log(facts.value / real.value))
    (known,) = model.predict_each([keys[0]])
    assert known.source is Source.MEASURED
