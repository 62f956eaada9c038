from __future__ import annotations

from pathlib import Path

import pytest

from autocompress.errors import SpecError
from autocompress.specs import find_spec, list_specs, load_spec, load_study
from autocompress.specs.library import FOLDERS, Kind, built_in_root

SPACE = "description: {}\nresolution: [64]\n"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An empty working directory and an empty configuration folder."""
    work, user = tmp_path / "work", tmp_path / "user"
    work.mkdir()
    user.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("AUTOCOMPRESS_CONFIG", str(user))
    return work, user


def write(root: Path, name: str, text: str, kind: Kind = "space") -> Path:
    path = root / FOLDERS[kind] / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("kind", list(FOLDERS))
def test_every_built_in_file_is_right_and_described(kind: Kind, places: tuple[Path, Path]) -> None:
    entries = list_specs(kind)
    assert {entry.name for entry in entries} == {path.stem for path in (built_in_root() / FOLDERS[kind]).glob("*.yaml")}
    for entry in entries:
        assert entry.problem == ""
        assert entry.description
        assert entry.origin == "built-in"


@pytest.mark.usefixtures("places")
def test_built_in_names_that_documents_promise() -> None:
    assert {"paper", "compact", "full"} <= {entry.name for entry in list_specs("space")}
    assert {"dice-latency", "dice-latency-p90"} <= {entry.name for entry in list_specs("objective")}
    assert {"default", "phantoms", "acdc", "cpu-deepsparse"} <= {entry.name for entry in list_specs("study")}
    assert {"cpu", "cpu-onnxruntime", "cpu-openvino", "cpu-deepsparse"} <= {
        entry.name for entry in list_specs("target")
    }


@pytest.mark.usefixtures("places")
def test_every_built_in_study_names_things_that_exist() -> None:
    for entry in list_specs("study"):
        study = load_study(entry.name)
        assert study.search_space.configurations_upper_bound() > 1
        for target in study.targets:
            profile = load_spec("target", target)
            study.search_space.restrict(precisions=profile.precisions, prune_patterns=profile.prune_patterns)


@pytest.mark.usefixtures("places")
def test_the_paper_space_has_the_values_of_its_tables() -> None:
    space = load_spec("space", "paper")
    assert (space.resolution, space.levels, space.width) == ((64, 128, 224), (2, 3), (1.0,))
    assert set(space.prune_points()) == {("none", 0.0), ("unstructured", 0.5)}
    assert set(space.precision) == {"fp32", "fp16"}


def test_names_are_looked_up_in_the_promised_order(places: tuple[Path, Path]) -> None:
    work, user = places
    assert find_spec("space", "paper").origin == "built-in"
    write(user, "paper", SPACE.format("of the user"))
    assert load_spec("space", "paper").description == "of the user"
    write(work, "paper", SPACE.format("of the folder"))
    assert load_spec("space", "paper").description == "of the folder"
    path = work / "paper.yaml"
    path.write_text(SPACE.format("of the path"))
    assert load_spec("space", "paper.yaml").description == "of the path"
    assert load_spec("space", str(path)).description == "of the path"

    (entry,) = (entry for entry in list_specs("space") if entry.name == "paper")
    assert (entry.origin, entry.shadows) == ("working directory", ("user", "built-in"))


def test_a_checkout_lists_its_files_once(monkeypatch: pytest.MonkeyPatch, places: tuple[Path, Path]) -> None:
    monkeypatch.chdir(built_in_root())
    assert {(entry.origin, entry.shadows) for entry in list_specs("study")} == {("built-in", ())}


def test_an_unknown_name_lists_what_there_is(places: tuple[Path, Path]) -> None:
    with pytest.raises(SpecError, match=r"unknown space 'papr'; did you mean paper\? known are compact, full, paper"):
        load_spec("space", "papr")


@pytest.mark.parametrize("name", ["nowhere/x.yaml", "x.yml", "../x", "", "a\nb", "a\0b", ".hidden", "~nobody/x.yaml"])
def test_a_path_that_is_not_there_is_named(name: str, places: tuple[Path, Path]) -> None:
    with pytest.raises(SpecError, match=r"no such file|is a folder") as caught:
        load_spec("target", name)
    assert repr(name) in str(caught.value)


def test_a_folder_is_no_specification(places: tuple[Path, Path]) -> None:
    with pytest.raises(SpecError, match="is a folder"):
        load_spec("target", "./")


def test_one_wrong_file_does_not_hide_the_others(places: tuple[Path, Path]) -> None:
    work, _ = places
    write(work, "broken", "resolution: [64\n")
    entries = {entry.name: entry for entry in list_specs("space")}
    assert "line 2" in entries["broken"].problem
    assert entries["paper"].problem == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resolution: [64]\n  levels: 2\n", "line 2: expected <block end>"),
        ("resolution: [64]\nlevels: 2\nlevels: 3\n", "line 3: the key 'levels' is there twice"),
        ("resolution: [64]\nwidth: !!python/object/apply:os.system ['true']\n", "line 2: could not determine"),
        ("- 64\n", "must hold fields (name: value), not list"),
        ("", "must hold fields (name: value), not NoneType"),
        ("3: 4\n", "field 3: names of fields must be text"),
        ("name: other\nresolution: [64]\n", "field name: 'other' must be 'wrong', as the file is called"),
        ("resolution: [31]\n", "field resolution[0]: 31 must be greater than or equal to 32"),
        ("resolution: *nobody\n", "line 1: found undefined alias"),
        ("a: \x07\n", "is not valid YAML"),
    ],
)
def test_wrong_yaml_names_the_file_and_the_place(text: str, message: str, places: tuple[Path, Path]) -> None:
    write(places[0], "wrong", text)
    with pytest.raises(SpecError) as caught:
        load_spec("space", "wrong")
    assert str(caught.value).startswith("search_spaces/wrong.yaml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_refused(places: tuple[Path, Path]) -> None:
    write(places[0], "wrong", "").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="is not text in UTF-8"):
        load_spec("space", "wrong")


def test_words_and_numbers_mean_what_people_expect(places: tuple[Path, Path]) -> None:
    # YAML 1.1 reads 1e-3 as text and `off` as false.
    text = "training: {lr: 1e-3, weight_decay: 5E-2, autocast: off, augment: false}\nseed: 10\ndata: null\n"
    write(places[0], "mine", text, "study")
    study = load_spec("study", "mine")
    assert (study.training.lr, study.training.weight_decay) == (0.001, 0.05)
    assert (study.training.autocast, study.training.augment) == ("off", False)
    assert (study.seed, study.data) == (10, None)


@pytest.mark.parametrize("value", ["010", "1:30", "0x10", "2024-01-01", "yes"])
def test_numbers_that_look_like_others_are_refused(value: str, places: tuple[Path, Path]) -> None:
    write(places[0], "mine", f"seed: {value}\n", "study")
    with pytest.raises(SpecError, match=f"field seed: '{value}' must be a whole number"):
        load_spec("study", "mine")


def test_a_study_is_loaded_with_its_space_and_objective(places: tuple[Path, Path]) -> None:
    write(places[0], "mine", "space: paper\nobjective: dice-latency-p90\nbudget: {seconds: 15m}\n", "study")
    study = load_study("mine", {"space": "compact", "objective.constraints.min_dice": 60})
    assert study.name == "mine"
    assert study.search_space == load_spec("space", "compact")
    assert study.goal.latency_percentile == "p90"
    assert study.goal.constraints.min_dice == 60
    assert study.budget.seconds == 900


def test_a_study_that_names_an_unknown_space_says_so(places: tuple[Path, Path]) -> None:
    write(places[0], "mine", "space: papr\n", "study")
    with pytest.raises(SpecError, match="unknown space 'papr'; did you mean paper"):
        load_study("mine")
