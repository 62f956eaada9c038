"""The report: one HTML file that needs nothing else, neither beside it nor from a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import autocompress
from autocompress.reports import text
from autocompress.reports.figures import front_figure, front_svg
from autocompress.reports.overlays import Example
from autocompress.reports.records import PHASES, StudyView, TrialView

_PHASE_COLOURS = ("#7c858f", "#2b7fd4", "#d9711c", "#2f9e77", "#9467bd", "#b9bfc6")


def html_report(view: StudyView, examples: Sequence[Example] = (), *, examples_note: str = "") -> str:
    """A study as one HTML document.

    Args:
        view: the study.
        examples: pictures of what members of the front make of real images.
        examples_note: a line in their place where there are none, or about them.
    """
    targets = ", ".join(each.target for each in view.views)
    title = f"{view.name} on {targets}"
    sections = [
        _section("front", "The front", _of_each(view, _chart)),
        _section("members", "Members of the front", _of_each(view, _front_table)),
        _section("classes", "Dice of each class", _class_tables(view)),
        _section("examples", "Examples", _examples(examples, examples_note)),
        _section("conditions", "Conditions of the measurements", _of_each(view, _conditions)),
        _section("time", "Where the time went", _time(view)),
        _section("trials", f"All trials ({len(view.trials)})", _of_each(view, _all_trials)),
        _section("provenance", "Provenance", _provenance(view)),
    ]
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in text.headlines(view))
    counts = ", ".join(f"{number} {state}" for state, number in view.counts.items()) or "no trials"
    facts = [
        ("target" if len(view.views) == 1 else "targets", targets),
        ("data", view.dataset),
        ("model family", view.family),
        ("constraints", text.constraints(view)),
        ("trials", counts),
        ("wall time", text.duration(sum(view.seconds.values())) if view.seconds else text.MISSING),
    ]
    listed = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    warning = ""
    measured = [trial.measured for each in view.views for trial in each.front_trials]
    if not all(measured):
        which = "Some" if any(measured) else "All"
        warning = (
            f'<p class="notice"><strong>Predicted.</strong> {which} latencies of this front were not measured.</p>'
        )
    notes = "".join(f'<p class="notice">{escape(note)}</p>' for note in view.notes)
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)} – autocompress</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style>\n<script>{_plotly_source()}</script></head>\n<body>\n"
        f'<header><p class="kind">Pareto report</p><h1>{escape(title)}</h1>'
        f'<dl>{listed}</dl></header>\n<main>{warning}{notes}<ul class="headline">{sentences}</ul>\n'
        + "\n".join(section for section in sections if section)
        + f"<script>{_CHART_SCRIPT}</script></main>\n<footer>Made by autocompress {escape(autocompress.__version__)}"
        f"{_since(view)}.</footer>\n</body></html>\n"
    )


def _of_each(view: StudyView, content: Callable[[StudyView], str]) -> str:
    """The content for each of the study's targets, headed by its name where there are several."""
    views = view.views
    if len(views) == 1:
        return content(view)
    parts = [(each.target, content(each)) for each in views]
    return "".join(f"<h3>{escape(name)}</h3>{part}" for name, part in parts if part)


def _since(view: StudyView) -> str:
    return f" for a study begun {escape(view.created)}" if view.created else ""


def _section(name: str, title: str, content: str) -> str:
    if not content:
        return ""
    heading = f'<h2 id="{name}-title">{escape(title)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{heading}{content}</section>'


def _plotly_source() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _chart(view: StudyView) -> str:
    figure = json.loads(front_figure(view).to_json())
    # The figure goes into a script element: nothing in it may end that element.
    data = json.dumps({"data": figure["data"], "layout": figure["layout"]})
    data = data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    kinds = ", diamonds predicted" if any(not trial.measured for trial in view.trials) else ""
    caption = (
        f"Up and to the left is better. Circles are measured{kinds}; grey are the other trials; squares show the same "
        "models on the test cases; dashed lines are constraints. Point at a mark for its configuration."
    )
    return (
        f'<figure><div class="chart" role="img" aria-label="{escape(_alternative(view))}"></div>'
        f"<noscript>{front_svg(view)}</noscript><figcaption>{caption}</figcaption></figure>"
        f'<script type="application/json" class="chart-data">{data}</script>'
    )


def _alternative(view: StudyView) -> str:
    return f"Dice against {view.percentile} latency; the table of the members below holds the same figures"


def _front_table(view: StudyView) -> str:
    if not view.front_trials:
        return "<p>The front is empty.</p>"
    head = [
        "trial",
        "configuration",
        "Dice",
        "Dice, test",
        f"HD95, {view.hd95_unit}",
        "p50 ms",
        "p90 ms",
        "FPS",
        "latency",
        "parameters",
        "GMacs",
        "size",
        "bundle",
    ]
    rows = [
        [
            str(trial.number),
            trial.config.label,
            text.number(trial.dice),
            text.number(trial.dice_test),
            text.number(trial.hd95),
            text.milliseconds(trial.latency_ms.get("p50")),
            text.milliseconds(trial.latency_ms.get("p90")),
            text.number(trial.fps, 0 if (trial.fps or 0) >= 100 else 1),
            f"{text.how(trial)}, {trial.engine}" if trial.engine else text.how(trial),
            text.count(trial.parameters),
            text.number(trial.gmacs, 3),
            text.size(trial.size_bytes),
            trial.bundle or text.MISSING,
        ]
        for trial in view.front_trials
    ]
    return _table(head, rows, words={1, 8, 12})


def _class_tables(view: StudyView) -> str:
    members = [trial for trial in view.front_trials if trial.per_class]
    if not members:
        return ""
    names = list(dict.fromkeys(name for trial in members for name in trial.per_class))
    parts = ["<h3>Validation cases</h3>", _class_table(names, [(trial, trial.per_class) for trial in members])]
    tested = [(trial, trial.per_class_test) for trial in view.front_trials if trial.per_class_test]
    if tested:
        parts += ["<h3>Test cases</h3>", _class_table(names, tested)]
    distances = [(trial, trial.hd95_per_class) for trial in view.front_trials if trial.hd95_per_class]
    if distances:
        parts += [f"<h3>HD95 in {escape(view.hd95_unit)}</h3>", _class_table(names, distances, shade=False)]
    return "".join(parts)


def _class_table(
    names: Sequence[str], rows: Iterable[tuple[TrialView, Mapping[str, float | None]]], *, shade: bool = True
) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ["trial", *names])
    body = ""
    for trial, values in rows:
        cells = ""
        for name in names:
            value = values.get(name)
            # A bar behind the figure: low classes are seen at a glance, and the figure stays text.
            bar = f' style="--share:{value:.1f}%" class="share"' if shade and value is not None else ""
            cells += f"<td{bar}>{text.number(value, 1)}</td>"
        body += f'<tr><th scope="row">{trial.number}</th>{cells}</tr>'
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _examples(examples: Sequence[Example], note: str) -> str:
    parts = [f"<p>{escape(note)}</p>"] if note else []
    if examples:
        legend = "".join(
            f'<li><span style="background:{colour}"></span>{escape(name)}</li>'
            for name, colour in examples[0].colours.items()
        )
        parts.append(f'<ul class="legend">{legend}</ul>')
    for example in examples:
        panels = "".join(
            f'<figure><img src="{_data_uri(panel.png)}" alt="{escape(panel.title)}, {escape(example.title)}">'
            f"<figcaption>{escape(panel.title)}{_small(panel.detail)}</figcaption></figure>"
            for panel in example.panels
        )
        parts.append(f'<h3>{escape(example.title)}</h3><div class="panels">{panels}</div>')
    return "".join(parts)


def _small(detail: str) -> str:
    return f"<br><small>{escape(detail)}</small>" if detail else ""


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _conditions(view: StudyView) -> str:
    """One column for each different set of conditions, so that what differs between members is seen."""
    members = [trial for trial in view.front_trials if trial.conditions or trial.engine]
    if not members:
        return ""
    groups: dict[str, list[TrialView]] = {}
    for trial in members:
        same = {name: value for name, value in trial.conditions.items() if not isinstance(value, float)}
        key = json.dumps(
            [trial.engine, trial.engine_version, trial.host, text.how(trial), same], sort_keys=True, default=str
        )
        groups.setdefault(key, []).append(trial)
    columns = list(groups.values())
    head = ["", *(f"trials {', '.join(str(trial.number) for trial in group)}" for group in columns)]
    rows = [
        ["latency", *(text.how(group[0]) for group in columns)],
        ["engine", *(f"{group[0].engine} {group[0].engine_version}".strip() for group in columns)],
        ["host", *(group[0].host or text.MISSING for group in columns)],
    ]
    names = list(dict.fromkeys(name for group in columns for trial in group for name in trial.conditions))
    rows += [
        [name.replace("_", " "), *(_spread([trial.conditions.get(name) for trial in group]) for group in columns)]
        for name in names
    ]
    return _table(head, rows, words=set(range(len(head))))


def _spread(values: Sequence[Any]) -> str:
    """One value, or the range of several."""
    known = [value for value in values if value is not None]
    if not known:
        return text.MISSING
    if all(isinstance(value, float) for value in known):
        low, high = min(known), max(known)
        return f"{low:g}" if low == high else f"{low:g} to {high:g}"
    first = known[0]
    if isinstance(first, Mapping):
        return ", ".join(f"{key} {value}" for key, value in first.items())
    if isinstance(first, (list, tuple)):
        return ", ".join(str(value) for value in first)
    return "yes" if first is True else "no" if first is False else str(first)


def _time(view: StudyView) -> str:
    total = sum(view.seconds.values())
    if total <= 0:
        return ""
    names = [name for name in PHASES if name in view.seconds] + [name for name in view.seconds if name not in PHASES]
    bars, rows = "", []
    for index, name in enumerate(names):
        seconds, colour = view.seconds[name], _PHASE_COLOURS[index % len(_PHASE_COLOURS)]
        share = 100 * seconds / total
        bars += f'<span style="width:{share:.2f}%;background:{colour}" title="{escape(name)} {share:.1f} %"></span>'
        rows.append([name, text.duration(seconds), f"{share:.1f} %"])
    return f'<div class="split" aria-hidden="true">{bars}</div>' + _table(["phase", "time", "share"], rows, words={0})


def _all_trials(view: StudyView) -> str:
    head = [
        "trial",
        "state",
        "configuration",
        "Dice",
        f"{view.percentile} ms",
        "latency",
        "parameters",
        "time",
        "reason",
    ]
    rows = []
    for trial in view.trials:
        known = view.latency(trial) is not None
        state = f"{trial.state}, front" if trial.number in view.front else trial.state
        rows.append(
            [
                str(trial.number),
                state,
                trial.config.label,
                text.number(trial.dice),
                text.milliseconds(view.latency(trial)),
                text.how(trial) if known else text.MISSING,
                text.count(trial.parameters),
                text.duration(trial.seconds),
                trial.reason,
            ]
        )
    return _table(head, rows, words={1, 2, 5, 8}, tall=True)


def _provenance(view: StudyView) -> str:
    rows = [
        ["study", view.name],
        ["begun", view.created],
        ["seed", text.MISSING if view.seed is None else str(view.seed)],
    ]
    rows += [[f"data {name.replace('_', ' ')}", str(value)] for name, value in view.data.items()]
    rows += [[name.replace("_", " "), str(value)] for name, value in view.machine.items()]
    rows += [[name, version] for name, version in view.packages.items()]
    return _table(["what", "value"], rows, words={0, 1})


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: set[int], tall: bool = False) -> str:
    """A table; columns outside ``words`` are figures. The first cell of a row is its heading."""

    def kind(index: int) -> str:
        return ' class="word"' if index in words else ""

    titles = "".join(f'<th scope="col"{kind(index)}>{escape(title)}</th>' for index, title in enumerate(head))
    body = ""
    for row in rows:
        first = f'<th scope="row"{kind(0)}>{escape(row[0])}</th>'
        rest = "".join(f"<td{kind(index)}>{escape(cell)}</td>" for index, cell in enumerate(row) if index)
        body += f"<tr>{first}{rest}</tr>"
    shape = "wide tall" if tall else "wide"
    return (
        f'<div class="{shape}" tabindex="0"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'
    )


_CHART_SCRIPT = """
document.querySelectorAll(".chart").forEach(function (place, index) {
  const figure = JSON.parse(document.querySelectorAll(".chart-data")[index].textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  function colours() {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
    const axes = {};
    for (const axis of ["xaxis", "yaxis"]) {
      axes[axis + ".gridcolor"] = line;
      axes[axis + ".linecolor"] = line;
      axes[axis + ".tickfont.color"] = ink;
      axes[axis + ".title.font.color"] = ink;
    }
    return Object.assign(axes, {"font.color": ink, "legend.font.color": ink});
  }
  const options = {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"]};
  Plotly.newPlot(place, figure.data, figure.layout, options).then(function () {
    Plotly.relayout(place, colours());
    Plotly.Plots.resize(place);
    dark.addEventListener("change", function () { Plotly.relayout(place, colours()); });
  });
});
"""

_STYLE = """
:root { --paper: #fbfbfa; --card: #fff; --ink: #22272d; --soft: #5c656f; --line: #dcdfe3; --accent: #1f6fbf;
  --bar: #cfe2f6; --notice: #fdf3dc; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --card: #1c2025; --ink: #e6e9ec; --soft: #9aa4ae;
  --line: #333a42; --accent: #6cb0f5; --bar: #24425f; --notice: #3a3019; } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; }
header, main, footer { max-width: 84rem; margin: 0 auto; padding: 0 1.5rem }
header { padding-top: 2.5rem }
.kind { margin: 0; color: var(--accent); font-size: .8rem; font-weight: 600; letter-spacing: .06em;
  text-transform: uppercase }
h1 { margin: 0 0 1rem; font-size: 2rem; line-height: 1.2; overflow-wrap: anywhere }
h2 { margin: 0 0 .75rem; font-size: 1.25rem }
h3 { margin: 1.25rem 0 .5rem; font-size: 1rem }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 0 0 1.5rem }
dt { color: var(--soft); font-size: .8rem } dd { margin: 0; font-weight: 600 }
section, .headline { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1.25rem 1.5rem; margin: 0 0 1.25rem }
.headline { padding-left: 2.5rem; font-size: 1.05rem } .headline li + li { margin-top: .35rem }
.notice { background: var(--notice); border-radius: .6rem; padding: .75rem 1.25rem; margin: 0 0 1rem }
figure { margin: 0; min-width: 0 } figcaption { color: var(--soft); font-size: .875rem }
.chart { height: 32rem; width: 100%; overflow: hidden }
noscript svg { max-width: 100%; height: auto }
.wide { overflow-x: auto } .tall { max-height: 36rem; overflow-y: auto }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; min-width: 40% }
th, td { padding: .4rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
thead th { color: var(--soft); font-weight: 600; position: sticky; top: 0; background: var(--card) }
tbody th { font-weight: 600 }
.word { text-align: left } td.word:last-child { white-space: normal; overflow-wrap: anywhere; min-width: 12rem }
#members th, #members td { padding: .4rem .45rem }
#members td.word { white-space: normal; min-width: 7rem; overflow-wrap: anywhere }
.share { background: linear-gradient(to right, var(--bar) var(--share), transparent var(--share)) }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; max-width: 68rem }
.panels img { width: 100%; display: block; border-radius: .3rem; image-rendering: auto; background: #000 }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; padding: 0; margin: 0 0 .5rem;
  font-size: .875rem }
.legend span { display: inline-block; width: .9rem; height: .9rem; border-radius: .2rem; margin-right: .4rem;
  vertical-align: -.1rem }
.split { display: flex; height: 1.25rem; border-radius: .3rem; overflow: hidden; margin-bottom: 1rem }
.split span { display: block; height: 100% }
footer { color: var(--soft); font-size: .85rem; padding-bottom: 2.5rem }
@media print { section { break-inside: avoid } .tall { max-height: none } }
"""
