"""Figures as people read them, and a study in a few sentences."""

from __future__ import annotations

import math

from autocompress.reports.records import StudyView, TrialView

MISSING = "–"


def number(value: float | None, digits: int = 2) -> str:
    """A number with so many decimals, or a dash where it is unknown."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def milliseconds(value: float | None) -> str:
    """A latency with three significant digits at least: 0.412, 3.41, 41.2, 412."""
    if value is None or not math.isfinite(value):
        return MISSING
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{min(digits, 3)}f}"


def count(value: float | None) -> str:
    """A number of parameters: 912, 84.3 k, 7.84 M."""
    if value is None:
        return MISSING
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:g}"


def size(value: float | None) -> str:
    """A number of bytes: 912 B, 84.3 kB, 7.84 MB."""
    if value is None:
        return MISSING
    text = count(value)
    return f"{text}B" if " " in text else f"{text} B"


def duration(seconds: float | None) -> str:
    """A time: 4.2 s, 3 min 12 s, 2 h 05 min."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def how(trial: TrialView) -> str:
    """``measured``, ``measured, disturbed`` or ``predicted``."""
    if not trial.measured:
        return "predicted"
    return "measured, disturbed" if trial.disturbed else "measured"


def constraints(view: StudyView) -> str:
    """The constraints in words."""
    words = {
        "min_dice": lambda value: f"Dice at least {value:g}",
        "max_latency_ms": lambda value: f"{view.percentile} at most {value:g} ms",
        "max_memory_bytes": lambda value: f"memory at most {size(value)}",
        "max_size_bytes": lambda value: f"file at most {size(value)}",
    }
    told = [words[name](value) for name, value in view.constraints.items() if name in words and value is not None]
    return ", ".join(told) or "none"


def headlines(view: StudyView) -> list[str]:
    """The best trade-offs on each of the study's targets."""
    views = view.views
    if len(views) == 1:
        return headline(view)
    return [f"On {each.target}: {sentence}" for each in views for sentence in headline(each)]


def headline(view: StudyView) -> list[str]:
    """The best trade-offs, one sentence each; what the front has to offer, or what came nearest to it."""
    members = [trial for trial in view.front_trials if trial.dice is not None and view.latency(trial)]
    if not members:
        return _nearest_miss(view)
    fastest, best = members[0], max(members, key=_dice)
    sentences = [f"Most accurate: {_described(view, best)}."]
    near = next(trial for trial in members if _dice(trial) >= _dice(best) - 1)
    if near not in (best, fastest):
        sentences.append(f"Within one point of it, {_ratio(view, best, near)} times as fast: {_described(view, near)}.")
    if fastest is not best:
        sentences.append(
            f"Fastest: {_described(view, fastest)}, {_ratio(view, best, fastest)} times as fast as the most accurate "
            f"for {_dice(best) - _dice(fastest):.1f} points of Dice less."
        )
    tested = [trial for trial in members if trial.dice_test is not None]
    if tested:
        gap = sum(_dice(trial) - (trial.dice_test or 0) for trial in tested) / len(tested)
        side = "below" if gap >= 0 else "above"
        sentences.append(
            f"On the test cases, which the search never saw, Dice is {abs(gap):.1f} points {side} that of the "
            f"validation cases on average ({len(tested)} {'model' if len(tested) == 1 else 'models'})."
        )
    return sentences


def _nearest_miss(view: StudyView) -> list[str]:
    judged = [trial for trial in view.trials if trial.dice is not None and view.latency(trial)]
    if not judged:
        return ["No trial has been judged yet."]
    best = max(judged, key=_dice)
    return [f"No model meets the constraints ({constraints(view)}). Most accurate: {_described(view, best)}."]


def _dice(trial: TrialView) -> float:
    return trial.dice if trial.dice is not None else -math.inf


def _ratio(view: StudyView, slow: TrialView, fast: TrialView) -> str:
    return f"{(view.latency(slow) or 0) / (view.latency(fast) or 1):.1f}"


def _described(view: StudyView, trial: TrialView) -> str:
    word = "" if trial.measured else " (predicted)"
    latency = f"{milliseconds(view.latency(trial))} ms {view.percentile}{word}"
    return f"trial {trial.number}, {trial.config.label}, with {_dice(trial):.1f} Dice at {latency}"
