"""DAE-Former, a U-shaped pure transformer (R. Azad et al., arXiv 2212.13504), for any compression configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from autocompress.config import CompressionConfig, Grouping
from autocompress.errors import ConfigError
from autocompress.models import blocks
from autocompress.models.registry import ExportForm, FeatureStage, ModelFamily, register_family

if TYPE_CHECKING:
    from autocompress.compression.inheritance import InheritanceReport

PUBLISHED_CHANNELS = (128, 320, 512)


@dataclass(frozen=True)
class Shape:
    """What a configuration means for DAE-Former.

    Attributes:
        channels: of each level, from the outermost; multiples of 8, as channel attention has 8 heads, and at least
            16: a head of one channel has nothing to attend to, and its weights would never learn.
        hidden: of the MixFFNs of each level.
        grouping: of the 3x3 convolution in the MixFFNs.
    """

    channels: tuple[int, ...]
    hidden: tuple[int, ...]
    grouping: Grouping

    @classmethod
    def of(cls, config: CompressionConfig) -> Shape:
        """The shape that a configuration asks for; ``channel`` pruning shortens the hidden layers."""
        channels = tuple(
            max(2 * blocks.HEADS, _multiple_of_8(c * config.width)) for c in PUBLISHED_CHANNELS[: config.levels]
        )
        kept = 1 - config.prune_ratio if config.prune_pattern == "channel" else 1.0
        hidden = tuple(_multiple_of_8(kept * blocks.EXPANSION * c) for c in channels)
        return cls(channels, hidden, config.grouping)


class DAEFormer(nn.Module):
    """The network. Only what runs is built: each parameter takes part in the output.

    The innermost level has no decoder blocks, and with one level there is no skip and no cross-attention:
    the encoder's map is expanded straight to the pixels.

    Args:
        shape: channels and hidden channels by level.
        in_channels: of the input; 1 is repeated to 3, as published, any other number is embedded as it is.
        num_classes: of the output, at least 1.
    """

    def __init__(self, shape: Shape, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.shape = shape
        self.in_channels = in_channels
        channels, hidden, grouping = shape.channels, shape.hidden, shape.grouping
        levels = len(channels)
        sources = (3 if in_channels == 1 else in_channels, *channels)
        self.encoder = nn.ModuleList(
            blocks.EncoderStage(sources[i], channels[i], hidden[i], grouping, first=i == 0) for i in range(levels)
        )
        # Indexed by level, as the encoder: expand[i] leads from level i + 1 to level i.
        self.expand = nn.ModuleList(blocks.PatchExpand(c, c // 2, factor=2) for c in channels[1:])
        self.decoder = nn.ModuleList(
            blocks.DecoderStage(channels[i + 1] // 2, channels[i], hidden[i], grouping) for i in range(levels - 1)
        )
        self.expand_to_pixels = blocks.PatchExpand(channels[0], channels[0], factor=4)
        self.classify = nn.Linear(channels[0], num_classes)
        self.apply(blocks.initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Logits.

        Args:
            image: B x in_channels x H x W, sides being multiples of the total stride.

        Returns:
            B x num_classes x H x W.
        """
        return self.features(image)[0]

    def features(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits and the maps of the encoder (B x H_i x W_i x C_i, from the outermost level), for distillation."""
        if self.in_channels == 1:
            image = image.repeat(1, 3, 1, 1)
        skips: list[Tensor] = []
        for stage in self.encoder:
            image = stage(image if not skips else blocks.as_image(skips[-1]))
            skips.append(image)
        x = skips[-1]
        for expand, decoder, skip in zip(
            reversed(self.expand), reversed(self.decoder), reversed(skips[:-1]), strict=True
        ):
            x = decoder(expand(x), skip)
        logits = self.classify(self.expand_to_pixels(x))
        return blocks.as_image(logits).contiguous(), skips

    def export_form(self, form: ExportForm, resolution: int) -> nn.Module:
        """The same function for one image in another form of operators; see `dae_former_export`.

        Raises:
            ConfigError: the resolution is no multiple of the total stride.
        """
        from autocompress.models.dae_former_export import ChannelsFirstForm, TokensForm, half_form

        stride = 4 * 2 ** (len(self.shape.channels) - 1)
        if resolution % stride:
            raise ConfigError(f"resolution {resolution} is no multiple of {stride}, the total stride of the network")
        if form == "plain":
            return self
        if form == "half":
            return half_form(self)
        # Forms are built from constants: no gradient leads back to this network.
        with torch.no_grad():
            return TokensForm(self, resolution) if form == "tokens" else ChannelsFirstForm(self)


@register_family
class DAEFormerFamily(ModelFamily):
    """DAE-Former for the registry."""

    name = "dae-former"
    description = "U-shaped pure transformer with dual attention (arXiv 2212.13504); 128/320/512 channels at width 1"
    levels = (1, 2, 3)
    groupings = ("depthwise", "dense")
    prune_patterns = ("none", "unstructured", "channel")

    def stride(self, levels: int) -> int:
        return 4 * 2 ** (levels - 1)

    def build(self, config: CompressionConfig, in_channels: int, num_classes: int) -> nn.Module:
        self.check(config)
        if in_channels < 1 or num_classes < 1:
            raise ConfigError(f"in_channels {in_channels} and num_classes {num_classes} must be at least 1")
        return DAEFormer(Shape.of(config), in_channels, num_classes)

    def feature_stages(self, model: nn.Module) -> tuple[FeatureStage, ...]:
        # Before the stage's LayerNorm: behind it every pixel has nearly the same energy, and the map says nothing.
        levels = len(list(model.get_submodule("encoder").children()))
        return tuple(FeatureStage(f"encoder.{level}.blocks.1", channel_axis=-1) for level in range(levels))

    def inherit(
        self, student: nn.Module, student_config: CompressionConfig, parent: nn.Module, parent_config: CompressionConfig
    ) -> InheritanceReport:
        from autocompress.models.dae_former_inheritance import inherit

        return inherit(student, student_config, parent, parent_config)

    def prunable(self, model: nn.Module) -> tuple[str, ...]:
        # Depthwise kernels are 0.5 % of the weights, matter most, and no engine gains from zeros in them.
        return tuple(
            f"{name}.weight"
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        )


def _multiple_of_8(value: float) -> int:
    return max(8, round(value / 8) * 8)
