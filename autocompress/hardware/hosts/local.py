"""This machine as a host: the agent in a process group of its own, which never outlives its run."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.hardware.agent.phases import phase_seconds
from autocompress.hardware.agent.system import engine_environment, resident_bytes, session_of
from autocompress.hardware.engines import PROGRAM_ENGINES
from autocompress.hardware.hosts.agent_file import agent_file
from autocompress.hardware.hosts.jobs import AgentJob, AgentReport, Death, read_report

_LOG_BYTES = 2**15


@dataclass(frozen=True)
class LocalHost:
    """This machine."""

    @property
    def name(self) -> str:
        """Always ``local``."""
        return "local"

    def run(self, job: AgentJob) -> AgentReport:
        """Run the agent once and wait for it (see `Host.run`)."""
        with tempfile.TemporaryDirectory(prefix="autocompress-agent-") as scratch:
            return self._run(job, Path(scratch))

    def _run(self, job: AgentJob, folder: Path) -> AgentReport:
        begin = time.monotonic()
        for name, path in job.inputs.items():
            # Linked and not copied: a model may be large, and the agent only reads it.
            (folder / name).symlink_to(path.resolve())
        request = {**job.request, "parent": os.getpid()}
        (folder / "request.json").write_text(json.dumps(request))
        answer_file, phase_file = folder / "answer.json", folder / "answer.json.phases"
        command = [job.python or sys.executable, str(agent_file()), "request.json", "answer.json"]
        with (folder / "stderr").open("wb") as errors:
            try:
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=engine_environment(dict(job.request)),
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C at the terminal then reaches us alone, and we end the agent with all that it started.
                    start_new_session=True,
                )
            except OSError as error:
                engine = job.request.get("engine", "agent")
                text = f"{engine}: cannot start the interpreter {command[0]}: {error.strerror}"
                return AgentReport("unsupported", text, {}, "starting", time.monotonic() - begin)
        try:
            death = _watch(process, job, phase_file)
        finally:
            _end(process)
        answer = _read_answer(answer_file)
        if answer is not None and answer["outcome"] == "ok" and not (death.timed_out or death.over_memory):
            for name, place in job.outputs.items():
                shutil.move(folder / name, place)
        return read_report(
            job,
            answer,
            death,
            phases=_text(phase_file),
            log=_tail(folder / "stderr"),
            seconds=time.monotonic() - begin,
        )


def _watch(process: subprocess.Popen[bytes], job: AgentJob, phase_file: Path) -> Death:
    """Wait for the process; kill it when its time or its memory is over."""
    begin = time.monotonic()
    allowed = job.timeout_seconds
    # With a memory limit it is looked at ten times a second; without one nobody wakes up beside a measurement.
    while True:
        left = begin + allowed - time.monotonic()
        if left <= 0:
            phases, now = _text(phase_file), time.time()
            built = min(phase_seconds(phases, now, "compiling"), job.build_seconds)
            longer = job.timeout_seconds + phase_seconds(phases, now, "waiting") + built
            if longer <= allowed + 0.01:
                return Death(None, timed_out=True)
            allowed = longer
            continue
        if _wait(process, left if job.memory_bytes is None else min(left, 0.1)):
            return Death(process.returncode)
        if job.memory_bytes is None:
            continue
        # The programs that some engines are run beside the agent, in its session.
        session = session_of(process.pid) if job.request.get("engine") in PROGRAM_ENGINES else [process.pid]
        if sum(map(resident_bytes, session)) > job.memory_bytes:
            return Death(None, over_memory=True)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the process ended within so long; asleep all the while where the kernel can wake us."""
    if not hasattr(os, "pidfd_open"):
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:  # a kernel before 5.3, or a sandbox without the call
        with suppress(subprocess.TimeoutExpired):
            process.wait(min(seconds, 0.05))
        return process.poll() is not None
    try:
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        ended = bool(poller.poll(min(seconds * 1000, 2**31 - 1)))
    finally:
        os.close(handle)
    if ended:
        process.wait()
    return ended


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the whole group, also what the agent may have started, and collect it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read_answer(path: Path) -> dict[str, Any] | None:
    try:
        answer = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) and "outcome" in answer else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(max(path.stat().st_size - _LOG_BYTES, 0))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""
