"""How deep the stack gets: from what gcc writes of every function (``-fcallgraph-info=su``).

Generated code has no recursion, no variable-length arrays and, for one thread, no calls through
pointers, so the deepest path of the call graph is a bound, not a guess. Functions of libraries
come without such notes; each counts as `LIBRARY_BYTES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: What a function of libgcc or the C library may take: the largest of those that kernels call
#: (memcpy, memset, 64-bit arithmetic, binary32 without hardware) saves nine registers.
LIBRARY_BYTES = 64
#: Functions in assembly, whose frames compilers do not see, and what each saves: nine registers.
ASSEMBLY, ASSEMBLY_BYTES = "edgeopt_asm_", 36
#: Options that make the compiler write a ``.ci`` file beside each object.
FLAGS = ("-fcallgraph-info=su",)

_NODE = re.compile(r'^node: \{ title: "([^"]+)" label: "([^"]*)"')
_EDGE = re.compile(r'^edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"')
_BYTES = re.compile(r"\\n(\d+) bytes \((static|dynamic|dynamic,bounded)\)")


class StackError(ValueError):
    """The depth of the stack has no bound, or is not known."""


@dataclass(frozen=True, slots=True)
class Depth:
    """The deepest path from a function.

    Attributes:
        bound_bytes: no call takes more.
        path: functions on it, the first the one asked for.
        library: functions without notes, counted as `LIBRARY_BYTES` each.
    """

    bound_bytes: int
    path: tuple[str, ...]
    library: tuple[str, ...]


def depth(notes: Iterable[str], function: str) -> Depth:
    """The stack that a call of ``function`` takes at most.

    Args:
        notes: contents of the ``.ci`` files of everything that is linked.
        function: its name in C.

    Raises:
        StackError: it is not there, calls itself, or takes stack that no constant bounds.
    """
    frames: dict[str, int] = {}
    calls: dict[str, set[str]] = {}
    for text in notes:
        for line in text.splitlines():
            if node := _NODE.match(line):
                if size := _BYTES.search(node[2]):
                    own = int(size[1])
                    if node[1].rpartition(":")[2].startswith(ASSEMBLY):
                        own += ASSEMBLY_BYTES
                    frames[node[1]] = -1 if size[2] == "dynamic" else own
            elif edge := _EDGE.match(line):
                calls.setdefault(edge[1], set()).add(edge[2])
    if function not in frames:
        raise StackError(f"the compiler's notes do not name {function}")
    known: dict[str, tuple[int, tuple[str, ...]]] = {}
    total, path = _deepest(function, frames, calls, known, ())
    library = sorted(name for name in known if name not in frames)
    # Static functions carry the path of their file, which is a temporary one.
    shown = tuple(name.rpartition(":")[2] for name in path)
    return Depth(total, shown, tuple(library))


def _deepest(
    name: str,
    frames: Mapping[str, int],
    calls: Mapping[str, set[str]],
    known: dict[str, tuple[int, tuple[str, ...]]],
    above: tuple[str, ...],
) -> tuple[int, tuple[str, ...]]:
    if name in above:
        raise StackError(f"{name} calls itself: {' -> '.join((*above, name))}")
    if name == "__indirect_call":
        raise StackError(f"{above[-1]} calls through a pointer")
    if name not in known:
        below: tuple[int, tuple[str, ...]] = (0, ())
        for called in sorted(calls.get(name, ())):
            found = _deepest(called, frames, calls, known, (*above, name))
            below = max(below, found, key=lambda item: item[0])
        own = frames.get(name, LIBRARY_BYTES)
        if own < 0:
            raise StackError(f"{name} takes stack that no constant bounds")
        known[name] = (own + below[0], (name, *below[1]))
    return known[name]
