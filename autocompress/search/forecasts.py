"""What trials at a rung are likely to come to, by what their configurations have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from autocompress.search.space import ConfigSpace
from autocompress.search.stopping import Expected, Runner, by_line
from autocompress.search.surrogate import CurveLearner

CURVES_AT_MOST = 250
"""Trials of which curves are learned; they take a time that grows with the cube, and a line tells enough then."""


class CurveForecaster:
    """A `autocompress.search.stopping.Forecaster` for the trials of one space.

    A line through the Dice of all trials takes networks that inherit little for bad ones: they begin low and end high.
    So Gaussian processes also learn from the configurations (`autocompress.search.surrogate`).

    Args:
        space: of the configurations, whose identifiers are the keys of the trials.
    """

    def __init__(self, space: ConfigSpace) -> None:
        configs = list(space)
        points, groups = space.features(configs)
        self._points = {config.identifier: point for config, point in zip(configs, points, strict=True)}
        self._learner = CurveLearner(groups)

    def __call__(self, runners: Sequence[Runner], share: float) -> Mapping[str, Expected]:
        """See `autocompress.search.stopping.Forecaster`."""
        if len(runners) > CURVES_AT_MOST or any(each.key not in self._points for each in runners):
            return by_line(runners, share)
        shares = sorted({rung for each in runners for rung in each.rungs})
        dice = np.array(
            [
                [*(each.rungs.get(rung, math.nan) for rung in shares), math.nan if each.final is None else each.final]
                for each in runners
            ]
        )
        points = np.array([self._points[each.key] for each in runners])
        curves = self._learner.learn(points, dice)
        if curves is None:
            return {}
        there = [index for index, each in enumerate(runners) if share in each.rungs]
        seen = dice[there]
        seen[:, shares.index(share) + 1 :] = math.nan  # as if none had gone further
        means, deviations = curves.predict(points[there], seen)
        return {
            runners[index].key: Expected(min(max(float(mean), 0.0), 100.0), float(deviation))
            for index, mean, deviation in zip(there, means, deviations, strict=True)
        }
