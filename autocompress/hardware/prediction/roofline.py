"""A physical estimate of latency and memory: each operator takes as long as its arithmetic or its memory traffic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.errors import UserError
from autocompress.hardware.prediction.features import ARITHMETIC_KINDS, KINDS, MOVING_KINDS, GraphCosts

Floats = NDArray[np.float64]

REDUCED = ("fp16", "bf16", "int8")
_FORMATS = ("fp32", *REDUCED)
# Shares of the peak that libraries reach in each kind on CPUs and small GPUs, as a start to fit from: large products
# come near the peak, a depthwise convolution has nine multiplications for each value that it fetches.
_EFFICIENCY = {
    "conv_dense": 0.5,
    "conv_pointwise": 0.5,
    "conv_depthwise": 0.1,
    "matmul_weights": 0.5,
    "matmul_activations": 0.25,
}
# Shares of the memory bandwidth: softmax, GELU and norms compute while they move, layout changes jump in memory.
_STREAMING = {
    "softmax": 0.3,
    "norm": 0.5,
    "gelu": 0.3,
    "elementwise": 0.7,
    "layout": 0.4,
    "resize": 0.4,
    "quantize": 0.5,
    "other": 0.3,
}
_GROUPS = {"rates": ARITHMETIC_KINDS, "speedups": REDUCED, "carrying": REDUCED, "streaming": MOVING_KINDS}
_MIB = 2**20


@dataclass(frozen=True)
class Roofline:
    """Coefficients of the estimate; all are above 0, except ``zero_skip``.

    Attributes:
        rates: 10^9 multiply-accumulates per second in fp32, for each of `ARITHMETIC_KINDS`.
        speedups: how many times faster arithmetic is in fp16, bf16 and int8.
        carrying: how many times faster than in fp32 the same number of bytes is moved in fp16, bf16 and int8, by
            operators that only move data: below 1 where software converts each value to compute with it.
        streaming: share of the bandwidth that each of `MOVING_KINDS` reaches.
        bandwidth_gbs: of the memory, in 10^9 bytes per second.
        launch_us: fixed time of one product or convolution, in microseconds.
        launch_moving_us: the same of any other operator.
        base_us: fixed time of one inference.
        cache_bytes: operators that touch less than about so much find it in a cache.
        cache_gain: how many times faster than memory that cache is, at least 1.
        half_fill: narrowest side of a product at which half of the rate is reached; wider ones come nearer to it.
        zero_skip: share of the work of zero weights that the engine saves, 0 to 1; 0 for all but sparse engines.
        process_bytes: memory of the engine's process before it has a model.
        operator_bytes: memory for each operator: code that is made for it, packed weights, descriptions.
        weight_factor: bytes of memory for each stored byte of a weight.
        activation_factor: bytes of memory for each byte of activations that are alive.
    """

    rates: Mapping[str, float]
    speedups: Mapping[str, float]
    carrying: Mapping[str, float]
    streaming: Mapping[str, float]
    bandwidth_gbs: float
    launch_us: float
    launch_moving_us: float
    base_us: float = 20.0
    cache_bytes: float = 1.0 * _MIB
    cache_gain: float = 3.0
    half_fill: float = 16.0
    zero_skip: float = 0.0
    process_bytes: float = 60.0 * _MIB
    operator_bytes: float = 20e3
    weight_factor: float = 1.5
    activation_factor: float = 1.5

    def __post_init__(self) -> None:
        for name, wanted in _GROUPS.items():
            if set(getattr(self, name)) != set(wanted):
                raise ValueError(f"{name} must have exactly {', '.join(wanted)}")
        positive = [value for name in _GROUPS for value in getattr(self, name).values()]
        positive += [self.bandwidth_gbs, self.launch_us, self.launch_moving_us, self.base_us, self.cache_bytes]
        positive += [self.half_fill, self.process_bytes, self.operator_bytes]
        positive += [self.weight_factor, self.activation_factor]
        if not all(math.isfinite(value) and value > 0 for value in positive):
            raise ValueError("coefficients must be finite and above 0")
        if not (1 <= self.cache_gain < math.inf and 0 <= self.zero_skip <= 1):
            raise ValueError("cache_gain must be at least 1, and zero_skip between 0 and 1")

    @classmethod
    def from_profile(
        cls,
        peak_gflops: Mapping[str, float] | None = None,
        bandwidth_gbs: float | None = None,
        launch_us: float | None = None,
        *,
        process_bytes: float = 60.0 * _MIB,
        weight_factor: float = 1.5,
        activation_factor: float = 1.5,
    ) -> Roofline:
        """From the figures of a hardware profile; those that it lacks are those of a laptop with two cores.

        Args:
            peak_gflops: 10^9 operations per second by precision; a multiply-accumulate is two operations.
            bandwidth_gbs: 10^9 bytes per second.
            launch_us: microseconds for one operator; 0 is taken as a tenth of a microsecond.
            process_bytes, weight_factor, activation_factor: of the memory estimate.
        """
        peaks = dict(peak_gflops or {"fp32": 100.0})
        fp32 = peaks.get("fp32") or min(peaks.values())
        launch = max(0.1, 5.0 if launch_us is None else launch_us)
        return cls(
            rates={kind: fp32 / 2 * _EFFICIENCY[kind] for kind in ARITHMETIC_KINDS},
            speedups={name: peaks.get(name, fp32) / fp32 for name in REDUCED},
            carrying=dict.fromkeys(REDUCED, 1.0),
            streaming=dict(_STREAMING),
            bandwidth_gbs=bandwidth_gbs or 10.0,
            launch_us=launch,
            launch_moving_us=launch,
            process_bytes=process_bytes,
            weight_factor=weight_factor,
            activation_factor=activation_factor,
        )

    def latency_ms(self, costs: GraphCosts) -> float:
        """Milliseconds for one image: of each operator the longer of arithmetic and traffic, and its launch."""
        return float(np.sum(self.kind_ms(NodeTable.of([costs]))))

    def kind_ms(self, table: NodeTable) -> Floats:
        """Milliseconds by network and kind (one column for each of `KINDS`, and one for the inference itself)."""
        rates = np.array([self.rates[kind] for kind in ARITHMETIC_KINDS] + [math.inf] * len(MOVING_KINDS))
        speed = np.array([1.0] + [self.speedups[name] for name in REDUCED])
        share = np.array([1.0] * len(ARITHMETIC_KINDS) + [self.streaming[kind] for kind in MOVING_KINDS])
        carry = np.array([1.0] + [self.carrying[name] for name in REDUCED])[table.format]
        share = share[table.kind] * np.where(table.kind < len(ARITHMETIC_KINDS), 1.0, carry)
        launch = np.where(np.arange(len(KINDS)) < len(ARITHMETIC_KINDS), self.launch_us, self.launch_moving_us)
        fill = table.narrowest / (table.narrowest + self.half_fill)
        kept = 1 - self.zero_skip * table.zeros
        arithmetic = table.macs * kept / (rates[table.kind] * speed[table.format] * fill) * 1e-6
        cached = 1 + (self.cache_gain - 1) / (1 + (table.bytes / self.cache_bytes) ** 2)
        traffic = table.bytes / (self.bandwidth_gbs * share * cached) * 1e-6
        each = table.count * (np.maximum(arithmetic, traffic) + launch[table.kind] * 1e-3)
        columns = table.columns
        places = table.network * columns + table.kind
        result = np.bincount(places, each, minlength=table.networks * columns).reshape(table.networks, columns)
        result[:, -1] = self.base_us * 1e-3
        return np.asarray(result, dtype=np.float64)

    def memory_bytes(self, costs: GraphCosts) -> int:
        """Peak memory of the engine's process."""
        return round(
            self.process_bytes
            + self.operator_bytes * costs.launches
            + self.weight_factor * costs.weight_bytes
            + self.activation_factor * costs.peak_activation_bytes
        )

    def slower(self, factor: float) -> Roofline:
        """The same device with all times multiplied by a factor above 0."""
        return replace(
            self,
            rates={kind: value / factor for kind, value in self.rates.items()},
            bandwidth_gbs=self.bandwidth_gbs / factor,
            launch_us=self.launch_us * factor,
            launch_moving_us=self.launch_moving_us * factor,
            base_us=self.base_us * factor,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Roofline:
        """Build from what `to_dict` gave.

        Raises:
            UserError: a coefficient is missing, unknown or out of range.
        """
        try:
            plain: dict[str, Any] = dict(values)
            for name, value in plain.items():
                if name in _GROUPS:
                    plain[name] = {str(key): float(each) for key, each in value.items()}
                else:
                    plain[name] = float(value)
            return cls(**plain)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise UserError(f"damaged roofline: {error}") from error


@dataclass(frozen=True)
class NodeTable:
    """The operators of several networks as arrays; equal ones of a network are one row with a count."""

    networks: int
    network: NDArray[np.int64]
    kind: NDArray[np.int64]
    format: NDArray[np.int64]
    count: Floats
    macs: Floats
    bytes: Floats
    zeros: Floats
    narrowest: Floats

    @property
    def columns(self) -> int:
        """Columns of `Roofline.kind_ms`."""
        return len(KINDS) + 1

    @classmethod
    def of(cls, costs: Sequence[GraphCosts]) -> NodeTable:
        """Table of some networks, in their order."""
        kinds = {kind: index for index, kind in enumerate(KINDS)}
        formats = {name: index for index, name in enumerate(_FORMATS)}
        rows: dict[tuple[float, ...], int] = {}
        for index, each in enumerate(costs):
            for node in each.nodes:
                size = (node.macs, node.bytes, node.zeros, node.narrowest)
                row = (index, kinds[node.kind], formats[node.arithmetic], *size)
                rows[row] = rows.get(row, 0) + 1
        values = np.array(list(rows), dtype=np.float64).reshape(-1, 7)
        return cls(
            networks=len(costs),
            network=values[:, 0].astype(np.int64),
            kind=values[:, 1].astype(np.int64),
            format=values[:, 2].astype(np.int64),
            count=np.array(list(rows.values()), dtype=np.float64),
            macs=values[:, 3],
            bytes=values[:, 4],
            zeros=values[:, 5],
            narrowest=np.maximum(values[:, 6], 1.0),
        )
