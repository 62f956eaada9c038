"""From measurements to a predictor: fit the roofline's coefficients, then learn what they leave unexplained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autocompress.hardware.prediction.features import ARITHMETIC_KINDS, MOVING_KINDS, GraphCosts
from autocompress.hardware.prediction.gaussian import GaussianProcess, fit_gaussian
from autocompress.hardware.prediction.predictor import FEATURE_GROUPS, Correction, Predictor, correction_features
from autocompress.hardware.prediction.roofline import REDUCED, NodeTable, Roofline

Floats = NDArray[np.float64]

MIN_FOR_CORRECTION = 12
"""Fewer measurements only scale the estimate: nine scores at least are needed to know an interval of 90 %."""
_FOLDS = 10
_COVERAGE = 0.9
_REPEATABILITY = 0.05
"""Error of the logarithm up to which a residual is not an outlier; a measurement repeats to a few percent."""
_GUESS = math.log(4.0)
"""Half width of the interval of an estimate that nothing was measured for."""
_UNLIKE = 0.35
"""Standard deviation of the logarithm between networks where only a common factor is known: a guess of two networks."""
_Z90 = 1.645


@dataclass(frozen=True)
class Sample:
    """One measured network.

    Attributes:
        costs: see `autocompress.hardware.prediction.features.graph_costs`.
        latency_ms: p50, above 0.
        memory_bytes: peak memory of the engine's process; None where unknown.
        label: for people, such as a configuration's label.
    """

    costs: GraphCosts
    latency_ms: float
    memory_bytes: int | None = None
    label: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.latency_ms) and self.latency_ms > 0):
            raise ValueError(f"the latency of {self.label or 'a sample'} must be above 0, not {self.latency_ms}")
        if self.memory_bytes is not None and self.memory_bytes <= 0:
            raise ValueError(f"the memory of {self.label or 'a sample'} must be above 0, not {self.memory_bytes}")


def fit(samples: Sequence[Sample], start: Roofline, *, where: str = "") -> Predictor:
    """Make a predictor for one engine on one host; precisions may be mixed.

    Deterministic. With no samples the start is kept and said to be uncertain by a factor of 4; with fewer than
    `MIN_FOR_CORRECTION` it is scaled as a whole; with more, every coefficient is fitted and a Gaussian process learns
    the rest. The interval's width comes from samples that were left out of the fit in turn.

    Args:
        samples: in any order.
        start: coefficients to begin with, towards which few data keep them.
        where: for `Prediction.basis`, such as ``EPYC, 2 threads``.
    """
    place = f" on {where}" if where else ""
    roofline, memory_spread = _fit_memory(samples, start)
    if not samples:
        return Predictor(
            start, None, _GUESS, _GUESS, memory_spread, 0, f"figures of the hardware profile{place}, nothing measured"
        )
    basis = f"{len(samples)} measurement{'s' if len(samples) > 1 else ''}{place}"
    if len(samples) < MIN_FOR_CORRECTION:
        scaled, half = _scaled(samples, roofline)
        return Predictor(scaled, None, half, half, memory_spread, len(samples), basis)
    costs = [each.costs for each in samples]
    measured = np.log([each.latency_ms for each in samples])
    fitted = fit_roofline(costs, measured, roofline)
    correction = _learned(correction_features(costs, fitted), measured)
    scores = []
    for left_out in _folds(len(samples)):
        rows = [row for row in range(len(samples)) if row not in left_out]
        part = fit_roofline([costs[row] for row in rows], measured[rows], roofline, first=fitted, rounds=8)
        features = correction_features(costs, part)
        learned = _learned(features[rows], measured[rows], correction.process)
        for row in left_out:
            shift, deviation = learned.predict(features[row])
            scores.append(abs(measured[row] - features[row, 0] - shift) / deviation)
    correction = replace(correction, widening=_quantile(scores))
    return Predictor(fitted, correction, 0.0, 0.0, memory_spread, len(samples), basis)


def _learned(features: Floats, measured: Floats, first: GaussianProcess | None = None) -> Correction:
    """The correction for estimated networks whose latency is known, with intervals of one standard deviation."""
    # A floor, so that a feature that hardly varies in the samples does not become a large distance elsewhere.
    deviation = np.maximum(features.std(axis=0), 0.03)
    mean = features.mean(axis=0)
    process = fit_gaussian((features - mean) / deviation, measured - features[:, 0], FEATURE_GROUPS, first)
    return Correction(process, tuple(mean.tolist()), tuple(deviation.tolist()), 1.0)


def fit_roofline(
    costs: Sequence[GraphCosts], log_ms: Floats, start: Roofline, *, first: Roofline | None = None, rounds: int = 30
) -> Roofline:
    """The coefficients that explain measured latencies best, near the start where the data do not tell.

    Args:
        costs: of the networks.
        log_ms: natural logarithms of their latencies in milliseconds.
        start: centre of the weak priors, after a common factor.
        first: where to begin, which saves rounds; ``start`` by default.
        rounds: evaluations of the derivative at most.
    """
    from scipy.optimize import least_squares

    table = NodeTable.of(costs)
    factor = float(np.median(log_ms - np.log(start.kind_ms(table).sum(axis=1))))
    centre = start.slower(math.exp(factor))
    sparse = bool(np.any(table.zeros > 0.1))
    origin, widths = _theta(centre), _PRIOR

    def residuals(theta: Floats) -> Floats:
        estimate = np.log(_roofline(theta, centre, sparse).kind_ms(table).sum(axis=1))
        errors = (estimate - log_ms) / _REPEATABILITY
        # Robust by hand, as the prior must stay quadratic: linear growth beyond two repeatabilities.
        robust = np.sign(errors) * np.sqrt(2 * 4 * (np.sqrt(1 + errors**2 / 4) - 1))
        return np.concatenate([robust, (theta - origin) / widths])

    limits = (origin - 6 * widths, origin + 6 * widths)
    begin = origin if first is None else np.clip(_theta(first), *limits)
    solution = least_squares(residuals, begin, bounds=limits, max_nfev=rounds, x_scale=widths, xtol=1e-4, ftol=1e-4)
    return _roofline(solution.x, centre, sparse)


# The order of the coefficients below; standard deviations of the priors on their logarithms. The base time and the
# cache are the least known.
_SHARED = len(ARITHMETIC_KINDS) + 2 * len(REDUCED) + len(MOVING_KINDS)
_PRIOR = np.array([0.7] * (_SHARED + 3) + [1.5, 1.0, 0.7, 0.7, 2.0])


def _theta(roofline: Roofline) -> Floats:
    skip = min(max(roofline.zero_skip, 0.05), 0.95)
    positive = [roofline.rates[kind] for kind in ARITHMETIC_KINDS]
    positive += [roofline.speedups[name] for name in REDUCED]
    positive += [roofline.carrying[name] for name in REDUCED]
    positive += [roofline.streaming[kind] for kind in MOVING_KINDS]
    positive += [roofline.bandwidth_gbs, roofline.launch_us, roofline.launch_moving_us, roofline.base_us]
    positive += [roofline.cache_bytes, max(roofline.cache_gain - 1, 1e-3), roofline.half_fill, skip / (1 - skip)]
    return np.log(np.asarray(positive))


def _roofline(theta: Floats, base: Roofline, sparse: bool) -> Roofline:
    values = iter(np.exp(theta).tolist())
    rates = {kind: next(values) for kind in ARITHMETIC_KINDS}
    speedups = {name: next(values) for name in REDUCED}
    carrying = {name: next(values) for name in REDUCED}
    streaming = {kind: next(values) for kind in MOVING_KINDS}
    bandwidth, launch, launch_moving, fixed, cache, gain, half, odds = values
    return replace(
        base,
        rates=rates,
        speedups=speedups,
        carrying=carrying,
        streaming=streaming,
        bandwidth_gbs=bandwidth,
        launch_us=launch,
        launch_moving_us=launch_moving,
        base_us=fixed,
        cache_bytes=cache,
        cache_gain=1 + gain,
        half_fill=half,
        # Without pruned networks among the samples nothing can be learned about it.
        zero_skip=odds / (1 + odds) if sparse else base.zero_skip,
    )


def _scaled(samples: Sequence[Sample], start: Roofline) -> tuple[Roofline, float]:
    """The start times a common factor, and the half width of its interval from few samples and a guess."""
    ratios = np.array([math.log(each.latency_ms / start.latency_ms(each.costs)) for each in samples])
    factor = float(ratios.mean())
    variance = (2 * _UNLIKE**2 + float(np.sum((ratios - factor) ** 2))) / (2 + len(ratios) - 1)
    # One more standard error for the factor itself; Student's t of few degrees is wider than the normal's 1.645.
    half = (_Z90 + 1.0 / len(ratios)) * math.sqrt(variance * (1 + 1 / len(ratios)))
    return start.slower(math.exp(factor)), half


def _fit_memory(samples: Sequence[Sample], start: Roofline) -> tuple[Roofline, float]:
    """Coefficients of the memory above 0 near the start, and the half width of their interval."""
    from scipy.optimize import nnls

    known = [each for each in samples if each.memory_bytes is not None]
    if not known:
        return start, _GUESS / 2
    names = ("process_bytes", "operator_bytes", "weight_factor", "activation_factor")
    before = np.array([getattr(start, name) for name in names])
    rows = np.array(
        [[1.0, each.costs.launches, each.costs.weight_bytes, each.costs.peak_activation_bytes] for each in known]
    )
    measured = np.array([float(each.memory_bytes or 0) for each in known])

    def solve(chosen: Sequence[int]) -> Floats:
        # Relative errors, in units of the start; the prior's rows weigh as much as errors of 100 % of a coefficient.
        data = rows[chosen] * before / measured[chosen, None] / 0.05
        target = np.full(len(chosen), 1 / 0.05)
        solution, _ = nnls(np.vstack([data, np.eye(4)]), np.concatenate([target, np.ones(4)]))
        return np.asarray(np.maximum(solution, 1e-3) * before)

    everything = list(range(len(known)))
    errors = []
    for left_out in _folds(len(known)) if len(known) > 2 else []:
        coefficients = solve([row for row in everything if row not in left_out])
        errors += [abs(math.log(float(rows[row] @ coefficients) / measured[row])) for row in left_out]
    fitted = replace(start, **dict(zip(names, solve(everything).tolist(), strict=True)))
    return fitted, max(0.02, _quantile(errors) if errors else _GUESS / 4)


def _folds(count: int) -> list[list[int]]:
    """Rows to leave out in turn; the same for every run."""
    order = np.random.default_rng(0).permutation(count).tolist()
    return [order[first::_FOLDS] for first in range(min(count, _FOLDS))]


def _quantile(scores: Sequence[float]) -> float:
    """The value that a further score stays below in nine of ten cases, by the rank that makes this exact.

    With fewer than nine scores no rank does; half as much again as the largest is taken.
    """
    ordered = sorted(scores)
    rank = math.ceil(_COVERAGE * (len(ordered) + 1))
    return max(1e-3, ordered[rank - 1] if rank <= len(ordered) else 1.5 * ordered[-1])
