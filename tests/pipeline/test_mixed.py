"""Subnet and plan searched together, exported with the supernet's integers, compiled and proven."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from edgeopt import devices
from edgeopt.codegen import cost
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Budget, Source
from edgeopt.core.files import digest
from edgeopt.core.precision import read_plan
from edgeopt.core.space import SubnetConfig, parse_space
from edgeopt.graph.importer import import_model
from edgeopt.graph.load import parse_model
from edgeopt.ofa import predictor as fitting
from edgeopt.ofa.data import normalize
from edgeopt.ofa.plan_genes import PlanDomain, Planned
from edgeopt.ofa.plans import (
    BlockPlan,
    PlanEvaluation,
    sample,
    to_precision,
    uniform,
    write_evaluations,
)
from edgeopt.pipeline import mixed, planned, proof, source
from edgeopt.pipeline.compile import CompileRequest, compile_network
from edgeopt.pipeline.elastic import ElasticNet
from edgeopt.pipeline.elastic_files import QUANTIZERS, load_elastic, save_elastic
from edgeopt.zoo.elastic import CARD, SCHEMA, ElasticCard, ElasticEntry, Row, load_folder
from tests.ofa.conftest import TINY, randomized

#: Shipped images have one size, and so have the subnets that are compiled.
TEXT = TINY.replace("resolutions = [12, 16]", "resolutions = [16]")
SPACE = parse_space(TEXT)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An elastic entry of random weights whose accuracies are made up: two bits do best."""
    torch.set_num_threads(1)
    found = tmp_path_factory.mktemp("zoo") / "tiny_q"
    found.mkdir()
    net = ElasticNet(randomized(SPACE)).eval()
    net.fit()
    save_elastic(net, found / "weights.npz", found / QUANTIZERS)
    images = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
    np.savez_compressed(found / "calibration.npz", images=images)
    rng, rows = random.Random(0), []
    for _ in range(60):
        config = SPACE.sample(rng)
        plan = sample(SPACE, config, rng)
        liked = sum(plan.blocks[i] == 2 for i in SPACE.active(config)) + plan.head.count(2)
        rows.append(PlanEvaluation(config, plan, 500 + 40 * liked + sum(config.depths), 1000))
    (found / "evaluations.csv").write_bytes(write_evaluations(rows))
    (found / "space.toml").write_text(TEXT)
    names = ("space.toml", "weights.npz", QUANTIZERS, "calibration.npz", "evaluations.csv")
    largest = SPACE.max_config()
    counted = Row(
        subnet=str(largest), plan=str(uniform(SPACE, 8)), kind="w8", average_bits=8.0,
        weight_bytes=1, fp32=0.5, fp32_after=0.5, accuracy=0.45, weights_only=0.48, images=100,
    )  # fmt: skip
    card = ElasticCard(
        schema=SCHEMA, name="tiny_q", base="tiny", space="tiny", trained=False, rows=(counted,),
        calibration_images=64, real_images=0, calibration=(), pairs=len(rows), pair_images=1000,
        training={}, licences={},
        digests={name: digest((found / name).read_bytes()) for name in names},
    )  # fmt: skip
    (found / CARD).write_bytes(msgspec.json.encode(card))
    return found


@pytest.fixture
def entry(folder: Path, monkeypatch: pytest.MonkeyPatch, stage_cache: Path) -> ElasticEntry:
    loaded = load_folder(folder)
    monkeypatch.setattr(mixed, "find_entry", lambda name: loaded)
    monkeypatch.setattr(fitting, "FAMILIES", {"linear": fitting.FAMILIES["linear"]})
    monkeypatch.setattr(source, "EVALUATIONS", 300)
    # Of the 64 numbers of this network's vectors, one that is a step off is more than a percent.
    monkeypatch.setattr(proof, "ORT_EQUAL_SHARE", 0.9)
    monkeypatch.setenv("EDGEOPT_CACHE_DIR", str(stage_cache))
    return loaded


@pytest.mark.slow
@pytest.mark.parametrize("board", ["rpi4", "nucleo-l4r5zi"])
def test_from_budget_to_a_proven_bundle(
    entry: ElasticEntry, tmp_path: Path, needs_tool: object, board: str
) -> None:
    assert callable(needs_tool)
    profile = devices.load(board)
    if len(planned.deployable_bits(profile.target)) < 2:
        pytest.skip(f"{board} has no kernels for packed weights")
    for tool in ("qemu-aarch64",) if board == "rpi4" else ("arm-none-eabi-gcc", "qemu-system-arm"):
        needs_tool(tool)
    out = tmp_path / "bundle"
    request = CompileRequest(
        device=board, out=out, precision="mixed", supernet="tiny", budget=Budget(ram_bytes=200_000)
    )
    manifest = compile_network(request)
    assert all(check.result == "passed" for check in manifest.checks), manifest.checks
    assert manifest.subnet is not None
    subnet, plan = SubnetConfig.parse(manifest.subnet), BlockPlan.parse(manifest.plan)
    assert plan.head == (2, 2, 2)  # as the made-up accuracies like it
    accuracy = manifest.figure("accuracy")
    predictor = mixed.predictor_of(entry, lambda stage, inputs, make: (make(), False))
    (predicted,) = predictor.predict([Planned(subnet, plan)])
    assert accuracy is not None and "less 3.00 points" in accuracy.how
    assert accuracy.value == pytest.approx(predicted - 0.03)
    precision = read_plan((out / "plan.json").read_text())
    assert precision == to_precision(SPACE, subnet, plan)
    bits = manifest.figure("weight_bits")
    assert bits is not None and bits.value < 8
    assert {k.weights for k in manifest.kernels if k.name in precision.layers} == {"w2"}
    assert any("of the" in note and "that int8 takes" in note for note in manifest.notes)
    page = (out / "report.html").read_text()
    assert str(plan) in page and "packed 2 bits" in page
    assert "it may lie below the line" not in page  # nothing limits what a plan spends
    # the supernet's own integers are what runs
    network = import_model(parse_model((out / "model_int8.onnx").read_bytes())).network
    elastic = load_elastic(SPACE, entry.weights, entry.quantizers)
    stored = elastic.prepare(subnet, plan, normalize(entry.calibration, SPACE)).stored()
    for op in network.ops:
        if op.name in precision.layers:
            ours = op.constants["w"].reshape(op.constants["w"].shape[0], -1)
            theirs = stored[op.name].weight
            moved = np.moveaxis(theirs, 1, -1) if theirs.ndim == 4 else theirs
            assert (ours == moved.reshape(ours.shape)).all(), op.name


@pytest.mark.slow
def test_flash_is_what_was_compiled_not_what_was_estimated(
    entry: ElasticEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that takes code for a third of its size has its plan fitted to what is linked."""
    fewer = {
        name: tuple(None if size is None else size // 3 for size in sizes)
        for name, sizes in cost.CODE_BYTES.items()
    }
    monkeypatch.setattr(cost, "CODE_BYTES", fewer)
    monkeypatch.setattr(cost, "_KNOWN", {})
    asked = 30_000  # small enough for code to matter
    request = CompileRequest(
        device="local", out=tmp_path / "b", precision="mixed", supernet="tiny",
        budget=Budget(flash_bytes=asked),
    )  # fmt: skip
    manifest = compile_network(request)
    flash, code = manifest.figure("flash_bytes"), manifest.figure("code_bytes")
    assert flash is not None and code is not None and flash.source == Source.COMPUTED.value
    # A layer of this space is kilobytes of code, which differ by processor: so does what is left.
    assert asked / 2 < flash.value <= asked
    assert "it may lie below the line" in (tmp_path / "b" / "report.html").read_text()
    assert manifest.subnet != str(SPACE.min_config())
    config = Planned(SubnetConfig.parse(str(manifest.subnet)), BlockPlan.parse(manifest.plan))
    profile = devices.load("local")
    if any("as --flash asks" in note for note in manifest.notes):
        profile = profile.compacted()
    network = planned.describe_planned(SPACE, config)
    taken_for = cost.evaluate(network, "i8", profile.target).code_bytes_estimate
    assert taken_for < 0.9 * code.value


def test_what_activations_cost_is_not_taken_for_zero(entry: ElasticEntry) -> None:
    predictor = mixed.predictor_of(entry, lambda stage, inputs, make: (make(), False))
    candidates = [Planned(SPACE.max_config(), uniform(SPACE, 4))]
    predict, how = mixed.in_integers(entry, predictor)
    assert predict(candidates) == pytest.approx(predictor.predict(candidates) - 0.03)
    assert "less 3.00 points" in how and "mean of 1 exact" in how
    unknown = replace(entry, card=msgspec.structs.replace(entry.card, rows=()))
    predict, how = mixed.in_integers(unknown, predictor)
    assert predict(candidates) == pytest.approx(predictor.predict(candidates))
    assert how.endswith("activations in float")


def test_costs_of_the_search_are_those_of_the_kernels(entry: ElasticEntry) -> None:
    profile = devices.load("rpi4")
    domain = PlanDomain(SPACE, planned.deployable_bits(profile.target))
    config = SPACE.max_config()
    candidate = Planned(config, sample(SPACE, config, random.Random(1), domain.bits))
    network = planned.describe_planned(SPACE, candidate)
    from edgeopt.codegen.lower import lower_shapes

    keys = lower_shapes(network, "i8", profile.target).keys
    assert any(key.weight_bits for key in keys)


def test_a_board_without_packed_kernels_says_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planned, "supported", lambda op, bits, target: False)
    request = CompileRequest(device="rpi4", out=tmp_path / "b", precision="mixed")
    with pytest.raises(InputError, match="rpi4 has no kernels that read weights of fewer") as error:
        compile_network(request)
    assert error.value.hint == "it has: fp32, int8"


def test_a_supernet_of_eight_bits_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeopt.zoo import elastic

    monkeypatch.setattr(elastic, "names", lambda: ())
    with pytest.raises(InputError, match="'mine' has no weights of fewer than 8 bits") as error:
        mixed.find_entry("mine")
    assert "edgeopt train --quantize" in (error.value.hint or "")


def test_the_supernet_made_of_another_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeopt.zoo import elastic

    monkeypatch.setattr(elastic, "names", lambda: ("tiny_q",))
    monkeypatch.setattr(elastic, "load", lambda name: load_folder(folder))
    assert mixed.find_entry("tiny").name == "tiny_q"
    assert mixed.find_entry("tiny_q").name == "tiny_q"
    with pytest.raises(InputError, match="'other' has no weights") as error:
        mixed.find_entry("other")
    assert "--supernet tiny_q" in (error.value.hint or "")


def test_a_float_network_needs_a_plan(tmp_path: Path) -> None:
    model = Path(__file__).parents[1] / "models" / "tiny_cnn.onnx"
    request = CompileRequest(
        device="rpi4", out=tmp_path / "b", model=model, precision="mixed", cache=False
    )
    with pytest.raises(InputError, match="no plan of its layers' bits") as error:
        compile_network(request)
    assert "edgeopt quantize" in (error.value.hint or "")


def test_unknown_precisions_are_refused(tmp_path: Path) -> None:
    request = CompileRequest(device="rpi4", out=tmp_path / "b", precision="mixt")
    with pytest.raises(InputError, match="unknown precision 'mixt'") as error:
        compile_network(request)
    assert "mixed" in (error.value.hint or "")


def test_a_predictor_that_ships_is_used(entry: ElasticEntry) -> None:
    calls: list[str] = []

    def cached(stage: str, inputs: object, make: object) -> tuple[dict[str, bytes], bool]:
        assert callable(make)
        calls.append(stage)
        return make(), False

    fitted = mixed.predictor_of(entry, cached)
    assert calls == ["plan-predictor"]
    shipped = replace(entry, predictor=fitted.dump())
    again = mixed.predictor_of(shipped, cached)
    assert calls == ["plan-predictor"]
    candidate = Planned(SPACE.min_config(), sample(SPACE, SPACE.min_config(), random.Random(0)))
    assert again.predict([candidate]) == pytest.approx(fitted.predict([candidate]), abs=1e-6)
