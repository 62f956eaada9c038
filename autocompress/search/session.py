"""A whole search: parent, trials, confirmation of the front. What the command and the Python function share."""

from __future__ import annotations

import itertools
import os
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.config import CompressionConfig
from autocompress.errors import NothingFeasibleError, UserError
from autocompress.hardware.targets import Hosts
from autocompress.paths import make_dir, read_json, write_json
from autocompress.search.adoption import adopt_parent
from autocompress.search.artifacts import keep_front
from autocompress.search.budget import confirm_cost, longer_seconds, needed_seconds
from autocompress.search.confirm import confirm_member
from autocompress.search.display import duration, told_ms
from autocompress.search.driver import Driver, Listener
from autocompress.search.executor import RayExecutor
from autocompress.search.interrupts import terminable, uninterrupted
from autocompress.search.ledger import Ledger
from autocompress.search.limits import relative_excess
from autocompress.search.outcome import SHOWN_MISSES, FrontMember, SearchOutcome, nearest_miss, still_on_front
from autocompress.search.parent import Parent, parent_candidates, parent_folder, train_parent
from autocompress.search.plan import SearchPlan
from autocompress.search.records import BUNDLES, CONFIRM_FILE, FRONT_FILE, TRAINING_PART, TrialRequest, TrialResult
from autocompress.search.resolve import OPTIONS, overrides_of, resolve
from autocompress.search.samplers import make_sampler
from autocompress.search.space import ConfigSpace
from autocompress.search.stages import next_part, trial_folder
from autocompress.search.storage import DriverLock, driver_lock, driver_storage, storage_errors
from autocompress.search.trial import LONGER, run_trial

if TYPE_CHECKING:
    import optuna

    from autocompress.data.dataset import Dataset

MIN_TRIAL_SECONDS, MAX_TRIAL_SECONDS = 10.0, 600.0
WANTED_TRIALS = 24
"""Trials that an automatic training time leaves room for: enough for the priors and for the sampler to learn."""
TRIAL_MARGIN = 1.3
"""What a trial takes beside its training, before any has told."""
LATE = 0.02
"""Share of the budget that a trial that is nearly done may take beyond it; 5 % is what is promised."""
TRIAL_OVERHEAD_SECONDS = 8.0
"""Export, measurement and evaluation of one trial on a small processor; only a first guess."""


def run_search(plan: SearchPlan, listener: Listener, *, begun: float | None = None) -> SearchOutcome:
    """Run a study, or take it up where it stopped.

    Args:
        plan: the study.
        listener: is told what happens (see `autocompress.search.driver.Driver`).
        begun: `time.monotonic` at which the caller began to work on this search, which is booked as set-up.

    Raises:
        UserError: something that the user can mend; what was finished is kept.
        KeyboardInterrupt: Ctrl-C or SIGTERM; what was finished is kept, and no trial is left RUNNING.
    """
    began = time.monotonic() if begun is None else begun
    make_dir(plan.folder)
    with driver_lock(plan.folder, plan.storage, plan.name) as lock, terminable():
        ledger = Ledger(plan.folder)
        for note in plan.notes:
            listener({"event": "note", "text": note})
        listener({"event": "stage", "stage": "setting up", "spent": ledger.spent})
        with storage_errors(plan.storage):
            session = _Session(plan, ledger, listener, lock)
            session.check_budget()
            with _executor(plan) as executor:  # takes seconds, so only for what was not refused
                ledger.book("setup", time.monotonic() - began)
                return session.run(executor)


def _executor(plan: SearchPlan) -> RayExecutor:
    return RayExecutor(
        plan.slots,
        plan.ray_address,
        workers=plan.workers,
        gpus=plan.gpus_per_trial,
        only_here=plan.only_here,
        spare=plan.boards,
        dashboard=plan.ray_dashboard,
    )


def _dashboard(executor: RayExecutor) -> str:
    """Where Ray's dashboard is, and what it asks for."""
    if executor.dashboard_url is None:
        return "there is none"
    token = executor.dashboard_token
    return executor.dashboard_url + ("" if token is None else f", which asks for what is in {token}")


class _Session:
    executor: RayExecutor

    def __init__(self, plan: SearchPlan, ledger: Ledger, listener: Listener, lock: DriverLock) -> None:
        from autocompress.data import open_dataset
        from autocompress.models import get_family

        self.plan = plan
        self.ledger = ledger
        self.listen = listener
        self.lock = lock
        self.dataset: Dataset = open_dataset(**plan.data)
        self.space = ConfigSpace(plan.space, get_family(plan.family).check)
        plan.claim(self.dataset.fingerprint)
        self.study = self._open_study()
        self.parent: Parent | None = None
        self.trial_seconds = plan.trial_seconds

    def _open_study(self) -> optuna.Study:
        import optuna
        from optuna.study import StudyDirection

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(
            storage=driver_storage(
                self.plan.storage, self.lock, lambda text: self.listen({"event": "note", "text": text})
            ),
            study_name=self.plan.name,
            directions=[StudyDirection.MAXIMIZE] + len(self.plan.targets) * [StudyDirection.MINIMIZE],
            load_if_exists=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(["Dice (%)", *self._latency_names()])
        return study

    def _latency_names(self) -> list[str]:
        kind = f"latency {self.plan.percentile}"
        names = self.plan.target_names
        return [f"{kind} (ms)"] if len(names) == 1 else [f"{kind} on {name} (ms)" for name in names]

    def check_budget(self) -> None:
        """See that a new study has time for one trial at least, before any of it is spent.

        Raises:
            UserError: it has not; the text says how much it needs.
        """
        plan = self.plan
        if plan.budget_seconds is None or len(self.study.get_trials(deepcopy=False)) > 0:
            return
        trains_parent = plan.parent["enabled"] and "source" not in plan.parent
        shares = plan.confirm_share + (plan.parent["share"] if trains_parent else 0.0)
        trial = TRIAL_MARGIN * (plan.trial_seconds or MIN_TRIAL_SECONDS)
        needed = needed_seconds(self.ledger.spent, trial, shares=shares)
        if plan.budget_seconds < needed:
            raise UserError(
                f"--budget {duration(plan.budget_seconds)} is too small for one trial of "
                f"{plan.trial_seconds or MIN_TRIAL_SECONDS:g} s of training: at least {duration(needed)} is needed"
            )

    # -- the three stages -----------------------------------------------------------------------------------------

    def run(self, executor: RayExecutor) -> SearchOutcome:
        self.executor = executor
        if executor.cpus is not None:
            # The cluster's nodes may have more processors than this machine, or fewer.
            self.plan = replace(self.plan, threads=executor.cpus)
            self.listen({"event": "note", "text": f"each trial takes {executor.cpus} CPU of the cluster"})
        if self.plan.ray_dashboard:
            self.listen({"event": "note", "text": f"Ray's dashboard: {_dashboard(executor)}"})
        plan, ledger = self.plan, self.ledger
        self._prepare_parent()
        until = None if plan.budget_seconds is None else (1 - plan.confirm_share) * plan.budget_seconds
        self.trial_seconds = plan.trial_seconds or self._affordable_seconds(until)
        # From here on the plan knows what `auto` stood for.
        self.plan = plan = replace(plan, trial_seconds=self.trial_seconds)
        driver = self._driver()
        driver.take_up()
        if not driver.results:
            driver.enqueue(self._first_configs())
        self.listen(
            {
                "event": "stage",
                "stage": "searching",
                "spent": ledger.spent,
                "detail": f"{len(self.space)} configurations, {self.trial_seconds:.0f} s of training each, "
                f"{plan.workers} at once",
            }
        )
        with ledger.stage(self.executor.slots) as stage:
            try:
                if until is None:
                    driver.run(None, stage)
                else:
                    driver.run(lambda: self._until(driver), stage, deadline=lambda: self._deadline(driver))
            except BaseException:
                with uninterrupted():
                    self.executor.cancel()
                    driver.settle()
                raise
        if driver.away:
            raise UserError(f"{driver.held_back}; repeat the command when it is back: nothing is lost")
        if driver.held_back:
            self.listen({"event": "note", "text": f"{driver.held_back}; repeat the command with a larger budget"})
        if driver.exhausted:
            text = f"the space is exhausted: all of its {len(self.space)} configurations were tried"
            self.listen({"event": "note", "text": text})
        return self._confirm(driver)

    def _first_configs(self) -> list[CompressionConfig]:
        """What is tried before the sampler proposes anything: another study's front, the parent, the paper's steps."""
        warm = [config for config in self.plan.warm_start if config in self.space]
        left_out = [config.label for config in self.plan.warm_start if config not in self.space]
        if left_out:
            text = f"not in this study's space, so not taken from the other study's front: {', '.join(left_out)}"
            self.listen({"event": "note", "text": text})
        parent = None if self.parent is None else self.parent.config
        return [*warm, *(self.space.priors(parent) if self.plan.priors else [])]

    def _until(self, driver: Driver) -> float:
        """Wall second at which the search must leave the rest of the budget to the confirmation of its front."""
        plan = self.plan
        assert plan.budget_seconds is not None
        members = self._to_confirm(driver)
        # Without any there is nothing to train longer: the time is better spent on finding some.
        share = plan.confirm_share if members else 0.0
        return plan.budget_seconds - max(share * plan.budget_seconds, self._confirm_seconds(members))

    def _deadline(self, driver: Driver) -> float:
        """Wall second at which trials that took longer than expected are broken off: else the budget is not kept."""
        assert self.plan.budget_seconds is not None
        return (1 + LATE) * self.plan.budget_seconds - self._confirm_seconds(self._to_confirm(driver))

    def _to_confirm(self, driver: Driver) -> list[TrialResult]:
        """The front, or, where nothing is feasible, what may become it by further training."""
        return driver.front() or self._nearest(driver.results)

    def _confirm_seconds(self, members: Sequence[TrialResult]) -> float:
        """What the confirmation needs at least, by what is known now."""
        return confirm_cost(members, self._test_cases()).of(max(1, len(members)), self.plan.workers)

    def _test_cases(self) -> float:
        """Test volumes for each validation volume."""
        return len(self.dataset.cases("test")) / max(1, len(self.dataset.cases("validation")))

    def _prepare_parent(self) -> None:
        """Have the parent in the cache: the one that the user named, or one that is trained now."""
        if not self.plan.parent["enabled"]:
            return
        link = self.plan.folder / "parent.json"
        folder = self._adopt_parent() if "source" in self.plan.parent else self._train_parent(link)
        self.parent = parent = Parent.load(folder)
        write_json(link, {"folder": str(folder), "config": parent.config.to_dict(), "steps": parent.steps})
        text = f"parent network: {parent.config.label}"
        if parent.steps:  # how long a named one was trained is not known here
            text += f", {parent.steps} steps in {parent.seconds:.0f} s"
        self.listen({"event": "note", "text": text})

    def _adopt_parent(self) -> Path:
        """Folder of the parent that the user named, with its lessons about the study's data."""
        plan = self.plan
        key = {"digest": plan.parent["digest"], "family": plan.family, "config": plan.parent["config"]}
        folder = parent_folder({**key, "fingerprint": self.dataset.fingerprint})
        if not (folder / "parent.json").exists():
            self.listen({"event": "stage", "stage": "adopting the parent network", "spent": self.ledger.spent})
            request = {**key, "source": plan.parent["source"], "data": dict(plan.data), "threads": os.cpu_count() or 1}
            with self.ledger.phase("setup"):
                self._run_one("parent", adopt_parent, {**request, "folder": str(folder)})
        return folder

    def _train_parent(self, link: Path) -> Path:
        """Folder of the trained parent; an earlier run of the study left a link to its own."""
        plan = self.plan
        budget = plan.budget_seconds or (plan.trials or 1) * (plan.trial_seconds or 60.0) / plan.workers
        asked = plan.parent["config"]
        candidates = (
            [CompressionConfig.from_dict(asked)] if isinstance(asked, Mapping) else parent_candidates(plan.space)
        )
        request = {
            "family": plan.family,
            "data": dict(plan.data),
            "training": {**plan.training, "seed": plan.seed},
            "seconds": round(plan.parent["share"] * budget, 1),
            "threads": os.cpu_count() or 1,
            "candidates": [config.to_dict() for config in candidates],
        }
        # Threads say how fast it was made, not what it is.
        key = {name: value for name, value in request.items() if name != "threads"}
        folder = parent_folder({**key, "fingerprint": self.dataset.fingerprint})
        if link.exists():
            folder = Path(read_json(link)["folder"])
        if not (folder / "parent.json").exists():
            self.listen(
                {
                    "event": "stage",
                    "stage": "training the parent network",
                    "spent": self.ledger.spent,
                    "detail": f"{request['seconds']:.0f} s",
                }
            )
            with self.ledger.phase("train"):
                self._run_one("parent", train_parent, {**request, "folder": str(folder)})
        return folder

    def _run_one(self, key: str, task: Any, request: Mapping[str, Any]) -> None:
        # Nothing is measured in it.
        self.executor.submit(key, task, {**request, "part": TRAINING_PART})
        while True:
            for ended in self.executor.wait(0.5):
                if ended.error:
                    raise UserError(f"{key} network: {ended.error}")
                return
            self.listen({"event": "tick", "spent": self.ledger.spent, "eta": None})

    def _affordable_seconds(self, until: float | None) -> float:
        """Training time of each trial that leaves room for `WANTED_TRIALS`."""
        if until is None:
            return 60.0
        slots = self.plan.workers
        room = max(0.0, until - self.ledger.spent)
        seconds = room * slots / WANTED_TRIALS - TRIAL_OVERHEAD_SECONDS
        # What was begun with one training time goes on with it: trials are comparable only then.
        stored = self.study.user_attrs.get("trial_seconds")
        if stored is None:
            stored = round(min(MAX_TRIAL_SECONDS, max(MIN_TRIAL_SECONDS, seconds)), 1)
            self.study.set_user_attr("trial_seconds", stored)
        return float(stored)

    def _driver(self) -> Driver:
        plan = self.plan
        room = (plan.budget_seconds or 0.0) * plan.workers / ((self.trial_seconds or 60.0) + TRIAL_OVERHEAD_SECONDS)
        told = len(self.study.get_trials(deepcopy=False))
        sampler, choice = make_sampler(
            plan.sampler,
            space=self.space,
            seed=plan.seed,
            told=told,
            expected=min(plan.trials or int(room), len(self.space)),
            startup=plan.startup,
            constraints=plan.constraints,
        )
        self.study.sampler = sampler
        self.listen({"event": "note", "text": f"sampler: {choice}"})
        return Driver(
            plan,
            self.study,
            space=self.space,
            executor=self.executor,
            task=run_trial,
            request=self._request,
            ledger=self.ledger,
            listener=self.listen,
        )

    def _request(self, number: int, config: CompressionConfig) -> Mapping[str, Any]:
        plan = self.plan
        folder = trial_folder(plan.folder, number)
        return TrialRequest(
            folder=str(folder),
            number=number,
            config=config,
            family=plan.family,
            data=plan.data,
            target=plan.target.to_dict(),
            training={**plan.training, "seed": plan.seed, "seconds": self.trial_seconds, "threads": plan.threads},
            parent=None if self.parent is None else str(self.parent.folder),
            percentile=plan.percentile,
            threads=plan.threads,
            max_latency_ms=plan.constraints.max_latency_ms,
            max_memory_bytes=plan.constraints.max_memory_bytes,
            max_size_bytes=plan.constraints.max_size_bytes,
            recipe=plan.recipe,
            others=tuple(target.to_dict() for target in plan.targets[1:]),
            training_places=plan.workers if plan.slots > plan.workers else None,
            measure_later=plan.measure_later,
            part=next_part(folder) if plan.only_here else None,
        ).to_dict()

    # -- confirmation ---------------------------------------------------------------------------------------------

    def _confirm(self, driver: Driver) -> SearchOutcome:
        front = driver.front()
        members = self._confirm_members(self._to_confirm(driver), driver.results)
        for result in front:
            if all(result.number != member.trial for member in members):
                latencies = self._member(result).latencies_ms(self.plan.percentile)
                text = f"trial {result.number} left the front: {told_ms(latencies)} when it was measured again"
                self.listen({"event": "note", "text": text})
        outcome = SearchOutcome(
            study=self.plan.name,
            folder=self.plan.folder,
            front=tuple(members),
            nearest_miss="" if members else self._nearest_miss(driver.results, front),
            seconds=self.ledger.seconds(),
            trials={
                state: sum(result.state == state for result in driver.results)
                for state in ("complete", "pruned", "failed")
            },
        )
        write_json(self.plan.folder / FRONT_FILE, outcome.to_dict())
        if self.plan.artifacts is not None:
            keep_front(self.study, members, self.plan.artifacts)
        return outcome

    def _nearest(self, results: Sequence[TrialResult]) -> list[TrialResult]:
        """Trials that miss the Dice alone, which a further training may lift over it; as many as do it at once."""
        misses = [each for each in results if each.state == "complete" and not each.repair and self._affordable(each)]
        misses.sort(key=lambda each: each.dice or 0.0, reverse=True)
        untried = (each for each in misses if not self._was_in_vain(each))
        return list(itertools.islice(untried, min(self.plan.workers, SHOWN_MISSES)))

    def _was_in_vain(self, result: TrialResult) -> bool:
        """Whether a trial was trained longer already, and still misses the Dice."""
        longer = TrialResult.load(self._trial_folder(result) / LONGER)
        return longer is not None and self._lacking(longer.dice) > 0

    def _affordable(self, result: TrialResult) -> bool:
        """Whether it keeps all constraints but that on Dice."""
        return relative_excess(result, self.plan.constraints, self.plan.percentile) == 0.0

    def _nearest_miss(self, results: Sequence[TrialResult], front: Sequence[TrialResult]) -> str:
        if front:  # the search found some, and measuring them again took them away
            labels = ", ".join(each.config.label for each in front)
            return f"nothing feasible: measured again, {labels} took longer than --max-latency; raise it a little"
        longest = [TrialResult.load(self._trial_folder(each) / LONGER) or each for each in results]
        return nearest_miss(longest, self.plan.constraints, self.plan.percentile)

    def _confirm_members(self, wanted: Sequence[TrialResult], results: Sequence[TrialResult]) -> list[FrontMember]:
        """Confirm what was not confirmed yet, and keep what is on the front of all confirmed ones.

        Args:
            wanted: the front; where nothing is feasible, what may become so by further training.
            results: all trials of the study.
        """
        new = [each for each in wanted if not self._is_confirmed(each)]
        budget, workers = self.plan.budget_seconds, self.plan.workers
        seconds = longer_seconds(
            confirm_cost(wanted, self._test_cases()),
            len(new),
            workers,
            left=None if budget is None else budget - self.ledger.spent,
            trial_seconds=self.trial_seconds or 0.0,
        )
        if not seconds:  # a miss stays one
            new = [each for each in new if self._lacking(each.dice) <= 0]
        if new:
            front = all(self._lacking(each.dice) <= 0 for each in new)
            what = "confirming the front" if front else "training the nearest misses longer"
            detail = f"{len(new)} members on the test volumes, measured again" if front else ""
            self.listen({"event": "stage", "stage": what, "spent": self.ledger.spent, "detail": detail})
            if seconds:
                which = "members of the front" if front else ", ".join(f"trial {each.number}" for each in new)
                self.listen({"event": "note", "text": f"{which}: {seconds:.0f} s of further training each"})
        self._confirm_each(new, seconds)
        confirmed = [each for each in results if self._is_confirmed(each) and self._affordable(each)]
        members = self._still_on_front(confirmed)
        # One that had left the front and came back lost its bundle meanwhile.
        again = [each for each in confirmed if any(each.number == m.trial and not m.bundle.is_dir() for m in members)]
        if again:
            self._confirm_each(again)
            members = self._still_on_front(confirmed)
        self._remove_stale_bundles({member.bundle for member in members})
        return members

    def _is_confirmed(self, result: TrialResult) -> bool:
        return (self._trial_folder(result) / CONFIRM_FILE).exists()

    def _lacking(self, dice: float | None) -> float:
        """Percent by which a Dice is below what is asked for; 0 or less where it is not."""
        return (self.plan.constraints.min_dice or 0.0) - (dice or 0.0)

    def _still_on_front(self, front: Sequence[TrialResult]) -> list[FrontMember]:
        return still_on_front([self._member(each) for each in front], self.plan.constraints, self.plan.percentile)

    def _confirm_each(self, results: Sequence[TrialResult], seconds: float = 0.0) -> None:
        """Confirm trials, as many at once as there are workers, after so many seconds of further training."""
        with self.ledger.stage(self.executor.slots) as stage:
            for result in results:
                self.executor.submit(str(result.number), confirm_member, self._confirm_request(result, seconds))
            while self.executor.running:
                for ended in self.executor.wait(0.5):
                    if ended.error:
                        raise UserError(f"confirmation of trial {ended.key} failed: {ended.error}")
                    folder = trial_folder(self.plan.folder, int(ended.key))
                    if not (folder / CONFIRM_FILE).exists():
                        longer = TrialResult.load(folder / LONGER)
                        stage.add({} if longer is None else longer.seconds)
                        self._tell_lacking(int(ended.key), longer)
                        continue
                    values = read_json(folder / CONFIRM_FILE)
                    stage.add(values["seconds"])
                    member = FrontMember.from_dict(values["member"])
                    self.listen(
                        {
                            "event": "confirmed",
                            "trial": member.trial,
                            "dice": member.dice,
                            "dice_test": member.dice_test,
                            "longer_seconds": member.longer_seconds,
                            "was": dict(member.was),
                            **self.plan.told_latencies(member.latencies_ms(self.plan.percentile)),
                        }
                    )
                self.listen({"event": "tick", "spent": self.ledger.spent, "eta": None})

    def _tell_lacking(self, number: int, longer: TrialResult | None) -> None:
        reached = "did not gain" if longer is None else f"reached {longer.dice:.2f} %"
        text = f"trial {number} {reached} by further training: not {self.plan.constraints.min_dice:g} %"
        self.listen({"event": "note", "text": text})

    def _member(self, result: TrialResult) -> FrontMember:
        values = read_json(self._trial_folder(result) / CONFIRM_FILE)["member"]
        # The study's folder may have been moved since.
        return FrontMember.from_dict({**values, "bundle": self.plan.folder / BUNDLES / Path(values["bundle"]).name})

    def _confirm_request(self, result: TrialResult, seconds: float) -> Mapping[str, Any]:
        return {
            "longer_seconds": seconds,
            "min_dice": self.plan.constraints.min_dice,
            "trial": self._request(result.number, result.config),
            "study": self.plan.name,
            "seed": self.plan.seed,
            "bundles": str(self.plan.folder / BUNDLES),
        }

    def _remove_stale_bundles(self, kept: set[Path]) -> None:
        """A study that went on may have pushed earlier members out of its front."""
        folder = self.plan.folder / BUNDLES
        for path in folder.iterdir() if folder.is_dir() else ():
            if path not in kept and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)

    def _trial_folder(self, result: TrialResult) -> Path:
        return trial_folder(self.plan.folder, result.number)


def search(
    study: str | None = None,
    *,
    out: str | Path = "runs",
    storage: str | None = None,
    engines: Sequence[str] | None = None,
    priors: bool = True,
    ray_address: str | None = None,
    predict: bool = False,
    hosts: Sequence[str] = (),
    measure_later: bool = False,
    gpus_per_trial: float = 0.0,
    artifacts: str | None = None,
    listener: Listener | None = None,
    **options: Any,
) -> tuple[FrontMember, ...]:
    """Search, as ``autocompress search`` does, and return the confirmed front, fastest first.

    Args:
        study, out, storage, engines, priors, ray_address, predict, measure_later, gpus_per_trial, artifacts: see
            `autocompress.search.resolve.resolve`.
        hosts: where a target on another machine is reached over SSH, ``[user@]name[:port]`` each.
        listener: is told what happens, for display.
        options: ``target``, ``data``, ``family``, ``space``, ``objective``, ``min_dice``, ``max_latency`` (ms),
            ``max_memory``, ``max_size``, ``budget``, ``trials``, ``trial_seconds``, ``workers``, ``sampler``, ``seed``,
            ``parent``, ``no_parent``, ``no_distill``, ``no_stopping``, ``warm_start`` and ``recipe``, as the
            command takes them.

    Raises:
        UserError: something that the caller can mend, as one line.
        NothingFeasibleError: no trial keeps the constraints; the text tells the nearest miss.
        KeyboardInterrupt: interrupted; the same call goes on.
    """
    begun = time.monotonic()
    unknown = sorted(set(options) - OPTIONS)
    if unknown:
        raise UserError(f"search() takes no option {unknown[0]!r}; known are {', '.join(sorted(OPTIONS))}")
    plan = resolve(
        study,
        overrides=overrides_of(options),
        out=out,
        storage=storage,
        engines=engines,
        priors=priors,
        ray_address=ray_address,
        predict=predict,
        hosts=Hosts(tuple(hosts)),
        measure_later=measure_later,
        gpus_per_trial=gpus_per_trial,
        artifacts=artifacts,
    )
    outcome = run_search(plan, listener or (lambda _: None), begun=begun)
    if not outcome.front:
        raise NothingFeasibleError(outcome.nearest_miss)
    return outcome.front
