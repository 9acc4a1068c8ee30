"""Timing kernels as onnxruntime computes them: one single-operator model a kernel."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeopt.core.errors import EdgeoptError
from edgeopt.core.kernels import OpKey
from edgeopt.latency.meters import Window

RESOLUTION = 0.02


@dataclass(slots=True)
class OrtMeter:
    """Times kernels with onnxruntime's CPU provider on this machine.

    What a call from Python costs is measured on an empty model and subtracted; what is left is
    never taken to be less than `RESOLUTION` of it.
    """

    threads: int = 1
    samples: int = 5
    min_us: int = 200
    _sessions: dict[OpKey, tuple[Any, dict[str, Any]]] = field(default_factory=dict, repr=False)
    _call_ns: float = 0.0

    @property
    def runtime(self) -> str:
        """``onnxruntime``."""
        return "onnxruntime"

    @property
    def runtime_version(self) -> str:
        """The installed version."""
        import onnxruntime

        return str(onnxruntime.__version__)

    def prepare(self, keys: Sequence[OpKey]) -> dict[OpKey, str]:
        """Build one session a kernel."""
        from edgeopt.graph.opkey_model import feeds_of, model_of

        failed = {}
        for key in dict.fromkeys(keys):
            if key in self._sessions:
                continue
            try:
                session = _session(model_of(key), self.threads)
                feeds = feeds_of(key)
                session.run(None, feeds)
            except EdgeoptError as error:
                failed[key] = error.what
            except Exception as error:  # onnxruntime's own types derive from nothing common
                failed[key] = f"onnxruntime refuses it: {str(error)[:200]}"
            else:
                self._sessions[key] = (session, feeds)
        if not self._call_ns:
            copy = OpKey("copy", (1,), (1,))
            session, feeds = _session(model_of(copy), self.threads), feeds_of(copy)
            self._call_ns = min(self._sample(session, feeds) for _ in range(20))
        return failed

    def visit(self, keys: Sequence[OpKey]) -> Iterator[Window]:
        """Time the kernels one after another."""
        for key in keys:
            session, feeds = self._sessions[key]
            self._sample(session, feeds)  # warm-up
            times = tuple(
                max(self._sample(session, feeds) - self._call_ns, RESOLUTION * self._call_ns)
                for _ in range(self.samples)
            )
            yield Window(key, times)

    def _sample(self, session: Any, feeds: dict[str, Any]) -> float:
        """Mean nanoseconds of enough calls to last `min_us`."""
        call = functools.partial(session.run, None, feeds)
        begin = time.perf_counter_ns()
        call()
        each = max(time.perf_counter_ns() - begin, 1)
        calls = max(1, self.min_us * 1000 // each)
        begin = time.perf_counter_ns()
        for _ in range(calls):
            call()
        return (time.perf_counter_ns() - begin) / calls


def _session(model: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
