"""Building blocks of DAE-Former (R. Azad et al., arXiv 2212.13504), each thing computed once.

Maps are B x H x W x C. A convolution sees the same memory as a channels-last B x C x H x W tensor and a linear
layer as a row of tokens, so that no block has to copy its input into another layout.

Softmaxes and L2 norms are computed in float32 whatever autocast does: in bfloat16 the sums over thousands of tokens
lose the small weights, and training with them ends at a Dice of zero. LayerNorm needs no care: autocast leaves its
parameters in float32, and PyTorch accumulates its statistics in float32 for any type of input.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.config import Grouping

HEADS = 8
EXPANSION = 4
_NORM_FLOOR = 1e-6


def as_map(image: Tensor) -> Tensor:
    """B x C x H x W as B x H x W x C, the reverse of `as_image`; no copy."""
    return image.permute(0, 2, 3, 1)


def as_image(x: Tensor) -> Tensor:
    """B x H x W x C as a channels-last B x C x H x W tensor; no copy."""
    return x.permute(0, 3, 1, 2)


def shuffle(x: Tensor, factor: int) -> Tensor:
    """Pixel shuffle: B x H x W x (factor^2 C) to B x (factor H) x (factor W) x C; rows, then columns, then channels."""
    batch, height, width, channels = x.shape
    c = channels // factor**2
    x = x.reshape(batch, height, width, factor, factor, c).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height * factor, width * factor, c)


def attention_of_softmaxes(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Efficient attention of one head, linear in the number of tokens (Shen et al., WACV 2021).

    Args:
        queries: B x N x C, normalised here over the channels.
        keys: B x N x C, normalised here over the tokens.
        values: B x N x D.

    Returns:
        B x N x D.
    """
    context = F.softmax(keys, dim=1, dtype=torch.float32).transpose(1, 2) @ values.float()
    return F.softmax(queries, dim=2, dtype=torch.float32) @ context


class EfficientAttention(nn.Module):
    """Efficient attention with projections; ``qkv`` holds queries, keys and values, in this order."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.qkv(x.flatten(1, 2)).chunk(3, dim=2)
        return self.project(attention_of_softmaxes(queries, keys, values)).view_as(x)


class ChannelAttention(nn.Module):
    """Attention between the channels of each head (cross-covariance attention, Ali et al., NeurIPS 2021)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.temperature = nn.Parameter(torch.ones(HEADS, 1, 1))
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        # 3 x B x heads x (C / heads) x N
        qkv = self.qkv(x).view(batch, height * width, 3, HEADS, channels // HEADS).permute(2, 0, 3, 4, 1)
        queries, keys, values = qkv.unbind(0)
        # Dividing the small product by the norms equals normalising the long vectors first, and is cheaper.
        query_norm = queries.float().norm(dim=-1).clamp_min(_NORM_FLOOR)
        key_norm = keys.float().norm(dim=-1).clamp_min(_NORM_FLOOR)
        products = (queries @ keys.transpose(-1, -2)).float()
        scores = products / query_norm.unsqueeze(-1) / key_norm.unsqueeze(-2) * self.temperature
        mixed = F.softmax(scores, dim=-1, dtype=torch.float32) @ values.float()
        return self.project(mixed.permute(0, 3, 1, 2).reshape(batch, height, width, channels))


class MixFFN(nn.Module):
    """Feed-forward layer with a 3x3 convolution, its skip and a LayerNorm on the hidden channels."""

    def __init__(self, channels: int, hidden: int, grouping: Grouping) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, hidden)
        groups = hidden if grouping == "depthwise" else 1
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=groups)
        self.norm = nn.LayerNorm(hidden)
        self.reduce = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.expand(x)
        hidden = as_map(self.conv(as_image(hidden))) + hidden
        return self.reduce(F.gelu(self.norm(hidden)))


class DualBlock(nn.Module):
    """Efficient attention, then channel attention, each followed by a MixFFN: four pre-norm residuals."""

    def __init__(self, channels: int, hidden: int, grouping: Grouping) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = EfficientAttention(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn1 = MixFFN(channels, hidden, grouping)
        self.norm3 = nn.LayerNorm(channels)
        self.channel_attention = ChannelAttention(channels)
        self.norm4 = nn.LayerNorm(channels)
        self.ffn2 = MixFFN(channels, hidden, grouping)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        x = x + self.ffn1(self.norm2(x))
        x = x + self.channel_attention(self.norm3(x))
        return x + self.ffn2(self.norm4(x))


class EncoderStage(nn.Module):
    """Overlapping patch embedding, two dual blocks and a LayerNorm; returns the skip."""

    def __init__(self, in_channels: int, channels: int, hidden: int, grouping: Grouping, *, first: bool) -> None:
        super().__init__()
        kernel, stride = (7, 4) if first else (3, 2)
        self.embed = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2)
        self.embed_norm = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(DualBlock(channels, hidden, grouping) for _ in range(2))
        self.norm = nn.LayerNorm(channels)

    def forward(self, image: Tensor) -> Tensor:
        """B x in_channels x H x W to B x H / stride x W / stride x channels."""
        x = self.embed_norm(as_map(self.embed(image)))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class CrossAttention(nn.Module):
    """Values of the decoder, weighted by keys and queries of the skip; doubles the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, 2 * channels)
        self.project_norm = nn.LayerNorm(2 * channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        values, keys = self.norm(x).flatten(1, 2), self.norm(skip).flatten(1, 2)
        mixed = attention_of_softmaxes(keys, keys, values)
        return self.project_norm(self.project(mixed)).view(*x.shape[:3], -1)


class DecoderStage(nn.Module):
    """Joins the decoder's map with a skip by cross-attention, then two dual blocks."""

    def __init__(self, previous: int, channels: int, hidden: int, grouping: Grouping) -> None:
        super().__init__()
        self.entry = nn.Linear(previous, channels)
        self.cross = CrossAttention(channels)
        self.norm = nn.LayerNorm(2 * channels)
        self.ffn = MixFFN(2 * channels, hidden, grouping)
        self.merge = nn.Linear(2 * channels, channels)
        self.blocks = nn.ModuleList(DualBlock(channels, hidden, grouping) for _ in range(2))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.entry(x)
        y = torch.cat((x, skip), dim=3) + self.cross(x, skip)
        y = y + self.ffn(self.norm(y))
        x = self.merge(y)
        for block in self.blocks:
            x = block(x)
        return x


class PatchExpand(nn.Module):
    """Patch expanding: a linear layer without bias, a pixel shuffle by ``factor`` and a LayerNorm."""

    def __init__(self, channels: int, out_channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(channels, factor**2 * out_channels, bias=False)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(shuffle(self.expand(x), self.factor))


def initialise(module: nn.Module) -> None:
    """Initial weights of one module, for ``network.apply``: linear layers by both fans, convolutions by their fan-out.

    The customary normal of 0.02 for linear layers is meant for long training: after 250 steps from scratch it was some
    five Dice behind (ACDC, quarter width, 64 pixels).
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
