"""Why an ssh connection was not made, in words, with what to do about it."""

from __future__ import annotations

import contextlib
import socket
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from edgeopt.core.errors import BoardUnreachable
from edgeopt.devices.transports.address import Address
from edgeopt.devices.transports.stream import printable


@dataclass(frozen=True, slots=True)
class Presented:
    """The key of a host that is not among the known ones."""

    host: str
    addr: str
    port: int
    key: Any


class Witness(asyncssh.SSHClient):
    """Remembers the host key that was not trusted."""

    presented: Presented | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: Any) -> bool:
        """Asked about keys that are not known: never accepted, only remembered."""
        self.presented = Presented(host, addr, port, key)
        return False


def explain(
    error: BaseException, witness: Witness, address: Address, name: str
) -> BoardUnreachable:
    """The error of a connection that was not made."""
    what, hint = _reason(error, witness, address)
    return BoardUnreachable(what, where=name, hint=hint)


def _reason(error: BaseException, witness: Witness, address: Address) -> tuple[str, str]:
    text = printable(str(error).strip().splitlines()[0] if str(error).strip() else "")[:300]
    target = f"-p {address.port} " if address.port else ""
    login = f"{address.user}@{address.host}" if address.user else address.host
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        if witness.presented is None:
            return f"the host key cannot be trusted: {text}", "see ~/.ssh/known_hosts"
        return _unknown_key(witness.presented)
    if isinstance(error, asyncssh.PermissionDenied):
        return (
            f"no permission to log in: {text}",
            f"put your key on the board (`ssh-copy-id {target}{login}`), or load it with "
            "`ssh-add`; passwords are not asked for",
        )
    if isinstance(error, asyncssh.KeyImportError | asyncssh.KeyEncryptionError):
        return f"a private key cannot be used: {text}", "load it into your agent with `ssh-add`"
    if isinstance(error, asyncssh.ConfigParseError):
        return f"your ssh configuration has a mistake: {text}", "correct ~/.ssh/config"
    if isinstance(error, socket.gaierror):
        return f"no host of this name: {address.host}", "check the name, or use the address"
    if isinstance(error, ConnectionRefusedError):
        return (
            "the connection was refused",
            "is sshd running there (`sudo systemctl enable --now ssh`), on this port?",
        )
    if isinstance(error, TimeoutError | FutureTimeoutError | asyncssh.ConnectionLost):
        return (
            f"no answer: {text}" if text else "no answer in time",
            "is the board on, the network up, and this an ssh port?",
        )
    if isinstance(error, asyncssh.Error):
        return f"the connection failed: {text}", f"see what `ssh -v {target}{login}` says"
    if isinstance(error, OSError) and error.strerror:
        return f"no connection: {error.strerror}", "is the board on, and the network up?"
    return f"no connection: {text}", f"see what `ssh -v {target}{login}` says"


def _unknown_key(found: Presented) -> tuple[str, str]:
    fingerprint = f"{found.key.get_algorithm()} {found.key.get_fingerprint()}"
    spelled = found.host if found.port == 22 else f"[{found.host}]:{found.port}"
    port = f"-p {found.port} " if found.port != 22 else ""
    if _other_keys(found):
        return (
            f"the host key has changed: it is now {fingerprint}",
            "somebody may be in between. Only if the board was installed anew: "
            f"`ssh-keygen -R '{spelled}'`, then connect with ssh and compare the key",
        )
    kind = found.key.get_algorithm().removeprefix("ssh-").split("-")[0]
    return (
        f"the host key is unknown: {fingerprint}",
        "compare it on the board (`ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub`), then add it: "
        f"`ssh-keyscan {port}-t {kind} {found.host} >> ~/.ssh/known_hosts`",
    )


def _other_keys(found: Presented) -> bool:
    """Whether another key of the host is known."""
    with contextlib.suppress(OSError, ValueError):
        known = Path("~/.ssh/known_hosts").expanduser()
        return bool(asyncssh.match_known_hosts(str(known), found.host, found.addr, found.port)[0])
    return False
