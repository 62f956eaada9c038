"""Weights that flow: the same function where it can be the same, the important channels where it cannot."""

import pytest
import torch
from torch import Tensor, nn

from autocompress.compression.inheritance import InheritanceReport, Space, choose
from autocompress.config import CompressionConfig
from autocompress.errors import ConfigError
from autocompress.models import blocks, get_family


def network(config: CompressionConfig, *, family: str = "dae-former", seed: int = 0, classes: int = 3) -> nn.Module:
    """A network with weights far from their initial, nearly linear regime."""
    torch.manual_seed(seed)
    model = get_family(family).build(config, 1, classes).eval()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * (0.1 if parameter.dim() == 1 else 0.03)
    return model


def inherited(
    student: CompressionConfig, parent: CompressionConfig, *, family: str = "dae-former"
) -> tuple[Tensor, Tensor, InheritanceReport]:
    """Logits of the parent and of the student on the same images."""
    source, target = network(parent, family=family), network(student, family=family, seed=1)
    report = get_family(family).inherit(target, student, source, parent)
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        return source(images), target(images), report


def assert_same_function(parent: Tensor, student: Tensor) -> None:
    assert (parent - student).abs().max() <= 1e-5 * parent.abs().max()


BASE = CompressionConfig(32, 2, 0.25)


@pytest.mark.parametrize(
    "student",
    [
        BASE,
        CompressionConfig(64, 2, 0.25),
        CompressionConfig(32, 2, 0.25, "dense"),
        CompressionConfig(32, 2, 0.5),
        CompressionConfig(32, 3, 0.25),
        CompressionConfig(32, 3, 0.5, "dense"),
    ],
    ids=lambda config: config.label,
)
def test_same_function(student: CompressionConfig) -> None:
    before, after, report = inherited(student, BASE)
    assert_same_function(before, after)
    assert sum(report.shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("student", [CompressionConfig(32, 3, 0.1), CompressionConfig(32, 2, 0.1)])
def test_one_level_grows_into_more(student: CompressionConfig) -> None:
    before, after, report = inherited(student, CompressionConfig(32, 1, 0.1))
    assert_same_function(before, after)
    assert report.shares["initialised"] > 0.5


def test_identity_copies_everything() -> None:
    _, _, report = inherited(BASE, BASE)
    assert report.shares["copied"] == 1
    assert report.inherited_share == 1
    assert report.to_dict()["initialised"] == []


def test_dense_folds_to_its_diagonal() -> None:
    dense = CompressionConfig(32, 2, 0.1, "dense")
    parent, student = network(dense), network(CompressionConfig(32, 2, 0.1), seed=1)
    report = get_family("dae-former").inherit(student, CompressionConfig(32, 2, 0.1), parent, dense)
    kernel = parent.encoder[0].blocks[0].ffn1.conv.weight
    folded = student.encoder[0].blocks[0].ffn1.conv.weight
    for channel in range(folded.shape[0]):
        torch.testing.assert_close(folded[channel, 0], kernel[channel, channel])
    assert report.shares["folded"] > 0


def test_folding_undoes_embedding() -> None:
    dense = CompressionConfig(32, 2, 0.25, "dense")
    parent, middle, student = network(BASE), network(dense, seed=1), network(BASE, seed=2)
    family = get_family("dae-former")
    family.inherit(middle, dense, parent, BASE)
    family.inherit(student, BASE, middle, dense)
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(parameter, parent.get_parameter(name))


def test_channels_that_do_nothing_are_the_ones_that_go() -> None:
    parent = network(BASE)
    with torch.no_grad():  # half of the hidden channels of each MixFFN reach no output
        for module in parent.modules():
            if isinstance(module, blocks.MixFFN):
                module.reduce.weight[:, ::2] = 0
                # The hidden LayerNorm sees the others with the same statistics when each silent one has a twin.
                for parameter in (module.expand.weight, module.expand.bias, module.conv.weight, module.conv.bias):
                    parameter[::2] = parameter[1::2]
    config = CompressionConfig(32, 2, 0.25, prune_ratio=0.5, prune_pattern="channel")
    student = network(config, seed=1)
    get_family("dae-former").inherit(student, config, parent, BASE)
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        assert_same_function(parent(images), student(images))


def test_widening_breaks_the_symmetry_between_copies() -> None:
    wide = CompressionConfig(32, 2, 0.5)
    student = network(wide, seed=1)
    get_family("dae-former").inherit(student, wide, network(BASE), BASE)
    reader = student.encoder[0].blocks[0].ffn1.reduce.weight
    half = reader.shape[1] // 2
    assert not torch.allclose(reader[:, :half], reader[:, half:])


@pytest.mark.parametrize(
    "student",
    [
        CompressionConfig(32, 1, 0.25),
        CompressionConfig(32, 2, 0.25),
        CompressionConfig(32, 2, 0.15, "dense"),
        CompressionConfig(32, 3, 0.35),
        CompressionConfig(32, 3, 0.125, prune_ratio=0.75, prune_pattern="channel"),
    ],
    ids=lambda config: config.label,
)
def test_every_student_of_a_deep_parent_has_sources_for_all_its_weights(student: CompressionConfig) -> None:
    _, after, report = inherited(student, CompressionConfig(32, 3, 0.25))
    assert torch.isfinite(after).all()
    assert report.inherited_share == 1


def test_dropped_levels_keep_most_of_the_function() -> None:
    before, after, _ = inherited(CompressionConfig(32, 2, 0.25), CompressionConfig(32, 3, 0.25))
    # Unrelated networks do not correlate. How much a dropped level matters depends on the weights of the parent: with
    # random ones, which are not trained to agree across levels, about two thirds stay.
    assert torch.corrcoef(torch.stack((before.flatten(), after.flatten())))[0, 1] > 0.5


def test_the_same_parent_gives_the_same_student() -> None:
    student = CompressionConfig(32, 2, 0.4)
    assert torch.equal(inherited(student, BASE)[1], inherited(student, BASE)[1])


def test_other_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 classes and the parent 4"):
        get_family("dae-former").inherit(network(BASE), BASE, network(BASE, classes=4), BASE)


def test_another_family_is_refused() -> None:
    unet = CompressionConfig(32, 2, 0.25, "dense")
    with pytest.raises(ConfigError, match="same family"):
        get_family("dae-former").inherit(network(BASE), BASE, network(unet, family="unet"), unet)


def test_choose_keeps_the_important_in_order_and_the_same_number_in_each_head() -> None:
    score = torch.tensor([1.0, 9.0, 5.0, 2.0, 8.0, 7.0, 6.0, 3.0])
    generator = torch.Generator().manual_seed(0)
    assert choose(score, Space(8), Space(3), generator).index.tolist() == [1, 4, 5]
    assert choose(score, Space(8, 2), Space(4, 2), generator).index.tolist() == [1, 2, 4, 5]
    widened = choose(score, Space(8), Space(10), generator)
    assert widened.index.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 1, 4]
    assert torch.zeros(8).index_add(0, widened.index, widened.share).tolist() == pytest.approx([1.0] * 8)


@pytest.mark.parametrize("width", [0.25, 0.5])
def test_unet_same_function(width: float) -> None:
    parent = CompressionConfig(32, 3, 0.25, "dense")
    before, after, _ = inherited(CompressionConfig(32, 3, width, "dense"), parent, family="unet")
    assert_same_function(before, after)


@pytest.mark.parametrize("student", [(2, 0.25), (4, 0.5), (3, 0.25), (4, 0.25)])
def test_unet_takes_what_it_can(student: tuple[int, float]) -> None:
    config = CompressionConfig(32, *student, "dense")
    _, after, report = inherited(config, CompressionConfig(32, 3, 0.5, "dense"), family="unet")
    assert torch.isfinite(after).all()
    if student[0] <= 3:
        assert report.inherited_share == 1
