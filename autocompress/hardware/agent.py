"""The agent: loads one model in one engine, times it or runs it on inputs, and writes a JSON answer.

It runs in a process of its own, here or on a device, because an engine may crash, hang or be killed for memory. It is
one file for Python 3.6 and newer, needs the standard library and the engine (with the NumPy that comes with it), and
imports nothing of the package::

    python agent.py request.json answer.json

File names in a request are relative to the request's folder. A request holds

- ``engine``, and where only the engine and the host are asked for, ``"probe": true``;
- ``model``, ``precision``, ``device`` (``cpu`` or ``cuda``), ``threads``, ``options`` of the engine;
- ``time``: ``{"input": "x.npy", ...}`` with the settings of the protocol, and/or
- ``run``: ``{"inputs": ["a.npy"], "outputs": ["b.npy"]}``; an input may hold many samples, which are fed one by one;
- ``turnstile``: folder of the host's lock files (see `enter`), or null;
- ``parent``: process that the agent must not outlive, or null.

The answer holds ``outcome`` (``ok``, ``unsupported``, ``invalid_output``, ``out_of_memory`` or ``crashed``),
``message``, and what was asked for. The file ``<answer>.phases`` gets a line at the start of every phase, so that a
death in the middle can be told as "SIGSEGV while compiling".
"""

import hashlib
import json
import math
import os
import platform
import signal
import sys
import time

# The folder of this file holds other modules where the agent runs inside a checkout: none may shadow a library.
if sys.path and os.path.realpath(sys.path[0] or ".") == os.path.dirname(os.path.realpath(__file__)):
    del sys.path[0]

from typing import Any, Dict, List, Optional, Tuple, Type

try:
    import fcntl
except ImportError:  # not a Unix: no locks there
    fcntl = None  # type: ignore[assignment]

PROTOCOL = 2
"""Version of the measuring protocol: figures of different versions are not compared or cached together."""

GATE_FILE, ROOM_FILE = "gate.lock", "room.lock"


# ---------------------------------------------------------------------------------------------------------------------
# The turnstile: two lock files of a host, a gate and a room


def enter(folder: str, exclusive: bool) -> Tuple[int, ...]:
    """Wait for the room of a host and return what `leave` takes.

    Many may be in the room together, each for one training step or the like; a measurement wants it alone. Everyone
    passes the gate first, and a measurement keeps the gate while it waits, so that no newcomer can hold it up for ever.
    The locks are the kernel's: they end with the process that holds them, however it dies.
    """
    mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    gate = os.open(os.path.join(folder, GATE_FILE), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(gate, mode)
        room = os.open(os.path.join(folder, ROOM_FILE), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(room, mode)
        except BaseException:
            os.close(room)
            raise
    except BaseException:
        os.close(gate)
        raise
    if exclusive:
        return (room, gate)
    _release(gate)
    return (room,)


def leave(held: Tuple[int, ...]) -> None:
    """Give back what `enter` returned."""
    for handle in held:
        _release(handle)


def _release(handle: int) -> None:
    # Unlocked explicitly: a child forked meanwhile has a copy of the handle, and closing ours alone would not unlock.
    try:
        fcntl.flock(handle, fcntl.LOCK_UN)
    finally:
        os.close(handle)


class _Room:
    """The turnstile as the agent uses it; does nothing where the request names none."""

    def __init__(self, folder: Optional[str], phases: "_Phases", exclusive: bool) -> None:
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


class _Phases:
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


# ---------------------------------------------------------------------------------------------------------------------
# Engines. Each has `version`, `shape` (of its input; None or text for a free axis), and `run(array) -> array`


class RefusedError(Exception):
    """The engine cannot run this model as asked; the text says why."""


class InvalidOutputError(Exception):
    """The model's output holds NaN or infinities."""


class _Engine:
    """One model in one engine, or only the engine's facts where the request is a probe.

    Attributes:
        version: as the engine itself reports it.
        details: plain facts for the record.
        shape: of the model's first input; None or text for a free axis.
    """

    version = ""

    def __init__(self, request: Dict[str, Any], phases: _Phases) -> None:
        self.details: Dict[str, Any] = {}
        self.shape: List[Any] = []

    def run(self, array: Any) -> Any:
        """The model's first output for one float32 sample of `shape`."""
        raise RefusedError("an engine without run()")


class _OnnxRuntime(_Engine):
    def __init__(self, request: Dict[str, Any], phases: _Phases) -> None:
        _Engine.__init__(self, request, phases)
        phases.begin("importing")
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)
        self.version = str(onnxruntime.__version__)
        wanted = "CUDAExecutionProvider" if request.get("device") == "cuda" else "CPUExecutionProvider"
        available = onnxruntime.get_available_providers()
        self.details.update({"providers": list(available)})
        if wanted not in available:
            raise RefusedError("this build of onnxruntime has no %s" % wanted)
        if request.get("probe"):
            return
        phases.begin("loading")
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.intra_op_num_threads = request["threads"]
        settings.inter_op_num_threads = 1
        for name, value in request.get("options", {}).items():
            settings.add_session_config_entry(name, _text(value))
        self.session = onnxruntime.InferenceSession(request["model"], settings, providers=[wanted])
        if wanted not in self.session.get_providers():
            # It goes on with the CPU by itself where the GPU's libraries are missing: that would be another target.
            raise RefusedError("onnxruntime could not start %s" % wanted)
        self.name = self.session.get_inputs()[0].name
        self.shape = list(self.session.get_inputs()[0].shape)
        self.outputs = [self.session.get_outputs()[0].name]

    def run(self, array: Any) -> Any:
        return self.session.run(self.outputs, {self.name: array})[0]


OPENVINO_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""What openvino calls our number formats."""
OPENVINO_TYPES = {"f32": "'float32'", "bf16": "'bfloat16'", "f16": "'float16'"}
"""How it spells what it chose."""


def openvino_hint(precision: str, capabilities: List[str]) -> str:
    """The number format of all that a file does not quantize: bf16 beside integers where the CPU has it."""
    if precision == "int8":
        return "bf16" if "BF16" in capabilities else "f32"
    return OPENVINO_HINTS[precision]


class _OpenVino(_Engine):
    def __init__(self, request: Dict[str, Any], phases: _Phases) -> None:
        _Engine.__init__(self, request, phases)
        phases.begin("importing")
        import openvino

        core = openvino.Core()
        self.version = str(openvino.__version__).split("-")[0]
        capabilities = list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        self.details.update({"capabilities": capabilities})
        if request.get("probe"):
            return
        precision = request.get("precision", "fp32")
        if precision in ("bf16", "fp16") and precision.upper() not in capabilities:
            raise RefusedError("this CPU has no %s arithmetic that openvino uses" % precision)
        phases.begin("loading")
        model = core.read_model(request["model"])
        phases.begin("compiling")
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(request["threads"]),
            # Said for float32 too: on CPUs with matrix units openvino would choose bfloat16 by itself.
            "INFERENCE_PRECISION_HINT": openvino_hint(precision, capabilities),
        }
        for name, value in request.get("options", {}).items():
            settings[name] = _text(value)
        self.model = core.compile_model(model, "CPU", settings)
        wanted = settings["INFERENCE_PRECISION_HINT"]
        chosen = str(self.model.get_property("INFERENCE_PRECISION_HINT"))
        if OPENVINO_TYPES.get(wanted, wanted) not in chosen:
            raise RefusedError("openvino computes in %s where %s was asked for" % (chosen, wanted))
        self.details["computes_in"] = wanted
        self.request = self.model.create_infer_request()
        partial = self.model.input(0).get_partial_shape()
        self.shape = [each.get_length() if each.is_static else None for each in partial]

    def run(self, array: Any) -> Any:
        return self.request.infer([array], share_inputs=True, share_outputs=True)[0]


class _DeepSparse(_Engine):
    def __init__(self, request: Dict[str, Any], phases: _Phases) -> None:
        _Engine.__init__(self, request, phases)
        phases.begin("importing")
        os.environ["NM_DISABLE_ANALYTICS"] = "1"  # it would report its use over the network
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
        # It imports torch for a comparison that is not used here: seconds, and memory that is not the engine's.
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
        import deepsparse

        self.version = str(deepsparse.__version__)
        self.details.update({"isa": str(deepsparse.cpu_architecture().isa)})
        if request.get("probe"):
            return
        if request.get("options"):
            raise RefusedError("deepsparse takes no option %s" % sorted(request["options"])[0])
        phases.begin("compiling")
        self.engine = deepsparse.Engine(
            request["model"], batch_size=1, num_cores=request["threads"], scheduler="single_stream"
        )
        if self.engine.num_cores != request["threads"]:
            raise RefusedError(
                "deepsparse uses %d cores where %d were asked for" % (self.engine.num_cores, request["threads"])
            )
        self.details["supported_operators"] = float(self.engine.fraction_of_supported_ops)
        self.shape = list(self.engine.input_shapes[0])

    def run(self, array: Any) -> Any:
        return self.engine.run([array], val_inp=False)[0]


ENGINES: Dict[str, Type[_Engine]] = {"onnxruntime": _OnnxRuntime, "openvino": _OpenVino, "deepsparse": _DeepSparse}


def _text(value: Any) -> str:
    return ("1" if value else "0") if isinstance(value, bool) else str(value)


# ---------------------------------------------------------------------------------------------------------------------
# The protocol


def percentile(ordered: List[float], share: float) -> float:
    """Percentile of an ascending list by linear interpolation, as NumPy does by default."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def interval_ranks(count: int, share: float) -> Tuple[int, int]:
    """Ranks (from 0) of the order statistics that enclose a quantile with 95 % confidence, whatever the distribution.

    The number of values below the quantile is binomial with ``count`` and ``share``. With too few values the upper
    rank is the last one, and the confidence on that side is less.
    """
    low, high, below = 0, count - 1, 0.0
    for rank in range(count + 1):
        # `below` is P(B < rank) here.
        if below <= 0.025:
            low = max(rank - 1, 0)
        if below >= 0.975:
            high = min(rank - 1, count - 1)
            break
        logarithm = math.lgamma(count + 1) - math.lgamma(rank + 1) - math.lgamma(count - rank + 1)
        below += math.exp(logarithm + rank * math.log(share) + (count - rank) * math.log(1.0 - share))
    return low, high


def summary(milliseconds: List[float]) -> Dict[str, Any]:
    """p50, p90, p99, mean and the 95 % confidence interval of p90."""
    ordered = sorted(milliseconds)
    low, high = interval_ranks(len(ordered), 0.9)
    return {
        "p50": percentile(ordered, 0.5),
        "p90": percentile(ordered, 0.9),
        "p99": percentile(ordered, 0.99),
        "mean": math.fsum(ordered) / len(ordered),
        "p90_interval": [ordered[low], ordered[high]],
        "runs": len(ordered),
    }


def _warm_up(engine: Any, samples: List[Any], settings: Dict[str, Any]) -> int:
    """Run until two windows in a row have the same median within 3 %, or the time for it is over."""
    begin = time.perf_counter()
    previous: Optional[float] = None
    window: List[float] = []
    runs = 0
    while True:
        start = time.perf_counter()
        engine.run(samples[runs % len(samples)])
        window.append(time.perf_counter() - start)
        runs += 1
        spent = time.perf_counter() - begin
        if runs >= 3 and spent > settings["warmup_seconds"]:
            return runs
        if len(window) == 8:
            median = percentile(sorted(window), 0.5)
            if previous is not None and abs(median - previous) <= 0.03 * previous:
                return runs
            previous, window = median, []


def _attempt(engine: Any, samples: List[Any], settings: Dict[str, Any]) -> Dict[str, Any]:
    """One series of timed runs, with what else the machine did meanwhile."""
    clock, run = time.perf_counter, engine.run
    times: List[float] = []
    load = _Load()
    begin = clock()
    index, number = 0, len(samples)
    while True:
        for _ in range(16):
            sample = samples[index % number]
            start = clock()
            run(sample)
            times.append((clock() - start) * 1000.0)
            index += 1
        spent = clock() - begin
        if len(times) < settings["min_runs"] or spent < settings["min_seconds"]:
            continue
        result = summary(times)
        width = result["p90_interval"][1] - result["p90_interval"][0]
        if width <= settings["interval"] * result["p90"] or spent >= settings["max_seconds"]:
            return {"latency": result, "seconds": spent, "load": load.since()}


def _time(engine: Any, samples: List[Any], settings: Dict[str, Any]) -> Dict[str, Any]:
    """The whole protocol: warm-up, then attempts until one is undisturbed; the least disturbed one is kept."""
    warmup = _warm_up(engine, samples, settings)
    before = clocks()
    attempts: List[Dict[str, Any]] = []
    spent = 0.0
    while True:
        attempts.append(_attempt(engine, samples, settings))
        spent += attempts[-1]["seconds"]
        foreign = attempts[-1]["load"]["foreign"]
        if foreign is None or foreign <= settings["foreign_limit"]:
            best = attempts[-1]
            break
        if len(attempts) >= settings["attempts"] or spent > settings["repeat_seconds"]:
            best = min(attempts, key=lambda each: each["load"]["foreign"])
            break
    foreign = best["load"]["foreign"]
    return {
        "latency": best["latency"],
        "disturbed": foreign is not None and foreign > settings["foreign_limit"],
        "conditions": {
            "warmup_runs": warmup,
            "attempts": len(attempts),
            "seconds": round(best["seconds"], 3),
            "foreign_load_cores": foreign,
            "stolen_cores": best["load"]["stolen"],
            "cores_used": best["load"]["own"],
            "clocks_mhz": {"before": before, "after": clocks()},
            "temperatures_c": temperatures(),
        },
    }


class _Load:
    """CPU time of this process and of everybody else, in cores, since it was made; None where the kernel hides it."""

    def __init__(self) -> None:
        self.begin = self._now()

    @staticmethod
    def _now() -> Tuple[float, float, Optional[float], Optional[float]]:
        own = time.process_time()
        fields = (_read("/proc/stat") or "").split("\n")[0].split()
        if len(fields) < 9 or fields[0] != "cpu":
            return time.perf_counter(), own, None, None
        ticks = float(os.sysconf("SC_CLK_TCK"))
        user, nice, system, _idle, _wait, irq, softirq, steal = (int(field) / ticks for field in fields[1:9])
        return time.perf_counter(), own, user + nice + system + irq + softirq, steal

    def since(self) -> Dict[str, Any]:
        now = self._now()
        wall = max(now[0] - self.begin[0], 1e-9)
        own = now[1] - self.begin[1]
        result: Dict[str, Any] = {"own": round(own / wall, 3), "foreign": None, "stolen": None}
        if now[2] is not None and now[3] is not None and self.begin[2] is not None and self.begin[3] is not None:
            # Time that a hypervisor gave to others disturbs like a neighbour on the same machine.
            stolen = now[3] - self.begin[3]
            result["foreign"] = round(max(now[2] - self.begin[2] + stolen - own, 0.0) / wall, 3)
            result["stolen"] = round(stolen / wall, 3)
        return result


# ---------------------------------------------------------------------------------------------------------------------
# Facts about the host and the process


def _read(path: str) -> Optional[str]:
    try:
        with open(path, errors="replace") as stream:
            return stream.read().strip("\0\n ")
    except OSError:
        return None


def affinity() -> List[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cores() -> Tuple[int, int]:
    """Logical and physical cores that this process may use, by its affinity and by a container's quota."""
    usable = affinity()
    siblings = {_read("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list" % core) or core for core in usable}
    quota = (_read("/sys/fs/cgroup/cpu.max") or "").split()
    limit = len(usable)
    if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit() and int(quota[1]):
        limit = max(math.ceil(int(quota[0]) / float(quota[1])), 1)
    return min(len(usable), limit), min(len(siblings), limit)


def cpu_model() -> str:
    """Name of the CPU or of the board, as the kernel tells it."""
    board = _read("/proc/device-tree/model")
    for line in (_read("/proc/cpuinfo") or "").split("\n"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return board or platform.processor() or platform.machine()


def clocks() -> Optional[List[float]]:
    """Current clock of each core in MHz; None where neither cpufreq nor /proc/cpuinfo tells."""
    found: List[float] = []
    for core in affinity():
        text = _read("/sys/devices/system/cpu/cpu%d/cpufreq/scaling_cur_freq" % core)
        if text and text.isdigit():
            found.append(round(int(text) / 1000.0, 1))
    if found:
        return found
    for line in (_read("/proc/cpuinfo") or "").split("\n"):
        if line.startswith("cpu MHz"):
            try:
                found.append(round(float(line.split(":", 1)[1]), 1))
            except ValueError:
                return None
    return found or None


def temperatures() -> Optional[Dict[str, float]]:
    """Degrees Celsius of each thermal zone; None where there is none."""
    found: Dict[str, float] = {}
    root = "/sys/class/thermal"
    for zone in sorted(os.listdir(root)) if os.path.isdir(root) else []:
        if zone.startswith("thermal_zone"):
            value = _read(os.path.join(root, zone, "temp"))
            if value and value.lstrip("-").isdigit():
                name = _read(os.path.join(root, zone, "type")) or zone
                found["%s/%s" % (zone[12:], name)] = int(value) / 1000.0
    return found or None


def power() -> Dict[str, Any]:
    """What sets the clocks: the governors, boost, and mains or battery; None where the kernel does not say."""
    governors = set()
    for core in affinity():
        governor = _read("/sys/devices/system/cpu/cpu%d/cpufreq/scaling_governor" % core)
        if governor:
            governors.add(governor)
    boost = _read("/sys/devices/system/cpu/cpufreq/boost")
    no_turbo = _read("/sys/devices/system/cpu/intel_pstate/no_turbo")
    mains: Optional[bool] = None
    root = "/sys/class/power_supply"
    for supply in sorted(os.listdir(root)) if os.path.isdir(root) else []:
        if _read(os.path.join(root, supply, "type")) == "Mains":
            mains = bool(mains) or _read(os.path.join(root, supply, "online")) == "1"
    return {
        "governor": "+".join(sorted(governors)) or None,
        "boost": boost == "1" if boost is not None else (no_turbo == "0" if no_turbo is not None else None),
        "mains": mains,
    }


def host_facts() -> Dict[str, Any]:
    """What a measurement depends on beyond the engine; ``id`` is equal exactly where figures may be compared."""
    model, machine = cpu_model(), platform.machine()
    logical, physical = cores()
    identity = _read("/etc/machine-id") or platform.node()
    seed = json.dumps([identity, platform.node(), model, logical, physical, machine])
    memory: Optional[int] = None
    for line in (_read("/proc/meminfo") or "").split("\n"):
        if line.startswith("MemTotal:"):
            memory = int(line.split()[1]) * 1024
    return {
        "id": hashlib.sha256(seed.encode()).hexdigest()[:12],
        "name": platform.node(),
        "cpu_model": model,
        "machine": machine,
        "cores": logical,
        "physical_cores": physical,
        "memory_bytes": memory,
        "system": "%s %s" % (platform.system(), platform.release()),
        "power": power(),
    }


def _memory(field: str) -> Optional[int]:
    """Resident memory of this process in bytes: ``VmRSS`` now, ``VmHWM`` at its peak.

    Not from getrusage: its peak outlives exec, and so would include the process that started this one.
    """
    for line in (_read("/proc/self/status") or "").split("\n"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


# ---------------------------------------------------------------------------------------------------------------------
# The request


def _samples(path: str, shape: List[Any]) -> Any:
    """The samples of an input file, after a check that the model takes them."""
    import numpy

    array = numpy.load(path, mmap_mode="r", allow_pickle=False)
    given = [1, *array.shape[1:]]
    fits = len(given) == len(shape) and all(
        not isinstance(want, int) or want == have
        for want, have in zip(shape, given)  # noqa: B905 (Python 3.6)
    )
    if not fits or array.shape[0] < 1:
        raise RefusedError("the input is %s but the model takes %s" % (_shape(array.shape), _shape(shape)))
    if array.dtype != numpy.float32:
        raise RefusedError("the input is %s but must be float32" % array.dtype)
    return array


def _shape(shape: Any) -> str:
    return "x".join(str(each) if isinstance(each, int) else "?" for each in shape)


def _sample(array: Any, index: int) -> Any:
    import numpy

    return numpy.ascontiguousarray(array[index : index + 1])


def _check(output: Any) -> None:
    import numpy

    bad = int(output.size - numpy.isfinite(output).sum())
    if bad:
        raise InvalidOutputError("%d of %d output values are NaN or infinite" % (bad, output.size))


def _run(engine: Any, job: Dict[str, Any], folder: Optional[str], phases: _Phases) -> List[List[int]]:
    import numpy

    shapes = []
    for source, result in zip(job["inputs"], job["outputs"]):  # noqa: B905 (Python 3.6)
        array = _samples(source, engine.shape)
        written: Any = None
        for index in range(array.shape[0]):
            # One sample at a time in the room: a measurement of somebody else waits for no more than that.
            with _Room(folder, phases, False):
                output = engine.run(_sample(array, index))
            _check(output)
            if written is None:
                written = numpy.lib.format.open_memmap(
                    result, mode="w+", dtype=numpy.float32, shape=(array.shape[0], *output.shape[1:])
                )
            written[index] = output[0]
        written.flush()
        shapes.append(list(written.shape))
    return shapes


def _serve(request: Dict[str, Any], phases: _Phases, answer: Dict[str, Any]) -> None:
    folder = request.get("turnstile")
    answer["host"] = host_facts()
    with _Room(folder, phases, False):
        engine = ENGINES[request["engine"]](request, phases)
        answer["engine_version"] = engine.version
        answer["details"] = engine.details
        if request.get("probe"):
            return
        # Everything that can be refused is refused before anything is timed.
        phases.begin("reading inputs")
        job = request.get("time")
        timed = None if job is None else _samples(job["input"], engine.shape)
        if timed is not None:
            samples = [_sample(timed, index) for index in range(min(timed.shape[0], 16))]
            phases.begin("running")
            for sample in samples:
                _check(engine.run(sample))
    if job is not None:
        phases.begin("timing")
        with _Room(folder, phases, True):
            answer["time"] = _time(engine, samples, job)
    if request.get("run") is not None:
        phases.begin("running")
        answer["shapes"] = _run(engine, request["run"], folder, phases)
    answer["details"] = engine.details


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    text = lines[0] if lines else type(error).__name__
    # Some engines begin with the place in their own source; the reason comes in the next lines.
    if (text.startswith(("Exception from ", "Check ")) or text.endswith(":")) and len(lines) > 1:
        text = lines[-1] if text.startswith("Check ") else " ".join(lines[1:3])
    return text[:300]


def _classify(error: BaseException, phase: str) -> Tuple[str, str]:
    text = _first_line(error)
    if isinstance(error, RefusedError):
        return "unsupported", text
    if isinstance(error, InvalidOutputError):
        return "invalid_output", text
    everything = str(error).lower()
    memory = ("bad_alloc", "out of memory", "failed to allocate", "could not allocate", "cannot allocate memory")
    if isinstance(error, MemoryError) or any(sign in everything for sign in memory):
        return "out_of_memory", "out of memory while %s: %s" % (phase, text)
    if isinstance(error, ImportError):
        return "unsupported", "cannot be imported: %s" % text
    if phase in ("importing", "loading", "compiling", "reading inputs"):
        return "unsupported", "refused while %s: %s" % (phase, text)
    return "crashed", "%s while %s: %s" % (type(error).__name__, phase, text)


def _write(path: str, answer: Dict[str, Any]) -> None:
    temporary = path + ".part"
    with open(temporary, "w") as stream:
        json.dump(answer, stream, allow_nan=False)
    os.replace(temporary, path)


def _die_with(parent: Optional[int]) -> None:
    """Ask the kernel to end this process with its parent: nothing is left running after a kill -9 (Linux)."""
    if parent is None or not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: List[str]) -> int:
    """Answer one request; the exit code is 0 whenever an answer was written."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python agent.py request.json answer.json\n")
        return 2
    target = os.path.abspath(arguments[1])
    with open(arguments[0]) as stream:
        request = json.load(stream)
    os.chdir(os.path.dirname(os.path.abspath(arguments[0])))
    _die_with(request.get("parent"))
    phases = _Phases(target + ".phases")
    phases.begin("starting")
    answer = {"protocol": PROTOCOL, "engine": request["engine"], "engine_version": "", "outcome": "ok", "message": ""}
    try:
        if request["engine"] not in ENGINES:
            raise RefusedError("this agent has no engine %s" % request["engine"])
        _serve(request, phases, answer)
    except Exception as error:
        answer["outcome"], answer["message"] = _classify(error, phases.current)
    phases.begin("done")
    answer["phases"] = {name: round(seconds, 3) for name, seconds in phases.seconds.items()}
    answer["peak_memory_bytes"] = _memory("VmHWM")
    answer["process"] = {
        "threads": request.get("threads"),
        "affinity": affinity(),
        "python": platform.python_version(),
    }
    _write(target, answer)
    sys.stdout.flush()
    # Without the engines' own exit code: some crash or hang while they are torn down, after the answer is given.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
