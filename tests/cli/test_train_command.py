"""`edgeopt train --quantize` from the command line: what it writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeopt.core.space import parse_space
from edgeopt.ofa.checkpoint import save_weights
from tests.cli.conftest import Cli
from tests.ofa.conftest import TINY, randomized


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Space, weights and data of a tiny supernet."""
    space = tmp_path / "space.toml"
    space.write_text(TINY)
    save_weights(randomized(parse_space(TINY)), tmp_path / "weights.npz")
    rng = np.random.default_rng(0)
    arrays = {
        f"{split}_{kind}": values
        for split in ("train", "test")
        for kind, values in (
            ("images", rng.integers(0, 256, (32, 16, 16, 3), np.uint8)),
            ("labels", np.arange(32) % 4),
        )
    }
    np.savez(tmp_path / "data.npz", **arrays)
    return space, tmp_path / "weights.npz", tmp_path / "data.npz"


def test_quantizes_given_weights(cli: Cli, inputs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    space, weights, data = inputs
    outcome = cli(
        "train", "--quantize", "--from", weights, "--space", space, "--data", data,
        "-o", tmp_path / "run", "--epochs", "1", "--batch", "16",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "quantizers" in outcome.out and "w2 " in outcome.out
    assert (tmp_path / "run" / "quantizers.npz").exists()


def test_forms_for_simulation(cli: Cli, inputs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    space, weights, data = inputs
    outcome = cli(
        "train", "--quantize", "--from", weights, "--space", space, "--data", data,
        "-o", tmp_path / "run", "--epochs", "1", "--batch", "16", "--granularity", "group:8",
        "--asymmetric",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    with np.load(tmp_path / "run" / "quantizers.npz") as found:
        assert '"group": 8' in str(found["__header__"])
        assert any(name.endswith("zero2") for name in found.files)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "zoo:cifar_mbv3"), "--from names weights to quantize"),
        (("--quantize", "--from", "zoo:cifar_mbv4"), "no supernet 'cifar_mbv4' in the zoo"),
        (("--quantize", "--space", "cifar"), "zoo:cifar_mbv3 has its own space"),
        (("--quantize", "--from", "missing.npz"), "missing.npz"),
        (("--quantize", "--epochs", "0"), "epochs must be positive"),
        (("--granularity", "tensor"), "granularity and zero points are of quantizers"),
        (("--asymmetric",), "granularity and zero points are of quantizers"),
        (("--quantize", "--granularity", "rows"), "granularity is 'rows'"),
        (("--quantize", "--granularity", "group"), "granularity 'group' with groups of 0"),
        (("--quantize", "--from", "zoo:cifar_mbv3_q", "--asymmetric"), "of another form"),
    ],
)
def test_bad_options_are_refused(
    cli: Cli, inputs: tuple[Path, Path, Path], tmp_path: Path, arguments: tuple[str, ...],
    message: str,
) -> None:  # fmt: skip
    outcome = cli("train", *arguments, "--data", inputs[2], "-o", tmp_path / "run")
    assert outcome.code == 2, outcome.err
    assert message in " ".join(outcome.err.split())
    assert not (tmp_path / "run").exists()
