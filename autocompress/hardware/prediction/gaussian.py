"""A small Gaussian process: what a physical estimate leaves unexplained, learned from few measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import UserError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Prior:
    """What is believed of the hyperparameters before any data: log-normal, each as (median, standard deviation of the
    logarithm), with the bounds that they may not leave.

    Attributes:
        scale: of each length scale, in units of the features.
        amplitude, noise: in units of the targets.
        scales, amplitudes, noises: bounds.
    """

    scale: tuple[float, float] = (3.0, 1.0)
    amplitude: tuple[float, float] = (0.15, 1.0)
    noise: tuple[float, float] = (0.02, 0.7)
    scales: tuple[float, float] = (0.2, 50.0)
    amplitudes: tuple[float, float] = (0.01, 1.0)
    noises: tuple[float, float] = (0.003, 1.0)


LATENCY_RESIDUALS = Prior()
"""Logarithms of latency beside a physical estimate, on standardised features. Timing repeats to about 2 %."""


@dataclass(frozen=True)
class GaussianProcess:
    """Targets around 0 as a smooth function of groups of features, with one length scale for each group.

    Kernel: ``amplitude^2 * Matern52(distance)``, where the distance is that of the features divided by their group's
    scale, and a line through the origin with a prior on its slopes. Far from all inputs, without a line, the mean is 0
    and the standard deviation is the amplitude.

    Attributes:
        inputs: N rows of D features, in units that make 1 a large difference.
        targets: N residuals.
        groups: for each of the D features the index of its length scale.
        scales: length scales, in units of the features.
        amplitude, noise: standard deviations, in units of the targets.
        slopes: standard deviation of the line's slope along each feature before any data; empty for no line.
    """

    inputs: tuple[tuple[float, ...], ...]
    targets: tuple[float, ...]
    groups: tuple[int, ...]
    scales: tuple[float, ...]
    amplitude: float
    noise: float
    slopes: tuple[float, ...] = ()

    @cached_property
    def _solved(self) -> tuple[Floats, Floats]:
        """Cholesky factor of the covariance, and the weights of the inputs."""
        from scipy.linalg import cho_solve

        points = np.asarray(self.inputs)
        covariance = self._kernel(points, points) + self.noise**2 * np.eye(len(points))
        factor = np.linalg.cholesky(covariance)
        return factor, np.asarray(cho_solve((factor, True), np.asarray(self.targets)))

    def _kernel(self, left: Floats, right: Floats) -> Floats:
        smooth = self.amplitude**2 * matern(distances(left, right, self.groups), self.scales)
        return smooth + lines(left, right, self.slopes)

    def predict_many(self, points: Floats) -> tuple[Floats, Floats]:
        """Means and standard deviations (without the noise of a measurement) at M points of D features."""
        from scipy.linalg import solve_triangular

        factor, weights = self._solved
        across = self._kernel(points, np.asarray(self.inputs))
        explained = solve_triangular(factor, across.T, lower=True)
        own = self.amplitude**2 + (points**2 @ np.square(np.asarray(self.slopes)) if self.slopes else 0.0)
        variance = own - np.sum(explained**2, axis=0)
        return across @ weights, np.sqrt(np.maximum(variance, 1e-12))

    def predict(self, point: Sequence[float]) -> tuple[float, float]:
        """Mean and standard deviation (noise of a measurement included) at one point."""
        mean, deviation = self.predict_many(np.asarray([point], dtype=np.float64))
        return float(mean[0]), math.hypot(float(deviation[0]), self.noise)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GaussianProcess:
        """Build from plain values, as `dataclasses.asdict` gives them.

        Raises:
            UserError: a value is missing, not finite or of the wrong length.
        """
        try:
            inputs = tuple(tuple(float(value) for value in row) for row in values["inputs"])
            result = cls(
                inputs,
                tuple(float(value) for value in values["targets"]),
                tuple(int(value) for value in values["groups"]),
                tuple(float(value) for value in values["scales"]),
                float(values["amplitude"]),
                float(values["noise"]),
                tuple(float(value) for value in values.get("slopes", ())),
            )
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(f"damaged Gaussian process: {error!r}") from error
        numbers = [*(value for row in inputs for value in row), *result.targets]
        positive = [*result.scales, result.amplitude, result.noise]
        fits = (
            len(inputs) == len(result.targets) > 0
            and all(len(row) == len(result.groups) for row in inputs)
            and set(result.groups) <= set(range(len(result.scales)))
            and all(map(math.isfinite, [*numbers, *positive]))
            and all(value > 0 for value in positive)
        )
        if not fits:
            raise UserError("damaged Gaussian process: its numbers do not belong together")
        return result


def distances(left: Floats, right: Floats, groups: Sequence[int]) -> Floats:
    """Squared distances by group: groups x len(left) x len(right)."""
    squared = (left[:, None, :] - right[None, :, :]) ** 2
    chosen = np.asarray(groups)
    return np.stack([squared[:, :, chosen == group].sum(axis=2) for group in range(max(groups) + 1)])


def matern(squared: Floats, scales: Sequence[float]) -> Floats:
    """Matern kernel of smoothness 5/2 with variance 1."""
    weights = 1 / np.square(np.asarray(scales))
    scaled = np.sqrt(5 * np.tensordot(weights, squared, axes=1))
    return np.asarray((1 + scaled + scaled**2 / 3) * np.exp(-scaled))


def lines(left: Floats, right: Floats, slopes: Sequence[float]) -> Floats | float:
    """Covariance of lines through the origin with such standard deviations of their slopes."""
    if not slopes:
        return 0.0
    weights = np.asarray(slopes)
    return np.asarray((left * weights) @ (right * weights).T)


def fit_gaussian(
    inputs: Floats,
    targets: Floats,
    groups: Sequence[int],
    first: GaussianProcess | None = None,
    *,
    tune: bool = True,
    prior: Prior = LATENCY_RESIDUALS,
    slopes: Sequence[float] = (),
) -> GaussianProcess:
    """Hyperparameters of the greatest marginal likelihood, with weak priors that keep few data from absurd ones.

    Deterministic: the starting points are fixed.

    Args:
        inputs: N x D features, standardised.
        targets: N residuals of logarithms, around 0.
        groups: for each feature the index of its length scale, from 0.
        first: begin at its hyperparameters alone, instead of several points.
        tune: without it those of ``first`` stay as they are.
        prior: of the hyperparameters.
        slopes: see `GaussianProcess`.
    """
    from scipy.optimize import minimize

    if first is not None and not tune:
        return replace(first, inputs=tuple(map(tuple, inputs.tolist())), targets=tuple(targets.tolist()))
    squared = distances(inputs, inputs, groups)
    line = lines(inputs, inputs, slopes)
    count = len(squared)
    believed = [prior.scale] * count + [prior.amplitude, prior.noise]
    centre = np.array([math.log(median) for median, _ in believed])
    width = np.array([deviation for _, deviation in believed])
    bounds = np.log([prior.scales] * count + [prior.amplitudes, prior.noises])
    starts = [centre, centre - 1.0, np.concatenate([centre[:count] + 1.0, centre[count:] + np.array([0.7, 1.0])])]
    if first is not None:
        starts = [np.log([*first.scales, first.amplitude, first.noise])]

    def objective(theta: Floats) -> tuple[float, Floats]:
        value, slope = _misfit(theta, squared, targets, line)
        away = (theta - centre) / width
        return value + 0.5 * float(away @ away), slope + away / width

    solutions = [
        minimize(objective, np.clip(start, *bounds.T), jac=True, method="L-BFGS-B", bounds=bounds) for start in starts
    ]
    best = np.exp(min(solutions, key=lambda each: each.fun).x)
    return GaussianProcess(
        tuple(map(tuple, inputs.tolist())),
        tuple(targets.tolist()),
        tuple(groups),
        tuple(best[:count].tolist()),
        float(best[count]),
        float(best[count + 1]),
        tuple(float(value) for value in slopes),
    )


def _misfit(theta: Floats, squared: Floats, targets: Floats, line: Floats | float) -> tuple[float, Floats]:
    """Negative logarithm of the marginal likelihood less a constant, and its gradient (both by the logarithms)."""
    from scipy.linalg import cho_factor, cho_solve

    count = len(squared)
    scales, amplitude, noise = np.exp(theta[:count]), math.exp(theta[count]), math.exp(theta[count + 1])
    smooth = amplitude**2 * matern(squared, scales.tolist())
    factor = cho_factor(smooth + line + noise**2 * np.eye(len(targets)), lower=True)
    weights, inverse = cho_solve(factor, targets), cho_solve(factor, np.eye(len(targets)))
    value = 0.5 * float(targets @ weights) + float(np.sum(np.log(np.diag(factor[0]))))
    toward = 0.5 * (inverse - np.outer(weights, weights))
    distance = np.sqrt(5 * np.tensordot(1 / scales**2, squared, axes=1))
    decay = amplitude**2 * 5 / 3 * (1 + distance) * np.exp(-distance)
    by_scale = [float(np.sum(toward * decay * each)) / scale**2 for each, scale in zip(squared, scales, strict=True)]
    by_amplitude, by_noise = 2 * float(np.sum(toward * smooth)), 2 * noise**2 * float(np.trace(toward))
    return value, np.array([*by_scale, by_amplitude, by_noise])
