"""What a measurement is: the same plain record for a laptop CPU, a GPU and a Jetson."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Outcome = Literal["ok", "crashed", "timeout", "out_of_memory", "invalid_output", "unsupported", "lost"]


@dataclass(frozen=True)
class Latency:
    """Single-stream latency in milliseconds.

    Attributes:
        p50, p90, p99, mean: of the timed runs.
        p90_interval: 95 % confidence interval of p90.
        runs: timed runs, warm-up not counted.
    """

    p50: float
    p90: float
    p99: float
    mean: float
    p90_interval: tuple[float, float]
    runs: int

    @property
    def percentiles(self) -> dict[str, float]:
        """p50, p90 and p99 by name."""
        return {"p50": self.p50, "p90": self.p90, "p99": self.p99}


@dataclass(frozen=True)
class Measurement:
    """What one engine did with one model on one host.

    Attributes:
        engine: name of the engine, such as ``onnxruntime``.
        engine_version: as the engine itself reports it.
        host: name of the machine that ran it.
        outcome: ``ok``, or how it failed; a failure is an answer and not an exception.
        message: one line for people where the outcome is not ``ok`` ("deepsparse: SIGSEGV while compiling").
        latency: present exactly where the outcome is ``ok``.
        peak_memory_bytes: peak resident memory of the engine's process, where known.
        energy_joules: energy for one inference over the timed runs, where the device tells it: of the whole GPU, of the
            processor's packages or of a board's input, whatever else they did; None where unknown.
        measured: False where the figures are predicted.
        disturbed: True where foreign load stayed above its limit in every attempt, or a board was slowed down.
        conditions: threads, affinity, CPU model, clocks, governor, power mode, temperatures, foreign load, GPU, ...
    """

    engine: str
    engine_version: str
    host: str
    outcome: Outcome
    message: str = ""
    latency: Latency | None = None
    peak_memory_bytes: int | None = None
    measured: bool = True
    disturbed: bool = False
    conditions: Mapping[str, Any] = field(default_factory=dict)
    energy_joules: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the model ran and was timed."""
        return self.outcome == "ok" and self.latency is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurement:
        """Build from what `to_dict` gave."""
        plain = dict(values)
        latency = plain.pop("latency", None)
        if latency is not None:
            latency = Latency(**{**latency, "p90_interval": tuple(latency["p90_interval"])})
        return cls(**plain, latency=latency)
