"""Compiled kernels: one object each, kept for every network that uses the kernel.

What identifies an object is the kernel's key, its tiling, the processor, and the code that makes
it; no network's name. Kernels that are not there are compiled side by side, in processes forked
from this one: importing TVM takes longer than compiling dozens of kernels.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgeopt import __version__
from edgeopt.codegen import schedules
from edgeopt.codegen.abi import symbol_of
from edgeopt.core.choice import MODEL, Choice
from edgeopt.core.errors import EdgeoptError, InputError, ToolError
from edgeopt.core.files import digest
from edgeopt.core.kernels import Kernel, OpKey
from edgeopt.core.target import TargetSpec
from edgeopt.pipeline.cache import StageCache

if TYPE_CHECKING:
    from edgeopt.codegen.schedules.shared import Shared

_STAGE, _FILE = "kernel", "kernel.o"
#: Fewer kernels than this are compiled here: a process more would not pay.
_WORTH_A_PROCESS = 4


@dataclass(frozen=True, slots=True)
class Job:
    """A kernel to compile.

    Attributes:
        key: what it computes.
        choice: how it is tiled.
        kernel: one with this key, where no template implements it: its payload is compiled.
    """

    key: OpKey
    choice: Choice = MODEL
    kernel: Kernel | None = field(default=None, compare=False)  # its key names the payload

    @property
    def symbol(self) -> str:
        """The function's name in its object."""
        return symbol_of(self.key, self.choice)


@cache
def codegen_version() -> str:
    """Names the generated code: the same for equal kernels from equal keys."""
    from importlib.metadata import version

    root = Path(__file__).resolve().parents[1] / "codegen"
    names = ("build", "abi", "elf", "fallback", "rawptr", "../core/activations", "../core/affine")
    files = sorted([*(root / "schedules").glob("*.py"), *(root / f"{n}.py" for n in names)])
    mark = digest(b"".join(path.read_bytes() for path in files))[:12]
    return f"edgeopt {__version__} {mark}, tvm {version('apache-tvm')}"


def compiled(
    jobs: Sequence[Job],
    target: TargetSpec,
    store: StageCache,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[Job, bytes], int]:
    """The objects of some kernels, and how many of them had to be compiled.

    Args:
        jobs: the kernels; the same one may be there several times.
        target: the processor.
        store: of objects.
        workers: processes to compile in; one a processor by default.
        progress: called with (compiled, to compile).

    Raises:
        InputError: nothing can compile a kernel, by name.
        ToolError: the compiler crashed.
    """
    found: dict[Job, bytes] = {}
    missing = []
    for job in dict.fromkeys(jobs):
        files = store.get(_STAGE, _inputs(job, target), code=codegen_version())
        if files is not None and _FILE in files:
            found[job] = files[_FILE]
        else:
            missing.append(job)
    for done, (job, data) in enumerate(_compile(missing, target, workers), start=1):
        store.put(_STAGE, _inputs(job, target), {_FILE: data}, code=codegen_version())
        found[job] = data
        if progress is not None:
            progress(done, len(missing))
    return found, len(missing)


def _inputs(job: Job, target: TargetSpec) -> dict[str, str]:
    payload = "" if job.kernel is None else digest(job.kernel.payload)
    return {
        "key": str(job.key),
        "choice": str(job.choice),
        "payload": payload,
        "target": target.digest_text,
    }


def _compile(
    jobs: Sequence[Job], target: TargetSpec, workers: int | None
) -> Iterator[tuple[Job, bytes]]:
    """Compile each kernel, in any order."""
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    workers = min(workers, len(jobs) // _WORTH_A_PROCESS)
    if workers < 2 or "fork" not in multiprocessing.get_all_start_methods():
        for job in jobs:
            yield job, _compile_one(job, target)
        return
    import tvm  # noqa: F401  # once, before the processes are forked

    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("fork"), initializer=_begin, initargs=(jobs, target)
    )
    with pool, warnings.catch_warnings():
        # Python warns of forking beside other threads. Those of torch and onnxruntime sleep, and
        # the processes never call them.
        warnings.simplefilter("ignore", DeprecationWarning)
        waiting = [pool.submit(_work, index) for index in range(len(jobs))]
        try:
            for future in as_completed(waiting):
                index, data, error = future.result()
                if error is not None:
                    raise error.as_exception(jobs[index])
                yield jobs[index], data
        except BrokenProcessPool as error:
            raise ToolError(
                f"TVM crashed while compiling {len(jobs)} kernels", where=target.mcpu,
                hint="is there memory left? Try again, or report the network",
            ) from error  # fmt: skip
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a process failed with, as text: exceptions of TVM cannot be sent."""

    kind: str
    what: str
    where: str = ""
    hint: str = ""

    def as_exception(self, job: Job) -> Exception:
        for known in (InputError, ToolError):
            if self.kind == known.__name__:
                return known(self.what, where=self.where, hint=self.hint)
        return RuntimeError(f"compiling {job.key} ({job.choice}): {self.what}")


# What a forked process compiles; inherited, never sent.
_mine: list[tuple[Sequence[Job], TargetSpec]] = []


def _begin(jobs: Sequence[Job], target: TargetSpec) -> None:
    _mine[:] = [(jobs, target)]


def _work(index: int) -> tuple[int, bytes, _Failure | None]:
    jobs, target = _mine[0]
    try:
        return index, _compile_one(jobs[index], target), None
    except EdgeoptError as error:
        kind = type(error).__name__
        return index, b"", _Failure(kind, error.what, error.where, error.hint)
    except Exception as error:
        return index, b"", _Failure(type(error).__name__, traceback.format_exc())


def _compile_one(job: Job, target: TargetSpec) -> bytes:
    from edgeopt.codegen import build, fallback

    template = schedules.select(job.key, target, job.choice)
    shared: tuple[Shared, ...] = ()
    if template is not None:
        primfunc, shared = template.primfunc(job.key, target), template.shared(job.key, target)
    elif job.kernel is not None:
        primfunc = fallback.primfunc(job.kernel, target)
    else:
        raise InputError(
            "no kernel template implements this", where=str(job.key),
            hint="kernels without a template are compiled by the fallback path",
        )  # fmt: skip
    return build.compile_object({job.symbol: primfunc}, target, shared)


def linked_bytes(
    keys: Sequence[OpKey],
    target: TargetSpec,
    store: StageCache,
    choices: Mapping[OpKey, Choice] = MappingProxyType({}),
) -> int:
    """Bytes of code of the kernels of a network that templates implement, compiled and joined.

    Args and errors are those of `compiled`; ``choices`` are tilings other than the model's.
    """
    from edgeopt.codegen.objects import object_size

    jobs = [Job(key, choices.get(key, MODEL)) for key in dict.fromkeys(keys)]
    objects, _ = compiled(jobs, target, store)
    return object_size(joined(jobs, objects)).code_bytes


def joined(jobs: Sequence[Job], objects: Mapping[Job, bytes], *, prefix: str = "") -> bytes:
    """The kernels' objects as one, ``prefix`` in front of each symbol."""
    from edgeopt.codegen import elf

    return elf.join(
        [(objects[job], {job.symbol: prefix + job.symbol}) for job in dict.fromkeys(jobs)]
    )
