"""From the search space of a study to Optuna's parameters, cut down to what family and target can do."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from autocompress.config import CompressionConfig, PrunePattern
from autocompress.errors import ConfigError, SpecError
from autocompress.specs.schemas import SearchSpace

Pruning = tuple[PrunePattern, float]


class ConfigSpace:
    """All configurations that a study may ask for.

    Args:
        space: the values of each dimension, already cut down to what the target can run.
        check: raises `ConfigError` for a combination that cannot be built (the model family's ``check``).

    Raises:
        SpecError: no combination is valid.
    """

    def __init__(self, space: SearchSpace, check: Callable[[CompressionConfig], None]) -> None:
        self.spec = space
        self._configs: dict[str, CompressionConfig] = {}
        problem = ""
        for config in space.configurations():
            try:
                check(config)
            except ConfigError as error:
                problem = str(error)
            else:
                self._configs[config.identifier] = config
        if not self._configs:
            raise SpecError(
                f"search space {space.name or 'inline'} holds no configuration that can be built: {problem}"
            )
        pruning = tuple(_pruning_text(point) for point in space.prune_points())
        self._dimensions = {
            "resolution": _Dimension("resolution", sorted(space.resolution)),
            "levels": _Dimension("levels", sorted(space.levels)),
            "width": _Dimension("width", sorted(space.width)),
            "grouping": _Dimension("grouping", space.grouping, ordered=False),
            "pruning": _Dimension("pruning", pruning, ordered=False),
            "precision": _Dimension("precision", space.precision, ordered=False),
        }
        self._by_key = {dimension.key: dimension for dimension in self._dimensions.values()}
        self._listed = tuple(self._configs.values())
        # Encoded once: a search that repeats itself asks for neighbours in the whole space again and again.
        encoded = [self.parameters(config) for config in self._listed]
        self._encoded = {key: np.array([each[key] for each in encoded]) for key in self._by_key}

    def __len__(self) -> int:
        return len(self._configs)

    def __contains__(self, config: CompressionConfig) -> bool:
        return config.identifier in self._configs

    def __iter__(self) -> Iterator[CompressionConfig]:
        return iter(self._configs.values())

    def suggest(self, trial: optuna.trial.BaseTrial) -> CompressionConfig:
        """Let the study's sampler choose a configuration.

        Raises:
            ConfigError: the sampler combined values that no network can have.
        """
        values = {name: dimension.suggest(trial) for name, dimension in self._dimensions.items()}
        pattern, ratio = _parse_pruning(values.pop("pruning"))
        config = CompressionConfig(**values, prune_pattern=pattern, prune_ratio=ratio)
        if config not in self:
            raise ConfigError(f"{config.label} is not a valid combination of this space")
        return config

    def parameters(self, config: CompressionConfig) -> dict[str, Any]:
        """Optuna's parameters for a configuration of this space: the way back from `suggest`."""
        pruning = _pruning_text((config.prune_pattern, config.prune_ratio))
        return {
            dimension.key: dimension.encode(pruning if name == "pruning" else getattr(config, name))
            for name, dimension in self._dimensions.items()
        }

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of each parameter, as `suggest` asks for it."""
        return {dimension.key: dimension.distribution() for dimension in self._dimensions.values()}

    def features(self, configs: Sequence[CompressionConfig]) -> tuple[NDArray[np.float64], tuple[int, ...]]:
        """Configurations as points for a model: each dimension of the space spans 1, resolution and width by logarithm.

        Returns:
            One row for each configuration, and for each feature the index of the dimension that it belongs to.
            Dimensions with one value have none.
        """
        columns: list[list[float]] = []
        groups: list[int] = []
        for values in self._columns():
            seen = [values(config) for config in configs]
            columns += [list(column) for column in zip(*seen, strict=True)]
            groups += [max(groups, default=-1) + 1] * len(seen[0])
        return np.array(columns, dtype=np.float64).reshape(len(groups), len(configs)).T, tuple(groups)

    def _columns(self) -> list[Callable[[CompressionConfig], tuple[float, ...]]]:
        """What makes the features of a configuration, for each dimension that has more than one value."""
        spec = self.spec
        made: list[Callable[[CompressionConfig], tuple[float, ...]]] = []
        if len(spec.resolution) > 1:
            sizes = _spanned([math.log(each) for each in spec.resolution])
            made.append(lambda config: (sizes(math.log(config.resolution)),))
        if len(spec.levels) > 1:
            depths = _spanned(spec.levels)
            made.append(lambda config: (depths(config.levels),))
        if len(spec.width) > 1:
            widths = _spanned([math.log(each) for each in spec.width])
            made.append(lambda config: (widths(math.log(config.width)),))
        if len(spec.grouping) > 1:
            made.append(lambda config: (float(config.grouping == spec.grouping[0]),))
        points = spec.prune_points()
        if len(points) > 1:
            patterns = sorted({pattern for pattern, _ in points})
            made.append(
                lambda config: (config.prune_ratio, *(0.7 * (config.prune_pattern == each) for each in patterns[1:]))
            )
        if len(spec.precision) > 1:
            made.append(lambda config: tuple(0.7 * (config.precision == each) for each in spec.precision))
        return made

    def untried(self, tried: Mapping[str, Any] | set[str], rng: random.Random) -> CompressionConfig | None:
        """A random configuration that was not tried yet, or None when all were."""
        left = [config for identifier, config in self._configs.items() if identifier not in tried]
        return rng.choice(left) if left else None

    def nearest_untried(
        self, config: CompressionConfig, tried: Mapping[str, Any] | set[str], rng: random.Random
    ) -> CompressionConfig | None:
        """The configuration most like another one that was not tried yet, or None when all were.

        A step to the next value of an ordered axis counts by its share of the axis, another category as half an axis;
        of equals a random one is taken.
        """
        left = np.array([identifier not in tried for identifier in self._configs])
        if not left.any():
            return None
        own = self.parameters(config)
        distances = np.zeros(len(self._listed))
        for key, dimension in self._by_key.items():
            distances += dimension.distances(own[key], self._encoded[key])
        nearest = np.flatnonzero(left & (distances == distances[left].min()))
        return self._listed[rng.choice(nearest.tolist())]

    def priors(self, parent: CompressionConfig | None) -> list[CompressionConfig]:
        """What is tried first: the parent's own configuration, which keeps all that the parent learned, and the paper's
        steps."""
        first = [parent] if parent is not None and parent in self else []
        return [*first, *(step for step in self.paper_steps() if step != parent)]

    def paper_steps(self) -> list[CompressionConfig]:
        """The steps A to D of Embedded-ViT, one by one and combined, as far as this space holds them.

        The baseline is the largest network of the space; step A halves and quarters its resolution, step B drops
        a level or the grouping, step C prunes, step D lowers the precision; and the steps together, which come first.
        """
        spec = self.spec
        resolutions, levels, widths = sorted(spec.resolution), sorted(spec.levels), sorted(spec.width)
        base: dict[str, Any] = {
            "resolution": resolutions[-1],
            "levels": levels[-1],
            "width": widths[-1],
            "grouping": "depthwise" if "depthwise" in spec.grouping else spec.grouping[0],
            "precision": "fp32" if "fp32" in spec.precision else spec.precision[0],
        }
        lower = [_nearest(resolutions, resolutions[-1] / divisor) for divisor in (2, 4)]
        narrow = _nearest(widths, widths[-1] / 2)
        shallow = levels[-2] if len(levels) > 1 else levels[-1]
        pruned = next((point for point in spec.prune_points() if point[0] != "none"), ("none", 0.0))
        step_c: dict[str, Any] = {"prune_pattern": pruned[0], "prune_ratio": pruned[1]}
        lowered = [each for each in spec.precision if each != base["precision"]]
        # The cheap ones first: together they tell most, and a small budget ends among them.
        changes: list[dict[str, Any]] = [
            {"resolution": lower[0], "levels": shallow},
            {"resolution": lower[1], "levels": shallow, "width": narrow},
            {"resolution": lower[0], "levels": shallow, "width": narrow},
            *({"resolution": lower[0], "precision": each} for each in lowered),
            {"resolution": lower[0], "levels": shallow, **step_c},
            *({"resolution": lower[0], "levels": shallow, **step_c, "precision": each} for each in lowered),
            {"levels": shallow},
            {"resolution": lower[1]},
            {"resolution": lower[0], "levels": shallow, "grouping": "dense"},
            {"resolution": lower[0]},
            {},
            step_c,
            {"grouping": "dense"},
            *({"precision": each} for each in lowered),
        ]
        steps: dict[str, CompressionConfig] = {}
        for change in changes:
            try:
                config = CompressionConfig(**{**base, **change})
            except ConfigError:
                continue
            if config in self:
                steps[config.identifier] = config
        return list(steps.values())


class _Dimension:
    """One Optuna parameter. Evenly spaced numbers are suggested as numbers, so that a sampler knows that
    neighbours are alike; other ordered values by their rank; the rest as categories."""

    def __init__(self, name: str, values: Sequence[Any], *, ordered: bool = True) -> None:
        self.name = name
        self.values = tuple(values)
        self.ordered = ordered and len(self.values) > 1
        steps = {round(b - a, 9) for a, b in itertools.pairwise(self.values)} if self.ordered else set()
        self.step = steps.pop() if len(steps) == 1 else None

    @property
    def key(self) -> str:
        return f"{self.name}_rank" if self.ordered and self.step is None else self.name

    def suggest(self, trial: optuna.trial.BaseTrial) -> Any:
        if not self.ordered:
            return trial.suggest_categorical(self.name, self.values)
        if self.step is None:
            return self.values[trial.suggest_int(self.key, 0, len(self.values) - 1)]
        if isinstance(self.values[0], int):
            return trial.suggest_int(self.name, self.values[0], self.values[-1], step=int(self.step))
        suggested = trial.suggest_float(self.name, self.values[0], self.values[-1], step=self.step)
        return min(self.values, key=lambda value: abs(value - suggested))

    def distribution(self) -> BaseDistribution:
        if not self.ordered:
            return CategoricalDistribution(self.values)
        if self.step is None:
            return IntDistribution(0, len(self.values) - 1)
        if isinstance(self.values[0], int):
            return IntDistribution(self.values[0], self.values[-1], step=int(self.step))
        return FloatDistribution(self.values[0], self.values[-1], step=self.step)

    def encode(self, value: Any) -> Any:
        return self.values.index(value) if self.ordered and self.step is None else value

    def distances(self, one: Any, others: NDArray[Any]) -> NDArray[np.float64]:
        """How far an encoded value is from others, 0 to 1."""
        if not self.ordered:
            return np.where(others == one, 0.0, 0.5)
        span = len(self.values) - 1 if self.step is None else self.values[-1] - self.values[0]
        return np.asarray(np.abs(others - one) / span)


def _spanned(values: Sequence[float]) -> Callable[[float], float]:
    """Maps the lowest of the values to 0 and the highest to 1."""
    low, high = min(values), max(values)
    return lambda value: (value - low) / (high - low)


def _nearest(values: Sequence[Any], wanted: float) -> Any:
    return min(values, key=lambda value: abs(value - wanted))


def _pruning_text(pruning: Pruning) -> str:
    return pruning[0] if pruning[0] == "none" else f"{pruning[0]} {pruning[1]:g}"


def _parse_pruning(text: str) -> Pruning:
    pattern, _, ratio = text.partition(" ")
    return pattern, float(ratio or 0)  # type: ignore[return-value]
