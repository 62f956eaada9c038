"""How a search ended: the front as people and programs want it, or the nearest miss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.config import CompressionConfig
from autocompress.search.driver import violations
from autocompress.search.records import TrialResult
from autocompress.specs.schemas import Constraints

_UNITS: Mapping[str, tuple[str, float, str]] = {
    # constraint -> (what it limits, factor into the unit of the flag, flag)
    "min_dice": ("Dice", 1.0, "--min-dice"),
    "max_latency_ms": ("ms", 1.0, "--max-latency"),
    "max_memory_bytes": ("MB of memory", 1e-6, "--max-memory"),
    "max_size_bytes": ("MB of file", 1e-6, "--max-size"),
}


@dataclass(frozen=True)
class FrontMember:
    """One model of the front.

    Attributes:
        trial: number of the trial.
        config: its configuration.
        dice: mean Dice in percent on the validation volumes.
        dice_test: the same on the test volumes; None where the data set has none.
        latency_ms: ``p50``, ``p90`` and ``p99`` of the confirmation.
        measured: False where the latency is predicted.
        engine: by which it was measured.
        parameters, gmacs, size_bytes: of the network and of the exported file.
        bundle: folder of the bundle.
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**vars(self), "config": self.config.to_dict(), "bundle": str(self.bundle)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FrontMember:
        """Build from what `to_dict` gave."""
        plain = dict(values)
        plain["config"] = CompressionConfig.from_dict(plain["config"])
        plain["bundle"] = Path(plain["bundle"])
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
    kept: list[FrontMember] = []
    for member in sorted(members, key=lambda each: (each.latency_ms[percentile], -each.dice)):
        slow = limit is not None and member.latency_ms[percentile] > limit
        if not slow and (not kept or member.dice > kept[-1].dice):
            kept.append(member)
    return kept


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
        unit, factor, flag = _UNITS[name]
        limit = limits[name]
        reached = limit - value if name == "min_dice" else limit + value
        direction = "below" if name == "min_dice" else "above"
        mega = "MB" if name.endswith("_bytes") else ""
        said.append(f"{reached * factor:.2f} {unit}, {value * factor:.2f} {direction} {flag} {limit * factor:g}{mega}")
        # Rounded towards what this model keeps.
        rounded = int(reached * factor * 10) / 10 + (0.1 if name != "min_dice" else 0.0)
        relax.append(f"{flag} {rounded:g}{mega}")
    judged = "" if result.state == "complete" else " (not trained)"
    return (
        f"nothing feasible; nearest miss is trial {result.number} ({result.config.label}){judged}: {'; '.join(said)}; "
        f"relax to {' '.join(relax)}, or raise --budget"
    )
