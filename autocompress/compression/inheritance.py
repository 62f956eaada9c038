"""Weights that flow from a trained parent network to a student of another shape.

Every axis of every tensor belongs to one or more *spaces*: sets of channels that must be chosen together, such as the
residual stream of a level. A family says which (`Axis`); this module chooses the channels of each space by importance
and slices the tensors. A space that is larger in the student is filled with copies of channels, whose readers share
the weight, so that the function stays the same where the copies are even.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Origin = Literal["copied", "sliced", "widened", "embedded", "folded", "composed", "initialised"]
ORIGINS: tuple[Origin, ...] = ("copied", "sliced", "widened", "embedded", "folded", "composed", "initialised")


@dataclass(frozen=True)
class InheritedTensor:
    """Where one tensor of the student came from.

    Attributes:
        name: of the parameter.
        origin: ``copied`` as it was; ``sliced`` (channels left out); ``widened`` (channels repeated); ``embedded``
            (depthwise kernel in a dense one); ``folded`` (diagonal of a dense kernel); ``composed`` of several
            tensors of the parent; ``initialised`` without a source.
        parameters: how many numbers it holds.
    """

    name: str
    origin: Origin
    parameters: int


@dataclass(frozen=True)
class InheritanceReport:
    """What the student took from its parent.

    Attributes:
        tensors: one entry for each parameter of the student.
    """

    tensors: tuple[InheritedTensor, ...]

    @property
    def shares(self) -> dict[Origin, float]:
        """Share of the student's parameters by origin, 0 to 1; the shares sum to 1."""
        total = max(1, sum(tensor.parameters for tensor in self.tensors))
        return {
            origin: sum(tensor.parameters for tensor in self.tensors if tensor.origin == origin) / total
            for origin in ORIGINS
        }

    @property
    def inherited_share(self) -> float:
        """Share of the student's parameters that have a source in the parent."""
        return 1.0 - self.shares["initialised"]

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON: shares by origin, and the names of the tensors without a source."""
        return {
            "shares": dict(self.shares),
            "initialised": [tensor.name for tensor in self.tensors if tensor.origin == "initialised"],
        }


@dataclass(frozen=True)
class Space:
    """A set of channels that are kept or dropped together.

    Attributes:
        size: number of channels.
        groups: heads that each keep the same number of channels.
    """

    size: int
    groups: int = 1


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor: the spaces that lie along it one after the other.

    Attributes:
        spaces: names of spaces; the same one may occur several times.
        reads: the tensor sums over this axis (inputs of a linear layer), so that copies of a channel share the weight.
    """

    spaces: tuple[str, ...]
    reads: bool = False


# For each parameter the meaning of its axes; None is an axis that is taken whole, such as a kernel's height.
Axes = Mapping[str, tuple[Axis | None, ...]]


def writes(*spaces: str) -> Axis:
    """An output axis."""
    return Axis(spaces)


def reads(*spaces: str) -> Axis:
    """An input axis."""
    return Axis(spaces, reads=True)


@dataclass(frozen=True)
class Choice:
    """Channels of the parent that make up a space of the student.

    Attributes:
        index: for each channel of the student its channel in the parent.
        share: for each channel of the student its share of the parent channel's readers; 1 where it has no copies.
    """

    index: Tensor
    share: Tensor


def importance(space: str, tensors: Mapping[str, Tensor], axes: Axes, spaces: Mapping[str, Space]) -> Tensor:
    """How much each channel of a space matters: what is written to it times what is read from it.

    Each tensor's squares are first divided by their mean, so that large layers do not outvote the others.

    Args:
        space: name of the space.
        tensors: the parent's parameters.
        axes: the meaning of their axes.
        spaces: the parent's spaces.

    Returns:
        One positive number a channel.
    """
    written: list[Tensor] = []
    read: list[Tensor] = []
    for name, tensor_axes in axes.items():
        for position, axis in enumerate(tensor_axes):
            if axis is None or space not in axis.spaces or name.endswith("bias"):
                continue  # a bias says nothing about the signal
            tensor = tensors[name].detach().float()
            others = [d for d in range(tensor.dim()) if d != position]
            energy = tensor.square().mean(dim=others) if others else tensor.square()
            for part, other in zip(energy.split([spaces[s].size for s in axis.spaces]), axis.spaces, strict=True):
                if other == space:
                    # The gain of a normalisation scales what is read.
                    target = read if axis.reads or tensor.dim() == 1 else written
                    target.append(part / part.mean().clamp_min(1e-30))
    result = torch.ones(spaces[space].size)
    for energies in (written, read):
        if energies:
            result = result * torch.stack(energies).mean(dim=0)
    return result


def choose(score: Tensor, parent: Space, student: Space, generator: torch.Generator) -> Choice:
    """Choose the parent's channels for a space of the student: the most important ones, in their old order.

    Args:
        score: importance of each channel of the parent.
        parent: the space in the parent.
        student: the space in the student, in as many groups.
        generator: splits the readers' weights unevenly between copies, so that training can tell the copies apart.
    """
    before, after = parent.size // parent.groups, student.size // student.groups
    index: list[Tensor] = []
    for group in range(parent.groups):
        ranking = score[group * before : (group + 1) * before].argsort(descending=True, stable=True)
        copies, rest = divmod(after, before)
        kept = torch.cat([torch.arange(before)] * copies + [ranking[:rest].sort().values])
        index.append(kept + group * before)
    flat = torch.cat(index)
    raw = 1.0 + 0.5 * torch.rand(flat.numel(), generator=generator)
    total = torch.zeros(parent.size).index_add(0, flat, raw)
    copied = torch.bincount(flat, minlength=parent.size)[flat] > 1
    return Choice(flat, torch.where(copied, raw / total[flat], torch.ones(())))


def take(
    tensor: Tensor, axes: tuple[Axis | None, ...], parent: Mapping[str, Space], choices: Mapping[str, Choice]
) -> Tensor:
    """Slice or widen a tensor of the parent along all of its axes."""
    for position, axis in enumerate(axes):
        if axis is None:
            continue
        offsets, offset = [], 0
        for space in axis.spaces:
            offsets.append(offset)
            offset += parent[space].size
        index = torch.cat([choices[s].index + o for s, o in zip(axis.spaces, offsets, strict=True)])
        tensor = tensor.index_select(position, index)
        if axis.reads:
            share = torch.cat([choices[s].share for s in axis.spaces])
            tensor = tensor * share.view([-1 if d == position else 1 for d in range(tensor.dim())])
    return tensor


def origin_of(before: Tensor, after: Tensor) -> Origin:
    """How `take` changed a tensor."""
    if before.shape == after.shape and torch.equal(before, after):
        return "copied"
    return "widened" if after.numel() > before.numel() else "sliced"


def report(student: nn.Module, origins: Mapping[str, Origin]) -> InheritanceReport:
    """The report on a student; parameters that ``origins`` does not name were initialised."""
    return InheritanceReport(
        tuple(
            InheritedTensor(name, origins.get(name, "initialised"), parameter.numel())
            for name, parameter in student.named_parameters()
        )
    )
