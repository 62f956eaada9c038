"""How the agent's end is told: every way to die has its outcome, and nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.errors import TargetError
from autocompress.hardware.agent.phases import phase_seconds
from autocompress.hardware.hosts import AgentJob, AgentReport, LocalHost, open_host
from autocompress.hardware.hosts.jobs import Death, read_report
from autocompress.hardware.settings import MeasureSettings
from autocompress.specs.schemas import HostSpec

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def job(tmp_path: Path, make_model: Callable[..., Path], image: Callable[..., Any], quick: MeasureSettings) -> AgentJob:
    sample = tmp_path / "x.npy"
    np.save(sample, image())
    request = {
        "engine": "onnxruntime",
        "model": "model.onnx",
        "threads": 1,
        "device": "cpu",
        "options": {},
        "turnstile": None,
        "time": {"input": "input.npy", **asdict(quick)},
    }
    return AgentJob(request, {"model.onnx": make_model(tmp_path / "m.onnx"), "input.npy": sample})


def endless(job: AgentJob) -> AgentJob:
    """The same job, timing for ten minutes."""
    settings = {**job.request["time"], "min_seconds": 600.0, "max_seconds": 600.0}
    return replace(job, request={**job.request, "time": settings})


def agents() -> list[int]:
    """Agents that are children of this process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"agent.py" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def end_while_timing(job: AgentJob, end: Callable[[int], None]) -> AgentReport:
    """Run a job that would not end, and do something to its agent as soon as it times."""
    reports: list[AgentReport] = []
    thread = threading.Thread(target=lambda: reports.append(LocalHost().run(job)))
    thread.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for pid in agents():
            phases = Path(f"/proc/{pid}/cwd/answer.json.phases")
            if phases.exists() and phases.read_text().endswith("timing\n"):
                end(pid)
                thread.join(60)
                return reports[0]
        time.sleep(0.02)
    raise AssertionError("the agent never came to its timing")


def test_a_good_run(job: AgentJob) -> None:
    report = LocalHost().run(job)
    assert (report.outcome, report.message) == ("ok", "")
    assert report.answer["time"]["latency"]["runs"] >= 64
    assert {"importing", "loading", "timing"} <= set(report.answer["phases"])
    assert agents() == []


@pytest.mark.parametrize(
    ("number", "outcome", "text"),
    [
        (signal.SIGSEGV, "crashed", "onnxruntime: SIGSEGV while timing"),
        (signal.SIGTERM, "crashed", "onnxruntime: SIGTERM while timing"),
        (signal.SIGKILL, "out_of_memory", "onnxruntime: killed while timing (SIGKILL)"),
    ],
)
def test_a_signal_is_named_with_the_phase(job: AgentJob, number: signal.Signals, outcome: str, text: str) -> None:
    report = end_while_timing(endless(job), lambda pid: os.kill(pid, number))
    assert report.outcome == outcome
    assert report.message.startswith(text)
    assert agents() == []


def test_too_long(job: AgentJob) -> None:
    report = LocalHost().run(replace(endless(job), timeout_seconds=3.0))
    assert report.outcome == "timeout"
    assert "no answer within 3 s, killed while timing" in report.message
    assert agents() == []


def test_a_hang_is_ended_too(job: AgentJob) -> None:
    begin = time.monotonic()
    report = end_while_timing(replace(endless(job), timeout_seconds=4.0), lambda pid: os.kill(pid, signal.SIGSTOP))
    assert report.outcome == "timeout"
    assert time.monotonic() - begin < 60
    assert agents() == []


def test_waiting_for_the_room_is_not_held_against_the_engine(job: AgentJob, tmp_path: Path) -> None:
    from autocompress.hardware.turnstile import Turnstile

    turnstile = Turnstile(tmp_path / "turnstile")
    reports: list[AgentReport] = []
    waiting = replace(job, request={**job.request, "turnstile": str(turnstile.folder)}, timeout_seconds=3.0)
    thread = threading.Thread(target=lambda: reports.append(LocalHost().run(waiting)))
    with turnstile.measuring():
        thread.start()
        time.sleep(4.5)
        assert reports == []
    thread.join(60)
    assert reports[0].outcome == "ok"
    assert reports[0].answer["phases"]["waiting"] > 3


def test_too_much_memory(job: AgentJob) -> None:
    report = LocalHost().run(replace(endless(job), memory_bytes=20 * 2**20))
    assert report.outcome == "out_of_memory"
    assert "more than the allowed 20 MiB" in report.message
    assert agents() == []


def test_the_memory_of_a_program_beside_the_agent_counts(job: AgentJob, tmp_path: Path) -> None:
    hungry = "x = bytearray(b'1') * (300 * 2**20); import time; time.sleep(60)"
    program = tmp_path / "agent"  # in the place of the interpreter: it starts a program, as trtexec is started
    program.write_text(f'#!/bin/sh\n{sys.executable} -c "{hungry}"\n')
    program.chmod(0o755)
    request = {**job.request, "engine": "tensorrt"}
    report = LocalHost().run(
        replace(job, request=request, python=str(program), memory_bytes=200 * 2**20, timeout_seconds=50.0)
    )
    assert report.outcome == "out_of_memory"


def test_peak_memory_is_the_engine_s_own(job: AgentJob) -> None:
    ballast = np.ones(400 * 2**20, dtype=np.uint8)  # resident in this process while it starts the agent
    report = LocalHost().run(job)
    assert 20 * 2**20 < report.answer["peak_memory_bytes"] < 300 * 2**20
    del ballast


def test_an_interrupt_leaves_nothing_running(job: AgentJob, monkeypatch: pytest.MonkeyPatch) -> None:
    from autocompress.hardware.hosts import local

    pids: list[int] = []

    def interrupted(process: Any, *_: Any) -> Death:
        pids.append(process.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "_watch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        LocalHost().run(endless(job))
    assert len(pids) == 1
    assert agents() == []


def test_the_agent_does_not_outlive_a_killed_parent(job: AgentJob, tmp_path: Path) -> None:
    code = """
import json, sys
from pathlib import Path
from autocompress.hardware.agent.phases import phase_seconds
from autocompress.hardware.hosts import AgentJob, LocalHost
request, inputs = json.loads(sys.argv[1])
LocalHost().run(AgentJob(request, {name: Path(path) for name, path in inputs.items()}))
"""
    import json

    plain = json.dumps([endless(job).request, {name: str(path) for name, path in job.inputs.items()}])
    # A process that is killed leaves its temporary folder behind.
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code, plain], env=environment) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        deadline = time.monotonic() + 60
        while not children.read_text().split() and time.monotonic() < deadline:
            time.sleep(0.02)
        agent = int(children.read_text().split()[0])
        while time.monotonic() < deadline and b"agent.py" not in Path(f"/proc/{agent}/cmdline").read_bytes():
            time.sleep(0.02)
        time.sleep(0.5)
        parent.kill()
        parent.wait()
    while Path(f"/proc/{agent}").exists() and time.monotonic() < deadline:
        state = Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[0]
        if state in "ZX":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{agent}").exists()


def test_a_missing_interpreter(job: AgentJob) -> None:
    report = LocalHost().run(replace(job, python="/nowhere/bin/python"))
    assert report.outcome == "unsupported"
    assert report.message == "onnxruntime: cannot start the interpreter /nowhere/bin/python: No such file or directory"


def test_an_interpreter_without_the_engine(job: AgentJob, tmp_path: Path) -> None:
    # -I and -S: the standard library alone.
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    report = LocalHost().run(replace(job, python=str(bare)))
    assert report.outcome == "unsupported"
    assert report.message == "onnxruntime: cannot be imported: No module named 'onnxruntime'"


def test_an_engine_that_the_agent_does_not_have(job: AgentJob) -> None:
    report = LocalHost().run(replace(job, request={**job.request, "engine": "abacus"}))
    assert (report.outcome, report.message) == ("unsupported", "abacus: this agent has no engine abacus")


@pytest.mark.parametrize(
    ("death", "log", "outcome", "text"),
    [
        (Death(-11), "", "crashed", "deepsparse: SIGSEGV while compiling"),
        (Death(139), "", "crashed", "deepsparse: SIGSEGV while compiling"),
        (Death(137), "", "out_of_memory", "deepsparse: killed while compiling (SIGKILL)"),
        (Death(-6), "terminate called: std::bad_alloc", "out_of_memory", "deepsparse: out of memory while compiling"),
        (Death(-6), "assertion failed", "crashed", "deepsparse: SIGABRT while compiling"),
        (Death(3), "some\nlast words\n", "crashed", "deepsparse: exit code 3 while compiling: last words"),
        (
            Death(1),
            "DeepSparse\nAssertion at src/x.cpp:3428\nBacktrace:\n 0# 0x7f\nPlease email a copy\n",
            "crashed",
            "deepsparse: exit code 1 while compiling: Assertion at src/x.cpp:3428",
        ),
        (
            Death(1),
            "Received signal: Segmentation fault (signal addr: 0)\nBacktrace:\n 0# 0x7f\n",
            "crashed",
            "deepsparse: SIGSEGV while compiling",
        ),
        (Death(0), "", "lost", "deepsparse: ended while compiling without an answer"),
        (Death(None), "", "lost", "deepsparse: the link to the host was lost while compiling"),
    ],
)
def test_deaths_without_an_answer(death: Death, log: str, outcome: str, text: str) -> None:
    phases = "1.0 starting\n2.0 compiling\n"
    report = read_report(AgentJob({"engine": "deepsparse"}), None, death, phases=phases, log=log, seconds=1.0)
    assert report.outcome == outcome
    assert report.message.startswith(text)


def test_seconds_of_waiting() -> None:
    assert phase_seconds("", 9.0, "waiting") == 0
    assert phase_seconds("1.0 starting\n2.0 waiting\n5.0 loading\n", 9.0, "waiting") == 3
    assert phase_seconds("2.0 waiting\n5.0 loading\n6.0 waiting\n", 9.0, "waiting") == 6


def test_a_host_without_an_address_is_told() -> None:
    with pytest.raises(TargetError, match="--host USER@BOARD"):
        open_host(HostSpec(kind="ssh"))


def test_a_build_has_time_of_its_own(job: AgentJob, tmp_path: Path) -> None:
    slow = tmp_path / "agent"  # in the place of the interpreter: it compiles for three seconds
    slow.write_text("#!/bin/sh\nprintf '%s compiling\\n' $(date +%s.%N) > answer.json.phases; exec sleep 3\n")
    slow.chmod(0o755)
    built = replace(job, python=str(slow), timeout_seconds=1.0)
    assert LocalHost().run(built).outcome == "timeout"
    assert "without an answer" in LocalHost().run(replace(built, build_seconds=60.0)).message
