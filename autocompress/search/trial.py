"""One trial: build, gate, measure, train, compress, export, evaluate, for one configuration.

Cheap before dear: what the target cannot run is refused before it is built, what is too slow or buys nothing is refused
by a measurement with weights that were not trained yet, and only what is left is trained.
"""

from __future__ import annotations

import copy
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
from autocompress.search.repair import FLOAT_LAYERS, Judged, fine_tuning, repaired
from autocompress.search.variants import Variant, Variants

if TYPE_CHECKING:
    from torch import nn

    from autocompress.compression.pruning import SparseMLPruning
    from autocompress.data.dataset import Dataset, SliceSet
    from autocompress.training.trainer import Pruning, TrainOutcome

EXPORTS = "exports"
"""Folder for files that a trial makes on its way."""
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
    for name in ("untrained", EXPORTS):
        shutil.rmtree(folder / name, ignore_errors=True)
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
        variant = self._untrained(self.config, model)
        reason = self.variants.screen(variant)
        if reason is not None:
            return replace(result, state="pruned", reason=reason)
        variant = self._measured(variant)
        result = replace(result, measurements=variant.measurements, size_bytes=variant.size_bytes)
        reason = self._too_dear(result)
        if reason:
            # An engine that ran into a fault is a failure; what was refused or predicted without it is not.
            faults = [each for each in result.measurements if each.measured and each.outcome != "unsupported"]
            failed = result.measurement is None and bool(faults)
            return replace(result, state="failed" if failed else "pruned", reason=reason)
        reason = self._buys_nothing(result, model)
        if reason:
            return replace(result, state="pruned", reason=reason)
        pruning = self._pruning(model)
        outcome = self._train(model, self.request.training, pruning)
        result = replace(result, steps=outcome.steps)
        if outcome.status != "done":
            return replace(result, state="failed", reason=f"training {outcome.status}: {outcome.reason}")
        return self._judge(model, None if pruning is None else pruning.recipe.text, variant, result)

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

    def _untrained(self, config: CompressionConfig, model: nn.Module) -> Variant:
        """The network as it is, with its real sparsity and precision."""
        with self.clock.phase("export"), self.turnstile.step():
            return self.variants.export(model, config, self.folder / "untrained" / config.identifier, untrained=True)

    def _measured(self, variant: Variant) -> Variant:
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
        reference = self._measured(self._untrained(plain, model))
        latency = result.latency_ms(request.percentile)
        other = replace(result, measurements=reference.measurements).latency_ms(request.percentile)
        if latency is None or other is None or latency <= WORTHWHILE * other:
            return ""
        return f"{latency:.2f} ms against {other:.2f} ms for {plain.label}: buys no latency here; not trained"

    def _pruning(self, model: nn.Module) -> SparseMLPruning | None:
        from autocompress.compression.pruning import SparseMLPruning

        if self.config.prune_pattern != "unstructured":
            return None
        return SparseMLPruning(model, self.config.prune_ratio, recipe=self.request.recipe)

    def _train(self, model: nn.Module, training: Mapping[str, Any], pruning: Pruning | None) -> TrainOutcome:
        from autocompress.training.settings import TrainSettings
        from autocompress.training.trainer import label_resolution_for, train

        resolution = self.config.resolution
        with self.clock.phase("train"):
            with self.turnstile.step():
                slices: SliceSet = self.dataset.slices(resolution, label_resolution_for(resolution))
            outcome = train(
                model,
                slices,
                TrainSettings.from_dict(training),
                teacher=None if self.parent is None else self.parent.soft_targets(),
                pruning=pruning,
                room=self.turnstile,
            )
        # Somebody was measuring meanwhile.
        self.clock.move("measure", outcome.waited, "train")
        return outcome

    def _judge(self, model: nn.Module, recipe: str | None, untrained: Variant, result: TrialResult) -> TrialResult:
        """Export the trained network and judge that very file, run by its engine on whole volumes."""
        from safetensors.torch import save_file

        from autocompress.compression.pruning import sparsity_of

        assert untrained.chosen is not None
        judged, float_dice = self._exported(model, self.config, untrained.chosen, "trained"), None
        if self.config.precision == "int8":
            plain = replace(self.config, precision="fp32")
            float_dice = self._exported(model, plain, untrained.chosen, "float").report.mean
            engine = untrained.chosen
            remedies = (lambda: self._mixed(model, engine), lambda: self._fine_tuned(model, engine))
            judged = repaired(judged, float_dice, remedies)
        with self.clock.phase("export"), self.turnstile.step():
            weights = {name: value.contiguous() for name, value in judged.model.state_dict().items()}
            save_file(weights, self.folder / WEIGHTS_FILE)
            if recipe is not None:
                (self.folder / RECIPE_FILE).write_text(recipe)
            judged.variant.path.replace(self.folder / MODEL_FILE)
            trained = replace(judged.variant, files={untrained.chosen: self.folder / MODEL_FILE})
            sparsity = None if recipe is None else sparsity_of(trained.path)
        if self.config.prune_pattern == "unstructured" or judged.repair:
            # Training chose other zeros than the stand-in had, or a repair other layers; both decide the time.
            with self.clock.phase("measure"):
                trained = self.variants.measure(trained)
            result = replace(result, measurements=trained.measurements)
        return replace(
            result,
            state="complete",
            dice=judged.report.mean,
            per_class=judged.report.per_class,
            size_bytes=trained.size_bytes,
            sparsity=sparsity,
            dice_float=float_dice,
            repair=judged.repair,
        )

    def _exported(
        self, model: nn.Module, config: CompressionConfig, engine: str, folder: str, *, keep_float: int = 0
    ) -> Judged:
        """The network as a file for one engine, and the Dice of that file on the validation volumes."""
        with self.clock.phase("export"), self.turnstile.step():
            place = self.folder / EXPORTS / folder
            variant = self.variants.export(model, config, place, engine=engine, keep_float=keep_float)
        with self.clock.phase("evaluate"), self.turnstile.step():
            report = evaluate_file(
                variant.path,
                self.variants.target.engine(engine),
                self.variants.target,
                self.dataset,
                "validation",
                resolution=config.resolution,
                precision=config.precision,
                threads=self.request.threads,
                turnstile=self.turnstile,
            )
        return Judged(model, variant, report)

    def _mixed(self, model: nn.Module, engine: str) -> Judged:
        """The layers that lose most by rounding stay in float32."""
        judged = self._exported(model, self.config, engine, "mixed", keep_float=FLOAT_LAYERS)
        return replace(judged, repair=f"the {FLOAT_LAYERS} most sensitive layers in float32")

    def _fine_tuned(self, model: nn.Module, engine: str) -> Judged | None:
        """A copy of the network after a short training that sees the rounding; None where that diverged."""
        from autocompress.compression.pruning import KeepZeros
        from autocompress.compression.quantization_aware import quantization_aware

        tuned = copy.deepcopy(model)
        keep = KeepZeros(tuned) if self.config.prune_pattern == "unstructured" else None
        with quantization_aware(tuned):
            outcome = self._train(tuned, fine_tuning(self.request.training), keep)
        if outcome.status != "done":
            return None
        judged = self._exported(tuned, self.config, engine, "tuned")
        return replace(judged, repair=f"{outcome.steps} steps of quantization-aware fine-tuning")
