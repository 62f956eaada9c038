"""How a DAE-Former starts from the weights of a trained one with other levels, widths or grouping.

The residual stream of a level keeps the same channels in encoder and decoder, since the cross-attention normalises
both with the same gains. Where the student ends at a level that had a decoder in the parent, it reads what the parent's
decoder passed through from the skip; where it goes deeper than the parent, the new decoder starts as a plain copy of
the skip, so that the function is unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autocompress.compression import inheritance
from autocompress.compression.inheritance import Axis, Choice, InheritanceReport, Origin, Space, reads, writes
from autocompress.config import CompressionConfig
from autocompress.errors import ConfigError
from autocompress.models import blocks
from autocompress.models.dae_former import DAEFormer

_AxesOf = dict[str, tuple[Axis | None, ...]]


def inherit(
    student: nn.Module, student_config: CompressionConfig, parent: nn.Module, parent_config: CompressionConfig
) -> InheritanceReport:
    """See `autocompress.models.ModelFamily.inherit`; needs nothing from the configurations beyond the networks."""
    del student_config, parent_config
    if not isinstance(student, DAEFormer) or not isinstance(parent, DAEFormer):
        raise ConfigError("a DAE-Former inherits from a DAE-Former; give a parent of the same family")
    for what, mine, theirs in (
        ("input channels", student.in_channels, parent.in_channels),
        ("classes", student.classify.out_features, parent.classify.out_features),
    ):
        if mine != theirs:
            raise ConfigError(f"the student has {mine} {what} and the parent {theirs}; train a parent for this data")
    with torch.no_grad():
        return _transfer(student, parent)


def _transfer(student: DAEFormer, parent: DAEFormer) -> InheritanceReport:
    axes, spaces, student_spaces = axes_of(parent), spaces_of(parent), spaces_of(student)
    tensors = dict(parent.named_parameters())
    origins: dict[str, Origin] = {}
    sources: dict[str, Tensor] = {name: tensor.detach() for name, tensor in tensors.items()}
    levels, parent_levels = len(student.shape.channels), len(parent.shape.channels)
    if levels < parent_levels:
        name = "expand_to_pixels.expand.weight" if levels == 1 else f"expand.{levels - 2}.expand.weight"
        sources[name] = _read_skip(sources, name, levels - 1)
        origins[name] = "composed"

    generator = torch.Generator().manual_seed(0)
    choices: dict[str, Choice] = {}
    for space, size in spaces.items():
        if space in student_spaces:
            score = _hidden_score(space, sources) if space.endswith(".hidden") else None
            if score is None:
                score = inheritance.importance(space, tensors, axes, spaces)
            choices[space] = inheritance.choose(score, size, student_spaces[space], generator)

    regroup = student.shape.grouping != parent.shape.grouping
    for name, parameter in student.named_parameters():
        if name not in sources:
            continue
        source, tensor_axes = sources[name], axes[name]
        if regroup and name.endswith(".conv.weight") and student.shape.grouping == "depthwise":
            source, tensor_axes = source.diagonal().permute(2, 0, 1).unsqueeze(1), (tensor_axes[0], None, None, None)
        value = inheritance.take(source, tensor_axes, spaces, choices)
        origin: Origin = origins.get(name, inheritance.origin_of(source, value))
        if regroup and name.endswith(".conv.weight"):
            origin = "folded"
            if student.shape.grouping == "dense":
                origin, value = "embedded", torch.diag_embed(value.permute(1, 2, 3, 0)).squeeze(0).permute(2, 3, 0, 1)
        parameter.copy_(value)
        origins[name] = origin
    _correct_biases(student, sources, axes, spaces, choices)
    if levels > parent_levels:
        _pass_skip_through(student.decoder[parent_levels - 1])
    return inheritance.report(student, origins)


def axes_of(model: DAEFormer) -> _AxesOf:
    """The meaning of the axes of each parameter."""
    axes: _AxesOf = {}
    levels = len(model.shape.channels)
    for level in range(levels):
        stream, name = f"stream{level}", f"encoder.{level}"
        source = reads(f"stream{level - 1}") if level else None
        axes[f"{name}.embed.weight"] = (writes(stream), source, None, None)
        axes[f"{name}.embed.bias"] = (writes(stream),)
        axes |= _norm(f"{name}.embed_norm", stream) | _norm(f"{name}.norm", stream)
        for index in range(2):
            axes |= _dual_block(f"{name}.blocks.{index}", stream, model)
    for level in range(levels - 1):
        stream, name = f"stream{level}", f"decoder.{level}"
        axes |= _expand(f"expand.{level}", f"stream{level + 1}", f"expanded{level}", 2)
        axes |= _linear(f"{name}.entry", (stream,), (f"expanded{level}",))
        axes |= _norm(f"{name}.cross.norm", stream) | _norm(f"{name}.cross.project_norm", stream, stream)
        axes |= _linear(f"{name}.cross.project", (stream, stream), (stream,))
        axes |= _norm(f"{name}.norm", stream, stream)
        axes |= _ffn(f"{name}.ffn", (stream, stream), model)
        axes |= _linear(f"{name}.merge", (stream,), (stream, stream))
        for index in range(2):
            axes |= _dual_block(f"{name}.blocks.{index}", stream, model)
    axes |= _expand("expand_to_pixels", "stream0", "pixels", 4)
    axes["classify.weight"] = (None, reads("pixels"))
    axes["classify.bias"] = (None,)
    return axes


def spaces_of(model: DAEFormer) -> dict[str, Space]:
    """The spaces of the network by name."""
    spaces = {f"stream{level}": Space(channels) for level, channels in enumerate(model.shape.channels)}
    spaces |= {f"expanded{level}": Space(c // 2) for level, c in enumerate(model.shape.channels[1:])}
    spaces["pixels"] = Space(model.shape.channels[0])
    for name, module in model.named_modules():
        if isinstance(module, blocks.MixFFN):
            spaces[f"{name}.hidden"] = Space(module.expand.out_features)
        elif isinstance(module, blocks.EfficientAttention):
            spaces |= {f"{name}.keys": Space(module.project.in_features)}
            spaces |= {f"{name}.values": Space(module.project.in_features)}
        elif isinstance(module, blocks.ChannelAttention):
            spaces |= {f"{name}.queries": Space(module.project.in_features, blocks.HEADS)}
            spaces |= {f"{name}.keys": Space(module.project.in_features, blocks.HEADS)}
    return spaces


def _linear(name: str, out: tuple[str, ...], source: tuple[str, ...], *, bias: bool = True) -> _AxesOf:
    axes: _AxesOf = {f"{name}.weight": (writes(*out), reads(*source))}
    if bias:
        axes[f"{name}.bias"] = (writes(*out),)
    return axes


def _norm(name: str, *spaces: str) -> _AxesOf:
    return {f"{name}.weight": (writes(*spaces),), f"{name}.bias": (writes(*spaces),)}


def _expand(name: str, source: str, out: str, factor: int) -> _AxesOf:
    return _linear(f"{name}.expand", (out,) * factor**2, (source,), bias=False) | _norm(f"{name}.norm", out)


def _ffn(name: str, outside: tuple[str, ...], model: DAEFormer) -> _AxesOf:
    hidden = f"{name}.hidden"
    source = reads(hidden) if model.shape.grouping == "dense" else None
    axes = _linear(f"{name}.expand", (hidden,), outside) | _linear(f"{name}.reduce", outside, (hidden,))
    axes[f"{name}.conv.weight"] = (writes(hidden), source, None, None)
    axes[f"{name}.conv.bias"] = (writes(hidden),)
    return axes | _norm(f"{name}.norm", hidden)


def _dual_block(name: str, stream: str, model: DAEFormer) -> _AxesOf:
    axes: _AxesOf = {}
    for index in (1, 2, 3, 4):
        axes |= _norm(f"{name}.norm{index}", stream)
    attention = f"{name}.attention"
    keys, values = f"{attention}.keys", f"{attention}.values"
    # The context sums over keys that belong to queries, so these two share their channels.
    axes |= _linear(f"{attention}.qkv", (keys, keys, values), (stream,))
    axes |= _linear(f"{attention}.project", (stream,), (values,))
    attention = f"{name}.channel_attention"
    queries, keys = f"{attention}.queries", f"{attention}.keys"
    # Here the attention runs over the keys' channels, which are those of the values, and results in the queries'.
    axes |= _linear(f"{attention}.qkv", (queries, keys, keys), (stream,), bias=False)
    axes[f"{attention}.temperature"] = (None, None, None)
    axes |= _linear(f"{attention}.project", (stream,), (queries,))
    return axes | _ffn(f"{name}.ffn1", (stream,), model) | _ffn(f"{name}.ffn2", (stream,), model)


def _read_skip(sources: dict[str, Tensor], name: str, level: int) -> Tensor:
    """Weights of the patch expanding that read a skip as the parent read it through ``decoder[level].merge``."""
    expand, merge = sources[name], sources[f"decoder.{level}.merge.weight"]
    return expand @ merge[:, merge.shape[0] :]


def _hidden_score(space: str, sources: dict[str, Tensor]) -> Tensor:
    """Importance of the hidden channels of a MixFFN: how much each one moves the output.

    After the LayerNorm a channel is about normal with its gain and bias as deviation and mean; GELU of that has the
    deviation computed here, and the output layer weighs it.
    """
    name = space.removesuffix(".hidden")
    _, deviation = _gelu_moments(sources[f"{name}.norm.weight"], sources[f"{name}.norm.bias"])
    return deviation.square() * sources[f"{name}.reduce.weight"].square().sum(dim=0)


def _gelu_moments(gain: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of GELU(bias + gain z) for a standard normal z, by the trapezoidal rule."""
    z = torch.linspace(-6.0, 6.0, 97)
    weight = torch.exp(-0.5 * z.square())
    weight = weight / weight.sum()
    values = nn.functional.gelu(bias.unsqueeze(1) + gain.unsqueeze(1) * z)
    mean = values @ weight
    return mean, (values.square() @ weight - mean.square()).clamp_min(0.0).sqrt()


def _correct_biases(
    student: DAEFormer, sources: dict[str, Tensor], axes: _AxesOf, spaces: dict[str, Space], choices: dict[str, Choice]
) -> None:
    """Make up for what the channels that were left out added on average, and for what copies add too much."""
    for name, module in student.named_modules():
        if isinstance(module, blocks.MixFFN) and f"{name}.hidden" in choices:
            mean, _ = _gelu_moments(sources[f"{name}.norm.weight"], sources[f"{name}.norm.bias"])
            mean[choices[f"{name}.hidden"].index] = 0.0
            missing = sources[f"{name}.reduce.weight"] @ mean
            module.reduce.bias += inheritance.take(missing, axes[f"{name}.reduce.bias"], spaces, choices)
        elif isinstance(module, blocks.EfficientAttention) and f"{name}.keys" in choices:
            index = choices[f"{name}.keys"].index
            copies = torch.bincount(index)[index].float()
            # The softmax over the channels of a query counts each copy; an even number of copies cancels out.
            module.qkv.bias[: copies.numel()] -= (copies / copies.min()).log()


def _pass_skip_through(decoder: nn.Module) -> None:
    """Let a decoder stage start as a copy of its skip: residual branches add nothing, the merge selects the skip."""
    for module in decoder.modules():
        if isinstance(module, blocks.EfficientAttention | blocks.ChannelAttention):
            _zero(module.project)
        elif isinstance(module, blocks.MixFFN):
            _zero(module.reduce)
        elif isinstance(module, blocks.CrossAttention):
            _zero(module.project_norm)
        elif isinstance(module, blocks.DecoderStage):
            _zero(module.merge)
            channels = module.merge.out_features
            module.merge.weight[:, channels:] = torch.eye(channels)


def _zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.zero_()
