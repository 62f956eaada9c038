"""The storage of a driver tells what the database holds, with fewer looks into it and fewer changes to the file."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import optuna
import pytest
import sqlalchemy

from autocompress.search.interrupts import terminable
from autocompress.search.single_writer import SingleWriterStorage, together
from autocompress.search.storage import default_url, driver_storage


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    return optuna.create_study(
        storage=driver_storage(default_url(tmp_path)), study_name="s", directions=["maximize", "minimize"]
    )


def elsewhere(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """The trials as another process sees them."""
    return optuna.load_study(study_name="s", storage=default_url(folder)).trials


@contextmanager
def each_statement(told: Callable[[str], None]) -> Iterator[None]:
    """Tell each statement that was executed, before anybody reads what it found."""

    def listener(*given: object) -> None:
        told(str(given[2]))

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "after_cursor_execute", listener)
    try:
        yield
    finally:
        sqlalchemy.event.remove(sqlalchemy.engine.Engine, "after_cursor_execute", listener)


def suggest(trial: optuna.Trial) -> None:
    trial.suggest_int("resolution", 32, 128, step=32)
    trial.suggest_categorical("grouping", ["dense", "depthwise"])


def test_it_tells_what_another_process_reads(study: optuna.Study, tmp_path: Path) -> None:
    study.enqueue_trial({"resolution": 64, "grouping": "dense"})
    for number in range(5):
        trial = study.ask()
        with together(study):
            suggest(trial)
            trial.set_user_attr("known", {"latencies_ms": (1.0, 2.0)})  # a list for whoever reads it
        assert study.trials == elsewhere(tmp_path)
        if number == 1:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif number != 2:  # which goes on
            with together(study):
                trial.set_constraint("min_dice", -1.0)
                study.tell(trial, [50.0 + number, 3.0])
        assert study.trials == elsewhere(tmp_path)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "PRUNED", "RUNNING", "COMPLETE", "COMPLETE"]
    assert study.trials[0].params == {"resolution": 64, "grouping": "dense"}
    assert study.trials[0].constraints == {"min_dice": -1.0}


def test_a_trial_that_runs_is_not_read_again(study: optuna.Study) -> None:
    running = [study.ask() for _ in range(3)]
    storage = study._storage
    assert isinstance(storage, SingleWriterStorage)
    study.get_trials(deepcopy=False)
    statements: list[str] = []
    with each_statement(statements.append):
        study.get_trials(deepcopy=False)
        assert not statements
        running[0].set_user_attr("label", "a")
        assert study.get_trials(deepcopy=False)[0].user_attrs == {"label": "a"}
        assert not any(each.startswith("SELECT") and "trial_params" in each for each in statements)


def test_changes_together_are_seen_at_once_or_never(study: optuna.Study, tmp_path: Path) -> None:
    trial = study.ask()
    with together(study):
        suggest(trial)
        assert elsewhere(tmp_path)[0].params == {}
        with together(study):
            trial.set_user_attr("label", "a")
        assert elsewhere(tmp_path)[0].user_attrs == {}  # the inner block is a part of the outer one
    assert len(elsewhere(tmp_path)[0].params) == 2
    with pytest.raises(KeyboardInterrupt), together(study):
        trial.set_user_attr("label", "b")
        study.enqueue_trial({"resolution": 64})
        assert len(study.trials) == 2
        raise KeyboardInterrupt
    assert study.trials == elsewhere(tmp_path)
    assert [each.user_attrs for each in study.trials] == [{"label": "a"}]
    trial.set_user_attr("label", "c")  # outside of such a block each change is written by itself
    assert elsewhere(tmp_path)[0].user_attrs == {"label": "c"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("one_by_one", [True, False])
def test_ctrl_c_in_the_middle_of_a_query_leaves_no_lock(
    study: optuna.Study, tmp_path: Path, number: signal.Signals, one_by_one: bool
) -> None:
    """What an interrupted query was reading would stay locked for as long as the exception lives."""
    trial = study.ask()

    def interrupt(statement: str) -> None:
        if statement.startswith("SELECT"):
            signal.raise_signal(number)

    block = nullcontext() if one_by_one else together(study)
    with terminable(), pytest.raises(KeyboardInterrupt) as kept, each_statement(interrupt), block:
        trial.set_user_attr("label", "a")
    assert kept.tb is not None
    with closing(sqlite3.connect(tmp_path / "study.db", timeout=0)) as other:
        other.execute("UPDATE studies SET study_name = 's'")
        other.commit()
    trial.set_user_attr("label", "b")
    assert elsewhere(tmp_path)[0].user_attrs == {"label": "b"}
