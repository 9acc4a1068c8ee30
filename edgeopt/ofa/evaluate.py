"""Test accuracies of many subnets: recalibrated, folded, in worker processes, with a journal.

Every finished subnet is appended to the journal and synced, so that a run cut at any point goes on
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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgeopt.core.errors import InputError
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa.bn import recalibrate_bn
from edgeopt.ofa.data import ImageSet, batches, normalize
from edgeopt.ofa.extract import StaticNet, extract
from edgeopt.ofa.supernet import Supernet

U8 = npt.NDArray[np.uint8]

#: ``on_result(evaluation, done, planned)``, after every subnet.
OnResult = Callable[["Evaluation", int, int], None]

_BATCH = 100  # fastest on CPU caches of the usual size
_FORMAT = "edgeopt-evaluations/1"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one subnet scored."""

    config: SubnetConfig
    right: int
    images: int

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly, 0..1."""
        return self.right / self.images


def prepare(supernet: Supernet, config: SubnetConfig, calibration: torch.Tensor) -> StaticNet:
    """A subnet extracted, its statistics measured on ``calibration``, ready to run in eval mode."""
    static: StaticNet = extract(supernet, config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    recalibrate_bn(static, calibration)
    return static


def fold_batch_norm(static: StaticNet) -> StaticNet:
    """Fold every batch norm into the convolution before it, in place."""
    for module in static.modules():
        if isinstance(module, nn.Sequential) and isinstance(
            bn := getattr(module, "bn", None), nn.BatchNorm2d
        ):
            module.conv = fuse_conv_bn_eval(module.conv, bn)  # type: ignore[type-var]
            module.bn = nn.Identity()
    return static


def count_right(net: nn.Module, images: torch.Tensor, labels: npt.NDArray[np.int64]) -> int:
    """How many normalized images [N,C,H,W] ``net`` classifies as labelled."""
    right = 0
    net.eval()
    with torch.inference_mode():
        for part in batches(len(labels), _BATCH):
            guess = net(images[part]).argmax(1).numpy()
            right += int((guess == labels[part]).sum())
    return right


def evaluate_subnets(
    supernet: Supernet,
    configs: Sequence[SubnetConfig],
    calibration: U8,
    test: ImageSet,
    *,
    journal: Path | None = None,
    workers: int = 2,
    on_result: OnResult | None = None,
) -> list[Evaluation]:
    """Classify all test images with every subnet.

    Args:
        supernet: the weights.
        configs: the subnets; repeated ones are run once.
        calibration: uint8 [N,H,W,C] images that each subnet's batch-norm statistics come from.
        test: images and labels, of the space's resolution.
        journal: file that results are appended to, and taken from if they are there already.
        workers: processes, of one thread each.
        on_result: told after every subnet that was run.

    Returns:
        One evaluation per config, in their order.

    Raises:
        InputError: a config is not in the space, or the journal belongs to other weights or images.
    """
    wanted = list(dict.fromkeys(supernet.space.validate(config) for config in configs))
    state = {name: value.numpy() for name, value in supernet.state_dict().items()}
    identity = _identity(supernet.space, state, calibration, test)
    book = _Journal(journal, identity, len(test)) if journal is not None else None
    done = dict(book.read()) if book is not None else {}
    todo = [config for config in wanted if config not in done]
    job = _Job(supernet.space, state, calibration, test)
    for result in _run(job, todo, min(workers, len(todo))):
        done[result.config] = result
        if book is not None:
            book.append(result)
        if on_result is not None:
            on_result(result, sum(config in done for config in wanted), len(wanted))
    return [done[config] for config in configs]


# -- workers --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    space: SearchSpace
    state: Mapping[str, npt.NDArray[np.generic]]
    calibration: U8
    test: ImageSet

    def start(self) -> Callable[[SubnetConfig], Evaluation]:
        supernet = Supernet(self.space)
        supernet.load_state_dict({n: torch.from_numpy(np.array(v)) for n, v in self.state.items()})
        calibration = normalize(self.calibration, self.space)
        images = normalize(self.test.images, self.space)

        def run(config: SubnetConfig) -> Evaluation:
            static = fold_batch_norm(prepare(supernet, config, calibration))
            return Evaluation(config, count_right(static, images, self.test.labels), len(self.test))

        return run


_evaluate: Callable[[SubnetConfig], Evaluation] | None = None  # of this worker process


def _start_worker(job: _Job) -> None:
    global _evaluate
    torch.set_num_threads(1)
    _evaluate = job.start()


def _work(config: SubnetConfig) -> Evaluation:
    assert _evaluate is not None
    return _evaluate(config)


def _run(job: _Job, todo: Sequence[SubnetConfig], workers: int) -> Iterator[Evaluation]:
    if workers < 2:
        run = job.start() if todo else None
        for config in todo:
            assert run is not None
            yield run(config)
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start_worker, (job,)
    )
    try:
        for future in concurrent.futures.as_completed([pool.submit(_work, c) for c in todo]):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# -- the journal ----------------------------------------------------------------------------------


def _identity(
    space: SearchSpace,
    state: Mapping[str, npt.NDArray[np.generic]],
    calibration: U8,
    test: ImageSet,
) -> str:
    hasher = hashlib.sha256(repr(space).encode())
    for name, value in sorted(state.items()):
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            hasher.update(name.encode() + np.ascontiguousarray(value).tobytes())
    for array in (calibration, test.images, test.labels):
        hasher.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()


class _Journal:
    """JSON lines: a header that says what was evaluated, then one result a line."""

    def __init__(self, path: Path, identity: str, images: int) -> None:
        self.path, self.identity, self.images = path, identity, images

    def read(self) -> Iterator[tuple[SubnetConfig, Evaluation]]:
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
            yield config, Evaluation(config, right, self.images)

    def append(self, result: Evaluation) -> None:
        """Add one result, safe on disk when this returns."""
        self._write({"subnet": str(result.config), "right": result.right})

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
