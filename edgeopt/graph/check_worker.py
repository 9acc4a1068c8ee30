"""The child process of `edgeopt.graph.isolate`: a request on stdin, a model on stdout."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from pathlib import Path


def main() -> int:
    """Answer one request; 3 means the input was refused and stdout says why."""
    message = sys.stdin.buffer.read()
    line, _, data = message.partition(b"\n")
    del message
    request = json.loads(line)
    sys.path[:] = request["path"]
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        limit = request["memory_bytes"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        seconds = math.ceil(request["cpu_s"])
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    from edgeopt.core.errors import InputError
    from edgeopt.graph import check

    # What native libraries print must not mix with the answer.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        if request["task"] == "checked":
            shapes = {name: tuple(shape) for name, shape in request["input_shapes"].items()}
            model = check.checked(data, Path(request["folder"]), request["max_bytes"], shapes)
        else:
            model = check.infer(check.parse(data))
    except InputError as error:
        parts = {"what": error.what, "where": error.where, "hint": error.hint}
        answer.write(json.dumps(parts).encode())
        answer.close()
        return 3
    answer.write(model.SerializeToString())
    answer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
