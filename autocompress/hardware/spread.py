"""Which configurations to measure, so that few tell about all: of every size, with every value of every axis."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Hashable, Sequence

from autocompress.config import CompressionConfig
from autocompress.errors import ConfigError, SpecError
from autocompress.hardware.gate import engines_for
from autocompress.hardware.targets import Target
from autocompress.models import get_family
from autocompress.specs.library import load_spec
from autocompress.specs.schemas import SearchSpace

DEFAULT_SPACE = "full"
LARGEST = 224
"""Side in pixels up to which the built-in space is measured: a larger network says little more and takes long."""


def calibration_space(target: Target, name_or_path: str | None = None) -> SearchSpace:
    """The part of a search space that a target can run.

    Args:
        target: see `autocompress.hardware.targets.resolve_target`.
        name_or_path: of a search space; None for the built-in space ``full`` up to `LARGEST` pixels.

    Raises:
        SpecError: there is no such space, it is wrong, or the target can run nothing of it.
    """
    space = load_spec("space", name_or_path or DEFAULT_SPACE)
    if name_or_path is None:
        sides = tuple(side for side in space.resolution if side <= LARGEST)
        space = space.model_copy(update={"resolution": sides or (min(space.resolution),)})
    return space.restrict(precisions=target.precisions, prune_patterns=target.prune_patterns)[0]


def candidates(space: SearchSpace, family: str, target: Target) -> list[CompressionConfig]:
    """The configurations of a space that the family can build and some engine of the target can run.

    Raises:
        ConfigError: there is no such family.
        SpecError: there is no such configuration.
    """
    known = get_family(family)
    found: list[CompressionConfig] = []
    problem = ""
    for config in space.configurations():
        try:
            known.check(config)
        except ConfigError as error:
            problem = str(error)
            continue
        able, reasons = engines_for(config, target)
        if able:
            found.append(config)
        else:
            problem = "; ".join(reasons)
    if not found:
        raise SpecError(f"search space {space.name or 'inline'} holds nothing for {target.name}: {problem}")
    return found


def spread(configs: Sequence[CompressionConfig], count: int, seed: int) -> list[CompressionConfig]:
    """A few configurations that stand for many, from small to large.

    The configurations are cut into ``count`` strata of rising arithmetic; each gives the one that has the most values
    which no other has yet, then the rarest pairs of values. Deterministic for a seed.

    Args:
        configs: to choose from, without duplicates.
        count: how many; all where there are fewer.
        seed: decides between equals.
    """
    ordered = sorted(configs, key=rough_size)
    if count >= len(ordered):
        return ordered
    chance = random.Random(seed)
    edges = [number * len(ordered) // count for number in range(count + 1)]
    strata = [ordered[first:last] for first, last in itertools.pairwise(edges)]
    rank = {config.identifier: chance.random() for config in ordered}
    values: Counter[Hashable] = Counter()
    pairs: Counter[Hashable] = Counter()

    def merit(config: CompressionConfig) -> tuple[int, int, float]:
        axes = _axes(config)
        fresh = sum(not values[each] for each in axes)
        return (-fresh, sum(pairs[each] for each in itertools.combinations(axes, 2)), rank[config.identifier])

    chosen: dict[int, CompressionConfig] = {}
    for number in chance.sample(range(count), count):
        best = min(strata[number], key=merit)
        chosen[number] = best
        values.update(_axes(best))
        pairs.update(itertools.combinations(_axes(best), 2))
    _complete(chosen, strata, values, rank)
    return sorted(chosen.values(), key=rough_size)


def _complete(
    chosen: dict[int, CompressionConfig],
    strata: Sequence[Sequence[CompressionConfig]],
    values: Counter[Hashable],
    rank: dict[str, float],
) -> None:
    """Exchange choices within their strata until every value is there, where that costs no other value."""
    everything = {value for stratum in strata for config in stratum for value in _axes(config)}
    for missing in sorted((value for value in everything if not values[value]), key=str):
        for number, old in chosen.items():
            dropped = [value for value in _axes(old) if values[value] == 1]
            able = [
                config
                for config in strata[number]
                if missing in _axes(config) and all(value in _axes(config) for value in dropped)
            ]
            if able:
                best = min(able, key=lambda config: rank[config.identifier])
                values.subtract(_axes(old))
                values.update(_axes(best))
                chosen[number] = best
                break


def rough_size(config: CompressionConfig) -> tuple[float, str]:
    """By which configurations are ordered: arithmetic up to a factor, without building anything; then the identifier.

    Half of a block's arithmetic is in the hidden channels that channel pruning removes, and a dense convolution has
    more of it than a depthwise one. Zeros and number formats change no count.
    """
    kept = 1 - 0.5 * config.prune_ratio if config.prune_pattern == "channel" else 1.0
    dense = 3.0 if config.grouping == "dense" else 1.0
    return config.resolution**2 * config.width**2 * config.levels * kept * dense, config.identifier


def _axes(config: CompressionConfig) -> tuple[Hashable, ...]:
    """The value of each axis, told apart by the axis' name."""
    return (
        ("resolution", config.resolution),
        ("levels", config.levels),
        ("width", config.width),
        ("grouping", config.grouping),
        ("pruning", config.prune_pattern, config.prune_ratio),
        ("precision", config.precision),
    )
