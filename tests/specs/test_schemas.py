from __future__ import annotations

import json
from typing import Any

import pytest

from autocompress.config import CompressionConfig
from autocompress.errors import SpecError
from autocompress.specs import HardwareProfile, Objective, SearchSpace, StudySpec, load_study

SPACE: dict[str, Any] = {
    "resolution": [32, 64],
    "levels": [2, 3],
    "width": [0.25, 1],
    "pruning": [{"pattern": "none"}, {"pattern": "unstructured", "ratios": [0.5, 0.8]}],
    "precision": ["fp32", "fp16", "int8"],
}
PROFILE: dict[str, Any] = {"engines": [{"name": "onnxruntime", "precisions": ["fp32", "int8"]}]}


def problem(schema: type[SearchSpace | Objective | HardwareProfile | StudySpec], values: dict[str, Any]) -> str:
    with pytest.raises(SpecError) as caught:
        schema.from_dict(values, "file.yaml")
    text = str(caught.value)
    assert text.startswith("file.yaml: ")
    assert "\n" not in text
    return text.removeprefix("file.yaml: ")


class TestSearchSpace:
    def test_counts_and_enumerates_the_product_of_its_axes(self) -> None:
        space = SearchSpace.from_dict(SPACE)
        configurations = list(space.configurations())
        # 2 resolutions, 2 depths, 2 widths, 1 grouping, 3 prune points, 3 precisions
        assert space.configurations_upper_bound() == len(configurations) == len(set(configurations)) == 72
        assert all(space.contains(config) for config in configurations)

    def test_contains_only_its_own_values(self) -> None:
        space = SearchSpace.from_dict(SPACE)
        inside = {"resolution": 64, "levels": 2, "width": 0.25}
        assert space.contains(CompressionConfig(**inside))
        for change in (
            {"resolution": 96},
            {"levels": 1},
            {"width": 0.5},
            {"grouping": "dense"},
            {"precision": "bf16"},
            {"prune_pattern": "unstructured", "prune_ratio": 0.6},
            {"prune_pattern": "channel", "prune_ratio": 0.5},
        ):
            assert not space.contains(CompressionConfig(**{**inside, **change}))

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"resolution": [31]}, "field resolution[0]: 31 must be greater than or equal to 32"),
            ({"resolution": [64, 1024]}, "field resolution[1]: 1024 must be less than or equal to 512"),
            ({"resolution": [64, "big"]}, "field resolution[1]: 'big' must be a whole number"),
            ({"resolution": []}, "field resolution: [] must not be empty"),
            ({"resolution": [64, 64]}, "has 64 twice in its resolution"),
            ({"width": [0]}, "field width[0]: 0 must be greater than 0"),
            ({"width": [float("nan")]}, "field width[0]: nan must be a finite number"),
            ({"levels": [True]}, "field levels[0]: True must be a whole number"),
            ({"grouping": ["grouped"]}, "field grouping[0]: 'grouped' must be 'depthwise' or 'dense'"),
            ({"precision": "fp8"}, "field precision[0]: 'fp8' must be 'fp32', 'fp16', 'bf16' or 'int8'"),
            (
                {"pruning": [{"pattern": "channel"}]},
                "field pruning[0]: needs ratios for the pattern channel, such as [0.5]",
            ),
            (
                {"pruning": [{"pattern": "channel", "ratios": [1.0]}]},
                "field pruning[0]: has the ratio 1, which must be above 0 and at most 0.99",
            ),
            (
                {"pruning": [{"pattern": "none", "ratios": [0.5]}]},
                "field pruning[0]: takes no ratios with the pattern none",
            ),
            ({"pruning": [3]}, "field pruning[0]: 3 must be a mapping of fields"),
            (
                {"resolutions": [64]},
                "field resolutions: unknown; did you mean resolution? known are "
                "description, family, grouping, levels, name, precision, pruning, resolution, width",
            ),
        ],
    )
    def test_says_what_is_wrong(self, change: dict[str, Any], text: str) -> None:
        assert problem(SearchSpace, {**SPACE, **change}) == text

    def test_needs_resolutions(self) -> None:
        assert problem(SearchSpace, {}) == "field resolution: missing"

    def test_single_values_stand_for_lists(self) -> None:
        space = SearchSpace.from_dict({"resolution": 64, "precision": "int8"})
        assert list(space.configurations()) == [CompressionConfig(64, precision="int8")]

    def test_is_cut_down_to_what_a_target_runs_and_says_so(self) -> None:
        space = SearchSpace.from_dict(SPACE)
        smaller, left_out = space.restrict(precisions=("fp32", "fp16"), prune_patterns=("none", "channel"))
        assert left_out == ["precision int8", "pruning unstructured"]
        assert smaller.configurations_upper_bound() == 2 * 2 * 2 * 2
        assert space.restrict(precisions=("fp32", "fp16", "int8"), prune_patterns=("unstructured",)) == (space, [])

    def test_a_target_that_runs_nothing_of_it_is_told(self) -> None:
        space = SearchSpace.from_dict({"resolution": 64, "precision": ["fp16", "bf16"]})
        with pytest.raises(SpecError, match=r"none of its precisions \(fp16, bf16\) .* has fp32, int8"):
            space.restrict(precisions={"int8", "fp32"}, prune_patterns=())


class TestObjective:
    @pytest.mark.parametrize(
        ("constraints", "text"),
        [
            ({"min_dice": 250}, "field constraints.min_dice: 250 must be less than or equal to 100"),
            ({"min_dice": -1}, "field constraints.min_dice: -1 must be greater than or equal to 0"),
            ({"max_latency_ms": 0}, "field constraints.max_latency_ms: 0 must be greater than 0"),
            ({"max_size_bytes": "big"}, "field constraints.max_size_bytes: 'big' is not a size; write bytes or text"),
            ({"max_size_bytes": 0}, "field constraints.max_size_bytes: 0 must be at least one byte"),
        ],
    )
    def test_refuses_impossible_constraints(self, constraints: dict[str, Any], text: str) -> None:
        assert problem(Objective, {"constraints": constraints}).startswith(text)

    def test_reads_sizes(self) -> None:
        limits = Objective.from_dict(
            {"constraints": {"max_memory_bytes": "2GiB", "max_size_bytes": "10MB"}}
        ).constraints
        assert (limits.max_memory_bytes, limits.max_size_bytes) == (2 * 1024**3, 10_000_000)

    def test_dice_goes_up_and_latency_down(self) -> None:
        wrong = [{"metric": "dice", "direction": "minimize"}, {"metric": "latency", "direction": "minimize"}]
        assert "dice must have the direction maximize" in problem(Objective, {"metrics": wrong})
        assert "dice and latency, each once" in problem(Objective, {"metrics": wrong[1:]})


class TestHardwareProfile:
    def test_says_what_its_engines_can_do_together(self) -> None:
        profile = HardwareProfile.from_dict(
            {
                "engines": [
                    {"name": "openvino", "precisions": ["int8", "bf16"], "prune_patterns": ["none"]},
                    {"name": "deepsparse", "prune_patterns": ["unstructured"]},
                ]
            }
        )
        assert profile.precisions == ("fp32", "bf16", "int8")
        assert profile.prune_patterns == ("none", "unstructured")

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"engines": []}, "field engines: [] must not be empty"),
            ({"engines": [{"name": "onnx"}]}, "field engines[0].name: 'onnx' must be 'onnxruntime', 'openvino'"),
            (
                {"engines": [{"name": "onnxruntime", "threads": 0}]},
                "field engines[0].threads: 0 must be greater than or equal to 1",
            ),
            (
                {"engines": [{"name": "onnxruntime", "treads": 2}]},
                "field engines[0].treads: unknown; did you mean threads? known are name, notice"[:63],
            ),
            ({"engines": [{"name": "torch"}, {"name": "torch"}]}, "has 'torch' twice in its engines"),
            ({"engines": [{"name": "tensorrt"}]}, "has the device cpu, but tensorrt needs"),
            ({"device": "cuda", "engines": [{"name": "deepsparse"}]}, "has the device cuda, but deepsparse runs only"),
            ({"host": {"address": "board"}}, "field host: has address, which only a host of kind ssh can have"),
            ({"host": {"kind": "ssh", "port": 70000}}, "field host.port: 70000 must be less than or equal to 65535"),
            ({"memory_bytes": "4 potatoes"}, "field memory_bytes: '4 potatoes' is not a size"),
            ({"peak_gflops": {"fp64": 1}}, "field peak_gflops.fp64"),
        ],
    )
    def test_says_what_is_wrong(self, change: dict[str, Any], text: str) -> None:
        assert problem(HardwareProfile, {**PROFILE, **change}).startswith(text)

    def test_needs_engines(self) -> None:
        assert problem(HardwareProfile, {}) == "field engines: missing"


class TestStudySpec:
    @pytest.mark.parametrize(
        ("values", "text"),
        [
            ({"budget": {"seconds": -3}}, "field budget.seconds: -3 must be greater than 0"),
            ({"budget": {"seconds": "soon"}}, "field budget.seconds: 'soon' is not a duration"),
            ({"budget": {"trials": 0}}, "field budget.trials: 0 must be greater than or equal to 1"),
            ({"budget": {}}, "must limit the budget"),
            ({"target": "cpu", "targets": ["cpu"]}, "has both target and targets"),
            ({"targets": []}, "field targets: [] must not be empty"),
            ({"targets": ["cpu", "cpu"]}, "has 'cpu' twice in its targets"),
            ({"seed": "3"}, "field seed: '3' must be a whole number"),
            ({"validation_fraction": 1}, "field validation_fraction: 1 must be less than 1"),
            ({"training": {"trial_seconds": "fast"}}, "field training.trial_seconds: 'fast' is not a duration"),
            ({"training": {"learning_rate": 1}}, "field training.learning_rate: unknown; known are augment"),
            ({"parent": {"config": {"resolution": 31}}}, "field parent: has a wrong config: resolution 31"),
            ({"parent": {"config": "widest"}}, "field parent.config: 'widest' must be 'auto'"),
            ({"parent": {"source": ""}}, "field parent.source: '' must not be empty"),
            ({"parent": {"source": "old", "enabled": False}}, "field parent: has a source and enabled: false"),
            ({"parent": {"source": "old", "config": {"resolution": 64}}}, "field parent: has a source, which has its"),
            ({"training": {"feature_weight": 11}}, "field training.feature_weight: 11 must be less than or equal to"),
            ({"training": {"recipe": 3}}, "field training.recipe: 3 must be text"),
            ({"parent": {"share": 0.5}, "confirm": {"share": 0.5}}, "leaves nothing for the trials"),
            ({"space": {"resolution": [20]}}, "field space.resolution[0]: 20 must be greater than or equal to 32"),
            ({"sampler": {"name": "grid"}}, "field sampler.name: 'grid' must be 'auto', 'gp'"),
        ],
    )
    def test_says_what_is_wrong(self, values: dict[str, Any], text: str) -> None:
        assert problem(StudySpec, values).startswith(text)

    def test_one_target_or_many(self) -> None:
        assert StudySpec.from_dict({"target": "cpu"}).targets == ("cpu",)
        many = StudySpec.from_dict({"targets": ["cpu-openvino", "cpu-deepsparse"]})
        assert (many.target, many.targets) == ("cpu-openvino", ("cpu-openvino", "cpu-deepsparse"))

    def test_a_parent_is_a_configuration_or_auto(self) -> None:
        assert StudySpec.from_dict({}).parent.compression_config is None
        given = StudySpec.from_dict({"parent": {"config": {"resolution": 64, "levels": 3}}})
        assert given.parent.compression_config == CompressionConfig(64, levels=3)

    def test_a_named_parent_takes_no_share_of_the_budget(self) -> None:
        share = {"share": 0.5, "source": "runs/old/bundles/best"}
        assert StudySpec.from_dict({"parent": share, "confirm": {"share": 0.5}}).parent.source == share["source"]

    def test_survives_json(self) -> None:
        study = load_study("phantoms", {"training.trial_seconds": "45s", "targets": ["cpu", "./mine.yaml"]})
        assert StudySpec.from_dict(json.loads(json.dumps(study.to_dict()))) == study

    def test_is_frozen(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            StudySpec.from_dict({}).seed = 1  # type: ignore[misc]

    def test_a_name_in_place_of_a_space_must_be_loaded_first(self) -> None:
        study = StudySpec.from_dict({"name": "mine", "space": "paper"})
        with pytest.raises(SpecError, match="study mine: its space 'paper' is still a name"):
            _ = study.search_space


class TestOverrides:
    def test_change_fields_at_any_depth_and_nothing_else(self) -> None:
        study = load_study("default")
        changed = study.with_overrides({"budget.seconds": "1h", "seed": 7, "objective.constraints.min_dice": 75})
        assert (changed.budget.seconds, changed.seed, changed.goal.constraints.min_dice) == (3600, 7, 75)
        assert changed.search_space == study.search_space
        assert (
            changed.with_overrides({"budget.seconds": 900, "seed": 0, "objective.constraints.min_dice": None}) == study
        )

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"objective.constraints.min_dice": 250}, "field objective.constraints.min_dice: 250 must be less than"),
            ({"budgets.seconds": 3}, "field budgets: unknown; did you mean budget?"),
            ({"seed.x": 3}, "field seed.x: seed is 0 and has no fields to change"),
        ],
    )
    def test_are_checked_like_a_file(self, changes: dict[str, Any], text: str) -> None:
        with pytest.raises(SpecError) as caught:
            load_study("default").with_overrides(changes)
        assert str(caught.value).startswith(f"command line: {text}")
