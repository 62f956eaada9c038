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

import array
import ast
import glob
import hashlib
import importlib.util
import json
import math
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

# The folder of this file holds other modules where the agent runs inside a checkout: none may shadow a library.
if sys.path and os.path.realpath(sys.path[0] or ".") == os.path.dirname(os.path.realpath(__file__)):
    del sys.path[0]

from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

try:
    import fcntl
except ImportError:  # not a Unix: no locks there
    fcntl = None  # type: ignore[assignment]

PROTOCOL = 3
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
# Files of samples and outputs: float32 in .npy, N first


class _NumPyArrays:
    """By NumPy, for engines that bring it."""

    @staticmethod
    def load(path: str) -> Any:
        """What has `shape` and `dtype`; the values are read with `sample`."""
        import numpy

        return numpy.load(path, mmap_mode="r", allow_pickle=False)

    @staticmethod
    def sample(array: Any, index: int) -> Any:
        """One sample of `load`, with a first axis of 1."""
        import numpy

        return numpy.ascontiguousarray(array[index : index + 1])

    @staticmethod
    def bad(output: Any) -> int:
        """How many values are NaN or infinite."""
        import numpy

        return int(output.size - numpy.isfinite(output).sum())

    @staticmethod
    def create(path: str, shape: Tuple[int, ...]) -> Any:
        """A new file for so many outputs."""
        import numpy

        return numpy.lib.format.open_memmap(path, mode="w+", dtype=numpy.float32, shape=shape)

    @staticmethod
    def put(written: Any, index: int, output: Any) -> None:
        """Write one output into the file of `create`."""
        written[index] = output[0]

    @staticmethod
    def finish(written: Any) -> None:
        """Have everything in the file."""
        written.flush()


# ---------------------------------------------------------------------------------------------------------------------
# Engines. Each has `version`, `shape` (of its input; None or text for a free axis), and `run(array) -> array`


class RefusedError(Exception):
    """The engine cannot run this model as asked; the text says why."""


class CrashError(Exception):
    """A program that the engine consists of failed; the text says how."""


class InvalidOutputError(Exception):
    """The model's output holds NaN or infinities."""


class _Engine:
    """One model in one engine, or only the engine's facts where the request is a probe.

    Attributes:
        version: as the engine itself reports it.
        details: plain facts for the record.
        shape: of the model's first input; None or text for a free axis.
        device: ``cpu``, or the kind of GPU.
        gpu: facts about the GPU; None without one, and where its driver does not tell.
        arrays: how samples and outputs are read, checked and written.
        fed: so many different samples are tried before the timing, and fed in turn while it lasts.
        repeats_itself: whether `attempt` is several series already, of which it chose one.
    """

    version = ""
    arrays: Any = _NumPyArrays
    fed = 16
    repeats_itself = False

    def __init__(self, request: Dict[str, Any], phases: _Phases) -> None:
        self.details: Dict[str, Any] = {}
        self.shape: List[Any] = []
        self.device = str(request.get("device", "cpu"))
        self.gpu = None if self.device == "cpu" else Gpu.find()

    def run(self, array: Any) -> Any:
        """The model's first output for one float32 sample of `shape`."""
        raise RefusedError("an engine without run()")

    def finish(self) -> None:
        """Add to `details` what is known only after the last run."""

    def warm_up(self, samples: List[Any], settings: Dict[str, Any]) -> int:
        """Run until the times are stable; the number of runs."""
        return _warm_up(self, samples, settings)

    def attempt(self, samples: List[Any], settings: Dict[str, Any]) -> Dict[str, Any]:
        """One series of timed runs: ``latency``, ``seconds``, ``load``, and ``conditions`` where there are more."""
        return _attempt(self, samples, settings)

    def peak_memory(self) -> Optional[int]:
        """Peak resident memory in bytes of the process that ran the model."""
        return _memory("VmHWM")


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


PROGRAM_FORMAT = "autocompress-exported-program/1"
"""What the files of the engine torch say about themselves; see `autocompress.bundles.exported_program`."""
PROGRAM_KEY = "exported_program"
"""Under which their metadata holds the graph."""
PROGRAM_WORDS = ("none", "tanh", "same", "valid", "floor", "trunc", "constant", "reflect", "replicate", "circular")
"""Texts that an operator of a program may be given. No other: ATen also has operators that take the name of a file."""


def read_program(path: str) -> Tuple[Dict[str, Any], Dict[str, Any], str]:
    """The graph of an exported program, its tensors, and the version of torch that wrote it; nothing is unpickled.

    Raises:
        RefusedError: the file is no exported program, or one of another version.
    """
    import safetensors
    import safetensors.torch

    try:
        with safetensors.safe_open(path, framework="pt") as stream:
            told = stream.metadata() or {}
    except safetensors.SafetensorError as error:
        raise RefusedError("the file is not an exported program: %s" % _first_line(error))
    if told.get("format") != PROGRAM_FORMAT:
        raise RefusedError(
            "the file says that its format is %r, but this version reads %s; export it again"
            % (told.get("format"), PROGRAM_FORMAT)
        )
    return json.loads(told[PROGRAM_KEY]), safetensors.torch.load_file(path), told.get("torch", "")


def build_program(graph: Dict[str, Any], tensors: Dict[str, Any], device: Any) -> Any:
    """A graph of `read_program` as a module that takes and gives one tensor on a device.

    Raises:
        RefusedError: it has an operator that this torch does not have, or something that is no operator of ATen.
    """
    import operator

    import torch
    import torch.fx

    root, program = torch.nn.Module(), torch.fx.Graph()
    made = {graph["input"]["name"]: program.placeholder("image")}
    for index, (name, key) in enumerate(sorted(graph["tensors"].items())):
        # Names of our own: torch.fx writes them into Python code.
        root.register_buffer("t%d" % index, tensors[key].to(device, copy=True))
        made[name] = program.get_attr("t%d" % index)
    for node in graph["nodes"]:
        function = operator.getitem if node["op"] == "getitem" else _operator(node["op"])
        positional = tuple(_argument(each, made, device) for each in node["args"])
        named = {str(key): _argument(each, made, device) for key, each in node["kwargs"].items()}
        if not all(key.isidentifier() for key in named):
            raise RefusedError("the program has an argument without a proper name")
        made[node["name"]] = program.call_function(function, positional, named)
    program.output(made[graph["output"]["name"]])
    return torch.fx.GraphModule(root, program)


def _operator(name: str) -> Any:
    import torch

    parts = name.split(".")
    if len(parts) != 3 or parts[0] != "aten":
        raise RefusedError("the program has %r, which is no operator of ATen" % name)
    found = getattr(getattr(torch.ops.aten, parts[1], None), parts[2], None)
    if not isinstance(found, torch._ops.OpOverload):
        raise RefusedError("torch %s has no operator %s" % (torch.__version__, name))
    return found


def _argument(value: Any, made: Dict[str, Any], device: Any) -> Any:
    """An operator's argument: what JSON does not have is an object with its kind."""
    import torch

    if isinstance(value, list):
        return [_argument(each, made, device) for each in value]
    if isinstance(value, dict):
        ((kind, content),) = value.items()
        if kind == "value":
            return made[content]
        if kind == "device":
            return device
        if kind == "float" and content in ("inf", "-inf", "nan"):
            return float(content)
        found = getattr(torch, content, None) if kind in ("dtype", "layout", "memory_format") else None
        if found is None or not isinstance(found, getattr(torch, kind)):
            raise RefusedError("the program has an argument of an unknown kind %r" % kind)
        return found
    if isinstance(value, str) and value not in PROGRAM_WORDS:
        raise RefusedError("the program has the text %r, which no operator here takes" % value[:40])
    return value


NARROW_WEIGHTS = frozenset(
    "linear addmm bilinear convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split()
)
"""Operators whose weights are narrow, so that they must get narrow activations."""
PRODUCTS = frozenset(("matmul", "mm", "bmm", "baddbmm", "scaled_dot_product_attention"))
LIKE_FIRST = frozenset(
    ("layer_norm", "group_norm", "instance_norm", "batch_norm", "native_layer_norm", "native_group_norm", "prelu")
)
"""Operators whose parameters must have the type of what they are applied to."""


def narrow_program(program: Any, image: Any, narrow: Any) -> None:
    """Change a program of `build_program`, in place, such that it computes in float16 or bfloat16.

    Stored tensors become narrow, and casts stand where an operator would get two types. What the network itself
    computes in float32, such as a softmax over all tokens, stays so up to the next layer with weights. In float16 the
    products of two activations are float32 too: sums over thousands of tokens leave its range.

    Args:
        program: gets its image narrow afterwards.
        image: an example input, float32; the program is run once to see the types.
        narrow: ``torch.float16`` or ``torch.bfloat16``.
    """
    import torch

    graph = program.graph
    exact = dict(program.named_buffers())
    for name, tensor in exact.items():
        if tensor.is_floating_point():
            setattr(program, name, _narrowed(tensor, narrow))
    last = {source: node for node in graph.nodes for source in node.all_input_nodes}
    values: Dict[Any, Any] = {}
    for node in list(graph.nodes):
        if node.op == "placeholder":
            values[node] = image.to(narrow)
        elif node.op == "get_attr":
            values[node] = getattr(program, node.target)
        elif node.op == "call_function":
            sources = node.all_input_nodes
            kind = _wanted(node, values, narrow)
            for source in sources:
                if kind is not None and _other_type(values[source], kind):
                    with graph.inserting_before(node):
                        cast, value = _cast(program, source, values[source], exact, kind)
                    values[cast] = value
                    node.replace_input_with(source, cast)
            look_up = values.__getitem__
            values[node] = node.target(
                *torch.fx.node.map_arg(node.args, look_up), **torch.fx.node.map_arg(node.kwargs, look_up)
            )
            # Activations go as early as in a run, or the peak of the memory would be that of this pass.
            for source in set(sources) | set(node.all_input_nodes):
                if source.op == "call_function" and last.get(source, node) is node:
                    values.pop(source, None)
    _drop_unused(program)
    program.recompile()


def _drop_unused(program: Any) -> None:
    """Remove the tensors that nothing reads."""
    graph = program.graph
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    used = {node.target for node in graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in program.named_buffers() if name not in used]:
        delattr(program, name)


def _other_type(value: Any, kind: Any) -> bool:
    """Whether a value is a floating-point tensor of another type."""
    import torch

    return torch.is_tensor(value) and value.is_floating_point() and value.dtype != kind


def _cast(program: Any, source: Any, value: Any, exact: Dict[str, Any], kind: Any) -> Tuple[Any, Any]:
    """A node that gives what ``source`` gives in another type, and its value; stored tensors are rounded only once."""
    import torch

    if source.op != "get_attr":
        return program.graph.call_function(torch.ops.aten.to.dtype, (source, kind)), value.to(kind)
    name = "%s_%s" % (source.target, str(kind).replace("torch.", ""))
    program.register_buffer(name, exact[source.target].to(kind))
    return program.graph.get_attr(name), getattr(program, name)


def _wanted(node: Any, values: Dict[Any, Any], narrow: Any) -> Any:
    """The type that all floating inputs of an operator must have; None where it takes several."""
    import torch

    parts = str(node.target).split(".")
    name = parts[1] if len(parts) == 3 else ""
    if name in NARROW_WEIGHTS:
        return narrow
    if name in LIKE_FIRST:
        return values[node.args[0]].dtype
    if name not in PRODUCTS:
        return None
    if any(source.op == "get_attr" for source in node.all_input_nodes):
        return narrow
    types = [values[source].dtype for source in node.all_input_nodes if values[source].is_floating_point()]
    return torch.float32 if narrow == torch.float16 or torch.float32 in types else narrow


def _narrowed(tensor: Any, narrow: Any) -> Any:
    """A mask of -1e9 must become a large number, not an infinity that turns into NaN."""
    import torch

    limits = torch.finfo(narrow)
    return tensor.clamp(limits.min, limits.max).to(narrow)


class _Torch(_Engine):
    """PyTorch with an exported program: operator by operator, or on a GPU as one CUDA graph (`cuda_graphs`)."""

    def __init__(self, request: Dict[str, Any], phases: _Phases) -> None:
        _Engine.__init__(self, request, phases)
        phases.begin("importing")
        import torch

        self.torch = torch
        self.version = str(torch.__version__)
        if self.device not in ("cpu", "cuda"):
            raise RefusedError("torch computes on cpu and cuda, not on %s" % self.device)
        self.cuda = self.device == "cuda"
        self.details.update(self._facts())
        if request.get("probe"):
            return
        precision = request.get("precision", "fp32")
        if precision.upper() not in self.details["capabilities"]:
            raise RefusedError("torch does not compute in %s on %s here" % (precision, self.device))
        graphs = self._graphs_wanted(request.get("options", {}))
        torch.set_num_threads(request["threads"])
        torch.set_num_interop_threads(1)
        # TensorFloat-32 has ten bits of mantissa: it would be another precision than the one asked for.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        phases.begin("loading")
        graph, tensors, writer = read_program(request["model"])
        device = torch.device("cuda", 0) if self.cuda else torch.device("cpu")
        self.shape = list(graph["input"]["shape"])
        self.narrow = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
        self.staged = torch.zeros(self.shape, pin_memory=self.cuda)
        self.given = torch.zeros(self.shape, device=device) if self.cuda else self.staged
        self.program = build_program(graph, tensors, device)
        self.details.update(
            {
                "computes_in": precision,
                "cuda_graphs": graphs,
                "operators": len(graph["nodes"]),
                "exported_by": writer,
            }
        )
        del tensors
        phases.begin("compiling")
        self.recorded: Any = None
        with torch.inference_mode():
            if self.narrow is not None:
                narrow_program(self.program, self.given, self.narrow)
            # The first run shows what the device lacks, before anything is timed.
            self.output = self._compute()
            if self.cuda:
                torch.cuda.synchronize()
                # What loading and the choice of convolutions took is not what a run takes.
                torch.cuda.reset_peak_memory_stats()
            if graphs:
                self._capture()
        self.answer: Any = torch.zeros(self.output.shape, pin_memory=True) if self.cuda else None

    def _facts(self) -> Dict[str, Any]:
        torch = self.torch
        if not self.cuda:
            return {"capabilities": ["FP32", "BF16"]}
        if torch.version.cuda is None:
            raise RefusedError("this build of torch has no CUDA")
        if not torch.cuda.is_available():
            raise RefusedError("torch finds no NVIDIA GPU with a driver for its CUDA %s" % torch.version.cuda)
        narrow = ["FP16", "BF16"] if torch.cuda.is_bf16_supported(including_emulation=False) else ["FP16"]
        gpu = self.gpu
        return {
            "capabilities": ["FP32", *narrow],
            "gpu": torch.cuda.get_device_name(0),
            "compute_capability": "%d.%d" % torch.cuda.get_device_capability(0),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": None if gpu is None else gpu.driver(),
        }

    def _graphs_wanted(self, options: Dict[str, Any]) -> bool:
        for name, value in options.items():
            if name != "cuda_graphs" or not isinstance(value, bool):
                raise RefusedError("torch takes the option cuda_graphs, true or false, and not %s: %s" % (name, value))
            if not self.cuda:
                raise RefusedError("the option cuda_graphs is for the device cuda")
        return self.cuda and options.get("cuda_graphs", True)

    def _compute(self) -> Any:
        image = self.given if self.narrow is None else self.given.to(self.narrow)
        return self.program(image).float()

    def _capture(self) -> None:
        """Record a run. What is recorded may not be the first run of anything: libraries still set themselves up."""
        cuda = self.torch.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for _ in range(3):
                self._compute()
        cuda.current_stream().wait_stream(side)
        self.recorded = cuda.CUDAGraph()
        with cuda.graph(self.recorded):
            self.output = self._compute()
        cuda.synchronize()

    def run(self, array: Any) -> Any:
        self.staged.numpy()[...] = array
        with self.torch.inference_mode():
            if not self.cuda:
                return self._compute().numpy()
            self.given.copy_(self.staged, non_blocking=True)
            if self.recorded is None:
                self.output = self._compute()
            else:
                self.recorded.replay()
            self.answer.copy_(self.output, non_blocking=True)
            self.torch.cuda.synchronize()
            return self.answer.numpy()

    def finish(self) -> None:
        if self.cuda:
            self.details["gpu_peak_memory_bytes"] = int(self.torch.cuda.max_memory_allocated())


# ---------------------------------------------------------------------------------------------------------------------
# TensorRT: by its program trtexec, or by its Python package. The program needs nothing but the standard library here


class _Values:
    """float32 numbers with a shape, for hosts without NumPy: on a Jetson Nano it is missing or does not run.

    Attributes:
        shape: with a first axis of 1.
        numbers: an `array.array` of type ``f``.
        size: how many there are.
    """

    def __init__(self, shape: List[int], numbers: Any) -> None:
        self.shape = shape
        self.numbers = numbers
        self.size = len(numbers)


class _NpyFile:
    """A .npy file of N samples: its header, and where the values begin."""

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "rb") as stream:
            magic = stream.read(8)
            if magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
                raise RefusedError("%s is not a .npy file" % os.path.basename(path))
            kind, width = ("<H", 2) if magic[6] == 1 else ("<I", 4)
            header = ast.literal_eval(stream.read(struct.unpack(kind, stream.read(width))[0]).decode())
            self.offset = stream.tell()
        if header["fortran_order"]:
            raise RefusedError("the values of %s are not in C order" % os.path.basename(path))
        self.dtype = "float32" if header["descr"] == "<f4" else header["descr"]
        self.shape = tuple(header["shape"])


class _PlainArrays:
    """As `_NumPyArrays`, but without NumPy."""

    @staticmethod
    def load(path: str) -> _NpyFile:
        return _NpyFile(path)

    @staticmethod
    def sample(array: _NpyFile, index: int) -> _Values:
        numbers = _numbers()
        count = _product(array.shape[1:])
        with open(array.path, "rb") as stream:
            stream.seek(array.offset + 4 * count * index)
            numbers.fromfile(stream, count)
        return _Values([1, *array.shape[1:]], numbers)

    @staticmethod
    def bad(output: _Values) -> int:
        return sum(1 for value in output.numbers if not math.isfinite(value))

    @staticmethod
    def create(path: str, shape: Tuple[int, ...]) -> _NpyFile:
        header = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,), }" % ", ".join(map(str, shape))
        # Values begin at a multiple of 64 bytes; 10 of them are the magic, the version and the header's length.
        header += " " * (-(len(header) + 11) % 64) + "\n"
        with open(path, "wb") as stream:
            stream.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        return _NpyFile(path)

    @staticmethod
    def put(written: _NpyFile, index: int, output: _Values) -> None:
        with open(written.path, "r+b") as stream:
            stream.seek(written.offset + 4 * output.size * index)
            output.numbers.tofile(stream)

    @staticmethod
    def finish(written: _NpyFile) -> None:
        """Nothing is left to write."""


def _numbers(values: Any = ()) -> Any:
    return array.array("f", values)


def _product(sizes: Any) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count


def onnx_interface(content: bytes) -> Tuple[str, List[Any], str]:
    """Name and shape of a model's first input and name of its first output, read from the bytes of an ONNX file.

    A free axis of the shape is None.

    Raises:
        RefusedError: the file is not ONNX, or its input is not float32.
    """
    try:
        graph = _field(_fields(memoryview(content)), 7)
        inner = list(_fields(graph))
        stored = {bytes(_field(_fields(tensor), 8)).decode() for number, tensor in inner if number == 5}
        given = [list(_fields(value)) for number, value in inner if number == 11]
        inputs = [value for value in given if bytes(_field(value, 1)).decode() not in stored]
        name = bytes(_field(inputs[0], 1)).decode()
        tensor = list(_fields(_field(_fields(_field(inputs[0], 2)), 1)))
        axes = [dict(_fields(axis)) for number, axis in _fields(_field(tensor, 2)) if number == 1]
        output = bytes(_field(_fields(_field(inner, 12)), 1)).decode()
    except (IndexError, ValueError, TypeError):
        raise RefusedError("the file is not an ONNX model with a tensor as its input")
    if _field(tensor, 1) != 1:
        raise RefusedError("the model's input must be float32")
    return name, [axis.get(1) for axis in axes], output


def _fields(data: Any) -> Iterator[Tuple[int, Any]]:
    """Numbers and values of the fields of a protobuf message; texts, bytes and messages are views of memory."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(data, place)
        elif kind in (1, 2, 5):
            size, place = _varint(data, place) if kind == 2 else (8 if kind == 1 else 4, place)
            value = data[place : place + size]
            place += size
        else:
            raise ValueError("not protobuf")
        if place > len(data) or number == 0:
            raise ValueError("not protobuf")
        yield number, value


def _varint(data: Any, place: int) -> Tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7


def _field(fields: Any, wanted: int) -> Any:
    """The first field of that number."""
    for number, value in fields:
        if number == wanted:
            return value
    raise ValueError("no field %d" % wanted)


TRT_OPTIONS = ("api", "cache", "cache_mb", "trtexec", "workspace_mb")
"""What a profile may set: how TensorRT is called (``trtexec`` or ``python``), the folder of built engines and its size,
the program, and the memory in which the builder may try kernels."""
TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
"""Where JetPack and NVIDIA's packages put the program, which is on no PATH there."""
TRT_RUNS = 3
"""Timed runs of trtexec; the one with the median p50 is kept."""


def trt_version(text: str) -> Optional[Tuple[int, int, int]]:
    """The version in what trtexec prints: ``[TensorRT v8201]`` is 8.2.1, ``[TensorRT v100300]`` is 10.3.0."""
    found = re.search(r"\[TensorRT v(\d+)\]", text)
    if not found:
        return None
    number = int(found.group(1))
    step = 100 if number >= 10000 else 10
    return number // (100 * step), number // 100 % step, number % 100


def trt_device(text: str) -> Tuple[Optional[str], Optional[Tuple[int, int]]]:
    """Name and compute capability of the GPU in what trtexec prints; None where it tells none."""
    name = re.search(r"Selected Device: (.+)", text)
    compute = re.search(r"Compute Capability: (\d+)\.(\d+)", text)
    return (
        name.group(1).strip() if name else None,
        (int(compute.group(1)), int(compute.group(2))) if compute else None,
    )


def trt_formats(compute: Tuple[int, int]) -> List[str]:
    """Number formats in which TensorRT is faster on a GPU of that compute capability (NVIDIA's support matrix)."""
    formats = ["FP32"]
    if compute in ((5, 3), (6, 0), (6, 2)) or compute >= (7, 0):
        formats.append("FP16")
    if compute == (6, 1) or compute >= (7, 0):
        formats.append("INT8")
    return formats


def trt_opset(version: Tuple[int, ...]) -> int:
    """Newest opset of which TensorRT has all operators that networks are exported with: LayerNormalization is of 17."""
    return 20 if version >= (10, 0) else 17 if version >= (8, 6) else 13


def trt_build_flags(version: Tuple[int, ...], precision: str, workspace_mb: int) -> List[str]:
    """Flags of trtexec that decide how an engine is built, without the names of files."""
    pool = "--memPoolSize=workspace:%d" if version >= (8, 4) else "--workspace=%d"
    formats = {"fp32": ["--noTF32"], "fp16": ["--fp16"], "int8": ["--int8", "--noTF32"]}
    return [*formats[precision], pool % workspace_mb, "--skipInference" if version >= (8, 6) else "--buildOnly"]


def trt_times(text: str, warm_up_ms: float) -> Tuple[List[float], List[float]]:
    """Latencies and times of computation alone, in ms, of a file of ``--exportTimes``, without the warm-up.

    TensorRT 8.2 writes the warm-up too; newer versions leave it out.
    """
    runs = [each for each in json.loads(text) if each["startComputeMs"] >= warm_up_ms]
    return [float(each["latencyMs"]) for each in runs], [float(each["computeMs"]) for each in runs]


def trt_output(text: str, name: str) -> _Values:
    """One tensor of a file of ``--exportOutput``; it is no JSON where values are ``nan`` or ``inf``.

    Raises:
        CrashError: it is not in the file, or not complete.
    """
    pattern = r'"name"\s*:\s*"([^"]*)"\s*,\s*"dimensions"\s*:\s*"([^"]*)"\s*,\s*"values"\s*:\s*\[([^\]]*)\]'
    for found in re.finditer(pattern, text):
        if found.group(1) == name:
            shape = [int(size) for size in found.group(2).split("x")]
            numbers = _numbers(float(value.strip(' "')) for value in found.group(3).split(","))
            if len(numbers) == _product(shape):
                return _Values(shape, numbers)
    raise CrashError("trtexec did not write the output %s" % name)


def trt_warnings(text: str) -> Dict[str, Any]:
    """Tactics for which there was too little memory: the build goes on without them, and the engine may be slower."""
    lines = [_plain_line(line) for line in text.split("\n") if "Tactic Device request" in line]
    return {"tactic_memory_warnings": {"count": len(lines), "first": lines[0]}} if lines else {}


_TRT_MEMORY = ("Requested amount of GPU memory", "OutOfMemory", "out of memory", "std::bad_alloc")
_TRT_NO_GPU = ("no CUDA-capable device", "CUDA driver version is insufficient", "CUDA initialization failure")
_TRT_UNREAD = ("Failed to parse", "Parsing model failed", "UNSUPPORTED_NODE", "Invalid Node")
_TRT_HOLLOW = re.compile(
    r"^(Failed to (parse|create)|Parsing model failed|Engine (set ?up|could not)|Building engine failed|Network And)"
)
"""Lines that only say that something failed."""


def trt_failure(code: int, text: str, version: str) -> Exception:
    """What a failure of TensorRT means.

    Args:
        code: exit code of trtexec; negative for a signal.
        text: all that was printed.
        version: of TensorRT, for the message.
    """
    memory = _trt_memory(code, text)
    if memory is not None:
        return MemoryError(memory)
    refusal = _trt_refusal(text, version)
    if refusal is not None:
        return RefusedError(refusal)
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        return CrashError("trtexec: %s" % names.get(-code, "signal %d" % -code))
    return CrashError("trtexec: %s" % (_trt_reason(text) or "exit code %d" % code))


def _line_with(text: str, signs: Tuple[str, ...]) -> Optional[str]:
    """The first line that has one of these."""
    return next((_plain_line(line) for line in text.split("\n") if any(sign in line for sign in signs)), None)


def _trt_memory(code: int, text: str) -> Optional[str]:
    """What was said of too little memory: nothing at all, that a request failed, or that no kernel was left."""
    if code in (-signal.SIGKILL, 137):
        return "trtexec was killed (SIGKILL), most likely by the system for want of memory"
    tactics = trt_warnings(text).get("tactic_memory_warnings")
    if tactics is not None and "Could not find any implementation" in text:
        return str(tactics["first"])
    return _line_with(text, _TRT_MEMORY)


def _trt_refusal(text: str, version: str) -> Optional[str]:
    """Why TensorRT does not take the model, the flags or the machine."""
    # The line about importers is also there for operators that a plugin knows.
    unknown = [
        name
        for name in re.findall(r"No importer registered for op: ([^\s.]+)", text)
        if "Successfully created plugin: %s" % name not in text
    ]
    gpu, library = _line_with(text, _TRT_NO_GPU), _line_with(text, ("error while loading shared libraries",))
    option = _line_with(text, ("Unknown option",))
    if gpu is not None:
        return "TensorRT %s finds no GPU: %s" % (version, gpu)
    if library is not None:
        return library
    if unknown:
        return "TensorRT %s has no importer for the operator %s" % (version, unknown[0])
    if option is not None:
        return "trtexec of TensorRT %s: %s" % (version, option)
    if any(sign in text for sign in _TRT_UNREAD):
        return "TensorRT %s cannot read the model: %s" % (version, _trt_reason(text))
    return None


def _trt_reason(text: str) -> str:
    """The last line of an error that says more than that there was one."""
    lines = text.split("\n")
    # The parser writes its reason in a line of its own, behind its place in its source: "[8] Assertion failed: ...".
    for line in lines:
        if re.match(r"\[\d+\] ", line):
            return line.split(" ", 1)[1].strip()[:200]
    errors = [_plain_line(line) for line in lines if "[E]" in line]
    telling = [line for line in errors if line and not _TRT_HOLLOW.match(line)]
    return ((telling or errors or [""])[-1])[:200]


def _plain_line(line: str) -> str:
    """A line without its time and its marks: ``[11/21/2026-10:00:00] [E] [TRT] text`` is ``text``."""
    return re.sub(r"^(\[[\d/:-]+\] )?(\[[VIWEF]\] )?(\[TRT\] )?", "", line.strip()).strip()


class _TensorRt(_Engine):
    """What both ways to TensorRT share: its facts, refusals, and engines that are built once and kept.

    An engine is kept under a digest of the model, TensorRT's version, the GPU and the flags, in ``engines`` of the
    user's cache, with a cache of kernel times for all of them.

    Attributes:
        number: TensorRT's version.
        gpu_name, compute: name and compute capability of the GPU, where known.
    """

    arrays = _PlainArrays
    number: Tuple[int, ...] = ()
    gpu_name: Optional[str] = None
    compute: Optional[Tuple[int, int]] = None

    def __init__(self, request: Dict[str, Any], phases: _Phases) -> None:
        _Engine.__init__(self, request, phases)
        self.options = dict(request.get("options", {}))
        for name in sorted(self.options):
            if name not in TRT_OPTIONS:
                raise RefusedError("tensorrt takes no option %s, only %s" % (name, ", ".join(TRT_OPTIONS)))
        phases.begin("importing")
        self.start()
        self.version = ".".join(map(str, self.number))
        self.details["opset"] = trt_opset(self.number)
        if self.gpu_name is not None:
            self.details["gpu"] = self.gpu_name
        if self.compute is not None:
            self.details["compute_capability"] = "%d.%d" % self.compute
            self.details["capabilities"] = trt_formats(self.compute)
        if request.get("probe"):
            return
        self.precision = request.get("precision", "fp32")
        self._refuse_precision()
        phases.begin("loading")
        with open(request["model"], "rb") as stream:
            content = stream.read()
        self.name, self.shape, self.output = onnx_interface(content)
        if not all(self.shape):
            raise RefusedError("the model takes %s: TensorRT is measured with fixed sizes only" % _shape(self.shape))
        self.plan = self._kept(request["model"], hashlib.sha256(content).hexdigest(), phases)
        phases.begin("loading")
        self.load()

    def start(self) -> None:
        """Set `number`, `gpu_name` and `compute`."""

    def flags(self) -> List[str]:
        """All that decides how an engine is built."""
        return trt_build_flags(self.number, self.precision, self.workspace_mb())

    def workspace_mb(self) -> int:
        """Memory in which the builder may try kernels, in MiB: never its default, which was 16 MiB up to 8.2."""
        total = host_facts()["memory_bytes"] or 2**34
        # A GPU that shares its memory with the processor cannot give more than a part of it.
        return int(self.options.get("workspace_mb", min(2048, total // 2**23)))

    def build(self, model: str, engine: str, timing: str) -> str:
        """Build an engine into a file, and return what was printed meanwhile."""
        raise RefusedError("TensorRT without build()")

    def load(self) -> None:
        """Make ready for `run` what the file `plan` holds."""

    def _refuse_precision(self) -> None:
        if self.precision not in ("fp32", "fp16", "int8"):
            raise RefusedError("tensorrt computes in fp32, fp16 or int8 here, not in %s" % self.precision)
        if self.compute is not None and self.precision.upper() not in trt_formats(self.compute):
            raise RefusedError(
                "the GPU %s (sm_%d%d) has no %s arithmetic: TensorRT would build it, slower than without"
                % (self.gpu_name or "here", self.compute[0], self.compute[1], self.precision.upper())
            )

    def _kept(self, model: str, digest: str, phases: _Phases) -> str:
        """The file of the engine of a model, built if there is none yet."""
        home = os.environ.get("AUTOCOMPRESS_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "autocompress")
        folder = str(self.options.get("cache") or os.path.join(home, "engines"))
        os.makedirs(folder, exist_ok=True)
        gpu = [self.gpu_name, self.compute]
        seed = json.dumps([digest, self.version, gpu, self.flags(), self.details["api"]])
        path = os.path.join(folder, hashlib.sha256(seed.encode()).hexdigest()[:32] + ".engine")
        shared = hashlib.sha256(json.dumps([self.version, gpu, self.details["api"]]).encode()).hexdigest()[:12]
        phases.begin("waiting")
        # One at a time: builders would take each other's memory and falsify each other's times.
        with open(os.path.join(folder, "build.lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            phases.begin("compiling")
            kept = os.path.exists(path) and os.path.exists(path + ".json")
            if kept:
                os.utime(path, None)
            else:
                self._build(model, path, os.path.join(folder, "timing-%s.cache" % shared))
                _tidy(folder, int(self.options.get("cache_mb", 2048)) * 2**20)
        with open(path + ".json") as stream:
            self.details.update(json.load(stream))
        self.details["engine_was_kept"] = kept
        return path

    def _build(self, model: str, path: str, timing: str) -> None:
        temporary = "%s.part" % path  # of one who was killed: the lock lets no second one write it
        begin = time.time()
        try:
            told = self.build(model, temporary, timing)
            facts = {"build_seconds": round(time.time() - begin, 1), "engine_bytes": os.path.getsize(temporary)}
            _write(path + ".json", dict(facts, **trt_warnings(told)))
            os.replace(temporary, path)
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)


def _tidy(folder: str, limit: int) -> None:
    """Remove the engines that were not used for longest, until the others fit; what was used in this hour stays."""
    found = [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".engine")]
    total = sum(os.path.getsize(path) for path in found)
    for path in sorted(found, key=os.path.getmtime):
        if total <= limit or os.path.getmtime(path) > time.time() - 3600:
            return
        total -= os.path.getsize(path)
        for each in (path, path + ".json"):
            if os.path.exists(each):
                os.remove(each)


class _TrtExec(_TensorRt):
    """TensorRT by its program: one process builds an engine, one runs a sample, and one times many runs."""

    fed = 1  # each sample is a process that loads the engine anew
    repeats_itself = True

    def start(self) -> None:
        self.details["api"] = "trtexec"
        self.peak = 0
        self.program = self._find()
        # It fails for want of the file, but tells its version and the GPU first.
        code, told = self._call(["--loadEngine=none.engine"])
        number = trt_version(told)
        self.gpu_name, self.compute = trt_device(told)
        if number is None and "error while loading shared libraries" not in told:
            raise RefusedError("%s is not trtexec: it does not tell its TensorRT version" % self.program)
        if number is None or any(sign in told for sign in _TRT_NO_GPU):
            raise trt_failure(code, told, ".".join(map(str, number or ())))
        self.number = number

    def _find(self) -> str:
        wanted = self.options.get("trtexec")
        if wanted is not None:
            path = os.path.expanduser(str(wanted))
            if not os.path.isabs(path) or not os.access(path, os.X_OK):
                raise RefusedError("there is no program %s, which the option trtexec names" % wanted)
            return path
        found = shutil.which("trtexec") or (TRTEXEC if os.access(TRTEXEC, os.X_OK) else None)
        if found is None:
            raise RefusedError(
                "trtexec is not on PATH and not in %s, and this Python %d.%d has no package tensorrt"
                % (os.path.dirname(TRTEXEC), sys.version_info[0], sys.version_info[1])
            )
        return found

    def _call(self, arguments: List[str], inference: bool = False) -> Tuple[int, str]:
        """Exit code and output of one run of the program; the peak memory of inferences is kept."""
        parent = os.getpid()
        with open("trtexec.log", "wb") as log:
            try:
                process = subprocess.Popen(
                    [self.program, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # It dies with the agent, as the agent does with whom it works for.
                    preexec_fn=lambda: _die_with(parent),  # noqa: PLW1509 (the agent has no threads)
                )
            except OSError as error:
                raise RefusedError("cannot start %s: %s" % (self.program, error.strerror))
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        if inference:
            self.peak = max(self.peak, usage.ru_maxrss * 1024)
        with open("trtexec.log", errors="replace") as stream:
            return process.returncode, stream.read()

    def _succeed(self, arguments: List[str], inference: bool = False) -> str:
        """The output of a run that must succeed."""
        code, told = self._call(arguments, inference)
        if code or "&&&& FAILED" in told:
            sys.stderr.write(told[-8000:])
            raise trt_failure(code, told, self.version)
        return told

    def build(self, model: str, engine: str, timing: str) -> str:
        files = ["--onnx=" + model, "--saveEngine=" + engine, "--timingCacheFile=" + timing]
        told = self._succeed(files + self.flags())
        if not os.path.exists(engine):
            raise CrashError("trtexec built no engine, although it says that it did")
        return told

    def load(self) -> None:
        if any(sign in self.name for sign in ":,"):
            raise RefusedError("trtexec cannot be told the input %r, for its ':' or ','" % self.name)

    def _inference(self, sample: _Values, arguments: List[str]) -> str:
        with open("sample.bin", "wb") as stream:
            sample.numbers.tofile(stream)
        # One query at a time: by default a second one is on its way while the first one computes.
        flags = ["--loadEngine=" + self.plan, "--loadInputs=%s:sample.bin" % self.name, "--exposeDMA"]
        return self._succeed(flags + arguments, inference=True)

    def run(self, array: Any) -> Any:
        self._inference(array, ["--iterations=1", "--warmUp=0", "--duration=0", "--exportOutput=output.json"])
        with open("output.json") as stream:
            return trt_output(stream.read(), self.output)

    def warm_up(self, samples: List[Any], settings: Dict[str, Any]) -> int:
        """None here: every timed run of trtexec has its own."""
        return 0

    def attempt(self, samples: List[Any], settings: Dict[str, Any]) -> Dict[str, Any]:
        load, begin = _Load(programs=True), time.perf_counter()
        runs = [self._timed(samples[0], settings) for _ in range(TRT_RUNS)]
        seconds = time.perf_counter() - begin
        ordered = sorted(runs, key=lambda each: float(each[0]["p50"]))
        chosen = ordered[len(ordered) // 2]
        return {
            "latency": chosen[0],
            "seconds": seconds,
            "load": load.since(),
            "conditions": {
                "compute_ms": chosen[1],
                "p50_of_runs": [each[0]["p50"] for each in runs],
                "spread": round((ordered[-1][0]["p50"] - ordered[0][0]["p50"]) / chosen[0]["p50"], 4),
            },
        }

    def _timed(self, sample: _Values, settings: Dict[str, Any]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
        """Latency, and computation alone, of one timed run."""
        warm_up_ms = math.ceil(1000 * settings["warmup_seconds"])
        self._inference(
            sample,
            [
                "--warmUp=%d" % warm_up_ms,
                "--duration=%g" % settings["max_seconds"],
                "--iterations=%d" % settings["min_runs"],
                "--exportTimes=times.json",
            ],
        )
        with open("times.json") as stream:
            latencies, computes = trt_times(stream.read(), warm_up_ms)
        if len(latencies) < settings["min_runs"]:
            raise CrashError("trtexec wrote %d times, %d were asked for" % (len(latencies), settings["min_runs"]))
        return summary(latencies), summary(computes)

    def peak_memory(self) -> Optional[int]:
        return self.peak or None


class _TrtPython(_TensorRt):
    """TensorRT in this process, by its Python package and the CUDA runtime; timed as the other engines are."""

    def start(self) -> None:
        import tensorrt  # type: ignore[import-not-found]

        self.details["api"] = "python"
        self.trt = tensorrt
        self.number = tuple(int(part) for part in re.findall(r"\d+", str(tensorrt.__version__))[:3])
        self.cuda = _Cuda()
        self.compute = self.cuda.compute_capability()
        self.said: List[str] = []
        self.logger = _trt_logger(tensorrt, self.said)
        tensorrt.init_libnvinfer_plugins(self.logger, "")

    def build(self, model: str, engine: str, timing: str) -> str:
        trt, flags = self.trt, self.trt.BuilderFlag
        builder = trt.Builder(self.logger)
        explicit = 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH) if self.number < (10, 0) else 0
        network = builder.create_network(explicit)
        parser = trt.OnnxParser(network, self.logger)
        with open(model, "rb") as stream:
            if not parser.parse(stream.read()):
                self.said += [str(parser.get_error(index)) for index in range(parser.num_errors)]
                raise trt_failure(1, "\n".join(["Failed to parse", *self.said]), self.version)
        config = builder.create_builder_config()
        workspace = self.workspace_mb() * 2**20
        if self.number >= (8, 4):
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
        else:
            config.max_workspace_size = workspace
        if self.precision == "fp16":
            config.set_flag(flags.FP16)
        else:
            config.clear_flag(flags.TF32)
        if self.precision == "int8":
            config.set_flag(flags.INT8)
        known = b""
        if os.path.exists(timing):
            with open(timing, "rb") as stream:
                known = stream.read()
        config.set_timing_cache(config.create_timing_cache(known), False)
        plan = builder.build_serialized_network(network, config)
        told = "\n".join(self.said)
        if plan is None:
            raise trt_failure(1, told, self.version)
        _write_bytes(engine, plan)
        _write_bytes(timing, config.get_timing_cache().serialize())
        return told

    def load(self) -> None:
        self.runtime = self.trt.Runtime(self.logger)
        with open(self.plan, "rb") as stream:
            self.engine = self.runtime.deserialize_cuda_engine(stream.read())
        self.context: Any = None if self.engine is None else self.engine.create_execution_context()
        if self.context is None:
            raise trt_failure(1, "\n".join(self.said), self.version)
        self.stream = self.cuda.stream()
        self.named = hasattr(self.context, "execute_async_v3")  # from 8.5; bindings are gone in 10
        self.places: List[int] = []
        for name, shape in self._tensors():
            place = self.cuda.allocate(4 * _product(shape))
            self.places.append(place)
            if self.named:
                self.context.set_tensor_address(name, place)
            if name == self.name:
                self.source = place
            elif name == self.output:
                # One buffer for all outputs: whoever keeps one copies it.
                self.result, self.answer = place, _Values(list(shape), _numbers([0.0]) * _product(shape))

    def _tensors(self) -> List[Tuple[str, Tuple[int, ...]]]:
        """Names and shapes of all inputs and outputs, in the engine's order."""
        engine = self.engine
        if self.named:
            names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
            return [(name, tuple(engine.get_tensor_shape(name))) for name in names]
        count = engine.num_bindings
        return [(engine.get_binding_name(index), tuple(engine.get_binding_shape(index))) for index in range(count)]

    def run(self, array: Any) -> Any:
        self.cuda.copy(self.source, array.numbers.buffer_info()[0], 4 * array.size, True, self.stream)
        if self.named:
            done = self.context.execute_async_v3(self.stream)
        else:
            done = self.context.execute_async_v2(self.places, self.stream)
        if not done:
            raise trt_failure(1, "\n".join(self.said), self.version)
        self.cuda.copy(self.answer.numbers.buffer_info()[0], self.result, 4 * self.answer.size, False, self.stream)
        self.cuda.wait(self.stream)
        return self.answer


def _trt_logger(trt: Any, said: List[str]) -> Any:
    """A logger that adds to a list what TensorRT says, marked as trtexec marks it."""
    marks = {"INTERNAL_ERROR": "[E]", "ERROR": "[E]", "WARNING": "[W]", "INFO": "[I]"}

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            mark = marks.get(str(severity).split(".")[-1])
            if mark is not None:
                said.append("%s [TRT] %s" % (mark, text))

    return Logger()


class _Cuda:
    """The few calls of the CUDA runtime that an inference takes."""

    def __init__(self) -> None:
        import ctypes

        self.types = ctypes
        # Packages of NVIDIA for Python bring their own, in a folder for each.
        places = [
            found for folder in sys.path for found in glob.glob(os.path.join(folder, "nvidia/*/lib/libcudart.so.*"))
        ]
        for name in [*places, "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2"]:
            try:
                self.library = ctypes.CDLL(name)
                return
            except OSError:
                continue
        raise RefusedError("the CUDA runtime (libcudart.so) cannot be loaded")

    def _do(self, name: str, *arguments: Any) -> None:
        code = getattr(self.library, name)(*arguments)
        if code == 2:  # cudaErrorMemoryAllocation
            raise MemoryError("%s: out of GPU memory" % name)
        if code:
            text = self.library.cudaGetErrorString
            text.restype = self.types.c_char_p
            raise CrashError("%s: %s" % (name, (text(code) or b"").decode()))

    def compute_capability(self) -> Tuple[int, int]:
        found = []
        for attribute in (75, 76):  # cudaDevAttrComputeCapabilityMajor and Minor
            value = self.types.c_int()
            self._do("cudaDeviceGetAttribute", self.types.byref(value), attribute, 0)
            found.append(value.value)
        return found[0], found[1]

    def allocate(self, size: int) -> int:
        place = self.types.c_void_p()
        self._do("cudaMalloc", self.types.byref(place), self.types.c_size_t(size))
        return place.value or 0

    def stream(self) -> int:
        made = self.types.c_void_p()
        self._do("cudaStreamCreate", self.types.byref(made))
        return made.value or 0

    def copy(self, target: int, source: int, size: int, to_device: bool, stream: int) -> None:
        pointer = self.types.c_void_p
        kind = 1 if to_device else 2  # cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost
        self._do(
            "cudaMemcpyAsync",
            pointer(target),
            pointer(source),
            self.types.c_size_t(size),
            kind,
            pointer(stream),
        )

    def wait(self, stream: int) -> None:
        self._do("cudaStreamSynchronize", self.types.c_void_p(stream))


def _write_bytes(path: str, content: Any) -> None:
    with open(path + ".new", "wb") as stream:
        stream.write(memoryview(content))
    os.replace(path + ".new", path)


def _tensor_rt(request: Dict[str, Any], phases: _Phases) -> _Engine:
    """TensorRT by its Python package where that is installed, else by trtexec; the option ``api`` forces one."""
    api = request.get("options", {}).get("api")
    if api not in (None, "python", "trtexec"):
        raise RefusedError("the option api is %r, but must be python or trtexec" % api)
    if api is None:
        api = "trtexec" if importlib.util.find_spec("tensorrt") is None else "python"
    return (_TrtPython if api == "python" else _TrtExec)(request, phases)


ENGINES: Dict[str, Callable[[Dict[str, Any], _Phases], _Engine]] = {
    "onnxruntime": _OnnxRuntime,
    "openvino": _OpenVino,
    "deepsparse": _DeepSparse,
    "torch": _Torch,
    "tensorrt": _tensor_rt,
}


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
    energy = energy_counters(engine)
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
            joules = energy_used(energy, energy_counters(engine))
            return {
                "latency": result,
                "seconds": spent,
                "load": load.since(),
                "energy_joules": None if joules is None else joules / len(times),
            }


def verdict(
    series: List[Tuple[float, Optional[float], float]], settings: Dict[str, Any], wanted: int = 2
) -> Optional[Tuple[int, bool]]:
    """Which of several series of runs counts, and whether even that one was disturbed; None where one more is needed.

    What else happens on a machine, seen or unseen (a neighbour on the same hardware does not show in any counter of a
    virtual machine), can only make a run longer. So the fastest series counts, once ``wanted`` undisturbed ones agree.

    Args:
        series: p50, foreign load in cores (None where unknown), and duration in seconds of each.
        settings: ``foreign_limit``, ``attempts``, ``agreement`` (None: a single one is enough), ``repeat_seconds``.
        wanted: so many must agree.
    """
    quiet = [each for each in series if each[1] is None or each[1] <= settings["foreign_limit"]]
    ordered = sorted(each[0] for each in quiet)
    enough = wanted if settings["agreement"] is not None else 1
    agreed = len(ordered) >= enough and (
        enough == 1 or ordered[enough - 1] <= ordered[0] * (1.0 + settings["agreement"])
    )
    over = sum(each[2] for each in series) >= settings["repeat_seconds"]
    if not agreed and not over and len(series) - len(quiet) < settings["attempts"]:
        return None
    if quiet:
        fastest = min(range(len(series)), key=lambda index: (series[index] not in quiet, series[index][0]))
        # Where the time was over after a single long series, nothing speaks against it.
        return fastest, not agreed and len(quiet) > 1
    return min(range(len(series)), key=lambda index: series[index][1] or 0.0), True


def _time(engine: Any, samples: List[Any], settings: Dict[str, Any]) -> Dict[str, Any]:
    """The whole protocol: warm-up, then series of runs until `verdict` is content with one of them."""
    warmup = engine.warm_up(samples, settings)
    before, gpu_before = clocks(), gpu_state(engine)
    attempts: List[Dict[str, Any]] = []
    chosen: Optional[Tuple[int, bool]] = None
    while chosen is None:
        attempts.append(engine.attempt(samples, settings))
        series = [(each["latency"]["p50"], each["load"]["foreign"], each["seconds"]) for each in attempts]
        chosen = verdict(series, settings, 1 if engine.repeats_itself else 2)
    best, disturbed = attempts[chosen[0]], chosen[1]
    return {
        "latency": best["latency"],
        "energy_joules": best.get("energy_joules"),
        "disturbed": disturbed,
        "conditions": {
            "warmup_runs": warmup,
            "attempts": len(attempts),
            "p50_of_attempts": [round(each["latency"]["p50"], 4) for each in attempts],
            "seconds": round(best["seconds"], 3),
            "foreign_load_cores": best["load"]["foreign"],
            "stolen_cores": best["load"]["stolen"],
            "cores_used": best["load"]["own"],
            "clocks_mhz": {"before": before, "after": clocks()},
            "temperatures_c": temperatures(),
            **_gpu_conditions(engine, gpu_before),
            **best.get("conditions", {}),
        },
    }


class _Load:
    """CPU time of this process and of everybody else, in cores, since it was made; None where the kernel hides it.

    Args:
        programs: whether the programs that this process started are its own, once they have ended.
    """

    def __init__(self, programs: bool = False) -> None:
        self.programs = programs
        self.begin = self._now()

    def _now(self) -> Tuple[float, float, Optional[float], Optional[float]]:
        own = time.process_time()
        if self.programs:
            own += sum(os.times()[2:4])
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


def power_mode(programs: Tuple[str, ...] = ("/usr/sbin/nvpmodel", "/usr/bin/nvpmodel")) -> Optional[str]:
    """Name of the power mode: a Jetson's by nvpmodel, else the platform profile; None where nothing tells."""
    for program in programs:
        if os.path.exists(program):
            try:
                # A pipe and no more: `capture_output` is newer than Python 3.6.
                said = subprocess.run([program, "-q"], stdout=subprocess.PIPE, timeout=10, check=False)
            except (OSError, subprocess.SubprocessError):
                continue
            found = re.search(r"Power Mode:[ \t]*(\S+)", said.stdout.decode(errors="replace"))
            if found:
                return found.group(1)
    return _read("/sys/firmware/acpi/platform_profile")


def power() -> Dict[str, Any]:
    """What sets the clocks: the power mode, the governors, boost, and mains or battery; None where nothing says so."""
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
        "mode": power_mode(),
        "governor": "+".join(sorted(governors)) or None,
        "boost": boost == "1" if boost is not None else (no_turbo == "0" if no_turbo is not None else None),
        "mains": mains,
    }


class Gpu:
    """The GPU that CUDA calls device 0, asked through the driver's own library (NVML).

    Args:
        library: NVML, as `ctypes` loads it.
        handle: of the GPU in it.
    """

    def __init__(self, library: Any, handle: Any) -> None:
        self.library = library
        self.handle = handle

    @classmethod
    def find(cls) -> Optional["Gpu"]:
        """The GPU; None where there is none, or the driver's libraries are missing."""
        import ctypes

        try:
            return cls.of(ctypes.CDLL("libcuda.so.1"), ctypes.CDLL("libnvidia-ml.so.1"))
        except OSError:
            return None

    @classmethod
    def of(cls, cuda: Any, library: Any) -> Optional["Gpu"]:
        """As `find`, with the libraries.

        CUDA tells the place of its device 0 on the bus: NVML numbers GPUs in another order, and knows nothing of
        CUDA_VISIBLE_DEVICES.
        """
        import ctypes

        device, bus, handle = ctypes.c_int(), ctypes.create_string_buffer(32), ctypes.c_void_p()
        if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0) or cuda.cuDeviceGetPCIBusId(bus, 32, device):
            return None
        if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByPciBusId_v2(bus, ctypes.byref(handle)):
            return None
        return cls(library, handle)

    def facts(self) -> Dict[str, Any]:
        """What a latency depends on, and what stays as it is: name, driver, largest clocks, limit of the power."""
        limit = self._number("nvmlDeviceGetEnforcedPowerLimit")
        return {
            "name": self._string("nvmlDeviceGetName", self.handle),
            "driver": self.driver(),
            "max_sm_clock_mhz": self._number("nvmlDeviceGetMaxClockInfo", 1),
            "max_memory_clock_mhz": self._number("nvmlDeviceGetMaxClockInfo", 2),
            "power_limit_w": None if limit is None else limit / 1000.0,
        }

    def driver(self) -> Optional[str]:
        """Version of the driver."""
        return self._string("nvmlSystemGetDriverVersion")

    def state(self) -> Dict[str, Any]:
        """Clocks, temperature, power, performance state (0 is the fastest), and who else computes on it, now."""
        power = self._number("nvmlDeviceGetPowerUsage")
        memory, others = gpu_share(self.processes(), os.getpid())
        return {
            "sm_clock_mhz": self._number("nvmlDeviceGetClockInfo", 1),
            "memory_clock_mhz": self._number("nvmlDeviceGetClockInfo", 2),
            "temperature_c": self._number("nvmlDeviceGetTemperature", 0),
            "power_w": None if power is None else power / 1000.0,
            "performance_state": self._number("nvmlDeviceGetPerformanceState"),
            "process_memory_bytes": memory,
            "other_processes": others,
        }

    def energy(self) -> Optional[float]:
        """Joules that the whole GPU has used since its driver was loaded; None before the Volta generation."""
        import ctypes

        value = ctypes.c_ulonglong()
        if not self._call("nvmlDeviceGetTotalEnergyConsumption", self.handle, ctypes.byref(value)):
            return None
        return value.value / 1000.0

    def processes(self) -> Dict[int, Optional[int]]:
        """Bytes of GPU memory, where known, of each process that computes on it, by its number on the host."""
        import ctypes

        class Process(ctypes.Structure):  # nvmlProcessInfo_t of the functions that end with _v3
            _fields_ = [
                ("number", ctypes.c_uint),
                ("memory", ctypes.c_ulonglong),
                ("gpu_instance", ctypes.c_uint),
                ("compute_instance", ctypes.c_uint),
            ]

        found, count = (Process * 64)(), ctypes.c_uint(64)
        if not self._call("nvmlDeviceGetComputeRunningProcesses_v3", self.handle, ctypes.byref(count), found):
            return {}
        unknown = 2**64 - 1
        return {int(p.number): None if p.memory == unknown else int(p.memory) for p in found[: count.value]}

    def _number(self, function: str, *arguments: int) -> Optional[int]:
        import ctypes

        value = ctypes.c_uint()
        return int(value.value) if self._call(function, self.handle, *arguments, ctypes.byref(value)) else None

    def _string(self, function: str, *arguments: Any) -> Optional[str]:
        import ctypes

        text = ctypes.create_string_buffer(96)
        return text.value.decode(errors="replace") if self._call(function, *arguments, text, 96) else None

    def _call(self, name: str, *arguments: Any) -> bool:
        """Whether the function is there and did what it should; what a driver does not tell stays unknown."""
        function = getattr(self.library, name, None)
        return function is not None and function(*arguments) == 0


def gpu_share(processes: Dict[int, Optional[int]], own: int) -> Tuple[Optional[int], Optional[int]]:
    """Of those that compute on a GPU: the memory of this process in bytes, and how many others there are.

    In a container the driver numbers processes as the host does; this one is then among those that it names.
    """
    if not processes:
        return None, None
    if own in processes:
        return processes[own], len(processes) - 1
    return (next(iter(processes.values())) if len(processes) == 1 else None), len(processes) - 1


def gpu_state(engine: Any) -> Optional[Dict[str, Any]]:
    """`Gpu.state` of the GPU that an engine computes on; None where nothing is known of one."""
    return None if engine.gpu is None else engine.gpu.state()


def _gpu_conditions(engine: Any, before: Optional[Dict[str, Any]]) -> Dict[str, Any]:
    if engine.gpu is None:
        return {}
    return {"gpu": dict(engine.gpu.facts(), before=before, after=engine.gpu.state())}


RAPL_FOLDER = "/sys/class/powercap"
Counters = Dict[str, Tuple[float, Optional[float]]]
"""Joules that a counter shows, and at how many it begins again at 0 (None: never), by its name."""


def energy_counters(engine: Any) -> Counters:
    """The counters of what computes: of the whole GPU, or of the processor's packages; empty where none is told."""
    if engine.device == "cpu":
        return rapl_counters()
    joules = None if engine.gpu is None else engine.gpu.energy()
    return {} if joules is None else {"gpu": (joules, None)}


def rapl_counters(folder: str = RAPL_FOLDER) -> Counters:
    """Energy of each processor package, as the kernel's powercap tells it (mostly to root alone)."""
    found: Counters = {}
    for zone in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        # intel-rapl:0 is a package, also on AMD; intel-rapl:0:0 is a part of it.
        name = _read(os.path.join(folder, zone, "name")) or ""
        if zone.count(":") != 1 or not name.startswith("package"):
            continue
        energy = _read(os.path.join(folder, zone, "energy_uj")) or ""
        span = _read(os.path.join(folder, zone, "max_energy_range_uj")) or ""
        if energy.isdigit():
            found[zone] = (int(energy) / 1e6, int(span) / 1e6 if span.isdigit() else None)
    return found


def energy_used(before: Counters, after: Counters) -> Optional[float]:
    """Joules between two readings; None where a counter is missing, went backwards, or did not move."""
    if not before or set(before) != set(after):
        return None
    total = 0.0
    for name, (start, span) in before.items():
        used = after[name][0] - start
        if used < 0 and span is not None:
            used += span  # it began again once; at full load that takes minutes, a measurement seconds
        if used < 0:
            return None
        total += used
    return total or None


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


def _samples(engine: Any, path: str) -> Any:
    """The samples of an input file, after a check that the model takes them."""
    array, shape = engine.arrays.load(path), engine.shape
    given = [1, *array.shape[1:]]
    fits = len(given) == len(shape) and all(
        not isinstance(want, int) or want == have
        for want, have in zip(shape, given)  # noqa: B905 (Python 3.6)
    )
    if not fits or array.shape[0] < 1:
        raise RefusedError("the input is %s but the model takes %s" % (_shape(array.shape), _shape(shape)))
    if str(array.dtype) != "float32":
        raise RefusedError("the input is %s but must be float32" % array.dtype)
    return array


def _shape(shape: Any) -> str:
    return "x".join(str(each) if isinstance(each, int) else "?" for each in shape)


def _check(engine: Any, output: Any) -> None:
    bad = engine.arrays.bad(output)
    if bad:
        raise InvalidOutputError("%d of %d output values are NaN or infinite" % (bad, output.size))


def _run(engine: Any, job: Dict[str, Any], folder: Optional[str], phases: _Phases) -> List[List[int]]:
    arrays = engine.arrays
    shapes = []
    for source, result in zip(job["inputs"], job["outputs"]):  # noqa: B905 (Python 3.6)
        array = _samples(engine, source)
        written: Any = None
        for index in range(array.shape[0]):
            # One sample at a time in the room: a measurement of somebody else waits for no more than that.
            with _Room(folder, phases, False):
                output = engine.run(arrays.sample(array, index))
            _check(engine, output)
            if written is None:
                written = arrays.create(result, (array.shape[0], *output.shape[1:]))
            arrays.put(written, index, output)
        arrays.finish(written)
        shapes.append(list(written.shape))
    return shapes


def _serve(request: Dict[str, Any], phases: _Phases, answer: Dict[str, Any]) -> None:
    folder = request.get("turnstile")
    answer["host"] = host_facts()
    with _Room(folder, phases, False):
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
        timed = None if job is None else _samples(engine, job["input"])
        if timed is not None:
            samples = [engine.arrays.sample(timed, index) for index in range(min(timed.shape[0], engine.fed))]
            phases.begin("running")
            for sample in samples:
                _check(engine, engine.run(sample))
    if job is not None:
        phases.begin("timing")
        with _Room(folder, phases, True):
            answer["time"] = _time(engine, samples, job)
    if request.get("run") is not None:
        phases.begin("running")
        answer["shapes"] = _run(engine, request["run"], folder, phases)
    engine.finish()
    answer["details"] = engine.details
    answer["peak_memory_bytes"] = engine.peak_memory()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    text = lines[0] if lines else type(error).__name__
    # Some engines begin with the place in their own source; the reason comes in the next lines.
    if (text.startswith(("Exception from ", "Check ")) or text.endswith(":")) and len(lines) > 1:
        text = lines[-1] if text.startswith("Check ") else " ".join(lines[1:3])
    return text[:300]


def _classify(error: BaseException, phase: str) -> Tuple[str, str]:
    text = _first_line(error)
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
    answer.setdefault("peak_memory_bytes", _memory("VmHWM"))
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
