"""From names and flags to a `SearchPlan`: what can be wrong with a wish is found here, before work begins."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autocompress.config import CompressionConfig
from autocompress.data import open_dataset
from autocompress.errors import ConfigError, SpecError, UserError
from autocompress.hardware.predicted import basis_of, find_target, with_all_predictors
from autocompress.hardware.targets import Hosts, Target, on_hosts
from autocompress.models import get_family
from autocompress.paths import read_json
from autocompress.search.adoption import find_parent
from autocompress.search.own_recipe import one_ratio, take_recipe
from autocompress.search.plan import SearchPlan
from autocompress.search.records import FRONT_FILE
from autocompress.search.storage import default_url
from autocompress.search.view import find_study
from autocompress.specs.library import list_specs, load_spec, load_study
from autocompress.specs.schemas import StudySpec

DEFAULT_STUDY = "default"
MAX_AUTO_WORKERS = 16

_OVERRIDES = {
    # argument -> field of the study
    "data": "data",
    "family": "family",
    "space": "space",
    "objective": "objective",
    "seed": "seed",
    "workers": "workers",
    "min_dice": "objective.constraints.min_dice",
    "max_latency": "objective.constraints.max_latency_ms",
    "max_memory": "objective.constraints.max_memory_bytes",
    "max_size": "objective.constraints.max_size_bytes",
    "trial_seconds": "training.trial_seconds",
    "sampler": "sampler.name",
    "warm_start": "warm_start",
}

OPTIONS = frozenset(
    {*_OVERRIDES, "target", "budget", "trials", "parent", "no_parent", "no_distill", "recipe", "no_stopping"}
)
"""Arguments that change fields of the study."""


def resolve(
    study: str | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    out: Path | str = "runs",
    storage: str | None = None,
    engines: Sequence[str] | None = None,
    priors: bool = True,
    ray_address: str | None = None,
    predict: bool = False,
    hosts: Hosts | None = None,
    measure_later: bool = False,
    gpus_per_trial: float = 0.0,
    ray_dashboard: bool = False,
    artifacts: str | None = None,
) -> SearchPlan:
    """Resolve a study.

    Args:
        study: name or path of a study's YAML; any other word names a new study with the default settings; None is the
            default study, named after its data and target.
        overrides: dotted fields of the study and their values, see `overrides_of`.
        out: folder in which the study gets a folder of its own.
        storage: database URL; SQLite in the study's folder by default.
        engines: engines of the target to use; all that can be used by default.
        priors: try the paper's steps A to D first.
        ray_address: of a running Ray cluster.
        predict: predict latency and memory instead of measuring them, for a target that is not at hand.
        hosts: where the target on another machine is reached over SSH.
        measure_later: train on while such a host is away, by predicted latency, and measure when it is back.
        gpus_per_trial: share of a GPU that Ray keeps for each trial: 0, above 0 and at most 1, or a whole number.
        ray_dashboard: start Ray's own dashboard.
        artifacts: where the front's bundles are kept as artifacts too: a folder, or ``s3://BUCKET``.

    Raises:
        UserError: a name is unknown, a value is not allowed, the data cannot be read, the target cannot be used.
    """
    if gpus_per_trial < 0 or (gpus_per_trial > 1 and gpus_per_trial != int(gpus_per_trial)):
        raise UserError(f"--gpus-per-trial {gpus_per_trial:g}: give a share such as 0.5, or a whole number")
    notes: list[str] = []
    base, name = _base(study, notes)
    spec = load_study(base, overrides)
    if spec.data is None:
        raise SpecError(f"study {base} names no data set; give one with --data")
    targets = _targets(spec.targets, engines, predict, hosts or Hosts(), measure_later)
    notes += [
        f"Dice on {target.name} is that of about {target.accuracy_slices} slices, evenly spread over the volumes"
        for target in targets
        if target.remote and target.accuracy_slices is not None
    ]
    notes += [
        f"latency and memory of {target.name} are predicted, not measured: {basis_of(target)}"
        for target in targets
        if target.predicted
    ]
    data = _data(spec)
    dataset = open_dataset(**data)
    if not dataset.cases("validation"):
        raise SpecError(f"data set {data['source']} leaves no patient for validation; raise validation_fraction")
    family = get_family(spec.family)
    # All must compute in a precision; for a prune pattern it is enough that one gains by it.
    precisions = frozenset.intersection(*(target.precisions for target in targets))
    patterns = frozenset.union(*(target.prune_patterns for target in targets)) & set(family.prune_patterns)
    space, left_out = spec.search_space.restrict(precisions=precisions, prune_patterns=patterns)
    if left_out:
        who = " or ".join([*spec.targets, spec.family])
        notes.append(f"left out of the space, because {who} cannot use it: {', '.join(left_out)}")
    shape = {"in_channels": dataset.in_channels, "num_classes": len(dataset.class_names)}
    training = spec.training
    recipe = None
    if training.recipe is not None:
        pruned = next((each for each in targets if "unstructured" in each.prune_patterns), targets[0])
        own = take_recipe(training.recipe, spec.search_space, family=spec.family, target=pruned, **shape)
        recipe, space = own.text, one_ratio(space)
        notes.extend(own.notes)
    parent = _parent(spec, shape)
    if "source" in parent:
        notes.append(f"parent network from {parent['source']}; none is trained")
    warm_start: tuple[CompressionConfig, ...] = ()
    if spec.warm_start is not None:
        warm_start = front_of(spec.warm_start, Path(out).expanduser())
        notes.append(f"tried first: the front of {spec.warm_start}, {len(warm_start)} configurations")
    cores = os.cpu_count() or 1
    workers = spec.workers or min(cores, MAX_AUTO_WORKERS)
    folder = Path(out).expanduser().absolute() / (name or "-".join([dataset.name, *spec.targets]))
    return SearchPlan(
        name=folder.name,
        folder=folder,
        storage=storage or default_url(folder),
        family=spec.family,
        data=data,
        space=space,
        targets=targets,
        dataset=dataset.name,
        classes=dataset.class_names,
        constraints=spec.goal.constraints,
        percentile=spec.goal.latency_percentile,
        training=_training(spec),
        parent=parent,
        sampler=spec.sampler.name,
        startup=spec.sampler.startup_trials,
        priors=priors,
        seed=spec.seed,
        workers=workers,
        threads=max(1, cores // workers),
        budget_seconds=spec.budget.seconds,
        trials=spec.budget.trials,
        trial_seconds=None if training.trial_seconds == "auto" else training.trial_seconds,
        confirm_share=spec.confirm.share,
        ray_address=ray_address,
        measure_later=measure_later,
        gpus_per_trial=gpus_per_trial,
        ray_dashboard=ray_dashboard,
        artifacts=artifacts,
        recipe=recipe,
        rungs=spec.stopping.rungs if spec.stopping.enabled else (),
        eta=spec.stopping.eta,
        warm_start=warm_start,
        notes=tuple(notes),
    )


def front_of(study: str, out: Path) -> tuple[CompressionConfig, ...]:
    """The configurations on the front of another study, for a warm start.

    Args:
        study: its name, or the path of its folder.
        out: folder that holds the studies.

    Raises:
        UserError: there is no such study, it has no front yet, or the front is damaged.
    """
    folder = find_study(study, out)
    path = folder / FRONT_FILE
    try:
        members = read_json(path)["front"] if path.exists() else []
        configs = tuple(CompressionConfig.from_dict(member["config"]) for member in members)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); run that study again, or leave --warm-start out") from error
    if not configs:
        raise UserError(f"study {study} has no front to start from; run it to its end, or leave --warm-start out")
    return configs


def _targets(
    names: Sequence[str], engines: Sequence[str] | None, predict: bool, hosts: Hosts, measure_later: bool
) -> tuple[Target, ...]:
    """The hardware profiles of a study, each resolved on its host."""
    if engines is not None and len(names) > 1:
        raise SpecError(
            f"--engines goes with one target, not with {', '.join(names)}; choose profiles with those engines alone"
        )
    profiles = [load_spec("target", name) for name in names]
    if hosts.addresses:
        away = [profile.name for profile in profiles if profile.host.kind == "ssh"]
        if len(away) > 1:
            raise SpecError(
                f"--host goes with one target on another machine, not with {', '.join(away)}; "
                "write the addresses into the profiles"
            )
        profiles = [on_hosts(each, hosts) if not away or each.name == away[0] else each for each in profiles]
    found = tuple(find_target(profile, engines=engines, predict=predict) for profile in profiles)
    if measure_later:
        found = tuple(
            with_all_predictors(target, profile) if target.remote else target
            for target, profile in zip(found, profiles, strict=True)
        )
    if len({target.name for target in found}) < len(found):
        raise SpecError(f"targets {', '.join(names)}: two of them are called alike; name each profile once")
    return found


def overrides_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the study that arguments of ``autocompress search`` change, as dotted paths.

    Args:
        values: arguments by name, such as ``min_dice``; those that are None or missing change nothing.

    Raises:
        SpecError: two arguments contradict each other.
    """
    changes = {field: values[name] for name, field in _OVERRIDES.items() if values.get(name) is not None}
    if values.get("target") is not None:
        target = values["target"]
        changes["targets"] = [target] if isinstance(target, str) else list(target)
    if values.get("budget") is not None or values.get("trials") is not None:
        # One limit on the command line replaces both of the file: --trials 20 means twenty trials.
        changes["budget"] = {
            name: value
            for name, value in (("seconds", values.get("budget")), ("trials", values.get("trials")))
            if value is not None
        }
    if values.get("no_parent"):
        if values.get("parent") is not None:
            raise SpecError("--parent and --no-parent contradict each other; keep one of them")
        changes["parent.enabled"] = False
        changes["parent.source"] = None
    elif values.get("parent") is not None:
        # The named network replaces what the file says about one to train.
        changes.update({"parent.source": str(values["parent"]), "parent.enabled": True, "parent.config": "auto"})
    if values.get("recipe") is not None:
        changes["training.recipe"] = str(values["recipe"])
    if values.get("no_stopping"):
        changes["stopping.enabled"] = False
    if values.get("no_distill"):
        changes["training.distill_weight"] = 0.0
        changes["training.feature_weight"] = 0.0
    return changes


def _base(study: str | None, notes: list[str]) -> tuple[str, str | None]:
    """The YAML to start from, and the study's name."""
    if study is None:
        return DEFAULT_STUDY, None
    if study in {entry.name for entry in list_specs("study")}:
        return study, study
    if "/" in study or study.endswith((".yaml", ".yml")):
        return study, Path(study).stem
    if not study.replace("-", "").replace("_", "").replace(".", "").isalnum() or study.startswith("."):
        raise UserError(f"--study {study!r} is no name; use letters, digits, '-', '_' and '.'")
    notes.append(f"no studies/{study}.yaml: a new study {study!r} with the default settings")
    return DEFAULT_STUDY, study


def _training(spec: StudySpec) -> dict[str, Any]:
    training = spec.training
    values = {
        "batch_size": training.batch_size,
        "learning_rate": training.lr,
        "weight_decay": training.weight_decay,
        "distill_weight": training.distill_weight if spec.parent.enabled else 0.0,
        "augment": training.augment,
        "bf16": training.autocast,
    }
    if spec.parent.enabled and training.feature_weight > 0:
        # Left out where it does nothing, so that studies and parents from before there was such a setting go on.
        values["feature_weight"] = training.feature_weight
    return values


def _parent(spec: StudySpec, shape: Mapping[str, int]) -> dict[str, Any]:
    """The parent to train, or the one that the user named once it is known to fit."""
    values = spec.parent.to_dict()
    source = values.pop("source")
    if source is None:
        return values
    found = find_parent(source, spec.family, **shape)
    return {
        "enabled": True,
        "config": found.config.to_dict(),
        "source": str(found.folder),
        "digest": found.digest,
    }


def _data(spec: StudySpec) -> dict[str, Any]:
    source = str(spec.data)
    path = Path(source).expanduser()
    return {
        # Workers may run elsewhere than where the command was typed.
        "name_or_path": str(path.resolve()) if path.is_dir() else source,
        "seed": spec.seed,
        "validation_fraction": spec.validation_fraction,
        "class_names": None if spec.class_names is None else list(spec.class_names),
    }
