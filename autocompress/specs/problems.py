"""What pydantic found wrong, as one line for people: field, value, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

MAX_SHOWN = 60
# Where pydantic's own words are for programmers.
_REQUIREMENTS = {
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping of fields",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "model_attributes_type": "must be a mapping of fields",
    "model_type": "must be a mapping of fields",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
}


def first_problem(error: ValidationError, schema: type[BaseModel]) -> str:
    """The first problem of a validation as ``field budget.seconds: -3 must be greater than 0 (and 2 more)``."""
    problems: list[Any] = list(error.errors(include_url=False))
    # A list that lost its wrong items is then also reported as too short; that is no problem of its own.
    problems = [problem for problem in problems if not _is_consequence(problem, problems)]
    # An unknown field is most often the misspelt form of one that is reported missing: say that first.
    problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
    text = _describe(problems[0], schema)
    return text if len(problems) == 1 else f"{text} (and {len(problems) - 1} more)"


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Known names that look like ``name``, the most similar first."""
    return difflib.get_close_matches(name, list(known), n=limit, cutoff=0.5)


def _is_consequence(problem: Any, problems: list[Any]) -> bool:
    place = problem["loc"]
    return problem["type"] == "too_short" and any(
        len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in problems
    )


def _describe(problem: Any, schema: type[BaseModel]) -> str:
    path = [part for part in problem["loc"] if not (isinstance(part, str) and part.startswith("<"))]
    kind, value, message = problem["type"], problem["input"], str(problem["msg"])
    if kind == "extra_forbidden":
        text = _unknown(str(path[-1]), _fields_at(schema, path[:-1]))
    elif kind == "missing":
        text = "missing"
    elif kind == "value_error":
        reason = message.removeprefix("Value error, ")
        text = reason if isinstance(value, (dict, BaseModel)) else f"{_shown(value)} {reason}"
    else:
        text = f"{_shown(value)} {_requirement(kind, message)}"
    return f"field {_field(path)}: {text}" if path else text


def _unknown(name: str, known: list[str]) -> str:
    similar = nearest(name, known, limit=1)
    hint = f"did you mean {similar[0]}? " if similar else ""
    return f"unknown; {hint}known are {', '.join(known)}" if known else "unknown"


def _requirement(kind: str, message: str) -> str:
    if kind in _REQUIREMENTS:
        return _REQUIREMENTS[kind]
    if message.startswith("Input should be "):
        return f"must be {message.removeprefix('Input should be ')}"
    return f"is not allowed: {message[:1].lower()}{message[1:]}"


def _field(path: list[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _fields_at(schema: type[BaseModel], path: list[str | int]) -> list[str]:
    """Names of the fields that the schema has at a path, or none where that is not a schema."""
    current: type[BaseModel] | None = schema
    for part in path:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(str(part)) if current is not None else None
        current = _schema_within(field.annotation) if field is not None else None
    return sorted(current.model_fields) if current is not None else []


def _schema_within(annotation: Any) -> type[BaseModel] | None:
    """The first schema found inside an annotation such as ``tuple[Annotated[EngineSpec, ...], ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in (*getattr(annotation, "__args__", ()), getattr(annotation, "__origin__", None)):
        found = _schema_within(inner) if inner is not None else None
        if found is not None:
            return found
    return None
