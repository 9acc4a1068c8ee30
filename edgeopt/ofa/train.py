"""Training a supernet on CPU: sandwich rule, in-place distillation, averaged weights, resumable.

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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from edgeopt.core.errors import EdgeoptError, InputError
from edgeopt.core.files import digest, write_atomic
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa.bn import recalibrate_bn
from edgeopt.ofa.checkpoint import save_weights
from edgeopt.ofa.data import ImageSet, augment, check_labels, load_images, normalize, pad
from edgeopt.ofa.extract import StaticNet, adopt_statistics, extract
from edgeopt.ofa.schedule import TrainOptions
from edgeopt.ofa.sorting import channel_orders, reorder_channels
from edgeopt.ofa.supernet import Supernet

Event = Mapping[str, object]
OnEvent = Callable[[Event], None]

CHECKPOINT = "checkpoint.pt"
JOURNAL = "journal.jsonl"
WEIGHTS = "weights.npz"

#: options that may change when a run is resumed
_FREE = ("minutes", "workers", "checkpoint_seconds", "evaluate_seconds", "evaluate_images")


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a finished run left behind; accuracies (0..1) on all test images."""

    weights: Path
    steps: int
    accuracy_largest: float
    accuracy_smallest: float


def train(
    space: SearchSpace,
    data: Path,
    out_dir: Path,
    options: TrainOptions | None = None,
    on_event: OnEvent | None = None,
) -> TrainResult:
    """Train a supernet, or go on with the run found in ``out_dir``.

    Args:
        space: the search space.
        data: npz file or image folder with train and test images (see `load_images`).
        out_dir: receives ``weights.npz``, ``journal.jsonl`` and ``checkpoint.pt``.
        options: see `TrainOptions`.
        on_event: called with every journal entry (progress, loss, accuracies).

    Raises:
        InputError: the data or ``out_dir`` cannot be used, or ``out_dir`` holds another run.
    """
    options = options or TrainOptions()
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create: {error.strerror}", where=str(out_dir)) from error
    if options.workers == 1:
        return _Worker(0, space, data, out_dir, options, on_event).run()
    return _train_in_processes(space, data, out_dir, options, on_event)


def _train_in_processes(
    space: SearchSpace, data: Path, out_dir: Path, options: TrainOptions, on_event: OnEvent | None
) -> TrainResult:
    import torch.multiprocessing as processes

    with tempfile.TemporaryDirectory(prefix="edgeopt-train-") as meeting:
        context = processes.get_context("spawn")
        others = [
            context.Process(
                target=_follow, args=(rank, space, data, out_dir, options, meeting), daemon=True
            )
            for rank in range(1, options.workers)
        ]
        for other in others:
            other.start()
        try:
            _join(0, options, meeting)
            return _Worker(0, space, data, out_dir, options, on_event).run()
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            for other in others:
                other.join(timeout=10)
                if other.is_alive():
                    other.terminate()


def _join(rank: int, options: TrainOptions, meeting: str) -> None:
    from datetime import timedelta

    # a run may be paused for hours (SIGSTOP): peers must wait rather than give up
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}/store", rank=rank,
        world_size=options.workers, timeout=timedelta(days=7),
    )  # fmt: skip


def _follow(
    rank: int, space: SearchSpace, data: Path, out_dir: Path, options: TrainOptions, meeting: str
) -> None:
    _join(rank, options, meeting)
    _Worker(rank, space, data, out_dir, options, None).run()
    dist.destroy_process_group()


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


class _Worker:
    """One process of a run; worker 0 also keeps the average, the journal and the checkpoint."""

    def __init__(
        self, rank: int, space: SearchSpace, data: Path, out_dir: Path, options: TrainOptions,
        on_event: OnEvent | None,
    ) -> None:  # fmt: skip
        torch.set_num_threads(1)
        self.rank, self.space, self.out_dir, self.options = rank, space, out_dir, options
        self.on_event = on_event
        size = max(space.resolutions)
        self.train_set = load_images(data, "train", size, space.in_channels)
        check_labels(self.train_set, space, str(data))
        if rank == 0:
            self.test_set = load_images(data, "test", size, space.in_channels)
            check_labels(self.test_set, space, str(data))
        self.padded = pad(self.train_set.images, options.crop_pad)
        torch.manual_seed(options.seed)
        self.net = Supernet(space)
        self.net.zero_residual_scales()
        if options.grow > 0:
            self.net.zero_outer_taps()
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = dict(self.net.named_parameters())
        self.velocity = {n: torch.zeros_like(p) for n, p in self.parameters.items()}
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.step, self.sorted, self.elapsed = 0, False, 0.0
        self.started_at = time.time()
        self.identity = digest(repr((space, _bound(options), len(self.train_set))).encode())
        self._resume()

    # -- the loop ----------------------------------------------------------------------------

    def run(self) -> TrainResult:
        options = self.options
        local = options.batch // options.workers
        saved = evaluated = reported = time.monotonic()
        losses: list[float] = []
        self._note("start", progress=self._progress())
        while (progress := self._agree(self._progress())) < 1.0:
            if options.phase(progress) == "sandwich" and not self.sorted:
                self._sort()
            loss = self._one_step(progress, local)
            losses.append(loss)
            self.step += 1
            if self.rank:
                continue
            now = time.monotonic()
            if now - reported >= 20:
                reported = now
                self._note(
                    "step", progress=progress, phase=options.phase(progress),
                    rate=options.rate(progress), loss=sum(losses) / len(losses),
                    epoch=self.step * options.batch / len(self.train_set),
                )  # fmt: skip
                losses.clear()
            if now - evaluated >= options.evaluate_seconds:
                evaluated = now
                self._evaluate(progress)
            if now - saved >= options.checkpoint_seconds:
                saved = now
                self._save()
        return self._finish()

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
        options = self.options
        x, y = self._batch(count)
        self.net.train()
        for parameter in self.parameters.values():
            parameter.grad = None
        first, teacher = math.nan, None
        for config, distilled in options.subnets(self.space, progress, self.step):
            logits = self.net(x, config)
            if teacher is None:
                loss = F.cross_entropy(logits, y, label_smoothing=options.label_smoothing)
                teacher = logits.detach().softmax(1)
                first = float(loss.detach())
            else:
                assert distilled
                loss = options.distill_weight * F.cross_entropy(logits, teacher)
            loss.backward()  # type: ignore[no-untyped-call]
        if not math.isfinite(first):
            raise EdgeoptError(
                f"the loss became {first} at step {self.step}", where="training",
                hint="lower the learning rate and start again",
            )  # fmt: skip
        self._update(progress)
        return first

    @torch.no_grad()
    def _update(self, progress: float) -> None:
        """Nesterov SGD on gradients averaged over the workers, then the running average."""
        options = self.options
        names = list(self.parameters)
        weights = [p.data for p in self.parameters.values()]
        grads = [
            torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters.values()
        ]
        if options.phase(progress) == "grow":
            # only the centre taps train, so their matrices must stay identities
            for name, grad in zip(names, grads, strict=True):
                if name.endswith("_matrix"):
                    grad.zero_()
        if options.workers > 1:
            flat = torch.cat([g.reshape(-1) for g in grads])
            dist.all_reduce(flat)
            flat /= options.workers
            parts = torch.split(flat, [g.numel() for g in grads])
            grads = [part.view_as(g) for part, g in zip(parts, grads, strict=True)]
        decayed = [i for i, n in enumerate(names) if _decays(n, weights[i])]
        torch._foreach_add_(
            [grads[i] for i in decayed], [weights[i] for i in decayed], alpha=options.weight_decay
        )
        velocity = list(self.velocity.values())
        torch._foreach_mul_(velocity, options.momentum)
        torch._foreach_add_(velocity, grads)
        torch._foreach_add_(grads, velocity, alpha=options.momentum)
        torch._foreach_add_(weights, grads, alpha=-options.rate(progress))
        if self.rank == 0:
            keep = options.decay(self.step)
            torch._foreach_lerp_(list(self.average.values()), weights, 1.0 - keep)

    @torch.no_grad()
    def _sort(self) -> None:
        orders = channel_orders(self.net.state_dict())
        for state in (self.net.state_dict(), self.average, self.velocity):
            reorder_channels(state, orders)
        self.sorted = True

    # -- what worker 0 keeps -----------------------------------------------------------------

    def _averaged(self) -> Supernet:
        net = Supernet(self.space)
        net.load_state_dict(self.average, strict=False)
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _ready(self, net: Supernet, config: SubnetConfig, images: int) -> StaticNet:
        static = extract(net, config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        recalibrate_bn(static, normalize(self.train_set.images[:images], self.space))
        return static  # type: ignore[no-any-return]

    def _evaluate(self, progress: float) -> None:
        net = self._averaged()
        subset = self.test_set.head(self.options.evaluate_images)
        scores: dict[str, object] = {}
        for name, config in _extremes(self.space, self.options.phase(progress)):
            scores[name] = accuracy(self._ready(net, config, 1000), subset, self.space)
        self._note("evaluate", progress=progress, images=len(subset), **scores)

    def _finish(self) -> TrainResult:
        path = self.out_dir / WEIGHTS
        if self.rank:
            return TrainResult(path, self.step, math.nan, math.nan)
        self._save()
        net = self._averaged()
        scores: dict[str, float] = {}
        for name, config in _extremes(self.space, "sandwich"):
            static = self._ready(net, config, 2000)
            scores[name] = accuracy(static, self.test_set, self.space)
            if name == "largest":
                adopt_statistics(net, static)
        save_weights(net, path)
        self._note("end", progress=1.0, images=len(self.test_set), **scores)
        return TrainResult(path, self.step, scores["largest"], scores["smallest"])

    def _note(self, event: str, **values: object) -> None:
        if self.rank:
            return
        entry = {"event": event, "time": round(time.time(), 1), "step": self.step, **values}
        with (self.out_dir / JOURNAL).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        if self.on_event is not None:
            self.on_event(entry)

    def _save(self) -> None:
        state = {
            "identity": self.identity,
            "step": self.step,
            "sorted": self.sorted,
            "started_at": self.started_at,
            "weights": {n: p.detach() for n, p in self.parameters.items()},
            "velocity": self.velocity,
            "average": self.average,
            "options": json.dumps(asdict(self.options)),
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
        for own, kept in (
            ({n: p.data for n, p in self.parameters.items()}, state["weights"]),
            (self.velocity, state["velocity"]),
            (self.average, state["average"]),
        ):
            for name, tensor in own.items():
                tensor.copy_(kept[name])
        self.step, self.sorted = state["step"], state["sorted"]
        self.started_at = state["started_at"]


def _bound(options: TrainOptions) -> list[tuple[str, object]]:
    return [(k, v) for k, v in asdict(options).items() if k not in _FREE]


def _decays(name: str, weight: Tensor) -> bool:
    return weight.dim() > 1 and not name.endswith("_matrix")


def _extremes(space: SearchSpace, phase: str) -> Iterator[tuple[str, SubnetConfig]]:
    largest = space.max_config()
    if phase == "grow":
        largest = space.uniform(min(space.kernels), max(space.expands), max)
    yield "largest", largest
    if phase == "sandwich":
        yield "smallest", space.min_config()
