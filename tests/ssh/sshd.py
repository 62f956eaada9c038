"""A real OpenSSH server on 127.0.0.1, which plays a board: its own home folder, PATH, host key and processes."""

from __future__ import annotations

import functools
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MARK = "AUTOCOMPRESS_TEST_BOARD"
"""Variable in the environment of everything that runs on a board; its value is the board's."""
_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/sbin", "/usr/lib/openssh", "/usr/libexec/openssh")


@dataclass(frozen=True)
class Process:
    """A program that runs on a board."""

    pid: int
    command: str


def unavailable() -> str | None:
    """Why no server can be started here, in one line; None where it can."""
    if program("sshd") is None:
        return "no sshd here: install openssh-server (apt-get install openssh-server)"
    if program("ssh-keygen") is None:
        return "no ssh-keygen here: install openssh-client"
    version = sshd_version()
    if version < (7, 8):
        return f"sshd {'.'.join(map(str, version))} knows no SetEnv; 7.8 or newer is needed"
    with suppress(OSError):
        for line in Path("/etc/shadow").read_text().splitlines():
            name, secret = line.split(":")[:2]
            if name == getpass.getuser() and secret.startswith("!"):
                return f"the account {name} is locked, so sshd lets nobody in; see passwd -u"
    return None


def program(name: str) -> str | None:
    """Path of a program that may not be on the PATH of a normal user."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(_FOLDERS))


@functools.cache
def sshd_version() -> tuple[int, int]:
    """Of the server that is installed; (0, 0) where it does not tell."""
    # Before 9.2 there is no -V, but the complaint about it begins with the version.
    said = subprocess.run([str(program("sshd")), "-V"], capture_output=True, text=True, check=False)
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", said.stdout + said.stderr)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


class Sshd:
    """One server for one user: whoever runs the tests, root or not.

    Its sessions have ``home`` as their home, working and SFTP folder and the given ``PATH``. They see nothing else of
    the environment of the tests. Every process of theirs carries `MARK`, also one that was detached, so that
    `processes` can find it and `stop` can end it, as a reboot does.

    Args:
        folder: for keys, configuration and the log; made where it is not there.
        home: home folder of the sessions; ``folder/home`` where it is not given.
        path: ``PATH`` of the sessions.
        sftp: whether it has SFTP.
        lines: further lines for ``sshd_config``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        home: Path | None = None,
        path: str = "/usr/bin:/bin",
        sftp: bool = True,
        lines: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self.home = home or folder / "home"
        self.path = path
        self.sftp = sftp
        self.user = getpass.getuser()
        self.port = free_port()
        self.key = folder / "user_key"
        self.known_hosts = folder / "known_hosts"
        self.log = folder / "log"
        self.temporary = folder / "tmp"  # else all boards would share /tmp, and what is locked there
        self._lines = lines
        self._mark = uuid.uuid4().hex
        self._server: subprocess.Popen[bytes] | None = None
        self._restart: threading.Thread | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.home.mkdir(parents=True, exist_ok=True)
        self.temporary.mkdir(exist_ok=True)
        # Sessions begin in the home folder of the system's user database; the shell reads one of these first.
        for name in (".bashrc", ".zshenv"):
            (self.home / name).write_text('cd "$HOME"\n')
        if not self.key.exists():
            keygen(self.key)
        self.new_host_key()
        (folder / "authorized_keys").write_text(self.key.with_suffix(".pub").read_text())

    @property
    def address(self) -> str:
        """As a user would type it, ``user@127.0.0.1:port``."""
        return f"{self.user}@127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process; everything on the board descends from it."""
        if self._server is None:
            raise RuntimeError("the server is off")
        return self._server.pid

    @property
    def running(self) -> bool:
        """Whether it takes connections."""
        return self._server is not None and self._server.poll() is None

    def new_host_key(self) -> None:
        """Another host key, as after a reinstallation; `known_hosts` then holds the new one. Needs a restart."""
        for path in (self.folder / "host_key", self.folder / "host_key.pub"):
            path.unlink(missing_ok=True)
        keygen(self.folder / "host_key")
        self.known_hosts.write_text(self.known_hosts_line())

    def known_hosts_line(self, port: int | None = None) -> str:
        """What ``known_hosts`` must have to trust it, at its own port or another that leads to it."""
        kind, key = (self.folder / "host_key.pub").read_text().split()[:2]
        return f"[127.0.0.1]:{port or self.port} {kind} {key}\n"

    def ssh_config(self, alias: str, *, port: int | None = None, jump: str | None = None) -> str:
        """A block for ``~/.ssh/config``."""
        lines = [f"Host {alias}", "HostName 127.0.0.1", f"Port {port or self.port}", f"User {self.user}"]
        lines += [f"IdentityFile {self.key}", "IdentitiesOnly yes"]
        lines += [f"ProxyJump {jump}"] if jump else []
        return "\n  ".join(lines) + "\n"

    def start(self) -> None:
        """Take connections, on the same port as before; returns once it does."""
        if os.geteuid() == 0:
            # Where its privileges are separated; Debian's service makes it, and nobody started that one.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        config = self.folder / "sshd_config"
        config.write_text("\n".join(self._config()) + "\n")
        command = [str(program("sshd")), "-D", "-f", str(config), "-E", str(self.log)]
        # No environment of ours: what a session has is in the configuration.
        self._server = subprocess.Popen(
            command, env={"PATH": "/usr/bin:/bin"}, stdin=subprocess.DEVNULL, start_new_session=True
        )
        end = time.monotonic() + 10
        while not answers(self.port):
            if self._server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"sshd did not start: {self.log.read_text() if self.log.exists() else 'no log'}")
            time.sleep(0.02)

    def kill_sshd(self) -> None:
        """SIGKILL the server and its sessions. Programs that they started live on, as with a killed sshd."""
        server, self._server = self._server, None
        if server is None:
            return
        family = _descendants({server.pid})
        _kill([server.pid, *(each for each in family if _is_sshd(each))])
        server.wait()

    def drop_sessions(self) -> None:
        """SIGKILL the sessions alone: connections end, the server takes new ones, programs live on."""
        if self._server is not None:
            _kill([each for each in _descendants({self._server.pid}) if _is_sshd(each)])

    def stop(self) -> None:
        """Off, as when power is cut: server, sessions and all that ever was started in them, detached or not."""
        self.join()
        self._off()

    def reboot(self, seconds: float) -> None:
        """Off now, on again after so many seconds; does not wait for it, see `join`."""
        self._off()
        self._restart = threading.Thread(target=lambda: (time.sleep(seconds), self.start()), daemon=True)
        self._restart.start()

    def join(self) -> None:
        """Wait for the end of a `reboot`."""
        if self._restart is not None:
            self._restart.join()
            self._restart = None

    def processes(self) -> list[Process]:
        """What runs on the board, without the SSH server's own processes."""
        marked = [pid for pid in _pids() if f"{MARK}={self._mark}".encode() in _environ(pid)]
        family = {*marked, *_descendants(set(marked))}
        return [Process(pid, _command(pid)) for pid in sorted(family) if not _is_sshd(pid)]

    def wait_idle(self, seconds: float = 10.0) -> list[Process]:
        """What still runs after that time; returns at once when nothing does."""
        end = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        return left

    def text(self) -> str:
        """What the server wrote into its log."""
        return self.log.read_text() if self.log.exists() else ""

    def __enter__(self) -> Sshd:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _off(self) -> None:
        self.kill_sshd()
        # Something may be starting just now.
        while left := self.processes():
            _kill([each.pid for each in left])
            time.sleep(0.01)

    def _sftp(self) -> list[str]:
        if not self.sftp:
            return []
        # Its arguments cannot be quoted; a folder with a blank is not where it begins then.
        return [f"Subsystem sftp internal-sftp{'' if ' ' in str(self.home) else f' -d {self.home}'}"]

    def _config(self) -> list[str]:
        return [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder / 'host_key'}",
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}",
            "PidFile none",
            "UsePAM no",
            "UseDNS no",
            "StrictModes no",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "PrintMotd no",
            "LogLevel VERBOSE",
            *self._sftp(),
            f'SetEnv "HOME={self.home}" "PATH={self.path}" "TMPDIR={self.temporary}" {MARK}={self._mark}',
            # Since 9.8 a server shuts out who fails to log in, which tests do on purpose.
            *(["PerSourcePenalties no"] if sshd_version() >= (9, 8) else []),
            *self._lines,
        ]


def keygen(path: Path) -> None:
    """Write a key without a passphrase to ``path`` and ``path.pub``."""
    command = [str(program("ssh-keygen")), "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on, below those that the kernel gives to outgoing connections."""
    # One of the kernel's choice could be taken by a connection while the board is rebooting.
    for _ in range(200):
        port = 20000 + int.from_bytes(os.urandom(2), "little") % 10000
        with socket.socket() as each:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                each.bind(("127.0.0.1", port))
                return port
    raise RuntimeError("no free port between 20000 and 30000")


def answers(port: int) -> bool:
    """Whether an SSH server speaks at that port of 127.0.0.1."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as each:
        return each.recv(4) == b"SSH-"
    return False


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _is_sshd(pid: int) -> bool:
    try:
        # ``sshd-session`` since 9.8.
        return Path(f"/proc/{pid}/comm").read_text().strip() in ("sshd", "sshd-session", "sshd-auth", "sftp-server")
    except OSError:
        return True


def _descendants(roots: set[int]) -> list[int]:
    """Processes below those, without zombies."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        with suppress(OSError, IndexError):
            state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(pid)
    found, left = [], list(roots)
    while left:
        below = [pid for pid in children.get(left.pop(), []) if pid not in roots]
        found += below
        left += below
    return found
