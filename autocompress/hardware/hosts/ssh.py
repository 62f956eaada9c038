"""A host over SSH: the agent runs there detached from the link, so that a lost link costs a pause and no run."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import getpass
import hashlib
import json
import logging
import os
import secrets
import shlex
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import asyncssh

from autocompress.hardware.hosts.address import Address
from autocompress.hardware.hosts.agent_file import agent_file
from autocompress.hardware.hosts.jobs import AgentJob, AgentReport, Death, read_report
from autocompress.hardware.hosts.link import FullError, Home, Link, LinkError, LinkSettings, RefusedLinkError, open_link

PYTHON = "python3"
"""The interpreter of a host where a profile names none."""
FAREWELL_SECONDS = 5.0
"""So long an interrupted client takes to end its job; where that fails the host does by itself."""
LOOK_SECONDS = 10.0
"""A host that does not answer is tried again for so long where one only looks at it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SshHost:
    """A machine that is reached over SSH; it needs sshd with SFTP and Python 3.6, neither root nor pip.

    Attributes:
        address: how it is reached.
        settings: time-outs.
        owner: who uses it, for others who wait for it.
    """

    address: Address
    settings: LinkSettings = field(default_factory=LinkSettings)
    owner: str = ""

    @property
    def name(self) -> str:
        """``user@board:port``."""
        return self.address.name

    def impatient(self) -> SshHost:
        """The same host, of which it is known that it may be away: others need not wait as long to see it."""
        return replace(self, settings=replace(self.settings, patience=min(LOOK_SECONDS, self.settings.patience)))

    def run(self, job: AgentJob) -> AgentReport:
        """Run the agent there once and wait for it (see `Host.run`).

        A lost link is taken up again, and a job that was lost with the host begun anew; where neither helps, the
        outcome is ``lost`` and the message says what to do. What is out of memory is tried a second time: other
        programs share a board's memory.
        """
        return asyncio.run(_Run(self, job).report())


class _Run:
    """One job on its way."""

    def __init__(self, host: SshHost, job: AgentJob) -> None:
        self.host = host
        self.job = job
        self.begun = time.monotonic()
        self.settings = host.settings
        looks = any(job.request.get(name) for name in ("probe", "state"))
        self.patience = (host.impatient() if looks else host).settings.patience
        self.digests = {name: file_digest(path) for name, path in job.inputs.items()}
        self.identifier = _identifier()
        self.phases = ""
        self.ended = 0  # jobs that ended without an answer
        self.confirming = False
        self.reached = False
        self.answer: AgentReport | None = None

    async def report(self) -> AgentReport:
        settings = self.settings
        pause, losses = settings.pause, 0
        since: float | None = None
        while True:
            try:
                async with open_link(self.host.address, settings) as link:
                    self.reached, pause = True, settings.pause
                    report = await self._over(link)
                if report is not None:
                    return report
                since = None
                continue
            except RefusedLinkError as error:
                return self._lost(str(error))
            except LinkError as error:
                if self.answer is not None:  # only the tidying failed; the host does that by itself later
                    return self.answer
                now = time.monotonic()
                if since is None or (self.reached and not isinstance(error, FullError)):
                    since = now
                losses += self.reached
                self.reached = False
                if now - since + pause > self.patience or losses > settings.losses:
                    return self._lost(str(error))
                log.warning("%s: %s; trying again", self.host.name, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, settings.longest_pause)

    async def _over(self, link: Link) -> AgentReport | None:
        """The job from its files to its end; None where it is to be begun anew."""
        home = await link.home()
        folder = f"{home.folder}/jobs/{self.identifier}"
        try:
            code, _, _ = await link.run(f"test -e {shlex.quote(folder)}/started")
            if code:
                await self._begin(link, home, folder)
            told = await link.wait(self._command("wait", home), self.settings.heartbeat)
            if told is None:
                raise LinkError("the link was lost")
            outcome = json.loads(told)
            self.phases = outcome["phases"]
            end = outcome["end"]
            if end is None or end.get("stopped") or end.get("abandoned"):
                return await self._anew(link, home)
            if _full(end, outcome):
                await self._finish(link, home)
                self.identifier = _identifier()
                await link.check_room(home, 2**20)  # tells how much is free
                raise FullError("no space left on its disk; free some")
            report = await self._read(link, folder, outcome)
        except asyncio.CancelledError:  # Ctrl-C: nothing is left running there
            with contextlib.suppress(LinkError, asyncssh.Error, OSError, asyncio.TimeoutError):
                await asyncio.wait_for(self._finish(link, home), FAREWELL_SECONDS)
            raise
        except ValueError as error:
            raise LinkError(f"it answered with something else than JSON: {error}") from error
        if report.outcome != "out_of_memory" or self.confirming:
            self.answer = report
        await self._finish(link, home)
        if self.answer is None:
            self.confirming = True
            self.identifier = _identifier()
        return self.answer

    async def _begin(self, link: Link, home: Home, folder: str) -> None:
        """Send what is missing there and start the job."""
        agent = await link.send(agent_file(), file_digest(agent_file()), home)
        inputs = {name: await link.send(path, self.digests[name], home) for name, path in self.job.inputs.items()}
        job = {
            "request": dict(self.job.request),
            "inputs": inputs,
            "outputs": list(self.job.outputs),
            "python": self.job.python or PYTHON,
            "agent": agent,
            "owner": self.host.owner or f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}",
            "timeout_seconds": self.job.timeout_seconds,
            "build_seconds": self.job.build_seconds,
            "lease_seconds": self.settings.lease,
            "grace_seconds": self.settings.grace,
            "memory_bytes": self.job.memory_bytes,
        }
        await link.run(f"mkdir -p {shlex.quote(folder)}")
        await link.write(f"{folder}/job.json", json.dumps(job).encode(), home)
        code, _, errors = await link.run(f"{self._command('start', home)} && touch {shlex.quote(folder)}/started")
        if code == 127:
            raise RefusedLinkError(f"it has no {PYTHON}; install Python 3.6 or newer there")
        if code:
            raise LinkError(f"the agent did not start: {(errors.strip() or f'exit code {code}').splitlines()[-1]}")

    async def _read(self, link: Link, folder: str, outcome: Mapping[str, Any]) -> AgentReport:
        end, answer = outcome["end"], outcome["answer"]
        if end.get("busy") is not None:
            return self._lost(f"it is still used by {_holder(end['busy'])}; try again later")
        if end.get("error"):
            raise LinkError(f"the run there ended: {end['error']}")
        if end.get("unstarted"):
            return AgentReport("unsupported", f"{self._engine}: {end['unstarted']}", {}, "starting", self._seconds)
        death = Death(end.get("code"), bool(end.get("timed_out")), bool(end.get("over_memory")))
        if answer is not None and answer.get("outcome") == "ok" and not (death.timed_out or death.over_memory):
            for name, place in self.job.outputs.items():
                await link.fetch(f"{folder}/{name}", int(outcome["sizes"].get(name, -1)), place)
        return read_report(self.job, answer, death, phases=self.phases, log=outcome["log"], seconds=self._seconds)

    async def _anew(self, link: Link, home: Home) -> AgentReport | None:
        """A job that ended without an answer, as by a reboot: begin it again, but not for ever."""
        await self._finish(link, home)
        self.identifier = _identifier()
        await link.check_room(home, 2**20)  # the supervisor could not even say how it ended
        self.ended += 1
        if self.ended >= self.settings.attempts:
            return self._lost(f"what ran there was ended {self.ended} times by somebody else, or by a reboot")
        log.warning("%s: the run there was lost, it is begun again", self.host.name)
        return None

    async def _finish(self, link: Link, home: Home) -> None:
        await link.run(self._command("finish", home))

    def _command(self, verb: str, home: Home) -> str:
        parts = (
            PYTHON,
            f"{home.folder}/files/{file_digest(agent_file())}",
            verb,
            f"{home.folder}/jobs/{self.identifier}",
        )
        return " ".join(map(shlex.quote, parts))

    def _lost(self, text: str) -> AgentReport:
        phase = next((line.partition(" ")[2] for line in reversed(self.phases.split("\n")) if " " in line), "starting")
        message = f"{self._engine}: {self.host.name}: {text}"
        return AgentReport("lost", message, {}, phase, self._seconds)

    @property
    def _engine(self) -> str:
        return str(self.job.request.get("engine", "agent"))

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self.begun


def _full(end: Mapping[str, Any], outcome: Mapping[str, Any]) -> bool:
    """Whether a run failed for want of room on the host's disk."""
    answer = outcome["answer"] or {}
    if answer.get("outcome") == "ok":
        return False
    sign = "No space left on device"
    return any(sign in str(each) for each in (end.get("error"), answer.get("message"), outcome["log"]))


def _identifier() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(6)}"


def _holder(values: Mapping[str, Any]) -> str:
    # Anybody on the host may have written it.
    owner = "".join(each for each in str(values.get("owner") or "") if each.isprintable())[:80] or "somebody"
    until = values.get("until")
    if not isinstance(until, (int, float)):
        return owner
    return f"{owner} (until {time.strftime('%H:%M', time.localtime(until))} at most)"


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, remembered as long as it does not change."""
    resolved = path.resolve()
    stat = resolved.stat()
    return _digest_of(str(resolved), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=256)  # a model is sent for several runs
def _digest_of(path: str, _changed: int, _size: int) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
