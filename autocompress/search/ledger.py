"""Where the wall time of a search went."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from autocompress.paths import read_json, write_json

PHASES = ("setup", "train", "measure", "evaluate", "export", "other")
STATE_FILE = "state.json"


class Ledger:
    """Books every second of wall time on one phase; kept in ``state.json``, so that it goes on after a break.

    A stage in which several workers run is booked by what they did: with two workers a second of one of them is half
    a second of wall time, and what no worker used is ``other``.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / STATE_FILE
        stored = read_json(self._path) if self._path.exists() else {}
        seconds = stored.get("seconds", {})
        self._seconds = {phase: float(seconds.get(phase, 0.0)) for phase in PHASES}
        # A driver that was killed saved what it had spent, but not on what.
        self._seconds["other"] += max(0.0, float(stored.get("spent", 0.0)) - sum(self._seconds.values()))
        self._open: dict[str, float] = {}

    @property
    def spent(self) -> float:
        """Wall seconds booked by all runs of this study, and those of the stage that is under way."""
        return sum(self._seconds.values()) + sum(time.monotonic() - begun for begun in self._open.values())

    def seconds(self) -> dict[str, float]:
        """Wall seconds by phase."""
        return {phase: round(value, 2) for phase, value in self._seconds.items()}

    def book(self, phase: str, seconds: float) -> None:
        """Add seconds to a phase."""
        self._seconds[phase] += seconds

    @contextmanager
    def phase(self, phase: str) -> Iterator[None]:
        """Book the block on one phase."""
        self._open[phase] = time.monotonic()
        try:
            yield
        finally:
            self.book(phase, time.monotonic() - self._open.pop(phase))
            self.save()

    @contextmanager
    def stage(self, slots: int) -> Iterator[Stage]:
        """Book the block by what the workers report to the stage."""
        stage = Stage()
        self._open["stage"] = time.monotonic()
        try:
            yield stage
        finally:
            wall = time.monotonic() - self._open.pop("stage")
            shares = {phase: stage.worked.get(phase, 0.0) / slots for phase in PHASES}
            # What workers lost to a crash was never reported, and two clocks never agree exactly.
            scale = min(1.0, wall / max(sum(shares.values()), 1e-9))
            for phase, share in shares.items():
                self.book(phase, share * scale)
            self.book("other", max(0.0, wall - sum(shares.values()) * scale))
            self.save()

    def save(self) -> None:
        """Write ``state.json``."""
        write_json(self._path, {"seconds": self._seconds, "spent": self.spent})


class Stage:
    """What the workers of one stage did."""

    def __init__(self) -> None:
        self.worked: dict[str, float] = {}

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add the seconds of one task, by phase."""
        for phase, value in seconds.items():
            self.worked[phase] = self.worked.get(phase, 0.0) + value
