"""Running native code over a model from outside in a child process.

A parser or an inference that crashes, loops or eats memory takes only the child with it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt.core.errors import InputError

if TYPE_CHECKING:
    import onnx

#: Address space of the child beyond what the model itself needs.
_MEMORY_BYTES = 4 << 30
#: The child's limit is one of processor time; a busy machine may take so many times as long.
_PATIENCE = 10


def checked_isolated(
    data: bytes,
    folder: Path,
    max_bytes: int,
    input_shapes: Mapping[str, tuple[int, ...]],
    *,
    timeout_s: float,
) -> onnx.ModelProto:
    """`edgeopt.graph.check.checked` in a child process.

    Raises:
        InputError: as that, or the child crashed or took too long.
    """
    request = {
        "folder": str(folder),
        "max_bytes": max_bytes,
        "input_shapes": {name: list(shape) for name, shape in input_shapes.items()},
    }
    return _call("checked", request, data, timeout_s)


def inferred_isolated(data: bytes, *, timeout_s: float = 120.0) -> onnx.ModelProto:
    """`edgeopt.graph.check.infer` in a child process.

    Raises:
        InputError: as that, or the child crashed or took too long.
    """
    return _call("infer", {}, data, timeout_s)


def _call(
    task: str, request: Mapping[str, object], data: bytes, timeout_s: float
) -> onnx.ModelProto:
    import onnx

    header = {
        "task": task, "path": sys.path, "memory_bytes": _MEMORY_BYTES + 16 * len(data),
        "cpu_s": timeout_s, **request,
    }  # fmt: skip
    message = json.dumps(header).encode() + b"\n" + data
    worker = Path(__file__).with_name("check_worker.py")
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(worker)], input=message, capture_output=True,
            timeout=_PATIENCE * timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise _too_slow(timeout_s) from error
    if done.returncode == -signal.SIGXCPU:
        raise _too_slow(timeout_s)
    if done.returncode == 0:
        return onnx.ModelProto.FromString(done.stdout)
    if done.returncode == 3:
        parts = json.loads(done.stdout)
        raise InputError(parts["what"], where=parts["where"], hint=parts["hint"])
    last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
    cause = "ran out of memory" if last and "MemoryError" in last[0] else "crashed"
    detail = "".join(c for c in last[0][:200] if c.isprintable()) if last else ""
    raise InputError(
        f"reading it {cause} (status {done.returncode}{', ' + detail if detail else ''})",
        hint="the file is damaged, or made to do harm; check it with onnx.checker elsewhere",
    )


def _too_slow(timeout_s: float) -> InputError:
    return InputError(
        f"checking it took longer than {timeout_s:g} s",
        hint="the file is damaged, or made to be slow to read",
    )
