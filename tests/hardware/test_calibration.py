"""Calibrating: which configurations are measured, what is kept of them, and what the predictor then knows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.cli import main
from autocompress.config import CompressionConfig
from autocompress.errors import ConfigError, ExitCode, SpecError
from autocompress.hardware import calibration
from autocompress.hardware.calibration import (
    Calibration,
    Networks,
    Observation,
    Scores,
    Step,
    calibrate,
    collect,
    first_guess,
)
from autocompress.hardware.prediction import GraphCosts, PredictorKey, Roofline, Sample, load_predictor
from autocompress.hardware.records import Latency, Measurement
from autocompress.hardware.samples import SampleStore
from autocompress.hardware.spread import calibration_space, candidates, rough_size, spread
from autocompress.hardware.targets import Engine, Target
from autocompress.specs.library import load_spec
from autocompress.specs.schemas import SearchSpace
from tests.hardware.prediction.synthetic import device, network

TRUE = device()
START = Roofline.from_profile()


def engine(name: str = "onnxruntime", **fields: Any) -> Engine:
    values = {"precisions": ("fp32", "bf16", "int8"), "prune_patterns": ("none", "channel"), "opset": 17, "threads": 2}
    return Engine(name, "1.0", **{**values, **fields})


def machine(*engines: Engine) -> Target:
    host = {"id": "abc", "name": "here", "cpu_model": "Abacus 9", "power": {"governor": None}}
    return Target("mine", "local", "cpu", engines or (engine(),), (), host)


def costs_of(config: CompressionConfig) -> GraphCosts:
    """Other costs for each configuration, always the same."""
    return network(np.random.default_rng(int(config.identifier, 16)))


class Device:
    """An `Examine` that measures nothing: a device whose coefficients are known, with 1 % of noise.

    Attributes:
        seen: configurations that it was asked for, by label.
        disturbed, broken, impossible: labels that are disturbed, crash the engine, or cannot be exported.
        stop_after: so many configurations until somebody presses Ctrl-C.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.disturbed: set[str] = set()
        self.broken: set[str] = set()
        self.impossible: set[str] = set()
        self.stop_after = 10**6

    def __call__(self, config: CompressionConfig, engines: Sequence[Engine]) -> Mapping[str, Observation]:
        if len(self.seen) >= self.stop_after:
            raise KeyboardInterrupt
        self.seen.append(config.label)
        if config.label in self.impossible:
            raise ConfigError("cannot be built")
        costs = costs_of(config)
        return {each.name: Observation(self._measured(config, costs, each.name), costs) for each in engines}

    def _measured(self, config: CompressionConfig, costs: GraphCosts, name: str) -> Measurement:
        if config.label in self.broken:
            return Measurement(name, "1.0", "here", "crashed", f"{name}: SIGSEGV while compiling")
        noise = np.random.default_rng(int(config.identifier, 16) + 1).normal(0, 0.01)
        p50 = TRUE.latency_ms(costs) * float(np.exp(noise))
        latency = Latency(p50, p50, p50, p50, (p50, p50), 64)
        disturbed = config.label in self.disturbed
        return Measurement(name, "1.0", "here", "ok", "", latency, TRUE.memory_bytes(costs), disturbed=disturbed)


def space(**axes: Any) -> SearchSpace:
    return SearchSpace.from_dict(
        {"resolution": [32, 48, 64, 96, 128], "levels": [1, 2, 3], "width": [0.125, 0.25, 0.5], **axes}
    )


def configurations(count: int) -> list[CompressionConfig]:
    everything = candidates(space(precision=["fp32", "bf16", "int8"]), "dae-former", machine())
    return spread(everything, count, 0)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return {"samples_folder": tmp_path / "samples", "predictors_folder": tmp_path / "predictors"}


# -- which configurations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "count"), [("cpu", 50), ("cpu-onnxruntime", 50), ("cpu", 12)])
def test_the_spread_covers_every_value_of_every_axis(target: str, count: int) -> None:
    names = {"cpu": ("onnxruntime", "openvino"), "cpu-onnxruntime": ("onnxruntime",)}[target]
    precisions = {"onnxruntime": ("fp32", "int8"), "openvino": ("fp32", "bf16", "int8")}
    chosen = machine(*(engine(name, precisions=precisions[name]) for name in names))
    everything = candidates(calibration_space(chosen), "dae-former", chosen)
    found = spread(everything, count, 0)
    assert len(found) == len(set(found)) == count
    for axis in ("resolution", "levels", "width", "grouping", "prune_ratio", "prune_pattern", "precision"):
        assert {getattr(each, axis) for each in found} == {getattr(each, axis) for each in everything}
    assert found == sorted(found, key=rough_size)
    # Small and large ones alike: as many below the middle of the space as above.
    middle = sorted(map(rough_size, everything))[len(everything) // 2]
    assert sum(rough_size(each) < middle for each in found) == count // 2


def test_the_spread_is_that_of_the_seed_and_not_of_the_order() -> None:
    everything = candidates(calibration_space(machine()), "dae-former", machine())
    assert spread(everything, 20, 3) == spread(everything[::-1], 20, 3)
    assert spread(everything, 20, 3) != spread(everything, 20, 4)
    assert spread(everything[:5], 20, 3) == sorted(everything[:5], key=rough_size)


def test_the_built_in_space_is_cut_to_what_the_target_runs() -> None:
    plain = calibration_space(machine())
    assert max(plain.resolution) == 224
    assert plain.precision == ("fp32", "bf16", "int8")
    assert "unstructured" not in [axis.pattern for axis in plain.pruning]
    sparse = machine(engine("deepsparse", precisions=("fp32",), prune_patterns=("none", "unstructured")))
    assert [axis.pattern for axis in calibration_space(sparse).pruning] == ["none", "unstructured"]
    assert max(calibration_space(machine(), "full").resolution) == 512  # as it is, when it is asked for
    with pytest.raises(SpecError, match="holds nothing for mine: resolution 36 is no multiple of 8"):
        candidates(SearchSpace.from_dict({"resolution": [36], "levels": [2]}), "dae-former", machine())


# -- what is made of them ---------------------------------------------------------------------------------------------


def test_a_calibration_predicts_what_it_has_not_measured(folders: dict[str, Path]) -> None:
    target, steps = machine(engine(), engine("openvino", precisions=("fp32",))), list[Step]()
    chosen = configurations(36)
    found = calibrate(target, chosen, START, examine=Device(), listener=steps.append, **folders)
    assert [each.engine for each in found] == ["onnxruntime", "openvino"]
    first, second = found
    assert first.samples == 36
    assert second.samples == sum(config.precision == "fp32" for config in chosen)
    assert first.scores is not None
    assert first.scores.median < 0.1
    assert first.scores.within > 0.7
    assert first.scores.coverage > 0.7
    assert first.scores.memory is not None
    assert first.scores.memory < 0.05
    assert first.shortage == ""
    assert json.loads(json.dumps(first.to_dict()))["path"] == str(first.path)
    assert [(step.done, step.total) for step in steps] == [(number, 36) for number in range(1, 37)]
    assert steps[0].latencies["onnxruntime"] > 0
    predictor = load_predictor(PredictorKey.of(target, target.engines[0]), folders["predictors_folder"])
    assert predictor is not None
    others = [config for config in space(precision=["fp32", "bf16", "int8"]).configurations() if config not in chosen]
    errors = [
        abs(predictor.predict(costs).latency_ms / TRUE.latency_ms(costs) - 1) for costs in map(costs_of, others[:60])
    ]
    assert np.median(errors) < 0.05
    assert np.mean(np.array(errors) < 0.1) > 0.85
    assert predictor.predict(costs_of(others[0])).basis == "36 measurements on Abacus 9, 2 threads"


def test_an_interrupted_calibration_goes_on(folders: dict[str, Path]) -> None:
    chosen = configurations(8)
    first, second = Device(), Device()
    first.stop_after = 5
    with pytest.raises(KeyboardInterrupt):
        calibrate(machine(), chosen, START, examine=first, **folders)
    (found,) = calibrate(machine(), chosen, START, examine=second, **folders)
    assert [*first.seen, *second.seen] == [config.label for config in chosen]
    whole = {name: folder / "whole" for name, folder in folders.items()}
    (at_once,) = calibrate(machine(), chosen, START, examine=Device(), **whole)
    assert (found.samples, found.scores) == (at_once.samples, at_once.scores)
    third = Device()
    calibrate(machine(), chosen, START, examine=third, **folders)
    assert third.seen == []
    calibrate(machine(), chosen, START, examine=third, remeasure=True, **folders)
    assert len(third.seen) == 8


def test_what_is_disturbed_or_fails_is_told_and_left_out(folders: dict[str, Path]) -> None:
    chosen, fake, steps = configurations(12), Device(), list[Step]()
    noisy, broken, impossible = chosen[0].label, chosen[1].label, chosen[2].label
    fake.disturbed, fake.broken, fake.impossible = {noisy}, {broken}, {impossible}
    (found,) = calibrate(machine(), chosen, START, examine=fake, listener=steps.append, **folders)
    assert (found.samples, found.disturbed) == (9, 1)
    assert found.failures == (f"{broken}: onnxruntime: SIGSEGV while compiling", f"{impossible}: cannot be built")
    assert steps[0].remarks == (f"{noisy} is left out: others used the machine while onnxruntime was timed",)
    assert steps[0].latencies == {}
    assert "SIGSEGV" in steps[1].remarks[0]
    assert "cannot be built" in steps[2].remarks[0]
    again = Device()  # when the machine is idle, these three are tried again
    (found,) = calibrate(machine(), chosen, START, examine=again, **folders)
    assert again.seen == [noisy, broken, impossible]
    assert (found.samples, found.disturbed, found.failures) == (12, 0, ())


def test_too_few_measurements_are_told(folders: dict[str, Path]) -> None:
    (few,) = calibrate(machine(), configurations(3), START, examine=Device(), **folders)
    assert few.scores is None
    assert few.path is not None
    assert few.shortage.startswith("onnxruntime: 3 usable measurements only")
    assert "\n" not in few.shortage
    fake = Device()
    fake.disturbed = {config.label for config in configurations(3)}
    (none,) = calibrate(machine(), configurations(3), START, examine=fake, remeasure=True, **folders)
    assert none.path is None
    assert "no predictor was made" in none.shortage


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_samples_are_kept_as_they_are(tmp_path: Path) -> None:
    key = PredictorKey.of(machine(), engine())
    store = SampleStore(key, "a", tmp_path)
    samples = [Sample(costs_of(each), 2.5, None, each.label) for each in configurations(3)]
    for number, sample in enumerate(samples):
        store.put(f"s{number}", sample)
    store.put("same", samples[0])
    again = SampleStore(key, "a", tmp_path)
    assert again.get("s1") == samples[1]
    assert len(again.all()) == 3  # of equal networks only one
    assert SampleStore(key, "other power", tmp_path).all() == []
    assert SampleStore(PredictorKey.of(machine(), engine(threads=1)), "a", tmp_path).all() == []
    store.path.write_text("{" + store.path.read_text())
    assert SampleStore(key, "a", tmp_path).all() == []


def test_another_family_adds_to_the_predictor(folders: dict[str, Path]) -> None:
    chosen = configurations(16)
    calibrate(machine(), chosen[::2], START, examine=Device(), **folders)
    other = Networks(family="unet")
    (found,) = calibrate(machine(), chosen[1::2], START, networks=other, examine=Device(), **folders)
    assert found.samples == 16
    only = collect(machine(), chosen[1::2], networks=other, examine=Device(), folder=folders["samples_folder"])
    assert len(only["onnxruntime"].samples) == 8


def test_scores_are_those_of_the_predictions() -> None:
    made = START_PREDICTOR.predict(costs_of(configurations(1)[0]))
    samples = [Sample(costs_of(configurations(1)[0]), made.latency_ms / factor) for factor in (1.0, 1.05, 1.2, 1e3)]
    scores = Scores.of([(sample, made) for sample in samples])
    assert scores.median == pytest.approx(0.125)
    assert (scores.count, scores.within, scores.coverage, scores.memory) == (4, 0.5, 0.75, None)


START_PREDICTOR = calibration.fit((), START)


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text("resolution: 32\nlevels: [1, 2]\nwidth: [0.125, 0.25]\ngrouping: [depthwise, dense]\n")
    return path


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def command(space_file: Path, *more: object) -> list[str]:
    return ["calibrate", "cpu-onnxruntime", "--measurements", "8", "--space", str(space_file), *map(str, more)]


def test_calibrate_measures_really(
    tiny: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from autocompress.hardware import measure as module
    from autocompress.hardware.settings import MeasureSettings

    quick = MeasureSettings(min_seconds=0.0, max_seconds=0.05, warmup_seconds=0.05, foreign_limit=1e9, agreement=None)
    monkeypatch.setattr(module, "MeasureSettings", lambda: quick)
    assert main(command(tiny, "--measurements", 4, "--json")) == ExitCode.DONE
    output = capsys.readouterr()
    found = json.loads(output.out)
    (row,) = found["engines"]
    assert (row["engine"], row["samples"], row["disturbed"], row["failures"]) == ("onnxruntime", 4, 0, [])
    assert row["scores"] is None  # an error cannot be told from so few
    assert Path(row["path"]).parent == own_cache / "predictors"
    assert len(list((own_cache / "calibration").iterdir())) == 1
    assert "[4/4] 32px" in output.err
    monkeypatch.setattr(calibration.Examiner, "__call__", lambda *_: pytest.fail("measured again"))
    assert main(command(tiny, "--measurements", 4)) == ExitCode.DONE
    text = " ".join(capsys.readouterr().out.split())
    assert "samples" in text
    assert ": predictor in" in text


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[Device], None]:
    """Let a `Device` stand for all measurements of the command."""

    def install(fake: Device) -> None:
        monkeypatch.setattr(calibration.Examiner, "__call__", lambda _, config, engines: fake(config, engines))

    return install


@pytest.mark.usefixtures("own_cache")
def test_ctrl_c_keeps_what_was_measured(
    tiny: Path, pretend: Callable[[Device], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Device()
    fake.stop_after = 3
    pretend(fake)
    assert main(command(tiny)) == ExitCode.INTERRUPTED
    assert "what was measured is kept (3 configurations); the same command goes on" in capsys.readouterr().out
    rest = Device()
    pretend(rest)
    assert main(command(tiny)) == ExitCode.DONE
    assert len(rest.seen) == 5


@pytest.mark.usefixtures("own_cache")
def test_mistakes_get_one_line(
    tiny: Path, tmp_path: Path, pretend: Callable[[Device], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def line(*arguments: object) -> str:
        assert main([*map(str, arguments)]) == ExitCode.USER_ERROR
        return capsys.readouterr().err.strip().splitlines()[-1]

    (tmp_path / "far.yaml").write_text("host: {kind: ssh}\nengines: [{name: onnxruntime}]\n")
    (tmp_path / "odd.yaml").write_text("resolution: 33\n")
    assert "--measurements 0" in line("calibrate", "cpu", "--measurements", 0)
    assert "--classes" in line("calibrate", "cpu", "--classes", 1)
    assert "unknown target 'toaster'" in line("calibrate", "toaster")
    assert "its host has no address" in line("calibrate", tmp_path / "far.yaml")
    assert "unknown model family 'nonesuch'" in line(*command(tiny, "--family", "nonesuch"))
    assert "resolution 33 is no multiple" in line(*command(tmp_path / "odd.yaml"))
    fake = Device()
    fake.disturbed = {config.label for config in load_spec("space", str(tiny)).configurations()}
    pretend(fake)
    assert "others used the machine during every measurement" in line(*command(tiny))


def test_a_calibration_begins_with_the_figures_of_the_profile() -> None:
    profile = load_spec("target", "cpu").model_copy(update={"peak_gflops": {"fp32": 200.0}, "bandwidth_gbs": 7.0})
    guess = first_guess(profile)
    assert guess.bandwidth_gbs == 7.0
    assert guess.rates["conv_dense"] > START.rates["conv_dense"]


def test_a_single_sample_is_one_measurement() -> None:
    one = Calibration("onnxruntime", "1", 1, 0, (), None, Path("x"))
    assert "1 usable measurement only" in one.shortage
