"""DAE-Former in the forms of operators that engines run fastest: the same function as `DAEFormer`, for one image.

Both forms fold what is constant:

- An input of one channel meets the sum of the kernels that its three copies would have met.
- The skip around the 3x3 convolution of a MixFFN is one added to the kernel's centre.
- The LayerNorm before the classes acts on the logits, and the last pixel shuffle moves logits instead of features.

Zeros of pruned weights stay zeros: no two of the network's matrices are multiplied in advance.

`TokensForm` keeps N x C for linear layers and LayerNorm. Keys of efficient attention lose their bias there: a softmax
over the tokens does not see it. The linear layer before a 3x3 convolution is a 1x1
convolution, so that a runtime with a blocked layout of its own enters it once, with few channels. Where there are more
tokens than channels, attention multiplies its small matrices first, which saves up to half of its work.

`ChannelsFirstForm` keeps 1 x C x H x W throughout, with every linear layer as a 1x1 convolution, in which a sparse
engine skips zeros. Gains of a LayerNorm move into the layer that reads it.

`half_form` is the network as it is trained, but for attention between channels, whose sums over all tokens would leave
the range of float16.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.models import blocks
from autocompress.models.dae_former import DAEFormer

# Keeps the norm of a channel that is zero everywhere from dividing by zero; far below any other norm.
_NORM_FLOOR = 1e-6
# Of float16: what is smaller may become zero, and a division by it not a number.
_SMALLEST_NORMAL = 2.0**-14


class _Constants(nn.Module):
    """A module whose tensors are constants of the graph."""

    def constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.detach().clone().contiguous())


def _skip_in_kernel(conv: nn.Conv2d) -> Tensor:
    """Kernel of a convolution with the skip around it."""
    weight = conv.weight.detach().clone()
    channels = torch.arange(weight.shape[0])
    weight[channels, 0 if conv.groups > 1 else channels, 1, 1] += 1.0
    return weight


def _kernel_of(model: DAEFormer, level: int) -> Tensor:
    """Kernel of the patch embedding, for the input as it is."""
    weight: Tensor = model.encoder[level].embed.weight.detach()
    return weight.sum(dim=1, keepdim=True) if level == 0 and model.in_channels == 1 else weight


class _HeadConstants(_Constants):
    """Patch expanding to the pixels, LayerNorm and classes, with the division of the LayerNorm after the classes.

    With features f, gain g, weights W and s = standard deviation of f: the logits are (W g f - mean(f) W g) / s + bias.
    """

    def __init__(self, model: DAEFormer) -> None:
        super().__init__()
        norm, classify = model.expand_to_pixels.norm, model.classify
        self.eps, self.channels, self.classes = norm.eps, norm.weight.numel(), classify.out_features
        self.constant("features", model.expand_to_pixels.expand.weight)
        self.constant("weight", classify.weight * norm.weight)
        self.constant("offset", classify.weight @ norm.weight)
        self.constant("bias", classify.weight @ norm.bias + classify.bias)


# ---------------------------------------------------------------------------------------------------- tokens


class TokensForm(nn.Module):
    """DAE-Former for one image, on N x C tokens.

    Args:
        model: a trained network; its weights are copied.
        resolution: side of the input, on which the order of the products depends.
    """

    def __init__(self, model: DAEFormer, resolution: int) -> None:
        super().__init__()
        sides = [resolution // 4 // 2**level for level in range(len(model.shape.channels))]
        self.sides = sides
        self.encoder = nn.ModuleList(
            _TokensEncoder(stage, _kernel_of(model, level), sides[level]) for level, stage in enumerate(model.encoder)
        )
        self.expand = nn.ModuleList(_TokensExpand(e, n) for e, n in zip(model.expand, sides[1:], strict=True))
        self.decoder = nn.ModuleList(_TokensDecoder(d, n) for d, n in zip(model.decoder, sides, strict=False))
        self.head = _TokensHead(model, sides[0])

    def forward(self, image: Tensor) -> Tensor:
        """1 x in_channels x R x R to logits 1 x classes x R x R."""
        skips: list[Tensor] = []
        for stage, side in zip(self.encoder, self.sides, strict=True):
            skips.append(stage(image))
            image = _image(skips[-1], side)
        x = skips[-1]
        for expand, decoder, skip in zip(
            reversed(self.expand), reversed(self.decoder), reversed(skips[:-1]), strict=True
        ):
            x = decoder(expand(x), skip)
        return self.head(x)


def _image(x: Tensor, side: int) -> Tensor:
    """N x C to 1 x C x H x W."""
    return x.view(1, side, side, x.shape[1]).permute(0, 3, 1, 2)


def _tokens(x: Tensor) -> Tensor:
    """1 x C x H x W to N x C."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


class _TokensEncoder(_Constants):
    def __init__(self, stage: blocks.EncoderStage, kernel: Tensor, side: int) -> None:
        super().__init__()
        self.constant("kernel", kernel)
        self.constant("bias", stage.embed.bias)
        self.stride, self.padding = stage.embed.stride, stage.embed.padding
        self.embed_norm, self.norm = stage.embed_norm, stage.norm
        self.blocks = nn.ModuleList(_TokensBlock(block, side) for block in stage.blocks)

    def forward(self, image: Tensor) -> Tensor:
        x = F.conv2d(image, self.kernel, self.bias, self.stride, self.padding)
        x = self.embed_norm(_tokens(x))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class _TokensExpand(nn.Module):
    def __init__(self, expand: blocks.PatchExpand, side: int) -> None:
        super().__init__()
        self.expand, self.side = expand, side

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(x.view(1, self.side, self.side, -1)).flatten(0, 2)


class _TokensDecoder(nn.Module):
    def __init__(self, stage: blocks.DecoderStage, side: int) -> None:
        super().__init__()
        self.entry, self.norm, self.merge = stage.entry, stage.norm, stage.merge
        self.cross = _TokensCross(stage.cross)
        self.ffn = _TokensFFN(stage.ffn, side)
        self.blocks = nn.ModuleList(_TokensBlock(block, side) for block in stage.blocks)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.entry(x)
        y = torch.cat((x, skip), dim=1) + self.cross(x, skip)
        y = y + self.ffn(self.norm(y))
        x = self.merge(y)
        for block in self.blocks:
            x = block(x)
        return x


class _TokensCross(nn.Module):
    def __init__(self, cross: blocks.CrossAttention) -> None:
        super().__init__()
        self.norm, self.project, self.project_norm = cross.norm, cross.project, cross.project_norm

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        values, keys = self.norm(x), self.norm(skip)
        context = F.softmax(keys.t(), dim=1) @ values
        if x.shape[0] > 2 * x.shape[1]:
            mixed = F.softmax(keys, dim=1) @ (context @ self.project.weight.t()) + self.project.bias
        else:
            mixed = self.project(F.softmax(keys, dim=1) @ context)
        return self.project_norm(mixed)


class _TokensBlock(nn.Module):
    def __init__(self, block: blocks.DualBlock, side: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3, self.norm4 = block.norm1, block.norm2, block.norm3, block.norm4
        self.attention = _TokensEfficientAttention(block.attention)
        self.channel_attention = _TokensChannelAttention(block.channel_attention)
        self.ffn1, self.ffn2 = _TokensFFN(block.ffn1, side), _TokensFFN(block.ffn2, side)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        x = x + self.ffn1(self.norm2(x))
        x = x + self.channel_attention(self.norm3(x))
        return x + self.ffn2(self.norm4(x))


class _TokensEfficientAttention(_Constants):
    def __init__(self, attention: blocks.EfficientAttention) -> None:
        super().__init__()
        queries, keys, values = attention.qkv.weight.chunk(3)
        self.constant("queries", queries.t())
        self.constant("query_bias", attention.qkv.bias.chunk(3)[0])
        self.constant("keys", keys)
        self.constant("values", values.t())
        self.constant("value_bias", attention.qkv.bias.chunk(3)[2])
        self.constant("project", attention.project.weight.t())
        self.constant("project_bias", attention.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        queries = F.softmax(torch.addmm(self.query_bias, x, self.queries), dim=1)
        keys = F.softmax(self.keys @ x.t(), dim=1)
        if x.shape[0] > x.shape[1]:
            # The weights of a key sum to one: the bias of the values passes through the context.
            context = torch.addmm(self.value_bias, keys @ x, self.values)
            return torch.addmm(self.project_bias, queries, context @ self.project)
        context = keys @ torch.addmm(self.value_bias, x, self.values)
        return torch.addmm(self.project_bias, queries @ context, self.project)


class _TokensChannelAttention(_Constants):
    def __init__(self, attention: blocks.ChannelAttention) -> None:
        super().__init__()
        queries, keys, values = attention.qkv.weight.chunk(3)
        self.channels = attention.project.in_features
        self.constant("queries_keys", torch.cat((queries, keys)))
        self.constant("values", values)
        self.constant("temperature", attention.temperature)
        self.constant("project", attention.project.weight)
        self.constant("project_bias", attention.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        tokens, channels = x.shape
        heads, width = blocks.HEADS, channels // blocks.HEADS
        queries_keys = self.queries_keys
        small_first = 2.25 * tokens > 3.25 * channels
        if small_first:
            # All products between queries and keys follow from those between the channels of x.
            gram = x.t() @ x
            products = queries_keys @ gram
            norms = (products * queries_keys).sum(dim=1)
            products = products[:channels].view(heads, width, channels)
            products = products @ queries_keys[channels:].view(heads, width, channels).transpose(1, 2)
        else:
            projected = queries_keys @ x.t()
            norms = projected.square().sum(dim=1)
            queries = projected[:channels].view(heads, width, tokens)
            products = queries @ projected[channels:].view(heads, width, tokens).transpose(1, 2)
        norms = (norms + _NORM_FLOOR**2).sqrt().view(2, heads, width)
        scores = products / (norms[0].unsqueeze(2) * norms[1].unsqueeze(1)) * self.temperature
        weights = F.softmax(scores, dim=2)
        if small_first:
            mixed = (weights @ self.values.view(heads, width, channels)).view(channels, channels)
            return torch.addmm(self.project_bias, x, (self.project @ mixed).t())
        mixed = (weights @ (self.values @ x.t()).view(heads, width, tokens)).view(channels, tokens)
        return torch.addmm(self.project_bias, mixed.t(), self.project.t())


class _TokensFFN(_Constants):
    def __init__(self, ffn: blocks.MixFFN, side: int) -> None:
        super().__init__()
        self.side = side
        self.constant("expand", ffn.expand.weight[:, :, None, None])
        self.constant("expand_bias", ffn.expand.bias)
        self.constant("kernel", _skip_in_kernel(ffn.conv))
        self.constant("bias", ffn.conv.bias)
        self.groups = ffn.conv.groups
        self.norm, self.reduce = ffn.norm, ffn.reduce

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.conv2d(_image(x, self.side), self.expand, self.expand_bias)
        hidden = _tokens(F.conv2d(hidden, self.kernel, self.bias, padding=1, groups=self.groups))
        return self.reduce(F.gelu(self.norm(hidden)))


class _TokensHead(_HeadConstants):
    def __init__(self, model: DAEFormer, side: int) -> None:
        super().__init__(model)
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        features = (x @ self.features.t()).view(-1, self.channels)
        mean = features.mean(dim=1, keepdim=True)
        logits = features @ self.weight.t() - mean * self.offset
        deviation = (F.relu((features * features).mean(dim=1, keepdim=True) - mean * mean) + self.eps).sqrt()
        logits = logits / deviation + self.bias
        # (row, column, row in token, column in token, class) to (class, pixel row, pixel column)
        logits = logits.view(self.side, self.side, 4, 4, self.classes).permute(4, 0, 2, 1, 3)
        return logits.reshape(1, self.classes, 4 * self.side, 4 * self.side)


# ---------------------------------------------------------------------------------------------------- channels first


class ChannelsFirstForm(nn.Module):
    """DAE-Former for one image, on 1 x C x H x W.

    Args:
        model: a trained network; its weights are copied.
    """

    def __init__(self, model: DAEFormer) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            _ImageEncoder(stage, _kernel_of(model, level)) for level, stage in enumerate(model.encoder)
        )
        self.expand = nn.ModuleList(_ImageExpand(e, d.entry) for e, d in zip(model.expand, model.decoder, strict=True))
        self.decoder = nn.ModuleList(_ImageDecoder(stage) for stage in model.decoder)
        self.head = _ImageHead(model)

    def forward(self, image: Tensor) -> Tensor:
        """1 x in_channels x R x R to logits 1 x classes x R x R."""
        skips: list[Tensor] = []
        for stage in self.encoder:
            image = stage(image)
            skips.append(image)
        x = skips[-1]
        for expand, decoder, skip in zip(
            reversed(self.expand), reversed(self.decoder), reversed(skips[:-1]), strict=True
        ):
            x = decoder(expand(x), skip)
        return self.head(x)


class _Pointwise(_Constants):
    """A linear layer as a 1x1 convolution; the gain and bias of a LayerNorm before it are part of it."""

    def __init__(self, weight: Tensor, bias: Tensor | None, norm: nn.LayerNorm | None = None) -> None:
        super().__init__()
        if norm is not None:
            shift = weight @ norm.bias
            bias = shift if bias is None else bias + shift
            weight = weight * norm.weight
        self.constant("weight", weight[:, :, None, None])
        self.constant("bias", weight.new_zeros(weight.shape[0]) if bias is None else bias)

    @classmethod
    def of(cls, linear: nn.Linear, norm: nn.LayerNorm | None = None) -> _Pointwise:
        return cls(linear.weight, linear.bias, norm)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias)


class _Normalise(nn.Module):
    """LayerNorm over the channels of 1 x C x H x W without gain and bias."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(dim=1, keepdim=True)
        return x / ((x * x).mean(dim=1, keepdim=True) + self.eps).sqrt()


class _ImageNorm(_Constants):
    """LayerNorm over the channels of 1 x C x H x W."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.normalise = _Normalise(norm.eps)
        self.constant("weight", norm.weight[None, :, None, None])
        self.constant("bias", norm.bias[None, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise(x) * self.weight + self.bias


class _ImageEncoder(_Constants):
    def __init__(self, stage: blocks.EncoderStage, kernel: Tensor) -> None:
        super().__init__()
        self.constant("kernel", kernel)
        self.constant("bias", stage.embed.bias)
        self.stride, self.padding = stage.embed.stride, stage.embed.padding
        self.embed_norm, self.norm = _ImageNorm(stage.embed_norm), _ImageNorm(stage.norm)
        self.blocks = nn.ModuleList(_ImageBlock(block) for block in stage.blocks)

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed_norm(F.conv2d(image, self.kernel, self.bias, self.stride, self.padding))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class _ImageExpand(nn.Module):
    """Patch expanding by 2 with the linear layer that enters the next level."""

    def __init__(self, expand: blocks.PatchExpand, entry: nn.Linear) -> None:
        super().__init__()
        # Channel before pixel, as a pixel shuffle of 1 x C x H x W expects.
        channels = expand.norm.weight.numel()
        weight = expand.expand.weight.view(4, channels, -1).transpose(0, 1).flatten(0, 1)
        self.expand = _Pointwise(weight, None)
        self.normalise = _Normalise(expand.norm.eps)
        self.entry = _Pointwise.of(entry, expand.norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.entry(self.normalise(F.pixel_shuffle(self.expand(x), 2)))


class _ImageDecoder(nn.Module):
    def __init__(self, stage: blocks.DecoderStage) -> None:
        super().__init__()
        self.cross = _ImageCross(stage.cross)
        self.ffn = _ImageFFN(stage.ffn, stage.norm)
        self.merge = _Pointwise.of(stage.merge)
        self.blocks = nn.ModuleList(_ImageBlock(block) for block in stage.blocks)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        y = torch.cat((x, skip), dim=1) + self.cross(x, skip)
        x = self.merge(y + self.ffn(y))
        for block in self.blocks:
            x = block(x)
        return x


class _ImageCross(nn.Module):
    def __init__(self, cross: blocks.CrossAttention) -> None:
        super().__init__()
        self.norm, self.project = _ImageNorm(cross.norm), _Pointwise.of(cross.project)
        self.project_norm = _ImageNorm(cross.project_norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        keys = self.norm(skip)
        return self.project_norm(self.project(_efficient(keys, keys, self.norm(x))))


def _efficient(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Efficient attention on 1 x C x H x W."""
    shape = queries.shape
    channels, tokens = shape[1], shape[2] * shape[3]
    weights = F.softmax(keys.view(channels, tokens), dim=1)
    context = values.view(channels, tokens) @ weights.t()
    return (context @ F.softmax(queries.view(channels, tokens), dim=0)).view(shape)


class _ImageBlock(nn.Module):
    def __init__(self, block: blocks.DualBlock) -> None:
        super().__init__()
        self.attention = _ImageEfficientAttention(block.attention, block.norm1)
        self.ffn1 = _ImageFFN(block.ffn1, block.norm2)
        self.channel_attention = _ImageChannelAttention(block.channel_attention, block.norm3)
        self.ffn2 = _ImageFFN(block.ffn2, block.norm4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        x = x + self.ffn1(x)
        x = x + self.channel_attention(x)
        return x + self.ffn2(x)


class _ImageEfficientAttention(nn.Module):
    def __init__(self, attention: blocks.EfficientAttention, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.normalise = _Normalise(norm.eps)
        self.queries, self.keys, self.values = (
            _Pointwise(weight, bias, norm)
            for weight, bias in zip(attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3), strict=True)
        )
        self.project = _Pointwise.of(attention.project)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalise(x)
        return self.project(_efficient(self.queries(x), self.keys(x), self.values(x)))


class _ImageChannelAttention(_Constants):
    def __init__(self, attention: blocks.ChannelAttention, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.normalise = _Normalise(norm.eps)
        self.queries, self.keys, self.values = (
            _Pointwise(weight, None, norm) for weight in attention.qkv.weight.chunk(3)
        )
        self.constant("temperature", attention.temperature)
        self.project = _Pointwise.of(attention.project)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        heads, width, tokens = blocks.HEADS, shape[1] // blocks.HEADS, shape[2] * shape[3]
        x = self.normalise(x)
        queries, keys, values = (part(x).view(heads, width, tokens) for part in (self.queries, self.keys, self.values))
        query_norm = ((queries * queries).sum(dim=2, keepdim=True) + _NORM_FLOOR**2).sqrt()
        key_norm = ((keys * keys).sum(dim=2, keepdim=True) + _NORM_FLOOR**2).sqrt()
        scores = queries @ keys.transpose(1, 2) / (query_norm @ key_norm.transpose(1, 2)) * self.temperature
        return self.project((F.softmax(scores, dim=2) @ values).view(shape))


class _ImageFFN(_Constants):
    def __init__(self, ffn: blocks.MixFFN, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.normalise = _Normalise(norm.eps)
        self.expand = _Pointwise.of(ffn.expand, norm)
        self.constant("kernel", _skip_in_kernel(ffn.conv))
        self.constant("bias", ffn.conv.bias)
        self.groups = ffn.conv.groups
        self.norm = _ImageNorm(ffn.norm)
        self.reduce = _Pointwise.of(ffn.reduce)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.conv2d(self.expand(self.normalise(x)), self.kernel, self.bias, padding=1, groups=self.groups)
        return self.reduce(F.gelu(self.norm(hidden)))


class _ImageHead(_HeadConstants):
    def __init__(self, model: DAEFormer) -> None:
        super().__init__(model)
        # One group of channels for each of the 16 pixels of a token: the same classes for each, and their mean.
        self.constant("classify", self.weight.repeat(16, 1)[:, :, None, None])
        means = torch.eye(16).repeat_interleave(self.channels, dim=1) / self.channels
        self.constant("means", means[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        features = F.conv2d(x, self.features[:, :, None, None])
        mean, square = F.conv2d(features, self.means), F.conv2d(features * features, self.means)
        deviation = (F.relu(square - mean * mean) + self.eps).sqrt().view(1, 16, 1, height * width)
        mean = mean.view(1, 16, 1, height * width)
        logits = F.conv2d(features, self.classify, groups=16).view(1, 16, self.classes, height * width)
        logits = (logits - mean * self.offset.view(1, 1, -1, 1)) / deviation + self.bias.view(1, 1, -1, 1)
        # A pixel shuffle expects the class before the pixel of the token.
        return F.pixel_shuffle(logits.transpose(1, 2).reshape(1, 16 * self.classes, height, width), 4)


# ---------------------------------------------------------------------------------------------------- half


def half_form(model: DAEFormer) -> nn.Module:
    """A copy of the network in which attention between channels stays inside the range of float16.

    LayerNorms are left as they are: how they are written depends on the opset (`autocompress.bundles.half_norm`).
    """
    written = copy.deepcopy(model)
    for parent in list(written.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, blocks.ChannelAttention):
                setattr(parent, name, _HalfChannelAttention(child))
    return written


class _HalfChannelAttention(nn.Module):
    """As `blocks.ChannelAttention`, but with every channel divided by its norm before the products are summed."""

    def __init__(self, attention: blocks.ChannelAttention) -> None:
        super().__init__()
        self.qkv, self.temperature, self.project = attention.qkv, attention.temperature, attention.project

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        heads = blocks.HEADS
        qkv = self.qkv(x).view(batch, height * width, 3, heads, channels // heads).permute(2, 0, 3, 4, 1)
        queries, keys, values = qkv.unbind(0)
        scores = (_unit(queries) @ _unit(keys).transpose(-1, -2)) * self.temperature
        mixed = F.softmax(scores, dim=-1) @ values
        return self.project(mixed.permute(0, 3, 1, 2).reshape(batch, height, width, channels))


def _unit(x: Tensor) -> Tensor:
    """Each row divided by its norm, without a square above 1; a row of zeros stays one."""
    scaled = x / x.abs().amax(dim=-1, keepdim=True).clamp_min(_SMALLEST_NORMAL)
    # The norm of a scaled row is at least 1, save where the row is all but zero.
    return scaled / (scaled * scaled).sum(dim=-1, keepdim=True).clamp_min(1.0).sqrt()
