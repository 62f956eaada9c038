"""Workers, the driver and the database server killed in one study: nothing finished is lost, nothing is done twice."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from autocompress.search.storage import open_storage
from tests.search import faulty_search
from tests.search.postgres_server import Server, postgres_server

RAY_DIES_SECONDS = 6
"""Workers notice within some four seconds that their driver is gone; what they finish until then counts as finished."""


@dataclass
class Trouble:
    """A study that runs as a program of its own, and what became of it.

    Attributes:
        finished: configurations that had a result when something was killed, and how often each had run by then.
        starts: how often the command was given.
    """

    folder: Path
    trials: int
    server: Server
    seconds: float = 0.8
    process: subprocess.Popen[bytes] | None = None
    finished: dict[str, int] = field(default_factory=dict)
    starts: int = 0

    def start(self) -> None:
        arguments = [str(self.folder), str(self.trials), str(self.seconds), self.server.url]
        command = [sys.executable, str(Path(faulty_search.__file__)), *arguments]
        with (self.folder.parent / "driver.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.starts += 1

    def ran(self) -> Counter[str]:
        path = self.folder / "trials" / "ran.txt"
        return Counter(path.read_text().split() if path.exists() else [])

    def results(self) -> list[str]:
        """Configurations with a result on disk, once for each result."""
        paths = (self.folder / "trials").glob("[0-9]*/result.json")
        return [json.dumps(json.loads(path.read_text())["config"], sort_keys=True) for path in paths]

    def workers(self) -> list[psutil.Process]:
        found = []
        for path in (self.folder.parent / "pids").glob("*"):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(path.name))
                if "ray::" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def wait_for_results(self, count: int) -> None:
        deadline = time.monotonic() + 150
        while len(self.results()) < count and self.process is not None and self.process.poll() is None:
            assert time.monotonic() < deadline, (self.folder.parent / "driver.log").read_text()[-3000:]
            time.sleep(0.05)

    def strike(self, victim: str) -> None:
        """Kill one of the three with ``kill -9``, and see to it that the study goes on."""
        assert self.process is not None
        finished = self.results()
        ran = self.ran()
        for config in finished:
            self.finished.setdefault(config, self.count(ran, config))
        if victim == "worker":
            for worker in self.workers()[:1]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()
        elif victim == "driver":
            self.process.kill()
            self.process.wait()
            time.sleep(RAY_DIES_SECONDS)
            self.start()
        else:
            self.server.kill()
            time.sleep(0.5)
            self.server.start()

    def count(self, ran: Counter[str], config: str) -> int:
        from autocompress.config import CompressionConfig

        return ran[CompressionConfig.from_dict(json.loads(config)).identifier]

    def end(self) -> None:
        """Give the command until it comes to its end by itself, and check what is left."""
        for _ in range(4):
            assert self.process is not None
            if self.process.wait(timeout=300) == 0:
                break
            time.sleep(RAY_DIES_SECONDS)
            self.start()
        log = (self.folder.parent / "driver.log").read_text()
        assert self.process is not None and self.process.returncode == 0, log[-3000:]
        assert "Traceback" not in log
        results = self.results()
        assert len(results) == len(set(results)) == self.trials, "a configuration has two results, or none"
        assert set(self.finished) <= set(results), "a finished trial was lost"
        ran = self.ran()
        for config, times in self.finished.items():
            assert self.count(ran, config) == times, f"{config} had a result and was run again"
        trials = optuna.load_study(study_name="fake", storage=open_storage(self.server.url)).trials
        states = Counter(trial.state for trial in trials if "repeats" not in trial.user_attrs)
        assert states[TrialState.COMPLETE] == self.trials and states[TrialState.RUNNING] == 0
        told = {json.dumps(trial.user_attrs["config"], sort_keys=True) for trial in trials if trial.values}
        assert told == set(results)


def trouble(folder: Path, trials: int, victims: list[str]) -> Trouble:
    with postgres_server() as server:
        study = Trouble(folder / "study", trials, server)
        study.start()
        try:
            for number, victim in enumerate(victims):
                study.wait_for_results(min(trials - 2, 1 + number if trials < 10 else 1 + 2 * number))
                study.strike(victim)
            study.end()
        finally:
            if study.process is not None and study.process.poll() is None:
                study.process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    study.process.wait(timeout=30)
    return study


@pytest.mark.slow
def test_server_and_driver_killed_once_each(tmp_path: Path) -> None:
    study = trouble(tmp_path, 5, ["server", "driver"])
    assert study.starts == 2


@pytest.mark.slow
def test_ten_kills_at_random_in_one_study(tmp_path: Path) -> None:
    rng = random.Random(20)
    victims = [rng.choice(["worker", "driver", "server"]) for _ in range(10)]
    assert set(victims) == {"worker", "driver", "server"}
    trouble(tmp_path, 26, victims)
