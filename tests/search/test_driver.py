"""The driver on real Ray and real SQLite: nothing that was finished is lost, whoever is killed."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from autocompress.config import CompressionConfig
from autocompress.hardware.agent.system import session_of
from autocompress.search.driver import Driver
from autocompress.search.executor import RayExecutor
from autocompress.search.plan import SearchPlan
from autocompress.search.records import TrialResult
from autocompress.search.space import ConfigSpace
from autocompress.search.stages import trial_folder
from autocompress.search.storage import default_url, driver_lock
from autocompress.specs.schemas import SearchSpace
from tests.search import fake_search

Search = Callable[..., tuple[Driver, optuna.Study]]


@pytest.fixture(scope="module")
def search() -> Iterator[Search]:
    """`fake_search.run_fake` on one Ray for all, which takes seconds to start."""
    with RayExecutor(2) as executor:

        def run(plan: SearchPlan, *, seconds: float = 0.0, **values: Any) -> tuple[Driver, optuna.Study]:
            plan.folder.mkdir(parents=True, exist_ok=True)
            with driver_lock(plan.folder, plan.storage, plan.name) as lock:
                return fake_search.drive(plan, executor, lock=lock, seconds=seconds, **{"dies_at": None, **values})

        yield run


def workers_of(session: int) -> list[int]:
    """What may still run a trial of a session; Ray's agents take another minute to see that nobody is left."""

    def works(pid: int) -> bool:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()  # that of a zombie is empty
        except OSError:
            return False
        return command.startswith((b"ray::fake_trial", b"ray::IDLE")) or b"default_worker.py" in command

    return [pid for pid in session_of(session) if works(pid)]


def states(folder: Path) -> list[TrialState]:
    study = optuna.load_study(study_name="fake", storage=default_url(folder))
    return [trial.state for trial in study.trials]


def ran(folder: Path) -> list[str]:
    path = folder / "trials" / "ran.txt"
    return path.read_text().split() if path.exists() else []


def finished(folder: Path) -> list[str]:
    """Configurations whose result lies on disk; what ran may have been stopped before it wrote one."""
    results = map(TrialResult.load, (folder / "trials").glob("[0-9]*"))
    return [result.config.identifier for result in results if result is not None]


def test_what_still_runs_at_the_deadline_is_broken_off_and_goes_on_with_more_time(
    tmp_path: Path, search: Search
) -> None:
    plan = fake_search.make_plan(tmp_path / "late", trials=4)

    def request(number: int, config: CompressionConfig) -> dict[str, Any]:
        folder = str(trial_folder(plan.folder, number))
        seconds = 300.0 if number == 2 else 0.0
        return {"folder": folder, "number": number, "config": config.to_dict(), "seconds": seconds}

    # A time that comes when the three others are done, however long they take.
    driver, study = search(plan, request=request, deadline=lambda: 0.0 if len(finished(plan.folder)) == 3 else math.inf)
    assert [each.number for each in driver.results] == [0, 1, 3]
    assert study.trials[2].state == TrialState.FAIL
    assert study.trials[2].user_attrs["reason"] == "the budget was over before its end"
    driver, study = search(plan, request=request)
    assert len(driver.results) == 4 and study.trials[-1].params == study.trials[2].params
    assert TrialState.RUNNING not in states(plan.folder)


def test_tries_every_configuration_once_and_finds_the_true_front(tmp_path: Path, search: Search) -> None:
    plan = fake_search.make_plan(tmp_path / "study")
    driver, study = search(plan)
    every = list(ConfigSpace(SearchSpace.from_dict(fake_search.SPACE), lambda _: None))
    assert sorted(ran(plan.folder)) == sorted(config.identifier for config in every)

    feasible = [config for config in every if fake_search.dice_of(config) >= 60]
    expected = {
        config.identifier
        for config in feasible
        if not any(
            fake_search.dice_of(other) >= fake_search.dice_of(config)
            and fake_search.latency_of(other) <= fake_search.latency_of(config)
            and other != config
            for other in feasible
        )
    }
    assert {result.config.identifier for result in driver.front()} == expected
    # Optuna's own idea of the front, by its constraints, is the same.
    best = [TrialResult.load(trial_folder(plan.folder, trial.number)) for trial in study.best_trials]
    assert {result.config.identifier for result in best if result is not None} == expected


def test_number_of_trials_is_exact(tmp_path: Path, search: Search) -> None:
    plan = fake_search.make_plan(tmp_path / "study", trials=5)
    driver, _ = search(plan)
    assert len(driver.results) == 5 == len(ran(plan.folder))
    more, _ = search(fake_search.make_plan(tmp_path / "study", trials=7))
    assert len(more.results) == 7 == len(set(ran(plan.folder)))


def test_a_configuration_that_kills_its_workers_is_marked_and_the_others_finish(tmp_path: Path, search: Search) -> None:
    # Of one level: each death costs the start of another worker.
    space = SearchSpace.from_dict({**fake_search.SPACE, "levels": [1]})
    plan = fake_search.make_plan(tmp_path / "study", space=space)
    driver, study = search(plan, dies_at=96)
    failed = [result for result in driver.results if result.state == "failed"]
    assert {result.config.resolution for result in failed} == {96}
    assert len(failed) == 2 and all("3 attempts" in result.reason for result in failed)
    assert sum(result.state == "complete" for result in driver.results) == 6
    assert not any(trial.state == TrialState.RUNNING for trial in study.trials)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_driver_that_is_stopped_or_killed_loses_nothing(
    tmp_path: Path, search: Search, number: signal.Signals
) -> None:
    folder = tmp_path / "study"
    program = [sys.executable, str(Path(fake_search.__file__)), str(folder), "8", "1.5"]
    process = subprocess.Popen(program, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(finished(folder)) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, "the program came to no third trial"
    assert len(finished(folder)) >= 3, "Ray took more than two minutes to start"
    # As a terminal does it: the whole group gets Ctrl-C; kill -9 hits the driver alone.
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.kill()
    code = process.wait(timeout=120)
    if number == signal.SIGINT:
        assert code == 130
        assert TrialState.RUNNING not in states(folder)
    # Ray's workers notice that their driver is gone; until then one may still finish.
    deadline = time.monotonic() + 120
    while (left := workers_of(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == [], "Ray's workers outlived their driver by two minutes"
    kept, before = finished(folder), Counter(ran(folder))
    driver, study = search(fake_search.make_plan(folder, trials=8), seconds=0.1)
    assert len(driver.results) == 8
    assert set(kept) <= {result.config.identifier for result in driver.results}, "a finished trial was lost"
    again = Counter(ran(folder)) - before
    assert not set(again) & set(kept), "a finished trial was run again"
    assert sum(again.values()) == 8 - len(kept)
    assert not any(trial.state == TrialState.RUNNING for trial in study.trials)
