"""The driver on real Ray and real SQLite: nothing that was finished is lost, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from autocompress.search.records import TrialResult
from autocompress.search.space import ConfigSpace
from autocompress.search.storage import default_url
from autocompress.specs.schemas import SearchSpace
from tests.search import fake_search


def states(folder: Path) -> list[TrialState]:
    study = optuna.load_study(study_name="fake", storage=default_url(folder))
    return [trial.state for trial in study.trials]


def ran(folder: Path) -> list[str]:
    path = folder / "trials" / "ran.txt"
    return path.read_text().split() if path.exists() else []


def test_tries_every_configuration_once_and_finds_the_true_front(tmp_path: Path) -> None:
    plan = fake_search.make_plan(tmp_path / "study")
    driver, study = fake_search.run_fake(plan)
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
    best = [TrialResult.load(plan.folder / "trials" / f"{trial.number:04d}") for trial in study.best_trials]
    assert {result.config.identifier for result in best if result is not None} == expected


def test_number_of_trials_is_exact(tmp_path: Path) -> None:
    plan = fake_search.make_plan(tmp_path / "study", trials=5)
    driver, _ = fake_search.run_fake(plan)
    assert len(driver.results) == 5 == len(ran(plan.folder))
    more, _ = fake_search.run_fake(fake_search.make_plan(tmp_path / "study", trials=7))
    assert len(more.results) == 7 == len(set(ran(plan.folder)))


def test_a_configuration_that_kills_its_workers_is_marked_and_the_others_finish(tmp_path: Path) -> None:
    plan = fake_search.make_plan(tmp_path / "study")
    driver, study = fake_search.run_fake(plan, dies_at=96)
    failed = [result for result in driver.results if result.state == "failed"]
    assert {result.config.resolution for result in failed} == {96}
    assert len(failed) == 4 and all("3 attempts" in result.reason for result in failed)
    assert sum(result.state == "complete" for result in driver.results) == 12
    assert not any(trial.state == TrialState.RUNNING for trial in study.trials)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_driver_that_is_stopped_or_killed_loses_nothing(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "study"
    program = [sys.executable, str(Path(fake_search.__file__)), str(folder), "8", "1.5"]
    process = subprocess.Popen(program, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(ran(folder)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(ran(folder)) >= 3, "Ray took more than two minutes to start"
    # As a terminal does it: the whole group gets Ctrl-C; kill -9 hits the driver alone.
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.kill()
    code = process.wait(timeout=120)
    finished = len(ran(folder))
    if number == signal.SIGINT:
        assert code == 130
        assert TrialState.RUNNING not in states(folder)
    else:
        time.sleep(5)  # Ray's workers notice that their driver is gone; until then one may still finish
        finished = len(ran(folder))
    driver, study = fake_search.run_fake(fake_search.make_plan(folder, trials=8), seconds=0.1)
    assert len(driver.results) == 8
    assert len(ran(folder)) == len(set(ran(folder))), "a finished trial was run again"
    assert len(ran(folder)) - finished <= 8 - 3
    assert not any(trial.state == TrialState.RUNNING for trial in study.trials)
