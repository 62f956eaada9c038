"""How a search ended: the front as people and programs want it, or the nearest miss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """Those that no other one beats by the confirmed latencies and that keep ``max_latency_ms``, fastest first."""
    limit = constraints.max_latency_ms
    kept = [each for each in members if limit is None or max(each.latencies_ms(percentile)) <= limit]
    return non_dominated(kept, lambda each: [*each.latencies_ms(percentile), -each.dice])


def nearest_miss(results: Sequence[TrialResult], constraints: Constraints, percentile: str) -> str:
    """One line on the model that came nearest to being feasible, and on what to relax.

    The nearest is the one whose largest excess, relative to its limit, is smallest; models that were judged by both
    objectives come before those that were refused for their latency alone.
    """
    limits = {name: value for name, value in constraints.model_dump().items() if value is not None}
    ranked: list[tuple[bool, float, TrialResult, dict[str, float]]] = []
    for result in results:
        excess = {name: value for name, value in violations(result, constraints, percentile).items() if value > 0}
        if excess:
            relative = max(value / max(abs(limits[name]), 1e-9) for name, value in excess.items())
            ranked.append((result.state != "complete", relative, result, excess))
    if not ranked:
        reasons = [result.reason for result in results if result.reason]
        hint = f"; the last one: {reasons[-1]}" if reasons else "; raise --budget"
        return f"no trial could be judged ({len(results)} tried){hint}"
    _, _, result, excess = min(ranked, key=lambda each: each[:2])
    said, relax = [], []
    for name, value in excess.items():
        unit, factor, flag = LIMITS[name]
        limit = limits[name]
        reached = limit - value if name == "min_dice" else limit + value
        direction = "below" if name == "min_dice" else "above"
        said.append(
            f"{reached * factor:.2f} {unit}, {value * factor:.2f} {direction} {flag} {limit * factor:g}{mega(name)}"
        )
        # Rounded towards what this model keeps.
        rounded = int(reached * factor * 10) / 10 + (0.1 if name != "min_dice" else 0.0)
        relax.append(f"{flag} {rounded:g}{mega(name)}")
    judged = "" if result.state == "complete" else " (not trained)"
    return (
        f"nothing feasible; nearest miss is trial {result.number} ({result.config.label}){judged}: {'; '.join(said)}; "
        f"relax to {' '.join(relax)}, or raise --budget"
    )
