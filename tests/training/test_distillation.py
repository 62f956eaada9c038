"""The teacher's lesson: agrees with PyTorch's divergence, survives other resolutions, and teaches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autocompress.data.dataset import SliceSet
from autocompress.errors import ConfigError
from autocompress.training.distillation import SoftTargets, distillation_loss, soft_targets
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
