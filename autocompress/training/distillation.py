"""Learning from a trained network (the parent): its softened logits, computed once and warped with the batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from autocompress.data.dataset import FloatArray
from autocompress.training.losses import at_size


@dataclass(frozen=True)
class SoftTargets:
    """A teacher's logits over all training slices, in their order.

    Computing them once costs one pass over the data; asking the teacher at every step costs more than the student's
    own step where the teacher is wider. Augmentation moves them by the same affine map as the images.

    Attributes:
        logits: slices x classes x R x R float16, R being the teacher's resolution or smaller.
    """

    logits: NDArray[np.float16]

    def batch(self, chosen: NDArray[np.int64]) -> Tensor:
        """Logits of some slices, float32."""
        return torch.from_numpy(np.asarray(self.logits[chosen], dtype=np.float32))


def soft_targets(
    teacher: nn.Module, images: FloatArray, *, batch_size: int = 32, device: torch.device | None = None
) -> SoftTargets:
    """Run a teacher over slices x channels x R x R at its own resolution; it comes back in its former mode."""
    place = device or torch.device("cpu")
    training = teacher.training
    teacher.to(place).eval()
    parts: list[NDArray[np.float16]] = []
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            part = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size])).to(place)
            # float16 ends at 65504; no sane logit comes near, a runaway one must not become infinite.
            parts.append(teacher(part).float().clamp(-6e4, 6e4).cpu().numpy().astype(np.float16))
    teacher.train(training).to("cpu")
    return SoftTargets(np.concatenate(parts))


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the softened student from the softened teacher (Hinton et al., 2015).

    Args:
        logits: the student's, B x classes x H x W.
        teacher_logits: B x classes x H' x W', resized to the student's size where that differs.
        temperature: divides both; the result is multiplied by its square, so that gradients keep their size.

    Returns:
        A float32 scalar, the mean over pixels.
    """
    student = F.log_softmax(logits.float() / temperature, dim=1)
    taught = F.log_softmax(at_size(teacher_logits.float(), logits.shape[-2:]) / temperature, dim=1)
    divergence = F.kl_div(student, taught, reduction="none", log_target=True).sum(dim=1)
    return divergence.mean() * temperature**2
