"""The parent: one network of the study, trained first, from which every trial inherits and by which it is taught."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autocompress.config import CompressionConfig
from autocompress.errors import ConfigError, UserError
from autocompress.paths import cache_dir, make_dir, read_json, write_json
from autocompress.specs.schemas import SearchSpace

if TYPE_CHECKING:
    from torch import nn

    from autocompress.data.dataset import Dataset
    from autocompress.models import FeatureStage
    from autocompress.training.distillation import SoftTargets
    from autocompress.training.settings import TrainSettings

PARENT_FILE = "parent.json"
WEIGHTS_FILE = "weights.safetensors"
SOFT_FILE = "soft-targets.npy"
MAPS_FILE = "feature-maps-{}.npy"
"""Attention maps of one encoder stage, by its position among the family's feature stages."""

MIN_PARENT_STEPS = 300
"""A parent that takes fewer steps than this teaches nothing; a smaller one is taken then."""
MIN_PARENT_RESOLUTION = 64
"""Below it small organs are lost, and students of a higher resolution could not inherit them."""


@dataclass(frozen=True)
class Parent:
    """A trained parent.

    Attributes:
        folder: where its files lie.
        config: its configuration.
        seconds: of training.
        steps: taken.
        stages: encoder stages whose attention maps lie there; none where the family has none, or in old caches.
    """

    folder: Path
    config: CompressionConfig
    seconds: float
    steps: int
    stages: tuple[FeatureStage, ...] = ()

    @classmethod
    def load(cls, folder: Path) -> Parent:
        """Read what `train_parent` left.

        Raises:
            UserError: it is damaged.
        """
        from autocompress.models import FeatureStage

        values = read_json(folder / PARENT_FILE)
        try:
            config = CompressionConfig.from_dict(values["config"])
            stages = tuple(FeatureStage(**each) for each in values.get("stages", ()))
            return cls(folder, config, float(values["seconds"]), int(values["steps"]), stages)
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise UserError(f"parent network in {folder} is damaged ({error}); delete that folder") from error

    def network(self, family: str, *, in_channels: int, num_classes: int) -> nn.Module:
        """The trained network.

        Raises:
            UserError: the weights do not fit the family, or are damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from autocompress.models import build

        model = build(family, self.config, in_channels=in_channels, num_classes=num_classes)
        try:
            model.load_state_dict(load_file(self.folder / WEIGHTS_FILE))
        except (OSError, RuntimeError, SafetensorError) as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(
                f"parent network in {self.folder} does not fit {family} {self.config.label} ({first}); "
                "delete that folder, or name another parent"
            ) from error
        return model.eval()

    def soft_targets(self) -> SoftTargets:
        """Its logits, and maps of its stages, over all training slices."""
        from autocompress.training.distillation import SoftTargets, StageMaps

        def kept(name: str) -> np.memmap[Any, Any]:
            return np.load(self.folder / name, mmap_mode="r", allow_pickle=False)

        maps = (StageMaps(stage, kept(MAPS_FILE.format(index))) for index, stage in enumerate(self.stages))
        return SoftTargets(kept(SOFT_FILE), tuple(maps))


def parent_folder(key: Mapping[str, Any]) -> Path:
    """Cache folder of the parent that these values determine."""
    text = json.dumps(key, sort_keys=True, default=str)
    return cache_dir() / "parents" / hashlib.sha256(text.encode()).hexdigest()[:20]


def parent_candidates(space: SearchSpace) -> list[CompressionConfig]:
    """Configurations for the parent, most wanted first.

    The deepest and widest network of the space comes first, at its highest resolution; then at lower ones; then
    narrower and at last shallower networks: a level that the parent lacks cannot be inherited at all. Depthwise
    kernels can be embedded in dense ones exactly, not the reverse.
    """
    resolutions = sorted(
        {each for each in space.resolution if each >= MIN_PARENT_RESOLUTION} or {max(space.resolution)}
    )
    grouping = "depthwise" if "depthwise" in space.grouping else space.grouping[0]
    candidates = [
        CompressionConfig(resolution=resolution, levels=levels, width=width, grouping=grouping)
        for levels in sorted(space.levels, reverse=True)
        for width in sorted(space.width, reverse=True)
        for resolution in reversed(resolutions)
    ]
    return candidates


def train_parent(request: Mapping[str, Any]) -> None:
    """Train the parent (in a worker) and leave it in the cache; nothing is done where it lies there already.

    Args:
        request: ``folder``; ``family``; ``data``; ``training``; ``seconds``; ``threads``; ``candidates``, a list of
            configurations of which the first that can take `MIN_PARENT_STEPS` in the time is taken.
    """
    make_once(request, _train)


Made = tuple["nn.Module", CompressionConfig, Mapping[str, Any]]
"""A parent network, its configuration, and what is worth knowing of it: ``seconds`` and ``steps`` at least."""


def make_once(request: Mapping[str, Any], make: Callable[[Mapping[str, Any], Dataset], Made]) -> None:
    """Make a parent and leave it in its folder, where no other process did it before or does it now.

    Args:
        request: ``folder``, ``family``, ``data`` and ``threads``; the rest is for ``make``.
        make: is given the request and the study's data.
    """
    import torch

    from autocompress.data import open_dataset

    folder = make_dir(Path(request["folder"]))
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / PARENT_FILE).exists():
            return
        # The node of a cluster where this runs may have fewer processors than the driver's machine.
        torch.set_num_threads(min(int(request["threads"]), os.cpu_count() or 1))
        dataset = open_dataset(**request["data"])
        model, config, record = make(request, dataset)
        _keep(folder, request["family"], model, config, dataset, record)


def _train(request: Mapping[str, Any], dataset: Dataset) -> Made:
    from autocompress.hardware.turnstile import Turnstile
    from autocompress.models import build
    from autocompress.training.settings import TrainSettings
    from autocompress.training.trainer import train

    shape = {"in_channels": dataset.in_channels, "num_classes": len(dataset.class_names)}
    candidates = [CompressionConfig.from_dict(each) for each in request["candidates"]]
    settings = TrainSettings.from_dict(
        {**request["training"], "seconds": request["seconds"], "distill_weight": 0.0, "feature_weight": 0.0}
    )
    config = _affordable(request["family"], candidates, shape, settings)
    model = build(request["family"], config, **shape)
    slices = dataset.slices(config.resolution)
    begun = time.monotonic()
    outcome = train(model, slices, settings, room=Turnstile())
    if outcome.status != "done":
        raise UserError(f"training of the parent network ended early: {outcome.reason}")
    return model, config, {"seconds": time.monotonic() - begun, "steps": outcome.steps, "loss": outcome.loss}


def _keep(
    folder: Path,
    family: str,
    model: nn.Module,
    config: CompressionConfig,
    dataset: Dataset,
    record: Mapping[str, Any],
) -> None:
    """Leave a trained network in a folder as a parent, with what it teaches; `Parent.load` is the way back.

    Args:
        folder: an existing folder.
        family, model, config: the network.
        dataset: the study's data; the network is run over its training slices.
        record: ``seconds`` and ``steps`` of the training, and what else is worth knowing.
    """
    from safetensors.torch import save_file

    from autocompress.models import get_family
    from autocompress.training.distillation import soft_targets

    stages = get_family(family).feature_stages(model)
    targets = soft_targets(model, dataset.slices(config.resolution).images, stages=stages)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS_FILE)
    np.save(folder / SOFT_FILE, targets.logits, allow_pickle=False)
    for index, each in enumerate(targets.stages):
        np.save(folder / MAPS_FILE.format(index), each.maps, allow_pickle=False)
    # Last: where this file lies, the others are complete.
    write_json(
        folder / PARENT_FILE,
        {
            "config": config.to_dict(),
            **record,
            "dataset": dataset.name,
            "fingerprint": dataset.fingerprint,
            "family": family,
            "in_channels": dataset.in_channels,
            "num_classes": len(dataset.class_names),
            "stages": [asdict(stage) for stage in stages],
        },
    )


def _affordable(
    family: str, candidates: Sequence[CompressionConfig], shape: Mapping[str, int], settings: TrainSettings
) -> CompressionConfig:
    """The first candidate that is likely to take enough steps in the time; the cheapest one where none does."""
    from autocompress.models import get_family

    allowed = (settings.seconds or 0.0) / MIN_PARENT_STEPS
    buildable = []
    for config in candidates:
        with contextlib.suppress(ConfigError):
            get_family(family).check(config)
            buildable.append(config)
    if not buildable:
        raise UserError("the search space holds no network that could be the parent; switch it off with --no-parent")
    position = 0
    while True:
        config = buildable[position]
        step = _step_seconds(family, config, shape, settings.batch_size, allowed)
        if step <= allowed:
            return config
        # Timing each candidate would take long; what one took tells about where to look next.
        rate = step / _work(config)
        likely = (i for i in range(position + 1, len(buildable)) if rate * _work(buildable[i]) <= allowed)
        following = next(likely, None)
        if following is None:
            return min(buildable, key=_work)
        position = following


def _work(config: CompressionConfig) -> float:
    """Training time of one step up to a factor: pixels, and channels between linear and square."""
    return config.resolution**2 * config.width**1.5 * (1 + 0.25 * config.levels)


def _step_seconds(
    family: str, config: CompressionConfig, shape: Mapping[str, int], batch_size: int, allowed: float
) -> float:
    """Time of one training step; where it is far from what is allowed, by that of a quarter of the batch.

    Four small steps take up to twice as long as one large one, and to time a large network in full takes a minute.
    """
    import torch

    from autocompress.models import build

    model = build(family, config, **shape).train()

    def step(batch: int) -> float:
        images = torch.zeros(batch, shape["in_channels"], config.resolution, config.resolution)
        taken = []
        for _ in range(3):  # the first is the warm-up
            begun = time.perf_counter()
            model(images).float().mean().backward()
            taken.append(time.perf_counter() - begun)
        return min(taken[1:])

    quarter = max(1, batch_size // 4)
    roughly = step(quarter) * batch_size / quarter
    return step(batch_size) if allowed < roughly <= 3 * allowed else roughly
