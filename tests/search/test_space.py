"""The space of a study as Optuna's parameters."""

import optuna
import pytest

from autocompress.config import CompressionConfig
from autocompress.errors import ConfigError, SpecError
from autocompress.models import get_family
from autocompress.search.space import ConfigSpace
from autocompress.specs.schemas import SearchSpace

SPEC = {
    "resolution": [128, 32, 64],
    "levels": [2, 3],
    "width": [0.25, 0.5],
    "grouping": ["depthwise", "dense"],
    "pruning": [{"pattern": "none"}, {"pattern": "channel", "ratios": [0.25, 0.5]}],
    "precision": ["fp32", "int8"],
}


def make(**changes: object) -> ConfigSpace:
    return ConfigSpace(SearchSpace.from_dict({**SPEC, **changes}), get_family("dae-former").check)


def test_holds_every_combination_that_the_family_can_build() -> None:
    assert len(make()) == 3 * 2 * 2 * 2 * 3 * 2
    # 40 is a multiple of 8 (two levels) and not of 16 (three levels).
    assert len(make(resolution=[40])) == 1 * 1 * 2 * 2 * 3 * 2


def test_every_configuration_can_be_enqueued_and_comes_back_as_asked() -> None:
    space = make()
    study = optuna.create_study(directions=["maximize", "minimize"])
    for config in space:
        study.enqueue_trial(space.parameters(config))
    assert [space.suggest(study.ask()) for _ in range(len(space))] == list(space)


@pytest.mark.parametrize("resolution", [[32, 64, 96], [32, 64, 128]])
def test_samplers_see_resolutions_in_their_order(resolution: list[int]) -> None:
    space = make(resolution=resolution)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=1))
    seen = set()
    for _ in range(40):
        trial = study.ask()
        seen.add(space.suggest(trial).resolution)
        assert any(isinstance(each, optuna.distributions.IntDistribution) for each in trial.distributions.values())
    assert seen == set(resolution)


def test_first_trials_are_the_papers_steps_within_the_space() -> None:
    space = make()
    steps = space.paper_steps()
    assert len(steps) == len(set(steps)) >= 6
    assert all(config in space for config in steps)
    labels = [(each.resolution, each.levels, each.grouping, each.prune_pattern, each.precision) for each in steps]
    assert (128, 3, "depthwise", "none", "fp32") in labels  # the baseline
    assert (32, 3, "depthwise", "none", "fp32") in labels  # step A
    assert (128, 2, "depthwise", "none", "fp32") in labels  # step B: a level less
    assert any(each[2] == "dense" for each in labels)  # step B: no grouping
    assert any(each[3] == "channel" for each in labels)  # step C
    assert any(each[4] == "int8" for each in labels)  # step D


def test_a_space_without_a_valid_configuration_says_why() -> None:
    with pytest.raises(SpecError, match=r"33 is no multiple of"):
        make(resolution=[33])


def test_a_combination_that_cannot_be_built_is_refused_when_suggested() -> None:
    space = make(resolution=[40, 64])
    study = optuna.create_study(directions=["maximize", "minimize"])
    values = space.parameters(CompressionConfig(resolution=64, levels=3, width=0.25))
    study.enqueue_trial({**values, "resolution": 40})
    with pytest.raises(ConfigError):
        space.suggest(study.ask())
