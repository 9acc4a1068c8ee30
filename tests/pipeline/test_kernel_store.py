"""The store of compiled kernels: shared by networks, rebuilt when broken, safe to use at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgeopt.core.choice import Choice
from edgeopt.core.errors import InputError, ToolError
from edgeopt.core.kernels import OpKey
from edgeopt.core.target import TargetSpec
from edgeopt.pipeline import kernel_store
from edgeopt.pipeline.cache import StageCache
from edgeopt.pipeline.kernel_store import Job, compiled, joined

HOST = TargetSpec(
    arch="x86_64", triple="x86_64-linux-gnu", mcpu="x86-64-v3",
    features=frozenset({"avx2", "fma"}), vector_bits=256, vector_registers=16,
    l1d_bytes=32768, l2_bytes=524288, cores=1,
)  # fmt: skip
JOBS = tuple(Job(OpKey("copy", (n, 5), (5 * n,))) for n in range(2, 12))


def test_networks_share_kernels(tmp_path: Path) -> None:
    store = StageCache(tmp_path)
    first, made = compiled(JOBS[:6], HOST, store, workers=1)
    assert made == 6
    second, made = compiled(JOBS[3:9], HOST, store, workers=1)
    assert made == 3
    assert all(second[job] == first[job] for job in JOBS[3:6])
    assert compiled([*JOBS[:9], *JOBS[:9]], HOST, store)[1] == 0


def test_processes_compile_the_same_bytes(tmp_path: Path) -> None:
    here, _ = compiled(JOBS, HOST, StageCache(None), workers=1)
    ticks: list[tuple[int, int]] = []
    there, made = compiled(
        JOBS, HOST, StageCache(tmp_path), workers=2, progress=lambda *t: ticks.append(t)
    )
    assert there == here and made == len(JOBS)
    assert ticks == [(n, len(JOBS)) for n in range(1, len(JOBS) + 1)]
    assert joined(JOBS, there, prefix="a_") == joined(JOBS, here, prefix="a_")


@pytest.mark.parametrize(
    "change",
    [
        lambda job, target: (replace(job, choice=Choice(2, 1)), target),
        lambda job, target: (replace(job, key=replace(job.key, activation="relu")), target),
        lambda job, target: (job, replace(target, mcpu="znver3")),
        lambda job, target: (job, replace(target, l1d_bytes=65536)),
    ],
)
def test_everything_that_changes_the_code_is_looked_at(
    change: Callable[[Job, TargetSpec], tuple[Job, TargetSpec]], tmp_path: Path
) -> None:
    job = Job(OpKey("pointwise", (2, 2, 8), (2, 2, 8)))
    store = StageCache(tmp_path)
    compiled([job], HOST, store)
    other, target = change(job, HOST)
    assert compiled([other], target, store)[1] == 1
    assert compiled([job], HOST, store)[1] == 0


def test_new_template_code_makes_new_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StageCache(tmp_path)
    compiled(JOBS[:1], HOST, store)
    monkeypatch.setattr(kernel_store, "codegen_version", lambda: "other")
    assert compiled(JOBS[:1], HOST, store)[1] == 1


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("0.bin", _cut),
        ("0.bin", Path.unlink),
        ("index.json", _cut),
        ("index.json", Path.unlink),
        ("index.json", lambda path: path.write_text("[1, 2]")),
        ("index.json", lambda path: path.write_text('{"other.o": "00"}')),
        ("index.json", lambda path: path.write_bytes(b"\xff\xfe")),
    ],
)
def test_a_broken_entry_is_made_again_and_kept(
    name: str, harm: Callable[[Path], object], tmp_path: Path
) -> None:
    store = StageCache(tmp_path)
    good, _ = compiled(JOBS[:1], HOST, store)
    (path,) = tmp_path.rglob(name)
    harm(path)
    assert compiled(JOBS[:1], HOST, store) == (good, 1)
    assert compiled(JOBS[:1], HOST, store) == (good, 0)


def test_a_killed_writer_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    store = StageCache(tmp_path)
    good, _ = compiled(JOBS[:1], HOST, store)
    (folder,) = (tmp_path / "stages").iterdir()
    folder.rename(folder.with_name(".new-killed"))
    (folder.with_name(".new-killed") / "0.bin").write_bytes(b"half")
    assert compiled(JOBS[:1], HOST, store) == (good, 1)


def test_two_compiles_at_once_agree(tmp_path: Path) -> None:
    import tvm  # noqa: F401

    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                objects, _ = compiled(JOBS[:6], HOST, StageCache(tmp_path), workers=1)
                status = 0 if len(objects) == 6 else 2
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert compiled(JOBS[:6], HOST, StageCache(tmp_path))[1] == 0
    assert not [p for p in (tmp_path / "stages").iterdir() if p.name.startswith(".new-")]


def test_errors_of_processes_arrive_as_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = Job(OpKey("fallback", (3,), (3,), variant="Erf"))
    with pytest.raises(InputError, match="no kernel template implements this"):
        compiled([*JOBS, unknown], HOST, StageCache(None), workers=2)

    def breaks(job: Job, target: TargetSpec) -> bytes:
        raise ZeroDivisionError("in the emitter")

    monkeypatch.setattr(kernel_store, "_compile_one", breaks)
    with pytest.raises(RuntimeError, match=r"(?s)compiling copy .*in the emitter"):
        compiled(JOBS, HOST, StageCache(None), workers=2)


def test_a_crash_of_the_compiler_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_store, "_compile_one", lambda job, target: os._exit(11))
    with pytest.raises(ToolError, match="TVM crashed while compiling 10 kernels"):
        compiled(JOBS, HOST, StageCache(None), workers=2)
