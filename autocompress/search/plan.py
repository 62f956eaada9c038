"""Everything that a search needs to know, resolved: no name is looked up after this."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from autocompress.bundles.provenance import package_versions
from autocompress.config import CompressionConfig
from autocompress.errors import UserError
from autocompress.hardware.hosts.address import parse_address
from autocompress.hardware.targets import Target
from autocompress.paths import read_json, write_json
from autocompress.search.stopping import ETA, StoppingRule
from autocompress.specs.schemas import Constraints, SearchSpace

PLAN_FILE = "study.json"
MIN_RUNG_SECONDS = 3.0
"""Of training before a rung: coming back there costs about a second on a small processor."""


@dataclass(frozen=True)
class SearchPlan:
    """A study, resolved.

    Attributes:
        name: of the study.
        folder: where all of it is written to.
        storage: database URL.
        family: name of the model family.
        data: keyword arguments of `autocompress.data.open_dataset`.
        space: the search space, cut down to what the target can run.
        dataset, classes: name of the data set, and of its classes with the background first.
        targets: the hardware profiles, each resolved on its host; the front is ordered by the first one.
        constraints: what a member of the front must keep to.
        percentile: which latency is minimised.
        training: settings of the brief training without its budget.
        parent: ``{"enabled", "share", "config"}``: the network that students start from; ``{"enabled", "config",
            "source", "digest"}`` where the user named one, the digest being the SHA-256 of its weights.
        sampler: name of the sampler.
        startup: random trials before the sampler's model takes over.
        priors: whether the paper's steps A to D are the first trials.
        seed: of the study.
        workers: trials at once.
        threads: of each worker on this machine; a cluster's share out its processors.
        budget_seconds: wall time for all of it; None where ``trials`` limits it.
        trials: how many configurations to try; None where the budget limits it.
        trial_seconds: of training for each trial; None lets the budget decide.
        confirm_share: share of the budget that is kept for the confirmation of the front.
        ray_address: of a running cluster; None starts Ray on this machine.
        recipe: text of the user's own pruning recipe; None writes one for each trial.
        gpus_per_trial: share of a GPU that Ray keeps for each trial, such as 0.5; 0 for none.
        ray_dashboard: start Ray's own dashboard.
        artifacts: a folder or ``s3://BUCKET`` where the front's bundles are kept too; None for nowhere else.
        measure_later: trials are trained while a host cannot be reached, and measured when it is back.
        rungs: shares of a trial's training at which it is compared with the others; none never stops one early.
        eta: one in so many goes on at each rung.
        warm_start: configurations that are tried first: another study's front.
        notes: what was decided on the way here, one line each, for display.
    """

    name: str
    folder: Path
    storage: str
    family: str
    data: Mapping[str, Any]
    space: SearchSpace
    dataset: str
    classes: tuple[str, ...]
    targets: tuple[Target, ...]
    constraints: Constraints
    percentile: str
    training: Mapping[str, Any]
    parent: Mapping[str, Any]
    sampler: str
    startup: int
    priors: bool
    seed: int
    workers: int
    threads: int
    budget_seconds: float | None
    trials: int | None
    trial_seconds: float | None
    confirm_share: float
    ray_address: str | None = None
    recipe: str | None = None
    measure_later: bool = False
    gpus_per_trial: float = 0.0
    ray_dashboard: bool = False
    artifacts: str | None = None
    rungs: tuple[float, ...] = ()
    eta: int = ETA
    warm_start: tuple[CompressionConfig, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def stopping_rule(self) -> StoppingRule:
        """When trials are stopped early; rungs that come too soon to tell anything are left out."""
        least = MIN_RUNG_SECONDS / self.trial_seconds if self.trial_seconds else 0.0
        rungs = tuple(share for share in self.rungs if share >= least)
        return StoppingRule(rungs, self.eta, self.constraints.min_dice)

    @property
    def slots(self) -> int:
        """Trials on their way at once: as many as train, and one for each board that may be measuring."""
        return self.workers + len(self.boards)

    @property
    def only_here(self) -> bool:
        """Whether trials need this machine, and other nodes of a cluster only train: a target is measured here."""
        return self.ray_address is not None and any(
            target.host_kind == "local" and not target.predicted for target in self.targets
        )

    @property
    def boards(self) -> tuple[str, ...]:
        """Names of the machines that are measured over SSH, without user and port."""
        found = [each for target in self.targets if target.remote for each in target.where.get("address", ())]
        return tuple(parse_address(each).host for each in found)

    @property
    def target(self) -> Target:
        """The first of the targets."""
        return self.targets[0]

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of all targets."""
        return tuple(target.name for target in self.targets)

    def told_latencies(self, values: Sequence[float | None]) -> dict[str, Any]:
        """Latencies on the targets as events tell them: the first one's, and all by name where there are several."""
        named = {"latencies_ms": dict(zip(self.target_names, values, strict=False))} if len(values) > 1 else {}
        return {"latency_ms": values[0], **named}

    def identity(self) -> dict[str, Any]:
        """What must stay the same when a study is taken up again: trials are comparable only then."""
        training = dict(self.training)
        if self.recipe is not None:
            training["recipe"] = hashlib.sha256(self.recipe.encode()).hexdigest()
        return {
            "family": self.family,
            "data": dict(self.data),
            "target": _identity(self.target),
            # Left out where there is one target, so that studies from before there could be more go on.
            **({"others": [_identity(each) for each in self.targets[1:]]} if len(self.targets) > 1 else {}),
            "percentile": self.percentile,
            "training": training,
            # Where a named parent lies may change, its weights may not.
            "parent": {name: value for name, value in self.parent.items() if name != "source"},
        }

    def claim(self, fingerprint: str) -> None:
        """Write the plan into its folder, or check it against the one that lies there.

        Raises:
            UserError: the folder holds a study of the same name that differs in what must stay the same.
        """
        path = self.folder / PLAN_FILE
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        mine = {**self.identity(), "fingerprint": fingerprint}
        if path.exists():
            theirs = read_json(path)
            recorded = theirs.get("identity", {}) if isinstance(theirs, dict) else {}
            created = theirs.get("created", created) if isinstance(theirs, dict) else created
            for key, value in mine.items():
                if key not in recorded or recorded[key] != _plain(value):
                    raise UserError(
                        f"study {self.name!r} in {self.folder} was begun with another {key} "
                        f"({_difference(recorded.get(key), _plain(value))}); "
                        "repeat its command, or choose another --study name"
                    )
        write_json(
            path,
            {
                "schema": "autocompress-study/1",
                "name": self.name,
                "created": created,
                "identity": mine,
                "dataset": self.dataset,
                "classes": list(self.classes),
                "space": self.space.to_dict(),
                "constraints": self.constraints.to_dict(),
                "sampler": self.sampler,
                "stopping": {"rungs": list(self.rungs), "eta": self.eta},
                "seed": self.seed,
                "workers": self.workers,
                "budget_seconds": self.budget_seconds,
                "trials": self.trials,
                "trial_seconds": self.trial_seconds,
                "packages": package_versions(),
                "machine": {key: self.target.host.get(key) for key in ("name", "cpu_model", "cores", "system")},
                "notes": [*self.notes, *_notices(self.targets)],
            },
        )


def _identity(target: Target) -> dict[str, Any]:
    return {
        "name": target.name,
        "engines": [engine.name for engine in target.engines],
        **({"predicted": True} if target.predicted else {}),
    }


def _notices(targets: Sequence[Target]) -> list[str]:
    """What people have to know of the engines, such as a limit in a licence."""
    return list(dict.fromkeys(each.notice for target in targets for each in target.engines if each.notice))


def _plain(value: Any) -> Any:
    """The value as JSON would give it back."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                return f"{key}: {_difference(old.get(key), new.get(key))}"
    return f"{old!r}, now {new!r}"
