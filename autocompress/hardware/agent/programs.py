"""Exported programs: a graph of ATen operators as JSON, with tensors; nothing is unpickled."""

import json
from typing import Any, Dict, Tuple

from .errors import RefusedError, first_line

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
        raise RefusedError("the file is not an exported program: %s" % first_line(error))
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
