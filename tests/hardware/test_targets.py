"""Which engines of a profile can be used, and what is said about the others."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from autocompress.errors import TargetError
from autocompress.hardware.agent import facts
from autocompress.hardware.targets import Target, inspect_target, resolve_target
from autocompress.specs.library import list_specs, load_spec
from autocompress.specs.schemas import HardwareProfile

BUILT_IN = {"cpu", "cpu-onnxruntime", "cpu-openvino", "cpu-deepsparse", "gpu"}


def profile(*engines: dict[str, Any], **fields: Any) -> HardwareProfile:
    return HardwareProfile.from_dict({"name": "mine", "engines": list(engines), **fields})


def test_built_in_profiles_are_right_and_described() -> None:
    entries = {entry.name: entry for entry in list_specs("target")}
    assert set(entries) >= BUILT_IN
    for name in BUILT_IN:
        assert entries[name].problem == ""
        assert entries[name].description


def test_deepsparse_is_used_by_the_cpu_profile_only_when_asked_for() -> None:
    names = [engine.name for engine in load_spec("target", "cpu").engines if not engine.on_request]
    assert "deepsparse" not in names
    target = inspect_target(load_spec("target", "cpu"))
    (other,) = [each for each in target.unusable if each.name == "deepsparse"]
    assert other.line == "deepsparse: used only on request; --engines deepsparse"


@pytest.mark.parametrize("name", ["cpu", "cpu-deepsparse"])
def test_the_licence_is_told_wherever_deepsparse_is(name: str) -> None:
    target = inspect_target(load_spec("target", name))
    notices = [each.notice for each in [*target.engines, *target.unusable] if each.name == "deepsparse"]
    assert len(notices) == 1
    assert "not production" in notices[0]


def test_a_licence_is_told_also_where_a_profile_forgets_it() -> None:
    target = inspect_target(profile({"name": "deepsparse", "on_request": True}, {"name": "onnxruntime"}))
    assert "not production" in target.unusable[0].notice


def test_all_cores_by_default_and_as_many_as_asked_for() -> None:
    target = resolve_target(load_spec("target", "cpu-onnxruntime"))
    assert 1 <= target.engines[0].threads <= target.host["cores"]
    assert resolve_target(profile({"name": "onnxruntime", "threads": 1})).engines[0].threads == 1


def test_impossible_thread_count() -> None:
    with pytest.raises(TargetError, match=r"target mine: onnxruntime asks for 1000 threads, but .* has \d+ cores"):
        resolve_target(profile({"name": "onnxruntime", "threads": 1000}))


def test_an_engine_that_is_not_installed_comes_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "openvino" else find(name, *rest)
    )
    with pytest.raises(TargetError) as error:
        resolve_target(profile({"name": "openvino"}))
    assert str(error.value).startswith("target mine cannot be used here: openvino: not installed in this Python 3.")
    assert "pip install 'autocompress[openvino]'" in str(error.value)
    # With another engine beside it, the target goes on.
    both = profile({"name": "openvino"}, {"name": "onnxruntime"})
    assert [engine.name for engine in resolve_target(both).engines] == ["onnxruntime"]
    # But not where it was asked for by name.
    with pytest.raises(TargetError, match="openvino: not installed"):
        resolve_target(both, engines=["openvino", "onnxruntime"])


def test_an_engine_can_have_its_own_interpreter(tmp_path: Path) -> None:
    marker = tmp_path / "used"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ntouch "{marker}"\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    target = resolve_target(profile({"name": "onnxruntime", "python": str(python)}))
    assert marker.exists()
    assert target.engines[0].python == str(python)


def test_an_interpreter_that_does_not_exist() -> None:
    with pytest.raises(TargetError, match="cannot start the interpreter /nowhere/python"):
        resolve_target(profile({"name": "onnxruntime", "python": "/nowhere/python"}))


def test_torch_without_cuda_is_no_engine_of_a_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(TargetError, match=r"torch: (this build of torch has no CUDA|torch finds no).*; install"):
        resolve_target(profile({"name": "torch"}, device="cuda"))


def test_a_gpu_that_is_not_there() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(TargetError, match=r"target gpu cannot be used here: .*CUDAExecutionProvider; pip install"):
        resolve_target(load_spec("target", "gpu"))


def test_an_engine_that_the_profile_does_not_have() -> None:
    with pytest.raises(
        TargetError, match="target cpu has no engine 'tensorrt'; it has onnxruntime, openvino, deepsparse, torch"
    ):
        resolve_target(load_spec("target", "cpu"), engines=["tensorrt"])


def test_batches_are_not_measured() -> None:
    with pytest.raises(TargetError, match="batch_size 4"):
        resolve_target(profile({"name": "onnxruntime"}, batch_size=4))


def test_a_target_travels_as_json() -> None:
    target = resolve_target(load_spec("target", "cpu-onnxruntime"))
    assert Target.from_dict(json.loads(json.dumps(target.to_dict()))) == target
    assert target.host["id"]


def test_engines_are_asked_once_for_several_profiles() -> None:
    probes: dict[Any, Any] = {}
    inspect_target(load_spec("target", "cpu-onnxruntime"), probes=probes)
    (report,) = probes.values()
    inspect_target(load_spec("target", "cpu-onnxruntime"), probes=probes)
    assert list(probes.values()) == [report]


def test_the_engine_of_a_target_by_name() -> None:
    target = inspect_target(load_spec("target", "cpu"), engines=["onnxruntime"])
    assert target.engine("onnxruntime").name == "onnxruntime"
    with pytest.raises(TargetError, match="openvino: not among the engines asked for"):
        target.engine("openvino")
    with pytest.raises(TargetError, match="has no engine 'abacus'"):
        target.engine("abacus")


def test_a_host_in_another_power_mode_is_not_measured() -> None:
    demanding = profile({"name": "onnxruntime"}, power_mode="no-such-mode")
    with pytest.raises(TargetError, match=r"demands the power mode no-such-mode, .*; set no-such-mode"):
        resolve_target(demanding)


def test_the_power_mode_of_a_jetson_is_what_nvpmodel_says(tmp_path: Path) -> None:
    program = tmp_path / "nvpmodel"  # a stand-in
    program.write_text("#!/bin/sh\nprintf 'NV Fan Mode:quiet\\nNV Power Mode: MAXN\\n0\\n'\n")
    program.chmod(0o755)
    assert facts.power_mode((str(program),)) == "MAXN"
    program.write_text("#!/bin/sh\nexit 1\n")
    assert facts.power_mode((str(program),)) == facts.power_mode(())
