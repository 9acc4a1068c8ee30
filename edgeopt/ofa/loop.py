"""The frame of a training run on CPU: worker processes, data, averages, journal, resuming.

The batch is divided over worker processes of one thread each, which average their gradients
once a step: on a busy machine that is much faster than one process of many threads, which wait
for each other at every operation. Order of images, crops and subnets depend on (seed, step,
worker) alone, so a resumed run goes on exactly as it would have.
"""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from edgeopt.core.errors import EdgeoptError, InputError
from edgeopt.core.files import digest, write_atomic
from edgeopt.core.space import SearchSpace
from edgeopt.ofa.data import ImageSet, augment, check_labels, load_images, normalize, pad
from edgeopt.ofa.schedule import RunOptions

Event = Mapping[str, object]
OnEvent = Callable[[Event], None]

CHECKPOINT = "checkpoint.pt"
JOURNAL = "journal.jsonl"
WEIGHTS = "weights.npz"

#: options that may change when a run is resumed
_FREE = ("minutes", "workers", "checkpoint_seconds", "evaluate_seconds", "evaluate_images")


Options = TypeVar("Options", bound=RunOptions)
Result = TypeVar("Result")


class Loop(ABC, Generic[Options, Result]):
    """One process of a run; worker 0 also keeps the average, the journal and the checkpoint.

    Args:
        rank: which worker this is.
        space: the search space.
        data: npz file or image folder with train and test images.
        out_dir: folder of journal and checkpoint; gone on from if there are any.
        options: options of the run; all but the free ones identify it.
        on_event: called with every journal entry.
        start: digest of what else the run starts from.
    """

    def __init__(
        self, rank: int, space: SearchSpace, data: Path, out_dir: Path, options: Options,
        on_event: OnEvent | None = None, start: str = "",
    ) -> None:  # fmt: skip
        torch.set_num_threads(1)
        self.rank, self.space, self.out_dir, self.options = rank, space, out_dir, options
        self.on_event = on_event
        size = max(space.resolutions)
        self.train_set = load_images(data, "train", size, space.in_channels)
        check_labels(self.train_set, space, str(data))
        self.test_set = self.train_set
        if rank == 0:
            self.test_set = load_images(data, "test", size, space.in_channels)
            check_labels(self.test_set, space, str(data))
        self.padded = pad(self.train_set.images, options.crop_pad)
        torch.manual_seed(options.seed)
        self.net = self.build()
        self.parameters = dict(self.net.named_parameters())
        self.velocity = {n: torch.zeros_like(p) for n, p in self.parameters.items()}
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.step, self.flags = 0, dict.fromkeys(self.flag_names(), False)
        self.started_at = time.time()
        described = (space, _bound(options), len(self.train_set), *((start,) if start else ()))
        self.identity = digest(repr(described).encode())
        self._resume()

    # -- what a kind of run is -----------------------------------------------------------------

    @abstractmethod
    def build(self) -> nn.Module:
        """What is trained, with the weights it starts from."""

    @abstractmethod
    def gradients(self, x: Tensor, y: Tensor, progress: float) -> float:
        """Add the gradients of one step's losses; the loss to report."""

    @abstractmethod
    def descend(self, grads: list[Tensor], progress: float) -> None:
        """Move the parameters along gradients that are averaged over the workers already."""

    @abstractmethod
    def evaluate(self, progress: float) -> dict[str, object]:
        """Accuracies on the way, for the journal."""

    @abstractmethod
    def finish(self) -> tuple[Result, dict[str, object]]:
        """Write the weights; the result, and its accuracies for the journal."""

    @abstractmethod
    def partial_result(self) -> Result:
        """What a worker returns that keeps nothing."""

    def flag_names(self) -> tuple[str, ...]:
        """Flags in ``self.flags`` that checkpoints keep."""
        return ()

    def buffers(self) -> dict[str, dict[str, Tensor]]:
        """Tensors besides weights, velocity and average that checkpoints keep."""
        return {}

    def before_step(self, progress: float) -> None:
        """Called before every step."""

    # -- the loop ------------------------------------------------------------------------------

    def run(self) -> Result:
        """Train to the end."""
        options = self.options
        local = options.batch // options.workers
        saved = evaluated = reported = time.monotonic()
        losses: list[float] = []
        self.note("start", progress=self._progress())
        while (progress := self._agree(self._progress())) < 1.0:
            self.before_step(progress)
            losses.append(self._one_step(progress, local))
            self.step += 1
            if self.rank:
                continue
            now = time.monotonic()
            if now - reported >= 20:
                reported = now
                self.note(
                    "step", progress=progress, phase=options.phase(progress),
                    rate=options.rate(progress), loss=sum(losses) / len(losses),
                    epoch=self.step * options.batch / len(self.train_set),
                )  # fmt: skip
                losses.clear()
            if now - evaluated >= options.evaluate_seconds:
                evaluated = now
                self.note("evaluate", progress=progress, **self.evaluate(progress))
            if now - saved >= options.checkpoint_seconds:
                saved = now
                self.save()
        if self.rank:
            return self.partial_result()
        self.save()
        result, scores = self.finish()
        self.note("end", progress=1.0, images=len(self.test_set), **scores)
        return result

    def _progress(self) -> float:
        options = self.options
        share = self.step * options.batch / (options.epochs * len(self.train_set))
        if options.minutes is not None:
            share = max(share, (time.time() - self.started_at) / (60 * options.minutes))
        return min(1.0, share)

    def _agree(self, progress: float) -> float:
        if self.options.workers == 1:
            return progress
        shared = torch.tensor([progress], dtype=torch.float64)
        dist.broadcast(shared, 0)
        return float(shared)

    def _batch(self, count: int) -> tuple[Tensor, Tensor]:
        options, total = self.options, len(self.train_set)
        per_epoch = total // options.batch
        epoch, index = divmod(self.step, max(1, per_epoch))
        order = self._order(epoch)
        start = index * options.batch + self.rank * count
        picks = order[start : start + count]
        rng = np.random.default_rng((options.seed, 1, self.step, self.rank))
        crops = augment(self.padded, picks, self.train_set.images.shape[1], rng)
        return normalize(crops, self.space), torch.from_numpy(self.train_set.labels[picks])

    def _order(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        cached: tuple[int, np.ndarray[tuple[int], np.dtype[np.int64]]] | None
        cached = getattr(self, "_cached_order", None)
        if cached is None or cached[0] != epoch:
            rng = np.random.default_rng((self.options.seed, 0, epoch))
            cached = (epoch, rng.permutation(len(self.train_set)))
            self._cached_order = cached
        return cached[1]

    def _one_step(self, progress: float, count: int) -> float:
        x, y = self._batch(count)
        self.net.train()
        for parameter in self.parameters.values():
            parameter.grad = None
        loss = self.gradients(x, y, progress)
        if not math.isfinite(loss):
            raise EdgeoptError(
                f"the loss became {loss} at step {self.step}", where="training",
                hint="lower the learning rate and start again",
            )  # fmt: skip
        self._update(progress)
        return loss

    @torch.no_grad()
    def _update(self, progress: float) -> None:
        """Gradients averaged over the workers, a step along them, then the running average."""
        options = self.options
        grads = [
            torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters.values()
        ]
        if options.workers > 1:
            flat = torch.cat([g.reshape(-1) for g in grads])
            dist.all_reduce(flat)
            flat /= options.workers
            parts = torch.split(flat, [g.numel() for g in grads])
            grads = [part.view_as(g) for part, g in zip(parts, grads, strict=True)]
        self.descend(grads, progress)
        if self.rank == 0:
            keep = options.decay(self.step)
            weights = [p.data for p in self.parameters.values()]
            torch._foreach_lerp_(list(self.average.values()), weights, 1.0 - keep)

    # -- what worker 0 keeps -------------------------------------------------------------------

    def note(self, event: str, **values: object) -> None:
        """Append to the journal, safe on disk when this returns."""
        if self.rank:
            return
        entry = {"event": event, "time": round(time.time(), 1), "step": self.step, **values}
        with (self.out_dir / JOURNAL).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        if self.on_event is not None:
            self.on_event(entry)

    def _kept(self) -> dict[str, dict[str, Tensor]]:
        return {
            "weights": {n: p.data for n, p in self.parameters.items()},
            "velocity": self.velocity,
            "average": self.average,
            **self.buffers(),
        }

    def save(self) -> None:
        """Write the checkpoint."""
        state: dict[str, object] = {
            "identity": self.identity,
            "step": self.step,
            **self.flags,
            "started_at": self.started_at,
            "options": json.dumps(asdict(self.options)),
            **self._kept(),
        }
        stream = io.BytesIO()
        torch.save(state, stream)
        write_atomic(self.out_dir / CHECKPOINT, stream.getvalue())

    def _resume(self) -> None:
        path = self.out_dir / CHECKPOINT
        if not path.exists():
            return
        try:
            state = torch.load(path, weights_only=True)
        except Exception as error:
            raise InputError(
                "not a readable training checkpoint", where=str(path), hint="start in a new folder"
            ) from error
        if not isinstance(state, dict) or state.get("identity") != self.identity:
            raise InputError(
                "holds a run with another space, data set or options", where=str(path),
                hint="give the same ones to go on with it, or another folder to start afresh",
            )  # fmt: skip
        for part, own in self._kept().items():
            for name, tensor in own.items():
                tensor.copy_(state[part][name])
        self.step, self.started_at = state["step"], state["started_at"]
        self.flags = {name: state[name] for name in self.flags}


def accuracy(net: nn.Module, data: ImageSet, space: SearchSpace, batch: int = 250) -> float:
    """Share of images whose largest logit is their label."""
    right = 0
    net.eval()
    with torch.inference_mode():
        for start in range(0, len(data), batch):
            x = normalize(data.images[start : start + batch], space)
            guess = net(x).argmax(1).numpy()
            right += int((guess == data.labels[start : start + batch]).sum())
    return right / len(data)


# -- processes ---------------------------------------------------------------------------------

#: Makes the loop of a worker: its rank, and what is told of events.
Make = Callable[[int, OnEvent | None], Loop[Any, Any]]


def run_workers(make: Make, out_dir: Path, workers: int, on_event: OnEvent | None) -> Any:
    """Run a loop in as many processes, this one included; the result of worker 0.

    Args:
        make: picklable, called in every process.
        out_dir: folder of the run, made if need be.
        workers: processes.
        on_event: called with every journal entry.

    Raises:
        InputError: ``out_dir`` cannot be used.
    """
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create: {error.strerror}", where=str(out_dir)) from error
    if workers == 1:
        return make(0, on_event).run()
    import torch.multiprocessing as processes

    with tempfile.TemporaryDirectory(prefix="edgeopt-train-") as meeting:
        context = processes.get_context("spawn")
        others = [
            context.Process(target=_follow, args=(make, rank, workers, meeting), daemon=True)
            for rank in range(1, workers)
        ]
        for other in others:
            other.start()
        try:
            _join(0, workers, meeting)
            return make(0, on_event).run()
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            for other in others:
                other.join(timeout=10)
                if other.is_alive():
                    other.terminate()


def _join(rank: int, workers: int, meeting: str) -> None:
    from datetime import timedelta

    # a run may be paused for hours (SIGSTOP): peers must wait rather than give up
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}/store", rank=rank, world_size=workers,
        timeout=timedelta(days=7),
    )  # fmt: skip


def _follow(make: Make, rank: int, workers: int, meeting: str) -> None:
    _join(rank, workers, meeting)
    make(rank, None).run()
    dist.destroy_process_group()


def _bound(options: RunOptions) -> list[tuple[str, object]]:
    return sorted((k, v) for k, v in asdict(options).items() if k not in _FREE)
