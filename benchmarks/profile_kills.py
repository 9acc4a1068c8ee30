"""Killing `edgeopt profile` at random moments, and going on: is anything lost?

    python benchmarks/profile_kills.py [--kills 20] [--model FILE.onnx] [--seed 0]

A small network's kernels are measured on this machine, once undisturbed. Then, for every kill, a
new measurement is begun and its process ended with SIGKILL: in turns at a random moment of its run,
and when its journal has reached a random size. What journal and table hold then is noted, and the
measurement is continued with --resume. It must end with the same kernels, and with every visit that
was recorded before the kill.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeopt.latency.table import LatencyTable, load_table

MODEL = Path(__file__).resolve().parents[1] / "tests" / "models" / "tiny_cnn.onnx"
JOURNAL = ".journal"


@dataclass(frozen=True)
class Kill:
    """One kill and what came of it."""

    at_s: float
    stage: str  # what was going on
    recorded: int  # visits that were on disk
    torn: int  # lines cut off
    lost: int  # visits that are not in the table that was resumed to
    same_keys: bool


def command(table: Path, model: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "edgeopt.cli.main", "profile", str(model), "--space", "",
        "--precision", "fp32", "--no-tiles", "--networks", "0", "--no-report", "--quiet",
        "--out", str(table), *more,
    ]  # fmt: skip


def recorded(journal: Path) -> tuple[Counter[str], int]:
    """Visits by kernel that a journal holds, and its lines that are not whole."""
    visits: Counter[str] = Counter()
    torn = 0
    data = journal.read_bytes() if journal.exists() else b""
    for line in data.split(b"\n"):
        text, _, crc = line.rpartition(b" *")
        if line and crc != b"%08x" % zlib.crc32(text):
            torn += 1
        elif line and b'"ns"' in text:
            visits[json.loads(text)["key"]] += 1
    return visits, torn


def finish(folder: Path, model: Path, environment: dict[str, str], *more: str) -> LatencyTable:
    table = folder / "t.latency.jsonl"
    subprocess.run(
        command(table, model, *more), env=environment, check=True, stdout=subprocess.DEVNULL
    )
    return load_table(table)


def kill_once(
    folder: Path,
    model: Path,
    environment: dict[str, str],
    keys: frozenset[str],
    *,
    at_s: float | None = None,
    lines: int = 0,
) -> Kill:
    """Kill after so many seconds, or once the journal has so many lines."""
    folder.mkdir()
    table = folder / "t.latency.jsonl"
    journal = table.with_name(table.name + JOURNAL)
    child = subprocess.Popen(command(table, model), env=environment, stdout=subprocess.DEVNULL)
    began = time.monotonic()
    try:
        while child.poll() is None:
            time.sleep(0.003)
            if at_s is not None and time.monotonic() - began >= at_s:
                break
            if at_s is None and journal.exists() and journal.read_bytes().count(b"\n") >= lines:
                break
        ended = child.poll() is not None
    finally:
        child.kill()
        child.wait()
    at_s = time.monotonic() - began
    visits, torn = recorded(journal)
    before = load_table(table) if table.exists() else None
    stage = "ended" if ended else "table written" if before else "measuring" if visits else "before"
    resumed = finish(folder, model, environment, "--resume")
    lost = sum(
        max(0, count - resumed.entries[key].windows if key in resumed.entries else count)
        for key, count in ((k, visits[str(k)]) for k in resumed.entries)
    )
    lost += sum(count for key, count in visits.items() if key not in map(str, resumed.entries))
    same = frozenset(map(str, resumed.entries)) == keys and not journal.exists()
    return Kill(at_s, stage, sum(visits.values()), torn, lost, same)


def measure(kills: int, model: Path, seed: int, show: bool = True) -> list[Kill]:
    source = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="edgeopt-kills-") as name:
        work = Path(name)
        # Its own folder of temporary files: whoever else measures here is not in the way.
        environment = {**os.environ, "EDGEOPT_CACHE_DIR": str(work / "cache"), "TMPDIR": name}
        (work / "warm").mkdir()
        finish(work / "warm", model, environment)  # compiled kernels are cached from here on
        (work / "first").mkdir()
        began = time.monotonic()
        first = finish(work / "first", model, environment)
        keys = frozenset(map(str, first.entries))
        whole_s = time.monotonic() - began
        lines = sum(entry.windows for entry in first.entries.values())
        if show:
            print(f"{len(keys)} kernels; an undisturbed run takes {whole_s:.1f} s")
            print("  killed at  while           visits on disk  torn  lost  same kernels")
        found = []
        for number in range(kills):
            when: dict[str, Any] = {"lines": source.randint(1, lines)}
            if number % 2:
                when = {"at_s": source.uniform(0, whole_s)}
            kill = kill_once(work / str(number), model, environment, keys, **when)
            found.append(kill)
            if show:
                print(
                    f"  {kill.at_s:7.2f} s  {kill.stage:14s}  {kill.recorded:14d}  {kill.torn:4d}"
                    f"  {kill.lost:4d}  {'yes' if kill.same_keys else 'NO'}",
                    flush=True,
                )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    found = measure(options.kills, options.model, options.seed)
    lost = sum(kill.lost for kill in found)
    wrong = sum(not kill.same_keys for kill in found)
    print(f"{len(found)} kills: {lost} visits lost, {wrong} runs ended with other kernels")
    if lost or wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
