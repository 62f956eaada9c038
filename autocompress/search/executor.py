"""Where trials run: Ray tasks, each of which leaves its result on disk before it returns."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autocompress.errors import UserError
from autocompress.search.interrupts import uninterrupted
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
from autocompress.search.nodes import Place, Placing
from autocompress.search.records import TRAINING_PART

_ANSWER_SECONDS = 10.0
_KILL_SECONDS = 5.0
_LOOK_SECONDS = 5.0
"""Between two looks at the nodes of a cluster while nothing ends."""
_GONE_SECONDS = 10.0
"""A task waits for a node of its own that went away so long; then another one may do it."""
_ROOM_SECONDS = 120.0
"""A cluster without any node for a task is waited for so long."""


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
        workers: tasks that compute at once, where others of the slots wait for a board that measures.
        cpus: processors that each task takes of its node on a cluster; by default as many as all workers can have.
        gpus: share of a GPU that each task takes, such as 0.5 for two tasks on one GPU; 0 for none.
        only_here: run on this machine; for targets that are this machine, whose latency no other one has. Tasks that
            only train (`autocompress.search.stages.next_part`) run on other nodes where there are such.
        spare: names or addresses of machines that are measured, on which nothing else may run.
        dashboard: start Ray's own dashboard; on a cluster that is the cluster's affair.

    Attributes:
        cpus: processors that each task takes of its node on a cluster; None without a cluster.
        dashboard_url: where Ray's dashboard is, if it was asked for and there is one.
        dashboard_token: file with what the dashboard asks for, where this executor started it.

    Raises:
        UserError: Ray cannot be started or reached, or neither this machine nor a node of the cluster has the
            processors and GPUs of a trial.
    """

    def __init__(
        self,
        slots: int,
        address: str | None = None,
        *,
        workers: int | None = None,
        cpus: int | None = None,
        gpus: float = 0.0,
        only_here: bool = False,
        spare: Sequence[str] = (),
        dashboard: bool = False,
    ) -> None:
        self.slots = slots
        self.dashboard_url: str | None = None
        self.dashboard_token: Path | None = None
        self._scratch: Path | None = None
        self._tasks: dict[Any, _Task] = {}
        self._remote: dict[Callable[..., Any], Any] = {}
        self._address = address
        self.cpus, self._gpus = cpus, gpus
        self._workers = workers or slots
        self._only_here, self._spare = only_here, tuple(spare)
        self._placing: Placing | None = None
        self._looked = 0.0
        self._stranded: dict[Any, float] = {}
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
                "address": "local",  # whatever RAY_ADDRESS says: a cluster is used where one is asked for
                "num_cpus": self.slots,
                "include_dashboard": self._dashboard,
                "_temp_dir": str(self._scratch),
                "object_store_memory": 200 * 2**20,
            }
        else:
            options["address"] = _found(self._address)
            _look_for(options["address"])
        try:
            context = ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            self.close()
            where, remedy = "on this machine", ""
            if self._address is not None:
                where = f"at {options['address']}"
                remedy = "; its token must be in RAY_AUTH_TOKEN or ~/.ray/auth_token, and its version of Ray the same"
            if options["address"] == "auto":
                remedy = "; start one here with 'ray start --head'"
            raise UserError(f"cannot start Ray {where}: {_first_line(error).rstrip('.')}{remedy}") from error
        if self._dashboard and context.dashboard_url:
            self.dashboard_url = f"http://{context.dashboard_url}"
            if self._scratch is not None:
                self.dashboard_token = self._scratch / "dashboard-token"
                self.dashboard_token.touch(0o600)  # Ray has opened the folder to all users
                self.dashboard_token.write_text(os.environ["RAY_AUTH_TOKEN"])
        if self._address is None and self._gpus > ray.cluster_resources().get("GPU", 0.0):
            self.close()
            raise UserError(f"{self._gpus:g} GPU for each trial: Ray finds none that large on this machine")
        if self._address is not None:
            here = str(ray.get_runtime_context().get_node_id())
            placing = Placing(here, 1, self._gpus, self._only_here, self._spare)
            self.cpus = self.cpus or placing.share(self._workers, ray.nodes())
            self._placing = replace(placing, cpus=self.cpus)
            try:
                self._look_for_room(self._placing)
            except UserError:
                self.close()
                raise

    @property
    def running(self) -> tuple[str, ...]:
        """Keys of the tasks that are not over."""
        return tuple(task.key for task in self._tasks.values())

    def submit(self, key: str, function: Callable[[Mapping[str, Any]], None], values: Mapping[str, Any]) -> None:
        """Start ``function(values)`` in a worker."""
        if self._placing is None:
            options = {"num_cpus": 1, "num_gpus": self._gpus}
            self._tasks[self._task(function, options).remote(dict(values))] = _Task(key)
            return
        self._send(_Task(key, function, values, errand_of(values, self._marker)), self._placing)

    def _task(self, function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
        import ray

        if function not in self._remote:
            self._remote[function] = ray.remote(function)
        return self._remote[function].options(max_retries=0, **options)

    def _send(self, task: _Task, placing: Placing) -> None:
        """Start a task on a cluster, with its files where a node has asked for such before."""
        import ray

        errand, values = task.errand, dict(task.values or {})
        assert errand is not None
        nodes = ray.nodes()  # asked anew each time: nodes come and go
        task = replace(task, place=placing.choose(values, nodes))
        options: dict[str, Any] = {"num_cpus": placing.cpus, "num_gpus": placing.gpus_of(values)}
        selector = placing.selector(task.place, nodes)
        if selector:
            options["label_selector"] = {"ray.io/node-id": selector}
        parcels = None
        if self._ship:
            parcels = {each.path: self._input(each) for each in errand.inputs}
            parcels |= {each.path: pack(each, ray.put) for each in errand.workplaces}
        reference = self._task(_on_node, options).remote(task.function, values, errand, parcels)
        self._tasks[reference] = task

    def _look_for_room(self, placing: Placing) -> None:
        """Refuse a cluster of which no node will ever run a trial; Ray itself would wait for one without a word."""
        import ray

        nodes = ray.nodes()
        for values in ({}, {"part": TRAINING_PART}):
            if not placing.able(values, placing.choose(values, nodes), nodes):
                raise UserError(f"Ray at {self._address}: {placing.lacking(values)}")

    def _look_after_waiting(self, placing: Placing) -> None:
        """See to tasks whose nodes have gone: they go elsewhere, or the search ends, where none comes back.

        Raises:
            UserError: no node could run a task for two minutes.
        """
        import ray

        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        nodes = ray.nodes()
        stranded = {
            reference: task
            for reference, task in self._tasks.items()
            if not placing.able(task.values or {}, task.place, nodes)
        }
        self._stranded = {reference: self._stranded.get(reference, now) for reference in stranded}
        for reference, task in stranded.items():
            values, waited = task.values or {}, now - self._stranded[reference]
            other = placing.choose(values, nodes)
            # A task that ran on such a node ends with an error by itself, so it is one that never began.
            if waited >= _GONE_SECONDS and placing.able(values, other, nodes):
                ray.cancel(reference, force=True)
                del self._tasks[reference]
                self._send(task, placing)
            elif waited >= _ROOM_SECONDS:
                lacking = placing.lacking(values)
                raise UserError(f"Ray at {self._address}: {lacking}, and repeat the command: nothing is lost")

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
        if self._placing is not None:
            self._look_after_waiting(self._placing)
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
            assert self._placing is not None  # only a cluster has other disks
            self._ship = True
            self._send(task, self._placing)
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
        """Kill what runs, and wait until it is gone, so that no result appears later; nothing on disk is touched."""
        import ray

        for reference in self._tasks:
            ray.cancel(reference, force=True)
        if self._tasks:
            ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=_KILL_SECONDS)
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
    place: Place = "anywhere"


def _on_node(
    function: Callable[[Mapping[str, Any]], None],
    values: Mapping[str, Any],
    errand: Errand,
    parcels: Mapping[str, Parcel] | None,
) -> Return:
    import ray

    return run_with_files(function, values, errand, parcels, ray.get)


def _found(address: str) -> str:
    """What ``auto`` stands for: RAY_ADDRESS, or the cluster that ``ray start`` began last on this machine.

    Ray itself would also take what no longer runs, and try to reach it for minutes.
    """
    if address != "auto":
        return address
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    left = Path(folder) / "ray" / "ray_current_cluster"
    told = os.environ.get("RAY_ADDRESS") or (left.read_text().strip() if left.is_file() else "")
    return told or address  # without either Ray looks among the processes, and says where it finds none


def _look_for(address: str) -> None:
    """Refuse a cluster that does not answer; Ray itself would try for minutes."""
    if "://" in address:
        raise UserError(
            f"--ray-address {address}: a search needs a node of the cluster to run on, and cannot use Ray Client; join "
            "with 'ray start --address=HOST:PORT' and give that address, or auto"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # ``auto`` of which nothing is told, which Ray looks for itself
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
