"""Boards over ssh, with the user's own configuration, keys, agent and known hosts."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgeopt.core.errors import BoardCommandFailed, BoardLost, BoardTimeout, InputError, ToolError
from edgeopt.devices.transports.address import Address
from edgeopt.devices.transports.link import Endpoint
from edgeopt.devices.transports.shell import ANSWER_S, Chunk, ShellLink

#: A board that does not answer so many messages, one each interval, has vanished.
KEEPALIVE_S = 5.0
KEEPALIVE_COUNT = 3
CONNECT_S = 30.0
_CHUNK = 1 << 16

_T = TypeVar("_T")


class Ssh:
    """The transport ``ssh``."""

    @classmethod
    def open(cls, endpoint: Endpoint) -> ShellLink:
        """Connect to the host that a user or a profile names.

        Raises:
            InputError: neither names one.
            BoardUnreachable: no connection, an unknown host key, no permission.
            ToolError: asyncssh is missing.
        """
        if not endpoint.host:
            raise InputError(
                "which host is the board?", where="--host", hint="write --host user@board"
            )
        address = Address.parse(endpoint.host)
        name = f"ssh {address}"
        return ShellLink(connect(address, name), name, endpoint.profile.runner.python)


def connect(address: Address, name: str) -> SshRemote:
    """A connection to a host.

    Raises:
        BoardUnreachable: no connection, an unknown host key, no permission.
        ToolError: asyncssh is missing.
    """
    try:
        import asyncssh
    except ImportError as error:
        raise ToolError(
            "asyncssh is not installed", where="transport ssh", hint="pip install asyncssh"
        ) from error
    from edgeopt.devices.transports import ssh_errors

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=_serve, args=(loop,), name="edgeopt ssh", daemon=True)
    thread.start()
    remote = SshRemote(loop, thread, name)
    witness = ssh_errors.Witness()

    async def begin() -> Any:
        return await asyncssh.connect(
            address.host,
            port=address.port or (),
            username=address.user or (),
            client_factory=lambda: witness,
            keepalive_interval=KEEPALIVE_S,
            keepalive_count_max=KEEPALIVE_COUNT,
            connect_timeout=CONNECT_S,
            login_timeout=CONNECT_S,
            agent_forwarding=False,
            x11_forwarding=False,
        )

    try:
        remote.connection = remote.call(begin(), 3 * CONNECT_S)
    except (OSError, ValueError, asyncssh.Error, FutureTimeoutError) as error:
        remote.disconnect()
        raise ssh_errors.explain(error, witness, address, name) from error
    except BaseException:
        remote.disconnect()
        raise
    return remote


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """The life of a connection's thread."""

    async def drain() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    loop.run_forever()
    loop.run_until_complete(drain())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@dataclass(slots=True)
class SshRemote:
    """An open connection; its event loop runs in a thread of its own.

    Args:
        loop: of that thread.
        thread: where it runs.
        name: for people.
    """

    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    name: str
    connection: Any = None

    def call(self, work: Coroutine[Any, Any, _T], timeout_s: float | None) -> _T:
        """Run something in the loop and wait for it; cancelled if the time is up."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result(timeout_s)
        finally:
            future.cancel()

    def execute(self, line: str) -> SshProcess:
        """Start a command line; see `Remote.execute`."""
        import asyncssh

        async def begin() -> Any:
            return await self.connection.create_process(line, encoding=None)

        try:
            return SshProcess(self, self.call(begin(), ANSWER_S))
        except asyncssh.ChannelOpenError as error:
            if self.connection.is_closed():
                raise self.lost(error) from error
            raise BoardCommandFailed(
                f"refuses to run commands: {error.reason}", where=self.name,
                hint="is the account allowed a shell, and not too many sessions open?",
            ) from error  # fmt: skip
        except (OSError, asyncssh.Error, FutureTimeoutError) as error:
            raise self.lost(error) from error

    def lost(self, error: BaseException | None) -> BoardLost:
        """The error of a connection that is gone."""
        reason = str(error or "").strip() or "it no longer answers"
        return BoardLost(
            f"the connection is lost: {reason}", where=self.name,
            hint="is the board on, and the network up? Go on with --resume",
        )  # fmt: skip

    def disconnect(self) -> None:
        """End the connection and the thread."""

        async def end() -> None:
            self.connection.close()
            await asyncio.wait_for(self.connection.wait_closed(), 5.0)

        if self.connection is not None:
            with contextlib.suppress(Exception):
                self.call(end(), 10.0)
            self.connection = None

        if not self.loop.is_closed():
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(10.0)


@dataclass(slots=True)
class SshProcess:
    """A command over a channel of its own; see `RemoteProcess`."""

    remote: SshRemote
    process: Any
    _reads: dict[str, asyncio.Task[bytes]] = field(default_factory=dict)
    _open: set[str] = field(default_factory=lambda: {"stdout", "stderr"})

    def read(self, timeout_s: float) -> Chunk | None:
        """What came; see `RemoteProcess.read`."""
        import asyncssh

        try:
            return self.remote.call(self._read(timeout_s), None)
        except (OSError, asyncssh.Error) as error:
            raise self.remote.lost(error) from error

    async def _read(self, timeout_s: float) -> Chunk | None:
        for name in self._open - set(self._reads):
            stream = getattr(self.process, name)
            self._reads[name] = asyncio.ensure_future(stream.read(_CHUNK))
        if self._reads:
            done, _ = await asyncio.wait(
                self._reads.values(), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                return None
        got = {"stdout": b"", "stderr": b""}
        for name in [name for name, task in self._reads.items() if task.done()]:
            got[name] = self._reads.pop(name).result()
            if not got[name]:
                self._open.discard(name)
        if self._open:
            return Chunk(got["stdout"], got["stderr"])
        await asyncio.wait_for(self.process.wait_closed(), ANSWER_S)
        return Chunk(got["stdout"], got["stderr"], True, self._status())

    def _status(self) -> int:
        if self.process.exit_signal is not None:
            number = getattr(signal, f"SIG{self.process.exit_signal[0]}", None)
            return -int(number) if number is not None else 255
        if self.process.exit_status is None:  # the other side ended without saying how
            raise self.remote.lost(None)
        return int(self.process.exit_status)

    def write(self, data: bytes, timeout_s: float) -> None:
        """Send to its standard input; see `RemoteProcess.write`."""
        import asyncssh

        async def send() -> None:
            self.process.stdin.write(data)
            await self.process.stdin.drain()

        try:
            self.remote.call(send(), timeout_s)
        except BrokenPipeError:
            pass  # it ended: its status says why
        except FutureTimeoutError as error:
            raise BoardTimeout(
                f"takes nothing in for {timeout_s:g} s", where=self.remote.name,
                hint="is the board's storage hanging?",
            ) from error  # fmt: skip
        except (OSError, asyncssh.Error) as error:
            raise self.remote.lost(error) from error

    def end_input(self) -> None:
        """Its standard input ends here."""

        async def end() -> None:
            with contextlib.suppress(OSError):
                self.process.stdin.write_eof()

        self.remote.call(end(), ANSWER_S)

    def close(self) -> None:
        """Close the channel."""
        if self.remote.connection is None:  # it went with the connection
            return

        async def end() -> None:
            for task in self._reads.values():
                task.cancel()
            await asyncio.gather(*self._reads.values(), return_exceptions=True)
            self.process.close()

        with contextlib.suppress(Exception):
            self.remote.call(end(), ANSWER_S)
