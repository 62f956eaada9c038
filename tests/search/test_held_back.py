"""Trials whose board was lost: they wait, others go on, and nothing is told that was not measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from autocompress.config import CompressionConfig
from autocompress.errors import HeldBackError
from autocompress.search.driver import AWAY, Driver
from autocompress.search.executor import Ended
from autocompress.search.places import training_place
from autocompress.search.records import TrialResult
from tests.search import fake_search


class InOrder:
    """Runs a task when it is waited for, in this process; ``lost`` says for which tasks the board is away."""

    def __init__(self, slots: int, lost: Callable[[int], bool]) -> None:
        self.slots = slots
        self._lost = lost
        self._waiting: list[tuple[str, Any, Mapping[str, Any]]] = []
        self.tasks: list[str] = []

    @property
    def running(self) -> tuple[str, ...]:
        return tuple(key for key, _, _ in self._waiting)

    def submit(self, key: str, function: Any, values: Mapping[str, Any]) -> None:
        self._waiting.append((key, function, values))

    def wait(self, _seconds: float) -> list[Ended]:
        key, function, values = self._waiting.pop(0)
        number = len(self.tasks)
        self.tasks.append(CompressionConfig.from_dict(values["config"]).identifier)
        if self._lost(number):
            return [Ended(key, f"{HeldBackError.__name__}: board: no answer")]
        function(values)
        return [Ended(key, None)]


def run(
    plan: Any, lost: Callable[[int], bool], events: list[Mapping[str, Any]] | None = None
) -> tuple[Driver, Any, InOrder]:
    executor = InOrder(2, lost)
    driver, study = fake_search.drive(
        plan, executor, listener=(events if events is not None else []).append, seconds=0.0
    )
    return driver, study, executor


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Any]:
    def make(**changes: Any) -> Any:
        (tmp_path / "study").mkdir(exist_ok=True)
        return fake_search.make_plan(tmp_path / "study", **changes)

    return make


def test_a_trial_is_asked_again_when_another_one_went_through(plan: Callable[..., Any]) -> None:
    events: list[Mapping[str, Any]] = []
    driver, study, executor = run(plan(trials=6), lambda number: number in (1, 2), events)
    assert [event["event"] for event in events].count("held") == 2
    assert driver.held_back == ""
    # Six configurations, two of them tried twice; exactly as many results.
    assert len(executor.tasks) == 8 and len(set(executor.tasks)) == 6
    assert len(driver.results) == 6
    # A proposal that was tried before is answered from the record, which is no trial of its own.
    states = [trial.state for trial in study.trials if "repeats" not in trial.user_attrs]
    assert states.count(TrialState.COMPLETE) == 6 and states.count(TrialState.FAIL) == 2
    assert TrialState.RUNNING not in states


def test_a_board_that_stays_away_ends_the_search_and_the_next_one_measures(plan: Callable[..., Any]) -> None:
    driver, study, executor = run(plan(trials=6), lambda number: number >= 2)
    assert driver.away
    # What was on its way still came back; no new ones were begun after that.
    assert AWAY <= len(executor.tasks) - 2 <= AWAY + 1
    assert len(driver.results) == 2
    assert "no answer" in driver.held_back and "held back" in driver.held_back
    assert TrialState.RUNNING not in [trial.state for trial in study.trials]
    lost = set(executor.tasks[2:])

    again, study, executor = run(plan(trials=6), lambda _: False)
    assert not again.away and len(again.results) == 6
    # Those that were held back come first, and nothing that was measured is asked again.
    assert set(executor.tasks[: len(lost)]) == lost
    assert len(executor.tasks) == 4


def test_with_measure_later_all_are_begun(plan: Callable[..., Any]) -> None:
    driver, _, executor = run(plan(trials=6, measure_later=True), lambda _: True)
    assert len(set(executor.tasks)) == 6 == len(executor.tasks)
    assert driver.results == [] and driver.held_back.startswith("6 trials")


def test_held_back_ones_are_tried_until_the_board_answers(plan: Callable[..., Any]) -> None:
    # The very last one fails at first: nothing else is left that could go through before it.
    driver, _, executor = run(plan(trials=3), lambda number: number == 2)
    assert len(driver.results) == 3 and len(executor.tasks) == 4


def test_training_places_are_no_more_than_their_number(tmp_path: Path) -> None:
    import multiprocessing

    context = multiprocessing.get_context("fork")
    with training_place(tmp_path, 2), training_place(tmp_path, 2):
        third = context.Process(target=_take, args=(tmp_path,))
        third.start()
        third.join(1.0)
        assert third.is_alive() and not (tmp_path / "taken").exists()
    third.join(10)
    assert (tmp_path / "taken").exists()
    # A worker that is killed holds nothing.
    holder = context.Process(target=_hold, args=(tmp_path,))
    holder.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    holder.kill()
    holder.join()
    with training_place(tmp_path, 1):
        pass


def _take(folder: Path) -> None:
    with training_place(folder, 2):
        (folder / "taken").touch()


def _hold(folder: Path) -> None:
    with training_place(folder, 1):
        (folder / "held").touch()
        time.sleep(60)


def test_results_are_those_of_the_study(plan: Callable[..., Any]) -> None:
    values = plan(trials=2)
    driver, _, _ = run(values, lambda number: number == 0)
    for result in driver.results:
        assert TrialResult.load(values.folder / "trials" / f"{result.number:04d}") == result
