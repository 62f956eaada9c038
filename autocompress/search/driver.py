"""The loop of a search: ask, run, tell. The only part of the package that talks to the database while it runs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import TrialState

from autocompress.config import CompressionConfig
from autocompress.errors import ConfigError, UserError
from autocompress.pareto import non_dominated
from autocompress.search.executor import Ended
from autocompress.search.ledger import Ledger, Stage
from autocompress.search.limits import violations
from autocompress.search.plan import SearchPlan
from autocompress.search.records import TrialResult
from autocompress.search.space import ConfigSpace

MAX_ATTEMPTS = 3
MAX_REPEATS = 2
TICK_SECONDS = 0.5
HOPELESS = 4
"""So many failures and nothing else mean that something is wrong with more than the configurations."""
_DISK_FULL = "[Errno 28]"

Listener = Callable[[Mapping[str, Any]], None]
Task = Callable[[Mapping[str, Any]], None]


class Executor(Protocol):
    """What the driver needs of `autocompress.search.executor.RayExecutor`."""

    slots: int

    @property
    def running(self) -> tuple[str, ...]:
        """Keys of the tasks that are not over."""
        ...

    def submit(self, key: str, function: Task, values: Mapping[str, Any]) -> None:
        """Start a task."""
        ...

    def wait(self, seconds: float) -> list[Ended]:
        """Tasks that are over, after at most so many seconds."""
        ...


@dataclass(frozen=True)
class Told:
    """A trial that is over, as the study knows it."""

    result: TrialResult
    feasible: bool


class Driver:
    """One study and its trials.

    Args:
        plan: the study.
        study: Optuna's study with the directions (maximise Dice, minimise the latency on each target).
        space: all configurations that may be tried.
        executor: runs the trials.
        task: what a worker does with ``request(number, config)``.
        request: the plain values that a worker needs for a trial.
        ledger: books the time.
        listener: is told what happens, for display; every event is a plain mapping with the key ``event``.
    """

    def __init__(
        self,
        plan: SearchPlan,
        study: optuna.Study,
        *,
        space: ConfigSpace,
        executor: Executor,
        task: Task,
        request: Callable[[int, CompressionConfig], Mapping[str, Any]],
        ledger: Ledger,
        listener: Listener,
    ) -> None:
        self._plan = plan
        self._study = study
        self._space = space
        self._executor = executor
        self._task = task
        self._request = request
        self._ledger = ledger
        self._listen = listener
        self._trials: dict[str, tuple[optuna.Trial, CompressionConfig, float]] = {}
        self._told: dict[str, Told] = {}
        self._retried: set[str] = set()
        self._durations: list[float] = []
        self._rng = random.Random(plan.seed)
        self._repeats = 0
        self._exhausted = False

    # -- taking up and ending -------------------------------------------------------------------------------------

    def take_up(self) -> None:
        """Bring database and disk into agreement: after a break no trial stays RUNNING and no result is lost."""
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state.is_finished() and "repeats" not in trial.user_attrs:
                result = TrialResult.load(self.trial_folder(trial.number))
                if result is not None:
                    self._remember(result)
        self.settle()

    def enqueue(self, configs: Sequence[CompressionConfig]) -> None:
        """Put configurations before what the sampler would propose."""
        for config in configs:
            self._study.enqueue_trial(self._space.parameters(config), skip_if_exists=True)

    def settle(self) -> None:
        """Leave no trial RUNNING: one whose result is on disk is told, every other one is asked again.

        For taking up a study, and for its end after the executor was cancelled. The database is asked and not this
        object, because an interruption may come between any two lines.
        """
        self._trials.clear()
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            live = optuna.Trial(self._study, trial._trial_id)
            result = TrialResult.load(self.trial_folder(trial.number))
            if result is not None:
                self._tell(live, result)
            else:
                self._ask_again(live, _config_of(trial), _attempt(live), "interrupted")

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self, until: float | None, stage: Stage) -> None:
        """Try configurations until wall second ``until`` of the budget, or the last of the trials, or of the space.

        Raises:
            UserError: no trial can succeed: the disk is full, or all of the first ones failed.
        """
        while True:
            while len(self._trials) < self._executor.slots and self._may_launch(until):
                if not self._launch():
                    break
            if not self._trials:
                return
            for ended in self._executor.wait(TICK_SECONDS):
                self._finish(ended, stage)
            self._listen({"event": "tick", "spent": self._ledger.spent, "eta": self._eta(until)})

    @property
    def results(self) -> list[TrialResult]:
        """All trials that are over, repeats left out, in the order of their numbers."""
        return sorted((told.result for told in self._told.values()), key=lambda result: result.number)

    def front(self) -> list[TrialResult]:
        """The Pareto front of the feasible trials, fastest first."""
        candidates = [told.result for told in self._told.values() if told.feasible]
        return pareto_front(candidates, self._plan.percentile)

    def trial_folder(self, number: int) -> Path:
        """Where a trial's files lie."""
        return self._plan.folder / "trials" / f"{number:04d}"

    def _may_launch(self, until: float | None) -> bool:
        if self._exhausted:
            return False
        if self._plan.trials is not None and len(self._told) + len(self._trials) >= self._plan.trials:
            return False
        return until is None or self._ledger.spent + self._expected_seconds() <= until

    def _expected_seconds(self) -> float:
        """How long one more trial is likely to take: the upper end of the trained ones so far."""
        if not self._durations:
            return 1.3 * float(self._plan.trial_seconds or 0.0)
        recent = sorted(self._durations[-8:])
        return recent[(3 * len(recent)) // 4 if len(recent) > 1 else 0]

    def _eta(self, until: float | None) -> float | None:
        if until is not None:
            return max(0.0, until - self._ledger.spent)
        if self._plan.trials is None or not self._durations:
            return None
        left = self._plan.trials - len(self._told)
        return max(0.0, left * self._expected_seconds() / self._executor.slots)

    def _launch(self) -> bool:
        """Ask for one configuration and start it; False when the space is exhausted."""
        while True:
            trial = self._study.ask()
            try:
                config = self._space.suggest(trial)
            except ConfigError:
                self._study.tell(trial, state=TrialState.PRUNED)
                self._prefer_untried()
                if self._exhausted:
                    return False
                continue
            trial.set_user_attr("config", config.to_dict())
            if self._answer_from_record(trial, config):
                if self._exhausted:
                    return False
                continue
            self._repeats = 0
            folder = self.trial_folder(trial.number)
            folder.mkdir(parents=True, exist_ok=True)
            self._trials[str(trial.number)] = (trial, config, time.monotonic())
            self._executor.submit(str(trial.number), self._task, self._request(trial.number, config))
            self._listen({"event": "started", "trial": trial.number, "config": config.to_dict(), "label": config.label})
            return True

    def _answer_from_record(self, trial: optuna.Trial, config: CompressionConfig) -> bool:
        """No configuration is trained twice: a repeat gets the first answer."""
        known = self._told.get(config.identifier)
        if known is not None:
            trial.set_user_attr("repeats", known.result.number)
            self._tell_study(trial, known.result)
        elif any(config == other for _, other, _ in self._trials.values()):
            trial.set_user_attr("repeats", "running")
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            return False
        self._prefer_untried()
        return True

    def _prefer_untried(self) -> None:
        """After a few fruitless proposals in a row, put a random new configuration before the next one."""
        self._repeats += 1
        taken = set(self._told) | {config.identifier for _, config, _ in self._trials.values()}
        untried = self._space.untried(taken, self._rng)
        if untried is None:
            self._exhausted = True
        elif self._repeats > MAX_REPEATS:
            self._study.enqueue_trial(self._space.parameters(untried))

    # -- what became of a trial -----------------------------------------------------------------------------------

    def _finish(self, ended: Ended, stage: Stage) -> None:
        trial, config, begun = self._trials.pop(ended.key)
        result = TrialResult.load(self.trial_folder(trial.number))
        if result is not None:
            stage.add(result.seconds)
        attempt = _attempt(trial)
        if result is None and attempt < MAX_ATTEMPTS:
            self._ask_again(trial, config, attempt + 1, ended.error or "the worker left no result")
        else:
            if result is None:  # a configuration that keeps killing its workers is marked
                reason = f"{ended.error} ({attempt} attempts)"
                result = TrialResult(number=trial.number, config=config, state="failed", reason=reason)
                result.save(self.trial_folder(trial.number))
            elif result.state == "complete":
                self._durations.append(time.monotonic() - begun)
            self._tell(trial, result)
        self._ledger.save()
        if ended.error is not None and _DISK_FULL in ended.error:
            raise UserError(f"{self._plan.folder}: no space left on device; free some and repeat the command")
        outcomes = [told.result for told in self._told.values()]
        if len(outcomes) >= HOPELESS and all(each.state == "failed" for each in outcomes):
            raise UserError(f"the first {len(outcomes)} trials all failed; the last one: {outcomes[-1].reason}")

    def _ask_again(self, trial: optuna.Trial, config: CompressionConfig | None, attempt: int, reason: str) -> None:
        """Work that was lost is put before what the sampler would propose."""
        trial.set_user_attr("reason", reason)
        if config is not None:
            self._study.enqueue_trial(self._space.parameters(config), user_attrs={"attempt": attempt})
        self._study.tell(trial, state=TrialState.FAIL)
        self._listen({"event": "retry", "trial": trial.number, "reason": reason, "attempt": attempt})

    def _tell(self, trial: optuna.Trial, result: TrialResult) -> None:
        self._tell_study(trial, result)
        feasible = self._remember(result)
        self._listen(
            {
                "event": "trial",
                "trial": trial.number,
                "state": result.state,
                "reason": result.reason,
                "config": result.config.to_dict(),
                "label": result.config.label,
                "dice": result.dice,
                **self._latencies(result),
                "feasible": feasible,
                "seconds": dict(result.seconds),
                "front": [{"trial": each.number, "dice": each.dice, **self._latencies(each)} for each in self.front()],
            }
        )

    def _latencies(self, result: TrialResult) -> dict[str, Any]:
        return self._plan.told_latencies(result.latencies_ms(self._plan.percentile))

    def _tell_study(self, trial: optuna.Trial, result: TrialResult) -> None:
        # Attributes and constraints must be written before the trial is told.
        attributes = {
            "label": result.config.label,
            "reason": result.reason,
            "parameters": result.parameters,
            "gmacs": result.gmacs,
            "size_bytes": result.size_bytes,
            "engine": ", ".join(each.engine for each in result.chosen if each is not None),
        }
        for key, value in attributes.items():
            if value not in (None, ""):
                trial.set_user_attr(key, value)
        latencies = [value for value in result.latencies_ms(self._plan.percentile) if value is not None]
        if result.state == "complete" and result.dice is not None and len(latencies) == len(self._plan.targets):
            for name, excess in violations(result, self._plan.constraints, self._plan.percentile).items():
                trial.set_constraint(name, excess)
            self._study.tell(trial, [result.dice, *latencies])
        else:
            self._study.tell(trial, state=TrialState.FAIL if result.state == "failed" else TrialState.PRUNED)

    def _remember(self, result: TrialResult) -> bool:
        excess = violations(result, self._plan.constraints, self._plan.percentile)
        feasible = result.state == "complete" and all(value <= 0 for value in excess.values())
        self._told[result.config.identifier] = Told(result, feasible)
        return feasible


def pareto_front(results: Sequence[TrialResult], percentile: str) -> list[TrialResult]:
    """Members that no other one beats in Dice and in the latency on each target, the fastest on the first one first."""

    def costs(result: TrialResult) -> list[float]:
        latencies = [float("inf") if value is None else value for value in result.latencies_ms(percentile)]
        return [*latencies, -(result.dice or 0.0)]

    judged = [each for each in results if each.dice is not None]
    return non_dominated(sorted(judged, key=lambda each: each.number), costs)


def _config_of(trial: optuna.trial.FrozenTrial) -> CompressionConfig | None:
    values = trial.user_attrs.get("config")
    return CompressionConfig.from_dict(values) if isinstance(values, dict) else None


def _attempt(trial: optuna.Trial) -> int:
    return int(trial.user_attrs.get("attempt", 1))
