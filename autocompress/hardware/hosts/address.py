"""How a host is reached over SSH."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autocompress.errors import TargetError

if TYPE_CHECKING:
    from autocompress.specs.schemas import HostSpec

_ADDRESS = re.compile(
    r"(?:(?P<user>[^@\s]+)@)?(?:\[(?P<six>[0-9A-Fa-f:%.\w]+)\]|(?P<name>[^@:\s\[\]]+))(?::(?P<port>\d+))?"
)


@dataclass(frozen=True)
class Address:
    """One host; what is None is left to the SSH configuration.

    Attributes:
        host: name, IP address, or an alias of ``~/.ssh/config``.
        user: on that host.
        port: 1 to 65535.
        key_file: private key.
        jump_host: ``[user@]host[:port]`` to go through.
    """

    host: str
    user: str | None = None
    port: int | None = None
    key_file: str | None = None
    jump_host: str | None = None

    @property
    def name(self) -> str:
        """``user@host:port`` with what is known of it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")

    @property
    def ssh_command(self) -> str:
        """What a person types to log in there."""
        port = f"-p {self.port} " if self.port else ""
        jump = f"-J {self.jump_host} " if self.jump_host else ""
        key = f"-i {self.key_file} " if self.key_file else ""
        return f"ssh {port}{jump}{key}" + (f"{self.user}@" if self.user else "") + self.host


def parse_address(text: str, spec: HostSpec | None = None) -> Address:
    """Read ``[user@]host[:port]``; an IPv6 address with a port stands in brackets.

    Args:
        text: the address.
        spec: the host of a profile, whose user, port, key and jump host hold where the text names none.

    Raises:
        TargetError: it is no address.
    """
    found = _ADDRESS.fullmatch(text.strip())
    port = int(found["port"]) if found is not None and found["port"] else None
    host = None if found is None else found["six"] or found["name"]
    # A name that begins with a dash would be an option of ssh.
    if found is None or host is None or host.startswith("-") or (port is not None and not 1 <= port <= 65535):
        raise TargetError(f"{text!r} is no address of a host; write USER@HOST or USER@HOST:PORT")
    return Address(
        host,
        found["user"] or (spec.user if spec else None),
        port or (spec.port if spec else None),
        spec.key_file if spec else None,
        spec.jump_host if spec else None,
    )


def addresses(spec: HostSpec) -> tuple[Address, ...]:
    """The hosts of a profile.

    Raises:
        TargetError: it names none, one twice, or something that is no address.
    """
    if not spec.address:
        raise TargetError("its host has no address; name the board with --host USER@BOARD, or in the profile")
    found = tuple(parse_address(each, spec) for each in spec.address)
    if len(set(found)) < len(found):
        raise TargetError(f"one host is named twice: {', '.join(each.name for each in found)}")
    return found
