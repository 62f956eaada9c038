from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import optuna
from optuna_dashboard import get_note, save_note

from autocompress.reports.dashboard import FIGURE_ID, dashboard_server, publish, repeating, study_note, view_figure
from autocompress.reports.records import StudyView


def test_a_note_of_ours_is_renewed_and_one_that_people_wrote_is_kept(view: StudyView) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    publish(study, [view_figure(view)], study_note(view))
    assert "Most accurate: trial 18" in get_note(study)
    assert "predicted, not measured" in get_note(study)
    publish(study, [view_figure(view)], study_note(replace(view, front=(3,))))
    assert "Most accurate: trial 3" in get_note(study)
    save_note(study, "mine")
    publish(study, [view_figure(view)], study_note(view))
    assert get_note(study) == "mine"


def test_a_figure_replaces_the_one_before(view: StudyView) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    for shown in (view, replace(view, trials=view.trials[:4], front=(3,))):
        publish(study, [view_figure(shown)])
    stored = study._storage.get_study_system_attrs(study._study_id)
    pieces = sorted((int(key.rsplit(":", 1)[1]), value) for key, value in stored.items() if FIGURE_ID in key)
    figure = json.loads("".join(piece for _, piece in pieces))
    assert [len(trace["x"]) for trace in figure["data"] if trace.get("name") == "Pareto front, measured"] == [1]


def test_a_server_listens_from_the_start_and_on_any_free_port() -> None:
    storage = optuna.storages.InMemoryStorage()
    with dashboard_server(storage, "127.0.0.1", 0) as one, dashboard_server(storage, "127.0.0.1", 0) as other:
        assert one.server_port != other.server_port


def test_repeated_work_ends_with_its_block() -> None:
    calls: list[float] = []
    twice = threading.Event()

    def work() -> None:
        calls.append(time.monotonic())
        if len(calls) >= 2:
            twice.set()

    with repeating(work, 0.01):
        assert twice.wait(timeout=10)
    done = len(calls)
    time.sleep(0.05)
    assert len(calls) == done
