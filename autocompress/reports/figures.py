"""The Pareto front as a picture: interactive with Plotly, or a small SVG for a page of text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from autocompress.pareto import non_dominated
from autocompress.reports import text
from autocompress.reports.records import StudyView, TrialView

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Distinguishable for colour-blind readers, and with enough contrast on white and on near-black.
FRONT_COLOUR = "#2b7fd4"
TEST_COLOUR = "#d9711c"
OTHER_COLOUR = "#8b939c"
LIMIT_COLOUR = "#c2413b"
LABEL_WIDTH, LABEL_HEIGHT = 0.06, 0.05
"""Of a member's number, as shares of the axes."""


def front_figure(view: StudyView) -> Figure:
    """Dice against latency (logarithmic): every judged trial in grey, the front highlighted.

    Circles are measured and diamonds predicted latencies; small open squares show the Dice of the front's members on
    the test cases; constraints are dashed lines; trials that were refused for their latency, or stopped at a rung, are
    ticks at the bottom.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    front = _placed(view, view.front_trials)
    judged = _placed(view, view.trials)
    others = [trial for trial in judged if trial.number not in view.front]
    low, high = _dice_range(view)
    refused = [trial for trial in view.trials if trial.dice is None and view.latency(trial)]
    if refused:
        figure.add_trace(
            go.Scatter(
                x=[view.latency(trial) for trial in refused],
                y=[low] * len(refused),
                mode="markers",
                name="refused or stopped early",
                marker={"symbol": "line-ns-open", "size": 10, "color": OTHER_COLOUR, "line": {"width": 1.5}},
                hovertext=[_hover(view, trial) for trial in refused],
                hoverinfo="text",
                cliponaxis=False,
            )
        )
    for trials, name in (
        ([trial for trial in others if trial.measured], "other trials, measured"),
        ([trial for trial in others if not trial.measured], "other trials, predicted"),
    ):
        if trials:
            marker = {"symbol": _symbol(trials[0]), "size": 8, "color": OTHER_COLOUR, "opacity": 0.65}
            figure.add_trace(_scatter(view, trials, name, marker))
    if stairs := _staircase(view, front):
        figure.add_trace(
            go.Scatter(
                x=[view.latency(trial) for trial in stairs],
                y=[trial.dice for trial in stairs],
                mode="lines",
                line={"shape": "hv", "color": FRONT_COLOUR, "width": 1.5, "dash": "dot"},
                hoverinfo="skip",
                showlegend=False,
            )
        )
    crowded = _crowded(view, front)
    for trials, name in (
        ([trial for trial in front if trial.measured], "Pareto front, measured"),
        ([trial for trial in front if not trial.measured], "Pareto front, predicted"),
    ):
        if trials:
            marker = {"symbol": _symbol(trials[0]), "size": 13, "color": FRONT_COLOUR}
            trace = _scatter(view, trials, name, marker)
            sides = ["bottom center" if trial.number in crowded else "top left" for trial in trials]
            trace.update(mode="markers+text", text=[f"#{trial.number}" for trial in trials], textposition=sides)
            figure.add_trace(trace)
    tested = [trial for trial in front if trial.dice_test is not None]
    if tested:
        marker = {"symbol": "square-open", "size": 9, "color": TEST_COLOUR, "line": {"width": 2}}
        figure.add_trace(
            go.Scatter(
                x=[view.latency(trial) for trial in tested],
                y=[trial.dice_test for trial in tested],
                mode="markers",
                name="the same on test cases",
                marker=marker,
                hovertext=[f"trial {trial.number}: {trial.dice_test:.2f} Dice on test cases" for trial in tested],
                hoverinfo="text",
            )
        )
    _limits(figure, view)
    figure.update_xaxes(
        type="log",
        title=f"{view.percentile} latency on {escape(view.target)} in ms ({_certainty(view)}), logarithmic",
        tickvals=(ticks := _log_ticks([view.latency(trial) for trial in [*judged, *refused]], view)),
        ticktext=[f"{tick:g}" for tick in ticks],
        showline=True,
        zeroline=False,
    )
    figure.update_yaxes(title="Dice in %, validation cases", range=[low, high], showline=True, zeroline=False)
    if below := _below(view, low):
        figure.add_annotation(
            text=f"{below}; double-click shows all",
            showarrow=False,
            **{"xref": "paper", "x": 0, "xanchor": "left", "yref": "paper", "y": 1, "yanchor": "bottom", "yshift": 16},
        )
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 64, "r": 16, "t": 36, "b": 56},
        legend={"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0},
        hovermode="closest",
        font={"family": "system-ui, sans-serif", "size": 13},
    )
    return figure


def front_svg(view: StudyView, *, width: int = 760, height: int = 440) -> str:
    """The same picture as a small, static SVG that follows the reader's light or dark colours.

    Args:
        width, height: in pixels.
    """
    left, right, bottom = 58, 16, 48
    front = _placed(view, view.front_trials)
    others = [trial for trial in _placed(view, view.trials) if trial.number not in view.front]
    legend, lines = _svg_legend(view, left, width - right, front, others)
    top = 22 + 20 * lines
    low, high = _dice_range(view)
    x_low, x_high = _latency_range(view)

    def x(latency: float) -> float:
        return left + (math.log(latency) - math.log(x_low)) / (math.log(x_high) - math.log(x_low)) * (
            width - left - right
        )

    def y(dice: float) -> float:
        return height - bottom - (dice - low) / (high - low) * (height - top - bottom)

    def at(trial: TrialView) -> tuple[float, float]:
        return x(view.latency(trial) or x_low), y(trial.dice or 0.0)

    parts = [
        f'<line class="axis" x1="{left}" y1="{height - bottom}" x2="{width - right}" y2="{height - bottom}"/>',
        f'<line class="axis" x1="{left}" y1="{top}" x2="{left}" y2="{height - bottom}"/>',
    ]
    for tick in _log_ticks([x_low, x_high], view):
        if x_low <= tick <= x_high:
            parts.append(
                f'<line class="grid" x1="{x(tick):.1f}" y1="{top}" x2="{x(tick):.1f}" y2="{height - bottom}"/>'
            )
            parts.append(f'<text x="{x(tick):.1f}" y="{height - bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for dice in _linear_ticks(low, high):
        parts.append(f'<line class="grid" x1="{left}" y1="{y(dice):.1f}" x2="{width - right}" y2="{y(dice):.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{y(dice) + 4:.1f}" text-anchor="end">{dice:g}</text>')
    if (minimum := view.constraints.get("min_dice")) is not None and low <= minimum <= high:
        parts.append(
            f'<line class="limit" x1="{left}" y1="{y(minimum):.1f}" x2="{width - right}" y2="{y(minimum):.1f}"/>'
        )
    if (maximum := view.constraints.get("max_latency_ms")) is not None and x_low <= maximum <= x_high:
        parts.append(
            f'<line class="limit" x1="{x(maximum):.1f}" y1="{top}" x2="{x(maximum):.1f}" y2="{height - bottom}"/>'
        )
    visible = [trial for trial in others if (trial.dice or 0.0) >= low]
    parts += [_svg_mark(*at(trial), 3.5, "other", measured=trial.measured) for trial in visible]
    stairs = _staircase(view, front)
    if len(stairs) > 1:
        corners = [at(stairs[0])]
        for trial in stairs[1:]:
            corners += [(at(trial)[0], corners[-1][1]), at(trial)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
        parts.append(f'<polyline class="step" points="{path}"/>')
    crowded = _crowded(view, front)
    for trial in front:
        a, b = at(trial)
        above = f'x="{a - 8:.1f}" y="{b - 8:.1f}" text-anchor="end"'
        below_it = f'x="{a:.1f}" y="{b + 19:.1f}" text-anchor="middle"'
        parts.append(f"<g><title>{escape(_plain_hover(view, trial))}</title>")
        parts.append(_svg_mark(a, b, 6, "front", measured=trial.measured))
        parts.append(f'<text class="label" {below_it if trial.number in crowded else above}>#{trial.number}</text></g>')
        if trial.dice_test is not None and low <= trial.dice_test <= high:
            c = y(trial.dice_test)
            parts.append(f'<rect class="test" x="{a - 3.5:.1f}" y="{c - 3.5:.1f}" width="7" height="7"/>')
    axis = f"{view.percentile} latency on {view.target} in ms ({_certainty(view)}), logarithmic"
    parts.append(f'<text x="{(left + width - right) / 2}" y="{height - 10}" text-anchor="middle">{escape(axis)}</text>')
    middle = (top + height - bottom) / 2
    parts.append(f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">Dice in %</text>')
    if below := _below(view, low):
        place = f'x="{width - right}" y="{height - 10}" text-anchor="end"'
        parts.append(f'<text class="note" {place}>{escape(below)}</text>')
    parts += legend
    title = f"Pareto front of {view.name}: Dice against {axis}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">\n<title>{escape(title)}</title>\n{_SVG_STYLE}\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


_SVG_STYLE = f"""<style>
text {{ font: 12px system-ui, sans-serif; fill: #333a42 }}
.label {{ font-weight: 600 }}
.note {{ font-size: 11px }}
.axis {{ stroke: #7c858f }}
.grid {{ stroke: #7c858f; stroke-opacity: .2 }}
.limit {{ stroke: {LIMIT_COLOUR}; stroke-dasharray: 6 4 }}
.step {{ fill: none; stroke: {FRONT_COLOUR}; stroke-dasharray: 2 3; stroke-width: 1.5 }}
.front {{ fill: {FRONT_COLOUR} }}
.other {{ fill: {OTHER_COLOUR}; fill-opacity: .65 }}
.test {{ fill: none; stroke: {TEST_COLOUR}; stroke-width: 2 }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #dfe5ea }} }}
</style>"""


def _svg_mark(x: float, y: float, radius: float, kind: str, *, measured: bool) -> str:
    if measured:
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
    r = radius * 1.25
    return f'<path class="{kind}" d="M{x:.1f} {y - r:.1f}l{r} {r}l{-r} {r}l{-r} {-r}z"/>'


def _svg_legend(
    view: StudyView, left: int, right: int, front: Sequence[TrialView], others: Sequence[TrialView]
) -> tuple[list[str], int]:
    """Marks with their meaning between two edges, and the number of lines that they take."""
    entries: list[tuple[str, str]] = []
    for measured, word in ((True, "measured"), (False, "predicted")):
        if any(trial.measured is measured for trial in front):
            entries.append((_svg_mark(0, 0, 6, "front", measured=measured), f"Pareto front, {word}"))
        if any(trial.measured is measured for trial in others):
            entries.append((_svg_mark(0, 0, 3.5, "other", measured=measured), f"other trials, {word}"))
    if any(trial.dice_test is not None for trial in front):
        entries.append(('<rect class="test" x="-3.5" y="-3.5" width="7" height="7"/>', "on test cases"))
    if view.constraints:
        entries.append(('<line class="limit" x1="-8" y1="0" x2="8" y2="0"/>', "constraint"))
    parts: list[str] = []
    place, line = float(left + 8), 0
    for mark, label in entries:
        width = 30 + 6.5 * len(label)
        if place + width > right and place > left + 8:
            place, line = float(left + 8), line + 1
        parts.append(
            f'<g transform="translate({place:.0f} {18 + 20 * line})">{mark}<text x="12" y="4">{label}</text></g>'
        )
        place += width
    return parts, line + 1


def _scatter(view: StudyView, trials: Sequence[TrialView], name: str, marker: dict[str, Any]) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        x=[view.latency(trial) for trial in trials],
        y=[trial.dice for trial in trials],
        mode="markers",
        name=name,
        marker=marker,
        hovertext=[_hover(view, trial) for trial in trials],
        hoverinfo="text",
    )


def _symbol(trial: TrialView) -> str:
    return "circle" if trial.measured else "diamond"


def _limits(figure: Figure, view: StudyView) -> None:
    line = {"color": LIMIT_COLOUR, "dash": "dash", "width": 1.5}
    text_style = {"showarrow": False, "font": {"color": LIMIT_COLOUR}}
    if (minimum := view.constraints.get("min_dice")) is not None:
        figure.add_shape(type="line", xref="paper", x0=0, x1=1, y0=minimum, y1=minimum, line=line)
        place = {"xref": "paper", "x": 1, "xanchor": "right", "y": minimum, "yanchor": "bottom"}
        figure.add_annotation(text=f"Dice ≥ {minimum:g}", **place, **text_style)
    if (maximum := view.constraints.get("max_latency_ms")) is not None:
        figure.add_shape(type="line", yref="paper", y0=0, y1=1, x0=maximum, x1=maximum, line=line)
        # On a logarithmic axis, Plotly wants the logarithm for annotations, and the value for shapes.
        place = {"x": math.log10(maximum), "xanchor": "center", "yref": "paper", "y": 1, "yanchor": "bottom"}
        figure.add_annotation(text=f"≤ {maximum:g} ms", **place, **text_style)


def _certainty(view: StudyView) -> str:
    """``measured``, ``predicted`` or ``partly predicted``: the latencies in the picture."""
    kinds = {trial.measured for trial in view.trials if view.latency(trial)}
    return "partly predicted" if len(kinds) == 2 else "predicted" if kinds == {False} else "measured"


def _placed(view: StudyView, trials: Iterable[TrialView]) -> list[TrialView]:
    """Trials with a place in the picture: those with both objectives."""
    return [trial for trial in trials if trial.dice is not None and view.latency(trial)]


def _staircase(view: StudyView, front: Sequence[TrialView]) -> list[TrialView]:
    """The members that no other one beats in Dice and the latency shown here: with several targets not all of them."""
    return non_dominated(front, lambda each: (view.latency(each) or 0.0, -(each.dice or 0.0)))


def _crowded(view: StudyView, front: Sequence[TrialView]) -> set[int]:
    """Members, by number, of which a label above would lie on that of the one before; theirs goes below."""
    low, high = _dice_range(view)
    x_low, x_high = _latency_range(view)
    found: set[int] = set()
    for before, each in itertools.pairwise(front):
        apart = math.log((view.latency(each) or 1.0) / (view.latency(before) or 1.0)) / math.log(x_high / x_low)
        higher = ((each.dice or 0.0) - (before.dice or 0.0)) / (high - low)
        if before.number not in found and abs(apart) < LABEL_WIDTH and abs(higher) < LABEL_HEIGHT:
            found.add(each.number)
    return found


def _dice_range(view: StudyView) -> tuple[float, float]:
    """Limits of the Dice axis: all of the front, and of the rest what does not squeeze it (see `_below`)."""
    judged = [trial.dice or 0.0 for trial in _placed(view, view.trials)]
    front = _placed(view, view.front_trials)
    shown = [value for trial in front for value in (trial.dice, trial.dice_test) if value is not None] or judged
    if (minimum := view.constraints.get("min_dice")) is not None:
        shown = [*shown, minimum]
    if not shown:
        return 0.0, 100.0
    spread = max(10.0, max(shown) - min(shown))
    lowest, highest = max(min([*shown, *judged]), min(shown) - spread), max([*shown, *judged])
    margin = max(1.0, 0.08 * (highest - lowest))
    return max(0.0, lowest - margin), min(100.0, highest + margin)


def _below(view: StudyView, low: float) -> str:
    """A line about the trials that are too bad for the Dice axis; empty where there is none."""
    number = sum((trial.dice or 0.0) < low for trial in _placed(view, view.trials))
    return f"{number} {'trial' if number == 1 else 'trials'} below {low:.0f} Dice" if number else ""


def _latency_range(view: StudyView) -> tuple[float, float]:
    values = [latency for trial in _placed(view, view.trials) if (latency := view.latency(trial))]
    if (maximum := view.constraints.get("max_latency_ms")) is not None:
        values.append(maximum)
    if not values:
        return 1.0, 100.0
    return min(values) / 1.2, max(values) * 1.2


def _log_ticks(values: Iterable[float | None], view: StudyView) -> list[float]:
    """Ticks at 1, 2, 5 times powers of ten around the values."""
    known = [value for value in values if value] + [
        value for name, value in view.constraints.items() if name == "max_latency_ms" and value
    ]
    if not known:
        return [1, 10, 100]
    first, last = math.floor(math.log10(min(known))) - 1, math.ceil(math.log10(max(known))) + 1
    ticks = [base * 10.0**power for power in range(first, last + 1) for base in (1, 2, 5)]
    return [tick for tick in ticks if min(known) / 2.5 <= tick <= max(known) * 2.5]


def _linear_ticks(low: float, high: float) -> list[float]:
    step = next(step for step in (0.5, 1, 2, 5, 10, 20, 50) if (high - low) / step <= 8)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _facts(view: StudyView, trial: TrialView) -> list[str]:
    dice = "no Dice" if trial.dice is None else f"{trial.dice:.2f} Dice (validation)"
    test = [] if trial.dice_test is None else [f"{trial.dice_test:.2f} Dice (test)"]
    latency = trial.latency_ms
    timing = ", ".join(
        f"{name} {text.milliseconds(latency[name])}" for name in ("p50", "p90", "p99") if name in latency
    )
    return [
        f"trial {trial.number}: {trial.config.label}",
        dice,
        *test,
        f"{timing} ms ({text.how(trial)}, {trial.engine or 'unknown engine'})",
        f"{text.count(trial.parameters)} parameters, {text.number(trial.gmacs, 3)} GMacs, "
        f"{text.size(trial.size_bytes)}",
        *([trial.reason] if trial.reason else []),
    ]


def _hover(view: StudyView, trial: TrialView) -> str:
    # Plotly reads a few HTML tags in texts; reasons and names come from outside.
    return "<br>".join(escape(fact) for fact in _facts(view, trial))


def _plain_hover(view: StudyView, trial: TrialView) -> str:
    return "; ".join(_facts(view, trial))
