"""Boards that run TVM's RPC server, directly or through its tracker.

The protocol is remote code execution by design: whoever reaches the port may run anything, and
nothing is encrypted. Use it on the loopback interface or through a tunnel.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeopt.core.device import DeviceProfile
from edgeopt.core.errors import (
    BoardCommandFailed,
    BoardError,
    BoardLost,
    BoardUnreachable,
    InputError,
)
from edgeopt.devices.transports import posix, process
from edgeopt.devices.transports.address import Address
from edgeopt.devices.transports.link import BoardFacts, BuildShared, Closing, Endpoint
from edgeopt.devices.transports.stream import (
    Clock,
    Lines,
    Tail,
    checked,
    failed,
    file_name,
    printable,
    source_file,
)

PORT = 9090
CONNECT_S = 120.0  # starting TVM takes its time, too
#: The server answers within this time; it is asked for output in steps of `POLL_MS`.
ANSWER_S = 60.0
POLL_MS = 200
SOURCE = Path(__file__).with_name("tvm_rpc_helper.c")


class TvmRpc:
    """The transport ``tvm_rpc``."""

    @classmethod
    def open(cls, endpoint: Endpoint) -> TvmRpcLink:
        """Connect to the server, or through the tracker, that a user or a profile names.

        Raises:
            InputError: neither names one.
            BoardUnreachable: no connection.
            BoardError: the helper does not run there.
        """
        if not endpoint.host:
            raise InputError(
                "where is the TVM RPC server?", where="--host",
                hint="write --host 127.0.0.1:9090, or TRACKER:9190/KEY for a board of a tracker",
            )  # fmt: skip
        address = Address.parse(endpoint.host)
        if not is_loopback(address.host):
            warnings.warn(
                f"TVM RPC to {address.host} is plaintext, and lets anybody who reaches the port "
                "run programs there; tunnel it: ssh -L 9090:127.0.0.1:9090 user@board",
                stacklevel=2,
            )
        link = TvmRpcLink(f"tvm_rpc {address}", endpoint.profile.runner.python)
        link.connect(address, endpoint.build_shared or _default_build(endpoint.profile))
        return link


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, and a tunnel perhaps begins there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _default_build(profile: DeviceProfile) -> BuildShared:
    """The first compiler of the profile that is installed."""

    def build(source: Path, output: Path) -> None:
        tried = (*profile.toolchain.compilers, f"{profile.arch}-linux-gnu-gcc")
        found = next((path for name in tried if (path := shutil.which(name))), None)
        if found is None:
            raise InputError(
                f"no compiler for {profile.name} (tried {', '.join(tried)})", where="tvm_rpc",
                hint="install one: a small helper is built for the board",
            )  # fmt: skip
        subprocess.run([found, "-O2", "-shared", "-fPIC", "-o", output, source], check=True)

    return build


@dataclass(slots=True)
class TvmRpcLink(Closing):
    """A session of a TVM RPC server; see `Link`. A server has one session at a time.

    Args:
        name: for people.
        python: the board's interpreter to look for; empty for ``python3``.
    """

    name: str
    python: str = ""
    folder: str = ""
    _worker: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _waiting: bytearray = field(default_factory=bytearray, repr=False)

    def connect(self, address: Address, build: BuildShared) -> None:
        """Open a session and load the helper.

        Raises:
            BoardUnreachable: no connection.
            BoardError: the helper does not run there.
        """
        command = [
            sys.executable, "-m", "edgeopt.devices.transports.tvm_rpc_worker",
            address.host, str(address.port or PORT), *([address.key] if address.key else []),
        ]  # fmt: skip
        root = str(Path(__file__).resolve().parents[3])
        self._worker = process.start(
            command, where=self.name, stdin=subprocess.PIPE,
            env={**process.environment(), "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            try:
                self.folder = str(self._answer(CONNECT_S)["folder"])
            except BoardLost as error:
                raise BoardUnreachable(
                    error.what.replace("the connection is lost", "no session"), where=self.name,
                    hint="is the server started there (`python -m tvm.exec.rpc_server --host "
                    "127.0.0.1`), and not serving somebody else? It has one session at a time",
                ) from error  # fmt: skip
            with tempfile.TemporaryDirectory(prefix="edgeopt-") as work:
                library = Path(work) / "helper.so"
                build(SOURCE, library)
                try:
                    self._ask("helper", library=str(library))
                except BoardLost as error:
                    raise BoardError(
                        f"the helper does not load there: {error.what}", where=self.name,
                        hint="is the profile's architecture that of the board?",
                    ) from error  # fmt: skip
        except BaseException:
            self.close()
            raise

    def _ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One request to the worker, and its answer.

        Raises:
            BoardLost: the session is gone.
        """
        if self._worker is None or self._worker.stdin is None:
            raise BoardLost("the link is closed", where=self.name, hint="open the link again")
        try:
            self._worker.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._worker.stdin.flush()
        except OSError as error:
            raise self._lost("the session ended") from error
        return self._answer(ANSWER_S)

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        assert self._worker is not None and self._worker.stdout is not None
        clock = Clock(self.name, timeout_s, timeout_s)
        while b"\n" not in self._waiting:
            ready, _, _ = select.select([self._worker.stdout], [], [], clock.left_s)
            if not ready:
                raise self._lost(f"no answer for {timeout_s:g} s")
            data = os.read(self._worker.stdout.fileno(), 1 << 16)
            if not data:
                raise self._lost("the session ended")
            self._waiting += data
        line, _, rest = self._waiting.partition(b"\n")
        self._waiting = rest
        answer = json.loads(line)
        if "error" in answer:
            raise self._lost(printable(str(answer["error"])))
        return dict(answer)

    def _lost(self, reason: str) -> BoardLost:
        if self._worker is not None:
            process.end(self._worker)
            self._worker = None
        return BoardLost(
            f"the connection is lost: {reason}", where=self.name,
            hint="is the board on, and its server running? Go on with --resume",
        )  # fmt: skip

    def push(self, source: Path, name: str, *, executable: bool = False) -> str:
        """Copy a file into the session's folder; see `Link.push`."""
        target = f"{self.folder}/{file_name(name)}"
        answer = self._ask(
            "push", source=str(source_file(source).resolve()), name=name, executable=executable
        )
        if answer.get("failed") or answer.get("refused"):
            raise BoardCommandFailed(
                f"cannot store {name!r}", where=self.name, hint="free space on the board"
            )
        return target

    def run(
        self,
        command: Sequence[str],
        *,
        timeout_s: float | None = None,
        idle_s: float | None = None,
    ) -> Iterator[str]:
        """Run a program and yield its lines; see `Link.run`."""
        argv = checked(command)
        where = f"{printable(argv[0].rpartition('/')[2])} on {self.name}"
        return self._run(argv, Clock(where, timeout_s, idle_s))

    def _run(self, argv: list[str], clock: Clock) -> Iterator[str]:
        number = self._ask("start", command=argv)["failed"]
        if number:
            raise BoardCommandFailed(
                f"cannot start: error {number}", where=clock.where, hint="are there too many "
                "arguments, or processes on the board?",
            )  # fmt: skip
        tail, split, ended = Tail(), Lines(clock.where), False
        try:
            while not ended:
                answer = self._ask("poll", limit_ms=min(POLL_MS, int(clock.left_s * 1000)))
                got = {name: base64.b64decode(answer.get(name, "")) for name in ("out", "err")}
                ended = bool(answer["ended"])
                if got["out"] or got["err"]:
                    clock.heard()
                    clock.check_total()
                elif not ended and clock.left_s == 0.0:
                    clock.expired()
                tail.feed(got["err"])
                yield from split.feed(got["out"])
            yield from split.end()
            if answer["status"] != 0:
                raise failed(clock.where, int(answer["status"]), tail.text)
        finally:
            if not ended and self._worker is not None:
                with contextlib.suppress(BoardLost):  # the next command says so
                    self._ask("stop")

    def read_text(self, path: str) -> str | None:
        """A small file of the board; see `Link.read_text`."""
        return posix.read_text(self, path)

    def facts(self) -> BoardFacts:
        """What the board says of itself."""
        return posix.facts_of(self, self.python)

    def close(self) -> None:
        """End the session: the server then removes its folder."""
        if self._worker is None:
            return
        worker, self._worker = self._worker, None
        try:
            assert worker.stdin is not None
            worker.stdin.close()
            worker.wait(5.0)
        except (OSError, subprocess.TimeoutExpired):
            pass
        finally:
            process.end(worker)
