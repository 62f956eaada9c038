"""Tables for the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table

from autocompress.reports import text
from autocompress.reports.records import StudyView, TrialView


def front_table(view: StudyView) -> Table:
    """The Pareto front, the fastest member first; every latency says whether it was measured or predicted.

    It fits a terminal of 80 columns: what is the same for all members is told in the title.
    """
    members = view.front_trials
    common = {_by(trial) for trial in members}
    same = common.pop() if len(common) == 1 else ""
    title = f"Pareto front of {view.name} on {view.target}" + (f" ({same})" if same else "")
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=0)
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("configuration", min_width=14)
    for name in ("Dice", "test", "p50 ms", "p90 ms", "FPS", "params", "GMacs", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    if not same:
        table.add_column("latency")
    for trial in members:
        cells = [
            str(trial.number),
            trial.config.label,
            text.number(trial.dice),
            text.number(trial.dice_test),
            text.milliseconds(trial.latency_ms.get("p50")),
            text.milliseconds(trial.latency_ms.get("p90")),
            text.number(trial.fps, 0 if (trial.fps or 0) >= 100 else 1),
            text.count(trial.parameters),
            text.number(trial.gmacs, 3),
            text.size(trial.size_bytes),
        ]
        table.add_row(*cells, *([] if same else [_by(trial)]))
    return table


def _by(trial: TrialView) -> str:
    return f"{text.how(trial)}, {trial.engine}" if trial.engine else text.how(trial)
