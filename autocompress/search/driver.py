"""The loop of a search: ask, run, tell. The only part of the package that talks to the database while it runs."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.trial import TrialState

from autocompress.config import CompressionConfig
from autocompress.errors import ConfigError, HeldBackError, UserError
from autocompress.pareto import non_dominated
from autocompress.search.executor import Ended
from autocompress.search.forecasts import CurveForecaster
from autocompress.search.limits import relative_excess, too_dear, violations
from autocompress.search.plan import SearchPlan
from autocompress.search.records import TrialResult
from autocompress.search.samplers import known_of
from autocompress.search.single_writer import together
from autocompress.search.space import ConfigSpace
from autocompress.search.stages import TrialFiles, TrialFolders
from autocompress.search.stopping import Runner, percent, to_continue, verdict, without_hope
from autocompress.search.surrogate import one_thread

MAX_ATTEMPTS = 3
MAX_REPEATS = 2
TICK_SECONDS = 0.5
HOPELESS = 4
"""So many failures and nothing else mean that something is wrong with more than the configurations."""
AWAY = 3
"""So many trials in a row that were held back mean that the board is away: no new ones are begun."""
_DISK_FULL = "[Errno 28]"
_HELD_BACK = f"{HeldBackError.__name__}: "

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

    def cancel(self) -> None:
        """Kill what runs; others may be started after it."""
        ...


class Books(Protocol):
    """What the driver needs of `autocompress.search.ledger.Ledger`."""

    @property
    def spent(self) -> float:
        """Wall seconds of the study so far."""
        ...

    def save(self) -> None:
        """Keep what was booked."""
        ...


class Hours(Protocol):
    """What the driver needs of `autocompress.search.ledger.Stage`."""

    def add(self, seconds: Mapping[str, float]) -> None:
        """Book what a worker did, by phase."""
        ...


@dataclass(frozen=True)
class Told:
    """A trial that is over, as the study knows it."""

    result: TrialResult
    feasible: bool


@dataclass
class _Live:
    """A trial that a worker has, or that waits for the decision at its rung.

    Attributes:
        trial: Optuna's.
        config: what it tries.
        begun: when its present task was submitted.
        pause_at: the rung up to which its present task trains.
        worked: wall seconds of its earlier tasks.
        booked: seconds by phase that the ledger knows of.
        progress: how far it came, once it reached a rung.
        part: what its present task does of it; None for all.
    """

    trial: optuna.Trial
    config: CompressionConfig
    begun: float
    pause_at: float | None
    worked: float = 0.0
    booked: Mapping[str, float] = field(default_factory=dict)
    progress: TrialResult | None = None
    part: str | None = None


class Driver:
    """One study and its trials.

    Args:
        plan: the study.
        study: Optuna's study with the directions (maximise Dice, minimise the latency on each target).
        space: all configurations that may be tried.
        executor: runs the trials.
        task: what a worker does with ``request(number, config)``, to which ``pause_at`` is added where trials are
            stopped early.
        request: the plain values that a worker needs for a trial from where it is, with the ``part`` of it that is
            to be done where a task does not do all.
        ledger: books the time.
        listener: is told what happens, for display; every event is a plain mapping with the key ``event``.
        files: what trials leave; folders below the study's by default.
        now: seconds of a clock that only goes forward.
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
        ledger: Books,
        listener: Listener,
        files: TrialFiles | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._study = study
        self._space = space
        self._executor = executor
        self._task = task
        self._request = request
        self._ledger = ledger
        self._listen = listener
        self._files = files or TrialFolders(plan.folder)
        self._now = now
        self._rule = plan.stopping_rule
        self._forecaster = CurveForecaster(space)
        self._trials: dict[str, _Live] = {}
        self._told: dict[str, Told] = {}
        self._front: list[TrialResult] | None = None
        self._continued: set[int] = set()
        self._retries: list[optuna.trial.FrozenTrial] = []
        self._held: list[optuna.trial.FrozenTrial] = []
        self._held_in_a_row = 0
        self._held_reason = ""
        self._durations: list[tuple[str, float]] = []
        self._rng = random.Random(plan.seed)
        self._repeats = 0
        self._exhausted = False
        self._settled = False

    # -- taking up and ending -------------------------------------------------------------------------------------

    def take_up(self) -> None:
        """Bring database and disk into agreement: after a break no trial stays RUNNING and no result is lost."""
        trials = self._study.get_trials(deepcopy=False)
        self._continued = {int(each.user_attrs["continues"]) for each in trials if "continues" in each.user_attrs}
        lost = [each for each in trials if "lost" in each.user_attrs and each.state == TrialState.FAIL]
        self._retries = [each for each in lost if each.number not in self._continued]
        for trial in trials:
            if trial.state.is_finished() and "repeats" not in trial.user_attrs:
                result = self._files.result(trial.number)
                if result is None:
                    continue
                if self._no_longer_refused(result):
                    self._told.pop(result.config.identifier, None)
                    self._front = None
                    self.enqueue([result.config], again=True)
                else:
                    self._remember(result)
        self.settle()

    def enqueue(self, configs: Sequence[CompressionConfig], *, again: bool = False) -> None:
        """Put configurations before what the sampler would propose.

        Args:
            configs: of the space.
            again: also those that were tried before.
        """
        for config in configs:
            self._study.enqueue_trial(self._space.parameters(config), skip_if_exists=not again)

    def settle(self, reason: str = "interrupted") -> None:
        """Leave no trial RUNNING: one whose result is on disk is told, every other one is asked again for that reason.

        For taking up a study, and for its end after the executor was cancelled. The database is asked and not this
        object, because an interruption may come between any two lines.
        """
        self._trials.clear()
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            live = optuna.Trial(self._study, trial._trial_id)
            result = self._files.result(trial.number)
            if result is not None:
                self._tell(live, result)
            else:
                self._ask_again(live, _config_of(trial), _attempt(live), reason)

    def _no_longer_refused(self, result: TrialResult) -> bool:
        """Whether a trial was refused for a limit that has been loosened so far that it keeps it now."""
        if not result.refused_under:
            return False
        if result.measurement is not None:
            return not too_dear(result, self._plan.constraints, self._plan.percentile)
        now = self._plan.constraints.to_dict()
        return any(now[name] is None or now[name] > value for name, value in result.refused_under.items())

    # -- the loop -------------------------------------------------------------------------------------------------

    @one_thread()
    def run(
        self,
        budget: float | Callable[[], float] | None,
        stage: Hours,
        *,
        deadline: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """Try configurations until a wall second of the study, or the last of the trials, or of the space.

        Args:
            budget: that second, or what tells it anew before each decision; None for no limit.
            stage: is told what the workers did.
            deadline: tells the second at which what still runs is broken off, as by Ctrl-C. While no trial is complete
                nothing is: one that is late is better than none.

        Raises:
            UserError: no trial can succeed: the disk is full, or all of the first ones failed.
        """
        while True:
            until = budget() if callable(budget) else budget
            self._fill_all(until)
            if not self._trials:
                if self._held and not self.away and self._lasts(until):
                    self._ask_held_ones()  # there is nothing else left to do
                    continue
                return
            late = self._ledger.spent >= deadline()
            if late and any(told.result.state == "complete" for told in self._told.values()):
                self._executor.cancel()
                self.settle("the budget was over before its end")
                return
            for ended in self._executor.wait(TICK_SECONDS):
                self._finish(ended, stage, until)
                self._fill_all(until)  # at once: telling all of many that ended together takes seconds
            self._listen({"event": "tick", "spent": self._ledger.spent, "eta": self._eta(until)})

    @property
    def away(self) -> bool:
        """Whether a target was lost and did not come back: trials are held back one after the other."""
        return self._held_in_a_row >= AWAY

    @property
    def held_back(self) -> str:
        """How many trials wait for a host that was lost, and why; empty where none does."""
        count = len(self._held)
        if not count:
            return ""
        return (
            f"{count} trial{'s were' if count > 1 else ' was'} held back and will be asked again: {self._held_reason}"
        )

    def _fill_all(self, until: float | None) -> None:
        """Give every free worker something to do, as long as there is something."""
        while len(self._trials) < self._executor.slots and self._fill(until):
            pass

    def _fill(self, until: float | None) -> bool:
        """Give a free worker something to do: lost work first, then what deserves to go on, then something new."""
        if self.away and not self._plan.measure_later:
            return False
        return (
            self._retry(until)
            or self._continue(until)
            or (self._may_launch(until) and self._launch())
            # Nothing new to begin: with time left all that may enter the front, else what is likely to.
            or self._continue(until, worth=0.0 if until is None else -math.inf)
        )

    @property
    def exhausted(self) -> bool:
        """Whether every configuration of the space was begun."""
        return self._exhausted

    @property
    def results(self) -> list[TrialResult]:
        """All trials that are over, repeats left out, in the order of their numbers."""
        return sorted((told.result for told in self._told.values()), key=lambda result: result.number)

    def front(self) -> list[TrialResult]:
        """The Pareto front of the feasible trials, fastest first."""
        if self._front is None:
            candidates = [told.result for told in self._told.values() if told.feasible]
            self._front = pareto_front(candidates, self._plan.percentile)
        return list(self._front)

    def _may_launch(self, until: float | None) -> bool:
        if self._exhausted:
            return False
        if self._plan.trials is not None and len(self._begun) >= self._plan.trials:
            return False
        return self._lasts(until)

    def _lasts(self, until: float | None, done: float = 0.0, config: CompressionConfig | None = None) -> bool:
        """Whether the budget lasts for a trial of whose training a share is done; see `expected_seconds`."""
        return until is None or self._ledger.spent + self.expected_seconds(done, config) <= until

    @property
    def _begun(self) -> set[str]:
        """Identifiers of all configurations that were begun, however they went on."""
        waiting = [_config_of(trial) for trial in (*self._held, *self._retries)]
        return {
            *self._told,
            *(live.config.identifier for live in self._trials.values()),
            *(config.identifier for config in waiting if config is not None),
        }

    def expected_seconds(self, done: float = 0.0, config: CompressionConfig | None = None) -> float:
        """How long a trial is likely to take: the upper quartile of the last finished ones.

        Args:
            done: share of its training that lies behind it.
            config: what it tries, where that is known: INT8 may be repaired by a second training, and takes far longer.
        """
        training = float(self._plan.trial_seconds or 0.0)
        if not self._durations:
            return max(0.0, 1.3 * training - done * training)
        alike = [seconds for precision, seconds in self._durations if config and precision == config.precision]
        recent = alike[-8:] or [seconds for _, seconds in self._durations[-8:]]
        whole = float(np.percentile(recent, 75))
        return max(0.0, whole - done * min(training, whole))

    def _eta(self, until: float | None) -> float | None:
        if until is not None:
            return max(0.0, until - self._ledger.spent)
        if self._plan.trials is None or not self._durations:
            return None
        left = self._plan.trials - len(self._told)
        return max(0.0, left * self.expected_seconds() / self._executor.slots)

    def _launch(self) -> bool:
        """Ask for one configuration and start it; False when the space is exhausted."""
        while True:
            trial = self._study.ask()
            with together(self._study):
                config = self._proposed(trial)
                begins = config is not None and not self._answer_from_record(trial, config)
            if config is not None and begins:
                self._repeats = 0
                self._start(trial, config)
                return True
            if self._exhausted:
                return False

    def _proposed(self, trial: optuna.Trial) -> CompressionConfig | None:
        """The configuration that a new trial is to try; None, and the trial is over, where there is no such."""
        try:
            config = self._space.suggest(trial)
        except ConfigError:
            self._study.tell(trial, state=TrialState.PRUNED)
            self._prefer_untried()
            return None
        trial.set_user_attr("config", config.to_dict())
        return config

    def _restart(self, earlier: optuna.trial.FrozenTrial, **attributes: Any) -> None:
        """Begin a new trial that goes on where an earlier one of the same configuration ended."""
        config = _config_of(earlier)
        assert config is not None  # set before the trial was started
        frozen = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=earlier.params,
            distributions=earlier.distributions,
            user_attrs={"config": config.to_dict(), "continues": earlier.number, **attributes},
        )
        self._study.add_trial(frozen)
        # This driver alone adds trials, so the last one is the new one.
        added = self._study.get_trials(deepcopy=False)[-1]
        self._continued.add(earlier.number)
        self._start(optuna.Trial(self._study, added._trial_id), config)

    def _retry(self, until: float | None) -> bool:
        """Start again what was lost with its worker."""
        if not self._retries or not self._lasts(until):
            return False
        earlier = self._retries.pop(0)
        self._restart(earlier, attempt=int(earlier.user_attrs["lost"]))
        return True

    def _start(self, trial: optuna.Trial, config: CompressionConfig) -> None:
        """Give a trial to a worker, from the stage that it, or the one that it continues, had reached."""
        earlier = trial.user_attrs.get("continues")
        if earlier is None:
            self._files.prepare(trial.number)
        else:
            self._files.hand_over(int(earlier), trial.number)
        progress = self._files.progress(trial.number)
        known = self._told.get(config.identifier)
        decided = known is not None and known.result.number == earlier
        pause_at = self._next_pause(progress, decided=decided)
        booked = {} if progress is None else progress.seconds
        live = _Live(trial, config, self._now(), pause_at, booked=booked, progress=progress)
        self._listen({"event": "started", "trial": trial.number, "config": config.to_dict(), "label": config.label})
        self._submit(live)

    def _submit(self, live: _Live) -> None:
        number = live.trial.number
        values = self._request(number, live.config)
        if self._rule.rungs:
            values = {**values, "pause_at": live.pause_at}
        live.part = values.get("part")
        live.begun = self._now()
        self._trials[str(number)] = live
        self._executor.submit(str(number), self._task, values)

    def _answer_from_record(self, trial: optuna.Trial, config: CompressionConfig) -> bool:
        """No configuration is trained twice: a repeat gets the first answer."""
        known = self._told.get(config.identifier)
        if known is not None:
            trial.set_user_attr("repeats", known.result.number)
            self._tell_study(trial, known.result)
        elif config.identifier in self._begun:
            trial.set_user_attr("repeats", "running")
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            return False
        self._prefer_untried(config)
        return True

    def _prefer_untried(self, near: CompressionConfig | None = None) -> None:
        """After a fruitless proposal, put a new configuration before the next one.

        Args:
            near: the proposal where it was a valid one: the nearest new one is taken, so that what the sampler knows
                is not lost; without, a random one after a few in a row.
        """
        self._repeats += 1
        if near is None:
            untried = self._space.untried(self._begun, self._rng)
        else:
            untried = self._space.nearest_untried(near, self._begun, self._rng)
        if untried is None:
            self._exhausted = True
        elif near is not None or self._repeats > MAX_REPEATS:
            self._study.enqueue_trial(self._space.parameters(untried))

    # -- stopping early -------------------------------------------------------------------------------------------

    def _next_pause(self, progress: TrialResult | None, *, decided: bool) -> float | None:
        """The rung up to which a trial trains next.

        Args:
            progress: how far it came.
            decided: it was stopped at its last rung and is taken up again; without, it comes back there at once for
                the decision.
        """
        if progress is None or not progress.rungs:
            return self._rule.after(0.0)
        last = progress.rungs[-1].share
        return self._rule.after(last) if decided else last

    def _runners(self) -> list[Runner]:
        """All trials that reached a rung."""
        reached = {told.result.config.identifier: told.result for told in self._told.values() if told.result.rungs}
        for live in self._trials.values():
            if live.progress is not None and live.progress.rungs:
                reached[live.config.identifier] = live.progress
        return [self._runner(result) for result in reached.values()]

    def _runner(self, result: TrialResult) -> Runner:
        latencies = result.latencies_ms(self._plan.percentile)
        return Runner(
            result.config.identifier,
            tuple(float("inf") if value is None else value for value in latencies),
            relative_excess(result, self._plan.constraints, self._plan.percentile),
            {rung.share: rung.dice for rung in result.rungs},
            result.dice if result.state == "complete" else None,
        )

    def _continue(self, until: float | None, *, worth: float | None = None) -> bool:
        """Take up the stopped trial that deserves to go on by what is known now; False where there is none."""
        if self._settled and worth is None:
            return False
        shares = self._stopped()
        if not shares or not self._rule.rungs:
            return False
        key = to_continue(self._runners(), shares, self._rule, self._forecaster, worth=worth)
        if key is None:
            # Until a trial reaches a rung or its end, the answer stays the same.
            self._settled = self._settled or worth is None
            return False
        if not self._lasts(until, shares[key], self._told[key].result.config):
            return False
        self._restart(self._study.get_trials(deepcopy=False)[self._told[key].result.number])
        return True

    def _stopped(self) -> dict[str, float]:
        """The rung of each trial that was stopped at one and not taken up again."""
        return {
            key: told.result.rungs[-1].share
            for key, told in self._told.items()
            if told.result.stopped and told.result.number not in self._continued
        }

    def _free_room(self) -> None:
        """Let go of paused trainings that finished trials have left without hope: each may take a gigabyte."""
        for key in without_hope(self._runners(), self._stopped(), self._rule, self._forecaster):
            self._files.let_go(self._told[key].result.number)

    def _at_rung(self, live: _Live, progress: TrialResult, until: float | None) -> None:
        """Let a trial go on beyond its rung, or stop it there."""
        rung = progress.rungs[-1]
        self._settled = False
        live.progress = progress
        self._trials[str(live.trial.number)] = live
        runners = self._runners()
        said = verdict(runners, live.config.identifier, rung.share, self._rule, self._forecaster)
        reason = said.reason
        if said.goes_on and not self._lasts(until, rung.share, live.config):
            reason = f"stopped after {percent(rung.share)} of the training: the budget does not last to its end"
        event = {"trial": live.trial.number, "share": rung.share, "dice": rung.dice, "label": live.config.label}
        self._listen({"event": "rung", **event, "goes_on": not reason, "reason": reason})
        if not reason:
            live.pause_at = self._rule.after(rung.share)
            self._submit(live)
            return
        del self._trials[str(live.trial.number)]
        result = replace(progress, state="pruned", reason=reason)
        self._files.save(result)
        self._tell(live.trial, result)

    # -- what became of a trial -----------------------------------------------------------------------------------

    def _finish(self, ended: Ended, stage: Hours, until: float | None) -> None:
        live = self._trials.pop(ended.key)
        number = live.trial.number
        live.worked += self._now() - live.begun
        result = self._files.result(number)
        progress = self._files.progress(number) if result is None else None
        self._book(live, result or progress, stage)
        if result is not None:
            seconds = max(live.worked, sum(result.seconds.values()))
            # Refusing a trial may take longer than most others take to their end: INT8 is measured again and again.
            if result.state == "complete" or (not result.rungs and seconds > self.expected_seconds(0.0, live.config)):
                self._durations.append((live.config.precision, seconds))
            self._tell(live.trial, result)
            if result.state == "complete":
                self._free_room()
        elif progress is not None and live.pause_at is not None and _came_to(progress, live.pause_at):
            self._at_rung(live, progress, until)
        elif ended.error is not None and ended.error.startswith(_HELD_BACK):
            self._hold_back(live, ended.error.removeprefix(_HELD_BACK))
        elif ended.error is None and self._has_another_part(live):
            self._submit(live)
        else:
            self._lost(live, ended)
        if result is not None:  # so the target could be reached
            self._held_in_a_row = 0
            self._ask_held_ones()
        self._ledger.save()
        if ended.error is not None and _DISK_FULL in ended.error:
            raise UserError(f"{self._plan.folder}: no space left on device; free some and repeat the command")
        outcomes = [told.result for told in self._told.values()]
        if len(outcomes) >= HOPELESS and all(each.state == "failed" for each in outcomes):
            raise UserError(f"the first {len(outcomes)} trials all failed; the last one: {outcomes[-1].reason}")

    def _has_another_part(self, live: _Live) -> bool:
        """Whether a task did its part of a trial, of which the next one is another task's."""
        return live.part is not None and self._request(live.trial.number, live.config)["part"] != live.part

    def _book(self, live: _Live, came: TrialResult | None, stage: Hours) -> None:
        """Tell the ledger what a trial's task took, by what it says of all of them."""
        if came is None:
            return
        stage.add({phase: max(0.0, value - live.booked.get(phase, 0.0)) for phase, value in came.seconds.items()})
        live.booked = came.seconds

    def _hold_back(self, live: _Live, reason: str) -> None:
        """A trial whose target was lost in the middle: others go on, and it is asked again when one of them ends."""
        self._held_in_a_row += 1
        self._held_reason = reason
        trial = live.trial
        trial.set_user_attr("reason", reason)
        trial.set_user_attr("lost", _attempt(trial))  # it was no fault of the configuration: no attempt is counted
        self._study.tell(trial, state=TrialState.FAIL)
        self._held.append(self._study.get_trials(deepcopy=False)[trial.number])
        self._listen({"event": "held", "trial": trial.number, "reason": reason, "label": live.config.label})

    def _ask_held_ones(self) -> None:
        self._retries += self._held
        self._held.clear()

    def _lost(self, live: _Live, ended: Ended) -> None:
        """A task that left nothing: its worker died. A configuration that keeps killing its workers is marked."""
        attempt = _attempt(live.trial)
        if attempt < MAX_ATTEMPTS:
            self._ask_again(live.trial, live.config, attempt + 1, ended.error or "the worker left no result")
            return
        reason = f"{ended.error} ({attempt} attempts)"
        result = TrialResult(number=live.trial.number, config=live.config, state="failed", reason=reason)
        self._files.save(result)
        self._tell(live.trial, result)

    def _ask_again(self, trial: optuna.Trial, config: CompressionConfig | None, attempt: int, reason: str) -> None:
        """Work that was lost comes before anything new, and goes on from its last stage."""
        trial.set_user_attr("reason", reason)
        if config is not None:
            trial.set_user_attr("lost", attempt)
        self._study.tell(trial, state=TrialState.FAIL)
        if config is not None:
            self._retries.append(self._study.get_trials(deepcopy=False)[trial.number])
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
        with together(self._study):
            self._write(trial, result)

    def _write(self, trial: optuna.Trial, result: TrialResult) -> None:
        # Attributes and constraints must be written before the trial is told.
        for key, value in attributes_of(result, self._plan.percentile).items():
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
        identifier = result.config.identifier
        known = self._told.get(identifier)
        if known is not None and known.feasible:
            self._front = None  # what it beat so far may come back
        elif feasible:
            # What was beaten stays so: thousands of trials are not compared again for each new one.
            self._front = pareto_front([*self.front(), result], self._plan.percentile)
        self._told[identifier] = Told(result, feasible)
        self._settled = False
        return feasible


def attributes_of(result: TrialResult, percentile: str) -> dict[str, Any]:
    """What a study keeps of a trial beside its values."""
    attributes = {
        "label": result.config.label,
        "reason": result.reason,
        "parameters": result.parameters,
        "gmacs": result.gmacs,
        "size_bytes": result.size_bytes,
        "engine": ", ".join(each.engine for each in result.chosen if each is not None),
        # What a sampler may learn from, whatever became of the trial (`autocompress.search.samplers`).
        "known": known_of(result, percentile),
    }
    return {key: value for key, value in attributes.items() if value not in (None, "", {})}


def pareto_front(results: Sequence[TrialResult], percentile: str) -> list[TrialResult]:
    """Members that no other one beats in Dice and in the latency on each target, the fastest on the first one first."""

    def costs(result: TrialResult) -> list[float]:
        latencies = [float("inf") if value is None else value for value in result.latencies_ms(percentile)]
        return [*latencies, -(result.dice or 0.0)]

    judged = [each for each in results if each.dice is not None]
    return non_dominated(sorted(judged, key=lambda each: each.number), costs)


def _came_to(progress: TrialResult, share: float) -> bool:
    return bool(progress.rungs) and progress.rungs[-1].share >= share - 1e-9


def _config_of(trial: optuna.trial.FrozenTrial) -> CompressionConfig | None:
    values = trial.user_attrs.get("config")
    return CompressionConfig.from_dict(values) if isinstance(values, dict) else None


def _attempt(trial: optuna.Trial) -> int:
    return int(trial.user_attrs.get("attempt", 1))
