"""Who goes on at a rung, by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from autocompress.errors import SpecError
from autocompress.search.stopping import (
    Known,
    Runner,
    StoppingRule,
    by_line,
    forecast,
    places_of,
    ranking,
    to_continue,
    verdict,
)
from autocompress.specs.schemas import StudySpec
from tests.search import table as tables

RULE = StoppingRule((1 / 9, 1 / 3))
FIRST, SECOND = RULE.rungs


def runner(key: str, dice: float, ms: float, *, second: float | None = None, final: float | None = None) -> Runner:
    rungs = {FIRST: dice} if second is None else {FIRST: dice, SECOND: second}
    return Runner(key, (ms,), 0.0, rungs, final)


def test_rungs_come_one_after_the_other() -> None:
    assert RULE.after(0.0) == FIRST and RULE.after(FIRST) == SECOND and RULE.after(SECOND) is None
    assert StoppingRule(()).after(0.0) is None


def test_one_in_three_goes_on_rounded_up() -> None:
    assert [places_of(count, 3) for count in (1, 2, 3, 4, 6, 9, 10)] == [1, 1, 1, 2, 2, 3, 4]


def test_the_front_comes_first_and_is_spread() -> None:
    # a, b, c and d are on the front: a has the highest Dice, d is farthest from it, c is then farther from both than b.
    trials = [runner("a", 80, 16), runner("b", 79, 14), runner("c", 70, 4), runner("d", 60, 1), runner("e", 69, 5)]
    assert [each.key for each in ranking(trials, Known.of(trials, FIRST, RULE))] == ["a", "d", "c", "b", "e"]


def test_of_six_the_first_two_go_on() -> None:
    trials = [runner(key, dice, 10.0) for key, dice in zip("abcdef", (70, 60, 50, 40, 30, 20), strict=True)]
    assert [verdict(trials, key, FIRST, RULE).goes_on for key in "abcdef"] == [True, True, False, False, False, False]
    assert verdict(trials, "c", FIRST, RULE).reason == "rank 3 of 6 after 11 % of the training, where 2 may go on"


def test_what_breaks_a_known_limit_comes_last() -> None:
    slow = Runner("slow", (50.0,), 0.25, {FIRST: 90.0})
    slower = Runner("slower", (60.0,), 0.5, {FIRST: 95.0})
    trials = [slower, slow, runner("poor", 20, 10)]
    order = ranking(trials, Known.of(trials, FIRST, RULE))
    assert [each.key for each in order] == ["poor", "slow", "slower"]


def test_a_forecast_is_a_line_through_what_finished_trials_did() -> None:
    assert forecast([(20, 60), (40, 70)]) is None
    told = forecast([(0, 50), (30, 65), (60, 80)])
    assert told is not None
    # The line 50 + dice / 2, pulled a little to their mean by one trial's worth of doubt (600 + 1 beside 1800).
    assert told.slope == pytest.approx(0.5 * 1800 / 2401) and told.expected(30) == pytest.approx(65)
    assert told.expected(90) == 90  # nobody is expected to lose, or to gain beyond what was seen
    off = told.intercept - 50
    assert told.spread == pytest.approx(math.sqrt(2 * off**2))
    trials = [runner("a", 0, 1, final=50), runner("b", 30, 1, final=65), runner("c", 60, 1, final=80)]
    expected = by_line([*trials, runner("d", 90, 1)], FIRST)
    assert expected["b"].mean == pytest.approx(65) and expected["b"].reach == pytest.approx(65 + 2 * told.spread + 1)
    assert expected["d"].mean == 90 and by_line(trials[:2], FIRST) == {}


def test_dice_that_cannot_be_reached_ends_a_trial_once_three_have_told() -> None:
    rule = StoppingRule(RULE.rungs, min_dice=75)
    told = [runner(str(ms), 60, ms, second=62, final=70) for ms in (5, 6, 7)]
    new = runner("new", 60, 1.0)
    # It would be the only one of its speed. All that had 60 came to 70: at most 71.
    assert verdict([*told[:2], new], "new", FIRST, rule).goes_on
    said = verdict([*told, new], "new", FIRST, rule)
    assert not said.goes_on and said.hopeless
    assert "71.0 at most: below --min-dice 75" in said.reason
    assert not verdict([*told, new], "new", FIRST, StoppingRule(RULE.rungs, min_dice=70)).hopeless


def test_a_trial_that_can_only_end_behind_a_finished_faster_one_is_stopped() -> None:
    told = [runner(str(ms), dice, ms, final=final) for ms, dice, final in ((3, 20, 60), (4, 40, 70), (5, 60, 80))]
    # About 62 is expected of a trial with 20 at this rung, 71 at most; the one of 5 ms has 80.
    said = verdict([*told, runner("behind", 20, 6.0)], "behind", FIRST, RULE)
    assert said.hopeless and "a finished trial that is not slower has 80.0" in said.reason
    assert not verdict([*told, runner("fast", 20, 2.0)], "fast", FIRST, RULE).hopeless


def test_what_is_expected_to_beat_the_finished_ones_goes_on_whatever_its_rank() -> None:
    told = [runner(str(ms), 50, ms, second=60, final=80) for ms in (3, 4, 5)]
    crowd = [runner(f"c{ms}", 60, ms) for ms in (0.5, 0.6)]
    fast = runner("fast", 45, 2.0)
    runners = [*told, *crowd, fast]
    order = [each.key for each in ranking(runners, Known.of(runners, FIRST, RULE))]
    assert order.index("fast") >= places_of(len(order), 3)
    # Nothing finished is as fast: 80 is expected of it, against a constraint of 70.
    bound = StoppingRule(RULE.rungs, min_dice=70)
    assert Known.of(runners, FIRST, bound).promise(fast) == pytest.approx(10)
    assert verdict(runners, "fast", FIRST, bound).goes_on
    assert not verdict(runners, "fast", FIRST, RULE).goes_on  # compared with the lowest that finished: nothing gained


def test_a_stopped_trial_is_taken_up_when_others_moved_it_into_the_first_third() -> None:
    trials = [runner("a", 70, 10), runner("b", 60, 10)]
    assert not verdict(trials, "b", FIRST, RULE).goes_on
    stopped = {"b": FIRST}
    assert to_continue(trials, stopped, RULE) is None
    trials += [runner(key, 40, 10) for key in "cdef"]
    stopped |= dict.fromkeys("cdef", FIRST)
    assert to_continue(trials, stopped, RULE) == "b"
    # With nothing left to begin, also the next ones; those that came further first.
    del stopped["b"]
    assert to_continue(trials, stopped, RULE) is None
    assert to_continue(trials, stopped, RULE, worth=0.0) == "c"
    trials[3] = runner("d", 40, 10, second=41)
    assert to_continue(trials, {**stopped, "d": SECOND}, RULE, worth=0.0) == "d"


def test_what_breaks_a_limit_now_is_not_taken_up() -> None:
    trials = [Runner("a", (10.0,), 0.1, {FIRST: 70.0})]
    assert to_continue(trials, {"a": FIRST}, RULE, worth=-100.0) is None


@pytest.mark.parametrize("targets", [1, 2])
def test_fronts_are_those_of_the_definition(targets: int) -> None:
    rng = np.random.default_rng(5)
    trials = [
        Runner(str(index), tuple(float(ms) for ms in rng.integers(1, 9, targets)), 0.0, {FIRST: float(dice)})
        for index, dice in enumerate(rng.integers(40, 60, 60))
    ]
    order = ranking(trials, Known.of(trials, FIRST, RULE))
    assert sorted(each.key for each in order) == sorted(each.key for each in trials)

    def beats(one: Runner, other: Runner) -> bool:
        ours, theirs = ((-each.rungs[FIRST], *each.latencies) for each in (one, other))
        return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))

    # Nothing is beaten by what comes after it, and a front ends where what it beats begins.
    for position, one in enumerate(order):
        assert not any(beats(later, one) for later in order[position + 1 :])
    depth: dict[str, int] = {}
    for one in order:
        depth[one.key] = 1 + max((depth[other.key] for other in order if beats(other, one)), default=0)
    assert all(depth[a.key] <= depth[b.key] for a, b in itertools.pairwise(order))


def test_rungs_that_come_too_soon_are_left_out() -> None:
    plan = tables.plan(trial_seconds=10.0, rungs=(1 / 9, 1 / 3))
    assert plan.stopping_rule.rungs == (1 / 3,)  # 1.1 s and 3.3 s
    assert tables.plan(trial_seconds=60.0, rungs=(1 / 9, 1 / 3)).stopping_rule.rungs == (1 / 9, 1 / 3)
    assert tables.plan(trial_seconds=4.0, rungs=(1 / 9, 1 / 3)).stopping_rule.rungs == ()


@pytest.mark.parametrize(
    ("stopping", "said"),
    [
        ({"rungs": [0.5, 0.1]}, "do not ascend"),
        ({"rungs": [1.0]}, "rungs"),
        ({"eta": 1}, "stopping.eta"),
        ({"rung": 1}, "rung"),
    ],
)
def test_settings_that_make_no_sense_are_named(stopping: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        StudySpec.from_dict({"stopping": stopping})
