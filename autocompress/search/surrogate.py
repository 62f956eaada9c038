"""What is to be expected of configurations: Gaussian processes on Dice along the training, and on what is measured.

A study is small, and its trials are at different points of their training. So Dice is learned in stages, as in
recursive co-kriging (Kennedy and O'Hagan, 2000, Biometrika 87; Le Gratiet and Garnier, 2014, International Journal for
Uncertainty Quantification 4): one process for the Dice at the first rung as a function of the configuration, and one
for each further rung and for the end as a function of the configuration and of the Dice at the rung before. Every trial
that was stopped early tells about the rungs that it came to, and a kind of network that begins low and ends high is not
mistaken for one that stays low.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autocompress.hardware.prediction.gaussian import GaussianProcess, Prior, fit_gaussian

Floats = NDArray[np.float64]

DICE_UNIT = 10.0
"""Dice points that are one unit of the processes."""
DICE = Prior(
    scale=(1.0, 0.7),
    amplitude=(0.7, 0.7),
    noise=(0.12, 0.5),
    scales=(0.1, 20.0),
    amplitudes=(0.05, 4.0),
    noises=(0.03, 0.6),
)
"""Networks differ by several points of Dice, and the same one repeats to about one. A feature spans 1."""
MEASURED = Prior(
    scale=(1.0, 0.7),
    amplitude=(0.3, 0.7),
    noise=(0.05, 0.7),
    scales=(0.1, 20.0),
    amplitudes=(0.02, 3.0),
    noises=(0.005, 0.5),
)
"""Logarithms of latency, memory or size beside a line along each feature."""
FIRST_SLOPE, LATER_SLOPE, CARRIED_SLOPE, MEASURED_SLOPE = 1.0, 0.5, 0.5, 2.0
"""Standard deviations of slopes before any data: of Dice along a feature at the first rung and after it, of Dice along
that at the rung before, and of a logarithm along a feature."""
MIN_TOLD = 3
"""Trials that must have come to a rung, or to the end, before anything is learned of it."""
AROUND_GROWTH, TUNE_GROWTH = 1.3, 1.05
"""With so many times more to learn from, hyperparameters are looked for from several starting points again, or from
where they are; in between they stay."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Linear algebra on one thread: workers have the cores, where threads that wait for each other take many times as
    long for such small matrices."""
    import scipy.linalg  # noqa: F401  (brings a library of its own, which must be there to be found)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


class Pace:
    """How much work hyperparameters are worth while there is more and more to learn from."""

    def __init__(self) -> None:
        self._around = self._tuned = 0

    def at(self, count: int) -> tuple[bool, bool]:
        """Whether to begin from what was known before, and whether to tune it, with so many values."""
        if count >= AROUND_GROWTH * self._around:
            self._around = self._tuned = count
            return False, True
        if count >= TUNE_GROWTH * self._tuned:
            self._tuned = count
            return True, True
        return True, False


@dataclass(frozen=True)
class Stage:
    """Dice at one rung, or at the end, from the configuration and the Dice at the rung before.

    Attributes:
        process: on the features, and after the first stage on the Dice before as the last of them.
        mean: Dice in percent around which it is.
        before: mean Dice at the rung before; None at the first stage.
    """

    process: GaussianProcess
    mean: float
    before: float | None

    @classmethod
    def fit(
        cls,
        points: Floats,
        before: Floats | None,
        dice: Floats,
        groups: Sequence[int],
        first: Stage | None = None,
        *,
        tune: bool = True,
    ) -> Stage:
        """Learn from N trials: features (N x D), Dice at the rung before, and Dice; the others as in `fit_gaussian`."""
        slopes = points.shape[1] * [FIRST_SLOPE if before is None else LATER_SLOPE]
        centre = None
        if before is not None:
            centre = float(before.mean())
            points = np.column_stack([points, (before - centre) / DICE_UNIT])
            groups, slopes = [*groups, max(groups, default=-1) + 1], [*slopes, CARRIED_SLOPE]
        mean = float(dice.mean())
        known = None if first is None or first.process.groups != tuple(groups) else first.process
        process = fit_gaussian(points, (dice - mean) / DICE_UNIT, groups, known, tune=tune, prior=DICE, slopes=slopes)
        return cls(process, mean, centre)

    def predict(self, points: Floats, before: Floats | None) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the Dice in percent, the luck of a single training included."""
        if self.before is not None:
            assert before is not None  # all stages but the first are given it
            points = np.column_stack([points, (before - self.before) / DICE_UNIT])
        mean, deviation = self.process.predict_many(points)
        return self.mean + DICE_UNIT * mean, DICE_UNIT * np.hypot(deviation, self.process.noise)


@dataclass(frozen=True)
class LearningCurves:
    """The Dice at the end of the training, from wherever a trial is.

    Attributes:
        stages: one for each rung that is used, and one for the end.
        levels: the columns of the Dice that they are about.
    """

    stages: tuple[Stage, ...]
    levels: tuple[int, ...]

    @classmethod
    def fit(
        cls,
        points: Floats,
        dice: Floats,
        groups: Sequence[int],
        first: LearningCurves | None = None,
        *,
        tune: bool = True,
    ) -> LearningCurves | None:
        """Learn from trials.

        Args:
            points: N x D features of the configurations.
            dice: N x L Dice in percent at each rung and, last, in the end; NaN where a trial did not come to.
            groups: for each of the D features the index of its dimension.
            first: earlier curves to begin from; None looks further around.
            tune: without it their hyperparameters stay as they are.

        Returns:
            None while fewer than `MIN_TOLD` trials came to the end.
        """
        came = np.isfinite(dice)
        levels = [level for level in range(dice.shape[1]) if came[:, level].sum() >= MIN_TOLD]
        if dice.shape[1] - 1 not in levels:
            return None
        earlier = {} if first is None else dict(zip(first.levels, first.stages, strict=True))
        stages: list[Stage] = []
        before: Floats | None = None
        for level in levels:
            told = came[:, level]
            known = None if before is None else before[told]
            first_stage = earlier.get(level)
            stages.append(Stage.fit(points[told], known, dice[told, level], groups, first_stage, tune=tune))
            # A trial of a time when there were no rungs did not pause there: what is to be expected takes the place.
            before = np.where(told, dice[:, level], stages[-1].predict(points, before)[0])
        return cls(tuple(stages), tuple(levels))

    def predict(self, points: Floats, dice: Floats | None = None) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the Dice in percent at the end.

        Args:
            points: M x D features.
            dice: M x L as in `fit`, of trials that came to some rung; None for configurations that nobody tried.
        """
        mean: Floats | None = None
        deviation = np.zeros(len(points))
        for level, stage in zip(self.levels, self.stages, strict=True):
            expected, own = stage.predict(points, mean)
            if mean is not None:
                # What is not known of the rung before is carried on along the slope there.
                step = np.maximum(deviation, 0.1)
                slope = (stage.predict(points, mean + step)[0] - stage.predict(points, mean - step)[0]) / (2 * step)
                own = np.hypot(own, slope * deviation)
            if dice is None:
                mean, deviation = expected, own
            else:
                came = np.isfinite(dice[:, level])
                mean = np.where(came, dice[:, level], expected)
                deviation = np.where(came, 0.0, own)
        assert mean is not None  # there is the end at least
        return mean, deviation


@dataclass(frozen=True)
class LogarithmModel:
    """The logarithm of what is measured before training, such as a latency.

    Attributes:
        process: on the features.
        mean: logarithm around which it is.
    """

    process: GaussianProcess
    mean: float

    @classmethod
    def fit(
        cls,
        points: Floats,
        values: Floats,
        groups: Sequence[int],
        first: LogarithmModel | None = None,
        *,
        tune: bool = True,
    ) -> LogarithmModel:
        """Learn from N x D features and N positive values; the others as in `fit_gaussian`."""
        logs = np.log(np.maximum(values, 1e-9))
        mean = float(logs.mean())
        slopes = points.shape[1] * [MEASURED_SLOPE]
        known = None if first is None else first.process
        return cls(fit_gaussian(points, logs - mean, groups, known, tune=tune, prior=MEASURED, slopes=slopes), mean)

    def predict(self, points: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the logarithm at M x D features."""
        mean, deviation = self.process.predict_many(points)
        return self.mean + mean, deviation


class CurveLearner:
    """Learns curves again and again while a study grows.

    Args:
        groups: for each feature the index of its dimension.
    """

    def __init__(self, groups: Sequence[int]) -> None:
        self._groups = tuple(groups)
        self._pace = Pace()
        self._seen: tuple[bytes, bytes] | None = None
        self._curves: LearningCurves | None = None

    def learn(self, points: Floats, dice: Floats) -> LearningCurves | None:
        """See `LearningCurves.fit`; the same trials again cost nothing."""
        seen = points.tobytes(), dice.tobytes()
        if seen == self._seen or np.isfinite(dice[:, -1]).sum() < MIN_TOLD:
            return self._curves
        known, tune = self._pace.at(int(np.isfinite(dice).sum()))
        self._curves = LearningCurves.fit(points, dice, self._groups, self._curves if known else None, tune=tune)
        self._seen = seen
        return self._curves


class LogarithmLearner:
    """Learns a `LogarithmModel` again and again while a study grows; arguments as of `CurveLearner`."""

    def __init__(self, groups: Sequence[int]) -> None:
        self._groups = tuple(groups)
        self._pace = Pace()
        self._model: LogarithmModel | None = None

    def learn(self, points: Floats, values: Floats) -> LogarithmModel:
        """See `LogarithmModel.fit`."""
        known, tune = self._pace.at(len(values))
        self._model = LogarithmModel.fit(points, values, self._groups, self._model if known else None, tune=tune)
        return self._model
