"""How much a further trial is likely to add to a Pareto front."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DIRECTIONS, SAMPLES = 128, 32
_CHUNK = 256
"""Candidates that are judged at once, which bounds the memory."""


def expected_improvement(front: Floats, means: Floats, deviations: Floats, *, seed: int) -> Floats:
    """Expected growth of the dominated hypervolume by each candidate (EHVI).

    Args:
        front: F x K gains over the reference of what is known; those below 0 count as 0.
        means, deviations: N x K of the candidates' gains, which are independent and normal.
        seed: of what is drawn where there are more than two objectives.

    Returns:
        N values; with two objectives areas, else in a unit of their own.
    """
    if means.shape[1] == 2:
        return _area(front, means, deviations)
    return _sampled(front, means, deviations, seed)


def _area(front: Floats, means: Floats, deviations: Floats) -> Floats:
    """Exactly, for two objectives: strip by strip of the first one, in which the front has one height in the second."""
    known = front[(front > 0).all(axis=1)]
    known = known[np.argsort(known[:, 0])]
    edges = np.concatenate([[0.0], known[:, 0], [math.inf]])
    heights = np.concatenate([np.maximum.accumulate(known[::-1, 1])[::-1], [0.0]])
    beyond = _excess(means[:, :1], deviations[:, :1], edges[None, :-1])  # of the left edge of each strip
    widths = beyond - np.concatenate([beyond[:, 1:], np.zeros((len(means), 1))], axis=1)
    return np.asarray((widths * _excess(means[:, 1:], deviations[:, 1:], heights[None])).sum(axis=1))


def _excess(mean: Floats, deviation: Floats, level: Floats) -> Floats:
    """By how much normal variables are expected to exceed levels."""
    from scipy.special import ndtr

    spread = np.maximum(deviation, 1e-12)
    away = (mean - level) / spread
    return np.asarray(spread * np.exp(-0.5 * away**2) / math.sqrt(2 * math.pi) + (mean - level) * ndtr(away))


def _sampled(front: Floats, means: Floats, deviations: Floats, seed: int) -> Floats:
    """For any number K of objectives.

    The hypervolume of a set is, up to a constant, the mean over the directions of the positive orthant of the highest
    ``min_k(gain_k / direction_k) ** K`` among its members (Zhang and Golovin, 2020, arXiv 2006.04655), and what a
    further member adds is the mean of what it adds to that. All candidates get the same directions and samples.
    """
    rng = np.random.default_rng(seed)
    objectives = means.shape[1]
    # Units in which no objective is lost beside another.
    spans = np.maximum(np.concatenate([front, means]).max(axis=0), 1e-9)
    towards = np.abs(rng.standard_normal((DIRECTIONS, objectives)))
    directions = spans * np.maximum(towards / np.linalg.norm(towards, axis=1, keepdims=True), 1e-9)

    def scores(gains: Floats) -> Floats:
        return np.asarray((np.maximum(gains, 0.0)[:, None, :] / directions).min(axis=2) ** objectives)

    best = scores(front).max(axis=0) if len(front) else np.zeros(DIRECTIONS)
    half = rng.standard_normal((SAMPLES // 2, objectives))
    total = np.zeros(len(means))
    for first in range(0, len(means), _CHUNK):
        part = slice(first, first + _CHUNK)
        for sample in (*half, *-half):
            total[part] += np.maximum(scores(means[part] + deviations[part] * sample) - best, 0.0).mean(axis=1)
    return total / SAMPLES
