"""Running generated programs and comparing what engines compute.

An artifact is run as its users will run it: the same sources and objects, built by the device's
compiler, executed on this machine or under an emulator. What cannot be run is reported with the
reason and what would make it possible; it never counts as passed.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from edgeopt.codegen import programs, toolchain
from edgeopt.codegen.testvectors import TestVectors, unpack
from edgeopt.codegen.toolchain import Compiler, trim
from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import ToolError
from edgeopt.core.network import Array, Tensor

RUN_TIMEOUT_S = 600
MAX_OUTPUT_BYTES = 2**31


@dataclass(frozen=True, slots=True)
class Engine:
    """A way to run programs of a device.

    Attributes:
        argv: what goes before the program: nothing, or an emulator.
        where: for reports, ``host`` or ``qemu-aarch64 (cortex-a72)``.
    """

    argv: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True)
class Missing:
    """Why programs of a device cannot run here."""

    where: str
    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two engines' outputs on the same inputs.

    Attributes:
        what: ``reference = artifact``...
        where: the engine the second side ran on.
        result: ``skipped`` where it could not be run; ``detail`` says why.
        detail: for people.
        vectors: number of inputs compared.
        max_error: the largest error: relative for floats, in steps for integers.
        mismatches: elements that are not bit for bit equal.
        elements: elements compared.
    """

    what: str
    where: str
    result: Literal["passed", "failed", "skipped"]
    detail: str
    vectors: int = 0
    max_error: float | None = None
    mismatches: int = 0
    elements: int = 0

    @property
    def bit_exact(self) -> bool:
        """Every bit of every output is the same."""
        return self.elements > 0 and self.mismatches == 0


@dataclass(frozen=True, slots=True)
class ArtifactRun:
    """What an artifact's programs did.

    Attributes:
        outputs: with as many threads as the artifact was compiled for.
        self_test: of the embedded vectors.
        alone: outputs of the same program on one thread; None where it has only one.
    """

    outputs: Mapping[str, Array]
    self_test: Comparison
    alone: Mapping[str, Array] | None = None


def engine_for(profile: DeviceProfile) -> Engine | Missing:
    """How programs for a device run on this machine."""
    runner = profile.runner
    if profile.kind == "linux" and profile.arch == toolchain.host_arch() and profile.folder is None:
        return Engine((), "host")
    program = runner.program or f"qemu-{profile.arch}"
    where = f"{program} ({runner.cpu})" if runner.cpu else program
    if runner.transport != "qemu_user":
        return Missing(
            where, f"programs for {profile.name} do not run on this machine",
            "run the self_test program on the board",
        )  # fmt: skip
    path = shutil.which(program)
    if path is None:
        return Missing(where, f"{program} is not installed", "apt-get install qemu-user")
    return Engine((path, *(("-cpu", runner.cpu) if runner.cpu else ())), where)


def skipped(what: str, missing: Missing) -> Comparison:
    """The record of a comparison that could not be made."""
    return Comparison(what, missing.where, "skipped", f"{missing.reason}; {missing.hint}")


def run_artifact(
    files: Mapping[str, bytes],
    net: str,
    compiler: Compiler,
    engine: Engine,
    vectors: TestVectors,
    *,
    timeout_s: float = RUN_TIMEOUT_S,
) -> ArtifactRun:
    """Build the programs of generated code, run the self-test and infer the vectors.

    Args:
        files: of `emit.Code` or a bundle.
        net: identifier of the network.
        compiler: for the device.
        engine: where the programs run.
        vectors: whose inputs are run.
        timeout_s: for each program.

    Raises:
        ToolError: a program cannot be built, crashes, hangs, or writes another amount of output.
    """
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        work = Path(folder)
        built = programs.build(files, net, compiler, work, wanted=("infer", "self_test"))
        (work / "in.bin").write_bytes(vectors.input_bytes)
        _run(engine, built.paths["infer"], ("in.bin", "out.bin"), work, timeout_s)
        written = [(work / "out.bin").read_bytes()]
        if "src/edgeopt_pool.c" in files:
            one = ("--threads", "1", "in.bin", "alone.bin")
            _run(engine, built.paths["infer"], one, work, timeout_s)
            written.append((work / "alone.bin").read_bytes())
        code, text = _start(engine, built.paths["self_test"], (), work, timeout_s)
    tensors = [
        Tensor(name, tuple(array.shape[1:]), _dtype(array))
        for name, array in vectors.outputs.items()
    ]
    try:
        unpacked = [unpack(data, tensors, vectors.count) for data in written]
    except ValueError as error:
        raise ToolError(
            f"the program wrote {error}", where=f"infer on {engine.where}",
            hint="this is a bug of edgeopt: please report it with the model",
        ) from error  # fmt: skip
    embedded = f"src/{net}_self_test.c" in files
    outputs = [
        {t.name: array for t, array in zip(tensors, arrays, strict=True)} for arrays in unpacked
    ]
    return ArtifactRun(
        outputs=outputs[0],
        alone=outputs[1] if len(outputs) > 1 else None,
        self_test=Comparison(
            what="self-test",
            where=engine.where,
            result=("passed" if code == 0 else "failed") if embedded else "skipped",
            detail=trim(text) if embedded else "no vectors are embedded",
        ),
    )


def _dtype(array: Array) -> str:
    from edgeopt.codegen.carrays import dtype_of

    return dtype_of(array)


def run_program(
    engine: Engine,
    program: Path,
    args: Sequence[str] = (),
    *,
    timeout_s: float = RUN_TIMEOUT_S,
) -> str:
    """Run a built program (``bench``) and return its standard output.

    Raises:
        ToolError: it fails, crashes or hangs.
    """
    return _run(engine, program, args, program.parent, timeout_s)


def _run(
    engine: Engine, program: Path, args: Sequence[str], work: Path, timeout_s: float
) -> str:  # fmt: skip
    code, text = _start(engine, program, args, work, timeout_s)
    if code != 0:
        raise ToolError(
            f"failed with {_status(code)}: {trim(text)}", where=f"{program.name} on {engine.where}",
            hint="if it was an illegal instruction, the profile's ISA features are not this "
            "processor's" if code == -signal.SIGILL else "please report it with the model",
        )  # fmt: skip
    return text


def _start(
    engine: Engine, program: Path, args: Sequence[str], work: Path, timeout_s: float
) -> tuple[int, str]:
    """Exit status and output; standard error is added when it fails."""
    try:
        done = subprocess.run(
            [*engine.argv, str(program), *args], cwd=work, timeout=timeout_s, check=False,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise ToolError(
            f"cannot start: {error.strerror or error}", where=f"{program.name} on {engine.where}",
            hint="is the emulator installed?",
        ) from error  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ToolError(
            f"did not finish within {timeout_s:g} s", where=f"{program.name} on {engine.where}",
            hint="emulation of a large network is slow: verify fewer vectors",
        ) from error  # fmt: skip
    text = done.stdout if done.returncode == 0 else f"{done.stdout}\n{done.stderr}"
    return done.returncode, text


def _status(code: int) -> str:
    if code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"status {code}"


def compare(
    expected: Mapping[str, Array],
    got: Mapping[str, Array],
    *,
    what: str,
    where: str,
    tolerance: float,
    max_steps: int = 0,
    min_equal: float = 1.0,
) -> Comparison:
    """Compare outputs [count, ...] by name.

    Args:
        expected: of the first engine.
        got: of the second.
        what: names the two.
        where: the second ran on.
        tolerance: of floats: largest difference relative to the largest magnitude of the vector.
        max_steps: of integers: largest difference.
        min_equal: of integers: share of elements that must be equal.

    Raises:
        ValueError: names, shapes or types differ.
    """
    if list(expected) != list(got):
        raise ValueError(f"outputs {list(expected)} against {list(got)}")
    worst = 0.0
    mismatches = elements = count = unequal = integers = 0
    passed = True
    for name, left in expected.items():
        right = got[name]
        if left.shape != right.shape or left.dtype != right.dtype:
            raise ValueError(f"{name!r}: {left.dtype}{left.shape} and {right.dtype}{right.shape}")
        count = len(left)
        elements += left.size
        differing = _differing(left, right)
        mismatches += differing
        if left.dtype.kind == "f":
            error = relative_error(left, right)
            passed &= error <= tolerance
        else:
            error = float(np.abs(left.astype(np.int64) - right.astype(np.int64)).max(initial=0))
            unequal += differing
            integers += left.size
            passed &= error <= max_steps
        worst = max(worst, error)
    if integers and 1 - unequal / integers < min_equal:
        passed = False
    return Comparison(
        what=what,
        where=where,
        result="passed" if passed else "failed",
        detail=_detail(worst, mismatches, elements, floats=integers == 0),
        vectors=count,
        max_error=worst,
        mismatches=mismatches,
        elements=elements,
    )


def _differing(left: Array, right: Array) -> int:
    """Elements whose bits differ."""
    shape = (left.size, left.dtype.itemsize)
    a = np.frombuffer(left.tobytes(), np.uint8).reshape(shape)
    b = np.frombuffer(right.tobytes(), np.uint8).reshape(shape)
    return int((a != b).any(axis=1).sum())


def relative_error(expected: Array, got: Array) -> float:
    """Largest difference relative to the largest magnitude, the worst of all vectors.

    Infinite where ``got`` holds NaN or infinity.
    """
    worst = 0.0
    for left, right in zip(expected.astype(np.float64), got.astype(np.float64), strict=True):
        if not np.isfinite(right).all():
            return float("inf")
        scale = float(np.abs(left).max(initial=0.0))
        difference = float(np.abs(left - right).max(initial=0.0))
        worst = max(worst, difference / scale if scale > 0 else difference)
    return worst


def _detail(worst: float, mismatches: int, elements: int, *, floats: bool) -> str:
    if mismatches == 0:
        return f"bit-exact on {elements:,} elements"
    if floats:
        return f"largest relative error {worst:.2e} over {elements:,} elements"
    share = 100 * (1 - mismatches / elements)
    return f"{share:.2f} % of {elements:,} elements equal, largest difference {worst:g} steps"
