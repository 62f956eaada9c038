"""Latency and memory of a network on one engine of one host, without running it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.config import PRECISIONS
from autocompress.errors import UserError
from autocompress.hardware.prediction.features import GraphCosts
from autocompress.hardware.prediction.gaussian import GaussianProcess
from autocompress.hardware.prediction.roofline import NodeTable, Roofline

SCHEMA = "autocompress/latency-predictor"
VERSION = 1

_SIZE, _COMPOSITION, _PRECISION, _SHAPE = range(4)


@dataclass(frozen=True)
class Prediction:
    """What a predictor says; each interval is meant to hold nine of ten measurements.

    Attributes:
        latency_ms: p50 of one image.
        low_ms, high_ms: interval of ``latency_ms``.
        memory_bytes: peak memory of the engine's process.
        memory_low, memory_high: interval of ``memory_bytes``.
        basis: on what it rests, one line for people.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    memory_bytes: int
    memory_low: int
    memory_high: int
    basis: str


@dataclass(frozen=True)
class Correction:
    """What measurements teach beyond the roofline: a Gaussian process on standardised features.

    Attributes:
        process: predicts the logarithm of measured / estimated latency.
        mean, deviation: of each feature of `correction_features`, by which they are standardised.
        widening: standard deviations of the process to each side that hold nine of ten measurements.
    """

    process: GaussianProcess
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    widening: float

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.deviation) == len(self.process.groups) == len(FEATURE_GROUPS):
            raise ValueError("the correction has another number of features")
        numbers = (*self.mean, *self.deviation, self.widening)
        if not all(map(math.isfinite, numbers)) or min(*self.deviation, self.widening) <= 0:
            raise ValueError("the correction's numbers must be finite, deviations and widening above 0")

    def predict(self, features: NDArray[np.float64]) -> tuple[float, float]:
        """Correction of the logarithm of the latency, and the half width of its interval."""
        point = (features - np.asarray(self.mean)) / np.asarray(self.deviation)
        mean, deviation = self.process.predict(point.tolist())
        return mean, self.widening * deviation


@dataclass(frozen=True)
class Predictor:
    """For one engine on one host; made by `fit` or `seeded`, plain values throughout.

    Attributes:
        roofline: the physical estimate.
        correction: from measurements; None where there are too few.
        below, above: half widths of the latency's interval where there is no correction, as natural logarithms: 0.7
            is a factor of 2. Both are at least 0.
        memory_spread: half width of the memory's interval, likewise.
        samples: measurements that it was made from.
        basis: on what it rests, one line for people.
    """

    roofline: Roofline
    correction: Correction | None
    below: float
    above: float
    memory_spread: float
    samples: int
    basis: str

    def __post_init__(self) -> None:
        if not all(math.isfinite(each) and each >= 0 for each in (self.below, self.above, self.memory_spread)):
            raise ValueError("below, above and memory_spread must be finite and at least 0")

    def predict(self, costs: GraphCosts) -> Prediction:
        """Predict one network."""
        features = correction_features([costs], self.roofline)[0]
        center, below, above = float(features[0]), self.below, self.above
        if self.correction is not None:
            shift, below = self.correction.predict(features)
            center, above = center + shift, below
        memory = self.roofline.memory_bytes(costs)
        return Prediction(
            latency_ms=math.exp(center),
            low_ms=math.exp(center - below),
            high_ms=math.exp(center + above),
            memory_bytes=memory,
            memory_low=round(memory * math.exp(-self.memory_spread)),
            memory_high=round(memory * math.exp(self.memory_spread)),
            basis=self.basis,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is the way back."""
        return {"schema": SCHEMA, "version": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "predictor") -> Predictor:
        """Build from what `to_dict` gave.

        Args:
            values: plain values.
            source: where they come from, for the error's text.

        Raises:
            UserError: another schema or version, or damaged values.
        """
        if not isinstance(values, Mapping) or values.get("schema") != SCHEMA:
            raise UserError(f"{source} is not a latency predictor; delete it and calibrate again")
        if values.get("version") != VERSION:
            raise UserError(
                f"{source} has version {values.get('version')!r}, this program reads {VERSION}; calibrate again"
            )
        try:
            correction = values["correction"]
            if correction is not None:
                correction = Correction(
                    GaussianProcess.from_dict(correction["process"]),
                    tuple(float(value) for value in correction["mean"]),
                    tuple(float(value) for value in correction["deviation"]),
                    float(correction["widening"]),
                )
            return cls(
                roofline=Roofline.from_dict(values["roofline"]),
                correction=correction,
                below=float(values["below"]),
                above=float(values["above"]),
                memory_spread=float(values["memory_spread"]),
                samples=int(values["samples"]),
                basis=str(values["basis"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
            raise UserError(f"{source} is damaged ({error}); delete it and calibrate again") from error


def _groups() -> tuple[int, ...]:
    columns = NodeTable.of([]).columns
    return (_SIZE, _SIZE, *[_COMPOSITION] * columns, *[_PRECISION] * len(PRECISIONS), _SHAPE, _SHAPE)


FEATURE_GROUPS = _groups()
"""For each of the features of `correction_features` the group whose length scale it shares."""


def correction_features(costs: list[GraphCosts], roofline: Roofline) -> NDArray[np.float64]:
    """Features of the correction, one row a network; the first is the logarithm of the estimated milliseconds.

    Size (estimate, activations alive), composition (each kind's share of the estimated time), precision, and what the
    operators look like (width of the products, number of operators).
    """
    times = roofline.kind_ms(NodeTable.of(costs))
    estimate = times.sum(axis=1, keepdims=True)
    rest = [
        [
            *(float(each.precision == name) for name in PRECISIONS),
            sum(node.macs * math.log(max(1, node.narrowest)) for node in each.nodes) / max(1, each.macs),
            math.log1p(each.launches),
        ]
        for each in costs
    ]
    alive = [[math.log1p(each.peak_activation_bytes)] for each in costs]
    return np.hstack([np.log(estimate), np.asarray(alive), times / estimate, np.asarray(rest)])
