"""The turnstile with real processes: exclusion, sharing, no starvation, and holders that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autocompress.hardware.turnstile import Turnstile

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 60.0

# Says "in" when it is inside, and stays until its standard input ends.
HOLD = """
import sys
from pathlib import Path
from autocompress.hardware.turnstile import Turnstile
turnstile = Turnstile(Path(sys.argv[1]))
with getattr(turnstile, sys.argv[2])():
    print("in", flush=True)
    sys.stdin.read()
"""

# Steps without a pause, and logs when each began and ended.
STEPS = """
import sys, time
from pathlib import Path
from autocompress.hardware.turnstile import Turnstile
turnstile = Turnstile(Path(sys.argv[1]))
print("in", flush=True)
with open(sys.argv[2], "w") as log:
    while True:
        with turnstile.step():
            begin = time.monotonic()
            time.sleep(0.02)
            log.write(f"{begin} {time.monotonic()}\\n")
        log.flush()
"""


@contextmanager
def process(code: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def wait_inside(started: subprocess.Popen[str]) -> None:
    assert started.stdout is not None
    assert started.stdout.readline() == "in\n"


def enters_within(folder: Path, how: str, seconds: float) -> bool:
    """Whether another thread gets into the room; it is released at once."""
    done = threading.Event()

    def enter() -> None:
        with getattr(Turnstile(folder), how)():
            done.set()

    threading.Thread(target=enter, daemon=True).start()
    return done.wait(seconds)


def test_steps_are_made_together(tmp_path: Path) -> None:
    with process(HOLD, tmp_path, "step") as other:
        wait_inside(other)
        assert enters_within(tmp_path, "step", PATIENCE)


@pytest.mark.parametrize(
    ("first", "second"), [("step", "measuring"), ("measuring", "step"), ("measuring", "measuring")]
)
@pytest.mark.parametrize("end", [signal.SIGKILL, None])
def test_a_measurement_is_alone_and_a_dead_holder_holds_nothing(
    tmp_path: Path, first: str, second: str, end: signal.Signals | None
) -> None:
    with process(HOLD, tmp_path, first) as other:
        wait_inside(other)
        assert not enters_within(tmp_path, second, 0.2)
        if end is None:
            assert other.stdin is not None
            other.stdin.close()
        else:
            other.send_signal(end)
        assert enters_within(tmp_path, second, PATIENCE)


def test_a_measurement_gets_in_between_steps_that_never_pause(tmp_path: Path) -> None:
    folder = tmp_path / "turnstile"
    logs = [tmp_path / "a", tmp_path / "b"]
    with process(STEPS, folder, logs[0]) as one, process(STEPS, folder, logs[1]) as two:
        wait_inside(one)
        wait_inside(two)
        time.sleep(0.2)
        measured = []
        for _ in range(5):
            with Turnstile(folder).measuring():
                begin = time.monotonic()
                time.sleep(0.05)
                measured.append((begin, time.monotonic()))
            time.sleep(0.05)
    steps = [tuple(map(float, line.split())) for log in logs for line in log.read_text().splitlines() if " " in line]
    assert len(steps) > 10
    assert not [step for step in steps for alone in measured if step[0] < alone[1] and alone[0] < step[1]]


def test_a_waiting_measurement_that_is_killed_lets_steps_go_on(tmp_path: Path) -> None:
    with process(HOLD, tmp_path, "step") as holder:
        wait_inside(holder)
        with process(HOLD, tmp_path, "measuring") as waiting:
            while enters_within(tmp_path, "step", 0.3):  # until it stands in the gate
                time.sleep(0.05)
            waiting.kill()
            waiting.wait()
            assert enters_within(tmp_path, "step", PATIENCE)


def test_work_inside_work_does_not_wait_for_itself(tmp_path: Path) -> None:
    turnstile = Turnstile(tmp_path)
    assert not turnstile.held
    with turnstile.step(), turnstile.step():
        assert turnstile.held
    with turnstile.measuring(), turnstile.step(), turnstile.measuring():
        assert turnstile.held
    assert not turnstile.held
    assert enters_within(tmp_path, "measuring", PATIENCE)


def test_a_measurement_inside_a_step_is_refused_and_the_step_goes_on(tmp_path: Path) -> None:
    turnstile = Turnstile(tmp_path)
    with turnstile.step():
        with pytest.raises(RuntimeError, match="inside a step"), turnstile.measuring():
            pass
        assert turnstile.held
    assert enters_within(tmp_path, "measuring", PATIENCE)


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Turnstile(tmp_path).measuring():
        raise ZeroDivisionError
    assert enters_within(tmp_path, "measuring", PATIENCE)


def test_threads_of_one_instance_keep_apart(tmp_path: Path) -> None:
    turnstile = Turnstile(tmp_path)
    inside = threading.Event()

    def measure() -> None:
        with turnstile.measuring():
            inside.set()

    with turnstile.step():
        thread = threading.Thread(target=measure)
        thread.start()
        assert not inside.wait(0.2)
    assert inside.wait(PATIENCE)
    thread.join()


def test_a_child_forked_inside_a_step_does_not_keep_the_room(tmp_path: Path) -> None:
    turnstile = Turnstile(tmp_path)
    with turnstile.step():
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    try:
        assert enters_within(tmp_path, "measuring", 10)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
