"""The compression configuration: one point of the search, and the value that every part of the package shares."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from autocompress.errors import ConfigError

Grouping = Literal["depthwise", "dense"]
PrunePattern = Literal["none", "unstructured", "channel"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]

GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)
PRUNE_PATTERNS: tuple[PrunePattern, ...] = get_args(PrunePattern)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
MIN_RESOLUTION, MAX_RESOLUTION = 32, 512
MAX_PRUNE_RATIO = 0.99


@dataclass(frozen=True)
class CompressionConfig:
    """The steps A to D of Embedded-ViT as one frozen, hashable value.

    Attributes:
        resolution: side of the square network input in pixels, 32 to 512 (step A). The model family
            further demands a multiple of its total stride.
        levels: encoder (and decoder) levels of the U (step B).
        width: channels relative to the family's published network, above 0 and at most 4.
        grouping: ``depthwise`` keeps the grouped convolutions, ``dense`` removes the grouping (step B).
        prune_ratio: share of the prunable weights or channels that is removed, 0 to 0.99 (step C).
        prune_pattern: ``none`` (ratio 0), ``unstructured`` (single weights become zero) or ``channel``
            (whole hidden channels leave the network, which becomes really smaller).
        precision: number format of the exported model (step D).

    Raises:
        ConfigError: a value is of the wrong type, out of range, or contradicts another one.
    """

    resolution: int
    levels: int = 2
    width: float = 1.0
    grouping: Grouping = "depthwise"
    prune_ratio: float = 0.0
    prune_pattern: PrunePattern = "none"
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        for name in ("resolution", "levels"):
            _check_integer(name, getattr(self, name))
        for name in ("width", "prune_ratio"):
            # 1 and 1.0 must be one configuration with one identifier.
            object.__setattr__(self, name, _finite(name, getattr(self, name)))
        if not MIN_RESOLUTION <= self.resolution <= MAX_RESOLUTION:
            raise ConfigError(f"resolution {self.resolution} is outside {MIN_RESOLUTION} to {MAX_RESOLUTION} pixels")
        if self.levels < 1:
            raise ConfigError(f"levels {self.levels} is below 1")
        if not 0 < self.width <= 4:
            raise ConfigError(f"width {self.width} is outside (0, 4]; 1.0 is the published network")
        for name, allowed in (("grouping", GROUPINGS), ("prune_pattern", PRUNE_PATTERNS), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} {getattr(self, name)!r} is not one of {', '.join(allowed)}")
        if not 0 <= self.prune_ratio <= MAX_PRUNE_RATIO:
            raise ConfigError(
                f"prune_ratio {self.prune_ratio} is outside 0 to {MAX_PRUNE_RATIO}: nothing would be left"
            )
        if (self.prune_pattern == "none") != (self.prune_ratio == 0):
            raise ConfigError(
                f"prune_ratio {self.prune_ratio} contradicts prune_pattern {self.prune_pattern!r}: "
                "a ratio above 0 needs the pattern unstructured or channel, and the reverse"
            )

    @property
    def identifier(self) -> str:
        """Twelve hexadecimal digits that depend on the values alone: equal on every machine and run."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        """Short text for people, such as ``64px L2 w0.25 depthwise unstructured 0.8 fp32``."""
        pruning = "" if self.prune_pattern == "none" else f" {self.prune_pattern} {self.prune_ratio:g}"
        return f"{self.resolution}px L{self.levels} w{self.width:g} {self.grouping}{pruning} {self.precision}"

    def dense(self) -> CompressionConfig:
        """The network of the same shape without unstructured pruning, as engines see it that do not skip zeros."""
        if self.prune_pattern != "unstructured":
            return self
        return replace(self, prune_pattern="none", prune_ratio=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is the way back."""
        return {each.name: getattr(self, each.name) for each in fields(self)}  # flat, so ten times as fast as `asdict`

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CompressionConfig:
        """Build from plain values.

        Raises:
            ConfigError: a name is unknown, ``resolution`` is missing, or a value is invalid.
        """
        names = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - names)
        if unknown:
            raise ConfigError(f"unknown configuration field {unknown[0]!r}; known are {', '.join(sorted(names))}")
        if "resolution" not in values:
            raise ConfigError("the configuration lacks its resolution")
        return cls(**values)


def _check_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} must be a whole number, not {value!r}")


def _finite(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number, not {value!r}")
    return float(value)
