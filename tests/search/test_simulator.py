"""The driver under simulated time: what is stopped, what it costs, and that a stopped trial goes on where it was."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from autocompress.errors import UserError
from autocompress.search import simulator
from autocompress.search.driver import Driver
from autocompress.search.executor import Ended
from autocompress.search.samplers import make_sampler
from autocompress.search.simulator import (
    Goal,
    MemoryFiles,
    SimulatedBooks,
    SimulatedClock,
    SimulatedExecutor,
    Table,
    simulate,
    simulate_plain,
)
from autocompress.specs.schemas import Constraints
from tests.search import table as tables

FULL = tables.GATE + tables.TRAIN + tables.FINISH


@pytest.fixture(scope="module")
def table() -> Table:
    return tables.table()


class Search:
    """A simulated study that can be taken up again with other settings."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.study = optuna.create_study(directions=["maximize", "minimize"])
        self.files = MemoryFiles()
        self.clock = SimulatedClock()
        self.events: list[Mapping[str, Any]] = []
        self.compute = 0.0

    def run(self, *, until: float | None = None, dies: int = 0, **changes: Any) -> Driver:
        """Run or take up the study.

        Args:
            until: wall second at which the budget ends.
            dies: so many tasks end without having left anything.
            changes: of the plan.
        """
        plan = tables.plan(**changes)
        told = len(self.study.get_trials(deepcopy=False))
        self.study.sampler, _ = make_sampler(
            plan.sampler,
            space=self.table.config_space(),
            seed=0,
            told=told,
            expected=20,
            startup=4,
            constraints=plan.constraints,
        )

        class Mortal(SimulatedExecutor):
            deaths = dies

            def wait(self, seconds: float) -> list[Ended]:
                if self._tasks and self.deaths:
                    self.deaths -= 1
                    return [Ended(self._tasks.pop()[2], "the worker died")]
                return super().wait(seconds)

        executor = Mortal(
            plan.workers, self.clock, self.files, lambda values: simulator.play(self.table, self.files, plan, values)
        )
        driver = Driver(
            plan,
            self.study,
            space=self.table.config_space(),
            executor=executor,
            task=lambda _: None,
            request=lambda number, config: {"number": number, "config": config.to_dict()},
            ledger=SimulatedBooks(self.clock),
            listener=self.events.append,
            files=self.files,
            now=self.clock,
        )
        driver.take_up()
        driver.run(until, simulator.NoHours())
        self.compute += executor.compute
        assert TrialState.RUNNING not in {trial.state for trial in self.study.trials}
        return driver

    def states(self) -> dict[str, int]:
        return {
            state.name: sum(trial.state == state and "repeats" not in trial.user_attrs for trial in self.study.trials)
            for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        }


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_a_space_of_one_configuration_is_searched_to_its_end(sampler: str) -> None:
    values = tables.values()
    row = values["rows"][0]
    one = {**values, "rows": [row], "space": {name: [value] for name, value in row["config"].items()}}
    driver = Search(Table.from_dict({**one, "space": {**one["space"], "precision": ["fp32"]}})).run(sampler=sampler)
    assert driver.exhausted and [each.state for each in driver.results] == ["complete"]


def test_without_stopping_every_trial_costs_all_of_it(table: Table) -> None:
    search = Search(table)
    driver = search.run(trials=6, rungs=())
    assert [each.state for each in driver.results] == 6 * ["complete"]
    assert search.compute == pytest.approx(6 * FULL) == pytest.approx(search.clock.now)


def test_stopped_trials_cost_their_share_and_are_pruned_with_their_rungs(table: Table) -> None:
    search = Search(table)
    driver = search.run(trials=12)
    assert len(driver.results) == 12
    expected = 0.0
    for result in driver.results:
        share = result.rungs[-1].share if result.stopped else 1.0
        assert result.state == "complete" or result.stopped
        expected += tables.GATE + share * tables.TRAIN + (0 if result.stopped else tables.FINISH)
    # What was stopped and taken up again paid for each part of its training once.
    assert search.compute == pytest.approx(expected)
    assert expected < 0.75 * 12 * FULL
    stopped = [trial for trial in search.study.trials if trial.state == TrialState.PRUNED]
    assert stopped
    for trial in stopped:
        assert trial.user_attrs["known"]["rungs"][0][0] == pytest.approx(1 / 9)
        assert "of the training" in trial.user_attrs["reason"]


def test_judging_at_a_rung_costs_what_the_table_says() -> None:
    dear = Table.from_dict({**tables.values(), "recording": {"rung_evaluation_seconds": 0.5}})
    search = Search(dear)
    driver = search.run(trials=12)
    expected = 0.0
    for result in driver.results:
        share = result.rungs[-1].share if result.stopped else 1.0
        expected += tables.GATE + share * tables.TRAIN + (0 if result.stopped else tables.FINISH)
        expected += 0.5 * len(result.rungs)
    assert search.compute == pytest.approx(expected)


def test_number_of_trials_is_exact_with_stopping_and_four_workers(table: Table) -> None:
    search = Search(table)
    assert len(search.run(trials=7, workers=4).results) == 7
    assert len(search.run(trials=9, workers=4).results) == 9


def test_more_trials_take_up_stopped_ones_where_they_were(table: Table) -> None:
    search = Search(table)
    search.run(trials=3)
    search.run(trials=30)
    started = [event["trial"] for event in search.events if event["event"] == "started"]
    continued = [trial for trial in search.study.trials if "continues" in trial.user_attrs]
    assert continued and len(started) == len(set(started))
    for trial in continued:
        earlier = search.study.trials[trial.user_attrs["continues"]]
        assert earlier.state == TrialState.PRUNED and earlier.params == trial.params
        result = search.files.result(trial.number)
        assert result is not None and result.rungs[0].share == pytest.approx(1 / 9)
        if result.state == "complete":
            assert sum(result.seconds.values()) == pytest.approx(FULL)


def test_time_that_is_left_goes_to_stopped_trials(table: Table) -> None:
    search = Search(table)
    driver = search.run(until=100_000.0)
    # The whole space was begun and there is time: what can still enter the front is trained to its end.
    assert driver.exhausted and len(driver.results) == len(table.rows)
    goal = Goal.of(table)
    front = goal.share((each.dice or 0.0, each.latency_ms("p50") or 0.0) for each in driver.front())
    assert front == pytest.approx(1.0)
    hopeless = [each for each in driver.results if each.stopped]
    assert hopeless and all("a finished trial" in each.reason or "rank" in each.reason for each in hopeless)


def test_what_is_left_without_hope_lets_go_of_its_training(table: Table) -> None:
    search = Search(table)
    let_go: set[int] = set()
    search.files.let_go = let_go.add  # type: ignore[method-assign]
    driver = search.run(trials=24)
    stopped = {each.number: each for each in driver.results if each.stopped}
    assert let_go and let_go <= set(stopped)
    ends = {each.config.identifier: table.rows[each.config.identifier] for each in driver.results}
    finished = [row for each, row in zip(driver.results, ends.values(), strict=True) if each.state == "complete"]
    for number in let_go:  # none of them would have been on the front
        row = table.rows[stopped[number].config.identifier]
        assert any(other.latency_ms <= row.latency_ms and other.dice >= row.dice for other in finished)


def test_a_budget_that_ends_stops_trials_at_their_rung_and_more_goes_on(table: Table) -> None:
    search = Search(table)
    search.run(until=10 * FULL, workers=2)
    assert search.clock.now <= 10 * FULL
    before = search.states()["COMPLETE"]
    search.run(until=20 * FULL, workers=2)
    assert search.clock.now <= 20 * FULL
    assert search.states()["COMPLETE"] > before


def test_what_a_trial_will_take_is_the_upper_quartile_of_those_like_it(table: Table) -> None:
    driver = Search(table).run(trials=1)
    driver._durations = [("fp32", 40.0), ("int8", 140.0), ("fp32", 44.0), ("fp32", 48.0)]
    config = next(iter(table.rows.values())).config
    assert driver.expected_seconds() == pytest.approx(48 + (140 - 48) / 4)
    assert driver.expected_seconds(config=config) == pytest.approx(46)
    assert driver.expected_seconds(config=replace(config, precision="int8")) == pytest.approx(140)
    assert driver.expected_seconds(1 / 3, config) == pytest.approx(46 - tables.TRAIN / 3)


def test_lost_workers_are_asked_again_from_their_last_stage(table: Table) -> None:
    search = Search(table)
    driver = search.run(trials=6, dies=2)
    assert len(driver.results) == 6 and search.states()["FAIL"] == 2
    assert all(each.state != "failed" for each in driver.results)


def test_a_configuration_that_dies_three_times_is_marked(table: Table) -> None:
    search = Search(table)
    driver = search.run(trials=1, dies=3)
    (result,) = driver.results
    assert result.state == "failed" and "3 attempts" in result.reason


def test_what_is_too_slow_is_not_trained_and_is_asked_again_when_the_limit_is_loosened(table: Table) -> None:
    search = Search(table)
    tight = search.run(until=1e6, constraints=Constraints(max_latency_ms=2.0))
    refused = [each for each in tight.results if each.refused_under]
    slow = [row for row in table.rows.values() if row.latency_ms > 2.0]
    assert len(refused) == len(slow) and all(sum(each.seconds.values()) == tables.GATE for each in refused)
    loose = search.run(until=2e6, constraints=Constraints(max_latency_ms=5.0))
    again = {each.config for each in loose.results if not each.refused_under}
    assert again == {row.config for row in table.rows.values() if row.latency_ms <= 5.0}


def test_a_simulated_search_is_that_of_its_seed(table: Table) -> None:
    one, two, other = (simulate(table, sampler="tpe", workers=3, seed=seed) for seed in (1, 1, 2))
    assert one == two != other
    assert one.points[-1].wall < one.points[-1].compute


def test_four_workers_share_the_work(table: Table) -> None:
    alone = simulate(table, sampler="random", stopping=False, trials=24)
    four = simulate(table, sampler="random", stopping=False, trials=24, workers=4)
    assert alone.points[-1].compute == pytest.approx(four.points[-1].compute) == pytest.approx(24 * FULL)
    assert four.points[-1].wall == pytest.approx(6 * FULL)


def test_plain_optuna_trains_everything_it_proposes(table: Table) -> None:
    trace = simulate_plain(table, optuna.samplers.RandomSampler(seed=0), until=20 * FULL)
    assert trace.finished == 20 and trace.points[-1].compute == pytest.approx(20 * FULL)


def test_hypervolume_by_hand() -> None:
    goal = Goal(Constraints(), (50.0, 8.0), 1.0)
    # (Dice above 50) x (logarithm of how much faster than 8 ms), each area once.
    assert goal.share([(60, 4.0)]) == pytest.approx(10 * math.log(2))
    assert goal.share([(60, 4.0), (70, 8.0), (55, 1.0), (54, 2.0)]) == pytest.approx(
        10 * math.log(2) + 5 * (math.log(8) - math.log(2))
    )
    assert goal.share([(49, 1.0), (90, 9.0)]) == 0.0


def test_between_its_rungs_a_table_is_interpolated(table: Table) -> None:
    row = next(iter(table.rows.values()))
    middle = row.at((1 / 9 + 1 / 3) / 2)
    assert middle.dice == pytest.approx(row.dice - 14)
    assert middle.seconds == pytest.approx(tables.TRAIN * 2 / 9)


def test_tables_are_read_gzipped_or_not_and_others_refused(tmp_path: Path, table: Table) -> None:
    text = json.dumps(tables.values()).encode()
    for name, data in (("a.json", text), ("b.json.gz", gzip.compress(text))):
        (tmp_path / name).write_bytes(data)
        assert Table.load(tmp_path / name).rows == table.rows
    (tmp_path / "other.json").write_text('{"schema": "x"}')
    with pytest.raises(UserError, match="of the kind 'x'"):
        Table.load(tmp_path / "other.json")
    with pytest.raises(UserError, match="cannot read"):
        Table.load(tmp_path / "nowhere.json")
    with pytest.raises(UserError, match="no row keeps"):
        Goal.of(table, Constraints(min_dice=99))
