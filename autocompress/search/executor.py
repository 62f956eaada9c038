"""Where trials run: Ray tasks, each of which leaves its result on disk before it returns."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.errors import UserError


@dataclass(frozen=True)
class Ended:
    """A task that is over.

    Attributes:
        key: as it was submitted.
        error: None, or one line that says how the task or its process died.
    """

    key: str
    error: str | None


class RayExecutor:
    """Runs a function on plain values in a fixed number of Ray workers.

    The driver alone opens the database (facts of the design); a worker gets plain values and returns nothing: what it
    has to say lies on disk, so that neither its death nor the driver's loses anything that was finished.

    Args:
        slots: tasks that may run at once.
        address: of a running Ray cluster; None starts one on this machine, which ends with `close`.
    """

    def __init__(self, slots: int, address: str | None = None) -> None:
        self.slots = slots
        self._scratch: Path | None = None
        self._tasks: dict[Any, str] = {}
        self._remote: dict[Callable[..., None], Any] = {}
        self._address = address
        self._start()

    def _start(self) -> None:
        import ray

        # Ray's defaults are for a cluster that outlives its users: usage reports, a dashboard of nine processes, a
        # token file in the home folder, logs of every worker on the driver's terminal.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Threads of a worker that spin while they wait take the time of the other workers: on a busy machine steps took
        # five times as long with OpenMP's default.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        options: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "configure_logging": True,
        }
        if self._address is None:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            # Short, because a Unix socket's path may have 107 characters; removed by `close`.
            self._scratch = Path(tempfile.mkdtemp(prefix="autocompress-ray-"))
            options |= {
                "num_cpus": self.slots,
                "include_dashboard": False,
                "_temp_dir": str(self._scratch),
                "object_store_memory": 200 * 2**20,
            }
        else:
            options["address"] = self._address
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            self.close()
            where = "on this machine" if self._address is None else f"at {self._address}"
            raise UserError(f"cannot start Ray {where}: {str(error).strip().splitlines()[0]}") from error

    @property
    def running(self) -> tuple[str, ...]:
        """Keys of the tasks that are not over."""
        return tuple(self._tasks.values())

    def submit(self, key: str, function: Callable[[Mapping[str, Any]], None], values: Mapping[str, Any]) -> None:
        """Start ``function(values)`` in a worker."""
        import ray

        if function not in self._remote:
            self._remote[function] = ray.remote(function).options(num_cpus=1, max_retries=0)
        self._tasks[self._remote[function].remote(dict(values))] = key

    def wait(self, seconds: float) -> list[Ended]:
        """Wait at most so long for a task to be over, and return all that are."""
        import ray

        if not self._tasks:
            return []
        ready, _ = ray.wait(list(self._tasks), num_returns=1, timeout=seconds)
        if ready:
            ready, _ = ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        return [Ended(self._tasks.pop(task), _error(task)) for task in ready]

    def cancel(self) -> None:
        """Kill what runs; nothing on disk is touched."""
        import ray

        for task in self._tasks:
            ray.cancel(task, force=True)
        self._tasks.clear()

    def close(self) -> None:
        """Kill what runs, and end the Ray that this executor started."""
        import ray

        with uninterrupted():  # a second Ctrl-C must not leave half of Ray's processes behind
            if ray.is_initialized():
                self.cancel()
                ray.shutdown()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C is ignored inside the block, for short work that must not be left half done."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _error(task: Any) -> str | None:
    import ray

    try:
        ray.get(task)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        return f"{type(cause).__name__}: {_first_line(cause)}"
    except ray.exceptions.OutOfMemoryError:
        return "the worker was killed: out of memory"
    except ray.exceptions.RayError as error:
        return f"the worker died: {type(error).__name__}"
    return None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
