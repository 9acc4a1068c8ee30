"""Programs for 64-bit Arm and what runs and counts them here: artifacts, peers, QEMU's plugin."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeopt import devices
from edgeopt.codegen import emit, programs, toolchain
from edgeopt.codegen.abi import symbol_of
from edgeopt.codegen.emit import Origin
from edgeopt.graph.importer import import_model
from edgeopt.graph.load import parse_model
from edgeopt.pipeline.artifact import Artifact, build_kernels, make_artifact
from edgeopt.pipeline.cache import StageCache, default_cache_dir

HERE = Path(__file__).resolve().parent
QEMU = HERE / "qemu"
#: Of the userland that the peers' wheels run in: Debian 12's own.
PYTHON = "3.11"
PACKAGES = (
    f"python{PYTHON}-minimal", f"libpython{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", "libc6",
    "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8", "liblzma5", "libbz2-1.0",
    "libssl3", "libuuid1", "libcrypt1",
)  # fmt: skip
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
#: Pure Python that the wheels import; the same for every processor.
PURE = ("flatbuffers", "packaging", "typing_extensions", "backports.strenum", "tqdm")


@dataclass(frozen=True, slots=True)
class Cpu:
    """A processor as the programs on it see it.

    Attributes:
        name: of the emulator's model.
        device: edgeopt's profile whose kernels suit it.
        features: extra instruction sets of the kernels, beyond the profile's.
        flags: line "Features" of /proc/cpuinfo, which the peers read.
        part: "CPU part" there.
    """

    name: str
    device: str
    features: frozenset[str]
    flags: str
    part: int


_PLAIN = "fp asimd evtstrm crc32 cpuid"
_DOT = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop"
CPUS = {
    "cortex-a53": Cpu("cortex-a53", "rpi4", frozenset(), _PLAIN, 0xD03),
    "cortex-a72": Cpu("cortex-a72", "rpi4", frozenset(), _PLAIN, 0xD08),
    "cortex-a76": Cpu("cortex-a76", "rpi5", frozenset(), f"{_DOT} asimddp", 0xD0B),
    # No scalable vectors: cores with i8mm in small computers have none, or 128 bits of them.
    "i8mm": Cpu("max,sve=off", "rpi5", frozenset({"i8mm"}), f"{_DOT} asimddp i8mm", 0xD4B),
}  # fmt: skip


def need(program: str, package: str) -> str:
    """The path of a program.

    Raises:
        SystemExit: it is missing; the text names its package.
    """
    found = shutil.which(program)
    if found is None:
        sys.exit(f"{program} is missing: apt-get install {package}")
    return found


def call(command: Sequence[str | Path]) -> str:
    """Run a command; its output."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        text = (done.stderr or done.stdout).strip()[-600:]
        raise RuntimeError(f"{command[0]} failed with {done.returncode}: {text}")
    return done.stdout


def userland(cache: Path) -> Path:
    """A folder of arm64 packages and wheels that the peers run in; fetched once.

    apt and pip fetch, with folders of their own: nothing of this machine changes.
    """
    root = cache / "userland"
    if (root / "complete").exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as work:
        apt, debs = Path(work) / "apt", Path(work) / "debs"
        for folder in (apt / "state/lists/partial", apt / "cache/archives/partial", debs):
            folder.mkdir(parents=True)
        (apt / "status").touch()
        options = [
            "APT::Architecture=arm64", "APT::Architectures::=arm64", f"Dir::State={apt}/state",
            f"Dir::State::status={apt}/status", f"Dir::Cache={apt}/cache", "Debug::NoLocking=1",
            "APT::Sandbox::User=root", "Acquire::Languages=none",
        ]  # fmt: skip
        start = [need("apt-get", "apt"), *(part for o in options for part in ("-o", o))]
        call([*start, "update"])
        call(["env", "-C", debs, *start, "download", *PACKAGES])
        for package in sorted(debs.glob("*.deb")):
            call([need("dpkg-deb", "dpkg"), "-x", package, root])
    _wheels(root)
    (root / "complete").touch()
    return root


def _wheels(root: Path) -> None:
    from importlib.metadata import version

    from peers import PEERS

    litert = next(r for r in PEERS["litert"].requirements if r.startswith("ai-edge-litert"))
    wanted = [litert, f"onnxruntime=={version('onnxruntime')}", f"numpy=={version('numpy')}"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    only = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
    for platform in PLATFORMS:
        only += ["--platform", platform]
    with tempfile.TemporaryDirectory() as work:
        call([*pip, "-d", work, *only, *wanted, "protobuf"])
        call([*pip, "-d", work, *PURE])
        for wheel in sorted(Path(work).glob("*.whl")):
            shutil.unpack_archive(wheel, root / "site", "zip")


def prefix(root: Path, cpu: Cpu, cache: Path) -> Path:
    """The userland with a /proc/cpuinfo that names the processor."""
    folder = cache / f"root-{cpu.name.split(',')[0]}"
    folder.mkdir(exist_ok=True)
    for name in ("lib", "usr", "etc"):
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(root / name)
    text = "".join(
        f"processor\t: {i}\nBogoMIPS\t: 108.00\nFeatures\t: {cpu.flags}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {cpu.part:#x}\nCPU revision\t: 3\n\n"
        for i in range(4)
    )
    (folder / "proc").mkdir(exist_ok=True)
    (folder / "proc" / "cpuinfo").write_text(text)
    return folder


@dataclass(frozen=True, slots=True)
class Counts:
    """Instructions of a program's run: between its pairs of marks, and by block if asked."""

    spans: tuple[int, ...]
    blocks: Mapping[int, int]
    said: str  # on its standard error


def count(
    command: Sequence[str | Path], cpu: Cpu, library: Path, root: Path | None = None,
    *, blocks: bool = False,
) -> Counts:  # fmt: skip
    """Run a program under the emulator."""
    qemu = need("qemu-aarch64", "qemu-user")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "count"
        argument = f"{library},out={out}" + (",blocks=on" if blocks else "")
        place = [] if root is None else ["-L", str(root)]
        environment = {"PYTHONHASHSEED": "0", "PATH": os.environ.get("PATH", "")}
        done = subprocess.run(
            [qemu, "-cpu", cpu.name, *place, "-plugin", argument, *map(str, command)],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        lines = out.read_text().splitlines() if out.exists() else []
    if done.returncode or not lines:
        last = done.stderr.strip().splitlines() or [""]
        raise RuntimeError(f"ended with {done.returncode}: {last[-1][:200]}")
    marks = [int(line.split()[1]) for line in lines if line.startswith("mark")]
    found: dict[int, int] = {}
    for line in lines:
        address, executed = line.split()
        if address not in ("mark", "total"):
            found[int(address, 16)] = found.get(int(address, 16), 0) + int(executed)
    spans = tuple(b - a for a, b in zip(marks[::2], marks[1::2], strict=True))
    return Counts(spans, found, done.stderr)


@dataclass(frozen=True, slots=True)
class Program:
    """Our artifact as a static program that runs the network as often as it is told."""

    path: Path
    artifact: Artifact
    macs: int

    def kernels(self, blocks: Mapping[int, int]) -> dict[str, int]:
        """Instructions by kernel symbol; what is outside kernels under an empty name."""
        symbols = sorted(
            (int(fields[0], 16), fields[2])
            for fields in map(str.split, call([_nm(), "-n", self.path]).splitlines())
            if len(fields) == 3 and fields[1] in "Tt"
        )
        starts = np.array([address for address, _ in symbols])
        found: dict[str, int] = {}
        for address, executed in blocks.items():
            index = int(np.searchsorted(starts, address, side="right")) - 1
            name = symbols[index][1] if index >= 0 else ""
            found[name] = found.get(name, 0) + executed
        return found


def _nm() -> str:
    return need("llvm-nm" if shutil.which("llvm-nm") else "nm", "llvm")


def build(model: Path, cpu: Cpu, folder: Path) -> Program:
    """Compile an ONNX model for a processor and link it with ``repeat.c``, statically."""
    from dataclasses import replace

    device = devices.load(cpu.device)
    target = device.target
    if cpu.features:
        target = replace(target, features=target.features | cpu.features)
    network = import_model(parse_model(model.read_bytes()), isolated=False).network
    artifact = make_artifact(network, target)
    kernels = build_kernels(artifact, "net", StageCache(default_cache_dir()))[0]
    code = emit.render(
        artifact.graph, artifact.plan, artifact.functions, artifact.constants,
        {artifact.kernel_file: kernels}, name="net", origin=Origin("benchmark", {}, {}),
        vectors=None, embed_vectors=0,
    )  # fmt: skip
    return Program(_link(dict(code.files), folder), artifact, network.macs)


def _link(files: dict[str, bytes], folder: Path) -> Path:
    compiler = toolchain.find_for("aarch64", candidates=("zig",))
    files["programs/repeat.c"] = (QEMU / "repeat.c").read_bytes()
    programs.PROGRAMS["repeat"] = ("repeat.c", False)
    (folder / "src").mkdir(exist_ok=True)
    built = programs.build(files, "net", compiler, folder, wanted=("repeat",), flags=("-O2",))
    return built.paths["repeat"]


__all__ = ["CPUS", "Cpu", "Program", "build", "count", "prefix", "symbol_of", "userland"]
