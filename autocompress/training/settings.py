"""Settings of one training, as plain values that a YAML file can carry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from autocompress.errors import ConfigError

Bf16 = Literal["auto", "on", "off"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class TrainSettings:
    """How to train; exactly one of ``seconds`` and ``steps`` is the budget.

    Attributes:
        seconds: budget in seconds of training; time spent waiting for a measurement to end does not count.
        steps: budget in optimiser steps; with it the same seed gives the same weights on the same machine.
        batch_size: slices per step.
        learning_rate: peak of the schedule (linear warm-up, then cosine decay to zero at the end of the budget).
        weight_decay: of matrices and kernels only; biases, norms and temperatures are left alone.
        warmup: share of the budget that the warm-up takes, 0 to 0.5.
        clip: largest norm of the gradient of all weights together.
        dice_weight: weight of the Dice loss beside cross-entropy, at least 0.
        seed: of the order of the slices and of the augmentation.
        augment: small rotations, scalings, shifts and changes of contrast; never a flip unless asked for.
        flip_horizontal, flip_vertical: mirror half of the slices. Off by default: organs have a side.
        distill_weight: share of the cross-entropy that the teacher's logits take over, 0 to 1, where there is one.
        feature_weight: weight of the distance between the student's and the teacher's maps of their encoder stages
            (`autocompress.training.distillation.attention_loss`), 0 to 10, where the teacher has such maps.
        temperature: softening of teacher's and student's logits, at least 1.
        bf16: run the network's matrix products in bfloat16: ``on``, ``off``, or ``auto`` for where it is faster.
        threads: CPU threads; None leaves PyTorch's own setting.
        device: ``auto`` takes the GPU where there is one.

    Raises:
        ConfigError: a value is out of range, or the budget is missing or given twice.
    """

    seconds: float | None = None
    steps: int | None = None
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    clip: float = 1.0
    dice_weight: float = 1.0
    seed: int = 0
    augment: bool = True
    flip_horizontal: bool = False
    flip_vertical: bool = False
    distill_weight: float = 0.5
    feature_weight: float = 0.0
    temperature: float = 1.0
    bf16: Bf16 = "auto"
    threads: int | None = None
    device: Device = "auto"

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.steps is None):
            raise ConfigError("the training budget needs exactly one of seconds and steps")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and low <= value <= high):
                raise ConfigError(f"training setting {name} {value!r} is outside {low:g} to {high:g}")
        for name in ("steps", "batch_size", "seed", "threads"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, int):
                raise ConfigError(f"training setting {name} must be a whole number, not {value!r}")
        for name in ("augment", "flip_horizontal", "flip_vertical"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"training setting {name} must be true or false, not {getattr(self, name)!r}")
        for name, allowed in (("bf16", get_args(Bf16)), ("device", get_args(Device))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"training setting {name} {getattr(self, name)!r} is not one of {', '.join(allowed)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainSettings:
        """Build from plain values.

        Raises:
            ConfigError: a name is unknown or a value is invalid.
        """
        names = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise ConfigError(f"unknown training setting {unknown[0]!r}; known are {', '.join(names)}")
        return cls(**values)


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("seconds", 1e-3, 1e7),
    ("steps", 1, 1e9),
    ("batch_size", 1, 4096),
    ("learning_rate", 1e-8, 1.0),
    ("weight_decay", 0.0, 1.0),
    ("warmup", 0.0, 0.5),
    ("clip", 1e-6, 1e6),
    ("dice_weight", 0.0, 100.0),
    ("seed", 0, 2**63 - 1),
    ("distill_weight", 0.0, 1.0),
    ("feature_weight", 0.0, 10.0),
    ("temperature", 1.0, 100.0),
    ("threads", 1, 4096),
)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
