"""Boards that are reached through a remote shell: what ssh and adb have in common.

Whatever shell a user logs in with gets one line: `exec sh -c SCRIPT sh ARGUMENTS`, every part
quoted. One command, the keeper, runs as long as the link: it owns the work folder, and when its
input ends (the link is closed, the connection lost, this process killed) it ends what still runs
and removes the folder.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgeopt.core.errors import BoardCommandFailed, BoardError, BoardLost, BoardTimeout, InputError
from edgeopt.devices.transports import posix
from edgeopt.devices.transports.link import BoardFacts, Closing
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

#: A shell gets its command as one argument, which Linux limits to 128 KiB.
MAX_COMMAND_BYTES = 120_000
#: Small commands of the link itself answer within this time.
ANSWER_S = 60.0
_CHUNK = 1 << 16
_STARTED = "edgeopt-started "
_WORK = "edgeopt-work "

#: Makes the work folder where programs may be executed ([ -x ] fails on a noexec mount).
_KEEPER = r"""
umask 077
work=
for base in "${TMPDIR:-/tmp}" /data/local/tmp "$HOME" /var/tmp; do
  work=$(mktemp -d "$base/edgeopt-XXXXXXXX" 2>/dev/null) || continue
  : >"$work/.probe" && chmod 700 "$work/.probe" && [ -x "$work/.probe" ] && break
  rm -rf "$work"
  work=
done
[ -n "$work" ] || { echo 'no folder to write and execute programs in' >&2; exit 1; }
rm "$work/.probe"
trap '' HUP INT TERM PIPE
echo "edgeopt-work $work"
cat >/dev/null
pid=$(cat "$work/.pid" 2>/dev/null) && [ "$(readlink "/proc/$pid/cwd")" = "$work" ] &&
  { kill -KILL -- "-$pid" || kill -KILL "$pid"; } 2>/dev/null
rm -rf "$work"
"""
_RUN = r"""
cd "$1" && shift && echo $$ >.pid && echo "edgeopt-started $$" || exit 126
LC_ALL=C
export LC_ALL
exec "$@"
"""
_STORE = r"""
umask 077
cat >"$1.part" && chmod "$2" "$1.part" && mv -f "$1.part" "$1" && wc -c <"$1"
"""
_KILL = r"""{ kill -KILL -- "-$1" || kill -KILL "$1"; } 2>/dev/null"""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What came from a remote process.

    Attributes:
        out: of its standard output.
        err: of its standard error.
        ended: there is no more.
        status: its exit status once it ended; negative for the number of a signal.
    """

    out: bytes = b""
    err: bytes = b""
    ended: bool = False
    status: int = 0


class RemoteProcess(Protocol):
    """A command that runs on a board."""

    def read(self, timeout_s: float) -> Chunk | None:
        """What came; None if nothing came in time.

        Raises:
            BoardLost: the board vanished.
        """
        ...

    def write(self, data: bytes, timeout_s: float) -> None:
        """Send to its standard input, waiting until there is room.

        Raises:
            BoardLost: the board vanished.
            BoardTimeout: there was no room in time.
        """
        ...

    def end_input(self) -> None:
        """Its standard input ends here."""
        ...

    def close(self) -> None:
        """Forget it, whether it ended or not."""
        ...


class Remote(Protocol):
    """A connection that runs commands with the user's shell."""

    def execute(self, line: str) -> RemoteProcess:
        """Start a command line.

        Raises:
            BoardLost: the board vanished.
            BoardCommandFailed: it refuses.
        """
        ...

    def disconnect(self) -> None:
        """End the connection; never fails."""
        ...


def script_line(script: str, arguments: Sequence[str]) -> str:
    """The line that runs a POSIX script with arguments, for any login shell.

    Raises:
        InputError: it is too long for a board to run.
    """
    line = "exec " + " ".join(shlex.quote(part) for part in ("sh", "-c", script, "sh", *arguments))
    if len(line.encode("utf-8", "surrogateescape")) > MAX_COMMAND_BYTES:
        raise InputError(
            f"the command is longer than {MAX_COMMAND_BYTES} bytes", where="run",
            hint="give fewer arguments at once",
        )  # fmt: skip
    return line


@dataclass(slots=True)
class ShellLink(Closing):
    """A link over a remote shell; see `Link`.

    Args:
        remote: the connection.
        name: for people.
        python: the board's interpreter to look for; empty for ``python3``.
    """

    remote: Remote
    name: str
    python: str = ""
    _keeper: RemoteProcess | None = field(default=None, repr=False)
    _work: str = ""
    _closed: bool = False

    @property
    def work(self) -> str:
        """The folder on the board; made when it is first needed."""
        if not self._work:
            keeper = self._execute(script_line(_KEEPER, ()))
            lines = self._lines(keeper, Clock(f"work folder on {self.name}", ANSWER_S))
            for line in lines:
                if line.startswith(_WORK):
                    self._keeper, self._work = keeper, line.removeprefix(_WORK)
                    break
            if not self._work.startswith("/"):
                keeper.close()
                raise BoardError(
                    "does not make a work folder", where=self.name,
                    hint="the board needs a POSIX shell with mktemp",
                )  # fmt: skip
        return self._work

    def push(self, source: Path, name: str, *, executable: bool = False) -> str:
        """Copy a file into the work folder; see `Link.push`."""
        target = f"{self.work}/{file_name(name)}"
        mode = "700" if executable else "600"
        size_bytes = 0
        process = self._execute(script_line(_STORE, (target, mode)))
        try:
            with source_file(source).open("rb") as stream:
                while data := stream.read(_CHUNK):
                    process.write(data, ANSWER_S)
                    size_bytes += len(data)
            process.end_input()
            where = f"push of {name} to {self.name}"
            said = [line.strip() for line in self._lines(process, Clock(where, None, ANSWER_S))]
        except BoardCommandFailed as error:
            raise BoardCommandFailed(
                f"cannot store {name!r}: {error.stderr or error.what}", status=error.status,
                stderr=error.stderr, where=self.name, hint="free space on the board (`df` there)",
            ) from error  # fmt: skip
        finally:
            process.close()
        if said[-1:] != [str(size_bytes)]:
            raise BoardError(
                f"stored {name!r} with another size than {size_bytes} bytes", where=self.name,
                hint="is the board's storage full or failing?",
            )  # fmt: skip
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
        return self._run(script_line(_RUN, (self.work, *argv)), Clock(where, timeout_s, idle_s))

    def _run(self, line: str, clock: Clock) -> Iterator[str]:
        process, pid, ended = self._execute(line), "", False
        try:
            for text in self._lines(process, clock):
                if pid:
                    yield text
                elif text.startswith(_STARTED):  # what a login script printed came before
                    pid = text.removeprefix(_STARTED)
            ended = True
        except (BoardCommandFailed, BoardLost):
            ended = True
            raise
        finally:
            process.close()
            if not ended and pid.isdigit() and not self._closed:  # the keeper ended it otherwise
                self._kill(pid)

    def _kill(self, pid: str) -> None:
        """End a program that a closed connection alone would not."""
        process = self._execute(script_line(_KILL, (pid,)))
        try:
            for _ in self._lines(process, Clock(self.name, ANSWER_S)):
                pass
        except BoardCommandFailed:  # it has just ended
            pass
        finally:
            process.close()

    def _lines(self, process: RemoteProcess, clock: Clock) -> Iterator[str]:
        """The lines of a process until it ends.

        Raises:
            BoardCommandFailed: it fails.
            BoardTimeout: a limit was hit.
            BoardLost: the board vanished.
        """
        tail, split = Tail(), Lines(clock.where)
        while True:
            chunk = process.read(clock.left_s)
            if chunk is None:
                clock.expired()
                continue
            clock.heard()
            clock.check_total()
            tail.feed(chunk.err)
            yield from split.feed(chunk.out)
            if chunk.ended:
                yield from split.end()
                if chunk.status != 0:
                    raise failed(clock.where, chunk.status, tail.text)
                return

    def _execute(self, line: str) -> RemoteProcess:
        if self._closed:
            raise BoardLost("the link is closed", where=self.name, hint="open the link again")
        return self.remote.execute(line)

    def read_text(self, path: str) -> str | None:
        """A small file of the board; see `Link.read_text`."""
        return posix.read_text(self, path)

    def facts(self) -> BoardFacts:
        """What the board says of itself."""
        return posix.facts_of(self, self.python)

    def close(self) -> None:
        """Remove the work folder and disconnect."""
        if self._closed:
            return
        self._closed = True
        if self._keeper is not None:
            try:
                self._keeper.end_input()
                for _ in self._lines(self._keeper, Clock(self.name, ANSWER_S)):
                    pass
            except (BoardLost, BoardTimeout, BoardCommandFailed):
                pass  # the board is gone; the keeper notices by itself
            finally:
                self._keeper.close()
        self.remote.disconnect()
