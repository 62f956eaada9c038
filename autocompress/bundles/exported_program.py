"""Exported programs: a network as ``torch.export`` traces it, in one file of plain numbers and text.

The file is safetensors: weights and constants as tensors, and in its metadata the graph as JSON, one ATen operator
after the other. PyTorch's own files are not used. They hold pickles; and even where only their JSON is read, its sizes
may be expressions, which SymPy evaluates as Python (torch 2.13). What is read here can name tensor operators, numbers
and tensors, and nothing else. `autocompress.hardware.agent` runs it.
"""

from __future__ import annotations

import contextlib
import json
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autocompress.data.dataset import FloatArray
from autocompress.errors import ConfigError, UserError
from autocompress.hardware.agent.programs import PROGRAM_FORMAT, PROGRAM_KEY, PROGRAM_WORDS
from autocompress.paths import write_bytes

if TYPE_CHECKING:
    from torch import nn

SUFFIX = ".safetensors"
"""Ending of such a file's name."""
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of an exported program's file.

    Attributes:
        dtype: as safetensors names it, such as ``F32``.
        shape: its axes.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return math.prod(self.shape) * _BYTES.get(self.dtype, 4)


@dataclass(frozen=True)
class ExportedProgram:
    """An exported program without the values of its tensors.

    Attributes:
        torch: version of the torch that wrote it.
        text: the graph as JSON, as it stands in the file.
        graph: the same as plain values: ``input`` and ``output`` (``name``, ``shape``), ``tensors`` (a name in the file
            for each name in the graph), and ``nodes`` (``name``, ``op``, ``args``, ``kwargs``, ``shape``, ``dtype``).
        tensors: by their names in the file.
    """

    torch: str
    text: str
    graph: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """1 x channels x R x R."""
        return tuple(self.graph["input"]["shape"])

    @property
    def output_shape(self) -> tuple[int, ...]:
        """1 x classes x R x R."""
        return tuple(self.graph["output"]["shape"])


def write_exported_program(model: nn.Module, path: Path, *, in_channels: int, resolution: int) -> None:
    """Write a network as an exported program in float32.

    The program takes 1 x in_channels x R x R float32 and gives 1 x classes x R x R float32. The model is exported in
    evaluation mode and keeps its training mode. float16 and bfloat16 are computed from the same file.

    Args:
        model: a network on the CPU.
        path: file to write, in one step; its name ends with ``.safetensors``.
        in_channels: channels of the input.
        resolution: side R of the input in pixels.

    Raises:
        ConfigError: the network cannot be exported, or does something that no ATen operator does.
    """
    import torch
    from safetensors.torch import save

    from autocompress.bundles.export import evaluating

    with evaluating(model):
        written = model.export_form("plain", resolution) if hasattr(model, "export_form") else model
        try:
            with torch.no_grad(), _quiet():
                image = torch.zeros(1, in_channels, resolution, resolution)
                exported = torch.export.export(written, (image,), strict=False)
        except Exception as error:  # what torch raises here shares no base class
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"the network cannot be exported by torch.export: {reason}") from error
    graph, tensors = _described(exported)
    metadata = {"format": PROGRAM_FORMAT, "torch": str(torch.__version__), PROGRAM_KEY: _json(graph)}
    write_bytes(path, save(tensors, metadata=metadata))


def is_exported_program(path: Path) -> bool:
    """Whether a file says that it is an exported program, of whatever version; False for one that cannot be read."""
    try:
        return _metadata(path).get("format", "").partition("/")[0] == PROGRAM_FORMAT.partition("/")[0]
    except UserError:
        return False


def read_exported_program(path: Path) -> ExportedProgram:
    """Read the graph, and the shapes of the tensors, of an exported program.

    Raises:
        UserError: the file is missing, is no exported program, or is one of another version.
    """
    from safetensors import safe_open

    told = _metadata(path)
    if told.get("format") != PROGRAM_FORMAT:
        raise UserError(
            f"{path.name} is not an exported program of the format {PROGRAM_FORMAT}, the one that this version reads"
        )
    try:
        text = told[PROGRAM_KEY]
        graph = json.loads(text)
        _check(graph)
        with safe_open(str(path), framework="numpy") as stream:
            slices = {name: stream.get_slice(name) for name in stream.keys()}  # noqa: SIM118 (it is no dict)
            tensors = {
                name: StoredTensor(str(each.get_dtype()), tuple(each.get_shape())) for name, each in slices.items()
            }
        missing = sorted(set(graph["tensors"].values()) - set(tensors))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path.name} is a damaged exported program: {type(error).__name__}: {error}") from error
    if missing:
        raise UserError(f"{path.name} is a damaged exported program: it lacks the tensor {missing[0]!r}")
    return ExportedProgram(told.get("torch", ""), text, graph, tensors)


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        # Asked first, because safetensors words the same failures as no user would.
        with path.open("rb"):
            pass
        with safe_open(str(path), framework="numpy") as stream:
            return dict(stream.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{path.name} is not an exported program: {error}") from error
    except OSError as error:
        raise UserError(f"{path.name} cannot be read: {error.strerror or error}") from error


def _check(graph: Any) -> None:
    """Whether everything is there that is looked up later; raises one of Python's own errors where it is not."""
    for end in ("input", "output"):
        if not all(isinstance(size, int) and size > 0 for size in graph[end]["shape"]):
            raise ValueError(f"{end} has no fixed shape")
    known = {graph["input"]["name"], *graph["tensors"]}
    for node in graph["nodes"]:
        known.add(node["name"])
        if not isinstance(node["op"], str):
            raise ValueError("an operator without a name")
    if graph["output"]["name"] not in known:
        raise ValueError("the output is made by no operator")


# ---------------------------------------------------------------------------------------------------------------------
# From torch.export to plain values


def _described(exported: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The graph of a `torch.export.ExportedProgram` as plain values, and the tensors that it reads."""
    given: list[str] = []
    stored: dict[str, str] = {}
    tensors: dict[str, Any] = {}
    for spec in exported.graph_signature.input_specs:
        kind, name = spec.kind.name, spec.arg.name
        if kind == "USER_INPUT":
            given.append(name)
        elif kind in ("PARAMETER", "BUFFER", "CONSTANT_TENSOR"):
            kept = spec.target in exported.state_dict
            stored[name] = f"{'state' if kept else 'constant'}/{spec.target}"
            tensor = (exported.state_dict if kept else exported.constants)[spec.target]
            # A clone each: safetensors refuses tensors that share memory, as views of one parameter do.
            tensors[stored[name]] = tensor.detach().contiguous().clone()
        else:
            raise ConfigError(f"the network cannot be exported: it holds {name!r}, which is no tensor")
    results = list(exported.graph_signature.user_outputs)
    if len(given) != 1 or len(results) != 1:
        raise ConfigError(f"the network has {len(given)} inputs and {len(results)} outputs; one of each is needed")
    shapes = {node.name: _shape(node) for node in exported.graph.nodes}
    nodes = list(_nodes(exported.graph))
    graph = {
        "input": {"name": given[0], "shape": shapes[given[0]]},
        "output": {"name": results[0], "shape": shapes[results[0]]},
        "tensors": stored,
        "nodes": nodes,
    }
    return graph, tensors


def _nodes(graph: Any) -> Iterator[dict[str, Any]]:
    import torch

    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if node.target is operator.getitem:
            name = "getitem"
        elif isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten":
            name = str(node.target)
        else:
            raise ConfigError(f"the network cannot be exported: {node.target} is no operator of ATen")
        # Assertions that a type is the traced one would fail wherever less precision is asked for.
        if name.startswith("aten._assert_"):
            continue
        yield {
            "name": node.name,
            "op": name,
            "args": [_plain(value) for value in node.args],
            "kwargs": {key: _plain(value) for key, value in node.kwargs.items()},
            "shape": _shape(node),
            "dtype": _dtype(node),
        }


def _shape(node: Any) -> list[int] | None:
    """Of the tensor that a node gives; None for a list of them."""
    shape = getattr(node.meta.get("val"), "shape", None)
    return None if shape is None else [int(size) for size in shape]


def _dtype(node: Any) -> str | None:
    kind = getattr(node.meta.get("val"), "dtype", None)
    return None if kind is None else str(kind).removeprefix("torch.")


def _plain(value: Any) -> Any:
    """An argument as JSON: values by name, and what JSON does not have as an object with its kind."""
    import torch

    if isinstance(value, torch.fx.Node):
        return {"value": value.name}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    for kind in ("dtype", "layout", "memory_format"):
        if isinstance(value, getattr(torch, kind)):
            return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": ""}  # that on which the program will run
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float)) or value in PROGRAM_WORDS:
        return value
    raise ConfigError(f"the network cannot be exported: an operator has the argument {value!r}")


def _json(graph: Mapping[str, Any]) -> str:
    return json.dumps(graph, separators=(",", ":"), allow_nan=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ---------------------------------------------------------------------------------------------------------------------
# Running one here


def load_exported_program(path: Path, *, threads: int | None = None) -> Callable[[FloatArray], FloatArray]:
    """An exported program as a function in this process: 1 x channels x R x R to 1 x classes x R x R, float32.

    Args:
        path: the file.
        threads: of PyTorch, in the whole of this process; as they are where None.

    Raises:
        UserError: the file is no exported program, or this torch cannot run it.
    """
    import torch

    from autocompress.hardware.agent.errors import RefusedError
    from autocompress.hardware.agent.programs import build_program, read_program

    read_exported_program(path)
    try:
        graph, tensors, _ = read_program(str(path))
        program = build_program(graph, tensors, torch.device("cpu"))
    except (RefusedError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path.name} cannot be run by torch {torch.__version__}: {error}") from error
    if threads is not None:
        torch.set_num_threads(threads)

    def run(image: FloatArray) -> FloatArray:
        with torch.inference_mode():
            logits: FloatArray = program(torch.from_numpy(image.astype(np.float32))).numpy()
        return logits

    return run
