"""A link to a host over SSH: commands, files that are sent once, and errors in words that help.

Host keys are always checked against the known hosts; nothing here ever accepts one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import shlex
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from autocompress.hardware.hosts.address import Address, parse_address

DEFAULT_PORT = 22
WINDOW_BYTES = 2**18
"""Sent before an answer is waited for: so little that a slow link still answers within the keep-alive's time."""
_MARK = "autocompress-begins"
COMMAND_SECONDS = 60.0
"""For a command that only looks or moves something."""


log = logging.getLogger(__name__)


class LinkError(Exception):
    """The host cannot be reached or used now; another try may succeed."""


class RefusedLinkError(LinkError):
    """The host cannot be reached until a person does something about it."""


class FullError(LinkError):
    """There is no room on the host's disk; somebody may make some."""


@dataclass(frozen=True)
class LinkSettings:
    """Time-outs of a link, in seconds.

    Attributes:
        connect: for the TCP connection, and again for the login.
        keepalive: without a word from the host it is asked after so long; after ``keepalive_count`` questions without
            an answer the link counts as lost.
        keepalive_count: see above.
        patience: a host that was lost is tried again for so long, with growing pauses.
        pause, longest_pause: before the second try, and at most.
        heartbeat: so often the host is told that we still wait.
        grace: after so long without a heartbeat it ends what runs there.
        lease: to wait for others who use it.
        attempts: so often a job is begun that is lost with its host, as by a reboot.
        losses: so many lost links end a job, though the host was reached in between.
    """

    connect: float = 15.0
    keepalive: float = 5.0
    keepalive_count: int = 4
    patience: float = 300.0
    pause: float = 1.0
    longest_pause: float = 15.0
    heartbeat: float = 10.0
    grace: float = 90.0
    lease: float = 3600.0
    attempts: int = 3
    losses: int = 20


@dataclass(frozen=True)
class Home:
    """Our folder on a host.

    Attributes:
        folder: absolute path.
    """

    folder: str


class Link:
    """An open connection to a host; made by `open_link`."""

    def __init__(self, connection: asyncssh.SSHClientConnection, sftp: asyncssh.SFTPClient, address: Address) -> None:
        self.connection = connection
        self.sftp = sftp
        self.address = address

    async def run(self, command: str, *, seconds: float = COMMAND_SECONDS) -> tuple[int, str, str]:
        """Exit code, output and errors of a shell command.

        Raises:
            LinkError: the link was lost, or the command took too long.
        """
        # What the shell's own files print, such as a greeting, stands before the mark.
        marked = f"echo {_MARK}; echo {_MARK} >&2; {command}"
        try:
            done = await self.connection.run(marked, stdin=asyncssh.DEVNULL, check=False, timeout=seconds)
        except asyncssh.TimeoutError as error:
            raise LinkError(f"no answer to {command.split(maxsplit=1)[0]} within {seconds:g} s") from error
        if done.exit_status is None and done.exit_signal is None:
            # No exception comes when the link goes while a command runs (asyncssh 2.24).
            raise LinkError("the link was lost")
        told, errors = (str(text or "").rpartition(f"{_MARK}\n")[2] for text in (done.stdout, done.stderr))
        return done.returncode or 0, told, errors

    async def home(self) -> Home:
        """Our folder there, made where it is missing."""
        script = (
            'd="${AUTOCOMPRESS_CACHE:-$HOME/.cache/autocompress}"; umask 077; '
            'mkdir -p "$d/files" "$d/jobs" && cd "$d" && pwd -P'
        )
        code, told, errors = await self.run(f"sh -c {shlex.quote(script)}")
        folder = told.split("\n", maxsplit=1)[0]
        if code or not folder.startswith("/"):
            if "No space left" in errors or "quota" in errors:
                raise FullError("no space left on its disk; free some (see df -h there)")
            raise RefusedLinkError(f"cannot make a folder there: {_last_line(errors) or f'exit code {code}'}")
        return Home(folder)

    async def send(self, path: Path, digest: str, home: Home) -> str:
        """Have a file on the host under its digest, and return its path there; what is there already is not sent.

        An upload that broke goes on where it broke.

        Raises:
            FullError: no space left there.
            LinkError: the file arrived damaged.
        """
        there = f"{home.folder}/files/{digest}"
        size = path.stat().st_size
        if await self._size(there) == size:
            return there
        part = f"{there}.{_client()}.part"
        sent = min(await self._size(part) or 0, size)
        # The last window may have holes: its blocks are written in any order.
        sent = max(sent - 1, 0) // WINDOW_BYTES * WINDOW_BYTES
        await self.check_room(home, size - sent)
        try:
            async with self.sftp.open(part, "r+b" if sent else "wb") as remote:
                with path.open("rb") as local:
                    local.seek(sent)
                    while block := local.read(WINDOW_BYTES):
                        await remote.write(block, sent)
                        sent += len(block)
        except asyncssh.SFTPFailure as error:
            # OpenSSH says no more than "Failure" when the disk is full.
            await self.check_room(home, size - sent, at_least=WINDOW_BYTES)
            raise LinkError(f"cannot write {part}: {error.reason}") from error
        check = f"printf '%s  %s\\n' {digest} {shlex.quote(part)} | sha256sum -c --status"
        code, _, _ = await self.run(f"{check} && mv -f {shlex.quote(part)} {shlex.quote(there)}", seconds=600.0)
        if code:
            await self.run(f"rm -f {shlex.quote(part)}")
            raise LinkError(f"{path.name} arrived damaged")
        return there

    async def write(self, path: str, content: bytes, home: Home) -> None:
        """Write a small file."""
        try:
            async with self.sftp.open(path, "wb") as remote:
                await remote.write(content)
        except asyncssh.SFTPFailure as error:
            await self.check_room(home, len(content), at_least=WINDOW_BYTES)
            raise LinkError(f"cannot write {path}: {error.reason}") from error

    async def fetch(self, path: str, size: int, to: Path) -> None:
        """Copy a file from the host."""
        part = to.with_name(f"{to.name}.part")
        await self.sftp.get(path, str(part))
        if part.stat().st_size != size:
            raise LinkError(f"{path} is not complete")
        part.replace(to)

    async def wait(self, command: str, heartbeat: float) -> str | None:
        """The last line of a command that may take long and hears from us meanwhile; None where the link was lost."""
        async with self.connection.create_process(command, stderr=asyncssh.DEVNULL) as process:
            beating = asyncio.create_task(_beat(process, heartbeat))
            try:
                done = await process.wait(check=False)
            finally:
                beating.cancel()
                with contextlib.suppress(asyncio.CancelledError, asyncssh.Error, OSError):
                    await beating
        lines = str(done.stdout or "").strip().split("\n")
        return lines[-1] if done.exit_status == 0 and lines[-1] else None

    async def _size(self, path: str) -> int | None:
        try:
            return (await self.sftp.stat(path)).size
        except asyncssh.SFTPNoSuchFile:
            return None

    async def check_room(self, home: Home, needed: int, *, at_least: int = 0) -> None:
        """Refuse to fill the disk to its end.

        Raises:
            FullError: fewer than ``needed`` bytes are free, or than ``at_least``.
        """
        try:
            found = await self.sftp.statvfs(home.folder)
        except asyncssh.SFTPOpUnsupported:
            return
        free = found.bavail * found.frsize
        if free < max(needed, at_least):
            raise FullError(
                f"no space left on its disk: {free / 2**20:.1f} MiB are free in {home.folder}, "
                f"{needed / 2**20:.1f} MiB are needed; free some"
            )


async def _beat(process: asyncssh.SSHClientProcess[str], seconds: float) -> None:
    while True:
        process.stdin.write("\n")
        await asyncio.sleep(seconds)


@asynccontextmanager
async def open_link(address: Address, settings: LinkSettings) -> AsyncIterator[Link]:
    """Log in on a host.

    Raises:
        RefusedLinkError: its key is not known or changed, no key of ours is accepted, the configuration is wrong.
        LinkError: it does not answer, or the link was lost inside the block.
    """
    options: dict[str, Any] = {
        "connect_timeout": settings.connect,
        "login_timeout": settings.connect,
        "keepalive_interval": settings.keepalive,
        "keepalive_count_max": settings.keepalive_count,
    }
    # Left out and not None: None would overrule ~/.ssh/config.
    options |= {
        name: value
        for name, value in (
            ("port", address.port),
            ("username", address.user),
            ("tunnel", address.jump_host),
        )
        if value is not None
    }
    # Of an upload that dies with its link, asyncssh leaves pieces behind that nobody waits for.
    asyncio.get_running_loop().set_exception_handler(_quietly)
    try:
        _refuse_unchecked(address.host, address)
        options |= _key_options(address)
        # An explicit limit around all of it: a jump host or a black hole may hang where asyncssh has no time-out.
        connection = await asyncio.wait_for(asyncssh.connect(address.host, **options), 3 * settings.connect)
        async with connection, await _sftp(connection, settings) as sftp:
            yield Link(connection, sftp, address)
    except LinkError:
        raise
    except (asyncssh.Error, OSError, asyncio.TimeoutError, ValueError) as error:
        raise _explained(error, address) from error


async def _sftp(connection: asyncssh.SSHClientConnection, settings: LinkSettings) -> asyncssh.SFTPClient:
    """Open SFTP; a server without it says no more than one whose link goes at that moment."""
    try:
        return await asyncio.wait_for(connection.start_sftp_client(), settings.connect)
    except asyncssh.ChannelOpenError as error:
        done = await connection.run("true", stdin=asyncssh.DEVNULL, check=False, timeout=settings.connect)
        if done.exit_status is None:
            raise LinkError("the link was lost") from error
        raise RefusedLinkError(
            "its SSH server has no SFTP; a line 'Subsystem sftp /usr/lib/openssh/sftp-server' in its "
            "/etc/ssh/sshd_config brings it"
        ) from error


def _quietly(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    log.debug("%s", context.get("message"), exc_info=context.get("exception"))


def _explained(error: BaseException, address: Address) -> LinkError:
    """An error of asyncssh or the network in one line that says what to do."""
    text = str(error).strip().split("\n")[0] or type(error).__name__
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return RefusedLinkError(_about_the_key(address))
    if isinstance(error, asyncssh.PermissionDenied):
        copy = f"ssh-copy-id{address.ssh_command.removeprefix('ssh')}"
        return RefusedLinkError(f"it accepts none of our keys; send it yours: {copy}")
    if isinstance(error, (asyncssh.KeyEncryptionError, asyncssh.KeyImportError)) and "assphrase" in text:
        return RefusedLinkError(f"the key has a passphrase; load it first: ssh-add {address.key_file or ''}".strip())
    for kinds, permanent, told in (
        # A ValueError is a key that does not fit its public part, or the like.
        (
            (asyncssh.KeyImportError, asyncssh.ConfigParseError, FileNotFoundError, PermissionError, ValueError),
            True,
            f"key or SSH configuration: {text}",
        ),
        ((socket.gaierror,), False, f"its name {address.host} is not known; check it, or write the IP address"),
        ((asyncssh.SFTPFailure,), False, f"it could not read or write a file: {text}"),
        ((asyncio.TimeoutError, TimeoutError), False, "no answer; is it on, and on this network?"),
        (
            (ConnectionRefusedError,),
            False,
            f"nothing listens on its port {_known_as(address)[1]}; is sshd running there?",
        ),
    ):
        if isinstance(error, kinds):
            return RefusedLinkError(told) if permanent else LinkError(told)
    return LinkError(text)


def _about_the_key(address: Address) -> str:
    """That a host key is not known, or another one than before, and the command that accepts it."""
    name, port = _known_as(address)
    there = "compare it with the board's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there), then accept it"
    if not _known(name, port):
        return f"its host key is not known; {there}: {address.ssh_command}"
    entry = name if port == DEFAULT_PORT else f"[{name}]:{port}"
    remove = f"ssh-keygen -R {shlex.quote(entry)}"
    return (
        f"its host key is another one than before: it was set up anew, or this is another machine; "
        f"{there}: {remove} and then {address.ssh_command}"
    )


def _resolved(host: str, port: int | None = None) -> asyncssh.SSHClientConnectionOptions:
    """What ``~/.ssh/config`` makes of a name."""
    return asyncssh.SSHClientConnectionOptions(config=(), host=host, port=port or (), client_keys=None)


def _refuse_unchecked(host: str, address: Address | None = None) -> None:
    """Refuse a configuration that turns off the check of host keys, here or at a jump host: asyncssh would obey it."""
    resolved = _resolved(host)
    if resolved.known_hosts is None:
        raise RefusedLinkError(
            f"its host key would not be checked: the SSH configuration has UserKnownHostsFile none for {host}; "
            "remove that line"
        )
    jumps = (address.jump_host if address is not None else None) or resolved.tunnel
    for jump in jumps.split(",") if isinstance(jumps, str) else ():
        name = parse_address(jump).host
        if name != host:
            _refuse_unchecked(name)


def _key_options(address: Address) -> dict[str, Any]:
    """The private key that was named; where it has a passphrase, the SSH agent's copy of it."""
    if address.key_file is None:
        return {}
    path = Path(address.key_file).expanduser()
    try:
        asyncssh.read_private_key(path)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        public = path.with_name(f"{path.name}.pub")
        if "assphrase" not in str(error) or not os.environ.get("SSH_AUTH_SOCK") or not public.exists():
            raise
        return {"agent_identities": [str(public)]}
    return {"client_keys": [str(path)]}


def _known_as(address: Address) -> tuple[str, int]:
    """Name and port under which a host's key is kept: an alias of the SSH configuration stands for another name."""
    try:
        options = _resolved(address.host, address.port)
        return str(options.host_key_alias or options.host or address.host), int(options.port)
    except (OSError, ValueError, asyncssh.Error):
        return address.host, address.port or DEFAULT_PORT


def _known(name: str, port: int) -> bool:
    """Whether a key is kept for a host, so far as the usual file tells."""
    try:
        known = asyncssh.read_known_hosts(str(Path("~/.ssh/known_hosts").expanduser()))
    except (OSError, ValueError):
        return False
    # A port of its own is looked up in brackets first, as OpenSSH does.
    return any(any(known.match(name, "", each)[:1]) for each in (port, None))


def _client() -> str:
    """Names this user of this machine, so that uploads of two clients do not get mixed."""
    return hashlib.sha256(f"{socket.gethostname()}/{os.getuid()}".encode()).hexdigest()[:8]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return lines[-1] if lines else ""
