"""What every command prints with: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeopt.core.errors import EdgeoptError

#: Columns of what goes to a file or a pipe: long enough that rows stay on one line.
FILE_WIDTH = 200


def stdout() -> Console:
    """For results. Follows ``NO_COLOR`` and the terminal's width."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)


def stderr() -> Console:
    """For progress and errors."""
    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else FILE_WIDTH)


def print_error(error: EdgeoptError) -> None:
    """``error: where: what`` and the hint, on stderr. Text from files is not markup."""
    console = stderr()
    head = Text("error: ", style="bold red")
    head.append(_printable(f"{error.where}: " if error.where else ""), style="bold")
    head.append(_printable(error.what), style="not bold")
    console.print(head)
    if error.hint:
        console.print(Text(f"  hint: {_printable(error.hint)}", style="cyan"))


def _printable(text: str) -> str:
    """Control characters escaped, so that a hostile file name cannot drive the terminal."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> Table:
    """A plain table; the columns after the first keep their words together."""
    result = Table(title=title or None, box=None, pad_edge=False, title_justify="left")
    for name in columns:
        result.add_column(name, overflow="fold")
    for first, *rest in rows:
        # Names from a model can be hundreds of characters long.
        head = first if len(first) <= _NAME_WIDTH else f"{first[: _NAME_WIDTH - 1]}…"
        result.add_row(*(Text(_printable(cell)) for cell in (head, *rest)))
    return result


_NAME_WIDTH = 48


class Stages:
    """Progress of a run of named stages, one line each on stderr."""

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        self._console = stderr()
        self._total = total
        self._quiet = quiet
        self._done = 0
        self._started = time.monotonic()

    def __call__(self, event: str, fields: Mapping[str, object]) -> None:
        """Take an event of `pipeline.compile`: a stage's start, its detail, or its end."""
        if self._quiet:
            return
        name = str(fields.get("stage", ""))
        if event == "start":
            self._started = time.monotonic()
            if self._console.is_terminal:
                self._console.print(self._line(name, "…"), end="\r")
        elif event == "detail" and self._console.is_terminal:
            self._console.print(self._line(name, f"… {fields.get('text', '')}"), end="\r")
        elif event == "end":
            seconds = time.monotonic() - self._started
            took = "cached" if fields.get("cached") else f"{seconds:.1f} s"
            text = str(fields.get("text", ""))
            line = self._line(name, f"{took:>7}  {text}")
            if self._console.is_terminal:
                line.pad_right(max(0, self._console.width - line.cell_len - 1))
            self._console.print(line)
            self._done += 1

    def _line(self, name: str, rest: str) -> Text:
        line = Text(f"[{min(self._done + 1, self._total)}/{self._total}] ", style="dim")
        line.append(f"{name:<10}", style="bold")
        line.append(f" {_printable(rest)}", style="not bold not dim")
        return line
