"""The benchmark's end of the line protocol that `worker` describes."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Converting and compiling a network may take minutes; running it never does.
CONVERT_S, RUN_S = 900.0, 300.0


class PeerError(Exception):
    """A peer cannot do what was asked; the text goes into the table."""


class Worker:
    """A peer's worker process.

    Args:
        command: interpreter, script and arguments.
        env: its environment variables.
    """

    def __init__(self, command: Sequence[str | Path], env: Mapping[str, str]) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the worker)
        self._process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, text=True, bufsize=1, env=dict(env),
        )  # fmt: skip

    def convert(self, folder: Path, precision: str, out: Path) -> tuple[Path, str]:
        """The file to load, and a remark."""
        answer = self._ask(
            CONVERT_S, do="convert", folder=str(folder), precision=precision, out=str(out)
        )
        return Path(answer["file"]), answer["note"]

    def pin(self, cpus: set[int]) -> None:
        """Let the worker, and threads that it starts from now on, use these processors only."""
        os.sched_setaffinity(self._process.pid, cpus)

    def load(self, file: Path, threads: int, image: Path, precision: str) -> str:
        """Make a model ready; returns the runtime's name and version."""
        answer = self._ask(
            CONVERT_S, do="load", file=str(file), threads=threads, input=str(image),
            precision=precision,
        )  # fmt: skip
        return str(answer["note"])

    def output(self) -> list[float]:
        """Values of the first output."""
        return list(self._ask(RUN_S, do="output")["values"])

    def run(self, runs: int) -> list[float]:
        """Nanoseconds of single inferences."""
        return [float(v) for v in self._ask(RUN_S, do="run", runs=runs)["samples_ns"]]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                pipe.close()

    def log(self) -> str:
        """What the worker and its libraries printed."""
        self._log.seek(0)
        return self._log.read()

    def _ask(self, limit_s: float, **request: object) -> dict[str, Any]:
        source, sink = self._process.stdout, self._process.stdin
        assert source is not None and sink is not None
        try:
            sink.write(json.dumps(request) + "\n")
            sink.flush()
        except BrokenPipeError:
            raise PeerError(self._death()) from None
        ready, _, _ = select.select([source], [], [], limit_s)
        if not ready:
            self._process.kill()
            raise PeerError(f"gave no answer to {request['do']!r} in {limit_s:.0f} s")
        line = source.readline()
        if not line:
            raise PeerError(self._death())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(str(answer["error"]))
        return answer

    def _death(self) -> str:
        code = self._process.wait()
        lines = [line for line in self.log().splitlines() if line.strip()]
        return f"died with {code}: {(lines or [''])[-1][:200]}"
