"""Tables for the terminal."""

from __future__ import annotations

from rich.table import Table

from autocompress.reports import text
from autocompress.reports.records import StudyView


def front_table(view: StudyView) -> Table:
    """The Pareto front, the fastest member first; every latency says whether it was measured or predicted."""
    kinds = {text.how(trial) for trial in view.front_trials}
    # One word in the title where it holds for every row, else a column of its own: terminals are narrow.
    same = kinds.pop() if len(kinds) == 1 else ""
    title = f"Pareto front of {view.name} on {view.target}" + (f" ({same})" if same else "")
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("trial", justify="right")
    table.add_column("configuration")
    for name in ("Dice", "test", "p50 ms", "p90 ms", "FPS", "params", "GMacs", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    if not same:
        table.add_column("latency")
    table.add_column("engine")
    for trial in view.front_trials:
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
        table.add_row(*cells, *([] if same else [text.how(trial)]), trial.engine or text.MISSING)
    return table
