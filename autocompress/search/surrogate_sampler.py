"""The sampler of small studies: it knows the whole finite space, and how far each trial came."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from autocompress.config import CompressionConfig
from autocompress.search.acquisition import expected_improvement
from autocompress.search.space import ConfigSpace
from autocompress.search.surrogate import MIN_TOLD, CurveLearner, LogarithmLearner
from autocompress.specs.schemas import Constraints

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

BESIDE = ("max_memory_bytes", "max_size_bytes")
"""Limits on what is no objective."""
BEST_AMONG = 2048
"""Untried configurations that are judged at most; of a larger space random ones."""
SPREAD_AMONG = 32
"""Random configurations of which the one farthest from all that were tried is taken while nothing can be learned."""


class SurrogateSampler(BaseSampler):
    """Proposes the untried configuration that is likely to add most to the feasible hypervolume.

    Gaussian processes (`autocompress.search.surrogate`) tell the Dice to be expected of every configuration of the
    space and the logarithm of its latency on each target; trials that were stopped tell by their rungs, and those that
    were refused before training by their latency. ``min_dice`` and a limit on latency bound the hypervolume; limits on
    memory and size count by the probability that they are kept. Trials under way count as what is expected of them.

    Args:
        space: all configurations.
        seed: with the number of a trial it decides about everything that is random.
        startup: trials before the model is asked.
        constraints: as they are now, whatever they were when a trial was told.
    """

    def __init__(self, space: ConfigSpace, *, seed: int, startup: int, constraints: Constraints | None = None) -> None:
        self._space = space
        self._seed = seed
        self._startup = startup
        self._constraints = constraints or Constraints()
        self._configs = list(space)
        self._rows = {config.identifier: row for row, config in enumerate(self._configs)}
        self._points, self._groups = space.features(self._configs)
        self._distributions = space.distributions()
        self._by_chance = RandomSampler(seed)
        self._learner = CurveLearner(self._groups)
        self._measured: defaultdict[str, LogarithmLearner] = defaultdict(lambda: LogarithmLearner(self._groups))
        self._row_of: dict[int, int | None] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See `optuna.samplers.BaseSampler`."""
        del study
        # What was enqueued is not for a sampler to decide.
        return {} if trial.system_attrs.get("fixed_params") else self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See `optuna.samplers.BaseSampler`."""
        if not search_space:
            return {}
        known, under_way = self._look(study.get_trials(deepcopy=False))
        tried = np.array(sorted({*known, *under_way}), dtype=np.int64)
        left = np.setdiff1d(np.arange(len(self._configs)), tried)
        rng = random.Random(f"{self._seed} {trial.number}")
        if not len(left):
            row = rng.randrange(len(self._configs))  # the driver answers it from the record, and ends
        else:
            waiting = np.array(sorted(under_way), dtype=np.int64)
            if len(left) > BEST_AMONG:
                left = np.array(sorted(rng.sample(left.tolist(), BEST_AMONG)), dtype=np.int64)
            best = self._best(left, known, waiting, trial.number) if len(tried) >= self._startup else None
            row = self._far(left, tried, rng) if best is None else best
        return self._space.parameters(self._configs[row])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """By chance, what an enqueued trial leaves open; see `optuna.samplers.BaseSampler`."""
        return self._by_chance.sample_independent(study, trial, param_name, param_distribution)

    def _look(self, trials: Sequence[FrozenTrial]) -> tuple[dict[int, Mapping[str, Any]], set[int]]:
        """What is known of each configuration that was tried, by its row, and the rows of those under way."""
        known: dict[int, Mapping[str, Any]] = {}
        under_way: set[int] = set()
        for trial in trials:
            row = self._row(trial)
            if row is None:
                continue
            if trial.state == TrialState.RUNNING:
                under_way.add(row)
            elif row not in known or "known" in trial.user_attrs:
                known[row] = trial.user_attrs.get("known", {})
        return known, under_way

    def _row(self, trial: FrozenTrial) -> int | None:
        values = trial.user_attrs.get("config")
        if values is None:
            return None
        if trial.number not in self._row_of:
            self._row_of[trial.number] = self._rows.get(CompressionConfig.from_dict(values).identifier)
        return self._row_of[trial.number]

    def _far(self, left: Rows, tried: Rows, rng: random.Random) -> int:
        """An untried configuration unlike those that were tried."""
        some = np.array(rng.sample(left.tolist(), min(SPREAD_AMONG, len(left))))
        if not len(tried):
            return int(some[0])
        away = np.abs(self._points[some][:, None] - self._points[tried][None]).sum(axis=2).min(axis=1)
        return int(some[np.argmax(away)])

    def _best(self, left: Rows, known: Mapping[int, Mapping[str, Any]], under_way: Rows, number: int) -> int | None:
        """The row that is likely to add most; None while too little is known."""
        told = [(row, each) for row, each in known.items() if each]
        rows = np.array([row for row, _ in told], dtype=np.int64)
        values = [each for _, each in told]
        dice = dice_by_rung(values)
        came = np.isfinite(dice).any(axis=1)
        curves = self._learner.learn(self._points[rows[came]], dice[came]) if came.any() else None
        if curves is None:
            return None
        latencies = np.array([each["latencies_ms"] for each in values], dtype=np.float64).T
        models = [
            self._measured[f"latency {place}"].learn(self._points[rows], column)
            for place, column in enumerate(latencies)
        ]
        points = self._points[left]
        dices, *logarithms = [curves.predict(points), *(model.predict(points) for model in models)]
        slowest = [self._slowest(mean, column) for (mean, _), column in zip(logarithms, latencies, strict=True)]
        done = np.isfinite(dice[:, -1])
        least = self._constraints.min_dice
        if least is None:
            least = float(dice[done, -1].min())

        def gains(dices: Floats, logarithms: Sequence[Floats]) -> Floats:
            faster = [most - each for most, each in zip(slowest, logarithms, strict=True)]
            return np.column_stack([dices - least, *faster])

        front = gains(dice[done, -1], [np.log(column[done]) for column in latencies])[self._kept(values)[done]]
        waiting = self._points[under_way]
        if len(under_way):
            came_to = dice_by_rung([*values, *(known.get(int(row), {}) for row in under_way)])[len(values) :]
            expected = curves.predict(waiting, came_to)[0]
            front = np.concatenate([front, gains(expected, [model.predict(waiting)[0] for model in models])])
        means = gains(dices[0], [mean for mean, _ in logarithms])
        deviations = np.column_stack([deviation for _, deviation in (dices, *logarithms)])
        likely = expected_improvement(front, means, deviations, seed=self._seed + number)
        likely *= self._keeps(points, rows, values)
        # Where nothing is likely to add anything, the one of which least is known.
        return int(left[np.argmax(likely + 1e-9 * deviations[:, 0])])

    def _slowest(self, expected: Floats, latencies: Floats) -> float:
        """The logarithm of the latency from which a gain is counted: the limit, or the longest that there is."""
        limit = self._constraints.max_latency_ms
        return math.log(limit) if limit is not None else max(float(expected.max()), float(np.log(latencies.max())))

    def _kept(self, values: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
        """Which trials keep the limits on memory and size, as far as is known; the other limits bound the gains."""
        limits = {name: getattr(self._constraints, name) for name in BESIDE}
        return np.array(
            [all(limit is None or each.get(name, 0) <= limit for name, limit in limits.items()) for each in values]
        )

    def _keeps(self, points: Floats, rows: Rows, values: Sequence[Mapping[str, Any]]) -> Floats:
        """Probabilities that configurations keep the limits on memory and size."""
        from scipy.special import ndtr

        likely = np.ones(len(points))
        for name in BESIDE:
            limit = getattr(self._constraints, name)
            told = np.array([name in each for each in values])
            if limit is None or told.sum() < MIN_TOLD:
                continue
            column = np.array([each[name] for each in values if name in each], dtype=np.float64)
            mean, deviation = self._measured[name].learn(self._points[rows[told]], column).predict(points)
            likely *= ndtr((math.log(limit) - mean) / np.maximum(deviation, 1e-6))
        return likely


def dice_by_rung(known: Sequence[Mapping[str, Any]]) -> Floats:
    """Dice in percent of trials at each rung that any of them came to, and in the end; NaN where one did not come."""
    rungs = [{float(share): float(dice) for share, dice in each.get("rungs", ())} for each in known]
    shares = sorted({share for each in rungs for share in each})
    ends = [float(each["dice"]) if "dice" in each else math.nan for each in known]
    table = [[*(each.get(share, math.nan) for share in shares), end] for each, end in zip(rungs, ends, strict=True)]
    return np.array(table, dtype=np.float64).reshape(len(known), len(shares) + 1)
