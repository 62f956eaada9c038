"""What the agent is doing, and the turnstile as it passes it."""

import os
import time
from typing import Any, Dict, Optional, Tuple

from .turnstile import enter, leave


class Room:
    """The turnstile as the agent uses it; does nothing where the request names none."""

    def __init__(self, folder: Optional[str], phases: "Phases", exclusive: bool) -> None:
        self.folder = folder
        self.phases = phases
        self.exclusive = exclusive
        self.held: Tuple[int, ...] = ()

    def __enter__(self) -> None:
        if self.folder is not None:
            before = self.phases.current
            self.phases.begin("waiting")
            self.held = enter(self.folder, self.exclusive)
            self.phases.begin(before)

    def __exit__(self, *_: Any) -> None:
        leave(self.held)
        self.held = ()


class Phases:
    """What the agent is doing, as lines ``seconds phase`` in a file that survives it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.current = "starting"
        self.since = time.time()
        self.seconds: Dict[str, float] = {}

    def begin(self, phase: str) -> None:
        now = time.time()
        self.seconds[self.current] = self.seconds.get(self.current, 0.0) + now - self.since
        self.current, self.since = phase, now
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, ("%.3f %s\n" % (now, phase)).encode())
        finally:
            os.close(handle)


def phase_seconds(phases: str, now: float, wanted: str) -> float:
    """How long an agent has been in a phase so far, by the text of its phase file; ``now`` is on its host's clock."""
    total, since = 0.0, None
    for line in phases.split("\n"):
        stamp, _, phase = line.partition(" ")
        if not phase:
            continue
        if since is not None:
            total += max(float(stamp) - since, 0.0)
        since = float(stamp) if phase == wanted else None
    return total if since is None else total + max(now - since, 0.0)
