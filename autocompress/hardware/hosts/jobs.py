"""What a host is asked to do and what it answers: one run of the agent, with the files that go in and come out."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from autocompress.hardware.records import Outcome

"""The file that runs on the host."""

_FAULT = re.compile(r"\bassert|\bSIG[A-Z]{3,}\b|segmentation fault", re.IGNORECASE)
_FAULT_SIGNALS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
_MEMORY_SIGNS = ("bad_alloc", "out of memory", "MemoryError", "Cannot allocate memory")


@dataclass(frozen=True)
class AgentJob:
    """One run of the agent.

    Attributes:
        request: what the agent is asked, see `autocompress.hardware.agent`; it names files as in ``inputs`` and
            ``outputs``.
        inputs: files that the agent reads, by their name in the agent's folder.
        outputs: files that the agent writes, by their name there, and where they shall be afterwards.
        python: interpreter that has the engine; None for the host's own.
        timeout_seconds: after so long the agent is killed; time spent waiting for the room does not count.
        build_seconds: of the time spent compiling, so much does not count either.
        memory_bytes: above this resident memory the agent is killed; None for no limit.
    """

    request: Mapping[str, Any]
    inputs: Mapping[str, Path] = field(default_factory=dict)
    outputs: Mapping[str, Path] = field(default_factory=dict)
    python: str | None = None
    timeout_seconds: float = 300.0
    build_seconds: float = 0.0
    memory_bytes: int | None = None


@dataclass(frozen=True)
class AgentReport:
    """How a run of the agent ended.

    Attributes:
        outcome: ``ok`` exactly where ``answer`` and all outputs are complete.
        message: one line for people that begins with the engine's name; empty where the outcome is ``ok``.
        answer: what the agent wrote; empty where it died before.
        phase: what it was doing last.
        seconds: wall time of the run, waiting included.
        log: end of what it wrote to its standard error.
    """

    outcome: Outcome
    message: str
    answer: Mapping[str, Any]
    phase: str
    seconds: float
    log: str = ""


class Host(Protocol):
    """A machine that runs the agent. A failure of the engine is a report, never an exception."""

    @property
    def name(self) -> str:
        """For people, such as ``local`` or ``user@board``."""
        ...

    def run(self, job: AgentJob) -> AgentReport:
        """Run the agent once and wait for it. Nothing is left running afterwards, whatever happens."""
        ...


@dataclass(frozen=True)
class Death:
    """How a process ended.

    Attributes:
        code: exit code; negative for a signal, as `subprocess` has it, or above 128, as a shell has it; None where
            the link was lost and nobody knows.
        timed_out: killed because its time was over.
        over_memory: killed because it passed its memory limit.
    """

    code: int | None
    timed_out: bool = False
    over_memory: bool = False


def read_report(
    job: AgentJob, answer: Mapping[str, Any] | None, death: Death, *, phases: str, log: str, seconds: float
) -> AgentReport:
    """Turn what is left of a run into a report.

    Args:
        job: what was asked.
        answer: what the agent wrote, or None.
        death: how its process ended.
        phases: text of its phase file.
        log: end of its standard error.
        seconds: wall time of the run.
    """
    lines = phases.split("\n")
    phase = next((line.partition(" ")[2] for line in reversed(lines) if " " in line), "starting")
    engine = str(job.request.get("engine", "agent"))
    outcome: Outcome
    if death.timed_out:
        # The agent may still have answered and then hung; what it took longer than allowed for is not used.
        outcome, text = "timeout", f"no answer within {job.timeout_seconds:g} s, killed while {phase}"
    elif death.over_memory:
        limit = (job.memory_bytes or 0) / 2**20
        outcome, text = "out_of_memory", f"killed while {phase}: more than the allowed {limit:.0f} MiB of memory"
    elif answer is not None:
        return AgentReport(
            outcome=answer["outcome"],
            message="" if answer["outcome"] == "ok" else f"{engine}: {answer['message']}",
            answer=answer,
            phase=phase,
            seconds=seconds,
            log=log,
        )
    else:
        outcome, text = _death(death, phase, log)
    return AgentReport(outcome, f"{engine}: {text}", {}, phase, seconds, log)


def _death(death: Death, phase: str, log: str) -> tuple[Outcome, str]:
    code = death.code
    if code is None:
        return "lost", f"the link to the host was lost while {phase}"
    number = -code if code < 0 else code - 128 if code > 128 else 0
    if number == signal.SIGKILL:
        return "out_of_memory", f"killed while {phase} (SIGKILL), most likely by the system for want of memory"
    if any(sign in log for sign in _MEMORY_SIGNS):
        return "out_of_memory", f"out of memory while {phase}"
    if number:
        return "crashed", f"{_signal_name(number)} while {phase}"
    if code == 0:
        return "lost", f"ended while {phase} without an answer"
    return "crashed", _caught_fault(code, phase, log)


def _caught_fault(code: int, phase: str, log: str) -> str:
    """What an engine said that catches its own faults and then exits by itself, as DeepSparse does."""
    caught = next((each for each in _FAULT_SIGNALS if f"signal: {signal.strsignal(each)}" in log), None)
    if caught is not None:
        return f"{caught.name} while {phase}"
    lines = [line.strip() for line in log.split("\n") if line.strip()]
    # The line that counts stands before a long backtrace.
    said = next((line for line in lines if _FAULT.search(line)), lines[-1] if lines else "")
    return f"exit code {code} while {phase}" + (f": {said[:200]}" if said else "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
