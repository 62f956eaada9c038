"""The loss of the brief training: cross-entropy plus soft Dice, at the resolution of the labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def segmentation_loss(
    logits: Tensor, labels: Tensor, dice_weight: float = 1.0, cross_entropy_weight: float = 1.0
) -> Tensor:
    """Cross-entropy plus Dice loss, each with its weight.

    Args:
        logits: B x classes x H x W, of any floating type.
        labels: B x H' x W', integers. Where H' x W' differs from H x W the logits are resized bilinearly first, as
            evaluation does: a network with a small output is then judged by the edges that it will really draw.
        dice_weight, cross_entropy_weight: at least 0.

    Returns:
        A float32 scalar.
    """
    logits = at_size(logits.float(), labels.shape[-2:])
    target = labels.long()
    log_probabilities = F.log_softmax(logits, dim=1)
    loss = cross_entropy_weight * F.nll_loss(log_probabilities, target)
    if dice_weight > 0:
        loss = loss + dice_weight * dice_loss(log_probabilities.exp(), target)
    return loss


def dice_loss(probabilities: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """One minus the soft Dice, averaged over the classes in the batch, the background left out.

    The sums run over the whole batch: a slice without an organ then asks for none,
    instead of dividing by almost nothing.

    Args:
        probabilities: B x classes x H x W, in 0..1.
        target: B x H x W, int64 class indices.
        smooth: pixels added above and below the line; keeps the quotient tame where a class is absent.

    Returns:
        A scalar in 0..1.
    """
    classes = probabilities.shape[1]
    flat = probabilities.transpose(0, 1).reshape(classes, -1)
    indices = target.reshape(1, -1)
    # The overlap of class k is the sum, over the pixels labelled k, of its probability: no one-hot array is needed.
    own = flat.gather(0, indices).squeeze(0)
    overlap = torch.zeros(classes, device=flat.device, dtype=flat.dtype).index_add_(0, indices[0], own)
    counts = torch.bincount(indices[0], minlength=classes).to(flat.dtype)
    scores = (2 * overlap + smooth) / (flat.sum(1) + counts + smooth)
    return 1 - scores[1:].mean()


def at_size(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits B x classes x H x W at another height and width, bilinearly; the same tensor where the size fits."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
