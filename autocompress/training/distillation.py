"""Learning from a trained network (the parent): its softened logits and the maps of where it looks.

Both are computed once over all training slices, and warped with the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from autocompress.data.dataset import FloatArray
from autocompress.models.registry import FeatureStage
from autocompress.training.losses import at_size


@dataclass(frozen=True)
class StageMaps:
    """A teacher's attention maps (`attention_map`) of one stage over all training slices, in their order.

    Attributes:
        stage: where they come from; the student's module of that name is compared with them.
        maps: slices x h x w float16, each of L2 norm 1.
    """

    stage: FeatureStage
    maps: NDArray[np.float16]

    def batch(self, chosen: NDArray[np.int64]) -> Tensor:
        """Maps of some slices, B x 1 x h x w float32."""
        return torch.from_numpy(np.asarray(self.maps[chosen], dtype=np.float32)).unsqueeze(1)


@dataclass(frozen=True)
class SoftTargets:
    """A teacher's logits, and maps of its stages, over all training slices in their order.

    Computing them once costs one pass over the data; asking the teacher at every step costs more than the student's
    own step where the teacher is wider. Augmentation moves them by the same affine map as the images.

    Attributes:
        logits: slices x classes x R x R float16, R being the teacher's resolution or smaller.
        stages: maps of its encoder stages; empty where the family names none.
    """

    logits: NDArray[np.float16]
    stages: tuple[StageMaps, ...] = ()

    def batch(self, chosen: NDArray[np.int64]) -> Tensor:
        """Logits of some slices, float32."""
        return torch.from_numpy(np.asarray(self.logits[chosen], dtype=np.float32))


def soft_targets(
    teacher: nn.Module,
    images: FloatArray,
    *,
    stages: Sequence[FeatureStage] = (),
    batch_size: int = 32,
    device: torch.device | None = None,
) -> SoftTargets:
    """Run a teacher over slices x channels x R x R at its own resolution; it comes back in its former mode.

    Args:
        teacher: a trained network.
        images: training slices.
        stages: whose maps are wanted beside the logits, as the model family names them.
        batch_size: slices at once.
        device: where to compute; the CPU where it is None.
    """
    place = device or torch.device("cpu")
    training = teacher.training
    teacher.to(place).eval()
    parts: list[NDArray[np.float16]] = []
    maps: list[list[NDArray[np.float16]]] = [[] for _ in stages]
    with torch.no_grad(), watched(teacher, stages) as outputs:
        for start in range(0, len(images), batch_size):
            part = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size])).to(place)
            # float16 ends at 65504; no sane logit comes near, a runaway one must not become infinite.
            parts.append(teacher(part).float().clamp(-6e4, 6e4).cpu().numpy().astype(np.float16))
            for kept, stage in zip(maps, stages, strict=True):
                kept.append(attention_map(outputs[stage.module], stage.channel_axis).cpu().numpy().astype(np.float16))
    teacher.train(training).to("cpu")
    found = (StageMaps(stage, np.concatenate(kept)) for stage, kept in zip(stages, maps, strict=True))
    return SoftTargets(np.concatenate(parts), tuple(found))


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


@contextmanager
def watched(model: nn.Module, stages: Sequence[FeatureStage]) -> Iterator[dict[str, Tensor]]:
    """Keep what some stages of a network put out, until the block ends, whatever ends it.

    Args:
        model: the network.
        stages: each must be one of its modules.

    Yields:
        The outputs at the latest forward pass by the module's name; empty before the first one.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            outputs[name] = output

        return hook

    handles = [model.get_submodule(stage.module).register_forward_hook(keep(stage.module)) for stage in stages]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def attention_map(features: Tensor, channel_axis: int) -> Tensor:
    """Where a stage is active (Zagoruyko and Komodakis, ICLR 2017): the mean over channels of squared activations.

    Any number of channels gives the same kind of map, which is what lets a narrow student imitate a wide teacher.

    Args:
        features: B x C x H x W or B x H x W x C, of any floating type.
        channel_axis: axis of the channels.

    Returns:
        B x H x W float32, each map of L2 norm 1 over its pixels; zeros where nothing is active.
    """
    return _unit(features.float().square().mean(dim=channel_axis))


def attention_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean over stages and slices of the squared distance between attention maps, 0 (equal) to 2 (nothing in common).

    Args:
        student: its `attention_map` of each stage, B x H x W.
        teacher: the teacher's, B x 1 x h x w, of any scale, resized where their size differs. At least one stage.

    Returns:
        A float32 scalar.
    """
    distances = []
    for own, maps in zip(student, teacher, strict=True):
        # The teacher may see several times as many pixels: without the filter most of them would not count.
        taught = F.interpolate(maps, own.shape[-2:], mode="bilinear", antialias=True)
        distances.append((own - _unit(taught.squeeze(1))).square().sum(dim=(1, 2)).mean())
    return torch.stack(distances).mean()


def _unit(maps: Tensor) -> Tensor:
    """Maps B x H x W, each divided by its L2 norm."""
    return F.normalize(maps.flatten(1), dim=1).view_as(maps)
