"""The errors a user can cause or meet, and the exit codes they become.

Every error says what is wrong, where, and what to do. Anything else that escapes is a bug in
edgeopt: it exits 1 with a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgeoptError(Exception):
    """A failure that is not edgeopt's own fault.

    Args:
        what: one sentence naming the problem.
        where: the file, node, key or option it was found in.
        hint: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class InputError(EdgeoptError):
    """A file, option or value given by the user cannot be used."""

    exit_code = 2


class InfeasibleError(EdgeoptError):
    """No candidate meets the budget."""

    exit_code = 3


class ToolError(EdgeoptError):
    """A compiler, emulator or other program is missing or failed."""

    exit_code = 4


class BoardError(EdgeoptError):
    """A board could not be reached, or did not behave."""

    exit_code = 5


class BoardUnreachable(BoardError):  # noqa: N818 - says what happened
    """No connection to the board: wrong address, refused, unknown host key, no permission."""


class BoardLost(BoardError):  # noqa: N818 - says what happened
    """The board vanished in the middle of something: cable, reboot, network. Worth a retry."""


class BoardTimeout(BoardError):  # noqa: N818 - says what happened
    """The board fell silent, or a command took longer than allowed."""


class BoardCommandFailed(BoardError):  # noqa: N818 - says what happened
    """A command on the board failed.

    Args:
        what: one sentence naming the problem.
        status: the exit status; negative for the number of the signal that ended it; None where
            it never started or the board does not say.
        stderr: the end of what it wrote to standard error.
        where: the command and the board.
        hint: what the user can do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        status: int | None = None,
        stderr: str = "",
        where: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.status = status
        self.stderr = stderr


def suggest(name: str, known: Iterable[str], *, noun: str = "name") -> str:
    """A hint for an unknown name: the near misses, else everything that is known.

    >>> suggest("rpi5x", ["rpi4", "rpi5"], noun="device")
    'did you mean rpi5 or rpi4?'
    """
    options = sorted(set(known))
    near = difflib.get_close_matches(name, options, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    if not options:
        return f"no {noun} is known here"
    return f"known {noun}s: {', '.join(options)}"
