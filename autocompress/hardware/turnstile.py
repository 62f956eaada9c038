"""The turnstile of a host: while one measures, no other process of ours computes there.

A latency measured beside a training step is several times too long. So everything that computes on a host, in
whatever process, study or worker, passes this turnstile: a training step goes into the *room* together with others,
a measurement has it alone. The locks on the two files (`hardware/agent/turnstile.py`) are the kernel's: a
holder that is killed holds nothing.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

from autocompress.hardware.agent.facts import host_facts
from autocompress.hardware.agent.turnstile import enter, leave
from autocompress.paths import cache_dir, make_dir


class Turnstile:
    """Two lock files in a folder that all processes on the host share.

    One instance may be used by several threads. A piece of work inside another one of the same thread costs nothing;
    but measuring from inside a step would wait for itself and is refused.

    Args:
        folder: folder of the lock files, made where it is missing; None for the one that all processes of this
            user on this machine share.
    """

    def __init__(self, folder: Path | None = None) -> None:
        # Named after the machine, because a home folder may be shared by many.
        self.folder = make_dir(folder or cache_dir() / "turnstile" / str(host_facts()["id"]))
        self._mine = threading.local()

    def step(self) -> Passage:
        """Context in which this thread may compute, together with others: a training step, an export, some loading.

        Costs some ten microseconds where nobody measures; the shorter the pieces, the sooner a measurement begins.
        """
        return Passage(self, exclusive=False)

    def measuring(self) -> Passage:
        """Context in which nothing else of ours computes on this host.

        Raises:
            RuntimeError: on entering, when this thread is inside a `step` already.
        """
        return Passage(self, exclusive=True)

    @property
    def held(self) -> bool:
        """Whether this thread is inside a `step` or a `measuring` of this instance."""
        return bool(getattr(self._mine, "depth", 0))


class Passage:
    """What `Turnstile.step` and `Turnstile.measuring` return; to be used with ``with``."""

    def __init__(self, turnstile: Turnstile, *, exclusive: bool) -> None:
        self._turnstile = turnstile
        self._exclusive = exclusive

    def __enter__(self) -> None:
        mine = self._turnstile._mine
        depth = getattr(mine, "depth", 0)
        if depth == 0:
            mine.held = enter(str(self._turnstile.folder), self._exclusive)
            mine.exclusive = self._exclusive
        elif self._exclusive and not mine.exclusive:
            raise RuntimeError("a measurement cannot begin inside a step of the same thread: it would wait for itself")
        mine.depth = depth + 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        mine = self._turnstile._mine
        mine.depth -= 1
        if mine.depth == 0:
            held, mine.held = mine.held, ()
            leave(held)
