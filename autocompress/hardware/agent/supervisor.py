"""Runs of the agent on a host that is reached over a network: detached from the link, and never forgotten.

A client writes ``job.json`` into a folder of its own below ``jobs`` and calls ``start``, which returns at once and
leaves a supervisor behind. The supervisor waits for the host's lease, runs the agent, keeps its time and its memory,
and writes ``end.json``. The client waits with ``wait``, as often as its link breaks, and ends with ``finish``. A
supervisor that hears nothing from its client for so long ends the run by itself: nothing is left running.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Dict, List, Optional

from .errors import first_line
from .lease import Lease
from .phases import Phases, phase_seconds
from .system import die_with, engine_environment, resident_bytes, session_of, write_json

JOB_FILE, END_FILE, LOCK_FILE = "job.json", "end.json", "running.lock"
HEARD_FILE, HUNG_UP_FILE = "heard", "hung-up"
ANSWER_FILE, REQUEST_FILE, LOG_FILE = "answer.json", "request.json", "stderr"
TICK_SECONDS = 0.25
HUNG_UP_SECONDS = 20.0
"""A client that hung up, as by Ctrl-C or a killed worker, has so long to come back; one that fell silent has longer."""
LOG_BYTES = 2**15
FILE_DAYS, PART_DAYS, JOB_DAYS = 14, 1, 2
"""How long a host keeps files that nobody used, uploads that were never completed, and jobs that nobody ended."""


def start(folder: str) -> int:
    """Leave a supervisor behind for the job in a folder; 0 once it has begun, or had begun before."""
    folder = os.path.abspath(folder)
    if os.path.exists(os.path.join(folder, END_FILE)):
        return 0
    ours, theirs = os.pipe()
    child = os.fork()
    if child:
        os.close(theirs)
        told = os.read(ours, 1)
        os.waitpid(child, 0)
        return 0 if told else 1
    os.close(ours)
    _touch(os.path.join(folder, HEARD_FILE))
    os.setsid()
    if os.fork():
        os._exit(0)
    # Whoever called must not wait for our ends of its pipes.
    nothing = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1):
        os.dup2(nothing, handle)
    log = os.open(os.path.join(folder, LOG_FILE), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 2)
    lock = _lock(folder)
    os.write(theirs, b"1")
    os.close(theirs)
    if lock is None:
        os._exit(0)  # a first call, of which the client did not hear, is at it
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    end: Dict[str, Any] = {}
    try:
        os.chdir(folder)
        with open(JOB_FILE) as stream:
            job = json.load(stream)
        end = Supervisor(job).run()
    except SystemExit:
        end = {"stopped": True}
    except BaseException as error:
        end = {"error": "%s: %s" % (type(error).__name__, first_line(error))}
    finally:
        try:
            write_json(END_FILE, end)
        finally:
            os._exit(0)


def wait(folder: str) -> int:
    """Print what became of a job once it is over, as one line of JSON; each line on the input says that we are heard.

    Ends without an answer when its input ends, that is with the link.
    """
    folder = os.path.abspath(folder)
    hung_up = os.path.join(folder, HUNG_UP_FILE)
    _remove(hung_up)

    def report() -> None:
        try:
            handle = os.open(os.path.join(folder, LOCK_FILE), os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_SH)  # the supervisor holds it as long as it lives
        except OSError:
            pass  # never begun, or removed: told below
        sys.stdout.write(json.dumps(_outcome(folder)) + "\n")
        sys.stdout.flush()
        os._exit(0)

    thread = threading.Thread(target=report)
    thread.daemon = True
    thread.start()
    while os.read(0, 4096):
        _touch(os.path.join(folder, HEARD_FILE))
    _touch(hung_up)
    os._exit(3)


def finish(folder: str) -> int:
    """End a job if it runs, remove its folder, and what others left behind long ago."""
    folder = os.path.realpath(folder)
    if os.path.isdir(folder):
        _stop(folder)
        shutil.rmtree(folder, ignore_errors=True)
    tidy(os.path.dirname(os.path.dirname(folder)), time.time())
    return 0


def tidy(root: str, now: float) -> None:
    """Remove files, parts of files and jobs below a cache folder that were not used for days."""
    files, jobs = os.path.join(root, "files"), os.path.join(root, "jobs")
    for path in _entries(files):
        days = PART_DAYS if path.endswith(".part") else FILE_DAYS
        if _age(path, now) > days * 86400:
            _remove(path)
    for path in _entries(jobs):
        if _age(path, now) > JOB_DAYS * 86400:
            lock = _lock(path)
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


class Supervisor:
    """One run of the agent, from the lease to its end.

    Args:
        job: ``request``, ``inputs`` (name in the folder -> path of a file of the host), ``python``, ``agent``,
            ``owner``, and in seconds ``timeout_seconds``, ``build_seconds``, ``lease_seconds`` (to wait for the lease),
            ``grace_seconds`` (without a word from the client); ``memory_bytes`` or None.
    """

    def __init__(self, job: Dict[str, Any]) -> None:
        self.job = job
        self.phases = ANSWER_FILE + ".phases"
        self.heard_at: Optional[float] = None
        self.heard_since = self.connected_at = time.monotonic()
        self.process: Optional["subprocess.Popen[bytes]"] = None

    def run(self) -> Dict[str, Any]:
        """How it ended: ``code`` of the agent, ``timed_out``, ``over_memory``, ``abandoned``, ``busy`` or ``error``."""
        job = self.job
        for path in [job["agent"], *job["inputs"].values()]:
            os.utime(path, None)  # so that they count as used
        longest = job["timeout_seconds"] + job["build_seconds"] + job["grace_seconds"]
        lease = Lease(job["owner"], longest)
        begin = time.monotonic()
        if not lease.take():
            Phases(self.phases).begin("waiting for the host")
            while not lease.take():
                if time.monotonic() - begin > job["lease_seconds"]:
                    return {"busy": lease.holder()}
                if self._abandoned():
                    return {"abandoned": True}
                time.sleep(4 * TICK_SECONDS)
        try:
            return self._run()
        finally:
            self._kill()
            lease.give_back()

    def _run(self) -> Dict[str, Any]:
        for name, path in self.job["inputs"].items():
            if os.path.basename(name) != name:
                return {"error": "the input %r is no plain name" % name}
            if not os.path.lexists(name):
                os.symlink(path, name)
        parent = os.getpid()
        write_json(REQUEST_FILE, dict(self.job["request"], parent=parent, turnstile=None))
        command = [self.job["python"], self.job["agent"], REQUEST_FILE, ANSWER_FILE]
        try:
            self.process = subprocess.Popen(
                command,
                env=engine_environment(self.job["request"]),
                stdin=subprocess.DEVNULL,
                stdout=2,
                start_new_session=True,
                # The agent asks for this too, but only once it runs.
                preexec_fn=lambda: die_with(parent),  # noqa: PLW1509 (one thread)
            )
        except OSError as error:
            return {"unstarted": "cannot start the interpreter %s: %s" % (command[0], error.strerror)}
        return self._watch(self.process)

    def _watch(self, process: "subprocess.Popen[bytes]") -> Dict[str, Any]:
        begin = time.monotonic()
        allowed = limit = float(self.job["timeout_seconds"])
        memory = self.job["memory_bytes"]
        while True:
            code = process.poll()
            if code is not None:
                return {"code": code}
            if self._abandoned():
                return {"abandoned": True}
            if time.monotonic() - begin > allowed:
                phases, now = _text(self.phases), time.time()
                built = min(phase_seconds(phases, now, "compiling"), self.job["build_seconds"])
                longer = limit + phase_seconds(phases, now, "waiting") + built
                if longer <= allowed + 0.01:
                    return {"timed_out": True}
                allowed = longer
            if memory is not None and sum(map(resident_bytes, session_of(process.pid))) > memory:
                return {"over_memory": True}
            time.sleep(TICK_SECONDS)

    def _abandoned(self) -> bool:
        """Whether the client was not heard for too long; a board's clock may jump, so the monotonic one is taken."""
        try:
            heard: Optional[float] = os.stat(HEARD_FILE).st_mtime
        except OSError:
            heard = None
        now = time.monotonic()
        if heard != self.heard_at:
            self.heard_at, self.heard_since = heard, now
        grace = self.job["grace_seconds"]
        if not os.path.exists(HUNG_UP_FILE):
            self.connected_at = now
        return now - self.heard_since > grace or now - self.connected_at > min(grace, HUNG_UP_SECONDS)

    def _kill(self) -> None:
        """End the agent and all that it started."""
        if self.process is None:
            return
        for pid in {self.process.pid, *session_of(self.process.pid)}:
            _signal(pid, signal.SIGKILL)
        self.process.wait()


def _leave(_number: int, _frame: Any) -> None:
    raise SystemExit


def _outcome(folder: str) -> Dict[str, Any]:
    """All that a client wants to know of a job that is over; without ``end`` where nobody ended it."""

    def read(name: str) -> Any:
        try:
            return json.loads(_text(os.path.join(folder, name)))
        except ValueError:
            return None

    job = read(JOB_FILE) or {}
    sizes = {}
    for name in job.get("outputs", []):
        path = os.path.join(folder, os.path.basename(name))
        if os.path.exists(path):
            sizes[name] = os.path.getsize(path)
    return {
        "end": read(END_FILE),
        "answer": read(ANSWER_FILE),
        "phases": _text(os.path.join(folder, ANSWER_FILE + ".phases")),
        "log": _text(os.path.join(folder, LOG_FILE))[-LOG_BYTES:],
        "sizes": sizes,
    }


def _stop(folder: str) -> None:
    """End the supervisor of a job, and wait until it is gone; then whatever it left behind when it was killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(20):
            lock = _lock(folder)
            if lock is not None:
                os.close(lock)
                for pid in _working_in(folder):
                    _signal(pid, signal.SIGKILL)
                return
            supervisor = _text(os.path.join(folder, LOCK_FILE)).strip()
            if supervisor.isdigit():
                _signal(int(supervisor), number)
            time.sleep(0.2)


def _working_in(folder: str) -> List[int]:
    """The processes of ours whose working directory is a folder: an agent that lost its supervisor has children."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and int(name) != os.getpid() and os.readlink("/proc/%s/cwd" % name) == folder:
                found.append(int(name))
        except OSError:
            pass  # it has ended, or is another user's
    return found


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        pass


def _lock(folder: str) -> Optional[int]:
    """The lock of a job with our number in it; None where its supervisor lives, or there is no such folder."""
    try:
        handle = os.open(os.path.join(folder, LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    os.ftruncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)
    return handle


def _entries(folder: str) -> List[str]:
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder))] if os.path.isdir(folder) else []


def _age(path: str, now: float) -> float:
    try:
        return now - os.stat(path).st_mtime
    except OSError:
        return 0.0


def _remove(path: str) -> None:
    try:
        os.remove(path)
    except OSError:
        pass


def _touch(path: str) -> None:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        os.utime(path, None)
    except OSError:
        pass  # a full disk, or the job was finished meanwhile


def _text(path: str) -> str:
    try:
        with open(path, errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""
