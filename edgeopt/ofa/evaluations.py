"""Evaluations of many subnets in worker processes, with a journal.

Every finished one is appended to the journal and synced, so that a run cut at any point goes on
where it stopped. A worker has one thread: small convolutions gain little from more, and on a busy
machine threads wait for each other at every layer.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from edgeopt.core.errors import InputError
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa.data import ImageSet
from edgeopt.ofa.plans import BlockPlan, PlanEvaluation

U8 = npt.NDArray[np.uint8]

#: A subnet, and the widths of its weights; without a plan it runs in fp32.
Pair = tuple[SubnetConfig, BlockPlan | None]
#: ``on_result(evaluation, done, planned)``, after every subnet that was run.
OnPair = Callable[[PlanEvaluation, int, int], None]

_FORMAT = "edgeopt-evaluations/1"


class Job(Protocol):
    """What a worker is given; picklable."""

    def start(self) -> Callable[[SubnetConfig, BlockPlan | None], int]:
        """Called once in a worker; gives what counts the images that a subnet gets right."""


def evaluate_pairs(
    job: Job,
    pairs: Sequence[Pair],
    images: int,
    identity: str,
    *,
    journal: Path | None = None,
    workers: int = 2,
    on_result: OnPair | None = None,
) -> list[PlanEvaluation]:
    """Evaluate every pair that the journal does not have yet.

    Args:
        job: evaluates one pair.
        pairs: what to evaluate; repeated ones are run once.
        images: how many images there are.
        identity: digest of weights and images, which a journal belongs to; see `identify`.
        journal: file that results are appended to, and taken from if they are there already.
        workers: processes, of one thread each.
        on_result: told after every pair that was run.

    Returns:
        One evaluation per pair, in their order.

    Raises:
        InputError: the journal belongs to other weights or images, or cannot be used.
    """
    wanted = list(dict.fromkeys(pairs))
    book = _Journal(journal, identity, images) if journal is not None else None
    done = dict(book.read()) if book is not None else {}
    todo = [pair for pair in wanted if pair not in done]
    for pair, right in _run(job, todo, min(workers, len(todo))):
        result = done[pair] = PlanEvaluation(*pair, right, images)
        if book is not None:
            book.append(result)
        if on_result is not None:
            on_result(result, sum(known in done for known in wanted), len(wanted))
    return [done[pair] for pair in pairs]


def identify(
    space: SearchSpace,
    state: Mapping[str, npt.NDArray[np.generic]],
    calibration: U8,
    test: ImageSet,
) -> str:
    """Digest of everything that accuracies depend on."""
    hasher = hashlib.sha256(repr(space).encode())
    for name, value in sorted(state.items()):
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            hasher.update(name.encode() + np.ascontiguousarray(value).tobytes())
    for array in (calibration, test.images, test.labels):
        hasher.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()


# -- workers --------------------------------------------------------------------------------------

_evaluate: Callable[[SubnetConfig, BlockPlan | None], int] | None = None  # of this worker process


def _start_worker(job: Job) -> None:
    global _evaluate
    torch.set_num_threads(1)
    _evaluate = job.start()


def _work(pair: Pair) -> tuple[Pair, int]:
    assert _evaluate is not None
    return pair, _evaluate(*pair)


def _run(job: Job, todo: Sequence[Pair], workers: int) -> Iterator[tuple[Pair, int]]:
    if workers < 2:
        run = job.start() if todo else None
        for pair in todo:
            assert run is not None
            yield pair, run(*pair)
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start_worker, (job,)
    )
    try:
        for future in concurrent.futures.as_completed([pool.submit(_work, p) for p in todo]):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# -- the journal ----------------------------------------------------------------------------------


class _Journal:
    """JSON lines: a header that says what was evaluated, then one result a line."""

    def __init__(self, path: Path, identity: str, images: int) -> None:
        self.path, self.identity, self.images = path, identity, images

    def read(self) -> Iterator[tuple[Pair, PlanEvaluation]]:
        """Results so far; a line that a crash cut short is removed."""
        try:
            data = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise InputError(f"cannot read: {error.strerror}", where=str(self.path)) from error
        whole = data[: data.rfind(b"\n") + 1]
        if not whole:
            self._write({"format": _FORMAT, "identity": self.identity}, truncate_to=0)
            return
        if len(whole) < len(data):
            with self.path.open("r+b") as stream:
                stream.truncate(len(whole))
        header, *entries = (self._parse(line) for line in whole.splitlines())
        if header.get("format") != _FORMAT or header.get("identity") != self.identity:
            raise InputError(
                "holds evaluations of other weights or images", where=str(self.path),
                hint="remove it, or name another journal",
            )  # fmt: skip
        for entry in entries:
            right = entry.get("right")
            if not isinstance(right, int) or not 0 <= right <= self.images:
                raise InputError(f"not an evaluation: {entry}", where=str(self.path))
            config = SubnetConfig.parse(str(entry.get("subnet")))
            plan = BlockPlan.parse(str(entry["plan"])) if "plan" in entry else None
            yield (config, plan), PlanEvaluation(config, plan, right, self.images)

    def append(self, result: PlanEvaluation) -> None:
        """Add one result, safe on disk when this returns."""
        entry: dict[str, object] = {"subnet": str(result.config), "right": result.right}
        if result.plan is not None:
            entry["plan"] = str(result.plan)
        self._write(entry)

    def _parse(self, line: bytes) -> dict[str, object]:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                return entry
        raise InputError(
            f"not a line of a journal: {line[:60]!r}", where=str(self.path),
            hint="remove it, or name another journal",
        )  # fmt: skip

    def _write(self, entry: Mapping[str, object], truncate_to: int | None = None) -> None:
        try:
            with self.path.open("ab") as stream:
                if truncate_to is not None:
                    stream.truncate(truncate_to)
                stream.write(json.dumps(entry).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise InputError(f"cannot write: {error.strerror}", where=str(self.path)) from error
