"""Where trials run: Ray tasks, each of which leaves its result on disk before it returns."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.errors import UserError
from autocompress.search.node_files import (
    Errand,
    Folder,
    Parcel,
    Return,
    errand_of,
    error_line,
    pack,
    run_with_files,
    unpack,
)

_ANSWER_SECONDS = 10.0


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
    has to say lies on disk, so that neither its death nor the driver's loses anything that was finished.  On a node of
    a cluster that does not see the driver's disk, files travel (`autocompress.search.node_files`).

    Args:
        slots: tasks that may run at once.
        address: of a running Ray cluster; None starts one on this machine, which ends with `close`.
        cpus: processors that each task takes of its node on a cluster.
        gpus: share of a GPU that each task takes, such as 0.5 for two tasks on one GPU; 0 for none.
        only_here: run on this machine alone; for targets that are this machine, whose latency no other one has.
        spare: names or addresses of machines that are measured, on which nothing else may run.
        dashboard: start Ray's own dashboard; on a cluster that is the cluster's affair.

    Raises:
        UserError: Ray cannot be started or reached, or this machine lacks the GPUs.
    """

    def __init__(
        self,
        slots: int,
        address: str | None = None,
        *,
        cpus: float = 1.0,
        gpus: float = 0.0,
        only_here: bool = False,
        spare: Sequence[str] = (),
        dashboard: bool = False,
    ) -> None:
        self.slots = slots
        self.dashboard_url: str | None = None
        self._scratch: Path | None = None
        self._tasks: dict[Any, _Task] = {}
        self._remote: dict[Callable[..., Any], Any] = {}
        self._address = address
        self._cpus, self._gpus = cpus, gpus
        self._only_here, self._spare = only_here, tuple(spare)
        self._dashboard = dashboard
        self._marker = f".autocompress-{secrets.token_hex(8)}"
        self._inputs: dict[str, tuple[Folder, Parcel]] = {}
        self._ship = False
        self._start()

    def _start(self) -> None:
        # Ray's defaults are for a cluster that outlives its users: usage reports, a dashboard of nine processes, a
        # token file in the home folder, logs of every worker on the driver's terminal.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Threads of a worker that spin while they wait take the time of the other workers: on a busy machine steps took
        # five times as long with OpenMP's default.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        if self._address is not None and _has_token():
            # A cluster that wants a token gets none from a driver that is not told to send it.
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        import ray  # reads these variables once

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
                "include_dashboard": self._dashboard,
                "_temp_dir": str(self._scratch),
                "object_store_memory": 200 * 2**20,
            }
        else:
            _look_for(self._address)
            options["address"] = self._address
        try:
            context = ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            self.close()
            where = "on this machine" if self._address is None else f"at {self._address}"
            raise UserError(f"cannot start Ray {where}: {_first_line(error)}") from error
        if self._dashboard and context.dashboard_url:
            self.dashboard_url = f"http://{context.dashboard_url}"
        if self._address is None and self._gpus > ray.cluster_resources().get("GPU", 0.0):
            self.close()
            raise UserError(f"{self._gpus:g} GPU for each trial: Ray finds none that large on this machine")

    @property
    def running(self) -> tuple[str, ...]:
        """Keys of the tasks that are not over."""
        return tuple(task.key for task in self._tasks.values())

    def submit(self, key: str, function: Callable[[Mapping[str, Any]], None], values: Mapping[str, Any]) -> None:
        """Start ``function(values)`` in a worker."""
        if self._address is None:
            self._tasks[self._task(function).remote(dict(values))] = _Task(key)
            return
        self._send(_Task(key, function, values, errand_of(values, self._marker)))

    def _task(self, function: Callable[..., Any]) -> Any:
        import ray

        if function not in self._remote:
            self._remote[function] = ray.remote(function)
        cpus = 1 if self._address is None else self._cpus
        options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": self._gpus, "max_retries": 0}
        selector = self._places()
        if selector:
            options["label_selector"] = {"ray.io/node-id": selector}
        return self._remote[function].options(**options)

    def _places(self) -> str:
        """Where a task may run, as Ray's selector of nodes; empty for anywhere."""
        import ray

        if self._address is None or not (self._only_here or self._spare):
            return ""
        here = str(ray.get_runtime_context().get_node_id())
        if self._only_here:
            return here
        # Asked anew each time: nodes come and go.
        measured = [each["NodeID"] for each in ray.nodes() if each["Alive"] and _is_one_of(each, self._spare)]
        return f"!in({','.join(measured)})" if measured else ""

    def _send(self, task: _Task) -> None:
        """Start a task on a cluster, with its files where a node has asked for such before."""
        import ray

        assert task.errand is not None
        parcels = None
        if self._ship:
            parcels = {each.path: self._input(each) for each in task.errand.inputs}
            parcels |= {each.path: pack(each, ray.put) for each in task.errand.workplaces}
        reference = self._task(_on_node).remote(task.function, dict(task.values or {}), task.errand, parcels)
        self._tasks[reference] = task

    def _input(self, folder: Folder) -> Parcel:
        """A folder to read, in the object store once for the whole search."""
        import ray

        known = self._inputs.get(folder.path)
        if known is None or known[0].entries != folder.entries:
            known = self._inputs[folder.path] = (folder, pack(folder, ray.put))
        return known[1]

    def wait(self, seconds: float) -> list[Ended]:
        """Wait at most so long for a task to be over, and return all that are."""
        import ray

        if not self._tasks:
            return []
        ready, _ = ray.wait(list(self._tasks), num_returns=1, timeout=seconds)
        if ready:
            ready, _ = ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        ended = [self._ended(reference) for reference in ready]
        return [each for each in ended if each is not None]

    def _ended(self, reference: Any) -> Ended | None:
        """What became of a task; None where it begins again with its files."""
        task = self._tasks.pop(reference)
        back, error = _answer(reference)
        if task.errand is None:
            return Ended(task.key, error)
        if back is not None and back.missing:
            self._ship = True
            self._send(task)
            return None
        if back is not None:
            error = back.error
            try:
                unpack(task.errand, back)
            except OSError as problem:
                error = error_line(problem)
        self._unmark(task.errand)
        return Ended(task.key, error)

    def _unmark(self, errand: Errand) -> None:
        """Take the marks away where no other task writes."""
        others = [each.errand for each in self._tasks.values() if each.errand is not None]
        used = {folder.path for each in others for folder in (*each.workplaces, *each.outputs)}
        for folder in (*errand.workplaces, *errand.outputs):
            if folder.path not in used:
                (Path(folder.path) / errand.marker).unlink(missing_ok=True)

    def cancel(self) -> None:
        """Kill what runs; nothing on disk is touched."""
        import ray

        for reference in self._tasks:
            ray.cancel(reference, force=True)
        cancelled = list(self._tasks.values())
        self._tasks.clear()
        for task in cancelled:
            if task.errand is not None:
                self._unmark(task.errand)

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


@dataclass(frozen=True)
class _Task:
    """A task that runs; on a cluster with all that is needed to start it again."""

    key: str
    function: Callable[[Mapping[str, Any]], None] | None = None
    values: Mapping[str, Any] | None = None
    errand: Errand | None = None


def _on_node(
    function: Callable[[Mapping[str, Any]], None],
    values: Mapping[str, Any],
    errand: Errand,
    parcels: Mapping[str, Parcel] | None,
) -> Return:
    import ray

    return run_with_files(function, values, errand, parcels, ray.get)


def _look_for(address: str) -> None:
    """Refuse a cluster that does not answer; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return  # such as ``auto``
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot start Ray at {address}: {reason}; start it there with 'ray start --head', or see --ray-address"
        ) from error


def _has_token() -> bool:
    """Whether this user has a token for a cluster, in one of the places where Ray looks for it."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


def _is_one_of(node: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether a node is a machine of that name or address."""
    for name in names:
        known = {name}
        with contextlib.suppress(OSError):
            known.add(socket.gethostbyname(name))
        if known & {node["NodeManagerAddress"], node["NodeManagerHostname"], node["NodeName"]}:
            return True
    return False


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


def _answer(reference: Any) -> tuple[Return | None, str | None]:
    """What a task returned, and how it died."""
    import ray

    try:
        return ray.get(reference), None
    except ray.exceptions.RayTaskError as error:
        return None, error_line(error.cause)
    except ray.exceptions.OutOfMemoryError:
        return None, "the worker was killed: out of memory"
    except ray.exceptions.RayError as error:
        return None, f"the worker died: {type(error).__name__}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
