"""One trial: build, gate, measure, train, compress, export, evaluate, for one configuration.

Cheap before dear: what the target cannot run is refused before it is built, what is too slow or buys nothing is refused
by a measurement with weights that were not trained yet, and only what is left is trained. The training may pause at a
rung, where the driver decides whether the trial goes on; every stage lies on disk (`autocompress.search.stages`).
"""

from __future__ import annotations

import copy
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.config import CompressionConfig
from autocompress.errors import HeldBackError, UserError
from autocompress.hardware.infer import EngineError
from autocompress.paths import cache_dir, make_dir
from autocompress.search.clock import Clock
from autocompress.search.evaluate import evaluate_file
from autocompress.search.limits import too_dear
from autocompress.search.parent import Parent
from autocompress.search.places import training_place
from autocompress.search.records import (
    MODEL_FILE,
    RECIPE_FILE,
    TRAINING_PART,
    WEIGHTS_FILE,
    Placement,
    Rung,
    TrialRequest,
    TrialResult,
)
from autocompress.search.repair import FLOAT_LAYERS, Judged, fine_tuning, further_training, repaired
from autocompress.search.stages import (
    TRAINING_FILE,
    load_progress,
    load_trained,
    remove_stages,
    save_progress,
    save_trained,
)
from autocompress.search.variants import Variant, Variants, places_of, seen_by

if TYPE_CHECKING:
    from torch import nn

    from autocompress.compression.pruning import SparseMLPruning
    from autocompress.data.dataset import Dataset, FloatArray, SliceSet
    from autocompress.hardware.records import Measurement
    from autocompress.training.trainer import Pruning, TrainOutcome

EXPORTS = "exports"
"""Folder for files that a trial makes on its way."""
LONGER = "longer"
"""Folder for what a member of the front became by further training."""
WORTHWHILE = 0.97
"""Pruning single weights or a lower precision must bring latency below this share of that of the same network without
it; measurements repeat within about 3 %."""


def run_trial(values: Mapping[str, Any]) -> None:
    """Run one trial in this process, from the last stage that lies in its folder.

    It leaves ``result.json`` there, whatever becomes of it; or, where the request names a rung and the trial comes to
    it, or for one part of the trial, ``progress.json`` with what it reached.

    Args:
        values: a `TrialRequest` as plain values.

    Raises:
        OSError: the folder cannot be written to.
        HeldBackError: the host of a target was lost; the same request goes on from the last stage.
    """
    request = TrialRequest.from_dict(values)
    folder = Path(request.folder)
    if TrialResult.load(folder) is not None:
        return
    progress = load_progress(folder, request.number)
    if progress is not None and request.pause_at is not None and _reached(progress, request.pause_at):
        return
    clock = Clock(None if progress is None else progress.seconds)
    result = progress or TrialResult(number=request.number, config=request.config, state="failed")
    ended: TrialResult | None
    try:
        ended = _Trial(request, clock).run(result, gated=progress is not None)
    except HeldBackError:
        raise  # nothing is known of the trial that another try would not change
    except (UserError, EngineError) as error:
        ended = replace(result, state="failed", reason=str(error))
    except OSError:
        raise  # the folder cannot be written to, so neither can the result
    except Exception as error:
        # Libraries raise what they like. The same configuration would fail again, so it is a result like others.
        (folder / "error.txt").write_text(traceback.format_exc())
        ended = replace(result, state="failed", reason=f"{type(error).__name__}: {_first_line(error)}")
    for name in ("untrained", EXPORTS):
        shutil.rmtree(folder / name, ignore_errors=True)
    if ended is not None:
        replace(ended, seconds=clock.seconds()).save(folder)
        remove_stages(folder)


def _reached(progress: TrialResult, share: float) -> bool:
    return any(rung.share >= share - 1e-9 for rung in progress.rungs)


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
        self.places = places_of(request, self.dataset, self.turnstile)

    def run(self, result: TrialResult, *, gated: bool) -> TrialResult | None:
        """From the stage that was reached to the end; None where the rung or the part that was asked for comes before.

        Args:
            result: what is known so far.
            gated: whether the gate was passed before.
        """
        refused = [] if gated else self._refusals(self.config)
        if refused:
            return replace(result, state="pruned", reason="; ".join(refused))
        with self.clock.phase("export"), self.turnstile.step():
            model, inherited = self.build()
        if not gated:
            result = self._gate(model, replace(result, inherited=inherited))
            if result.reason:
                return result
            self._keep_progress(result)
        return None if self.request.part == "gate" else self._train_and_judge(model, result)

    def _train_and_judge(self, model: nn.Module, result: TrialResult) -> TrialResult | None:
        """What comes after the gate, see `run`."""
        kept = load_trained(self.folder, model)
        if kept is None:
            pruning = self._pruning(model)
            outcome = self._train(model, self.request.training, pruning, rungs=True)
            if outcome.status == "paused":
                self._at_rung(model, result, outcome)
                return None
            if outcome.status != "done":
                reason = f"training {outcome.status}: {outcome.reason}"
                return replace(result, state="failed", steps=outcome.steps, reason=reason)
            kept = outcome.steps, None if pruning is None else pruning.recipe.text
            with self.clock.phase("export"):
                save_trained(self.folder, model, steps=kept[0], recipe=kept[1])
            self._keep_progress(result)
        if self.request.part == TRAINING_PART:
            return None
        steps, recipe = kept
        return self._judge(model, recipe, replace(result, steps=steps))

    def _gate(self, model: nn.Module, result: TrialResult) -> TrialResult:
        """What can be known before training; with a reason where the network is not worth it."""
        from autocompress.models.complexity import complexity

        with self.clock.phase("export"), self.turnstile.step():
            counts = complexity(model, self.dataset.in_channels, self.config.resolution)
        result = replace(result, parameters=counts.parameters, gmacs=counts.gmacs)
        under = {name: value for name, value in self.request.limits.to_dict().items() if value is not None}
        variants = self._untrained(self.config, model)
        for place, variant in zip(self.places, variants, strict=True):
            reason = place.screen(variant)
            if reason is not None:
                return replace(result, state="pruned", reason=self._of(place, reason), refused_under=under)
        variants = self._measured(variants, later=True)
        result = self._placed(result, variants)
        unplaced = self._unplaced(result)
        if unplaced:
            # An engine that ran into a fault is a failure; what was refused or predicted without it is not.
            faults = [
                each
                for variant in variants
                if variant.chosen is None
                for each in variant.measurements
                if each.measured and each.outcome != "unsupported"
            ]
            return replace(result, state="failed" if faults else "pruned", reason=unplaced)
        reason = too_dear(result, self.request.limits, self.request.percentile)
        if reason:
            return replace(result, state="pruned", reason=f"{reason}; not trained", refused_under=under)
        return replace(result, state="pruned", reason=self._buys_nothing(variants, model))

    def _keep_progress(self, result: TrialResult) -> None:
        save_progress(self.folder, replace(result, seconds=self.clock.seconds()))

    def _at_rung(self, model: nn.Module, result: TrialResult, outcome: TrainOutcome) -> None:
        """Take down what the paused network reaches on the validation volumes."""
        import torch

        from autocompress.training.compute import pick_device
        from autocompress.training.metrics import evaluate_volumes

        device = pick_device(self.request.training.get("device", "auto"))
        model.to(device)

        def predict(images: FloatArray) -> FloatArray:
            with torch.inference_mode():
                return model(torch.from_numpy(images).to(device)).float().cpu().numpy()

        assert self.request.pause_at is not None
        with self.clock.phase("evaluate"), self.turnstile.step():
            report = evaluate_volumes(predict, self.dataset, "validation", self.config.resolution)
        rung = Rung(self.request.pause_at, report.mean, outcome.seconds)
        self._keep_progress(replace(result, steps=outcome.steps, rungs=(*result.rungs, rung)))

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

    def _refusals(self, config: CompressionConfig) -> list[str]:
        """Why a target cannot run a configuration; empty where all can."""
        return [
            self._of(place, reason)
            for place in self.places
            for reason in place.refusals(seen_by(place, config, self.places))
        ]

    def _of(self, place: Variants, reason: str) -> str:
        """The reason, with the target's name where there are several."""
        return reason if len(self.places) == 1 else f"{place.target.name}: {reason}"

    def _placed(self, result: TrialResult, variants: Sequence[Variant]) -> TrialResult:
        """The result with what the variants took on their targets."""
        first, *rest = variants
        others = tuple(
            Placement(place.target.name, variant.measurements, size_bytes=variant.size_bytes)
            for place, variant in zip(self.places[1:], rest, strict=True)
        )
        return replace(result, measurements=first.measurements, size_bytes=first.size_bytes, others=others)

    def _untrained(self, config: CompressionConfig, model: nn.Module) -> list[Variant]:
        """The network as it is, with its real sparsity and precision, for each target."""
        folder = self.folder / "untrained" / config.identifier
        with self.clock.phase("export"), self.turnstile.step():
            return [
                place.export(model, seen_by(place, config, self.places), folder / place.target.name, untrained=True)
                for place in self.places
            ]

    def _measured(self, variants: Sequence[Variant], *, remeasure: bool = False, later: bool = False) -> list[Variant]:
        """The variants with what they take on their targets.

        Args:
            variants: one for each target.
            remeasure: measure also what the cache knows.
            later: where a host cannot be reached and the study may go on without, predictions are enough for now.
        """
        with self.clock.phase("measure"):
            return [
                self._measured_on(place, variant, remeasure=remeasure, later=later)
                for place, variant in zip(self.places, variants, strict=True)
            ]

    def _measured_on(self, place: Variants, variant: Variant, *, remeasure: bool, later: bool) -> Variant:
        try:
            return place.measure(variant, remeasure=remeasure)
        except HeldBackError:
            if later and self.request.measure_later and place.target.predictors:
                return place.predict(variant)
            raise

    def _owes(self, chosen: Sequence[Measurement | None]) -> bool:
        """Whether a target that can be measured was only predicted, because its host was away."""
        return any(
            place.target.remote and each is not None and not each.measured
            for place, each in zip(self.places, chosen, strict=True)
        )

    def _unplaced(self, result: TrialResult) -> str:
        """Why a target could not run it; empty where all can."""
        for place, chosen, tried in zip(self.places, result.chosen, result.tried, strict=True):
            if chosen is None:
                messages = "; ".join(each.message for each in tried) or "no engine could run it"
                return self._of(place, messages)
        return ""

    def _buys_nothing(self, variants: Sequence[Variant], model: nn.Module) -> str:
        """Zeros or a lower precision that make nothing faster cannot enter the front: they only cost Dice."""
        request = self.request
        if request.max_size_bytes is not None:
            return ""  # a smaller file may be what makes it feasible
        plain = replace(self.config.dense(), precision="fp32")
        if plain == self.config or self._refusals(plain):
            return ""
        if self._owes([variant.measurements[0] for variant in variants]):
            return ""  # predictions are too rough to tell
        references = self._measured(self._untrained(plain, model))
        ours, theirs = self._best(variants), self._best(references)
        if _pays(ours, theirs):
            return ""
        # A machine that others share may have been slower for one of the two: both are measured once more, in turn.
        again = self._best(self._measured(variants, remeasure=True))
        ours = [min(pair) for pair in zip(ours, again, strict=True)]
        again = self._best(self._measured(references, remeasure=True))
        theirs = [min(pair) for pair in zip(theirs, again, strict=True)]
        if _pays(ours, theirs):
            return ""
        told = ", ".join(
            self._of(place, f"{one:.2f} ms against {other:.2f} ms")
            for place, one, other in zip(self.places, ours, theirs, strict=True)
        )
        return f"{told} for {plain.label}: buys no latency here; not trained"

    def _best(self, variants: Sequence[Variant]) -> list[float]:
        """The latency of each variant by its fastest engine; infinite where none ran it."""
        found = self._placed(TrialResult(self.request.number, self.config, "pruned"), variants)
        return [float("inf") if value is None else value for value in found.latencies_ms(self.request.percentile)]

    def _pruning(self, model: nn.Module) -> SparseMLPruning | None:
        from autocompress.compression.pruning import SparseMLPruning

        if self.config.prune_pattern != "unstructured":
            return None
        return SparseMLPruning(model, self.config.prune_ratio, recipe=self.request.recipe)

    def _train(
        self, model: nn.Module, training: Mapping[str, Any], pruning: Pruning | None, *, rungs: bool = False
    ) -> TrainOutcome:
        from autocompress.training.checkpoint import Pause
        from autocompress.training.settings import TrainSettings
        from autocompress.training.trainer import label_resolution_for, train

        resolution = self.config.resolution
        with self._training_place(), self.clock.phase("train"):
            with self.turnstile.step():
                slices: SliceSet = self.dataset.slices(resolution, label_resolution_for(resolution))
            outcome = train(
                model,
                slices,
                TrainSettings.from_dict(training),
                teacher=None if self.parent is None else self.parent.soft_targets(),
                pruning=pruning,
                room=self.turnstile,
                pause=Pause(self.folder / TRAINING_FILE, self.request.pause_at) if rungs else None,
            )
        # Somebody was measuring meanwhile.
        self.clock.move("measure", outcome.waited, "train")
        return outcome

    def _training_place(self) -> AbstractContextManager[None]:
        """One of the places for training, where more trials are on their way than train at once."""
        count = self.request.training_places
        if count is None:
            return nullcontext()
        return training_place(cache_dir() / "places" / self.folder.resolve().parent.parent.name, count)

    def _judge(self, model: nn.Module, recipe: str | None, result: TrialResult) -> TrialResult:
        """Export the trained network and judge those very files, each run by its engine on whole volumes."""
        from safetensors.torch import save_file

        from autocompress.compression.pruning import sparsity_of

        engines = [chosen.engine for chosen in result.chosen if chosen is not None]
        judged, float_dice = self._exported(model, self.config, engines, "trained"), None
        if self.config.precision == "int8":
            plain = replace(self.config, precision="fp32")
            float_dice = self._exported(model, plain, engines, "float").report.mean
            remedies = (lambda: self._mixed(model, engines), lambda: self._fine_tuned(model, engines))
            judged = repaired(judged, float_dice, remedies)
        with self.clock.phase("export"), self.turnstile.step():
            weights = {name: value.contiguous() for name, value in judged.model.state_dict().items()}
            save_file(weights, self.folder / WEIGHTS_FILE)
            if recipe is not None:
                (self.folder / RECIPE_FILE).write_text(recipe)
            trained = [
                replace(variant, files={engine: self._keep(variant, place)})
                for place, variant, engine in zip(self.places, judged.variants, engines, strict=True)
            ]
            sparsity = None if recipe is None else self._sparsity(trained, sparsity_of)
        if self.config.prune_pattern == "unstructured" or judged.repair or self._owes(result.chosen):
            # Training chose other zeros than the stand-in had, or a repair other layers; both decide the time.
            trained = self._measured(trained)
            result = self._placed(result, trained)
        others = tuple(
            replace(other, dice=report.mean, file=variant.path.name, size_bytes=variant.size_bytes)
            for other, report, variant in zip(result.others, judged.reports[1:], trained[1:], strict=True)
        )
        return replace(
            result,
            state="complete",
            dice=judged.report.mean,
            per_class=judged.report.per_class,
            size_bytes=trained[0].size_bytes,
            sparsity=sparsity,
            dice_float=float_dice,
            repair=judged.repair,
            file=trained[0].path.name,
            others=others,
        )

    def _keep(self, variant: Variant, place: Variants) -> Path:
        """Move a trained file to where it stays."""
        stem = Path(MODEL_FILE).stem
        name = stem if place is self.places[0] else f"{stem}-{place.target.name}"
        return variant.path.replace(self.folder / f"{name}{variant.path.suffix}")

    def _sparsity(self, trained: Sequence[Variant], sparsity_of: Callable[[Path], float]) -> float:
        """Share of zeros in the file for the target that skips them."""
        for place, variant in zip(self.places, trained, strict=True):
            if "unstructured" in place.target.prune_patterns:
                return sparsity_of(variant.path)
        return sparsity_of(trained[0].path)

    def _exported(
        self, model: nn.Module, config: CompressionConfig, engines: Sequence[str], folder: str, *, keep_float: int = 0
    ) -> Judged:
        """The network as a file for one engine of each target, and their Dice on the validation volumes."""
        variants, reports = [], []
        for place, engine in zip(self.places, engines, strict=True):
            with self.clock.phase("export"), self.turnstile.step():
                variant = place.export(
                    model,
                    seen_by(place, config, self.places),
                    self.folder / EXPORTS / folder / place.target.name,
                    engine=engine,
                    keep_float=keep_float,
                )
            with self.clock.phase("evaluate"), place.room():
                report = evaluate_file(
                    variant.path,
                    place.target.engine(engine),
                    place.target,
                    self.dataset,
                    "validation",
                    resolution=config.resolution,
                    precision=config.precision,
                    threads=self.request.threads,
                    turnstile=self.turnstile,
                )
            variants.append(variant)
            reports.append(report)
        return Judged(model, variants, reports)

    def _mixed(self, model: nn.Module, engines: Sequence[str]) -> Judged:
        """The layers that lose most by rounding stay in float32."""
        judged = self._exported(model, self.config, engines, "mixed", keep_float=FLOAT_LAYERS)
        return replace(judged, repair=f"the {FLOAT_LAYERS} most sensitive layers in float32")

    def _fine_tuned(self, model: nn.Module, engines: Sequence[str]) -> Judged | None:
        """A copy of the network after a short training that sees the rounding; None where that diverged."""
        from autocompress.compression.pruning import KeepZeros
        from autocompress.compression.quantization_aware import quantization_aware

        tuned = copy.deepcopy(model)
        keep = KeepZeros(tuned) if self.config.prune_pattern == "unstructured" else None
        with quantization_aware(tuned):
            outcome = self._train(tuned, fine_tuning(self.request.training), keep)
        if outcome.status != "done":
            return None
        judged = self._exported(tuned, self.config, engines, "tuned")
        return replace(judged, repair=f"{outcome.steps} steps of quantization-aware fine-tuning")


def _pays(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Whether the first are clearly faster than the second on one target at least."""
    return any(one <= WORTHWHILE * other for one, other in zip(ours, theirs, strict=True))


def train_longer(request: TrialRequest, result: TrialResult, seconds: float, clock: Clock) -> TrialResult | None:
    """Train a judged network on (in a worker), by a fresh schedule, and judge its file as the trial's was.

    Args:
        request: the trial's.
        result: complete.
        seconds: of training.
        clock: books the time.

    Returns:
        The result with the new Dice and the seconds of the further training, whose files lie in the folder `LONGER` of
        the trial's; None where the file's Dice on the validation volumes is not above what it was, or the network was
        repaired for INT8 after its training.
    """
    from safetensors.torch import load_file, save_file

    from autocompress.compression.pruning import KeepZeros

    if result.repair or result.dice is None:
        return None
    weights = load_file(Path(request.folder) / WEIGHTS_FILE)
    folder = make_dir(Path(request.folder) / LONGER)
    trial = _Trial(replace(request, folder=str(folder), pause_at=None), clock)
    with clock.phase("export"), trial.turnstile.step():
        model, _ = trial.build()
        model.load_state_dict(weights)
    keep = KeepZeros(model) if request.config.prune_pattern == "unstructured" else None
    outcome = trial._train(model, further_training(request.training, seconds), keep)
    if outcome.status != "done":
        return None
    engines = [chosen.engine for chosen in result.chosen if chosen is not None]
    judged = trial._exported(model, request.config, engines, "trained")
    if judged.report.mean <= result.dice:
        shutil.rmtree(folder)
        return None
    with clock.phase("export"), trial.turnstile.step():
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS_FILE)
        files = [trial._keep(variant, place) for place, variant in zip(trial.places, judged.variants, strict=True)]
        shutil.rmtree(folder / EXPORTS, ignore_errors=True)
    others = tuple(
        replace(other, dice=report.mean, file=path.name, size_bytes=path.stat().st_size)
        for other, report, path in zip(result.others, judged.reports[1:], files[1:], strict=True)
    )
    longer = replace(
        result,
        dice=judged.report.mean,
        per_class=judged.report.per_class,
        steps=result.steps + outcome.steps,
        seconds={"train": seconds},
        file=files[0].name,
        size_bytes=files[0].stat().st_size,
        others=others,
    )
    longer.save(folder)  # last, so that a confirmation that is done again finds it whole
    return longer
