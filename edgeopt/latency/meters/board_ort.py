"""Timing kernels under the onnxruntime of a board: models and a small script are pushed there."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeopt.core.errors import EdgeoptError, ToolError
from edgeopt.core.kernels import OpKey
from edgeopt.latency.meters import ort_worker
from edgeopt.latency.meters.program import BenchProgram
from edgeopt.latency.meters.session import BoardProgram, Session

WORKER = Path(ort_worker.__file__)
EMPTY_MODEL = OpKey("copy", (1,), (1,))


@dataclass(slots=True)
class OrtPrograms:
    """Builds archives of single-operator models, run by the board's own interpreter.

    Args:
        session: the board.
        work: a folder of this machine for the archives.
        threads: that onnxruntime may use.
    """

    session: Session
    work: Path
    threads: int = 1
    _empty: bytes = field(default=b"", repr=False)
    _count: int = 0

    def build(self, keys: Sequence[OpKey]) -> tuple[BenchProgram | None, Mapping[OpKey, str]]:
        """One archive of some kernels; those that ONNX has no operator for, with the reason."""
        from edgeopt.graph.opkey_model import model_of

        python, _ = interpreter(self.session)
        failed: dict[OpKey, str] = {}
        models: dict[str, bytes] = {}
        for key in dict.fromkeys(keys):
            try:
                models[key.digest] = model_of(key)
            except EdgeoptError as error:
                failed[key] = error.what
        if not models:
            return None, failed
        self._empty = self._empty or model_of(EMPTY_MODEL)
        self._count += 1
        path = self.work / f"models-{self._count}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {ort_worker.EMPTY: self._empty, **models}.items():
                archive.writestr(zipfile.ZipInfo(name), data)
        words = ("--threads", str(self.threads))
        program = BoardProgram(
            self.session, WORKER, before=(python,), files=(("--models", path),), words=words,
            executable=False,
        )  # fmt: skip
        return program, failed


def network_program(
    session: Session, work: Path, name: str, model: bytes, threads: int = 1
) -> BoardProgram:
    """What runs a whole network under the board's onnxruntime: one visit a run.

    Raises:
        ToolError: the board has no onnxruntime.
        BoardError: it does not answer.
    """
    python, _ = interpreter(session)
    path = work / f"network-{name}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), model)
    return BoardProgram(
        session, WORKER, before=(python,), files=(("--models", path),),
        words=("--whole", "--threads", str(threads), name), executable=False,
    )  # fmt: skip


def interpreter(session: Session) -> tuple[str, str]:
    """The board's Python, and the version of its onnxruntime.

    Raises:
        ToolError: one of them is missing; says how to install it.
        BoardError: the board does not answer.
    """
    facts = session.facts()
    if facts.python3 is None:
        raise ToolError(
            "there is no python3 on the board, which the meter 'ort' needs", where=session.name,
            hint="on the board: apt-get install -y python3-pip, then "
            "python3 -m pip install onnxruntime; or measure with --meter tvm, "
            "which needs nothing there",
        )  # fmt: skip
    if facts.onnxruntime is None:
        raise ToolError(
            "the board's Python has no onnxruntime, which the meter 'ort' needs",
            where=session.name,
            hint=f"on the board: {facts.python3} -m pip install onnxruntime; or measure with "
            "--meter tvm, which needs nothing there",
        )  # fmt: skip
    return facts.python3, facts.onnxruntime
