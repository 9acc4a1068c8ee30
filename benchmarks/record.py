"""Run a benchmark and put what it prints into RESULTS.md, under a heading of its own.

    python benchmarks/record.py memory -- --count 10

runs ``benchmarks/memory.py --count 10`` and replaces the section ``memory``.
"""

from __future__ import annotations

import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from edgeopt.core.files import write_atomic

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
HEAD = """# Results

Each section is what one script printed, with the command that runs it again. Machines are shared
and noisy: ratios between engines that were timed in turns count, absolute times do not.
"""


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    name, *rest = sys.argv[1:]
    args = rest[1:] if rest[:1] == ["--"] else rest
    script = HERE / f"{name}.py"
    if not script.is_file():
        sys.exit(f"no benchmark {name!r} in {HERE}")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), *args], stdout=subprocess.PIPE, text=True
    )
    sys.stdout.write(done.stdout)
    if done.returncode:
        sys.exit(done.returncode)
    versions = ", ".join(f"{p} {version(p)}" for p in ("onnxruntime", "torch", "apache-tvm"))
    title = (script.read_text().split('"""')[1].strip().splitlines() or [name])[0]
    section = (
        f"\n## {name}\n\n{title}\n\n"
        f"    {shlex.join(['python', f'benchmarks/{name}.py', *args])}\n\n"
        f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, {versions}\n\n"
        f"```text\n{done.stdout.strip()}\n```\n"
    )
    old = RESULTS.read_text() if RESULTS.is_file() else HEAD
    pattern = re.compile(rf"\n## {re.escape(name)}\n.*?(?=\n## |\Z)", re.DOTALL)
    text = pattern.sub(lambda _: section, old) if pattern.search(old) else old + section
    write_atomic(RESULTS, text)


if __name__ == "__main__":
    main()
