"""Runs on the board: times single-operator models with the onnxruntime that is installed there.

    python3 ort_worker.py --models FILE.zip [--threads N] [--cpu C] [--passes N] [--samples N]
                          [--min-us T] [--seed S] [--whole] [KEY...]

It needs this file, numpy and onnxruntime, and imports nothing else of edgeopt. It prints what
edgeopt's own bench program prints; a model that onnxruntime refuses gives a line with its error.
What a call from Python costs is measured on an empty model and subtracted. With --whole a model is
a whole network: every sample is one call as it is, beside a fixed piece of arithmetic, the anchor.

SPDX-License-Identifier: Apache-2.0
"""

# The board's Python may be old: nothing newer than 3.7 here.
from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
import zipfile
from typing import Any

EMPTY = "empty"  # the model of the archive that computes nothing
RESOLUTION = 0.02  # of a call's cost: no kernel is taken to be faster
WARM_UP_NS = 200000


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _pin(cpu: int) -> int:
    """The processor that the process is bound to; -1 if that is not permitted."""
    try:
        os.sched_setaffinity(0, {cpu})
    except (AttributeError, OSError, ValueError):
        return -1
    return cpu


def _clock_ns() -> int:
    steps = []
    for _ in range(200):
        begin = time.perf_counter_ns()
        steps.append(time.perf_counter_ns() - begin)
    return max(1, min(steps))


def _session(model: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _feeds(session: Any) -> dict[str, Any]:
    import numpy

    source = numpy.random.RandomState(0)
    feeds = {}
    for item in session.get_inputs():
        shape = [int(size) for size in item.shape]
        if item.type == "tensor(float)":
            feeds[item.name] = source.standard_normal(shape).astype(numpy.float32)
        elif item.type == "tensor(int8)":
            feeds[item.name] = source.randint(-128, 128, shape).astype(numpy.int8)
        else:
            raise ValueError("input of type " + item.type)
    return feeds


def _take(session: Any, feeds: dict[str, Any], calls: int) -> float:
    """Mean nanoseconds of a call."""
    run = session.run
    begin = time.perf_counter_ns()
    for _ in range(calls):
        run(None, feeds)
    return (time.perf_counter_ns() - begin) / calls


def _calls(session: Any, feeds: dict[str, Any], min_ns: int) -> int:
    """How many calls make a sample, after warming up."""
    begin = time.perf_counter_ns()
    spent, warm = 0, 0
    while warm < 2 or (spent < WARM_UP_NS and warm < 1000):
        session.run(None, feeds)
        warm += 1
        spent = time.perf_counter_ns() - begin
    return int(min_ns // max(1, spent // warm)) + 1


def _anchor(left: Any, right: Any, result: Any) -> int:
    """Nanoseconds of a small product of matrices."""
    import numpy

    numpy.dot(left, right, out=result)  # brings it back to the caches
    begin = time.perf_counter_ns()
    numpy.dot(left, right, out=result)
    return time.perf_counter_ns() - begin


def _visit_whole(archive: zipfile.ZipFile, key: str, options: Any) -> None:
    import numpy

    session = _session(archive.read(key), options.threads)
    feeds = _feeds(session)
    matrices = numpy.random.RandomState(0).standard_normal((2, 48, 48)).astype(numpy.float32)
    result = numpy.empty((48, 48), numpy.float32)
    for _ in range(3):
        session.run(None, feeds)
    times: list[float] = []
    anchors: list[int] = []
    while len(times) < options.samples or sum(times) < options.min_us * 1000:
        times.append(_take(session, feeds, 1))
        anchors.append(_anchor(matrices[0], matrices[1], result))
    _say({"samples_ns": times, "anchors_ns": anchors})


def _visit(archive: zipfile.ZipFile, key: str, options: Any, call_ns: float) -> None:
    try:
        session = _session(archive.read(key), options.threads)
        feeds = _feeds(session)
        calls = _calls(session, feeds, options.min_us * 1000)
    except Exception as error:  # onnxruntime's own types derive from nothing common
        _say({"key": key, "error": "onnxruntime refuses it: " + str(error)[:200]})
        return
    times = []
    for _ in range(options.samples):
        times.append(max(_take(session, feeds, calls) - call_ns, RESOLUTION * call_ns))
    _say({"key": key, "pass": 0, "calls": calls, "ns": [round(value, 2) for value in times]})


def main() -> None:
    """Time what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu", type=int)
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--min-us", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("keys", nargs="*")
    options = parser.parse_args()
    cpu = -1 if options.cpu is None else _pin(options.cpu)

    import onnxruntime

    archive = zipfile.ZipFile(options.models)
    if options.whole:
        _visit_whole(archive, options.keys[0], options)
        return
    keys = options.keys or [name for name in archive.namelist() if name != EMPTY]
    header: dict[str, Any] = {"bench": 1, "kernels": len(keys), "clock_ns": _clock_ns(), "cpu": cpu}
    header["onnxruntime"] = onnxruntime.__version__
    _say(header)
    empty = _session(archive.read(EMPTY), options.threads)
    feeds = _feeds(empty)
    calls = _calls(empty, feeds, options.min_us * 1000)
    call_ns = min(_take(empty, feeds, calls) for _ in range(10))
    order = random.Random(options.seed)
    for _ in range(options.passes):
        order.shuffle(keys)
        for key in keys:
            _visit(archive, key, options, call_ns)
    _say({"done": True})


if __name__ == "__main__":
    main()
