"""What building a zoo entry of any kind shares: choosing subnets, writing it, its command line."""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from edgeopt.core.errors import EdgeoptError, InputError
from edgeopt.core.files import write_atomic
from edgeopt.core.space import SearchSpace, SubnetConfig
from edgeopt.ofa.distill import DistillOptions, distill_images
from edgeopt.ofa.extract import StaticNet
from edgeopt.ofa.genes import SubnetDomain

U8 = npt.NDArray[np.uint8]
Say = Callable[[str], None]
#: How weights were trained and what they may be used for, for a card.
About = Mapping[str, Mapping[str, str]]
#: ``run(arguments, about, say)`` builds an entry and gives what to say at the end.
Run = Callable[[argparse.Namespace, About, Say], str]


class Measured(Protocol):
    """A subnet and its accuracy."""

    @property
    def config(self) -> SubnetConfig:
        """The subnet."""

    @property
    def accuracy(self) -> float:
        """0..1."""


M = TypeVar("M", bound=Measured)


def of_all_sizes(space: SearchSpace, seed: int) -> Iterator[SubnetConfig]:
    """Subnets without end, from the smallest to the largest alike; some twice."""
    domain, rng = SubnetDomain(space), np.random.default_rng(seed)
    values = np.asarray(domain.cardinalities)
    while True:
        genes = rng.binomial(values - 1, rng.random())
        yield domain.decode(tuple(int(gene) for gene in genes))


def spread(measured: Sequence[M], count: int) -> list[M]:
    """So many of them, spread evenly over their accuracies."""
    ordered = sorted(measured, key=lambda m: (m.accuracy, str(m.config)))
    return [ordered[i] for i in np.linspace(0, len(ordered) - 1, count).round().astype(int)]


def distilled(
    nets: Callable[[], Sequence[StaticNet]],
    space: SearchSpace,
    options: DistillOptions,
    kept: Path,
    say: Say,
) -> U8:
    """Calibration images [N,H,W,C] from statistics of real ones, or those ``kept`` already.

    Args:
        nets: gives subnets whose batch norms were measured on real images.
        space: the search space.
        options: see `DistillOptions`.
        kept: file they are kept in; its name is to depend on all that they depend on.
        say: told what is being done.
    """
    if kept.exists():
        with np.load(kept, allow_pickle=False) as archive:
            return np.asarray(archive["images"])
    say("taking statistics of anchor subnets from real images")

    def progress(step: int, steps: int, mismatch: float) -> None:
        if step % 50 == 0:
            say(f"distilling images: step {step} of {steps}, mismatch {mismatch:.4f}")

    images = distill_images(nets(), space, options, progress)
    write_atomic(kept, npz(images))
    return images


def npz(images: U8) -> bytes:
    """Images as a file of an entry."""
    stream = io.BytesIO()
    np.savez_compressed(stream, images=images)
    return stream.getvalue()


def install(
    out: Path,
    files: Mapping[str, bytes],
    card: tuple[str, msgspec.Struct],
    text: str,
    check: Callable[[Path], object],
) -> None:
    """Write an entry beside ``out``, load it from there, then move its files in.

    Args:
        out: the entry's folder; it appears complete, or not at all.
        files: content by name.
        card: name and content of its card.
        text: its README.
        check: loads it from a folder; what it raises stops it.

    Raises:
        InputError: it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".zoo-", dir=out.parent) as folder:
            draft = Path(folder) / out.name
            draft.mkdir()
            for name, content in files.items():
                write_atomic(draft / name, content)
            document = msgspec.json.format(msgspec.json.encode(card[1]), indent=2) + b"\n"
            write_atomic(draft / card[0], document)
            write_atomic(draft / "README.md", text)
            check(draft)
            out.mkdir(exist_ok=True)
            for path in sorted(draft.iterdir()):
                shutil.move(path, out / path.name)
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror}", where=str(out)) from error


def add_common(parser: argparse.ArgumentParser, workers: int) -> None:
    """Arguments that every kind has."""
    parser.add_argument("--data", type=Path, required=True, help="npz file or folder of images")
    parser.add_argument("--out", type=Path, required=True, help="the entry's folder")
    parser.add_argument("--work", type=Path, required=True, help="folder of intermediate results")
    parser.add_argument("--about", type=Path, help="JSON with the objects training and licences")
    parser.add_argument("--workers", type=int, default=workers)


def run_main(given: argparse.Namespace, run: Run) -> int:
    """Run a build, telling how far it is; gives the exit code."""
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {text}", file=sys.stderr, flush=True)

    try:
        about = json.loads(given.about.read_text()) if given.about else {}
        say(f"wrote {given.out}: {run(given, about, say)}")
    except EdgeoptError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0
