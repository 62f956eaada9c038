"""Show one target, search space, objective, study or model in full: every field with the value that will be used.

The output for the four kinds of YAML is YAML itself: redirect it into a file of that kind, change it, and use it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from autocompress.errors import ExitCode
from autocompress.specs.library import AnySpec, Kind, SpecEntry, find_spec, load_spec, load_study
from autocompress.specs.schemas import HardwareProfile, SearchSpace, StudySpec
from autocompress.specs.yaml_files import to_yaml

KINDS: Mapping[str, Kind] = {
    "target": "target", "targets": "target",
    "space": "space", "spaces": "space",
    "objective": "objective", "objectives": "objective",
    "study": "study", "studies": "study",
}  # fmt: skip
MODEL_KINDS = ("model", "models")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``autocompress show``."""
    parser.add_argument(
        "kind", metavar="KIND", choices=[*KINDS, *MODEL_KINDS], help="target, space, objective, study or model"
    )
    parser.add_argument("name", metavar="NAME", help="name as `autocompress list` tells it, or the path of a YAML file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Show one thing."""
    if args.kind in MODEL_KINDS:
        values = _model(args.name)
        print(json.dumps(values) if args.json else to_yaml(values), end="\n" if args.json else "")
        return ExitCode.DONE
    kind = KINDS[args.kind]
    entry = find_spec(kind, args.name)
    # A study is shown with its space and objective in place of their names: that is what will run.
    spec: AnySpec = load_study(args.name) if kind == "study" else load_spec(kind, args.name)
    if args.json:
        print(json.dumps({"kind": kind, "origin": entry.origin, "path": str(entry.path), "spec": spec.to_dict()}))
    else:
        print("\n".join(f"# {line}" for line in _comments(entry, spec)))
        print(to_yaml(_without_name(spec.to_dict())), end="")
    return ExitCode.DONE


def _comments(entry: SpecEntry, spec: AnySpec) -> list[str]:
    lines = [f"{entry.kind} {entry.name}, {entry.origin}: {entry.path}"]
    lines += [f"hides the one that is {origin}" for origin in entry.shadows]
    space = spec.search_space if isinstance(spec, StudySpec) else spec
    if isinstance(space, SearchSpace):
        lines.append(f"{space.configurations_upper_bound()} combinations at most")
    if isinstance(spec, HardwareProfile):
        lines += [f"{engine.name}: {engine.notice}" for engine in spec.engines if engine.notice]
        lines += spec.notes
    return lines


def _without_name(values: dict[str, Any]) -> dict[str, Any]:
    """The fields as a file would hold them: there, the file's name is the name."""
    inner = {key: _without_name(value) if key in ("space", "objective") else value for key, value in values.items()}
    return {key: value for key, value in inner.items() if key != "name"}


def _model(name: str) -> dict[str, Any]:
    from autocompress.models import get_family

    family = get_family(name)
    return {
        "name": family.name,
        "description": family.description,
        "levels": list(family.levels),
        "groupings": list(family.groupings),
        "prune_patterns": list(family.prune_patterns),
        "resolution_multiple_of": {levels: family.stride(levels) for levels in family.levels},
    }
