"""``autocompress probe``: what a target can do, the state of its host, and whether it can be measured now."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from autocompress.cli import main
from autocompress.cli import probe as module
from autocompress.errors import ExitCode, TargetError
from autocompress.hardware.state import HostState
from autocompress.hardware.targets import Target
from autocompress.specs.schemas import HardwareProfile
from tests.standins.launching import install, install_board


def test_probe_tells_engines_state_and_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "cpu-onnxruntime"]) == ExitCode.DONE
    text = " ".join(capsys.readouterr().out.split())
    for word in ("onnxruntime", "fp32, int8", "opset", "processor:", "memory:", "clocks:", "load:", "verdict: "):
        assert word in text


def test_probe_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "cpu", "--engines", "onnxruntime", "--json"]) == ExitCode.DONE
    found = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in found["engines"]] == ["onnxruntime"]
    assert found["engines"][0]["version"]
    assert {"precisions", "prune_patterns", "opset"} <= set(found["engines"][0])
    state = found["state"]
    assert state["cores"] >= 1
    assert 0 < state["memory_free_bytes"] <= state["memory_bytes"]
    assert found["measurable"] is not any(each["spoils"] for each in found["problems"])


def failed(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    """Output and the one line of the error."""
    assert main(["probe", *map(str, arguments)]) == ExitCode.USER_ERROR
    output = capsys.readouterr()
    (line,) = output.err.strip().splitlines()
    return output.out, line


def test_what_cannot_be_probed_gets_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "far.yaml").write_text("host: {kind: ssh}\nengines: [{name: onnxruntime}]\n")
    for line, arguments in (
        ("unknown target 'toaster'", ["toaster"]),
        ("--host USER@BOARD", [tmp_path / "far.yaml"]),
        ("run on this machine", ["cpu", "--host", "pi@board"]),
        ("has no engine 'abacus'", ["cpu", "--engines", "abacus"]),
    ):
        out, error = failed(capsys, *arguments)
        assert out == ""
        assert line in error


def test_the_state_is_told_where_no_engine_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none.yaml").write_text("engines: [{name: onnxruntime, python: /nowhere/python}]\n")
    out, error = failed(capsys, tmp_path / "none.yaml")
    assert "verdict: none cannot be used" in out and "memory:" in out
    assert "target none cannot be used here: onnxruntime" in error


def test_a_board_in_the_wrong_mode_is_told_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_board(tmp_path, mode=1, clocks="root")
    program = install(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    options = f"{{trtexec: {program}, cache: {tmp_path}}}"
    profile = tmp_path / "nano.yaml"
    engine = f"{{name: tensorrt, precisions: [fp32, fp16], threads: 1, options: {options}}}"
    profile.write_text(f"device: tensorrt-gpu\npower_mode: MAXN\nengines: [{engine}]\n")
    out, error = failed(capsys, profile)
    assert "board:        not told, JetPack not known" in out
    assert "power:        4.5 W now, by POM_5V_IN" in out
    assert "the profile demands the power mode MAXN, it is 5W: sudo nvpmodel -m" in out
    assert "demands the power mode MAXN, it is 5W" in error
    (tmp_path / "mode").write_text("0")
    assert main(["probe", str(profile)]) == ExitCode.DONE
    out = capsys.readouterr().out
    assert "power mode:   MAXN; the profile demands MAXN" in out
    assert "8.2.1" in out


def test_each_board_has_its_section(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    target = Target("raspberry-pi-5", "ssh", "cpu", (), (), {"name": "pi", "system": "Linux 6.6"})
    state = HostState("Cortex-A76", 4, 4)

    def look(profile: HardwareProfile, engines: Any) -> module.Finding:
        (address,) = profile.host.address
        if address == "pi@away":
            raise TargetError("the state of pi@away cannot be told: no route to host")
        return module.Finding(address, target, state, (), None)

    monkeypatch.setattr(module, "_look", look)
    hosts = ["--host", "pi@one", "--host", "pi@away", "--host", "pi@two"]
    out, error = failed(capsys, "raspberry-pi-5", *hosts)
    assert out.index("on pi@one") < out.index("on pi@two")
    assert "pi@away cannot be told: no route to host" in error
    out, _ = failed(capsys, "raspberry-pi-5", *hosts, "--json")
    result, event = out.strip().splitlines()
    found = json.loads(result)["hosts"]
    assert json.loads(event)["exit_code"] == ExitCode.USER_ERROR
    assert [each["place"] for each in found] == ["pi@one", "pi@away", "pi@two"]
    assert "no route" in found[1]["error"]
