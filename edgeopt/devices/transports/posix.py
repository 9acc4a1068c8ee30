"""What is asked of a board with a shell: facts, small files. POSIX sh, as BusyBox has."""

from __future__ import annotations

from collections.abc import Iterable

from edgeopt.core.errors import BoardCommandFailed, BoardError
from edgeopt.devices.transports.link import BoardFacts, Link
from edgeopt.devices.transports.stream import MAX_TEXT_BYTES

#: Prints ``name=value`` lines; ``$1`` is the Python interpreter.
FACTS_SCRIPT = r"""
echo "machine=$(uname -m)"
echo "kernel=$(uname -r)"
echo "cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null)"
for field in Model 'model name' Hardware; do
  sed -n "s/^$field[[:space:]]*:[[:space:]]*/cpu=/p" /proc/cpuinfo 2>/dev/null
done
sed -n 's/^MemTotal:[[:space:]]*\([0-9]*\) kB$/memory_kib=\1/p' /proc/meminfo 2>/dev/null
libc=$(getconf GNU_LIBC_VERSION 2>/dev/null)
[ -n "$libc" ] || libc=$(ldd --version 2>&1 | sed -n '1{/musl/s/ .*//p;};2s/^Version //p')
echo "libc=$(echo $libc)"
python=$(command -v "$1" 2>/dev/null) && [ -n "$python" ] && "$python" - <<'END' 2>/dev/null
import platform, sys
print("python3=" + sys.executable)
print("python3_version=" + platform.python_version())
try:
    from importlib.metadata import version
    print("onnxruntime=" + version("onnxruntime"))
except Exception:
    pass
END
exit 0
"""
FACTS_IDLE_S = 120.0  # a slow board takes a minute to start Python


def facts_of(link: Link, python: str = "") -> BoardFacts:
    """The facts of a board, by one script.

    Args:
        link: to the board.
        python: the interpreter to look for, a name or a path; ``python3`` where empty.

    Raises:
        BoardError: the board does not answer as a POSIX system does.
    """
    command = ["sh", "-c", FACTS_SCRIPT, "sh", python or "python3"]
    return parse_facts(link.run(command, idle_s=FACTS_IDLE_S), where=link.name)


def parse_facts(lines: Iterable[str], *, where: str) -> BoardFacts:
    """Read what `FACTS_SCRIPT` prints.

    Raises:
        BoardError: it does not name the machine.
    """
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition("=")
        if value.strip():
            found.setdefault(name, value.strip()[:200])
    if "machine" not in found:
        raise BoardError(
            "does not say what machine it is", where=where,
            hint="the board needs a POSIX shell and uname",
        )  # fmt: skip
    memory_kib = _count(found.get("memory_kib"), 1 << 40)
    return BoardFacts(
        machine=found["machine"],
        cpu=found.get("cpu"),
        cores=_count(found.get("cores"), 1 << 16),
        kernel=found.get("kernel"),
        libc=found.get("libc"),
        python3=found.get("python3"),
        python3_version=found.get("python3_version"),
        onnxruntime=found.get("onnxruntime"),
        memory_bytes=None if memory_kib is None else memory_kib << 10,
    )


def _count(text: str | None, limit: int) -> int | None:
    """A count, if it is a believable one."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 15:
        return None
    return int(text) if 0 < int(text) <= limit else None


def read_text(link: Link, path: str) -> str | None:
    """A small file of the board; None if absent, not permitted, or not a small file."""
    command = ["sh", "-c", 'exec head -c "$1" <"$2"', "sh", str(MAX_TEXT_BYTES), path]
    try:
        return "".join(f"{line}\n" for line in link.run(command, timeout_s=FACTS_IDLE_S))
    except BoardCommandFailed:
        return None
