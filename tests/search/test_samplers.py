"""What samplers see of a study, and that the database stays as it is."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autocompress.config import CompressionConfig
from autocompress.hardware.records import Latency, Measurement
from autocompress.search.records import Rung, TrialResult
from autocompress.search.samplers import SAMPLERS, Sight, known_of, make_sampler
from autocompress.search.space import ConfigSpace
from autocompress.search.stopping import forecast
from autocompress.search.surrogate_sampler import SurrogateSampler
from autocompress.specs.schemas import Constraints, SearchSpace

SPACE = ConfigSpace(SearchSpace.from_dict({"resolution": [32, 64], "levels": [1], "width": [0.5]}), lambda _: None)
LIMITS = Constraints(min_dice=70, max_latency_ms=8)


def result(dice: float | None, p50: float, *rungs: float) -> TrialResult:
    latency = Latency(p50=p50, p90=p50, p99=p50, mean=p50, p90_interval=(p50, p50), runs=64)
    measurement = Measurement("onnxruntime", "1", "here", "ok", latency=latency, peak_memory_bytes=50_000_000)
    return TrialResult(
        0,
        CompressionConfig(resolution=64),
        "complete" if dice is not None else "pruned",
        dice=dice,
        measurements=(measurement,),
        size_bytes=1_000_000,
        rungs=tuple(Rung(share, value, 1.0) for share, value in zip((1 / 9, 1 / 3), rungs, strict=False)),
    )


def trial(state: TrialState, values: list[float] | None, told: TrialResult | None, x: float = 0.5) -> FrozenTrial:
    return create_trial(
        state=state,
        values=values,
        params={"x": x},
        distributions={"x": FloatDistribution(0, 1)},
        user_attrs={} if told is None else {"known": known_of(told, "p50")},
    )


def study_of(*trials: FrozenTrial) -> optuna.Study:
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.add_trials(trials)
    return study


def looked(*, rungs: bool = True) -> list[FrozenTrial]:
    study = study_of(
        trial(TrialState.COMPLETE, [80.0, 4.0], result(80.0, 4.0, 50.0, 70.0)),
        trial(TrialState.COMPLETE, [76.0, 16.0], result(76.0, 16.0, 52.0, 68.0)),
        trial(TrialState.COMPLETE, [60.0, 2.0], result(60.0, 2.0, 30.0, 44.0)),
        trial(TrialState.PRUNED, None, result(None, 1.0, 40.0)),
        trial(TrialState.PRUNED, None, result(None, 32.0)),
        trial(TrialState.PRUNED, None, None),
        trial(TrialState.FAIL, None, None),
    )
    return Sight(LIMITS, rungs=rungs).look(study.get_trials(deepcopy=False))


def test_latency_is_seen_as_its_logarithm() -> None:
    assert looked()[0].values == [80.0, pytest.approx(math.log(4))]


def test_limits_are_those_of_today() -> None:
    seen = looked()
    assert seen[0].constraints == {"min_dice": -10.0, "max_latency_ms": pytest.approx(math.log(0.5))}
    assert seen[1].constraints["max_latency_ms"] == pytest.approx(math.log(2))
    assert seen[2].constraints["min_dice"] == 10.0
    assert seen[4].state == TrialState.PRUNED and seen[4].constraints["max_latency_ms"] > 0


def test_stopped_trials_are_seen_with_what_others_gained() -> None:
    told = forecast([(50.0, 80.0), (52.0, 76.0), (30.0, 60.0)])
    assert told is not None and 60 < told.expected(40.0) < 80
    seen = looked()[3]
    assert seen.state == TrialState.COMPLETE and seen.values == [told.expected(40.0), pytest.approx(0.0)]
    assert looked(rungs=False)[3].state == TrialState.PRUNED


def test_a_stopped_trial_that_was_taken_up_is_seen_once() -> None:
    again = result(75.0, 1.0, 40.0, 60.0)
    study = study_of(trial(TrialState.PRUNED, None, result(None, 1.0, 40.0)), trial(TrialState.PRUNED, None, None))
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            values=[75.0, 1.0],
            params={"x": 0.5},
            distributions={"x": FloatDistribution(0, 1)},
            user_attrs={"known": known_of(again, "p50"), "continues": 0},
        )
    )
    assert [each.number for each in Sight(LIMITS, rungs=True).look(study.get_trials(deepcopy=False))] == [1, 2]


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("auto", "gp")])
def test_every_sampler_goes_on_with_stopped_and_refused_trials(name: str) -> None:
    known: list[Any] = [(TrialState.COMPLETE, result(60.0 + i, 1.0 + i, 40.0 + i, 50.0 + i)) for i in range(6)]
    known += [(TrialState.PRUNED, result(None, 3.0, 41.0)), (TrialState.PRUNED, result(None, 30.0))]
    study = study_of(
        *(
            trial(state, None if each.dice is None else [each.dice, each.latency_ms("p50") or 0.0], each, x=i / 10)
            for i, (state, each) in enumerate(known)
        )
    )
    study.sampler, _ = make_sampler(name, space=SPACE, seed=1, told=8, expected=20, startup=4, constraints=LIMITS)
    before = [(each.values, each.state) for each in study.trials]
    asked = study.ask()
    assert 0 <= asked.suggest_float("x", 0, 1) <= 1
    assert [(each.values, each.state) for each in study.trials[:-1]] == before


def test_a_study_that_goes_on_does_not_repeat_its_suggestions() -> None:
    def first(told: int) -> float:
        study = optuna.create_study(directions=["maximize", "minimize"])
        study.sampler, _ = make_sampler("random", space=SPACE, seed=3, told=told, expected=20, startup=4)
        return study.ask().suggest_float("x", 0, 1)

    assert first(0) == first(0) != first(7)


@pytest.mark.parametrize(("expected", "chosen"), [(30, "gp"), (5000, "tpe")])
def test_auto_goes_by_the_number_of_trials_and_says_so(expected: int, chosen: str) -> None:
    sampler, note = make_sampler("auto", space=SPACE, seed=0, told=0, expected=expected, startup=4)
    assert isinstance(sampler, SurrogateSampler) == (chosen == "gp")
    assert note == f"{chosen} (about {expected} trials expected)"
