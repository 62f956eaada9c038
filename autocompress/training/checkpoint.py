"""The state of a training that pauses, as one file: tensors by safetensors, the rest as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from autocompress.errors import DataError
from autocompress.paths import write_bytes

FORMAT = "autocompress-training/1"


@dataclass(frozen=True)
class Pause:
    """Where a training keeps its state, and when it pauses.

    Attributes:
        path: the file. Where it exists, the training goes on from it; it is written when the training pauses.
        at: share of the budget, 0 to 1, at which to pause; None goes on to the end.
    """

    path: Path
    at: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """The state of a paused training.

    Attributes:
        tensors: network, optimiser, random numbers, pruning, by name.
        values: counters and the state of NumPy's generator, as JSON has them.
    """

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors whose names begin with ``name/``, without it."""
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def save(self, path: Path) -> None:
        """Write the file in one step: a reader finds the old state or the new one."""
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in self.tensors.items()}
        write_bytes(path, save(tensors, {"format": FORMAT, "values": json.dumps(self.values)}))

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read what `save` wrote.

        Raises:
            DataError: the file is damaged, or of another kind.
        """
        try:
            with safe_open(path, "pt") as stream:
                header = stream.metadata() or {}
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a mapping
            if header.get("format") != FORMAT:
                raise DataError(f"{path} holds no paused training ({FORMAT}); delete it")
            return cls(tensors, json.loads(header["values"]))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"{path} is damaged ({error}); delete it") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser of which every entry is a tensor, such as AdamW's, by ``INDEX/NAME``."""
    state = optimizer.state_dict()["state"]
    return {f"{index}/{name}": value for index, entries in state.items() for name, value in entries.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave; the groups and their settings stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
