"""Where a board is: the transports by name, and what a user types as ``--host`` and ``--port``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgeopt.core.errors import InputError

#: Name -> where it is. Other packages add theirs with entry points of `GROUP`.
TRANSPORTS = {
    "local": "edgeopt.devices.transports.local:LocalLink",
    "ssh": "edgeopt.devices.transports.ssh:Ssh",
    "adb": "edgeopt.devices.transports.adb:Adb",
    "tvm_rpc": "edgeopt.devices.transports.tvm_rpc:TvmRpc",
    "qemu_user": "edgeopt.devices.transports.qemu_user:QemuUserLink",
    "qemu_system": "edgeopt.devices.transports.qemu_system:QemuSystemLink",
    "serial": "edgeopt.devices.transports.serial:SerialLink",
}
GROUP = "edgeopt.transports"

#: A host may not start with '-', which programs would take for an option (CVE-2017-1000117), and
#: holds nothing that a shell or a terminal would interpret.
HOST = re.compile(
    r"(?:[\w.+][\w.+-]{0,63}@)?"
    r"(?:[A-Za-z0-9_][\w.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}(?:%\w{1,15})?\])"
    r"(?::\d{1,5})?(?:/[A-Za-z0-9_][\w.-]{0,63})?",
    re.ASCII,
)
PORT = re.compile(r"[A-Za-z0-9/._:+-]{1,128}")
MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Address:
    """A host: ``[user@]host[:port][/key]``; `str` and `Address.parse` are inverses.

    Attributes:
        host: a name, an IPv4 or an IPv6 address (without brackets).
        user: to log in as; empty leaves it to the transport's own configuration.
        port: 0 leaves it to the transport.
        key: what follows a slash: the kind of device that a tracker is asked for.
    """

    host: str
    user: str = ""
    port: int = 0
    key: str = ""

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port else ""
        return f"{user}{host}{port}" + (f"/{self.key}" if self.key else "")

    @classmethod
    def parse(cls, text: str, *, where: str = "--host") -> Address:
        """Read what a user typed.

        Raises:
            InputError: text of another form, a host that starts with '-', a port out of range.
        """
        if text.startswith("-") or "@-" in text:
            raise InputError(
                f"a host cannot start with '-': {text[:60]!r}", where=where,
                hint="programs would take it for an option",
            )  # fmt: skip
        if not HOST.fullmatch(text):
            raise InputError(
                f"{text[:60]!r} is not a host", where=where,
                hint="write user@host or user@host:port, an IPv6 address as user@[::1]:22",
            )  # fmt: skip
        rest, _, key = text.partition("/")
        user, _, rest = rest.rpartition("@")
        host, colon, port = rest.rpartition(":")
        if not colon or rest.endswith("]"):
            host, port = rest, ""
        if port and not 1 <= int(port) <= MAX_PORT:
            raise InputError(
                f"{port} is not a port", where=where, hint=f"ports are 1 to {MAX_PORT}"
            )
        return cls(host.strip("[]"), user, int(port or 0), key)
