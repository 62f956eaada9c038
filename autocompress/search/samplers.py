"""Which sampler proposes the next configuration, and what it sees of the study."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from autocompress.search.limits import LIMITS
from autocompress.search.records import TrialResult
from autocompress.search.space import ConfigSpace
from autocompress.search.stopping import Forecast, forecast
from autocompress.search.surrogate_sampler import SurrogateSampler
from autocompress.specs.schemas import Constraints

SAMPLERS = ("auto", "gp", "tpe", "nsga2", "random")
GP_TRIAL_LIMIT = 300
"""Trials up to which Gaussian processes are fitted anew for each; TPE stays fast beyond."""


def make_sampler(
    name: str,
    *,
    space: ConfigSpace,
    seed: int,
    told: int,
    expected: int,
    startup: int,
    constraints: Constraints | None = None,
) -> tuple[BaseSampler, str]:
    """Create a sampler.

    Args:
        name: ``auto`` chooses by the number of trials.
        space: the study's.
        seed: the study's seed.
        told: trials that the study holds already. They offset the seed: a sampler that starts again with the same
            seed would repeat its first suggestions.
        expected: trials that the budget is likely to pay for.
        startup: random trials before the model takes over.
        constraints: the study's, by which all trials are judged anew; None leaves those that are stored.

    Returns:
        The sampler, and its name with the reason for the choice.

    Raises:
        ValueError: the name is unknown.
    """
    chosen, reason = name, "as asked"
    if name == "auto":
        chosen = "gp" if expected <= GP_TRIAL_LIMIT else "tpe"
        reason = f"about {expected} trials expected"
    own_seed = seed + 7919 * told
    sampler: BaseSampler
    if chosen == "gp":
        return SurrogateSampler(space, seed=seed, startup=startup, constraints=constraints), f"{chosen} ({reason})"
    if chosen == "tpe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about `group` being experimental, and arguments that will go
            sampler = optuna.samplers.TPESampler(
                seed=own_seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
            )
    elif chosen == "nsga2":
        sampler = optuna.samplers.NSGAIISampler(seed=own_seed, population_size=16)
    elif chosen == "random":
        return optuna.samplers.RandomSampler(seed=own_seed), f"{chosen} ({reason})"
    else:
        raise ValueError(f"unknown sampler {name!r}; known are {', '.join(SAMPLERS)}")
    # A genetic algorithm breeds from trials that it chose itself; the models learn from whatever is known.
    return SeeingSampler(sampler, Sight(constraints, rungs=chosen == "tpe")), f"{chosen} ({reason})"


def known_of(result: TrialResult, percentile: str) -> dict[str, Any]:
    """What a sampler may learn from a trial, as plain values for an attribute in the database."""
    latencies = result.latencies_ms(percentile)
    if any(value is None for value in latencies):
        return {}
    memory = [each.peak_memory_bytes for each in result.chosen if each is not None and each.peak_memory_bytes]
    sizes = [size for size in (result.size_bytes, *(each.size_bytes for each in result.others)) if size]
    known: dict[str, Any] = {"max_latency_ms": max(value for value in latencies if value is not None)}
    known["latencies_ms"] = list(latencies)
    if memory:
        known["max_memory_bytes"] = max(memory)
    if sizes:
        known["max_size_bytes"] = max(sizes)
    if result.state == "complete" and result.dice is not None:
        known["dice"] = result.dice
    if result.rungs:
        known["rungs"] = [[rung.share, rung.dice] for rung in result.rungs]
    return known


class _Seen(FrozenTrial):
    """A trial with other constraints than the stored ones."""

    seen_constraints: Mapping[str, float]

    @property
    def constraints(self) -> dict[str, float]:
        """By how much it misses each limit; feasible where none is above 0."""
        return dict(self.seen_constraints)


class Sight:
    """How a sampler sees trials.

    Latency is seen as its logarithm, in which a network that is twice as large is as far away at 2 ms as at 200 ms.
    Limits are those of today, whatever they were when a trial was told. A trial that was stopped at a rung is seen as
    finished, with the Dice that is to be expected by what finished trials did after that rung.

    Args:
        constraints: the study's; None leaves the stored ones.
        rungs: whether what was stopped is seen as finished.
    """

    def __init__(self, constraints: Constraints | None, *, rungs: bool) -> None:
        self.constraints = constraints
        self.rungs = rungs
        self._forecasts: dict[float, Forecast | None] = {}
        self._typical: dict[float, float] = {}
        # By number: the Dice that was assumed, and the trial as it was seen with that.
        self._kept: dict[int, tuple[float | None, FrozenTrial]] = {}

    def look(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The trials as the sampler sees them, in their order."""
        pairs = _pairs(trials)
        self._forecasts = {share: forecast(found) for share, found in pairs.items()}
        self._typical = {share: statistics.median(b - a for a, b in found) for share, found in pairs.items()}
        hidden = _superseded(trials) if self.rungs else set()
        return [self._seen(trial) for trial in trials if trial.number not in hidden]

    def _seen(self, trial: FrozenTrial) -> FrozenTrial:
        known = trial.user_attrs.get("known")
        if not isinstance(known, Mapping) or not trial.state.is_finished():
            return trial
        dice, state = known.get("dice"), trial.state
        if state == TrialState.PRUNED:
            rungs = known.get("rungs", ())
            if rungs and self.rungs:
                share, reached = rungs[-1]
                told = self._forecasts.get(share)
                dice = reached + self._typical.get(share, 0.0) if told is None else told.expected(reached)
            if dice is not None:
                state = TrialState.COMPLETE
        kept = self._kept.get(trial.number)
        if kept is not None and kept[0] == dice:
            return kept[1]
        values = None
        if state == TrialState.COMPLETE and dice is not None:
            values = [float(dice), *(math.log(max(float(each), 1e-6)) for each in known["latencies_ms"])]
        elif state == TrialState.COMPLETE:
            return trial  # of a version that did not keep what is known
        seen = _Seen(
            number=trial.number,
            state=state,
            value=None,
            values=values,
            datetime_start=trial.datetime_start,
            datetime_complete=trial.datetime_complete,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=trial.user_attrs,
            system_attrs=trial.system_attrs,
            intermediate_values={},
            trial_id=trial._trial_id,
        )
        seen.seen_constraints = trial.constraints if self.constraints is None else self._excess(known, dice)
        self._kept[trial.number] = (dice, seen)
        return seen

    def _excess(self, known: Mapping[str, Any], dice: float | None) -> dict[str, float]:
        """By how much each limit is missed: Dice in points, the others as the logarithm of the ratio."""
        assert self.constraints is not None
        excess: dict[str, float] = {}
        for name in LIMITS:
            limit = getattr(self.constraints, name)
            if limit is None:
                continue
            if name == "min_dice":
                excess[name] = 0.0 if dice is None else limit - dice
            else:
                excess[name] = math.log(known[name] / limit) if known.get(name) else 0.0
        return excess


def _superseded(trials: Sequence[FrozenTrial]) -> set[int]:
    """Trials that another one tells more about: those that it continued, and proposals that were repeats."""
    numbers = {each.number for each in trials if "repeats" in each.user_attrs}
    finished = (each for each in trials if each.state in (TrialState.COMPLETE, TrialState.PRUNED))
    return numbers | {int(each.user_attrs["continues"]) for each in finished if "continues" in each.user_attrs}


def _pairs(trials: Sequence[FrozenTrial]) -> dict[float, list[tuple[float, float]]]:
    """(Dice at the rung, final Dice) of the finished trials by rung."""
    found: dict[float, list[tuple[float, float]]] = {}
    for trial in trials:
        known = trial.user_attrs.get("known")
        if trial.state == TrialState.COMPLETE and isinstance(known, Mapping) and "dice" in known:
            for share, dice in known.get("rungs", ()):
                found.setdefault(share, []).append((dice, known["dice"]))
    return found


class _SeenStudy:
    """A study in the place of which a sampler looks at its trials; everything else is the study itself."""

    def __init__(self, study: Study, sight: Sight) -> None:
        self._inner = study
        self._sight = sight

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """The trials as they are to be seen."""
        del deepcopy  # they are copies already, or nobody changes them
        seen = self._sight.look(self._inner.get_trials(deepcopy=False))
        return [each for each in seen if states is None or each.state in states]

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        # What Optuna's own samplers call.
        del use_cache
        return self.get_trials(deepcopy, states)


class SeeingSampler(BaseSampler):
    """Lets another sampler see the study through a `Sight`; the database stays as it is.

    Args:
        inner: the sampler.
        sight: what it is to see.
    """

    def __init__(self, inner: BaseSampler, sight: Sight) -> None:
        self.inner = inner
        self.sight = sight

    def _see(self, study: Study) -> Any:
        return _SeenStudy(study, self.sight)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See `optuna.samplers.BaseSampler`."""
        return self.inner.infer_relative_search_space(self._see(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See `optuna.samplers.BaseSampler`."""
        return self.inner.sample_relative(self._see(study), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See `optuna.samplers.BaseSampler`."""
        return self.inner.sample_independent(self._see(study), trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See `optuna.samplers.BaseSampler`."""
        self.inner.before_trial(self._see(study), trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """See `optuna.samplers.BaseSampler`."""
        self.inner.after_trial(self._see(study), trial, state, values)

    def reseed_rng(self) -> None:
        """See `optuna.samplers.BaseSampler`."""
        self.inner.reseed_rng()
