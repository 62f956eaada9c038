"""What a person reads when a search has ended."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from autocompress.reports.tables import front_table
from autocompress.search.display import duration
from autocompress.search.outcome import SearchOutcome
from autocompress.search.plan import SearchPlan
from autocompress.search.storage import default_url, redact
from autocompress.search.view import load_study_view


def print_summary(console: Console, outcome: SearchOutcome, plan: SearchPlan) -> None:
    """The front, where the time went, and what to type next."""
    counts = ", ".join(f"{count} {state}" for state, count in outcome.trials.items() if count) or "none"
    total = sum(outcome.seconds.values())
    split = ", ".join(f"{phase} {100 * value / max(total, 1e-9):.1f} %" for phase, value in outcome.seconds.items())

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say("")
    if not outcome.front:
        say(outcome.nearest_miss)
    else:
        for view in load_study_view(outcome.folder).views:
            console.print(front_table(view))
    say(f"trials: {counts}")
    say(f"wall time {duration(total)}: {split}")
    if not outcome.front:
        return
    bundle = _relative(outcome.front[-1].bundle)
    study = _relative(outcome.folder)
    # The study's own database is found by its folder; a password is never shown.
    storage = "" if plan.storage == default_url(plan.folder) else f" --storage {redact(plan.storage)}"
    say("")
    say("next:")
    say(f"  autocompress verify {bundle}")
    for target in plan.targets:
        if target.remote:
            say(f"  autocompress deploy {bundle} --target {target.name} --host {target.where['address'][0]}")
    say(f"  autocompress predict {bundle} IMAGE --out labels.nii.gz --overlay overlay.png")
    say(f"  autocompress report {study}")
    say(f"  autocompress dashboard {study}{storage}")


def _relative(path: object) -> str:
    """A path as short as it can be typed from here."""
    absolute = Path(str(path)).absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
