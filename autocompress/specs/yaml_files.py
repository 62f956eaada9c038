"""Reading and writing YAML: safe, words and numbers as YAML 1.2 has them, no key twice, errors with their line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from autocompress.errors import SpecError

MAX_BYTES = 1_000_000


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which builds plain values only, with two of its traps removed."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in keys:
                raise yaml.MarkedYAMLError(None, None, f"the key {key!r} is there twice", key_node.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where 1e-3 is text, `off` is false, 010 is 8 and 1:30 is 90: here plain words and numbers
# mean what YAML 1.2 says.
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one mapping from a YAML file.

    Raises:
        SpecError: the file is missing, unreadable, too large, not YAML (with the line), or not a mapping.
    """
    try:
        data = path.read_bytes()
        text = data.decode()
    except FileNotFoundError as error:
        raise SpecError(f"file not found: {path}") from error
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: is not text in UTF-8 (byte {error.start})") from error
    if len(data) > MAX_BYTES:
        raise SpecError(f"{path}: is larger than {MAX_BYTES} bytes and therefore not a specification")
    try:
        loader = _Loader(text)
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}:" if mark is not None else ""
        problem = " ".join(str(error.problem or error.context or "not valid YAML").split())
        raise SpecError(f"{path}:{line} {problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise SpecError(f"{path}: must hold fields (name: value), not {type(value).__name__}")
    for key in value:
        if not isinstance(key, str):
            raise SpecError(f"{path}: field {key!r}: names of fields must be text")
    return value


def to_yaml(value: dict[str, Any]) -> str:
    """YAML text of plain values in their own order, short lists on one line."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    """Safe dumper that writes lists of plain values on one line and indents the others."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        values = list(sequence)
        plain = all(not isinstance(value, (list, dict, tuple)) for value in values)
        return super().represent_sequence(tag, values, flow_style=plain)

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True
