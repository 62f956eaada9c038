"""Every second of wall time is booked once, also across a kill."""

import time
from pathlib import Path

import pytest

from autocompress.paths import read_json, write_json
from autocompress.search.ledger import PHASES, STATE_FILE, Ledger


def test_a_stage_is_split_by_what_its_workers_did(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with ledger.stage(2) as stage:
        time.sleep(0.4)
        # Two workers: one trained for all of the time, the other one measured for half of it and then had nothing.
        stage.add({"train": 0.4})
        stage.add({"measure": 0.2})
    seconds = ledger.seconds()
    assert set(seconds) == set(PHASES)
    assert seconds["train"] == pytest.approx(0.2, abs=0.01)
    assert seconds["measure"] == pytest.approx(0.1, abs=0.01)
    assert sum(seconds.values()) == pytest.approx(0.4, abs=0.1)


def test_workers_that_claim_more_than_there_was_are_scaled_to_the_wall_time(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with ledger.stage(1) as stage:
        time.sleep(0.1)
        stage.add({"train": 3.0, "measure": 1.0})
    seconds = ledger.seconds()
    assert seconds["train"] == pytest.approx(3 * seconds["measure"], rel=0.2)
    assert sum(seconds.values()) < 0.5


def test_goes_on_where_it_stopped_and_books_what_a_killed_driver_had_spent(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with ledger.phase("setup"):
        pass
    write_json(tmp_path / STATE_FILE, {**read_json(tmp_path / STATE_FILE), "spent": 100.0})
    again = Ledger(tmp_path)
    assert again.spent == pytest.approx(100.0)
    assert again.seconds()["other"] == pytest.approx(100.0, abs=0.1)
