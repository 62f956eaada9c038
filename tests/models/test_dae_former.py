"""DAE-Former: the published counts, any configuration, gradients, autocast, and its attentions by definition."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from autocompress.config import CompressionConfig
from autocompress.errors import ConfigError
from autocompress.models import blocks, build, get_family
from autocompress.models.complexity import complexity
from autocompress.training.distillation import attention_map, watched


@pytest.fixture(autouse=True)
def _same_weights_each_time() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("resolution", "levels", "grouping", "gmacs", "parameters"),
    [
        (224, 3, "depthwise", 20.05, 29.69e6),
        (224, 2, "depthwise", 11.57, 7.84e6),
        (224, 2, "dense", 124.23, 87.97e6),
        (128, 2, "depthwise", 3.78, 7.84e6),
        (64, 2, "depthwise", 0.94, 7.84e6),
        (128, 3, "depthwise", 6.55, 29.69e6),
    ],
)
def test_counts_of_the_published_network(
    resolution: int, levels: int, grouping: str, gmacs: float, parameters: float
) -> None:
    config = CompressionConfig(resolution, levels, grouping=grouping)  # type: ignore[arg-type]
    with torch.device("meta"):  # no time for random weights
        model = build("dae-former", config, in_channels=1, num_classes=9)
    counted = complexity(model.to_empty(device="cpu"), 1, resolution)
    assert counted.gmacs == pytest.approx(gmacs, rel=0.01)
    assert counted.parameters == pytest.approx(parameters, rel=0.005)


CONFIGS = [
    CompressionConfig(resolution, levels, width, grouping, ratio, "channel" if ratio else "none")  # type: ignore[arg-type]
    for (resolution, levels), width, grouping, ratio in itertools.product(
        [(32, 1), (32, 2), (32, 3), (48, 2)], [0.05, 0.2], ["depthwise", "dense"], [0.0, 0.5]
    )
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.label)
def test_every_parameter_receives_a_gradient(config: CompressionConfig) -> None:
    model = build("dae-former", config, in_channels=1, num_classes=3)
    logits = model(torch.rand(2, 1, config.resolution, config.resolution))
    assert logits.shape == (2, 3, config.resolution, config.resolution)
    assert logits.is_contiguous()
    F.cross_entropy(logits, torch.randint(0, 3, (2, config.resolution, config.resolution))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("in_channels", [1, 2, 3])
def test_input_channels(in_channels: int) -> None:
    model = build("dae-former", CompressionConfig(32, 2, 0.1), in_channels=in_channels, num_classes=2)
    assert model(torch.rand(1, in_channels, 32, 32)).shape == (1, 2, 32, 32)


def test_one_channel_counts_as_three_equal_ones() -> None:
    config = CompressionConfig(32, 2, 0.1)
    grey = build("dae-former", config, in_channels=1, num_classes=2).eval()
    colour = build("dae-former", config, in_channels=3, num_classes=2).eval()
    colour.load_state_dict(grey.state_dict())
    image = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(grey(image), colour(image.expand(1, 3, 32, 32)))


def test_images_of_a_batch_do_not_influence_each_other() -> None:
    model = build("dae-former", CompressionConfig(32, 2, 0.1), in_channels=1, num_classes=2).eval()
    images = torch.rand(3, 1, 32, 32)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-4, atol=1e-5)


def test_channel_pruning_shortens_the_hidden_layers() -> None:
    full = build("dae-former", CompressionConfig(32, 2, 0.25), in_channels=1, num_classes=2)
    half = build(
        "dae-former",
        CompressionConfig(32, 2, 0.25, prune_ratio=0.5, prune_pattern="channel"),
        in_channels=1,
        num_classes=2,
    )
    hidden = [m.expand.out_features for m in full.modules() if isinstance(m, blocks.MixFFN)]
    fewer = [m.expand.out_features for m in half.modules() if isinstance(m, blocks.MixFFN)]
    assert fewer == [h // 2 for h in hidden]
    assert all(h % 8 == 0 for h in fewer)


def test_autocast_stays_close_to_float32() -> None:
    config = CompressionConfig(64, 2, 0.25)
    model = build("dae-former", config, in_channels=1, num_classes=4).eval()
    for parameter in model.parameters():  # away from the nearly constant output of fresh weights
        parameter.data += 0.05 * torch.randn_like(parameter)
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        exact = model(image)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(image).float()
    assert (exact - rounded).abs().max() < 0.1 * exact.abs().max()
    assert (exact.argmax(1) == rounded.argmax(1)).float().mean() > 0.95


def test_layer_norm_of_bfloat16_has_float32_statistics() -> None:
    # Nearly equal values on a large offset: sums in bfloat16 would lose their differences altogether.
    x = 200.0 + torch.randint(0, 3, (4, 64)).float()
    model = build("dae-former", CompressionConfig(32, 1, 0.5), in_channels=1, num_classes=2)
    norm = model.encoder[0].norm
    with torch.autocast("cpu", torch.bfloat16):
        result = norm(x.bfloat16())
    expected = F.layer_norm(x.bfloat16().float(), (64,))
    assert (result.float() - expected).abs().max() < 0.01 * expected.abs().max()


def test_efficient_attention_by_definition() -> None:
    attention = blocks.EfficientAttention(8)
    x = torch.randn(1, 2, 3, 8)
    tokens = x.view(6, 8)
    queries, keys, values = (
        tokens @ w.t() + b for w, b in zip(attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3), strict=True)
    )
    # The definition without its linear-time order: rho_q(Q) rho_k(K)^T V.
    expected = (queries.softmax(1) @ keys.softmax(0).t()) @ values
    expected = expected @ attention.project.weight.t() + attention.project.bias
    torch.testing.assert_close(attention(x).view(6, 8), expected)


def test_channel_attention_by_definition() -> None:
    attention = blocks.ChannelAttention(16)
    attention.temperature.data = torch.rand(8, 1, 1) + 0.5
    x = torch.randn(1, 3, 3, 16)
    queries, keys, values = (x.view(9, 16) @ w.t() for w in attention.qkv.weight.chunk(3))
    heads = []
    for head in range(8):
        q, k, v = (t[:, 2 * head : 2 * head + 2] for t in (queries, keys, values))
        scores = F.normalize(q, dim=0).t() @ F.normalize(k, dim=0) * attention.temperature[head]
        heads.append(scores.softmax(1) @ v.t())
    expected = torch.cat(heads).t() @ attention.project.weight.t() + attention.project.bias
    torch.testing.assert_close(attention(x).view(9, 16), expected)


def test_channels_are_multiples_of_the_heads_and_no_head_is_a_single_channel() -> None:
    def channels(width: float) -> list[int]:
        model = build("dae-former", CompressionConfig(32, 3, width), in_channels=1, num_classes=2)
        return [stage.embed.out_channels for stage in model.encoder]

    assert channels(0.25) == [32, 80, 128]
    assert channels(0.02) == [16, 16, 16]


def test_feature_stages_are_the_encoders_from_fine_to_coarse_under_the_same_names() -> None:
    family = get_family("dae-former")
    names = {}
    for levels in (1, 3):
        model = family.build(CompressionConfig(32, levels, 0.125), 1, 2)
        stages = family.feature_stages(model)
        names[levels] = [stage.module for stage in stages]
        with torch.no_grad(), watched(model, stages) as outputs:
            model(torch.zeros(2, 1, 32, 32))
        for level, stage in enumerate(stages):
            side = 32 // 4 // 2**level
            assert attention_map(outputs[stage.module], stage.channel_axis).shape == (2, side, side)
    assert len(names[3]) == 3 and names[1] == names[3][:1]


def test_shuffle_places_rows_before_columns() -> None:
    x = torch.arange(4.0).view(1, 1, 1, 4)
    assert blocks.shuffle(x, 2)[0, :, :, 0].tolist() == [[0.0, 1.0], [2.0, 3.0]]


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (CompressionConfig(36, 2), "no multiple of 8"),
        (CompressionConfig(72, 3), "take 64 or 80"),
        (CompressionConfig(64, 4), "levels 4"),
    ],
)
def test_refuses_what_it_cannot_honour(config: CompressionConfig, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        build("dae-former", config, in_channels=1, num_classes=2)


def test_prunable_weights_are_those_of_linear_layers_and_ordinary_convolutions() -> None:
    family = get_family("dae-former")
    grouped = family.build(CompressionConfig(32, 2, 0.1), 1, 2)
    dense = family.build(CompressionConfig(32, 2, 0.1, "dense"), 1, 2)
    assert set(family.prunable(grouped)) <= {name for name, _ in grouped.named_parameters()}
    assert "encoder.0.blocks.0.ffn1.conv.weight" not in family.prunable(grouped)
    assert "encoder.0.blocks.0.ffn1.conv.weight" in family.prunable(dense)
