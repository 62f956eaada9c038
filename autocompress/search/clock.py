"""Seconds of one task, by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Clock:
    """Books a task's time on phases; what is in no phase is ``other``.

    Args:
        before: seconds by phase that earlier parts of the same task took.
    """

    def __init__(self, before: Mapping[str, float] | None = None) -> None:
        self._begun = time.monotonic()
        self._before = dict(before or {})
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Book the block on a phase."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.move(name, time.monotonic() - begun)

    def move(self, name: str, seconds: float, source: str | None = None) -> None:
        """Book seconds on a phase, taken from another one where ``source`` is given."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        if source is not None:
            self._seconds[source] = self._seconds.get(source, 0.0) - seconds

    def seconds(self) -> dict[str, float]:
        """Seconds by phase; they sum to the time since the clock was made, and what was taken before it."""
        booked = sum(self._seconds.values())
        now = {**self._seconds, "other": max(0.0, time.monotonic() - self._begun - booked)}
        return {phase: self._before.get(phase, 0.0) + now.get(phase, 0.0) for phase in {**self._before, **now}}
