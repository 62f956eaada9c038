"""Recipes: what is written says what was asked; what is read is checked against the network."""

from __future__ import annotations

import pytest

from autocompress.compression.recipes import read_recipe, write_recipe
from autocompress.errors import ConfigError

NAMES = ("body.0.weight", "body.0.bias", "body.1.weight")


def _recipe(**changes: str) -> str:
    fields = {
        "params": "['body.0.weight']",
        "init_sparsity": "0.05",
        "final_sparsity": "0.7",
        "start_epoch": "0.0",
        "end_epoch": "4.0",
        "update_frequency": "0.5",
        **changes,
    }
    lines = "\n".join(f"    {name}: {value}" for name, value in fields.items())
    return f"modifiers:\n  - !GMPruningModifier\n{lines}\n"


def test_a_written_recipe_reads_back() -> None:
    written = write_recipe(NAMES[:1], 0.8)
    assert "final_sparsity: 0.8" in written.text
    again = read_recipe(written.text, NAMES)
    assert again == written
    # The last 30 % of the budget and more are left to repair what pruning broke.
    assert written.last_epoch / written.epochs <= 0.7


def test_the_budget_stands_for_the_epochs_of_the_users_recipe() -> None:
    with_range = (
        "modifiers:\n  - !EpochRangeModifier\n    start_epoch: 0\n    end_epoch: 10\n" + _recipe().split("\n", 1)[1]
    )
    assert read_recipe(with_range, NAMES).epochs == 10
    alone = read_recipe(_recipe(), NAMES)
    assert alone.last_epoch / alone.epochs == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a: [", "not valid YAML"),
        ("just words", "a recipe is a list of modifiers"),
        ("modifiers: []", "a recipe is a list of modifiers"),
        ("modifiers:\n  - !EpochRangeModifier\n    start_epoch: 0\n    end_epoch: 1\n", "no pruning modifier"),
        (
            "modifiers:\n  - !SetLearningRateModifier\n    learning_rate: 0.1\n",
            "SetLearningRateModifier is not a pruning",
        ),
        (_recipe(params="['head.weight']"), "'head.weight' matches no weight"),
        (_recipe(params="['re:head.*']"), "'re:head.\\*' matches no weight"),
        (_recipe(params="['re:(']"), "not a regular expression"),
        (_recipe(final_sparsity="1.0"), "final_sparsity 1.0 is outside"),
        (_recipe(final_sparsity="eval(0.5)"), "is an equation"),
        (_recipe(leave_enabled="false"), "leave_enabled must be true"),
        (_recipe(end_epoch="soon"), "end_epoch must be a number"),
        ("modifiers:\n  - !!python/object/apply:os.getcwd []\n", "recipe"),
    ],
)
def test_wrong_recipes_are_named(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        read_recipe(text, NAMES)


def test_ratios_and_networks_that_cannot_be_pruned() -> None:
    with pytest.raises(ConfigError, match=r"prune_ratio 1\.0"):
        write_recipe(NAMES[:1], 1.0)
    with pytest.raises(ConfigError, match="no prunable weights"):
        write_recipe((), 0.5)
