"""Device profiles: every shipped one, and everything a mistaken one is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeopt import devices
from edgeopt.core.device import NUMBERS
from edgeopt.core.errors import InputError
from edgeopt.core.estimates import Source
from edgeopt.devices.profile import load_file

SHIPPED = [name for name in devices.available() if name != "local"]


def test_shipped_boards() -> None:
    assert {"rpi4", "rpi5", "pixel3", "note10", "nucleo-l4r5zi", "mps3-an547"} <= set(SHIPPED)
    assert {"nucleo-h743zi", "nucleo-u575zi-q", "rpi-pico", "esp32c3"} <= set(SHIPPED)


FIRMWARE = [name for name in SHIPPED if devices.load(name).kind == "firmware"]


@pytest.mark.parametrize("name", FIRMWARE)
def test_boards_of_firmware_say_where_their_memory_is(name: str) -> None:
    profile = devices.load(name)
    ram, flash = profile.memory()
    assert ram.kind == "ram" and flash.kind == "flash"
    # As much as the figures promise, and an arena can fill the first region alone.
    for kind, total in (("ram", profile.ram_bytes), ("flash", profile.flash_bytes)):
        assert sum(r.size_bytes for r in profile.regions if r.kind == kind) == total
    assert ram.size_bytes == max(r.size_bytes for r in profile.regions if r.kind == "ram")
    cycles = profile.cycles_per_instruction
    assert cycles is not None and cycles.low < cycles.mean < cycles.high
    assert profile.provenance["cycles_per_instruction"].source is Source.ESTIMATED
    assert profile.runner.transport == "qemu_system" and profile.runner.machine


@pytest.mark.parametrize("kind", ["ram", "flash"])
def test_an_incomplete_memory_map_is_named(tmp_path: Path, kind: str) -> None:
    text = (devices.shipped_dir() / "nucleo-l4r5zi" / "profile.toml").read_text()
    regions = text.split("[[memory.region]]")
    kept = [r for r in regions[1:] if f'kind = "{kind}"' not in r]
    tail = regions[-1][regions[-1].index("[toolchain]") :]
    body = "[[memory.region]]".join([regions[0], *(r.split("[toolchain]")[0] for r in kept)])
    folder = tmp_path / "nucleo-l4r5zi"
    folder.mkdir()
    (folder / "profile.toml").write_text(body + tail)
    profile = load_file(folder / "profile.toml")
    with pytest.raises(InputError, match=f"incomplete: no region of kind '{kind}'") as caught:
        profile.memory()
    assert "[[memory.region]]" in caught.value.hint


def test_cycles_per_instruction_are_checked(tmp_path: Path) -> None:
    text = (devices.shipped_dir() / "nucleo-l4r5zi" / "profile.toml").read_text()
    folder = tmp_path / "nucleo-l4r5zi"
    folder.mkdir()
    path = folder / "profile.toml"
    path.write_text(text.replace("mean = 1.52", "mean = 2.52"))
    with pytest.raises(InputError, match=r"mean: 2\.52 is not between low and high"):
        load_file(path)
    path.write_text(text.replace("mean = 1.52\n", ""))
    with pytest.raises(InputError, match="mean is missing"):
        load_file(path)
    with pytest.raises(InputError, match="has no source"):
        replace(devices.load("nucleo-l4r5zi"), provenance={})


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profile_is_complete(name: str) -> None:
    profile = devices.load(name)
    assert profile.name == name
    assert profile.target.cores == profile.cores
    for number in NUMBERS:
        if getattr(profile, number) is not None:
            assert profile.provenance[number].source in (Source.DATASHEET, Source.ESTIMATED)
            assert len(profile.provenance[number].reference) > 20
    for region in profile.regions:
        assert f"region.{region.name}" in profile.provenance
    assert profile.toolchain.compilers


def test_what_is_not_known_for_sure_says_so() -> None:
    """Phones whose maker publishes little; every board of its own maker is from data sheets."""
    for name in SHIPPED:
        estimated = {
            number for number, known in devices.load(name).provenance.items()
            if known.source is Source.ESTIMATED and number in NUMBERS
        }  # fmt: skip
        assert bool(estimated) == (name in ("pixel3", "note10")), (name, estimated)
    note = devices.load("note10")
    assert note.provenance["clock_hz"].source is Source.ESTIMATED
    assert "Exynos 9825" in note.notes and "not stated" in note.notes


def test_facts_of_two_boards() -> None:
    pi, nucleo = devices.load("rpi4"), devices.load("nucleo-l4r5zi")
    assert (pi.arch, pi.mcpu, pi.cores, pi.l1d_bytes) == ("aarch64", "cortex-a72", 4, 32 * 1024)
    assert (pi.l2_bytes, pi.runner.cpu, pi.flash_bytes) == (1024 * 1024, "cortex-a72", None)
    assert "neon" in pi.features and "dotprod" not in pi.features
    assert (nucleo.clock_hz, nucleo.ram_bytes, nucleo.flash_bytes) == (
        120_000_000, 640 * 1024, 2 * 1024 * 1024,
    )  # fmt: skip
    assert nucleo.target.vector_bits == 32


def test_fingerprint_follows_what_changes_code(board: Path) -> None:
    before = load_file(board).fingerprint
    text = board.read_text()
    board.write_text(text.replace("value = 1_500_000_000", "value = 1_800_000_000"))
    assert load_file(board).fingerprint == before
    board.write_text(text.replace('"neon", ', '"neon", "dotprod", '))
    assert load_file(board).fingerprint != before


def test_unknown_device_suggests_near_misses() -> None:
    with pytest.raises(InputError, match="unknown device 'rpi44'") as caught:
        devices.load("rpi44")
    assert "did you mean rpi4" in caught.value.hint
    with pytest.raises(InputError, match="unknown device") as caught:
        devices.load("zzz")
    assert "known devices: esp32c3, local, mps3-an547" in caught.value.hint


@pytest.mark.parametrize("name", ["", "..", "-x", "rpi4\x00", "a" * 5000])
def test_hostile_names(name: str) -> None:
    with pytest.raises(InputError, match="unknown device"):
        devices.load(name)


def test_missing_file() -> None:
    with pytest.raises(InputError, match="no such device profile"):
        devices.load("/nowhere/profile.toml")


def test_profile_dir_adds_and_wins(board: Path) -> None:
    folder = board.parent.parent
    assert "board" in devices.available([folder])
    assert devices.load("board", [folder]).title == "Raspberry Pi 4 Model B"
    assert devices.load(board.parent).name == "board"
    with pytest.raises(InputError, match="cannot list"):
        devices.available([folder / "absent"])


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A valid profile of a board called ``board``, to be damaged."""
    source = (devices.shipped_dir() / "rpi4" / "profile.toml").read_text()
    folder = tmp_path / "board"
    folder.mkdir()
    path = folder / "profile.toml"
    path.write_text(source.replace('name = "rpi4"', 'name = "board"'))
    return path


def line_of(path: Path, text: str) -> int:
    return next(n for n, line in enumerate(path.read_text().splitlines(), 1) if text in line)


@pytest.mark.parametrize(
    ("old", "new", "message", "at"),
    [
        ('kind = "linux"', 'kind = "windows"', "kind: unknown value 'windows'", "windows"),
        ("schema = 1", "schema = 9", "schema: 9 is not known", "schema"),
        ("[cpu]", "speed = 3\n[cpu]", "unknown key 'speed'", "speed"),
        ('mcpu = "', 'mcpuu = "x"\nmcpu = "', "unknown key 'cpu.mcpuu'", "mcpuu"),
        ('transport = "qemu_user"', 'transport = "qemu_usr"', "unknown value 'qemu_usr'", "usr"),
        ("value = 1_500_000_000", 'value = "fast"', "must be an integer, not 'fast'", "fast"),
        ("value = 1_500_000_000", "value = 15", "15 is not between", "value = 15"),
        ("value = 1_500_000_000", "value = true", "must be an integer, not True", "true"),
        ("value = 1_500_000_000", "value = nan", "nan is not a finite number", "nan"),
        ("value = 1_500_000_000", "value = 1e999", "inf is not a finite number", "1e999"),
        ("value = 1_500_000_000", "value = 99999999999999999999", "does not fit 64 bits", "9999"),
        ('core = "Arm Cortex-A72"', 'core = "a\\u001b[2J"', "control character", "core"),
        ('core = "Arm Cortex-A72"', 'core = "a\\u0000"', "control character", "core"),
        ('triple = "aarch64-linux-gnu"', 'triple = "a; rm -rf /"', "not an LLVM triple", "rm -rf"),
        ('["-mcpu=cortex-a72"]', '["; ls"]', "is not a compiler flag", "; ls"),
        ('["f32", "i8"]', '["f32", "i9"]', "unknown 'i9'", "i9"),
        ('["f32", "i8"]', "[]", "cpu.precisions: is empty", "precisions"),
        ('["f32", "i8"]', '"f32"', "must be a list of strings", "precisions"),
        ('["f32", "i8"]', "[1]", "every entry must be a string", "precisions"),
        ('name = "board"', 'name = "other"', "is not the folder's name 'board'", "other"),
        ('name = "board"', 'name = "A B"', "is not lower-case letters", "A B"),
        ("value = 128", "value = 100", "not a multiple of 32", "vector_bits"),
    ],
)
def test_mistakes_are_named_with_their_line(
    board: Path, old: str, new: str, message: str, at: str
) -> None:
    board.write_text(board.read_text().replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        load_file(board)
    assert message in caught.value.what
    assert caught.value.where == f"{board}:{line_of(board, at)}"
    assert caught.value.hint


def test_unknown_key_suggests(board: Path) -> None:
    board.write_text(board.read_text().replace("[memory.ram_bytes]", "[memory.ram_byts]", 1))
    with pytest.raises(InputError, match="ram_bytes is missing from"):
        load_file(board)
    board.write_text(board.read_text() + "\n[runner.x]\ny = 1\n")
    with pytest.raises(InputError):
        load_file(board)


def test_a_number_needs_a_source(board: Path) -> None:
    text = board.read_text()
    cut = text.replace('source = "datasheet"\n', "", 1)
    board.write_text(cut)
    with pytest.raises(InputError, match=r"source is missing from \[cpu.cores\]"):
        load_file(board)
    board.write_text(text.replace('source = "datasheet"', 'source = "hearsay"', 1))
    with pytest.raises(InputError, match="unknown value 'hearsay'"):
        load_file(board)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x = " + b"[" * 5000, "nested too deeply"),
        (b"x = " + b"9" * 5000, "too many digits"),
        (b"x = " + b"[" * 20 + b"]" * 20, "nested too deeply"),
        (b"\xff\xfe", "not UTF-8"),
        (b"schema = 1\nx = = 2", "not valid TOML"),
        (b"a = 1\na = 2", "not valid TOML"),
        (b"", "schema is missing"),
        (b"#" * 200_000, "more than the 131072 allowed"),
    ],
)
def test_hostile_documents(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "profile.toml"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        load_file(path)
    assert str(path) in caught.value.where


def test_syntax_error_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    path.write_text("schema = 1\n\nx = = 2\n")
    with pytest.raises(InputError) as caught:
        load_file(path)
    assert caught.value.where == f"{path}:3"


def test_regions_must_fit(tmp_path: Path) -> None:
    source = (devices.shipped_dir() / "nucleo-l4r5zi" / "profile.toml").read_text()
    folder = tmp_path / "nucleo-l4r5zi"
    folder.mkdir()
    path = folder / "profile.toml"
    path.write_text(source.replace("address = 0x0800_0000", "address = 0x2000_1000"))
    with pytest.raises(InputError, match="'sram' and 'flash' overlap"):
        load_file(path)
    path.write_text(source.replace("value = 655_360", "value = 655_361"))
    with pytest.raises(InputError, match="more than the ram regions hold"):
        load_file(path)
    path.write_text(source.replace('name = "flash"', 'name = "sram"'))
    with pytest.raises(InputError, match="'sram' is used twice"):
        load_file(path)
    start = source.index("[memory.flash_bytes]")
    path.write_text(source[:start] + source[source.index("[[memory.region]]") :])
    with pytest.raises(InputError, match="flash_bytes: is missing"):
        load_file(path)
