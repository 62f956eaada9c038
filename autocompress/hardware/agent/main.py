"""One request of the agent: what it asks for, and the answer."""

import json
import os
import platform
import sys
from typing import Any, Dict, List, Optional, Tuple

from .arrays import shape_text
from .engines import ENGINES
from .errors import CrashError, InvalidOutputError, RefusedError, first_line
from .facts import affinity, host_facts, resident_memory
from .phases import Phases, Room
from .protocol import PROTOCOL, measure_latency
from .state import host_state
from .system import die_with, write_json


def read_samples(engine: Any, path: str) -> Any:
    """The samples of an input file, after a check that the model takes them."""
    array, shape = engine.arrays.load(path), engine.shape
    given = [1, *array.shape[1:]]
    fits = len(given) == len(shape) and all(
        not isinstance(want, int) or want == have
        for want, have in zip(shape, given)  # noqa: B905 (Python 3.6)
    )
    if not fits or array.shape[0] < 1:
        raise RefusedError("the input is %s but the model takes %s" % (shape_text(array.shape), shape_text(shape)))
    if str(array.dtype) != "float32":
        raise RefusedError("the input is %s but must be float32" % array.dtype)
    return array


def check_output(engine: Any, output: Any) -> None:
    bad = engine.arrays.bad(output)
    if bad:
        raise InvalidOutputError("%d of %d output values are NaN or infinite" % (bad, output.size))


def _run(engine: Any, job: Dict[str, Any], folder: Optional[str], phases: Phases) -> List[List[int]]:
    arrays = engine.arrays
    shapes = []
    for source, result in zip(job["inputs"], job["outputs"]):  # noqa: B905 (Python 3.6)
        array = read_samples(engine, source)
        written: Any = None
        for index in range(array.shape[0]):
            # One sample at a time in the room: a measurement of somebody else waits for no more than that.
            with Room(folder, phases, False):
                output = engine.run(arrays.sample(array, index))
            check_output(engine, output)
            if written is None:
                written = arrays.create(result, (array.shape[0], *output.shape[1:]))
            arrays.put(written, index, output)
        arrays.finish(written)
        shapes.append(list(written.shape))
    return shapes


def _serve(request: Dict[str, Any], phases: Phases, answer: Dict[str, Any]) -> None:
    folder = request.get("turnstile")
    if request.get("state") is not None:
        phases.begin("sampling")
        answer["host"], answer["state"] = host_state(request["state"])
        return
    answer["host"] = host_facts()
    if request.get("time") is not None and answer["host"]["emulated"]:
        raise RefusedError("the processor is emulated: its times are no device's")
    with Room(folder, phases, False):
        engine = ENGINES[request["engine"]](request, phases)
        answer["engine_version"] = engine.version
        if engine.gpu is not None:
            answer["host"]["gpu"] = engine.gpu.facts()
        answer["details"] = engine.details
        if request.get("probe"):
            return
        # Everything that can be refused is refused before anything is timed.
        phases.begin("reading inputs")
        job = request.get("time")
        timed = None if job is None else read_samples(engine, job["input"])
        if timed is not None:
            samples = [engine.arrays.sample(timed, index) for index in range(min(timed.shape[0], engine.fed))]
            phases.begin("running")
            for sample in samples:
                check_output(engine, engine.run(sample))
    if job is not None:
        phases.begin("timing")
        with Room(folder, phases, True):
            answer["time"] = measure_latency(engine, samples, job)
    if request.get("run") is not None:
        phases.begin("running")
        answer["shapes"] = _run(engine, request["run"], folder, phases)
    engine.finish()
    answer["details"] = engine.details
    answer["peak_memory_bytes"] = engine.peak_memory()


def _classify(error: BaseException, phase: str) -> Tuple[str, str]:
    text = first_line(error)
    if isinstance(error, (RefusedError, InvalidOutputError)):
        return "unsupported" if isinstance(error, RefusedError) else "invalid_output", text
    if isinstance(error, CrashError):
        return "crashed", "%s while %s" % (text, phase)
    everything = str(error).lower()
    memory = (
        "bad_alloc",
        "out of memory",
        "failed to allocate",
        "could not allocate",
        "cannot allocate memory",
        "alloc_failed",  # of cuBLAS and cuDNN
    )
    if isinstance(error, MemoryError) or any(sign in everything for sign in memory):
        return "out_of_memory", "out of memory while %s: %s" % (phase, text)
    if isinstance(error, ImportError):
        return "unsupported", "cannot be imported: %s" % text
    if phase in ("importing", "loading", "compiling", "reading inputs"):
        return "unsupported", "refused while %s: %s" % (phase, text)
    return "crashed", "%s while %s: %s" % (type(error).__name__, phase, text)


def main(arguments: List[str]) -> int:
    """Answer one request; the exit code is 0 whenever an answer was written."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python agent.pyz request.json answer.json\n")
        return 2
    target = os.path.abspath(arguments[1])
    with open(arguments[0]) as stream:
        request = json.load(stream)
    os.chdir(os.path.dirname(os.path.abspath(arguments[0])))
    die_with(request.get("parent"))
    phases = Phases(target + ".phases")
    phases.begin("starting")
    answer = {"protocol": PROTOCOL, "engine": request["engine"], "engine_version": "", "outcome": "ok", "message": ""}
    try:
        if request.get("state") is None and request["engine"] not in ENGINES:
            raise RefusedError("this agent has no engine %s" % request["engine"])
        _serve(request, phases, answer)
    except Exception as error:
        answer["outcome"], answer["message"] = _classify(error, phases.current)
    phases.begin("done")
    answer["phases"] = {name: round(seconds, 3) for name, seconds in phases.seconds.items()}
    answer.setdefault("peak_memory_bytes", resident_memory("VmHWM"))
    answer["process"] = {
        "threads": request.get("threads"),
        "affinity": affinity(),
        "python": platform.python_version(),
    }
    write_json(target, answer)
    sys.stdout.flush()
    # Without the engines' own exit code: some crash or hang while they are torn down, after the answer is given.
    os._exit(0)
