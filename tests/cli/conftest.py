"""Running the command line in this process, as a user would see it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeopt.cli.main import main

MODELS = Path(__file__).resolve().parents[1] / "models"


@dataclass(frozen=True)
class Outcome:
    """Exit code and what was printed."""

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage_cache: Path
) -> Cli:
    """``cli("devices", "--json")`` runs the command; stages are cached for the whole run."""
    monkeypatch.setenv("EDGEOPT_CACHE_DIR", str(stage_cache))

    def run(*args: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["edgeopt", *map(str, args)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else 1
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """A small float CNN with one operator that has no template."""
    copy = tmp_path / "tiny_cnn.onnx"
    copy.write_bytes((MODELS / "tiny_cnn.onnx").read_bytes())
    return copy
