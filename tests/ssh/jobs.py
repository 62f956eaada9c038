"""Small jobs for a board, and a board whose agent can be slowed down, counted and caught."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.hardware.hosts import AgentJob, AgentReport
from autocompress.hardware.hosts.address import parse_address
from autocompress.hardware.hosts.link import LinkSettings
from autocompress.hardware.hosts.ssh import SshHost
from tests.ssh.boards import Board, write_program

QUICK = LinkSettings(
    connect=5.0,
    keepalive=0.5,
    keepalive_count=2,
    patience=15.0,
    pause=0.1,
    longest_pause=0.5,
    heartbeat=0.3,
    grace=5.0,
    lease=30.0,
)
"""Time-outs for a network that is this machine."""


def host_at(board: Board, *, port: int | None = None, settings: LinkSettings = QUICK, owner: str = "") -> SshHost:
    """A board as a host, at its own port or at one that leads to it."""
    return SshHost(parse_address(f"{board.sshd.user}@127.0.0.1:{port or board.sshd.port}"), settings, owner)


def probe_job(engine: str = "onnxruntime", **options: Any) -> AgentJob:
    """Ask the board for an engine; it takes a fraction of a second."""
    request = {"engine": engine, "probe": True, "device": "cpu", "options": {}}
    return AgentJob(request, **options)


def run_job(model: Path, images: Any, folder: Path, *, engine: str = "onnxruntime", **options: Any) -> AgentJob:
    """Run a model on images there; the output will be ``folder/y.npy``."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "x.npy", images, allow_pickle=False)
    request = {
        "engine": engine,
        "model": "model.onnx",
        "precision": "fp32",
        "device": "cpu" if engine == "onnxruntime" else "tensorrt-gpu",
        "threads": 1,
        "options": {},
        "run": {"inputs": ["x.npy"], "outputs": ["y.npy"]},
    }
    inputs = {"model.onnx": model, "x.npy": folder / "x.npy"}
    return AgentJob(request, inputs, {"y.npy": folder / "y.npy"}, **options)


class Agents:
    """The agents that a board starts: each is counted, then waits as long as it is told.

    Args:
        board: its ``python3`` is replaced.
        python: the real one.
    """

    def __init__(self, board: Board, python: str) -> None:
        self.board = board
        self._count = board.sshd.folder / "agents"
        self._seconds = board.sshd.folder / "seconds"
        self._code = board.sshd.folder / "code.py"
        self.delay(0)
        self.run("")
        # Asleep in the agent's own process: a program that it had started would be something else to end.
        wait = f"import runpy, sys, time; time.sleep(float(open({str(self._seconds)!r}).read())); "
        wait += f"exec(open({str(self._code)!r}).read()); del sys.argv[0]; "
        wait += "runpy.run_path(sys.argv[0], run_name='__main__')"
        lines = [
            'if [ "$2" = request.json ]; then',
            f'  echo $$ >>"{self._count}"',
            f'  exec "{python}" -c "{wait}" "$@"',
            "fi",
            f'exec "{python}" "$@"',
        ]
        write_program(board.bin / "python3", *lines)

    def delay(self, seconds: float) -> None:
        """Those that start from now on do nothing for so long."""
        self._seconds.write_text(f"{seconds}")

    def run(self, code: str) -> None:
        """Those that start from now on run a piece of Python first."""
        self._code.write_text(code)

    @property
    def pids(self) -> list[int]:
        """Of all that were started so far."""
        return [int(line) for line in self._count.read_text().split()] if self._count.exists() else []

    def wait_for(self, count: int = 1, seconds: float = 20.0) -> int:
        """Wait until so many were started; the process of the last one."""
        until(lambda: len(self.pids) >= count, f"{count} agents", seconds)
        return self.pids[-1]


def until(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"no {what} within {seconds:g} s")
        time.sleep(0.02)


class Started:
    """A job under way in a thread."""

    def __init__(self, host: SshHost, job: AgentJob) -> None:
        self._found: list[AgentReport | BaseException] = []

        def work() -> None:
            try:
                self._found.append(host.run(job))
            except BaseException as error:
                self._found.append(error)

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether there is a report."""
        return not self._thread.is_alive()

    def report(self, seconds: float = 60.0) -> AgentReport:
        """The report, once it is there."""
        self._thread.join(seconds)
        if not self._found:
            raise AssertionError(f"no report within {seconds:g} s")
        (found,) = self._found
        if isinstance(found, BaseException):
            raise found
        return found


@contextmanager
def started(host: SshHost, job: AgentJob) -> Iterator[Started]:
    """Run a job beside what the block does; it is waited for in any case."""
    found = Started(host, job)
    try:
        yield found
    finally:
        found.report()
