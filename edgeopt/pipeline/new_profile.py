"""A first profile of a board nobody described: what it says of itself, and where each fact is from.

`edgeopt profile --new` writes it. What a board does not tell but a profile needs is guessed, marked
as estimated, and named, so that its owner looks it up.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgeopt import devices
from edgeopt.core.device import DeviceProfile, Provenance, Runner, Toolchain
from edgeopt.core.errors import BoardError, InputError
from edgeopt.core.estimates import Source
from edgeopt.core.files import write_atomic
from edgeopt.devices.local import probe_files
from edgeopt.devices.transports import Link, open_link
from edgeopt.devices.transports.opening import choose
from edgeopt.devices.write import profile_text
from edgeopt.latency.conditions import choose_cpu
from edgeopt.pipeline.boards import Reach

GUESSED_CLOCK_HZ = 1_000_000_000
GUESSED_RAM_BYTES = 1 << 29
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True, slots=True)
class NewProfile:
    """A profile that was written.

    Attributes:
        path: the file.
        profile: what `devices.load` makes of it.
        board: the link it was probed over.
        guessed: figures that the board did not tell.
        unknown: figures that are left out.
    """

    path: Path
    profile: DeviceProfile
    board: str
    guessed: tuple[str, ...]
    unknown: tuple[str, ...]


def write_new_profile(
    reach: Reach, *, name: str = "", out: Path | None = None, force: bool = False
) -> NewProfile:
    """Probe a board and write ``NAME/profile.toml``.

    Args:
        reach: how to get to it; this machine if nothing is said.
        name: what to call it; made of what the board says by default.
        out: the folder that ``NAME`` is made in; the current one by default.
        force: replace a profile that is there.

    Raises:
        InputError: no Linux board of a known architecture, a bad name, or a file in the way.
        BoardError: the board does not answer.
    """
    if name and not _NAME.fullmatch(name):
        raise InputError(
            f"{name[:60]!r} is no name of a device", where="--name",
            hint="use lower-case letters, digits and '-'; at most 40",
        )  # fmt: skip
    base = devices.load("local")
    transport = choose(base, host=reach.host, port=reach.port, transport=reach.transport)
    # No transport needs to know the board before it was asked: only how to get there.
    blank = replace(base, name=name or "board", runner=Runner(transport=transport))
    with open_link(blank, host=reach.host, port=reach.port, transport=transport) as link:
        board = link.name
        found, guessed = probe_board(link, transport, reach.host or "", name)
    path = (out or Path()) / found.name / "profile.toml"
    if path.exists() and not force:
        raise InputError(
            "there is a profile already", where=str(path),
            hint="choose another --name, or replace it with --force",
        )  # fmt: skip
    unknown = tuple(
        item
        for item in ("l1d_bytes", "l1i_bytes", "l2_bytes", "l3_bytes")
        if getattr(found, item) is None
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder: {error.strerror}", where=str(path.parent),
            hint="choose a writable folder with --out",
        ) from error  # fmt: skip
    comments = [f"Probed over {board} by `edgeopt profile --new`."]
    if guessed:
        comments.append(f"Guessed, look up: {', '.join(guessed)}.")
    if unknown:
        comments.append(f"Not told by the board, and left out: {', '.join(unknown)}.")
    write_atomic(path, profile_text(found, comments))
    return NewProfile(path, devices.load_file(path), board, tuple(guessed), unknown)


def probe_board(
    link: Link, transport: str, host: str, name: str = ""
) -> tuple[DeviceProfile, list[str]]:
    """The profile of a board, and the figures of it that are guesses.

    Raises:
        InputError: it is no Linux board of a known architecture.
        BoardError: it does not answer.
    """
    facts = link.facts()
    cpu = choose_cpu(link.read_text) or 0
    cores = (facts.cores or 1, "nproc: processors that programs may run on")
    found = probe_files(link.read_text, facts.machine, cores=cores, cpu=cpu)
    told = _lscpu(link)
    values: dict[str, int] = {}
    provenance = dict(found.provenance)
    guessed = []

    def learn(field: str, value: int | None, how: str, source: Source = Source.MEASURED) -> None:
        if getattr(found, field) is None and field not in values and value is not None:
            values[field] = value
            provenance[field] = Provenance(source, how)

    for field, label in (
        ("l1d_bytes", "L1d cache"), ("l1i_bytes", "L1i cache"), ("l2_bytes", "L2 cache"),
        ("l3_bytes", "L3 cache"),
    ):  # fmt: skip
        learn(field, _cache(told.get(label, "")), f"lscpu: {label}, of one instance")
    learn("clock_hz", _megahertz(told.get("CPU max MHz", "")), "lscpu: CPU max MHz")
    learn("clock_hz", _megahertz(told.get("CPU MHz", "")), "lscpu: CPU MHz at the time of probing")
    learn("ram_bytes", facts.memory_bytes, "/proc/meminfo: MemTotal")
    for field, value in (("clock_hz", GUESSED_CLOCK_HZ), ("ram_bytes", GUESSED_RAM_BYTES)):
        if getattr(found, field) is None and field not in values:
            learn(field, value, "a guess: the board does not tell; look it up", Source.ESTIMATED)
            guessed.append(field)
    title = found.title if found.title != found.mcpu else (facts.cpu or found.title)
    here = transport == "local"
    compilers = ("gcc", "clang", "zig") if here else found.toolchain.compilers
    if not here and found.arch == {"AMD64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine(), platform.machine()
    ):
        compilers = (*compilers[:1], "gcc", "zig")
    profile = replace(
        found,
        name=name or _name_of(title, found.mcpu),
        title=title or found.mcpu,
        chip=facts.cpu or title or found.mcpu,
        provenance=provenance,
        toolchain=Toolchain(compilers, found.toolchain.c_flags),
        runner=Runner(transport=transport, host=host),
        notes="A first profile, as the board describes itself: check it against its datasheet.",
        **values,  # type: ignore[arg-type]
    )
    return profile, guessed


def _name_of(title: str, mcpu: str) -> str:
    text = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-")
    return text or re.sub(r"[^a-z0-9]+", "-", mcpu.lower()).strip("-") or "board"


def _lscpu(link: Link) -> Mapping[str, str]:
    """What ``lscpu`` prints, by its labels; nothing where there is none."""
    found: dict[str, str] = {}
    try:
        for line in link.run(["lscpu"], timeout_s=30.0):
            label, colon, value = line.partition(":")
            if colon:
                found.setdefault(label.strip(), value.strip())
    except BoardError:
        return {}
    return found


def _cache(text: str) -> int | None:
    """Bytes of one instance of a cache.

    >>> _cache("128 KiB (4 instances)"), _cache("1 MiB"), _cache("32K"), _cache("?")
    (32768, 1048576, 32768, None)
    """
    match = re.fullmatch(
        r"(\d{1,9}(?:\.\d{1,3})?) ?([KMG])(?:iB|B)?(?: \((\d{1,4}) instances?\))?", text
    )
    if match is None:
        return None
    size = float(match[1]) * {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[match[2]]
    each = size / max(1, int(match[3] or 1))
    return int(each) if each >= 1024 else None


def _megahertz(text: str) -> int | None:
    match = re.fullmatch(r"(\d{2,5})(\.\d+)?", text)
    return int(float(match[0]) * 1e6) if match else None
