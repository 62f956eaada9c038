"""Predictors as JSON: round trips, damage, and that none is used where it does not hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autocompress.errors import UserError
from autocompress.hardware.prediction.fit import Sample, fit
from autocompress.hardware.prediction.predictor import Predictor
from autocompress.hardware.prediction.roofline import Roofline
from autocompress.hardware.prediction.store import PredictorKey, load_predictor, save_predictor
from autocompress.hardware.targets import Engine, Target
from tests.hardware.prediction.synthetic import device, networks

ENGINE = Engine("onnxruntime", "1.26.0", ("fp32",), ("none",), 17, 2)
TARGET = Target("my/cpu", "local", "cpu", (ENGINE,), (), {"id": "abc"})
KEY = PredictorKey.of(TARGET, ENGINE)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    samples = [Sample(each, device().latency_ms(each)) for each in networks(12)]
    return fit(samples, Roofline.from_profile(), where="here")


def test_round_trip(predictor: Predictor, tmp_path: Path) -> None:
    path = save_predictor(KEY, predictor, tmp_path / "new")
    assert path.parent == tmp_path / "new"  # the slash in the target's name made no folder
    again = load_predictor(KEY, tmp_path / "new")
    assert again == predictor
    assert again is not None
    costs = networks(1, seed=5)[0]
    assert again.predict(costs) == predictor.predict(costs)


def test_the_users_cache_is_the_default(predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    assert load_predictor(KEY) is None
    assert save_predictor(KEY, predictor).parent == tmp_path / "predictors"
    assert load_predictor(KEY) == predictor


@pytest.mark.parametrize(
    "change",
    [
        {"target": "other"},
        {"engine": "openvino"},
        {"version": "1.27.0"},
        {"threads": 1},
        {"host": "another"},
        {"device": "cuda"},
        {"power_mode": "5W"},
        {"options": '{"a": 1}'},
    ],
)
def test_a_predictor_of_other_conditions_is_not_returned(
    predictor: Predictor, tmp_path: Path, change: dict[str, Any]
) -> None:
    path = save_predictor(KEY, predictor, tmp_path)
    other = replace(KEY, **change)
    assert load_predictor(other, tmp_path) is None
    # Nor is a file that was copied to the other's name.
    target = save_predictor(other, predictor, tmp_path)
    target.write_bytes(path.read_bytes())
    assert load_predictor(other, tmp_path) is None


def _set(*names: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        place = content["predictor"]
        for name in names[:-1]:
            place = place[name]
        place[names[-1]] = to

    return change


@pytest.mark.parametrize(
    "damage",
    [
        _set("schema", to="other"),
        _set("version", to=99),
        _set("below", to=-1.0),
        _set("below", to=None),
        _set("roofline", to={}),
        _set("roofline", "bandwidth_gbs", to=-1.0),
        _set("correction", "widening", to=0.0),
        _set("correction", "mean", to=[1.0]),
        _set("correction", "process", "targets", to=[1.0]),
        _set("correction", "process", "scales", to=[]),
        _set("correction", "process", to="x"),
        lambda content: content.pop("predictor"),
        lambda content: content["predictor"].pop("samples"),
    ],
)
def test_a_damaged_file_is_one_line(
    predictor: Predictor, tmp_path: Path, damage: Callable[[dict[str, Any]], None]
) -> None:
    path = save_predictor(KEY, predictor, tmp_path)
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="calibrate again") as caught:
        load_predictor(KEY, tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_json(predictor: Predictor, tmp_path: Path) -> None:
    save_predictor(KEY, predictor, tmp_path).write_text("{")
    with pytest.raises(UserError, match="as JSON"):
        load_predictor(KEY, tmp_path)
