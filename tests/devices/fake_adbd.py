"""An Android device as the adb server sees it: adbd's protocol, commands run by this machine's sh.

Only what the transport uses: the connection, and the shell service in its second version. No real
adbd runs outside Android; the server in between is the real one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading

_MAX_DATA = 1 << 16
_BANNER = b"device::ro.product.name=fake;ro.product.model=Fake;features=%s"


class Device:
    """One connection of an adb server."""

    def __init__(self, link: socket.socket, features: bytes) -> None:
        self.link, self.features = link, features
        self.sending = threading.Lock()
        self.shells: dict[int, Shell] = {}
        self.count = 0

    def send(self, command: bytes, first: int, second: int, data: bytes = b"") -> None:
        number = int.from_bytes(command, "little")
        head = struct.pack(
            "<6I", number, first, second, len(data), sum(data) & 0xFFFFFFFF, number ^ 0xFFFFFFFF
        )
        with self.sending, contextlib.suppress(OSError):
            self.link.sendall(head + data)

    def serve(self) -> None:
        stream = self.link.makefile("rb")
        try:
            while head := stream.read(24):
                number, first, second, size, _, _ = struct.unpack("<6I", head)
                data = stream.read(size)
                self.handle(number.to_bytes(4, "little"), first, second, data)
        except OSError:
            pass
        finally:
            for shell in list(self.shells.values()):
                shell.end()
            stream.close()
            self.link.close()

    def handle(self, command: bytes, first: int, second: int, data: bytes) -> None:
        if command == b"CNXN":
            self.send(b"CNXN", 0x01000001, _MAX_DATA, _BANNER % self.features)
        elif command == b"OPEN":
            service = data.rstrip(b"\0").decode()
            if service.startswith("shell,v2,raw:"):
                self.count += 1  # never used again: a late close must not meet another shell
                local = self.count
                self.shells[local] = Shell(self, local, first, service.split(":", 1)[1])
            else:
                self.send(b"CLSE", 0, first)
        elif second in self.shells:
            shell = self.shells[second]
            if command == b"WRTE":
                shell.receive(data)
                self.send(b"OKAY", second, first)
            elif command == b"OKAY":
                shell.room.set()
            elif command == b"CLSE":
                shell.end()


class Shell:
    """One command."""

    def __init__(self, device: Device, local: int, remote: int, line: str) -> None:
        self.device, self.local, self.remote = device, local, remote
        self.room = threading.Event()
        self.sending = threading.Lock()
        self.waiting = b""
        self.gone = False
        self.process = subprocess.Popen(
            ["sh", "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        device.send(b"OKAY", local, remote)
        threading.Thread(target=self.work, daemon=True).start()

    def work(self) -> None:
        ends = [
            threading.Thread(target=self.pump, args=(pipe, kind))
            for kind, pipe in ((1, self.process.stdout), (2, self.process.stderr))
        ]
        for end in ends:
            end.start()
        for end in ends:
            end.join()
        status = self.process.wait()
        self.packet(3, bytes([status if status >= 0 else 128 - status]))  # as adbd does
        if not self.gone:
            self.device.send(b"CLSE", self.local, self.remote)
        self.end()

    def pump(self, pipe: object, kind: int) -> None:
        while data := os.read(pipe.fileno(), 16384):  # type: ignore[attr-defined]
            self.packet(kind, data)

    def packet(self, kind: int, data: bytes) -> None:
        with self.sending:
            self.room.clear()
            if self.gone:
                return
            head = bytes([kind]) + len(data).to_bytes(4, "little")
            self.device.send(b"WRTE", self.local, self.remote, head + data)
            while not self.room.wait(0.2) and not self.gone:
                pass

    def receive(self, data: bytes) -> None:
        self.waiting += data
        while len(self.waiting) >= 5:
            kind, size = self.waiting[0], int.from_bytes(self.waiting[1:5], "little")
            if len(self.waiting) < 5 + size:
                break
            part, self.waiting = self.waiting[5 : 5 + size], self.waiting[5 + size :]
            assert self.process.stdin is not None
            with contextlib.suppress(OSError, ValueError):
                if kind == 0:
                    self.process.stdin.write(part)
                    self.process.stdin.flush()
                elif kind == 3 or kind == 4:
                    self.process.stdin.close()

    def end(self) -> None:
        """The other side is gone: adbd hangs the shell up."""
        self.gone = True
        self.room.set()
        self.device.shells.pop(self.local, None)
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGHUP)


def main(port: int, features: str) -> None:
    with socket.create_server(("127.0.0.1", port)) as listener:
        print("ready", flush=True)
        while True:
            link, _ = listener.accept()
            device = Device(link, features.encode())
            threading.Thread(target=device.serve, daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
