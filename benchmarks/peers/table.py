"""The runtimes that edgeopt is compared with: pinned packages, worker, environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from .client import PeerError

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Spec:
    """A peer.

    Attributes:
        name: in tables.
        worker: script of this folder, with its arguments.
        requirements: packages of its own environment; none: it runs in the project's.
        precisions: that it is tried with.
        part_of: the peer whose figure is the better of both.
    """

    name: str
    worker: tuple[str, ...]
    requirements: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32", "int8")
    part_of: str = ""


def _torch() -> str:
    """The project's own torch: programs that it exported are read by the peers' torch."""
    return f"torch=={version('torch')}"


PEERS = {
    spec.name: spec
    for spec in (
        Spec("onnxruntime", ("worker_onnxruntime.py",)),
        Spec("onnxruntime-exact", ("worker_onnxruntime.py", "--x64quantprecision"),
             precisions=("int8",), part_of="onnxruntime"),
        Spec("openvino", ("worker_openvino.py",), ("openvino==2026.4.1", "numpy==2.4.6")),
        Spec("litert", ("worker_litert.py",),
             ("ai-edge-litert==2.3.0", "litert-torch==0.10.0", "ai-edge-quantizer==0.10.0",
              _torch())),
        Spec("executorch", ("worker_executorch.py",), ("executorch==1.5.1", _torch())),
        Spec("iree", ("worker_iree.py",),
             ("iree-base-compiler==3.13.0", "iree-base-runtime==3.13.0", "onnx==1.23.2",
              "numpy==2.4.6")),
        Spec("tvm", ("worker_tvm.py",)),
    )
}  # fmt: skip


def interpreter(spec: Spec, cache: Path) -> Path:
    """The Python of a peer's environment under ``cache``, which is made if it is not there.

    Raises:
        PeerError: its packages cannot be installed.
    """
    if not spec.requirements:
        return Path(sys.executable)
    folder = cache / spec.name
    wanted = "\n".join(spec.requirements) + "\n"
    stamp = folder / "requirements.txt"
    python = folder / "bin" / "python"
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    print(f"installing {spec.name}: {', '.join(spec.requirements)}", file=sys.stderr, flush=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", *spec.requirements],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "ERROR" in line]
            raise PeerError("cannot be installed: " + (lines or ["no reason given"])[0][:200])
    stamp.write_text(wanted)
    return python


def environment(threads: int) -> dict[str, str]:
    """The environment variables of a worker: nothing but what it needs, and thread counts."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "TMPDIR", "LANG")}
    return {
        **kept,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "XDG_CACHE_HOME": tempfile.gettempdir(),
    }
