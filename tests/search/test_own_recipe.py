"""A user's own pruning recipe: checked before anything starts, carried to every trial, obeyed by what is measured."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from autocompress.compression import pruning
from autocompress.compression.pruning import with_zeros_of
from autocompress.config import CompressionConfig
from autocompress.data import open_dataset
from autocompress.errors import ConfigError, UserError
from autocompress.hardware.turnstile import Turnstile
from autocompress.models import build
from autocompress.search.own_recipe import MAX_BYTES
from autocompress.search.plan import SearchPlan
from autocompress.search.records import TrialRequest
from autocompress.search.resolve import overrides_of, resolve
from autocompress.search.session import _Session
from autocompress.search.variants import places_of

needs_sparseml = pytest.mark.skipif(importlib.util.find_spec("sparseml") is None, reason="sparseml is not installed")

EXPAND = "re:encoder.0.*expand.weight"
RECIPE = """modifiers:
  - !EpochRangeModifier
    start_epoch: 0.0
    end_epoch: 10.0
  - !GMPruningModifier
    init_sparsity: 0.05
    final_sparsity: 0.75
    start_epoch: 1.0
    end_epoch: 6.0
    update_frequency: 1.0
    leave_enabled: true
    params: ["{layers}"]
"""
SPACE = """resolution: [32]
levels: [1, 2]
width: [0.125]
pruning:
  - {pattern: none}
  - {pattern: unstructured, ratios: [0.5, 0.8]}
"""
# A target whose engine is at hand, said to gain from zeros.
TARGET = "engines: [{name: onnxruntime, prune_patterns: [none, unstructured]}]\n"


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("space.yaml", SPACE),
        ("dense.yaml", "resolution: [32]\nwidth: [0.125]\n"),
        ("target.yaml", TARGET),
        ("recipe.yaml", RECIPE.format(layers=EXPAND)),
    ):
        (tmp_path / name).write_text(text)
    return tmp_path


def plan(recipe: str | None = "recipe.yaml", **options: Any) -> SearchPlan:
    values = {"data": "phantoms-tiny", "target": "./target.yaml", "space": "./space.yaml", "trials": 2, **options}
    return resolve("mine", overrides=overrides_of({**values, "recipe": None if recipe is None else Path(recipe)}))


@needs_sparseml
def test_the_text_travels_and_leaves_one_ratio() -> None:
    found = plan()
    text = Path("recipe.yaml").read_text()
    assert found.recipe == text
    assert found.space.prune_points() == (("none", 0.0), ("unstructured", 0.5))
    assert any("recipe.yaml decides on the zeros" in note for note in found.notes)
    session = cast(_Session, SimpleNamespace(plan=found, parent=None, trial_seconds=1.0))
    request = TrialRequest.from_dict(_Session._request(session, 0, CompressionConfig(32)))
    assert request.recipe == text


@needs_sparseml
def test_what_the_target_cannot_use_stays_left_out() -> None:
    Path("space.yaml").write_text(SPACE + "  - {pattern: channel, ratios: [0.25, 0.5]}\n")
    assert plan().space.prune_points() == (("none", 0.0), ("unstructured", 0.5))
    Path("target.yaml").write_text(TARGET.replace("unstructured]", "unstructured, channel]"))
    assert plan().space.prune_points()[2:] == (("channel", 0.25), ("channel", 0.5))


@needs_sparseml
def test_a_study_goes_on_with_its_own_recipe_alone() -> None:
    begun = plan()
    assert begun.identity()["training"]["recipe"] == hashlib.sha256(Path("recipe.yaml").read_bytes()).hexdigest()
    begun.folder.mkdir(parents=True)
    begun.claim("print")
    plan().claim("print")
    with pytest.raises(UserError, match="begun with another training"):
        plan(None).claim("print")
    Path("recipe.yaml").write_text(RECIPE.format(layers=EXPAND).replace("0.75", "0.7"))
    with pytest.raises(UserError, match="begun with another training"):
        plan().claim("print")


@needs_sparseml
def test_layers_that_only_deep_networks_have_are_announced() -> None:
    Path("recipe.yaml").write_text(RECIPE.format(layers="re:encoder.1.*expand.weight"))
    assert any(note.startswith("pruned trials with levels 1 will fail: recipe recipe.yaml") for note in plan().notes)


@needs_sparseml
@pytest.mark.parametrize(
    ("recipe", "options", "expected"),
    [
        ("nowhere.yaml", {}, "cannot read recipe nowhere.yaml: No such file or directory"),
        (".", {}, "cannot read recipe .: Is a directory"),
        ("recipe.yaml", {"space": "./dense.yaml"}, "has no unstructured pruning"),
        ("recipe.yaml", {"target": "cpu-onnxruntime"}, "the target cpu-onnxruntime cannot use unstructured pruning"),
    ],
)
def test_what_cannot_be_used_is_one_line(recipe: str, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as refused:
        plan(recipe, **options)
    assert expected in str(refused.value) and "\n" not in str(refused.value)


@needs_sparseml
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (RECIPE.format(layers="encoder.7.weight").encode(), "'encoder.7.weight' matches no weight of the network"),
        (b"modifiers: [", "not valid YAML"),
        (b"\xff\xfe\x00", "is not text"),
        (b"#" * (MAX_BYTES + 1), "is larger than 1 MB"),
    ],
)
def test_what_is_no_fitting_recipe_is_one_line(content: bytes, expected: str) -> None:
    Path("recipe.yaml").write_bytes(content)
    with pytest.raises(UserError) as refused:
        plan()
    assert expected in str(refused.value) and "recipe.yaml" in str(refused.value) and "\n" not in str(refused.value)


def test_without_sparseml_it_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ConfigError("unstructured pruning needs SparseML, which is not installed")

    monkeypatch.setattr(pruning, "check_sparseml", missing)
    with pytest.raises(UserError, match="needs SparseML"):
        plan()


@needs_sparseml
def test_the_file_that_is_measured_has_the_zeros_of_the_recipe(tmp_path: Path) -> None:
    config = CompressionConfig(32, levels=1, width=0.125, prune_pattern="unstructured", prune_ratio=0.5)
    found = plan()
    session = cast(_Session, SimpleNamespace(plan=found, parent=None, trial_seconds=1.0))
    request = TrialRequest.from_dict(_Session._request(session, 0, config))
    dataset = open_dataset("phantoms-tiny")
    torch.manual_seed(0)
    model = build("dae-former", config, in_channels=1, num_classes=9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (place,) = places_of(request, dataset, Turnstile())
    variant = place.export(model, config, tmp_path / "export", untrained=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    pruned = with_zeros_of(request.recipe or "", model)
    expected = [name for name in before if name.startswith("encoder.0") and name.endswith("expand.weight")]
    assert len(expected) == 4
    for name, weight in pruned.named_parameters():
        share = float((weight == 0).float().mean())
        if name in expected:
            assert share == pytest.approx(0.75, abs=0.01)
            # The largest weights stay, as they were.
            kept = weight != 0
            assert torch.equal(weight[kept], before[name][kept])
            assert weight[kept].abs().min() >= before[name][~kept].abs().max()
        else:
            assert torch.equal(weight, before[name])
    assert pruning.sparsity_of(variant.path) == pytest.approx(pruning.sparsity_of(pruned), abs=0.02)
    assert pruning.sparsity_of(pruned) > 0.1
