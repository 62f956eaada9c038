"""SparseML recipes: written from a prune ratio, or read from a user's file and checked against the network.

A recipe speaks of epochs, a brief training of seconds: here an epoch is one percent of the training budget in recipes
that are written, and in a user's recipe the budget is stretched over the epochs that the recipe spans. So the zeros are
reached at the same share of the budget on every machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from autocompress.config import MAX_PRUNE_RATIO
from autocompress.errors import ConfigError

PRUNING_MODIFIERS = (
    "GMPruningModifier",
    "MagnitudePruningModifier",
    "GlobalMagnitudePruningModifier",
    "ConstantPruningModifier",
)
EPOCHS = 100.0
"""Epochs of a written recipe: one is a percent of the training budget."""
START, END = 2.0, 60.0
"""Where pruning starts and has reached its ratio; the rest of the budget repairs what it broke."""
UPDATES = 12
"""How often the zeros are chosen anew in between; each choice sorts all the weights once."""
_RECOVERY = 0.7
"""A user's recipe without an EpochRangeModifier reaches its last epoch at this share of the budget."""


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Attributes:
        text: the YAML that SparseML reads.
        epochs: how many of its epochs the whole training budget stands for.
        last_epoch: when its last pruning step is due.
    """

    text: str
    epochs: float
    last_epoch: float


def write_recipe(parameters: Sequence[str], ratio: float) -> Recipe:
    """A recipe of gradual magnitude pruning, every layer to the same ratio.

    Args:
        parameters: names of the weights to prune, such as ``encoder.0.mlp.fc1.weight``.
        ratio: share of zeros, above 0 and at most 0.99.

    Raises:
        ConfigError: there is nothing to prune, or the ratio is out of range.
    """
    if not parameters:
        raise ConfigError("the network has no prunable weights: it needs convolutions or linear layers inside")
    if not 0 < ratio <= MAX_PRUNE_RATIO:
        raise ConfigError(f"prune_ratio {ratio} is outside (0, {MAX_PRUNE_RATIO}]: nothing would be left")
    names = "\n".join(f"      - {name}" for name in parameters)
    text = f"""# One epoch is one percent of the training budget.
modifiers:
  - !EpochRangeModifier
    start_epoch: 0.0
    end_epoch: {EPOCHS}
  - !GMPruningModifier
    init_sparsity: {min(0.05, ratio)}
    final_sparsity: {ratio}
    start_epoch: {START}
    end_epoch: {END}
    update_frequency: {(END - START) / UPDATES:.4f}
    inter_func: cubic
    mask_type: unstructured
    leave_enabled: true
    params:
{names}
"""
    return Recipe(text, EPOCHS, END)


def read_recipe(text: str, parameters: Iterable[str], source: str = "recipe") -> Recipe:
    """Check a user's recipe against the network before anything is trained for it.

    Args:
        text: the YAML; a flat list of modifiers under keys that hold the word ``modifiers``.
        parameters: names of all weights of the network.
        source: what to call the recipe in messages.

    Raises:
        ConfigError: the text is not a recipe, holds a modifier other than those of pruning, names weights that the
            network lacks, or would let the zeros grow back.
    """
    modifiers = _modifiers(text, source)
    known = tuple(parameters)
    ends: list[float] = []
    span = 0.0
    for kind, values in modifiers:
        if kind == "EpochRangeModifier":
            span = max(span, _number(values, "end_epoch", kind, source))
            continue
        if kind not in PRUNING_MODIFIERS:
            raise ConfigError(
                f"{source}: {kind} is not a pruning modifier; known are EpochRangeModifier, "
                f"{', '.join(PRUNING_MODIFIERS)} (learning rate and epochs come from the training settings)"
            )
        _check_zeros_stay(kind, values, source)
        _check_names(kind, values, known, source)
        ends.append(_number(values, "end_epoch" if "end_epoch" in values else "start_epoch", kind, source))
    if not ends:
        raise ConfigError(f"{source}: no pruning modifier in it; known are {', '.join(PRUNING_MODIFIERS)}")
    last = max(ends)
    epochs = max(span, last) if span > 0 else last / _RECOVERY
    # A recipe at epoch -1 or 0 throughout acts at once: any number of epochs says the same.
    return Recipe(text, epochs if epochs > 0 else EPOCHS, max(last, 0.0))


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a modifier's tag becomes plain data."""


def _tagged(loader: _Loader, suffix: str, node: yaml.Node) -> tuple[str, dict[str, Any]]:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(None, None, f"!{suffix} needs fields", node.start_mark)
    return suffix.removeprefix("pytorch."), {
        str(key): value for key, value in loader.construct_mapping(node, deep=True).items()
    }


_Loader.add_multi_constructor("!", _tagged)


def _modifiers(text: str, source: str) -> list[tuple[str, dict[str, Any]]]:
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader that knows tags of modifiers as data
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    if isinstance(content, Mapping):
        groups = [value for key, value in content.items() if "modifiers" in str(key)]
        found = [entry for group in groups if isinstance(group, list) for entry in group]
    else:
        found = content if isinstance(content, list) else []
    if not found or not all(isinstance(entry, tuple) for entry in found):
        raise ConfigError(
            f"{source}: a recipe is a list of modifiers such as '- !GMPruningModifier' under 'modifiers:'"
        )
    for kind, values in found:
        for name, value in values.items():
            if isinstance(value, str) and value.startswith("eval("):
                raise ConfigError(f"{source}: {kind}.{name} is an equation; write the number itself")
    return found


def _check_zeros_stay(kind: str, values: Mapping[str, Any], source: str) -> None:
    if values.get("leave_enabled", True) is not True:
        raise ConfigError(f"{source}: {kind}.leave_enabled must be true, else the zeros grow back before the export")
    if kind == "ConstantPruningModifier":
        return
    final = values.get("final_sparsity")
    for ratio in final if isinstance(final, Mapping) else (final,):
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= MAX_PRUNE_RATIO:
            raise ConfigError(f"{source}: {kind}.final_sparsity {ratio!r} is outside (0, {MAX_PRUNE_RATIO}]")


def _check_names(kind: str, values: Mapping[str, Any], known: Sequence[str], source: str) -> None:
    final = values.get("final_sparsity")
    lists: list[Any] = list(final.values()) if isinstance(final, Mapping) else [values.get("params", [])]
    for names in lists:
        for name in [names] if isinstance(names, str) else names or []:
            if str(name).startswith("__"):
                continue
            try:
                exists = _matches(str(name), known)
            except re.error as error:
                raise ConfigError(f"{source}: {kind}.params {name!r} is not a regular expression: {error}") from error
            if not exists:
                example = known[len(known) // 2] if known else "none"
                raise ConfigError(
                    f"{source}: {kind}.params {name!r} matches no weight of the network; names look like {example!r}"
                )


def _matches(name: str, known: Sequence[str]) -> bool:
    if name.startswith("re:"):
        pattern = re.compile(name[3:])
        return any(pattern.match(each) for each in known)
    return name in known


def _number(values: Mapping[str, Any], name: str, kind: str, source: str) -> float:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{source}: {kind}.{name} must be a number, not {value!r}")
    return float(value)
