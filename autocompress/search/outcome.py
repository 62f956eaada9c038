"""How a search ended: the front as people and programs want it, or the nearest miss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autocompress.config import CompressionConfig
from autocompress.pareto import non_dominated
from autocompress.search.limits import LIMITS, mega, violations
from autocompress.search.records import TrialResult
from autocompress.specs.schemas import Constraints


@dataclass(frozen=True)
class OnTarget:
    """A model of the front on one of the study's further targets.

    Attributes:
        target: name of the hardware profile.
        latency_ms: ``p50``, ``p90`` and ``p99`` of the confirmation.
        measured: False where the latency is predicted.
        engine: by which it was measured.
        size_bytes: of the exported file.
        file: name of that file in the bundle.
    """

    target: str
    latency_ms: Mapping[str, float]
    measured: bool
    engine: str
    size_bytes: int
    file: str


@dataclass(frozen=True)
class FrontMember:
    """One model of the front.

    Attributes:
        trial: number of the trial.
        config: its configuration.
        dice: mean Dice in percent on the validation volumes.
        dice_test: the same on the test volumes; None where the data set has none.
        latency_ms: ``p50``, ``p90`` and ``p99`` of the confirmation on the first target.
        measured: False where that latency is predicted.
        engine: by which it was measured.
        parameters, gmacs, size_bytes: of the network and of the first target's file.
        bundle: folder of the bundle.
        others: the model on the study's further targets.
        longer_seconds: of further training that it got and gained by; 0 where it is the trial's own network.
        was: ``dice`` and ``latency_ms``, the latter on each target, as the trial had them before the confirmation.
    """

    trial: int
    config: CompressionConfig
    dice: float
    dice_test: float | None
    latency_ms: Mapping[str, float]
    measured: bool
    engine: str
    parameters: int
    gmacs: float
    size_bytes: int
    bundle: Path
    others: tuple[OnTarget, ...] = ()
    longer_seconds: float = 0.0
    was: Mapping[str, Any] = field(default_factory=dict)

    def latencies_ms(self, percentile: str) -> list[float]:
        """The confirmed latency on each target, in the study's order."""
        return [self.latency_ms[percentile], *(each.latency_ms[percentile] for each in self.others)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        plain = {**vars(self), "config": self.config.to_dict(), "bundle": str(self.bundle)}
        plain["others"] = [dict(vars(each)) for each in self.others]
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FrontMember:
        """Build from what `to_dict` gave."""
        plain = dict(values)
        plain["config"] = CompressionConfig.from_dict(plain["config"])
        plain["bundle"] = Path(plain["bundle"])
        plain["others"] = tuple(OnTarget(**each) for each in plain.get("others", ()))
        return cls(**plain)


@dataclass(frozen=True)
class SearchOutcome:
    """The end of a search.

    Attributes:
        study: its name.
        folder: where everything lies.
        front: the confirmed front, fastest first; empty where nothing was feasible.
        nearest_miss: one line where nothing was feasible: which model, how far, what to relax.
        seconds: wall time by phase, over all runs of the study.
        trials: how many are ``complete``, ``pruned`` and ``failed``.
    """

    study: str
    folder: Path
    front: tuple[FrontMember, ...]
    nearest_miss: str
    seconds: Mapping[str, float]
    trials: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """The last line of ``search --json``."""
        return {
            "event": "done",
            "study": self.study,
            "front": [member.to_dict() for member in self.front],
            "seconds": dict(self.seconds),
            "trials": dict(self.trials),
            **({"nearest_miss": self.nearest_miss} if self.nearest_miss else {}),
        }


def still_on_front(members: Sequence[FrontMember], constraints: Constraints, percentile: str) -> list[FrontMember]:
    """Those that no other one beats and that keep the limits by what was confirmed, fastest first."""
    slowest = math.inf if constraints.max_latency_ms is None else constraints.max_latency_ms
    lowest = constraints.min_dice or 0.0
    kept = [each for each in members if max(each.latencies_ms(percentile)) <= slowest and each.dice >= lowest]
    return non_dominated(kept, lambda each: [*each.latencies_ms(percentile), -each.dice])


SHOWN_MISSES = 3
"""How many models are named when nothing is feasible."""


@dataclass(frozen=True)
class _Miss:
    """A model that is not feasible.

    Attributes:
        result: the trial.
        excess: by how much it misses each constraint that it misses.
        relative: the largest of them, relative to its limit.
    """

    result: TrialResult
    excess: Mapping[str, float]
    relative: float


def nearest_miss(results: Sequence[TrialResult], constraints: Constraints, percentile: str) -> str:
    """One line on the models that came nearest to being feasible, on the constraint that binds, and what to relax.

    The nearest are those whose largest excess, relative to its limit, is smallest; models that were judged by both
    objectives come before those that were refused for their latency alone. The constraint that binds is the one that
    most of them miss.
    """
    limits = {name: value for name, value in constraints.model_dump().items() if value is not None}
    misses = []
    for result in results:
        excess = {name: value for name, value in violations(result, constraints, percentile).items() if value > 0}
        if excess:
            relative = max(value / max(abs(limits[name]), 1e-9) for name, value in excess.items())
            misses.append(_Miss(result, excess, relative))
    if not misses:
        reasons = [result.reason for result in results if result.reason]
        hint = f"; the last one: {reasons[-1]}" if reasons else "; raise --budget"
        return f"no trial could be judged ({len(results)} tried){hint}"
    misses.sort(key=lambda each: (each.result.state != "complete", each.relative))
    nearest, *others = misses[:SHOWN_MISSES]
    relax = []
    for name, value in nearest.excess.items():
        _, factor, flag = LIMITS[name]
        reached = limits[name] - value if name == "min_dice" else limits[name] + value
        # Rounded towards what this model keeps.
        rounded = int(reached * factor * 10) / 10 + (0.1 if name != "min_dice" else 0.0)
        relax.append(f"{flag} {rounded:g}{mega(name)}")
    further = f"; next {', '.join(_told(each, limits) for each in others)}" if others else ""
    return (
        f"nothing feasible; nearest miss is {_told(nearest, limits)}; {_binding(misses)}{further}; "
        f"relax to {' '.join(relax)}, or raise --budget"
    )


def _told(miss: _Miss, limits: Mapping[str, float]) -> str:
    said = []
    for name, value in miss.excess.items():
        unit, factor, flag = LIMITS[name]
        limit = limits[name]
        reached = limit - value if name == "min_dice" else limit + value
        direction = "below" if name == "min_dice" else "above"
        said.append(
            f"{reached * factor:.2f} {unit}, {value * factor:.2f} {direction} {flag} {limit * factor:g}{mega(name)}"
        )
    judged = "" if miss.result.state == "complete" else " (not trained)"
    return f"trial {miss.result.number} ({miss.result.config.label}){judged}: {'; '.join(said)}"


def _binding(misses: Sequence[_Miss]) -> str:
    """Which constraint binds: the one that most models miss; of equals the one that is missed by most."""
    names = list(dict.fromkeys(name for each in misses for name in each.excess))

    def weight(name: str) -> tuple[int, float]:
        missing = [each for each in misses if name in each.excess]
        return len(missing), sum(each.relative for each in missing)

    binding = max(names, key=weight)
    count = weight(binding)[0]
    return f"{LIMITS[binding][2]} binds, which {count} of {len(misses)} infeasible models miss"
