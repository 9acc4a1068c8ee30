"""Runs a peer on many models, under the emulator, in the peer's own userland.

    python peer_runs.py SITE WORKERS onnxruntime|litert RUNS JOBS

JOBS is a JSON list of [model, image, precision]. Each is loaded, run twice, and RUNS times
between two calls of getpriority, which the counting plugin sees. A failure is reported and has
its two marks one after the other.
"""

import json
import os
import sys

site, workers, peer, runs, jobs = sys.argv[1:]
sys.path[:0] = [workers, site]

import numpy as np  # noqa: E402


def engine():  # type: ignore[no-untyped-def]
    if peer == "onnxruntime":
        from worker_onnxruntime import OnnxRuntime

        return OnnxRuntime(exact=False)
    from worker_litert import LiteRt

    return LiteRt()


def mark() -> None:
    os.getpriority(os.PRIO_PROCESS, 0)


for model, image, precision in json.loads(jobs):
    try:
        loaded = engine()
        loaded.load(__import__("pathlib").Path(model), 1, np.load(image), precision)
        loaded.run()
        loaded.run()
    except Exception as error:
        print(f"{model}: {error}", file=sys.stderr, flush=True)
        mark()
        mark()
        continue
    mark()
    for _ in range(int(runs)):
        loaded.run()
    mark()
