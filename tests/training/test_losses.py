"""The loss agrees with MONAI's, and is taken at the labels' resolution."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceLoss
from torch.nn import functional as F

from autocompress.training.losses import dice_loss, segmentation_loss


@pytest.mark.parametrize("classes", [2, 4])
def test_agrees_with_monai(classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, classes, 8, 8, generator=generator)
    labels = torch.randint(0, classes, (3, 8, 8), generator=generator)
    monai = DiceLoss(include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)
    expected = F.cross_entropy(logits, labels) + monai(logits, labels.unsqueeze(1))
    assert torch.allclose(segmentation_loss(logits, labels), expected, atol=1e-6)


def test_dice_by_hand() -> None:
    # Class 1 has probability 0.5 everywhere, 4 pixels; 2 of them are its own: 1 - (2*1 + 1) / (2 + 2 + 1) = 0.4.
    probabilities = torch.full((1, 2, 2, 2), 0.5)
    assert dice_loss(probabilities, torch.tensor([[[1, 1], [0, 0]]])).item() == pytest.approx(0.4)


def test_an_absent_class_asks_for_none() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    sure = torch.zeros(1, 3, 4, 4)
    sure[:, 0] = 50.0
    assert segmentation_loss(sure, labels).item() == pytest.approx(0.0, abs=1e-6)


def test_small_logits_are_judged_at_the_labels_resolution() -> None:
    # A vertical edge in the middle of 8 pixels: 4 logits across can draw it exactly, 1 pixel per class can not.
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, :, 4:] = 1
    edge = torch.tensor([-9.0, -9.0, 9.0, 9.0]).expand(1, 1, 4, 4)
    logits = torch.cat((-edge, edge), dim=1).requires_grad_()
    loss = segmentation_loss(logits, labels)
    flipped = segmentation_loss(-logits, labels)
    assert loss < 0.1 < flipped
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.shape == (1, 2, 4, 4)
