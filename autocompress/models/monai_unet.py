"""MONAI's residual U-Net (T. Falk et al. 2019; E. Kerfoot et al. 2018) as a second model family."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from autocompress.config import CompressionConfig
from autocompress.errors import ConfigError
from autocompress.models.registry import ModelFamily, register_family

if TYPE_CHECKING:
    from autocompress.compression.inheritance import Axis, Choice, InheritanceReport, Origin, Space

# MONAI's usual channels; a network of n levels halves the resolution n times and uses the first n + 1.
REFERENCE_CHANNELS = (32, 64, 128, 256, 512)


@register_family
class UNetFamily(ModelFamily):
    """MONAI's U-Net for the registry: two residual units a level, instance normalisation, PReLU.

    Its convolutions have no grouping to remove and it has no hidden layers to shorten, so that only the grouping
    ``dense`` and single weights as pruning pattern are offered.
    """

    name = "unet"
    description = "MONAI's residual U-Net; 32 to 512 channels at width 1"
    levels = (2, 3, 4)
    groupings = ("dense",)
    prune_patterns = ("none", "unstructured")

    def stride(self, levels: int) -> int:
        return int(2**levels)

    def build(self, config: CompressionConfig, in_channels: int, num_classes: int) -> nn.Module:
        self.check(config)
        if in_channels < 1 or num_classes < 1:
            raise ConfigError(f"in_channels {in_channels} and num_classes {num_classes} must be at least 1")
        from monai.networks.nets import UNet

        channels = [max(8, round(c * config.width / 8) * 8) for c in REFERENCE_CHANNELS[: config.levels + 1]]
        return UNet(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=num_classes,
            channels=channels,
            strides=(2,) * config.levels,
            num_res_units=2,
        )

    def prunable(self, model: nn.Module) -> tuple[str, ...]:
        return tuple(
            f"{name}.weight"
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        )

    def inherit(
        self, student: nn.Module, student_config: CompressionConfig, parent: nn.Module, parent_config: CompressionConfig
    ) -> InheritanceReport:
        from monai.networks.nets import UNet

        if not isinstance(student, UNet) or not isinstance(parent, UNet):
            raise ConfigError("a U-Net inherits from a U-Net; give a parent of the same family")
        student_ends, parent_ends = _ends(student), _ends(parent)
        if student_ends != parent_ends:
            raise ConfigError(
                f"the student has (input channels, classes) {student_ends} and the parent {parent_ends}; "
                "train a parent for this data"
            )
        with torch.no_grad():
            return _transfer(student, student_config.levels, parent, parent_config.levels)


def _ends(model: nn.Module) -> tuple[int, int]:
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    return int(convolutions[0].in_channels), int(convolutions[-1].out_channels)


def _transfer(student: nn.Module, levels: int, parent: nn.Module, parent_levels: int) -> InheritanceReport:
    from autocompress.compression import inheritance

    sources = {_canonical(name, parent_levels): p.detach() for name, p in parent.named_parameters()}
    targets = {_canonical(name, levels): (name, p) for name, p in student.named_parameters()}
    axes, student_axes = _axes(sources, parent_levels), _axes(targets, levels)
    spaces = _spaces(sources, axes)
    student_spaces = _spaces({name: p for name, (_, p) in targets.items()}, student_axes)
    generator = torch.Generator().manual_seed(0)
    choices: dict[str, Choice] = {}
    for space, size in spaces.items():
        if space in student_spaces:
            score = inheritance.importance(space, sources, axes, spaces)
            choices[space] = inheritance.choose(score, size, student_spaces[space], generator)

    origins: dict[str, Origin] = {}
    for name, (own_name, parameter) in targets.items():
        if name not in sources:
            continue
        source = sources[name]
        if axes[name] != student_axes[name]:
            # The decoder of the innermost common level: what it reads from below means something else in the two
            # networks. It keeps what it reads from the skip and starts without the rest.
            skip = axes[name][0].spaces[0]  # type: ignore[union-attr]
            own = (inheritance.reads(skip), *axes[name][1:])
            value = torch.zeros_like(parameter)
            kept = inheritance.take(source[: spaces[skip].size], own, spaces, choices)
            value[: kept.shape[0]] = kept
            origin: Origin = "sliced"
        else:
            value = inheritance.take(source, axes[name], spaces, choices)
            origin = inheritance.origin_of(source, value)
        if value.shape != parameter.shape:
            # A residual convolution is 1 x 1 in the bottom level and 3 x 3 where it also halves the resolution.
            origin = "embedded" if value.shape[-1] == 1 else "folded"
            value = nn.functional.pad(value, (1, 1, 1, 1)) if value.shape[-1] == 1 else value[:, :, 1:2, 1:2]
        parameter.copy_(value)
        origins[own_name] = origin
    return inheritance.report(student, origins)


def _canonical(name: str, levels: int) -> str:
    """``downN...`` or ``upN...`` for MONAI's nested names; the bottom level is the innermost ``down``."""
    depth = name.count(".submodule")
    rest = re.sub(r"^model(\.1\.submodule)*\.", "", name)
    if depth == levels:
        return f"down{depth}.{rest}"
    part, rest = rest.split(".", 1)
    return f"{'down' if part == '0' else 'up'}{depth}.{rest}"


def _axes(names: dict[str, Tensor] | dict[str, tuple[str, Tensor]], levels: int) -> dict[str, tuple[Axis | None, ...]]:
    from autocompress.compression.inheritance import reads, writes

    axes: dict[str, tuple[Axis | None, ...]] = {}
    for name in names:
        path, layer = name.split(".", 1)
        depth = int(re.sub(r"\D", "", path))
        source: Axis | None
        out: Axis | None
        if path.startswith("down"):
            middle = f"middle{depth}"
            outer = reads(f"skip{depth - 1}") if depth else None
            source = reads(middle) if layer.startswith("conv.unit1") else outer
            out = writes(middle if layer.startswith("conv.unit0") else f"skip{depth}")
        else:
            below = f"up{depth + 1}" if depth + 1 < levels else f"skip{levels}"
            out = writes(f"up{depth}") if depth else None
            source = reads(f"skip{depth}", below) if layer.startswith("0.") else out and reads(f"up{depth}")
        if ".adn." in name:
            axes[name] = (None,)  # PReLU has one slope for all channels
        elif name.endswith("bias"):
            axes[name] = (out,)
        elif path.startswith("up") and layer.startswith("0."):
            axes[name] = (source, out, None, None)  # a transposed convolution has its inputs first
        else:
            axes[name] = (out, source, None, None)
    return axes


def _spaces(tensors: dict[str, Tensor], axes: dict[str, tuple[Axis | None, ...]]) -> dict[str, Space]:
    from autocompress.compression.inheritance import Space

    return {
        axis.spaces[0]: Space(tensors[name].shape[position])
        for name, tensor_axes in axes.items()
        for position, axis in enumerate(tensor_axes)
        if axis is not None and not axis.reads
    }
