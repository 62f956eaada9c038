"""Several hosts of one kind that share the work of all processes on this machine."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from autocompress.hardware.hosts.jobs import AgentJob, AgentReport
from autocompress.hardware.hosts.ssh import SshHost
from autocompress.paths import cache_dir, make_dir

TICK_SECONDS = 0.2
AWAY_SECONDS = 60.0
"""For so long a host that could not be reached is tried after all others, and not with patience."""


@dataclass(frozen=True)
class HostPool:
    """Boards of one kind; each job goes to one that is free.

    Whoever wants a board on this machine waits here, in a process that sleeps; only one at a time goes on to the board
    itself, where its lease keeps other machines apart.

    Attributes:
        hosts: at least one.
    """

    hosts: tuple[SshHost, ...]

    @property
    def name(self) -> str:
        """The hosts' names."""
        return ", ".join(host.name for host in self.hosts)

    def run(self, job: AgentJob) -> AgentReport:
        """Run the agent on the first board that is free (see `Host.run`); on another one where it is out of reach."""
        left = list(self.hosts)
        while True:
            with _free(left) as host:
                report = (host.impatient() if _away(host) else host).run(job)
                _mark(host, away=report.outcome == "lost")
            left.remove(host)
            if report.outcome != "lost" or not left:
                return report


@contextmanager
def _free(hosts: Sequence[SshHost]) -> Iterator[SshHost]:
    """One of the hosts, for this process alone on this machine; those that were out of reach last."""
    handles = {host: os.open(_file(host, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for host in hosts}
    try:
        while True:
            for host in sorted(hosts, key=_away):
                with suppress(BlockingIOError):
                    fcntl.flock(handles[host], fcntl.LOCK_EX | fcntl.LOCK_NB)
                    yield host
                    return
            if len(hosts) == 1:
                fcntl.flock(handles[hosts[0]], fcntl.LOCK_EX)
                yield hosts[0]
                return
            time.sleep(TICK_SECONDS)
    finally:
        for handle in handles.values():
            # Unlocked explicitly: a child forked meanwhile has a copy of the handle, and closing ours would not unlock.
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)


def _away(host: SshHost) -> bool:
    try:
        return time.time() - Path(_file(host, "away")).stat().st_mtime < AWAY_SECONDS
    except OSError:
        return False


def _mark(host: SshHost, *, away: bool) -> None:
    path = Path(_file(host, "away"))
    if away:
        path.touch()
    else:
        path.unlink(missing_ok=True)


def _file(host: SshHost, ending: str) -> str:
    folder = make_dir(cache_dir() / "boards")
    return str(folder / f"{hashlib.sha256(host.name.encode()).hexdigest()[:16]}.{ending}")
