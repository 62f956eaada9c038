"""Tables for the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table

from autocompress.reports import text
from autocompress.reports.records import StudyView


def front_table(view: StudyView) -> Table:
    """The Pareto front, the fastest member first; every latency says whether it was measured or predicted.

    It fits a terminal of 80 columns: what is the same for all members is told in the title.
    """
    members = view.front_trials
    told = [[text.how(trial) for trial in members], [trial.engine for trial in members]]
    common = [values[0] for values in told if len(set(values)) == 1 and values[0]]
    differing = [values for values in told if len(set(values)) > 1]
    title = f"Pareto front of {view.name} on {view.target}" + (f" ({', '.join(common)})" if common else "")
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=0)
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("configuration", min_width=14)
    for name in ("Dice", "test", "p50 ms", "p90 ms", "FPS", "params", "GMacs", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    for index, trial in enumerate(members):
        cells = [
            str(trial.number),
            # What differs goes below the configuration: further columns would not fit.
            ", ".join([trial.config.label, *(values[index] for values in differing)]),
            text.number(trial.dice),
            text.number(trial.dice_test),
            text.milliseconds(trial.latency_ms.get("p50")),
            text.milliseconds(trial.latency_ms.get("p90")),
            text.number(trial.fps, 0 if (trial.fps or 0) >= 100 else 1),
            text.count(trial.parameters),
            text.number(trial.gmacs, 3),
            text.size(trial.size_bytes),
        ]
        table.add_row(*cells)
    return table
