"""How thoroughly a latency is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MeasureSettings:
    """Settings of the measuring protocol; the defaults take 1.5 to 3 seconds for a model of 10 ms on a quiet machine.

    Attributes:
        min_runs: timed runs of a series at least, also when ``max_seconds`` is over. 64 are the least from which a 90th
            percentile can be estimated (MLPerf Inference rules, single stream).
        min_seconds: duration of a series at least.
        max_seconds: duration after which a series ends although p90 is not yet known as well as wanted.
        interval: a series ends when the 95 % confidence interval of p90 is narrower than this share of p90.
        warmup_seconds: warm-up ends after so long although it is not yet stable.
        foreign_limit: CPU time that others may use meanwhile, in cores; above it the series is disturbed.
        attempts: so many disturbed series are made before the least disturbed one is kept and marked.
        agreement: series are made until the p50 of the two fastest undisturbed ones differ by no more than this share;
            the fastest is kept. None: a single one is enough.
        repeat_seconds: after so long no series is begun; where no two agreed by then, the fastest is kept and marked.
        timeout_seconds: after so long in all the agent is killed; waiting for other measurements does not count.
        build_seconds: of compiling, so much does not count either, for engines that try kernels then (TensorRT).
    """

    min_runs: int = 64
    min_seconds: float = 0.5
    max_seconds: float = 1.25
    interval: float = 0.02
    warmup_seconds: float = 0.5
    foreign_limit: float = 0.06
    attempts: int = 3
    agreement: float | None = 0.02
    repeat_seconds: float = 6.0
    timeout_seconds: float = 120.0
    build_seconds: float = 1800.0

    def __post_init__(self) -> None:
        if self.min_runs < 1 or self.attempts < 1:
            raise ValueError("min_runs and attempts must be at least 1")
        if not 0 <= self.min_seconds <= self.max_seconds:
            raise ValueError("min_seconds must be between 0 and max_seconds")
