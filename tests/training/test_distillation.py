"""The teacher's lesson: agrees with PyTorch's divergence, survives other resolutions, and teaches."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autocompress.data.dataset import SliceSet
from autocompress.errors import ConfigError
from autocompress.models import FeatureStage
from autocompress.training.distillation import (
    SoftTargets,
    StageMaps,
    attention_loss,
    attention_map,
    distillation_loss,
    soft_targets,
    watched,
)
from autocompress.training.settings import TrainSettings
from autocompress.training.trainer import train


def test_zero_for_the_same_and_hintons_scale_otherwise() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(2))
    assert distillation_loss(student, student, 3.0).item() == pytest.approx(0.0, abs=1e-6)
    rows = [logits.permute(0, 2, 3, 1).reshape(-1, 3) for logits in (student, teacher)]
    expected = 9 * F.kl_div(
        (rows[0] / 3).log_softmax(1), (rows[1] / 3).log_softmax(1), log_target=True, reduction="batchmean"
    )
    assert torch.allclose(distillation_loss(student, teacher, 3.0), expected, atol=1e-6)


def test_logits_of_another_resolution_are_resized() -> None:
    coarse = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    fine = F.interpolate(coarse, (8, 8), mode="bilinear", align_corners=False)
    assert distillation_loss(fine, coarse, 2.0).item() == pytest.approx(0.0, abs=1e-6)


def test_targets_follow_the_slices_in_order(network: Callable[[], nn.Module], squares: SliceSet) -> None:
    teacher = network().train()
    targets = soft_targets(teacher, squares.images, batch_size=7)
    assert targets.logits.shape == (48, 2, 16, 16)
    assert targets.logits.dtype == np.float16
    assert teacher.training
    with torch.no_grad():
        alone = teacher(torch.from_numpy(squares.images[20:21]))
    assert torch.allclose(targets.batch(np.array([20])), alone, atol=2e-3)


def test_a_student_learns_from_the_teacher_alone(network: Callable[[], nn.Module], squares: SliceSet) -> None:
    # The labels say nothing; with the whole loss from the teacher the student still finds the squares.
    truth = np.where(squares.labels == 1, 4.0, -4.0)
    teacher = SoftTargets(np.stack((-truth, truth), axis=1).astype(np.float16))
    blank = SliceSet(squares.images, np.zeros_like(squares.labels))
    student = network()
    train(student, blank, TrainSettings(steps=120, learning_rate=0.01, distill_weight=1.0), teacher=teacher)
    with torch.no_grad():
        found = student(torch.from_numpy(squares.images)).argmax(1).numpy()
    assert (found == squares.labels).mean() > 0.9


def test_targets_of_other_data_are_refused(network: Callable[[], nn.Module], squares: SliceSet) -> None:
    targets = soft_targets(network(), squares.images[:10])
    with pytest.raises(ConfigError, match="cover 10 slices"):
        train(network(), squares, TrainSettings(steps=1), teacher=targets)


# The middle of the fixture's network, B x C x H x W.
STAGE = FeatureStage("3", channel_axis=1)


def test_a_map_by_hand() -> None:
    # Two channels, two pixels: mean squares (1 + 9) / 2 = 5 and (4 + 16) / 2 = 10; the norm of (5, 10) is sqrt(125).
    features = torch.tensor([[[[1.0, -2.0]], [[3.0, 4.0]]]])
    expected = torch.tensor([[[5.0, 10.0]]]) / math.sqrt(125)
    assert torch.allclose(attention_map(features, 1), expected)
    assert torch.allclose(attention_map(features.permute(0, 2, 3, 1), -1), expected)
    assert attention_map(features.bfloat16(), 1).dtype == torch.float32
    assert torch.equal(attention_map(torch.zeros(1, 2, 3, 3), 1), torch.zeros(1, 3, 3))


def test_a_map_does_not_depend_on_the_number_of_channels_or_their_scale() -> None:
    features = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    same = attention_map(features, 1)
    assert torch.allclose(attention_map(features.repeat(1, 3, 1, 1), 1), same, atol=1e-6)
    assert torch.allclose(attention_map(-7 * features, 1), same, atol=1e-6)


def test_distance_of_maps() -> None:
    left, right = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    # Equal maps are at distance 0 and maps without a common pixel at 1 + 1; stages are averaged.
    assert attention_loss([left], [5 * left.unsqueeze(1)]).item() == pytest.approx(0.0)
    assert attention_loss([left], [right.unsqueeze(1)]).item() == pytest.approx(2.0)
    assert attention_loss([left, left], [left.unsqueeze(1), right.unsqueeze(1)]).item() == pytest.approx(1.0)
    # A teacher of four times the pixels with the same picture teaches the same.
    picture = torch.tensor([[[0.6, 0.0], [0.0, 0.8]]])
    large = F.interpolate(picture.unsqueeze(1), (8, 8), mode="nearest")
    assert attention_loss([picture], [large]).item() < 0.2 < attention_loss([picture.flip(1)], [large]).item()


def test_maps_follow_the_slices_and_leave_no_hook(network: Callable[[], nn.Module], squares: SliceSet) -> None:
    teacher = network()
    targets = soft_targets(teacher, squares.images, stages=[STAGE], batch_size=7)
    (maps,) = targets.stages
    assert maps.stage == STAGE and maps.maps.shape == (48, 16, 16) and maps.maps.dtype == np.float16
    with torch.no_grad():
        hidden = nn.Sequential(*list(teacher.children())[:4])(torch.from_numpy(squares.images[20:21]))
    assert torch.allclose(maps.batch(np.array([20]))[:, 0], attention_map(hidden, 1), atol=1e-3)
    assert not teacher.get_submodule("3")._forward_hooks


def test_a_student_comes_to_look_where_the_teacher_looks(network: Callable[[], nn.Module], squares: SliceSet) -> None:
    looks = squares.labels.astype(np.float16)
    lesson = SoftTargets(np.zeros((48, 2, 16, 16), np.float16), (StageMaps(STAGE, looks),))
    distance = {}
    for weight in (0.0, 1.0):
        student = network()
        settings = TrainSettings(steps=40, learning_rate=0.01, distill_weight=0.0, feature_weight=weight, bf16="on")
        train(student, squares, settings, teacher=lesson)
        with torch.no_grad(), watched(student, [STAGE]) as outputs:
            student(torch.from_numpy(squares.images))
        own = attention_map(outputs["3"], 1)
        distance[weight] = attention_loss([own], [torch.from_numpy(looks).float().unsqueeze(1)]).item()
    assert distance[1.0] < 0.7 * distance[0.0]


def test_hooks_go_whatever_ends_the_training(network: Callable[[], nn.Module], squares: SliceSet) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    student = network()
    lesson = soft_targets(network(), squares.images, stages=[STAGE])
    settings = TrainSettings(steps=3, feature_weight=1.0)
    train(student, squares, settings, teacher=lesson)
    with pytest.raises(KeyboardInterrupt):
        train(student, squares, settings, teacher=lesson, on_progress=interrupt)
    assert not any(module._forward_hooks for module in student.modules())


def test_stages_that_the_student_lacks_are_passed_over(network: Callable[[], nn.Module], squares: SliceSet) -> None:
    lesson = soft_targets(network(), squares.images, stages=[STAGE])
    shallow = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1))
    outcome = train(shallow, squares, TrainSettings(steps=2, feature_weight=1.0), teacher=lesson)
    assert outcome.status == "done"


def test_maps_of_other_data_are_refused(network: Callable[[], nn.Module], squares: SliceSet) -> None:
    targets = soft_targets(network(), squares.images)
    wrong = SoftTargets(targets.logits, (StageMaps(STAGE, np.zeros((10, 16, 16), np.float16)),))
    with pytest.raises(ConfigError, match="maps cover 10 slices"):
        train(network(), squares, TrainSettings(steps=1, feature_weight=1.0), teacher=wrong)
