"""The process that talks to a TVM RPC server: TVM's calls wait without a limit, and may crash.

It reads requests and writes answers, one JSON object a line. Run by `edgeopt.devices.transports.
tvm_rpc` as ``python -m edgeopt.devices.transports.tvm_rpc_worker HOST PORT [KEY]``.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

HELPER = "edgeopt_helper.so"


class Board:
    """One session of a server.

    Args:
        host: of the server, or of the tracker if there is a ``key``.
        port: of it.
        key: the kind of board that a tracker is asked for.
    """

    def __init__(self, host: str, port: int, key: str) -> None:
        # TVM imports torch where it is installed: seconds, for nothing that is needed here.
        sys.modules["torch"] = None  # type: ignore[assignment]
        from tvm import rpc

        if key:
            self.session: Any = rpc.connect_tracker(host, port).request(key, max_retry=1)
        else:
            self.session = rpc.connect(host, port)
        self.functions: dict[str, Any] = {}

    def folder(self) -> dict[str, Any]:
        """Where the session's files lie."""
        path = self.session.get_function("tvm.rpc.server.workpath")(HELPER)
        return {"folder": str(path).removesuffix("/" + HELPER)}

    def helper(self, library: str) -> dict[str, Any]:
        """Upload and load the helper."""
        self.session.upload(library, HELPER)
        module = self.session.load_module(HELPER)
        for name in ("start", "poll", "stop", "mode"):
            self.functions[name] = module[f"edgeopt_{name}"]
        return {}

    def push(self, source: str, name: str, executable: bool) -> dict[str, Any]:
        """Upload a file."""
        self.session.upload(source, name + ".part")  # a program that runs cannot be written to
        self._give(f"mv\0-f\0{name}.part\0{name}\0")
        while not (state := self.functions["poll"](1000)) & 4:
            pass
        if state >> 8:
            return {"refused": "it cannot be stored"}
        self.session.upload(bytearray(name.encode()), "edgeopt.argv")
        return {"failed": int(self.functions["mode"](int(executable)))}

    def start(self, command: list[str]) -> dict[str, Any]:
        """Start a program."""
        return {"failed": self._give("".join(f"{part}\0" for part in command))}

    def _give(self, arguments: str) -> int:
        data = bytearray(arguments.encode("utf-8", "surrogateescape"))
        self.session.upload(data, "edgeopt.argv")
        return int(self.functions["start"]())

    def poll(self, limit_ms: int) -> dict[str, Any]:
        """What came from the program."""
        state = int(self.functions["poll"](limit_ms))
        answer: dict[str, Any] = {"ended": bool(state & 4)}
        for bit, name in ((1, "out"), (2, "err")):
            if state & bit:
                data = bytes(self.session.download(f"edgeopt.{name}"))
                answer[name] = base64.b64encode(data).decode("ascii")
        if state & 4:
            number = state >> 16 & 255
            answer["status"] = -number if number else state >> 8 & 255
        return answer

    def stop(self) -> dict[str, Any]:
        """End the program."""
        self.functions["stop"]()
        return {}


def main(arguments: list[str]) -> None:
    """Serve until standard input ends."""
    # Whatever TVM prints goes to standard error: standard output is the answers' own.
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    host, port, *key = arguments

    def tell(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        board = Board(host, int(port), key[0] if key else "")
        tell(board.folder())
        for line in sys.stdin:
            request = json.loads(line)
            tell(getattr(board, request.pop("do"))(**request))
    except Exception as error:  # TVM's errors have no common type; the parent tells what it means
        tell(
            {
                "error": str(error).strip().splitlines()[-1][:300]
                if str(error).strip()
                else repr(error)
            }
        )
        answers.flush()
        os._exit(1)  # a session that is broken waits for its server when it is torn down


if __name__ == "__main__":
    sys.path = [
        entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent
    ]
    main(sys.argv[1:])
