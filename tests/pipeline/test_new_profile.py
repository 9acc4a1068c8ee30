"""`edgeopt profile --new`: what a board says of itself becomes a profile that loads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgeopt import devices
from edgeopt.core.device import NUMBERS
from edgeopt.core.errors import BoardCommandFailed, InputError
from edgeopt.core.estimates import Source
from edgeopt.devices.transports import BoardFacts
from edgeopt.devices.transports.local import LocalLink
from edgeopt.devices.write import profile_text
from edgeopt.pipeline.boards import Reach
from edgeopt.pipeline.new_profile import probe_board, write_new_profile

CPU = "sys/devices/system/cpu"
PI = {
    "proc/cpuinfo": "".join(
        f"processor\t: {n}\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
        "CPU architecture: 8\nCPU part\t: 0xd08\n\n"
        for n in range(4)
    )
    + "Serial\t\t: 100000001234abcd\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n",
    "proc/meminfo": "MemTotal:        3884360 kB\n",
    f"{CPU}/online": "0-3\n",
    **{f"{CPU}/cpu{n}/cpufreq/cpuinfo_max_freq": "1500000\n" for n in range(4)},
}
LSCPU = [
    "Architecture:           aarch64",
    "CPU max MHz:            1800.0000",
    "L1d cache:              128 KiB (4 instances)",
    "L1i cache:              192 KiB (4 instances)",
    "L2 cache:               1 MiB (1 instance)",
    "Vulnerability L1tf:     Not affected",
]


@dataclass
class RecordedLink(LocalLink):
    """A board as its files and commands answered."""

    root: Path = Path()
    told: BoardFacts = field(default_factory=lambda: BoardFacts("aarch64", cores=4))
    lscpu: Sequence[str] = ()

    def read_text(self, path: str) -> str | None:
        try:
            return (self.root / path.lstrip("/")).read_text()
        except OSError:
            return None

    def facts(self) -> BoardFacts:
        return self.told

    def run(self, command: Sequence[str], **limits: object) -> Iterator[str]:
        if list(command) != ["lscpu"] or not self.lscpu:
            raise BoardCommandFailed("cannot start: No such file or directory", where=command[0])
        yield from self.lscpu


def recorded(root: Path, files: dict[str, str], **more: object) -> RecordedLink:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return RecordedLink(root=root, **more)  # type: ignore[arg-type]


def test_this_machine_becomes_a_profile_that_loads(tmp_path: Path) -> None:
    found = write_new_profile(Reach(), name="mine", out=tmp_path)
    assert found.path == tmp_path / "mine" / "profile.toml"
    again = devices.load(found.path)
    local = devices.load("local")
    assert again == found.profile and again.name == "mine"
    assert (again.target.mcpu, again.features) == (local.target.mcpu, local.features)
    assert again.ram_bytes == local.ram_bytes and again.runner.transport == "local"
    for number in NUMBERS:
        if getattr(again, number) is not None:
            assert again.provenance[number].reference
    with pytest.raises(InputError, match="there is a profile already"):
        write_new_profile(Reach(), name="mine", out=tmp_path)
    write_new_profile(Reach(), name="mine", out=tmp_path, force=True)
    assert "mine" in devices.available([tmp_path])


def test_a_raspberry_pi(tmp_path: Path) -> None:
    link = recorded(tmp_path / "pi", PI, lscpu=LSCPU)
    profile, guessed = probe_board(link, "ssh", "pi@192.0.2.7")
    assert guessed == []
    assert profile.name == "raspberry-pi-4-model-b-rev-1-4"
    assert (profile.mcpu, profile.arch, profile.cores) == ("cortex-a72", "aarch64", 4)
    assert profile.features == {"neon", "fp-armv8", "crc"}
    assert (profile.l1d_bytes, profile.l1i_bytes, profile.l2_bytes) == (32768, 49152, 1 << 20)
    assert profile.provenance["l1d_bytes"].reference == "lscpu: L1d cache, of one instance"
    assert profile.clock_hz == 1_500_000_000  # the kernel's word before lscpu's
    assert profile.runner.host == "pi@192.0.2.7" and profile.l3_bytes is None
    folder = tmp_path / profile.name
    folder.mkdir()
    (folder / "profile.toml").write_text(profile_text(profile, ["A comment."]))
    loaded = devices.load(folder)
    assert loaded == profile and loaded.fingerprint == profile.fingerprint
    assert "100000001234abcd" not in (folder / "profile.toml").read_text()
    shipped = devices.load("rpi4")
    assert loaded.features == shipped.features
    assert (loaded.l1d_bytes, loaded.l2_bytes) == (shipped.l1d_bytes, shipped.l2_bytes)


def test_the_fastest_kind_of_processor_is_described(tmp_path: Path) -> None:
    parts = {0: "0xd05", 1: "0xd05", 2: "0xd0b", 3: "0xd0b"}
    files = {
        "proc/cpuinfo": "\n".join(
            f"processor\t: {n}\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\n"
            f"CPU part\t: {part}\n"
            for n, part in parts.items()
        ),
        "proc/meminfo": "MemTotal: 4000000 kB\n",
        f"{CPU}/online": "0-3",
        **{f"{CPU}/cpu{n}/cpu_capacity": "1024" if n > 1 else "400" for n in parts},
    }
    profile, _ = probe_board(recorded(tmp_path, files), "ssh", "")
    assert profile.mcpu == "cortex-a76" and profile.name == "cortex-a76"


def test_what_a_board_does_not_tell_is_a_guess_and_said(tmp_path: Path) -> None:
    files = {"proc/cpuinfo": PI["proc/cpuinfo"].replace("Model\t\t: Raspberry", "x: Raspberry")}
    profile, guessed = probe_board(recorded(tmp_path / "pi", files), "ssh", "", "mine")
    assert guessed == ["clock_hz", "ram_bytes"]
    assert profile.provenance["clock_hz"].source is Source.ESTIMATED
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "profile.toml").write_text(profile_text(profile))
    assert devices.load(folder) == profile


@pytest.mark.parametrize(
    ("machine", "message"),
    [("armv7l", "architecture 'armv7l' cannot be profiled"), ("riscv64", "aarch64 and x86_64")],
)
def test_other_machines_are_refused(tmp_path: Path, machine: str, message: str) -> None:
    link = recorded(tmp_path, PI, told=BoardFacts(machine, cores=4))
    with pytest.raises(InputError) as caught:
        probe_board(link, "ssh", "")
    assert message in str(caught.value)


def test_names_and_folders_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'My Board' is no name of a device"):
        write_new_profile(Reach(), name="My Board", out=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the folder"):
        write_new_profile(Reach(), name="mine", out=tmp_path / "file")
