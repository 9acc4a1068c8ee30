"""A board of one's own: Debian 12 for arm64 under QEMU, with sshd, python3 and onnxruntime.

Packages are fetched by apt and pip into folders of their own, unpacked, and packed as a ramdisk
(kept between runs). Nothing of this machine changes and nothing needs root. The emulated board has
its own kernel, so that its /proc, /sys and processes are those of a small arm64 computer.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

RELEASE = "bookworm"
PYTHON = "3.11"
PACKAGES = (
    "openssh-server", "python3-minimal", "bash", "dash", "coreutils", "sed", "grep", "findutils",
    "procps", "util-linux", "mount", "iproute2", "kmod", "base-passwd", "base-files", "libstdc++6",
    "libpython3.11-stdlib", "hostname", "libc-bin", "linux-image-cloud-arm64",
)  # fmt: skip
WHEELS = ("onnxruntime", "numpy")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
MIRROR = "http://deb.debian.org/debian"
#: What makes the network card work.
MODULES = ("virtio_mmio", "virtio_net")
_LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "boot")

_INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /run/sshd /tmp
mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp
chmod 1777 /tmp
for name in {modules}; do insmod /modules/$name.ko; done
ip link set lo up
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
hostname board
echo "edgeopt-board is up"
/usr/sbin/sshd -D -e -f /etc/ssh/board_config
echo "edgeopt-board: sshd ended"
while :; do sleep 60; done
"""
_SSHD = """Port 22
HostKey /etc/ssh/board_host_key
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile /etc/ssh/board_authorized
StrictModes no
MaxSessions 20
"""


def cache_dir() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "edgeopt" / "arm64-board"


def call(command: list[str | Path], cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command[0]}: {(done.stderr or done.stdout)[-800:]}"
    return done.stdout


def prepared(cache: Path) -> tuple[Path, Path]:
    """The kernel and the ramdisk, made once."""
    kernel, disk = cache / "vmlinuz", cache / "board.cpio"
    if not disk.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            root = Path(work) / "root"
            root.mkdir()
            _packages(Path(work), root)
            _wheels(Path(work), root)
            _settings(root)
            image = next(root.glob("boot/vmlinuz-*"))
            shutil.copyfile(image, kernel)
            for name in _LEFT_OUT:
                shutil.rmtree(root / name, ignore_errors=True)
            part = disk.with_suffix(".part")
            with part.open("wb") as stream:
                write_cpio(stream, root)
            part.replace(disk)
    return kernel, disk


def _packages(work: Path, root: Path) -> None:
    apt = work / "apt"
    for folder in ("state/lists/partial", "cache/archives/partial", "parts"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()
    keys = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    signed = f" [signed-by={keys}]" if keys.exists() else ""
    (apt / "sources.list").write_text(f"deb{signed} {MIRROR} {RELEASE} main\n")
    options = [
        "APT::Architecture=arm64", "APT::Architectures::=arm64", f"Dir::State={apt}/state",
        f"Dir::State::status={apt}/status", f"Dir::Cache={apt}/cache", "Debug::NoLocking=1",
        f"Dir::Etc::sourcelist={apt}/sources.list", f"Dir::Etc::sourceparts={apt}/parts",
        f"APT::Sandbox::User={pwd.getpwuid(os.geteuid()).pw_name}", "Acquire::Languages=none",
    ]  # fmt: skip
    start: list[str | Path] = ["apt-get", *(part for o in options for part in ("-o", o))]
    call([*start, "update"])
    call([*start, "install", "--download-only", "-y", "--no-install-recommends", *PACKAGES])
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        call(["dpkg-deb", "-x", package, root])


def _wheels(work: Path, root: Path) -> None:
    only = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
    for platform in PLATFORMS:
        only += ["--platform", platform]
    from importlib.metadata import version

    wanted = [f"{name}=={version(name)}" for name in WHEELS]
    target = root / "usr" / "lib" / "python3" / "dist-packages"
    call([sys.executable, "-m", "pip", "install", "--quiet", "--target", target, *only, *wanted])
    if "{}.{}".format(*sys.version_info) == PYTHON:  # else the board compiles it at every start
        library = root / "usr" / "lib" / f"python{PYTHON}"
        call([sys.executable, "-m", "compileall", "-q", "-s", root, library, target])


def _settings(root: Path) -> None:
    """What the packages' scripts would have set up, as far as it is needed."""
    etc = root / "etc"
    users = (root / "usr/share/base-passwd/passwd.master").read_text().replace("*", "x")
    users = users.replace("/root:/bin/sh", "/root:/bin/bash").replace(
        ":/usr/sbin/nologin", ":/bin/false"
    )
    (etc / "passwd").write_text(users + "sshd:x:101:65534::/run/sshd:/bin/false\n"
                                "pi:x:1000:1000:Pi:/home/pi:/bin/bash\n")  # fmt: skip
    (etc / "group").write_text(
        (root / "usr/share/base-passwd/group.master").read_text() + "pi:x:1000:\n"
    )
    (etc / "shadow").write_text("root:*:19000::::::\nsshd:!:19000::::::\npi:*:19000::::::\n")
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\nhosts: files\n")
    (etc / "hosts").write_text("127.0.0.1 localhost\n")
    (root / "bin" / "sh").unlink(missing_ok=True)
    (root / "bin" / "sh").symlink_to("dash")
    modules = next((root / "lib" / "modules").iterdir())
    (root / "modules").mkdir()
    order: list[str] = []
    for name in MODULES:
        _with_needs(name, modules, order)
    for name in order:
        shutil.copyfile(next(modules.rglob(f"{name}.ko")), root / "modules" / f"{name}.ko")
    shutil.rmtree(modules)
    (root / "init").write_text(_INIT.format(modules=" ".join(order)))
    (root / "init").chmod(0o755)
    (etc / "ssh" / "board_config").write_text(_SSHD)
    for name in ("proc", "sys", "dev", "run", "tmp", "root", "home/pi"):
        (root / name).mkdir(parents=True, exist_ok=True)


def _with_needs(name: str, modules: Path, order: list[str]) -> None:
    """Add a kernel module after those it needs; what is built in has no file."""
    found = next(modules.rglob(f"{name.replace('_', '[_-]')}.ko"), None)
    if found is None or found.stem in order:
        return
    needs = re.search(rb"\0depends=([^\0]*)\0", found.read_bytes())
    for other in needs[1].decode().split(",") if needs else []:
        if other:
            _with_needs(other, modules, order)
    order.append(found.stem)


def write_cpio(stream: object, root: Path) -> None:
    """A folder as the kernel's initial ramdisk ("newc"); all files are root's, home/pi is pi's."""
    write = stream.write  # type: ignore[attr-defined]
    paths = [root, *sorted(root.rglob("*"))]
    for number, path in enumerate(paths, start=1):
        name = str(path.relative_to(root))
        entry = path.lstat()
        data = b""
        if path.is_symlink():
            data = str(path.readlink()).encode()
        elif stat.S_ISREG(entry.st_mode):
            data = path.read_bytes()
        owner = 1000 if name.startswith("home/pi") else 0
        _record(write, name, entry.st_mode, number, owner, data)
    _record(write, "TRAILER!!!", 0, 0, 0, b"")


def _record(
    write: Callable[[bytes], int], name: str, mode: int, number: int, owner: int, data: bytes
) -> None:
    label = name.encode() + b"\0"
    fields = (number, mode, owner, owner, 1, 0, len(data), 0, 0, 0, 0, len(label), 0)
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + label
    write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))


@dataclass
class Board:
    """A running board.

    Attributes:
        host: for ``--host``.
        home: a home folder of this machine whose ``.ssh`` knows the board; it is $HOME meanwhile.
        emulator: the process; killing it is pulling the plug.
        log: what its console said.
    """

    host: str
    home: Path
    emulator: subprocess.Popen[bytes]
    log: Path


@contextlib.contextmanager
def running(
    work: Path, needs_tool: Callable[[str], str], *, cpu: str = "cortex-a72"
) -> Iterator[Board]:
    """Boot it; keys are made anew each time."""
    emulator, keygen = needs_tool("qemu-system-aarch64"), needs_tool("ssh-keygen")
    for tool in ("apt-get", "dpkg-deb"):
        needs_tool(tool)
    kernel, disk = prepared(cache_dir())
    extra, ssh = work / "extra", work / "home" / ".ssh"
    (extra / "etc" / "ssh").mkdir(parents=True)
    ssh.mkdir(parents=True, mode=0o700)
    key = extra / "etc" / "ssh" / "board_host_key"
    for path in (key, ssh / "id_ed25519"):
        call([keygen, "-q", "-t", "ed25519", "-N", "", "-f", path])
    shutil.copyfile(ssh / "id_ed25519.pub", extra / "etc" / "ssh" / "board_authorized")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (ssh / "known_hosts").write_text(f"[127.0.0.1]:{port} {Path(f'{key}.pub').read_text()}")
    ramdisk = work / "ramdisk"
    with ramdisk.open("wb") as stream:
        with disk.open("rb") as base:
            shutil.copyfileobj(base, stream)
        stream.write(bytes(-stream.tell() % 512))
        write_cpio(stream, extra)
    log = work / "console.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [emulator, "-M", "virt", "-cpu", cpu, "-smp", "2", "-m", "2G", "-display", "none",
             "-monitor", "none", "-serial", "stdio", "-kernel", str(kernel), "-initrd",
             str(ramdisk), "-append", "console=ttyAMA0 rdinit=/init quiet panic=-1",
             "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22",
             "-device", "virtio-net-device,netdev=net", "-no-reboot"],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said,
        )  # fmt: skip
    try:
        _wait(port, process, log)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", str(ssh.parent))
            patch.delenv("SSH_AUTH_SOCK", raising=False)
            yield Board(f"pi@127.0.0.1:{port}", ssh.parent, process, log)
    finally:
        process.kill()
        process.wait()


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until sshd greets."""
    while process.poll() is None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), 5) as link,
        ):
            link.settimeout(5)
            if link.recv(4) == b"SSH-":
                return
        text = log.read_text(errors="replace")
        assert not re.search(r"Kernel panic|sshd ended|Cannot find", text), text[-2000:]
        time.sleep(0.5)
    raise AssertionError(f"the emulator ended: {log.read_text(errors='replace')[-2000:]}")


__all__ = ["Board", "cache_dir", "prepared", "running"]
