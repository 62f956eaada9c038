from __future__ import annotations

import json

from autocompress.reports.records import StudyView


def test_a_study_survives_json(view: StudyView) -> None:
    again = StudyView.from_dict(json.loads(json.dumps(view.to_dict())))
    assert again.to_dict() == view.to_dict()
    assert again.front_trials[0].config == view.front_trials[0].config


def test_the_front_is_told_fastest_first(view: StudyView) -> None:
    assert [trial.number for trial in view.front_trials] == [3, 7, 12, 18]
    assert [trial.number for trial in StudyView.from_dict({**view.to_dict(), "front": [18, 3]}).front_trials] == [3, 18]


def test_trials_are_counted_by_state(view: StudyView) -> None:
    assert view.counts == {"complete": 12, "pruned": 4, "failed": 4}


def test_frames_a_second_are_those_of_a_single_stream(view: StudyView) -> None:
    assert view.front_trials[2].fps == 1000 / 1.9
