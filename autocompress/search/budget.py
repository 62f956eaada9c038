"""How the wall time of a study is shared out: what the confirmation will take, and what is left for its members."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from autocompress.search.records import TrialResult

FIRST_GUESS = 8.0
"""Seconds to confirm one member, before any trial has told."""
START_SECONDS = 2.0
"""What it takes to begin and to end the confirmation."""
MIN_LONGER_SECONDS = 5.0
"""A further training that is shorter than this changes nothing."""
LONGER_SHARE = 0.5
"""Of a trial's training: how much longer members of the front are trained where no budget limits it."""
LONGER_MOST = 4.0
"""Trainings of a trial's length that a member gets at most of a budget that is left over."""
HD95_FACTOR = 1.5
"""What it costs to compute HD95 beside Dice."""
AGAIN_FACTOR = 1.3
"""How much longer a second measurement takes than the one before: 0.8 to 1.7 times, in three searches."""
BUNDLE_SECONDS = 4.0
"""Libraries, bundle and its check: 2 s, and up to 12 for INT8, in three searches."""
CARE = 0.9
"""Share of the time left over that is given to further training; the rest absorbs what was estimated too low."""


@dataclass(frozen=True)
class ConfirmCost:
    """Seconds that one member of the front is likely to take.

    Attributes:
        alone: of measuring, while nobody else computes.
        shared: of evaluation, export, bundle and its check, beside the other workers.
        judge: of export and evaluation after a further training, beside the other workers.
    """

    alone: float
    shared: float
    judge: float

    def of(self, members: int, workers: int) -> float:
        """Wall seconds for so many members by so many workers."""
        if members == 0:
            return 0.0
        return START_SECONDS + members * self.alone + math.ceil(members / workers) * self.shared


def confirm_cost(results: Sequence[TrialResult], test_cases: float) -> ConfirmCost:
    """What confirming a member takes, by what the trials took for the same things.

    Args:
        results: the members, as they were in the search.
        test_cases: test volumes for each validation volume.
    """
    if not results:
        return ConfirmCost(FIRST_GUESS / 2, FIRST_GUESS / 2, FIRST_GUESS / 2)
    # A trial exports twice, before its training and after it, and one that came to rungs was evaluated there too.
    export = statistics.fmean(each.seconds.get("export", 0.0) / 2 for each in results)
    evaluate = statistics.fmean(each.seconds.get("evaluate", 0.0) / (1 + len(each.rungs)) for each in results)
    return ConfirmCost(
        AGAIN_FACTOR * statistics.fmean(map(_measuring_seconds, results)),
        BUNDLE_SECONDS + export + evaluate * test_cases * HD95_FACTOR,
        export + evaluate,
    )


def _measuring_seconds(result: TrialResult) -> float:
    """What the chosen engines' measurements took when they were made: a trial may have found them in the cache."""
    phases = [each.conditions.get("phases", {}) for each in result.chosen if each is not None]
    return sum(sum(each.values()) for each in phases) or result.seconds.get("measure", 0.0)


def longer_seconds(cost: ConfirmCost, members: int, workers: int, *, left: float | None, trial_seconds: float) -> float:
    """Seconds of further training for each member of the front; 0 where too little is left to change anything.

    Args:
        cost: of confirming one.
        members: to confirm.
        workers: that do it.
        left: wall seconds until the end of the budget; None where none limits the study.
        trial_seconds: of a trial's training; a member gets no more than `LONGER_MOST` times that.
    """
    if members == 0:
        return 0.0
    if left is None:
        seconds = LONGER_SHARE * trial_seconds
    else:
        spare = CARE * (left - cost.of(members, workers))
        seconds = min(LONGER_MOST * trial_seconds, spare / math.ceil(members / workers) - cost.judge)
    return round(seconds, 1) if seconds >= MIN_LONGER_SECONDS else 0.0


def needed_seconds(spent: float, trial: float, *, shares: float) -> float:
    """The smallest budget with room for one trial.

    Args:
        spent: wall seconds so far.
        trial: that one trial takes.
        shares: parts of the budget that parent and confirmation take together, below 1.
    """
    return math.ceil((spent + trial) / (1.0 - shares))
