"""Brief training of one network within a budget of seconds or steps."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.data.dataset import LabelArray, SliceSet
from autocompress.errors import ConfigError, DataError
from autocompress.training import augment, compute
from autocompress.training.checkpoint import Checkpoint, Pause, optimizer_tensors, restore_optimizer
from autocompress.training.distillation import (
    SoftTargets,
    StageMaps,
    attention_loss,
    attention_map,
    distillation_loss,
    soft_targets,
    watched,
)
from autocompress.training.losses import segmentation_loss
from autocompress.training.settings import TrainSettings

WARMUP_STEPS = 30
"""Steps before the learning rate may reach its peak."""

Status = Literal["done", "paused", "stopped", "diverged"]


class Room(Protocol):
    """Where the training may run: a turnstile that a latency measurement can close."""

    def step(self) -> AbstractContextManager[object]:
        """Held during each step; entering waits while a measurement runs."""
        ...


class Pruning(Protocol):
    """What makes and keeps zeros while a network trains (`autocompress.compression.pruning`)."""

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Called once, before the first step."""
        ...

    def before_step(self, fraction: float) -> None:
        """Called before each optimiser step with the share of the budget that is used, 0 to 1."""
        ...

    def after_step(self) -> None:
        """Called after each optimiser step."""
        ...

    def finish(self) -> None:
        """Called once after the last step, whatever ended the training: the zeros are final afterwards."""
        ...


@runtime_checkable
class ResumablePruning(Pruning, Protocol):
    """A pruning whose training may pause and go on, also in another process."""

    def state(self) -> dict[str, Tensor]:
        """What `resume` needs."""
        ...

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
        """Called once in place of ``start``; the network's weights are those of the pause."""
        ...


@dataclass(frozen=True)
class TrainOutcome:
    """How a training ended; the network itself was trained in place.

    Attributes:
        status: ``done`` (budget used), ``paused`` (its state is on disk), ``stopped`` (the caller's ``stop`` said so)
            or ``diverged`` (a loss was not finite: the weights are worthless).
        reason: one line where the status is not ``done``.
        steps: optimiser steps taken, those before a pause among them.
        seconds: seconds of training, waiting not counted; likewise.
        waited: seconds that this call spent waiting for measurements.
        loss: mean loss of the last tenth of the steps; NaN where none was taken.
        bf16: whether matrix products ran in bfloat16.
        device: ``cpu`` or ``cuda``.
    """

    status: Status
    steps: int
    seconds: float
    waited: float
    loss: float
    bf16: bool
    device: str
    reason: str = ""


def train(
    model: nn.Module,
    slices: SliceSet,
    settings: TrainSettings,
    *,
    teacher: nn.Module | SoftTargets | None = None,
    pruning: Pruning | None = None,
    room: Room | None = None,
    on_progress: Callable[[int, float, float, float], None] | None = None,
    stop: Callable[[], str | None] | None = None,
    pause: Pause | None = None,
) -> TrainOutcome:
    """Train ``model`` in place on ``slices``; it comes back on the CPU and in evaluation mode.

    Args:
        model: takes B x channels x R x R, gives logits B x classes x R x R.
        slices: training slices; their labels may have a higher resolution than the images, and the loss is then
            taken at that resolution (see `label_resolution_for`).
        settings: how to train.
        teacher: its logits over all slices (`soft_targets`), and maps of its stages, of which those count that the
            model has too; or a network at the slices' own resolution whose logits are computed first, at the
            budget's cost.
        pruning: makes or keeps zeros.
        room: each step is taken inside ``room.step()``.
        on_progress: called after each step with (steps so far, share of the budget used, loss, seconds of training).
        stop: asked before each step; a text ends the training with that reason.
        pause: where to go on from, and when to pause. A training that paused goes on as if it had not: with steps as
            the budget the weights are the same bit for bit. Of a paused network the zeros are those of the moment.

    Raises:
        DataError: there are no slices, a label lies beyond the network's classes, or the state of the pause is damaged
            or of another network.
        ConfigError: ``settings.device`` is ``cuda`` and there is no GPU, the teacher does not fit the slices, or the
            pruning cannot pause.
    """
    if len(slices.images) == 0:
        raise DataError("the training split holds no slices")
    if pause is not None and pruning is not None and not isinstance(pruning, ResumablePruning):
        raise ConfigError(f"a training with {type(pruning).__name__} cannot pause")
    device = compute.pick_device(settings.device)
    bf16 = compute.use_bf16(settings.bf16, device)
    with compute.threads(settings.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        try:
            model.to(device).train()
            run = _Run(model, slices, settings, device=device, bf16=bf16, room=room)
            return run.train(teacher, pruning, on_progress, stop, pause)
        finally:
            model.to("cpu").eval()


def label_resolution_for(resolution: int) -> int:
    """The label resolution at which training a network of this input resolution pays: its own.

    On ACDC at 64 pixels, labels at 128 gave the same Dice for the same steps (59.4 against 59.3 in validation).
    """
    return resolution


class _Run:
    """The state of one training."""

    def __init__(
        self,
        model: nn.Module,
        slices: SliceSet,
        settings: TrainSettings,
        *,
        device: torch.device,
        bf16: bool,
        room: Room | None,
    ) -> None:
        self.model = model
        self.slices = slices
        self.settings = settings
        self.device = device
        self.bf16 = bf16
        self.room = room
        self.rng = np.random.default_rng(settings.seed)
        self.augmentation = augment.Augmentation(
            flip_horizontal=settings.flip_horizontal, flip_vertical=settings.flip_vertical
        )
        self.steps = 0
        self.seconds = 0.0
        self.waited = 0.0
        self.losses: list[float] = []
        self.targets: SoftTargets | None = None
        self.stages: tuple[StageMaps, ...] = ()
        self.outputs: dict[str, Tensor] = {}
        # The order of the slices in this epoch, and how many of them were used.
        self.order: NDArray[np.int64] = np.empty(0, np.int64)
        self.position = 0

    def train(
        self,
        teacher: nn.Module | SoftTargets | None,
        pruning: Pruning | None,
        on_progress: Callable[[int, float, float, float], None] | None,
        stop: Callable[[], str | None] | None,
        pause: Pause | None,
    ) -> TrainOutcome:
        self._check_labels()
        start_from_prior(self.model, self.slices.labels)
        if teacher is not None and max(self.settings.distill_weight, self.settings.feature_weight) > 0:
            self._take_targets(teacher)
        with watched(self.model, [each.stage for each in self.stages]) as self.outputs:
            return self._loop(pruning, on_progress, stop, pause)

    def _loop(
        self,
        pruning: Pruning | None,
        on_progress: Callable[[int, float, float, float], None] | None,
        stop: Callable[[], str | None] | None,
        pause: Pause | None,
    ) -> TrainOutcome:
        optimizer = make_optimizer(self.model, self.settings)
        if pause is not None and pause.path.exists():
            self._take_up(pause.path, optimizer, pruning)
        elif pruning is not None:
            pruning.start(self.model, optimizer)
        paused = False
        try:
            while self.fraction < 1:
                if pause is not None and pause.at is not None and self.fraction >= pause.at:
                    self._put_down(pause.path, optimizer, pruning)
                    paused = True
                    return self._outcome("paused", f"at {100 * pause.at:.0f} % of the budget")
                reason = stop() if stop is not None else None
                if reason:
                    return self._outcome("stopped", reason)
                with self._inside():
                    loss = self._step(self._batch(), optimizer, pruning)
                if not math.isfinite(loss):
                    reason = f"the loss became {loss} at step {self.steps + 1}; lower learning_rate or switch bf16 off"
                    return self._outcome("diverged", reason)
                self.steps += 1
                self.losses.append(loss)
                if on_progress is not None:
                    on_progress(self.steps, min(self.fraction, 1.0), loss, self.seconds)
            return self._outcome("done")
        finally:
            if pruning is not None and not paused:
                pruning.finish()

    def _put_down(self, path: Path, optimizer: torch.optim.Optimizer, pruning: Pruning | None) -> None:
        """Keep all that the next step depends on."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_tensors(optimizer),
            "pruning": pruning.state() if isinstance(pruning, ResumablePruning) else {},
            "run": {
                "order": torch.from_numpy(self.order),
                "losses": torch.tensor(self.losses, dtype=torch.float64),
                "torch_random": torch.get_rng_state(),
            },
        }
        if self.device.type == "cuda":
            parts["cuda"] = {"random": torch.cuda.get_rng_state(self.device)}
        Checkpoint(
            {f"{part}/{name}": value for part, tensors in parts.items() for name, value in tensors.items()},
            {
                "steps": self.steps,
                "seconds": self.seconds,
                "position": self.position,
                "random": self.rng.bit_generator.state,
            },
        ).save(path)

    def _take_up(self, path: Path, optimizer: torch.optim.Optimizer, pruning: Pruning | None) -> None:
        kept = Checkpoint.load(path)
        run = kept.part("run")
        try:
            self.model.load_state_dict(kept.part("model"))
            restore_optimizer(optimizer, kept.part("optimizer"))
            if isinstance(pruning, ResumablePruning):
                pruning.resume(self.model, optimizer, kept.part("pruning"))
            self.steps, self.seconds = int(kept.values["steps"]), float(kept.values["seconds"])
            self.order, self.position = run["order"].numpy(), int(kept.values["position"])
            self.losses = run["losses"].tolist()
            self.rng.bit_generator.state = kept.values["random"]
            # Last, because nothing above may draw from it.
            torch.set_rng_state(run["torch_random"])
            if self.device.type == "cuda" and "cuda/random" in kept.tensors:
                torch.cuda.set_rng_state(kept.tensors["cuda/random"], self.device)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            first = (str(error).strip().splitlines() or ["no message"])[0]
            raise DataError(f"{path} does not fit this training ({first}); delete it") from error

    @property
    def fraction(self) -> float:
        """Share of the budget that is used."""
        if self.settings.steps is not None:
            return self.steps / self.settings.steps
        assert self.settings.seconds is not None
        return self.seconds / self.settings.seconds

    def _step(self, chosen: NDArray[np.int64], optimizer: torch.optim.Optimizer, pruning: Pruning | None) -> float:
        fraction = self.fraction
        for group in optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * schedule(fraction, self.settings.warmup, self.steps)
        images, labels, soft, maps = self._load(chosen)
        with compute.autocast(self.device, self.bf16):
            logits = self.model(images)
        share = 0.0 if soft is None else self.settings.distill_weight
        loss = segmentation_loss(logits, labels, self.settings.dice_weight, 1 - share)
        if soft is not None:
            loss = loss + share * distillation_loss(logits, soft, self.settings.temperature)
        if maps:
            own = [attention_map(self.outputs[each.stage.module], each.stage.channel_axis) for each in self.stages]
            loss = loss + self.settings.feature_weight * attention_loss(own, maps)
        value = float(loss.detach())  # waits for the GPU, so that a step has ended when the room is left
        if not math.isfinite(value):
            return value
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        if pruning is not None:
            pruning.before_step(fraction)
        optimizer.step()
        if pruning is not None:
            pruning.after_step()
        return value

    def _load(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor | None, list[Tensor]]:
        """Images, labels, and the teacher's logits and maps of some slices, augmented alike."""
        images = torch.from_numpy(np.array(self.slices.images[chosen])).to(self.device)
        labels = torch.from_numpy(np.array(self.slices.labels[chosen])).to(self.device)
        soft = None
        if self.targets is not None and self.settings.distill_weight > 0:
            soft = self.targets.batch(chosen).to(self.device)
        maps = [each.batch(chosen).to(self.device) for each in self.stages]
        if not self.settings.augment:
            return images, labels.long(), soft, maps
        matrices = augment.draw_geometry(self.rng, len(chosen), self.augmentation).to(self.device)
        images = augment.change_intensity(augment.warp(images, matrices), self.rng, self.augmentation)
        labels = augment.warp_labels(labels, matrices)
        soft = None if soft is None else augment.warp(soft, matrices, outside="border")
        return images, labels, soft, [augment.warp(each, matrices, outside="border") for each in maps]

    def _batch(self) -> NDArray[np.int64]:
        """Indices of the next step's slices: every slice once an epoch, in a new order."""
        count = len(self.slices.images)
        size = min(self.settings.batch_size, count)
        if self.position + size > len(self.order):
            self.order, self.position = self.rng.permutation(count), 0
        chosen = self.order[self.position : self.position + size]
        self.position += size
        return np.sort(chosen)

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        """Hold the room, and book the time before it as waiting and the time in it as training."""
        arrived = time.perf_counter()
        with self.room.step() if self.room is not None else contextlib.nullcontext():
            entered = time.perf_counter()
            try:
                yield
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
            finally:
                self.waited += entered - arrived
                self.seconds += time.perf_counter() - entered

    def _take_targets(self, teacher: nn.Module | SoftTargets) -> None:
        if isinstance(teacher, SoftTargets):
            self.targets = teacher
        else:
            with self._inside():
                self.targets = soft_targets(teacher, self.slices.images, device=self.device)
        if self.settings.feature_weight > 0:
            modules = {name for name, _ in self.model.named_modules()}
            self.stages = tuple(each for each in self.targets.stages if each.stage.module in modules)
        for what, array in (("logits", self.targets.logits), *(("maps", each.maps) for each in self.stages)):
            if len(array) != len(self.slices.images):
                raise ConfigError(
                    f"the teacher's {what} cover {len(array)} slices, the training split has "
                    f"{len(self.slices.images)}; compute them anew for this data"
                )

    def _check_labels(self) -> None:
        """A label beyond the classes would be an obscure index error on the CPU and kill a GPU's context."""
        with self._inside(), torch.no_grad():
            self.model.eval()
            classes = self.model(torch.from_numpy(np.array(self.slices.images[:1])).to(self.device)).shape[1]
            self.model.train()
        highest = int(self.slices.labels.max())
        if highest >= classes:
            raise DataError(f"a training label is {highest} but the network has {classes} classes (0 to {classes - 1})")

    def _outcome(self, status: Status, reason: str = "") -> TrainOutcome:
        recent = self.losses[-max(1, len(self.losses) // 10) :]
        loss = float(np.mean(recent)) if recent else math.nan
        return TrainOutcome(status, self.steps, self.seconds, self.waited, loss, self.bf16, self.device.type, reason)


def start_from_prior(model: nn.Module, labels: LabelArray) -> bool:
    """Let a fresh network begin by predicting how frequent each class is.

    Segmentation is mostly background. Starting from equal chances, a brief training spends its first hundreds of steps
    on learning that, with gradients that flatten everything else; many trainings never leave that plateau. So the bias
    of the last layer becomes the logarithm of the class frequencies (after Lin et al., ICCV 2017, section 3.3), where
    that bias still is all zero, as no trained network's is.

    Returns:
        Whether the bias was set.
    """
    bias = None
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            bias = module.bias
    if bias is None or bool(bias.any()) or int(labels.max()) >= bias.numel():
        return False
    counts = np.bincount(np.asarray(labels).ravel(), minlength=bias.numel()).astype(np.float64)
    # One pixel more for each class: the logarithm of a class that never occurs would be infinite.
    prior = np.log((counts + 1) / (counts + 1).sum())
    with torch.no_grad():
        bias.copy_(torch.from_numpy(prior - prior.mean()))
    return True


def schedule(fraction: float, warmup: float, steps: int) -> float:
    """Learning rate relative to its peak: linear up to ``warmup``, then half a cosine down to 0 at 1.

    Whatever the budget, the first `WARMUP_STEPS` steps are slower: AdamW knows the size of the gradients only after
    some tens of them, and inherited weights are easily lost meanwhile.
    """
    # Never zero, or the first step would teach nothing.
    slow = min(1.0, (steps + 1) / WARMUP_STEPS)
    if fraction < warmup:
        return max(min(fraction / warmup, slow), 0.02)
    return slow * 0.5 * (1 + math.cos(math.pi * min(1.0, (fraction - warmup) / (1 - warmup))))


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW; weights with fewer than two dimensions above 1 (biases, norms, temperatures) do not decay."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            matrix = sum(size > 1 for size in parameter.shape) >= 2
            (decayed if matrix else kept).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
