"""What a person sees while a search runs."""

import io

import pytest
from rich.console import Console

from autocompress.search.display import Display, duration

TRIAL = {
    "event": "trial",
    "trial": 3,
    "state": "complete",
    "reason": "",
    "label": "64px L2 w0.25 depthwise fp32",
    "dice": 71.26,
    "latency_ms": 4.321,
    "feasible": True,
    "front": [{"trial": 3, "dice": 71.26, "latency_ms": 4.321}],
}


def show(*events: dict, terminal: bool) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120)
    with Display(console, "study x", 600.0, None) as display:
        for event in events:
            display(event)
    return stream.getvalue()


def test_a_log_gets_one_line_for_each_trial() -> None:
    lines = show({"event": "tick", "spent": 75.0, "eta": 10.0}, TRIAL, terminal=False).splitlines()
    assert lines[0] == "study x"
    assert lines[1] == "[1m15s] trial 3: 64px L2 w0.25 depthwise fp32: Dice 71.3, 4.32 ms *"


def test_a_terminal_shows_counts_time_left_running_trials_and_the_front() -> None:
    text = show(
        {"event": "stage", "stage": "searching", "spent": 60.0, "eta": 300.0},
        {"event": "started", "trial": 4, "label": "32px L1 w0.5 dense int8"},
        TRIAL,
        {"event": "tick", "spent": 61.0, "eta": 299.0},
        terminal=True,
    )
    assert "ETA 4m59s" in text and "1 complete" in text and "front so far" in text
    assert "running   4  32px L1 w0.5 dense int8" in text and "71.3" in text and "4.32" in text


def test_data_without_test_volumes_can_be_confirmed() -> None:
    event = {"event": "confirmed", "trial": 3, "dice": 71.26, "dice_test": None, "latency_ms": 4.3}
    assert "no test volumes (validation 71.3)" in show(event, terminal=False)


def test_refused_trials_say_why() -> None:
    text = show({**TRIAL, "state": "pruned", "reason": "30.00 ms is above --max-latency 20"}, terminal=False)
    assert "trial 3 pruned" in text and "above --max-latency 20" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.4, "59s"), (60, "1m00s"), (3599, "59m59s"), (7800, "2h10m")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_rung_and_what_the_confirmation_changed_are_told() -> None:
    rung = {"event": "rung", "trial": 3, "share": 1 / 3, "dice": 61.24, "label": "x", "goes_on": True, "reason": ""}
    assert "trial 3: Dice 61.2 after 33 % of its training, goes on" in show(rung, terminal=False)
    event = {
        "event": "confirmed",
        "trial": 3,
        "dice": 72.5,
        "dice_test": 70.1,
        "latency_ms": 4.4,
        "longer_seconds": 12.0,
    }
    text = show({**event, "was": {"dice": 71.26, "latency_ms": [4.321]}}, terminal=False)
    assert "test Dice 70.1 (validation 71.3 -> 72.5 after 12 s more), latency 4.32 -> 4.40 ms" in text
