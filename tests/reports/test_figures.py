from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from autocompress.reports.figures import front_figure, front_svg
from autocompress.reports.records import StudyView


def traces(view: StudyView) -> dict[str, dict[str, list[float]]]:
    figure = front_figure(view).to_plotly_json()
    return {trace["name"]: trace for trace in figure["data"] if trace.get("name")}


def test_every_trial_is_where_it_was_measured_and_says_how(view: StudyView) -> None:
    found = traces(view)
    assert found["Pareto front, measured"]["x"] == [0.41, 0.98, 1.9]
    assert found["Pareto front, measured"]["y"] == [61.2, 72.5, 76.4]
    assert found["Pareto front, measured"]["marker"]["symbol"] == "circle"
    assert found["Pareto front, predicted"]["x"] == [8.7]
    assert found["Pareto front, predicted"]["marker"]["symbol"] == "diamond"
    assert found["the same on test cases"]["y"] == [60.1, 71.9, 74.2, 80.3]
    assert len(found["other trials, measured"]["x"]) == 8
    assert len(found["refused or stopped early"]["x"]) == 4
    assert "64px L2 w0.25 depthwise fp32" in found["Pareto front, measured"]["hovertext"][2]
    assert "1.90" in found["Pareto front, measured"]["hovertext"][2]


def test_latency_is_logarithmic_and_constraints_are_lines(view: StudyView) -> None:
    layout = front_figure(view).to_plotly_json()["layout"]
    assert layout["xaxis"]["type"] == "log"
    assert "partly predicted" in layout["xaxis"]["title"]["text"]
    assert {(shape["x0"], shape["y0"]) for shape in layout["shapes"]} == {(0, 60.0), (20.0, 0)}


def test_trials_that_are_far_too_bad_do_not_squeeze_the_front(view: StudyView) -> None:
    bad = tuple(replace(trial, dice=1.0) if trial.number == 2 else trial for trial in view.trials)
    layout = front_figure(replace(view, trials=bad)).to_plotly_json()["layout"]
    assert layout["yaxis"]["range"][0] > 30
    assert any("1 trial below" in note["text"] for note in layout["annotations"])


def test_texts_from_outside_stay_texts(view: StudyView) -> None:
    odd = replace(view, target="<b>x</b>", trials=tuple(replace(t, reason="<a href='x'>") for t in view.trials))
    assert "<a" not in front_figure(odd).to_json()
    ElementTree.fromstring(front_svg(replace(odd, name='"<&')))


def test_the_svg_shows_the_front_in_order(view: StudyView) -> None:
    space = "{http://www.w3.org/2000/svg}"
    root = ElementTree.fromstring(front_svg(view))
    circles = [node for node in root.iter(f"{space}circle") if node.get("class") == "front" and node.get("cx") != "0.0"]
    xs, ys = [float(node.get("cx", 0)) for node in circles], [float(node.get("cy", 0)) for node in circles]
    assert len(xs) == 3
    assert xs == sorted(xs)
    assert ys == sorted(ys, reverse=True)
    # On a logarithmic axis, equal ratios are equal distances: log(.98/.41) / log(1.9/.98).
    assert (xs[1] - xs[0]) / (xs[2] - xs[1]) == pytest.approx(1.316, abs=0.01)
    texts = " ".join(node.text or "" for node in root.iter(f"{space}text"))
    assert "Pareto front, predicted" in texts
    assert "constraint" in texts


def test_numbers_of_close_members_do_not_lie_on_each_other(view: StudyView) -> None:
    """Three at 5.0, 5.2 and 5.4 ms: that in the middle has its number below."""
    moved = []
    for trial, ms in zip((each for each in view.trials if each.number in view.front[:3]), (5.0, 5.2, 5.4), strict=True):
        moved.append(replace(trial, latency_ms=dict.fromkeys(trial.latency_ms, ms), dice=75 + ms))
    front = tuple(trial.number for trial in moved)
    root = ElementTree.fromstring(front_svg(replace(view, front=front, trials=tuple(moved))))
    labels = [node for node in root.iter("{http://www.w3.org/2000/svg}text") if node.get("class") == "label"]
    assert [node.get("text-anchor") for node in labels] == ["end", "middle", "end"]


@pytest.mark.parametrize("front", [(), (3,)])
def test_small_studies_have_a_picture_too(view: StudyView, front: tuple[int, ...]) -> None:
    for small in (replace(view, front=front), replace(view, front=front, trials=view.trials[3:4], constraints={})):
        front_figure(small)
        ElementTree.fromstring(front_svg(small))
    empty = replace(view, front=(), trials=(), constraints={})
    front_figure(empty)
    ElementTree.fromstring(front_svg(empty))
