"""Timing whole networks under onnxruntime, here or on a board, with an anchor beside every run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeopt.core.kernels import KernelGraph
from edgeopt.pipeline.network_times import Visit, read_visit

if TYPE_CHECKING:
    from edgeopt.latency.meters.steady import SteadyProgram
    from edgeopt.pipeline.boards import Board

#: Side of the matrices whose product is the anchor: a few microseconds on a core.
_SIDE = 48
_KINDS = {"tensor(float)": np.float32, "tensor(int8)": np.int8}


@dataclass(slots=True)
class OrtNetworks:
    """Visits to networks, each in a session of its own, as a user would set it up.

    Attributes:
        graphs: name -> the network.
        threads: of each session.
        min_ms: a visit lasts at least so long.
        runs: and has at least so many runs.
    """

    graphs: Mapping[str, KernelGraph]
    threads: int = 1
    min_ms: int = 8
    runs: int = 24
    _sessions: dict[str, tuple[Any, dict[str, Any]]] = field(default_factory=dict, repr=False)
    _left: Any = field(default=None, repr=False)
    _right: Any = field(default=None, repr=False)
    _result: Any = field(default=None, repr=False)

    def prepare(self, name: str) -> None:
        """Make the session of a network, if there is none yet."""
        from edgeopt.graph.opkey_model import network_model_of

        if name in self._sessions:
            return
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            network_model_of(self.graphs[name]), options, providers=["CPUExecutionProvider"]
        )
        random = np.random.default_rng(0)
        feeds = {}
        for item in session.get_inputs():
            values = random.uniform(-1, 1, item.shape)
            feeds[item.name] = (values if item.type == "tensor(float)" else 100 * values).astype(
                _KINDS[item.type]
            )
        self._sessions[name] = (session, feeds)

    def __call__(self, name: str) -> Visit:
        """One visit."""
        self.prepare(name)
        session, feeds = self._sessions[name]
        clock, run = time.perf_counter_ns, session.run
        for _ in range(3):
            run(None, feeds)
        samples: list[float] = []
        anchors: list[float] = []
        total = 0
        while len(samples) < self.runs or total < self.min_ms * 1_000_000:
            begin = clock()
            run(None, feeds)
            spent = clock() - begin
            samples.append(float(spent))
            anchors.append(self._anchor())
            total += spent
        return Visit(tuple(samples), tuple(anchors))

    def _anchor(self) -> float:
        """Nanoseconds of a small product of matrices."""
        if self._left is None:
            random = np.random.default_rng(0)
            self._left, self._right = random.standard_normal((2, _SIDE, _SIDE)).astype(np.float32)
            self._result = np.empty((_SIDE, _SIDE), np.float32)
        np.dot(self._left, self._right, out=self._result)  # brings it back to the caches
        begin = time.perf_counter_ns()
        np.dot(self._left, self._right, out=self._result)
        return float(time.perf_counter_ns() - begin)


@dataclass(slots=True)
class BoardOrtNetworks:
    """Visits to networks under the onnxruntime of a board.

    Attributes:
        graphs: name -> the network.
        board: where they run.
        threads: of each session.
    """

    graphs: Mapping[str, KernelGraph]
    board: Board
    threads: int = 1
    min_us: int = 8000
    runs: int = 24
    _programs: dict[str, SteadyProgram] = field(default_factory=dict, repr=False)
    _work: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    def prepare(self, name: str) -> None:
        """Make the program of a network, if there is none yet."""
        from edgeopt.core.files import digest
        from edgeopt.graph.opkey_model import network_model_of
        from edgeopt.latency.meters.board_ort import network_program
        from edgeopt.latency.meters.steady import SteadyProgram

        if name in self._programs:
            return
        assert self.board.session is not None
        if self._work is None:
            self._work = tempfile.TemporaryDirectory(prefix="edgeopt-")
        program = network_program(
            self.board.session, Path(self._work.name), digest(name.encode())[:16],
            network_model_of(self.graphs[name]), self.threads,
        )  # fmt: skip
        self._programs[name] = SteadyProgram(program, self.board.recovery)

    def __call__(self, name: str) -> Visit:
        """One visit.

        Raises:
            BoardError: the board does not answer, or prints something else.
        """
        self.prepare(name)
        options = ["--samples", str(self.runs), "--min-us", str(self.min_us)]
        if self.board.cpu is not None:
            options += ["--cpu", str(self.board.cpu)]
        self.board.renew()
        return read_visit("".join(self._programs[name].run(options)))

    def close(self) -> None:
        """Remove the models."""
        if self._work is not None:
            self._work.cleanup()
            self._work = None
