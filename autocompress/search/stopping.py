"""Early stopping for several objectives: MO-ASHA (Schmucker et al., 2021, arXiv 2106.12639) on plain data.

At certain shares of a trial's training, its rungs, the trial is compared with all others that came so far. It goes on
if it is among the first ``1/eta`` of them: feasible ones before infeasible ones, then by non-dominated sorting in the
Dice and the latency on each target, and within one front by an epsilon-net, so that what goes on is spread along the
front. The Dice is that at the rung, or, once finished trials tell, what is to be expected of it in the end. Trials
arrive one by one and are never waited for; one that was stopped may be taken up again when others, arriving after it,
have moved it into the first third.

The latency is known before training, and so is the Dice of finished trials: what cannot be feasible or on the front any
more, by what finished trials did after the same rung, is stopped whatever its rank.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autocompress.pareto import non_dominated

ETA = 3
RUNGS = (1 / 9, 1 / 3)
MARGIN = 1.0
"""Dice points that are granted beyond the largest gain seen so far."""
STEP = 2.0
"""Dice points by which a trial must be expected to beat the finished ones to go on whatever its rank."""
WITNESSES = 3
"""Finished trials that must tell how much is gained after a rung before anything is concluded from it."""


@dataclass(frozen=True)
class StoppingRule:
    """When trials are compared and how many go on.

    Attributes:
        rungs: shares of a trial's training, ascending, each above 0 and below 1; none switches stopping off.
        eta: one in so many goes on at each rung, at least 2.
        min_dice: constraint on the final Dice in percent; None for none.
        step: Dice points; a trial that is expected to beat the finished ones by so much goes on whatever its rank.
    """

    rungs: tuple[float, ...] = RUNGS
    eta: int = ETA
    min_dice: float | None = None
    step: float = STEP

    def after(self, share: float) -> float | None:
        """The next rung after a share of the training; None where there is none left."""
        return next((rung for rung in self.rungs if rung > share + 1e-9), None)


@dataclass(frozen=True)
class Runner:
    """A trial as the stopping rule sees it.

    Attributes:
        key: of the trial.
        latencies: in milliseconds on each target.
        excess: by how much it misses the limits that were known before training, relative to them; 0 for not at all.
        rungs: Dice in percent by share of the training, as far as it came.
        final: Dice in percent of a trial that was judged; None for others.
    """

    key: str
    latencies: tuple[float, ...]
    excess: float = 0.0
    rungs: Mapping[float, float] = field(default_factory=dict)
    final: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What becomes of a trial at a rung.

    Attributes:
        goes_on: whether it trains on.
        reason: one line where it does not.
        hopeless: it could not enter the front, or not be feasible, by all that is known: it is not worth taking up.
    """

    goes_on: bool
    reason: str = ""
    hopeless: bool = False


@dataclass(frozen=True)
class Expected:
    """The Dice that a trial is likely to have in the end.

    Attributes:
        mean: in percent, 0 to 100.
        deviation: standard deviation in Dice points.
    """

    mean: float
    deviation: float

    @property
    def reach(self) -> float:
        """Dice that is hardly exceeded: two deviations and `MARGIN` above the mean."""
        return min(100.0, self.mean + 2 * self.deviation + MARGIN)


class Forecaster(Protocol):
    """What tells the end from a rung."""

    def __call__(self, runners: Sequence[Runner], share: float) -> Mapping[str, Expected]:
        """What is to be expected of all that reached a rung, by what was known there.

        Args:
            runners: all trials of a study that reached any rung.
            share: the rung.

        Returns:
            By the trials' keys; empty while too few trials have finished.
        """
        ...


@dataclass(frozen=True)
class Forecast:
    """From the Dice at a rung to that at the end: a line through what finished trials did.

    Attributes:
        slope, intercept: of the line, 0 or more for the slope.
        spread: Dice points about the line, the root of the mean square of the finished trials' distances.
        low, high: Dice at the rung of the trials that tell.
    """

    slope: float
    intercept: float
    spread: float
    low: float
    high: float

    def expected(self, dice: float) -> float:
        """Dice to be expected in the end, 0 to 100; nobody is expected to lose or to gain beyond what was seen."""
        inside = min(max(dice, self.low), self.high)
        return min(100.0, max(dice, self.intercept + self.slope * inside))


def forecast(pairs: Sequence[tuple[float, float]]) -> Forecast | None:
    """Learn from finished trials.

    Trials gain more the less they have: a line through (Dice at the rung, final Dice) foretells far better than the
    same gain for all.

    Args:
        pairs: of the finished trials.

    Returns:
        None while fewer than `WITNESSES` tell.
    """
    if len(pairs) < WITNESSES:
        return None
    at_rung, final = (np.array(values) for values in zip(*pairs, strict=True))
    centred = at_rung - at_rung.mean()
    # One trial's worth of doubt pulls the slope to nothing where all have about the same Dice.
    slope = max(0.0, float(centred @ (final - final.mean()) / (centred @ centred + at_rung.var() + 1.0)))
    intercept = float(final.mean() - slope * at_rung.mean())
    off = final - (intercept + slope * at_rung)
    spread = math.sqrt(float(off @ off) / (len(pairs) - 2))
    return Forecast(slope, intercept, spread, float(at_rung.min()), float(at_rung.max()))


def by_line(runners: Sequence[Runner], share: float) -> Mapping[str, Expected]:
    """A `Forecaster` that knows nothing of trials but their Dice."""
    there = [each for each in runners if share in each.rungs]
    told = forecast([(each.rungs[share], each.final) for each in there if each.final is not None])
    if told is None:
        return {}
    return {each.key: Expected(told.expected(each.rungs[share]), told.spread) for each in there}


@dataclass(frozen=True)
class Known:
    """What the finished trials of a study tell about one that stands at a rung.

    Attributes:
        share: the rung.
        expected: the end of each trial that reached it, by key; empty while too few tell.
        rivals: finished trials that keep the limits and that no other one beats.
        floor: Dice that a trial is compared with where no finished one is as fast: ``min_dice``, or the lowest that any
            finished trial has.
        rule: the study's.
    """

    share: float
    expected: Mapping[str, Expected]
    rivals: tuple[Runner, ...]
    floor: float
    rule: StoppingRule

    @classmethod
    def of(cls, runners: Sequence[Runner], share: float, rule: StoppingRule, forecaster: Forecaster = by_line) -> Known:
        """That of all trials of a study that reached any rung."""
        told = [(each, each.final) for each in runners if each.final is not None]
        rivals = non_dominated(
            ((each, final) for each, final in told if each.excess <= 0), lambda pair: [*pair[0].latencies, -pair[1]]
        )
        floor = min((final for _, final in told), default=0.0) if rule.min_dice is None else rule.min_dice
        return cls(share, forecaster(runners, share), tuple(each for each, _ in rivals), floor, rule)

    def rival(self, runner: Runner) -> float | None:
        """The highest Dice of a finished trial that is not slower on any target; None where none is as fast."""
        finals = [
            other.final
            for other in self.rivals
            if other.final is not None
            and other.key != runner.key
            and all(a <= b for a, b in zip(other.latencies, runner.latencies, strict=True))
        ]
        return max(finals, default=None)

    def promise(self, runner: Runner) -> float | None:
        """Dice points by which a trial is expected to beat the finished ones that are not slower, or `floor`; None
        while unknown."""
        expected = self.expected.get(runner.key)
        if expected is None:
            return None
        rival = self.rival(runner)
        return expected.mean - max(self.floor, self.floor if rival is None else rival)

    def dice(self, runner: Runner) -> float:
        """By what a trial is ranked: the Dice to be expected in the end, or that at the rung while too few tell."""
        expected = self.expected.get(runner.key)
        return runner.rungs[self.share] if expected is None else expected.mean

    def shortfall(self, runner: Runner) -> float:
        """By how much a trial will miss the constraints by all that is known, each relative to its limit."""
        least, final, expected = self.rule.min_dice, runner.final, self.expected.get(runner.key)
        if final is None and expected is not None:
            final = expected.mean + expected.deviation
        missing = 0.0 if least is None or final is None else max(0.0, least - final) / max(least, 1e-9)
        return runner.excess + missing

    def hopeless(self, runner: Runner) -> str:
        """Why a trial cannot be feasible or enter the front any more; empty where it can."""
        expected, least = self.expected.get(runner.key), self.rule.min_dice
        if expected is None:
            return ""
        reach = expected.reach
        grounds = (
            f"Dice {runner.rungs[self.share]:.1f} after {percent(self.share)} of the training; "
            f"by what finished trials did from there {reach:.1f} at most"
        )
        if least is not None and reach < least:
            return f"{grounds}: below --min-dice {least:g}"
        rival = self.rival(runner)
        if rival is not None and rival >= reach:
            return f"{grounds}: a finished trial that is not slower has {rival:.1f}"
        return ""


def ranking(runners: Sequence[Runner], known: Known) -> list[Runner]:
    """All that reached a rung, the best first."""
    reached = [each for each in runners if known.share in each.rungs]
    shortfalls = {each.key: known.shortfall(each) for each in reached}
    feasible = [each for each in reached if shortfalls[each.key] <= 0]
    rest = sorted((each for each in reached if shortfalls[each.key] > 0), key=lambda each: shortfalls[each.key])
    return [*_by_fronts(feasible, known), *rest]


def verdict(
    runners: Sequence[Runner], key: str, share: float, rule: StoppingRule, forecaster: Forecaster = by_line
) -> Verdict:
    """Whether a trial goes on beyond a rung.

    Args:
        runners: all trials of the study that reached any rung, this one among them.
        key: of the trial.
        share: the rung that it stands at.
        rule: the study's.
        forecaster: tells the end from the rung.
    """
    known = Known.of(runners, share, rule, forecaster)
    own = next(each for each in runners if each.key == key)
    hopeless = known.hopeless(own)
    if hopeless:
        return Verdict(False, hopeless, hopeless=True)
    order = ranking(runners, known)
    place = [each.key for each in order].index(key)
    places = places_of(len(order), rule.eta)
    expected = known.promise(own)
    if place < places or (expected is not None and expected >= rule.step):
        return Verdict(True)
    return Verdict(
        False, f"rank {place + 1} of {len(order)} after {percent(share)} of the training, where {places} may go on"
    )


def places_of(count: int, eta: int) -> int:
    """How many of the trials at a rung go on: one in ``eta``, rounded up, so that the first one does."""
    return math.ceil(count / eta)


def to_continue(
    runners: Sequence[Runner],
    stopped: Mapping[str, float],
    rule: StoppingRule,
    forecaster: Forecaster = by_line,
    *,
    worth: float | None = None,
) -> str | None:
    """The stopped trial that should be taken up next, before anything new is begun.

    Args:
        runners: all trials of the study that reached any rung.
        stopped: the rung that each stopped trial stands at, by its key.
        rule: the study's.
        forecaster: tells the end from a rung.
        worth: where nothing new can be begun: also one that is expected to beat the finished ones by so many Dice
            points, or of which that cannot be told yet, whatever its rank.

    Returns:
        The key of the one that came furthest, among those the one of highest rank; None where there is none.
    """
    for share in sorted(set(stopped.values()), reverse=True):
        known = Known.of(runners, share, rule, forecaster)
        order = ranking(runners, known)
        places = places_of(len(order), rule.eta)
        for place, each in enumerate(order):
            if stopped.get(each.key) != share or each.excess > 0:
                continue
            expected = known.promise(each)
            deserves = place < places or (expected is not None and expected >= rule.step)
            if worth is not None:
                deserves = deserves or expected is None or expected > worth
            if deserves and not known.hopeless(each):
                return each.key
    return None


def without_hope(
    runners: Sequence[Runner], stopped: Mapping[str, float], rule: StoppingRule, forecaster: Forecaster = by_line
) -> list[str]:
    """Stopped trials that are not likely to be taken up any more, by their keys; arguments as of `to_continue`."""
    found = []
    for share in set(stopped.values()):
        known = Known.of(runners, share, rule, forecaster)
        found += [each.key for each in runners if stopped.get(each.key) == share and known.hopeless(each)]
    return found


def percent(share: float) -> str:
    """A share of the training in words: ``11 %``."""
    return f"{100 * share:.0f} %"


def _by_fronts(runners: Sequence[Runner], known: Known) -> list[Runner]:
    """By non-dominated sorting, and within one front by an epsilon-net."""
    if not runners:
        return []
    costs = np.array([[-known.dice(each), *(math.log(max(ms, 1e-6)) for ms in each.latencies)] for each in runners])
    span = np.ptp(costs, axis=0)
    costs = (costs - costs.min(axis=0)) / np.where(span > 0, span, 1.0)
    fronts = _fronts_of_two(costs) if costs.shape[1] == 2 else _fronts(costs)
    order = [int(front[position]) for front in fronts for position in _epsilon_net(costs[front])]
    return [runners[index] for index in order]


def _fronts_of_two(costs: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Positions front by front, in n log n steps for two costs."""
    fronts: list[list[int]] = []
    lowest: list[float] = []  # second cost in each front so far; ascends from front to front
    before: tuple[float, float] | None = None
    place = 0
    for position in np.lexsort((costs[:, 1], costs[:, 0])):
        first, second = (float(value) for value in costs[position])
        if (first, second) != before:  # equals do not beat each other
            place = bisect.bisect_right(lowest, second)
        if place == len(fronts):
            fronts.append([])
            lowest.append(second)
        fronts[place].append(int(position))
        lowest[place] = second
        before = (first, second)
    return [np.array(front) for front in fronts]


def _fronts(costs: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Positions front by front."""
    left = np.arange(len(costs))
    fronts = []
    while len(left):
        part = costs[left]
        not_worse = (part[:, None, :] <= part[None, :, :]).all(axis=2)
        better = (part[:, None, :] < part[None, :, :]).any(axis=2)
        beaten = (not_worse & better).any(axis=0)
        fronts.append(left[~beaten])
        left = left[beaten]
    return fronts


def _epsilon_net(costs: NDArray[np.float64]) -> list[int]:
    """All positions: that of the highest Dice, then always the one farthest from those before it."""
    chosen = [int(np.argmin(costs[:, 0]))]
    distance = np.linalg.norm(costs - costs[chosen[0]], axis=1)
    while len(chosen) < len(costs):
        distance[chosen] = -1.0
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(costs - costs[chosen[-1]], axis=1))
    return chosen
