"""What a peer's worker does besides its runtime; runs in the peer's own environment.

A worker is ``python worker_x.py``. It reads one JSON object a line from its standard input and
answers with one line each:

    {"do": "convert", "folder": F, "precision": P, "out": F}   -> {"file": F, "note": text}
    {"do": "load", "file": F, "threads": N, "input": F, "precision": P} -> {"note": text}
    {"do": "output"}                                -> {"values": [floats]}
    {"do": "run", "runs": N}                        -> {"samples_ns": [ints]}

A failure is ``{"error": text}``. Standard output belongs to the protocol; what libraries print
goes to standard error. Nothing here may need more than numpy.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

Array = Any

#: Every turn begins with as many uncounted runs as fit, as in the artifact's own program.
WARM_UP_NS = 50_000_000


class Peer:
    """A runtime. Subclasses say how it converts, loads and runs a model."""

    def convert(self, folder: Path, precision: str, out: Path) -> tuple[Path, str]:
        """The file to load and a remark, from a folder of a model's files.

        Args:
            folder: holds ``fp32.onnx``, ``int8.onnx``, ``module.pt2`` and so on.
            precision: ``fp32`` or ``int8``.
            out: an own folder for converted files, kept between runs.
        """
        return folder / f"{precision}.onnx", ""

    def load(self, file: Path, threads: int, image: Array, precision: str) -> str:
        """Make the model ready to run on ``image``, float32 [1,C,H,W]; returns a remark."""
        raise NotImplementedError

    def run(self) -> None:
        """One inference as a user calls it."""
        raise NotImplementedError

    def output(self) -> Array:
        """The first output of an inference."""
        raise NotImplementedError


def fit(image: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """An image [1,C,H,W] in the layout and type that a runtime asks for."""
    value = image
    if tuple(shape) != image.shape:
        value = np.transpose(image, (0, 2, 3, 1))
    if value.shape != tuple(shape):
        raise ValueError(f"the model takes {tuple(shape)}, the image is {image.shape}")
    if np.dtype(dtype) != np.float32:  # a quantized input: 1/32 a step, whatever its scale is
        info = np.iinfo(dtype)
        centre = (int(info.min) + int(info.max) + 1) // 2
        value = np.clip(np.rint(value * 32) + centre, info.min, info.max)
    return np.ascontiguousarray(value.astype(dtype))


def serve(peer: Peer) -> None:
    """Answer requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = _answer(peer, request)
        except BaseException as error:  # a peer's failure is a result, whatever its kind
            traceback.print_exc()
            text = str(error).strip().splitlines() or [""]
            answer = {"error": f"{type(error).__name__}: {text[0][:300]}"}
        replies.write(json.dumps(answer) + "\n")


def _answer(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    what = request["do"]
    if what == "convert":
        out = Path(request["out"])
        out.mkdir(parents=True, exist_ok=True)
        file, note = peer.convert(Path(request["folder"]), request["precision"], out)
        return {"file": str(file), "note": note}
    if what == "load":
        image = np.load(request["input"])
        note = peer.load(Path(request["file"]), request["threads"], image, request["precision"])
        return {"note": note}
    if what == "output":
        peer.run()
        return {"values": np.asarray(peer.output(), np.float64).ravel().tolist()}
    if what == "run":
        clock, run, samples = time.perf_counter_ns, peer.run, []
        begin, warm = clock(), 0
        while warm < 3 or clock() - begin < WARM_UP_NS:
            run()
            warm += 1
        for _ in range(request["runs"]):
            begin = clock()
            run()
            samples.append(clock() - begin)
        return {"samples_ns": samples}
    raise ValueError(f"unknown request {what!r}")
