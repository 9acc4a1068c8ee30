"""Device profiles: finding them, reading them strictly, and naming near misses.

A board is one folder with a ``profile.toml``. Shipped boards lie in ``device_profiles/``; a user
adds folders of boards with ``--profile-dir``. The device ``local`` has no file: it is probed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from edgeopt.core.device import (
    CyclesPerInstruction,
    DeviceProfile,
    MemoryRegion,
    Provenance,
    Runner,
    Toolchain,
)
from edgeopt.core.documents import Section, read_toml
from edgeopt.core.errors import InputError, suggest
from edgeopt.core.estimates import Source
from edgeopt.devices.transports.address import HOST, PORT, TRANSPORTS

SCHEMA = 1
FILE_NAME = "profile.toml"
MAX_BYTES = 128 * 1024

KINDS = frozenset({"linux", "firmware"})
ARCHES = frozenset({"x86_64", "aarch64", "armv6m", "armv7em", "armv8m", "riscv32"})
PRECISIONS = frozenset({"f32", "i8"})
SOURCES = frozenset({"measured", "simulated", "estimated", "datasheet"})

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PATH = re.compile(r"/?[A-Za-z0-9._~+-]{1,64}(/[A-Za-z0-9._+-]{1,64}){0,15}")
_FLAG = re.compile(r"-[A-Za-z0-9][A-Za-z0-9=+,._/-]{0,127}")

_KIB, _TIB = 1 << 10, 1 << 40
#: field -> (section, smallest, largest, required for every device)
FACTS = {
    "cores": ("cpu", 1, 1024, True),
    "clock_hz": ("cpu", 1_000_000, 10_000_000_000, True),
    "vector_bits": ("cpu", 32, 2048, True),
    "vector_registers": ("cpu", 1, 128, True),
    "vector_issue": ("cpu", 1, 8, False),
    "l1d_bytes": ("cpu", _KIB, 1 << 30, False),
    "l1i_bytes": ("cpu", _KIB, 1 << 30, False),
    "l2_bytes": ("cpu", _KIB, 1 << 30, False),
    "l3_bytes": ("cpu", _KIB, 1 << 34, False),
    "ram_bytes": ("memory", _KIB, _TIB, True),
    "flash_bytes": ("memory", _KIB, _TIB, False),
}


def shipped_dir() -> Path:
    """Where the profiles that come with edgeopt lie (in the wheel, or in a checkout).

    Raises:
        InputError: the installation is incomplete.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "device_profiles", package.parent / "device_profiles"):
        if folder.is_dir():
            return folder
    raise InputError(
        "the device profiles are missing from this installation", where=str(package),
        hint="reinstall edgeopt",
    )  # fmt: skip


def available(profile_dirs: Sequence[Path] = ()) -> tuple[str, ...]:
    """Names that `load` accepts, ``local`` first."""
    names = {"local"}
    for folder in (*profile_dirs, shipped_dir()):
        names.update(
            path.name for path in _listing(folder) if (path / FILE_NAME).is_file()
        )  # fmt: skip
    return ("local", *sorted(names - {"local"}))


def _listing(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(
            f"cannot list the folder of device profiles: {error.strerror}", where=str(folder),
            hint="check --profile-dir",
        ) from error  # fmt: skip


def load(name_or_path: str | Path, profile_dirs: Sequence[Path] = ()) -> DeviceProfile:
    """The profile of a device by name, or by the path of its folder or file.

    Folders of ``profile_dirs`` win over shipped profiles of the same name.

    Raises:
        InputError: unknown name (near misses suggested), or a profile with a mistake.
    """
    text = str(name_or_path)
    if text == "local":
        from edgeopt.devices.local import probe

        return probe()
    path = Path(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith(".toml"):
        return load_file(path / FILE_NAME if path.is_dir() else path)
    for folder in (*profile_dirs, shipped_dir()):
        if text and _NAME.fullmatch(text) and (folder / text / FILE_NAME).is_file():
            return load_file(folder / text / FILE_NAME)
    raise InputError(
        f"unknown device {text[:60]!r}",
        hint=f"{suggest(text[:60], available(profile_dirs), noun='device')} "
        "(`edgeopt devices` lists them)",
    )


def load_file(path: Path) -> DeviceProfile:
    """Read and check one ``profile.toml``.

    Raises:
        InputError: naming file, line and key of the first mistake.
    """
    root = read_toml(path, noun="device profile", max_bytes=MAX_BYTES)
    schema = root.integer("schema", 0, 1 << 31)
    if schema != SCHEMA:
        root.refuse("schema", f"{schema} is not known", f"this edgeopt reads schema {SCHEMA}")
    name = _matching(root, "name", _NAME, "lower-case letters, digits and '-'")
    cpu, memory = root.section("cpu"), root.section("memory")
    toolchain, runner = root.section("toolchain"), root.section("runner")
    numbers, provenance = _facts(cpu, memory)
    regions = tuple(_region(section, provenance) for section in memory.sections("region"))
    cycles = _cycles_per_instruction(cpu, provenance)
    precisions = _subset(cpu, "precisions", PRECISIONS)
    profile = DeviceProfile(
        name=name,
        title=root.text("title"),
        chip=root.text("chip"),
        core=root.text("core"),
        kind=root.choice("kind", KINDS),
        notes=root.text("notes", ""),
        arch=cpu.choice("arch", ARCHES),
        triple=_matching(cpu, "triple", _WORD, "an LLVM triple"),
        mcpu=_matching(cpu, "mcpu", _WORD, "an LLVM processor name"),
        features=frozenset(_words(cpu, "features", _WORD, "an LLVM feature name")),
        precisions=precisions,
        toolchain=Toolchain(
            compilers=_words(toolchain, "compilers", _WORD, "a program name"),
            c_flags=_words(toolchain, "c_flags", _FLAG, "a compiler flag", ()),
            link_flags=_words(toolchain, "link_flags", _FLAG, "a linker flag", ()),
        ),
        runner=Runner(
            transport=runner.choice("transport", frozenset(TRANSPORTS)),
            program=_matching(runner, "program", _WORD, "a program name", ""),
            cpu=_matching(runner, "cpu", _WORD, "an emulator's processor name", ""),
            machine=_matching(runner, "machine", _WORD, "an emulator's board name", ""),
            host=_matching(runner, "host", HOST, "a host like pi@192.0.2.7:22", ""),
            port=_matching(runner, "port", PORT, "a serial port like /dev/ttyACM0", ""),
            baud=runner.integer("baud", 0, 4_000_000, 0),
            python=_matching(runner, "python", _PATH, "the path of a Python interpreter", ""),
        ),
        provenance=provenance,
        regions=regions,
        cycles_per_instruction=cycles,
        folder=path.resolve().parent,
        **numbers,  # type: ignore[arg-type]
    )
    root.done()
    _check(profile, root, cpu, memory)
    return profile


def _matching(
    section: Section, name: str, pattern: re.Pattern[str], noun: str, default: str | None = None
) -> str:
    value = section.text(name, default)
    if value != default and not pattern.fullmatch(value):
        section.refuse(name, f"{value!r} is not {noun}", "see the shipped profiles for examples")
    return value


def _words(
    section: Section,
    name: str,
    pattern: re.Pattern[str],
    noun: str,
    default: tuple[str, ...] | None = None,
) -> tuple[str, ...]:
    values = section.texts(name, default)
    for value in values:
        if not pattern.fullmatch(value):
            section.refuse(name, f"{value[:60]!r} is not {noun}", "see the shipped profiles")
    return values


def _subset(section: Section, name: str, known: frozenset[str]) -> tuple[str, ...]:
    values = section.texts(name)
    for value in values:
        if value not in known:
            section.refuse(name, f"unknown {value!r}", suggest(value, known, noun="value"))
    if not values:
        section.refuse(name, "is empty", f"choose from {', '.join(sorted(known))}")
    return values


def _provenance(fact: Section) -> Provenance:
    source = Source(fact.choice("source", SOURCES))
    reference = fact.text("reference")
    if not reference.strip():
        fact.refuse("reference", "is empty", "name the document and page, or the URL")
    return Provenance(source, reference)


def _facts(cpu: Section, memory: Section) -> tuple[dict[str, int | None], dict[str, Provenance]]:
    sections = {"cpu": cpu, "memory": memory}
    numbers: dict[str, int | None] = {}
    provenance: dict[str, Provenance] = {}
    for name, (where, low, high, required) in FACTS.items():
        section = sections[where]
        if not required and not section.has(name):
            numbers[name] = None
            continue
        fact = section.section(name)
        numbers[name] = fact.integer("value", low, high)
        provenance[name] = _provenance(fact)
    return numbers, provenance


def _cycles_per_instruction(
    cpu: Section, provenance: dict[str, Provenance]
) -> CyclesPerInstruction | None:
    if not cpu.has("cycles_per_instruction"):
        return None
    section = cpu.section("cycles_per_instruction")
    low, high = section.number("low", 0.05, 1000.0), section.number("high", 0.05, 1000.0)
    mean = section.number("mean", 0.05, 1000.0)
    if not low <= mean <= high:
        section.refuse("mean", f"{mean:g} is not between low and high", "correct the numbers")
    provenance["cycles_per_instruction"] = _provenance(section)
    return CyclesPerInstruction(mean, low, high)


def _region(section: Section, provenance: dict[str, Provenance]) -> MemoryRegion:
    name = _matching(section, "name", _NAME, "lower-case letters, digits and '-'")
    if f"region.{name}" in provenance:
        section.refuse("name", f"{name!r} is used twice", "give every region its own name")
    provenance[f"region.{name}"] = _provenance(section)
    return MemoryRegion(
        name=name,
        kind=section.choice("kind", frozenset({"ram", "flash"})),
        address=section.integer("address", 0, (1 << 48) - 1),
        size_bytes=section.integer("size_bytes", 1, _TIB),
    )


def _check(profile: DeviceProfile, root: Section, cpu: Section, memory: Section) -> None:
    """What holds between fields."""
    if profile.folder is not None and profile.folder.name != profile.name:
        root.refuse(
            "name", f"{profile.name!r} is not the folder's name {profile.folder.name!r}",
            "rename one of them",
        )  # fmt: skip
    if profile.vector_bits % 32:
        cpu.refuse("vector_bits", f"{profile.vector_bits} is not a multiple of 32", "correct it")
    if profile.kind == "firmware" and profile.flash_bytes is None:
        memory.refuse("flash_bytes", "is missing", "a firmware device needs its flash size")
    ordered = sorted(profile.regions, key=lambda region: region.address)
    for left, right in pairwise(ordered):
        if left.address + left.size_bytes > right.address:
            memory.refuse(
                "region", f"regions {left.name!r} and {right.name!r} overlap",
                "correct address or size_bytes",
            )  # fmt: skip
    for kind, size_bytes in (("ram", profile.ram_bytes), ("flash", profile.flash_bytes)):
        total = sum(region.size_bytes for region in profile.regions if region.kind == kind)
        if total and size_bytes is not None and size_bytes > total:
            memory.refuse(
                f"{kind}_bytes", f"{size_bytes} is more than the {kind} regions hold ({total})",
                "correct one of them",
            )  # fmt: skip
