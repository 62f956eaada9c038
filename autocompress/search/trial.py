"""One trial: build, gate, measure, train, compress, export, evaluate, for one configuration.

Cheap before dear: what the target cannot run is refused before it is built, what is too slow or buys nothing is refused
by a measurement with weights that were not trained yet, and only what is left is trained.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.config import CompressionConfig
from autocompress.errors import UserError
from autocompress.hardware.infer import EngineError
from autocompress.search.clock import Clock
from autocompress.search.evaluate import evaluate_file
from autocompress.search.parent import Parent
from autocompress.search.records import MODEL_FILE, RECIPE_FILE, WEIGHTS_FILE, TrialRequest, TrialResult
from autocompress.search.variants import Variant, Variants

if TYPE_CHECKING:
    from torch import nn

    from autocompress.data.dataset import Dataset, SliceSet
    from autocompress.training.trainer import TrainOutcome

WORTHWHILE = 0.97
"""Pruning single weights or a lower precision must bring latency below this share of that of the same network without
it; measurements repeat within about 3 %."""


def run_trial(values: Mapping[str, Any]) -> None:
    """Run one trial in this process and leave ``result.json`` in its folder, whatever becomes of it.

    Args:
        values: a `TrialRequest` as plain values.

    Raises:
        OSError: the folder cannot be written to.
    """
    request = TrialRequest.from_dict(values)
    folder = Path(request.folder)
    if TrialResult.load(folder) is not None:
        return
    clock = Clock()
    result = TrialResult(number=request.number, config=request.config, state="failed")
    try:
        result = _Trial(request, clock).run(result)
    except (UserError, EngineError) as error:
        result = replace(result, state="failed", reason=str(error))
    except OSError:
        raise  # the folder cannot be written to, so neither can the result
    except Exception as error:
        # Libraries raise what they like. The same configuration would fail again, so it is a result like others.
        (folder / "error.txt").write_text(traceback.format_exc())
        result = replace(result, state="failed", reason=f"{type(error).__name__}: {_first_line(error)}")
    shutil.rmtree(folder / "untrained", ignore_errors=True)
    replace(result, seconds=clock.seconds()).save(folder)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300]


class _Trial:
    def __init__(self, request: TrialRequest, clock: Clock) -> None:
        import torch

        from autocompress.data import open_dataset
        from autocompress.hardware.turnstile import Turnstile

        torch.set_num_threads(request.threads)
        self.request = request
        self.config = request.config
        self.folder = Path(request.folder)
        self.clock = clock
        self.dataset: Dataset = open_dataset(**request.data)
        self.parent = None if request.parent is None else Parent.load(Path(request.parent))
        self.turnstile = Turnstile()
        self.variants = Variants(request, self.dataset, self.turnstile)

    def run(self, result: TrialResult) -> TrialResult:
        from autocompress.models.complexity import complexity

        refused = self.variants.refusals(self.config)
        if refused:
            return replace(result, state="pruned", reason="; ".join(refused))
        with self.clock.phase("export"), self.turnstile.step():
            model, inherited = self.build()
            counts = complexity(model, self.dataset.in_channels, self.config.resolution)
        result = replace(result, parameters=counts.parameters, gmacs=counts.gmacs, inherited=inherited)
        variant = self._measured(self.config, model)
        result = replace(result, measurements=variant.measurements, size_bytes=variant.size_bytes)
        reason = self._too_dear(result)
        if reason:
            return replace(result, state="failed" if result.measurement is None else "pruned", reason=reason)
        reason = self._buys_nothing(result, model)
        if reason:
            return replace(result, state="pruned", reason=reason)
        outcome, recipe = self._train(model)
        result = replace(result, steps=outcome.steps)
        if outcome.status != "done":
            return replace(result, state="failed", reason=f"training {outcome.status}: {outcome.reason}")
        return self._judge(model, recipe, variant, result)

    def build(self) -> tuple[nn.Module, float]:
        """The network with the parent's weights, and the share of its weights that came from there."""
        import torch

        from autocompress.models import build, get_family

        shape = {"in_channels": self.dataset.in_channels, "num_classes": len(self.dataset.class_names)}
        torch.manual_seed(int(self.request.training["seed"]))
        model = build(self.request.family, self.config, **shape)
        if self.parent is None:
            return model, 0.0
        report = get_family(self.request.family).inherit(
            model, self.config, self.parent.network(self.request.family, **shape), self.parent.config
        )
        return model, report.inherited_share

    def _measured(self, config: CompressionConfig, model: nn.Module) -> Variant:
        """Export the network as it is, with its real sparsity and precision, and measure it."""
        with self.clock.phase("export"), self.turnstile.step():
            variant = self.variants.export(model, config, self.folder / "untrained" / config.identifier, untrained=True)
        with self.clock.phase("measure"):
            return self.variants.measure(variant)

    def _too_dear(self, result: TrialResult) -> str:
        request = self.request
        if result.measurement is None:
            return "; ".join(each.message for each in result.measurements) or "no engine could run it"
        latency = result.latency_ms(request.percentile)
        memory = result.measurement.peak_memory_bytes
        if request.max_latency_ms is not None and latency is not None and latency > request.max_latency_ms:
            return f"{latency:.2f} ms is above --max-latency {request.max_latency_ms:g}; not trained"
        if request.max_memory_bytes is not None and memory is not None and memory > request.max_memory_bytes:
            limit = request.max_memory_bytes / 1e6
            return f"{memory / 1e6:.0f} MB of memory is above --max-memory {limit:g}MB; not trained"
        size = result.size_bytes
        if request.max_size_bytes is not None and size is not None and size > request.max_size_bytes:
            return f"a file of {size / 1e6:.2f} MB is above --max-size {request.max_size_bytes / 1e6:g}MB; not trained"
        return ""

    def _buys_nothing(self, result: TrialResult, model: nn.Module) -> str:
        """Zeros or a lower precision that make nothing faster cannot enter the front: they only cost Dice."""
        config, request = self.config, self.request
        if request.max_size_bytes is not None:
            return ""  # a smaller file may be what makes it feasible
        plain = replace(config, precision="fp32")
        if config.prune_pattern == "unstructured":
            plain = replace(plain, prune_pattern="none", prune_ratio=0.0)
        if plain == config or self.variants.refusals(plain):
            return ""
        reference = self._measured(plain, model)
        latency = result.latency_ms(request.percentile)
        other = replace(result, measurements=reference.measurements).latency_ms(request.percentile)
        if latency is None or other is None or latency <= WORTHWHILE * other:
            return ""
        return f"{latency:.2f} ms against {other:.2f} ms for {plain.label}: buys no latency here; not trained"

    def _train(self, model: nn.Module) -> tuple[TrainOutcome, str | None]:
        from autocompress.compression.pruning import SparseMLPruning
        from autocompress.training.settings import TrainSettings
        from autocompress.training.trainer import label_resolution_for, train

        resolution = self.config.resolution
        with self.clock.phase("train"):
            with self.turnstile.step():
                slices: SliceSet = self.dataset.slices(resolution, label_resolution_for(resolution))
            pruning = None
            if self.config.prune_pattern == "unstructured":
                pruning = SparseMLPruning(model, self.config.prune_ratio)
            outcome = train(
                model,
                slices,
                TrainSettings.from_dict(self.request.training),
                teacher=None if self.parent is None else self.parent.soft_targets(),
                pruning=pruning,
                room=self.turnstile,
            )
        # Somebody was measuring meanwhile.
        self.clock.move("measure", outcome.waited, "train")
        return outcome, None if pruning is None else pruning.recipe.text

    def _judge(self, model: nn.Module, recipe: str | None, untrained: Variant, result: TrialResult) -> TrialResult:
        """Export the trained network and judge that very file, run by its engine on whole volumes."""
        from safetensors.torch import save_file

        from autocompress.compression.pruning import sparsity_of

        with self.clock.phase("export"), self.turnstile.step():
            save_file(
                {name: value.contiguous() for name, value in model.state_dict().items()}, self.folder / WEIGHTS_FILE
            )
            if recipe is not None:
                (self.folder / RECIPE_FILE).write_text(recipe)
            assert untrained.chosen is not None
            trained = self.variants.export(model, self.config, self.folder / "trained", engine=untrained.chosen)
            trained.path.replace(self.folder / MODEL_FILE)
            trained = replace(trained, files={untrained.chosen: self.folder / MODEL_FILE})
            shutil.rmtree(self.folder / "trained")
            sparsity = None if recipe is None else sparsity_of(trained.path)
        with self.clock.phase("evaluate"), self.turnstile.step():
            report = evaluate_file(
                trained.path,
                self.variants.target.engine(untrained.chosen),
                self.variants.target,
                self.dataset,
                "validation",
                resolution=self.config.resolution,
                precision=self.config.precision,
                threads=self.request.threads,
                turnstile=self.turnstile,
            )
        if self.config.prune_pattern == "unstructured":
            # Training chose other zeros than the stand-in had, and the engine's time depends on where they are.
            with self.clock.phase("measure"):
                trained = self.variants.measure(trained)
            result = replace(result, measurements=trained.measurements)
        return replace(
            result,
            state="complete",
            dice=report.mean,
            per_class=report.per_class,
            size_bytes=trained.size_bytes,
            sparsity=sparsity,
        )
