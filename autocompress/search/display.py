"""What a person sees while a search runs: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autocompress.search.stopping import percent


class Display:
    """Turns the driver's events into a picture; use it as a context manager and as the listener.

    Args:
        console: where to draw; a console that is no terminal gets one line for each event.
        title: first line of the picture.
        budget_seconds: for the progress bar; None where the number of trials limits the search.
        trials: likewise.
    """

    def __init__(self, console: Console, title: str, budget_seconds: float | None, trials: int | None) -> None:
        self._console = console
        self._title = title
        self._budget = budget_seconds
        self._trials = trials
        self._stage = "setting up"
        self._running: dict[int, tuple[str, float]] = {}
        self._counts = {"complete": 0, "pruned": 0, "failed": 0}
        self._front: list[Mapping[str, Any]] = []
        self._labels: dict[int, str] = {}
        self._messages: list[str] = []
        self._spent = 0.0
        self._eta: float | None = None
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(
                self._picture(), console=self._console, refresh_per_second=4, get_renderable=self._picture
            )
            self._live.start()
        else:
            self._console.print(self._title, highlight=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take note of an event."""
        line = getattr(self, f"_on_{event['event']}", lambda _: None)(event)
        if not line:
            return
        self._messages = [*self._messages[-4:], line]
        if self._live is None:
            self._console.print(f"[{duration(self._spent)}] {line}", highlight=False, markup=False, soft_wrap=True)

    # -- events ---------------------------------------------------------------------------------------------------

    def _on_note(self, event: Mapping[str, Any]) -> str:
        return str(event["text"])

    def _on_stage(self, event: Mapping[str, Any]) -> str:
        self._stage = str(event["stage"])
        self._spent = float(event.get("spent", self._spent))
        self._eta = event.get("eta")
        return self._stage + (f": {event['detail']}" if event.get("detail") else "")

    def _on_tick(self, event: Mapping[str, Any]) -> None:
        self._spent, self._eta = float(event["spent"]), event["eta"]

    def _on_started(self, event: Mapping[str, Any]) -> None:
        self._running[event["trial"]] = (event["label"], time.monotonic())

    def _on_retry(self, event: Mapping[str, Any]) -> str:
        self._running.pop(event["trial"], None)
        return f"trial {event['trial']} is asked again: {event['reason']}"

    def _on_held(self, event: Mapping[str, Any]) -> str:
        self._running.pop(event["trial"], None)
        return f"trial {event['trial']} is held back: {event['reason']}"

    def _on_rung(self, event: Mapping[str, Any]) -> str:
        where = f"trial {event['trial']}: Dice {event['dice']:.1f} after {percent(event['share'])} of its training"
        # Why a trial is stopped is told with its end.
        return f"{where}, goes on" if event["goes_on"] else where

    def _on_trial(self, event: Mapping[str, Any]) -> str:
        number = event["trial"]
        self._running.pop(number, None)
        self._counts[event["state"]] += 1
        self._labels[number] = event["label"]
        self._front = event["front"]
        if event["state"] != "complete":
            return f"trial {number} {event['state']}: {event['label']}: {event['reason']}"
        mark = " *" if any(member["trial"] == number for member in self._front) else ""
        missed = "" if event["feasible"] else " (infeasible)"
        return f"trial {number}: {event['label']}: Dice {event['dice']:.1f}, {_latency(event)}{missed}{mark}"

    def _on_confirmed(self, event: Mapping[str, Any]) -> str:
        test = "no test volumes" if event["dice_test"] is None else f"test Dice {event['dice_test']:.1f}"
        was = event.get("was", {})
        if not was:
            return f"confirmed trial {event['trial']}: {test} (validation {event['dice']:.1f}), {_latency(event)}"
        longer = f" after {event['longer_seconds']:.0f} s more" if event["longer_seconds"] else ""
        before = told_ms(was["latency_ms"]).removesuffix(" ms")
        return (
            f"confirmed trial {event['trial']}: {test} (validation {was['dice']:.1f} -> {event['dice']:.1f}{longer}), "
            f"latency {before} -> {_latency(event)}"
        )

    # -- the picture ----------------------------------------------------------------------------------------------

    def _picture(self) -> RenderableType:
        counts = ", ".join(f"{count} {state}" for state, count in self._counts.items() if count) or "none yet"
        eta = "" if self._eta is None else f"   ETA {duration(self._eta)}"
        parts: list[RenderableType] = [
            Text(self._title, style="bold"),
            Text(f"{self._stage}   {duration(self._spent)} spent{eta}   trials: {counts}"),
        ]
        done = sum(self._counts.values())
        if self._budget is not None:
            parts.append(ProgressBar(total=self._budget, completed=min(self._spent, self._budget), width=60))
        elif self._trials is not None:
            parts.append(ProgressBar(total=self._trials, completed=min(done, self._trials), width=60))
        now = time.monotonic()
        parts += [
            Text(f"  running {number:>3}  {label}  {duration(now - begun)}", style="cyan")
            for number, (label, begun) in self._running.items()
        ]
        if self._front:
            table = Table(title="front so far", title_justify="left", box=None, pad_edge=False)
            for name in ("trial", "configuration", "Dice", "latency ms"):
                table.add_column(name, justify="left" if name == "configuration" else "right")
            for member in self._front:
                table.add_row(
                    str(member["trial"]),
                    self._labels.get(member["trial"], ""),
                    f"{member['dice']:.1f}",
                    _latency(member).removesuffix(" ms"),
                )
            parts.append(table)
        parts += [Text(message, style="dim", no_wrap=True, overflow="ellipsis") for message in self._messages]
        return Group(*parts)


def told_ms(latencies: Iterable[float]) -> str:
    """Latencies on several targets in their order: ``3.20 / 5.10 ms``."""
    return " / ".join(f"{value:.2f}" for value in latencies) + " ms"


def _latency(event: Mapping[str, Any]) -> str:
    return told_ms(event["latencies_ms"].values() if "latencies_ms" in event else [event["latency_ms"]])


def duration(seconds: float) -> str:
    """Seconds as people write them: ``7s``, ``3m05s``, ``2h10m``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
