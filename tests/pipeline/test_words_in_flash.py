"""Bias and multiplier in one word where flash is limited, and in two where they do not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from test_lowbit_firmware import float_net

from edgeopt import devices
from edgeopt.codegen.constants import have_words
from edgeopt.core.estimates import Budget
from edgeopt.core.network import Network
from edgeopt.graph.importer import import_network
from edgeopt.pipeline.artifact import make_artifact
from edgeopt.pipeline.compile import CompileRequest, compile_network
from edgeopt.quant.calibration import calibrate
from edgeopt.quant.export import quantize_model

BOARDS = ("nucleo-l4r5zi", "mps3-an547", "local")


@pytest.fixture(scope="module")
def quantized() -> onnx.ModelProto:
    model = float_net()
    images = np.random.default_rng(0).standard_normal((8, 3, 12, 10)).astype(np.float32)
    return quantize_model(model, calibrate(model, images))


def foreign(network: Network) -> Network:
    """The same but for a bias that is one more, and so no multiple of its steps."""
    ops = list(network.ops)
    for index, op in enumerate(ops):
        if "b" in op.constants and op.constants["b"].dtype == np.int32:
            b = op.constants["b"] + np.int32(1)
            ops[index] = replace(op, constants={**op.constants, "b": b})
            return replace(network, ops=tuple(ops))
    raise AssertionError


@pytest.mark.parametrize("board", BOARDS)
def test_only_what_fits_is_stored_in_words(board: str, quantized: onnx.ModelProto) -> None:
    profile = devices.load(board)
    if profile.arch not in ("x86_64", "armv7em", "armv8m"):
        pytest.skip("this processor has no kernels that widen words")
    network = import_network(quantized)
    usual, short = (make_artifact(network, p.target) for p in (profile, profile.compacted()))
    assert short.target.narrow and not usual.target.narrow
    assert all("words" in c or "p" in c or "b" not in k.constants
               for k, c in zip(short.graph.kernels, short.constants, strict=True))  # fmt: skip
    wide = make_artifact(network, replace(profile.compacted().target, narrow=False))
    channels = sum(k.key.out_shape[-1] for k in wide.graph.kernels if "multiplier" in k.constants
                   and "w" in k.constants)  # fmt: skip
    assert 3 * channels < wide.weight_bytes - short.weight_bytes < 6 * channels
    other = make_artifact(foreign(network), profile.compacted().target)
    assert not other.target.narrow
    assert not all(have_words(k.constants) for k in other.graph.kernels if "w" in k.constants)


def edited(model: onnx.ModelProto) -> onnx.ModelProto:
    """What `foreign` makes of a network, in the model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    bias = next(t for t in copy.graph.initializer if t.data_type == onnx.TensorProto.INT32)
    more = onnx.numpy_helper.to_array(bias) + np.int32(1)
    bias.CopyFrom(onnx.numpy_helper.from_array(more, bias.name))
    return copy


@pytest.mark.parametrize(
    ("board", "foreign_model"), [("nucleo-l4r5zi", False), ("rpi-pico", False), ("rpi-pico", True)]
)
def test_firmware_with_a_budget_of_flash_is_small_only_where_it_must_be(
    quantized: onnx.ModelProto,
    tmp_path: Path,
    needs_tool: Callable[[str], str],
    board: str,
    foreign_model: bool,
) -> None:
    """Exact under emulation both ways; with room for usual kernels and constants it has those."""
    needs_tool("arm-none-eabi-gcc")
    needs_tool("qemu-system-arm")
    path = tmp_path / "tiny.onnx"
    path.write_bytes((edited(quantized) if foreign_model else quantized).SerializeToString())

    def compiled(flash: int | None, name: str) -> tuple[int, bool, bool]:
        request = CompileRequest(
            device=board,
            out=tmp_path / name,
            model=path,
            budget=Budget(flash_bytes=flash),
        )
        manifest = compile_network(request)
        assert {check.result for check in manifest.checks} <= {"passed", "skipped"}
        found = manifest.figure("flash_bytes")
        assert found is not None and (flash is None or found.value <= flash)
        kernels = (tmp_path / name / "kernels" / "kernels.c").read_text()
        words = "edgeopt_widened(words" in kernels
        assert words == any("one word" in note for note in manifest.notes)
        shared = kernels.startswith("#define EDGEOPT_FEW_BYTES")
        assert shared == any("share their code" in note for note in manifest.notes)
        return int(found.value), words, shared

    usual, *few = compiled(None, "usual")
    assert not any(few)
    assert compiled(usual + 2000, "roomy") == (usual, False, False)
    less, words, shared = compiled(usual - 1, "short")
    assert shared and words != foreign_model and less < usual
