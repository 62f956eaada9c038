"""A small Gaussian process: what a physical estimate leaves unexplained, learned from few measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import UserError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GaussianProcess:
    """Residuals as a smooth function of groups of features, with one length scale for each group.

    Kernel: ``amplitude^2 * Matern52(distance)``; the distance is that of the features divided by their group's scale.
    Far from all inputs the mean is 0 and the standard deviation is the amplitude.

    Attributes:
        inputs: N rows of D features, in units that make 1 a large difference.
        targets: N residuals.
        groups: for each of the D features the index of its length scale.
        scales: length scales, in units of the features.
        amplitude, noise: standard deviations, in units of the targets.
    """

    inputs: tuple[tuple[float, ...], ...]
    targets: tuple[float, ...]
    groups: tuple[int, ...]
    scales: tuple[float, ...]
    amplitude: float
    noise: float

    @cached_property
    def _solved(self) -> tuple[Floats, Floats]:
        """Cholesky factor of the covariance, and the weights of the inputs."""
        from scipy.linalg import cho_solve

        points = np.asarray(self.inputs)
        covariance = self._kernel(points, points) + self.noise**2 * np.eye(len(points))
        factor = np.linalg.cholesky(covariance)
        return factor, np.asarray(cho_solve((factor, True), np.asarray(self.targets)))

    def _kernel(self, left: Floats, right: Floats) -> Floats:
        return self.amplitude**2 * matern(distances(left, right, self.groups), self.scales)

    def predict(self, point: Sequence[float]) -> tuple[float, float]:
        """Mean and standard deviation (noise of a measurement included) at one point."""
        from scipy.linalg import solve_triangular

        factor, weights = self._solved
        across = self._kernel(np.asarray([point], dtype=np.float64), np.asarray(self.inputs))[0]
        explained = solve_triangular(factor, across, lower=True)
        variance = self.amplitude**2 + self.noise**2 - float(explained @ explained)
        return float(across @ weights), math.sqrt(max(variance, self.noise**2))

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


def fit_gaussian(
    inputs: Floats, targets: Floats, groups: Sequence[int], first: GaussianProcess | None = None
) -> GaussianProcess:
    """Hyperparameters of the greatest marginal likelihood, with weak priors that keep few data from absurd ones.

    Deterministic: the starting points are fixed.

    Args:
        inputs: N x D features, standardised.
        targets: N residuals of logarithms, around 0.
        groups: for each feature the index of its length scale, from 0.
        first: begin at its hyperparameters alone, instead of several points.
    """
    from scipy.optimize import minimize

    squared = distances(inputs, inputs, groups)
    count = len(squared)
    # Log-normal priors: (mean, standard deviation) of length scales, amplitude and noise. Timing repeats to about 2 %.
    centre = np.array([math.log(3.0)] * count + [math.log(0.15), math.log(0.02)])
    width = np.array([1.0] * count + [1.0, 0.7])
    bounds = [(math.log(0.2), math.log(50.0))] * count + [(math.log(0.01), math.log(1.0)), (math.log(0.003), 0.0)]
    starts = [centre, centre - 1.0, np.concatenate([centre[:count] + 1.0, centre[count:] + np.array([0.7, 1.0])])]
    if first is not None:
        starts = [np.log([*first.scales, first.amplitude, first.noise])]

    def objective(theta: Floats) -> tuple[float, Floats]:
        value, slope = _misfit(theta, squared, targets)
        away = (theta - centre) / width
        return value + 0.5 * float(away @ away), slope + away / width

    solutions = [
        minimize(objective, np.clip(start, *np.transpose(bounds)), jac=True, method="L-BFGS-B", bounds=bounds)
        for start in starts
    ]
    best = np.exp(min(solutions, key=lambda each: each.fun).x)
    return GaussianProcess(
        tuple(tuple(row) for row in inputs.tolist()),
        tuple(targets.tolist()),
        tuple(groups),
        tuple(best[:count].tolist()),
        float(best[count]),
        float(best[count + 1]),
    )


def _misfit(theta: Floats, squared: Floats, targets: Floats) -> tuple[float, Floats]:
    """Negative logarithm of the marginal likelihood less a constant, and its gradient (both by the logarithms)."""
    from scipy.linalg import cho_factor, cho_solve

    count = len(squared)
    scales, amplitude, noise = np.exp(theta[:count]), math.exp(theta[count]), math.exp(theta[count + 1])
    smooth = amplitude**2 * matern(squared, scales.tolist())
    factor = cho_factor(smooth + noise**2 * np.eye(len(targets)), lower=True)
    weights, inverse = cho_solve(factor, targets), cho_solve(factor, np.eye(len(targets)))
    value = 0.5 * float(targets @ weights) + float(np.sum(np.log(np.diag(factor[0]))))
    toward = 0.5 * (inverse - np.outer(weights, weights))
    distance = np.sqrt(5 * np.tensordot(1 / scales**2, squared, axes=1))
    decay = amplitude**2 * 5 / 3 * (1 + distance) * np.exp(-distance)
    by_scale = [float(np.sum(toward * decay * each)) / scale**2 for each, scale in zip(squared, scales, strict=True)]
    by_amplitude, by_noise = 2 * float(np.sum(toward * smooth)), 2 * noise**2 * float(np.trace(toward))
    return value, np.array([*by_scale, by_amplitude, by_noise])
