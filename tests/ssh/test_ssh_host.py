"""A board over SSH gives what this machine gives, is sent everything once, and is never trusted by itself."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from autocompress.errors import TargetError
from autocompress.hardware.hosts.address import parse_address
from autocompress.hardware.hosts.link import _client
from autocompress.hardware.hosts.ssh import SshHost
from autocompress.hardware.infer import infer
from autocompress.hardware.measure import measure
from autocompress.hardware.settings import MeasureSettings
from autocompress.hardware.targets import Target, inspect_target, resolve_target
from autocompress.hardware.turnstile import Turnstile
from autocompress.specs.library import load_spec
from autocompress.specs.schemas import HardwareProfile
from tests.ssh.boards import Board, Client, make_client, open_board, write_program
from tests.ssh.jobs import QUICK, Agents, host_at, probe_job, run_job, started, until
from tests.ssh.proxy import Proxy
from tests.ssh.sshd import Sshd, keygen, program


@pytest.fixture
def model(tmp_path: Path, make_model: Callable[..., Path]) -> Path:
    return make_model(tmp_path / "m.onnx", opset=13)


def target_at(board: Board, engine: str = "onnxruntime", address: str | None = None) -> Target:
    """The target that a profile with this board would be."""
    device = "cpu" if engine == "onnxruntime" else "tensorrt-gpu"
    return inspect_target(
        HardwareProfile.from_dict(
            {
                "name": "board",
                "host": {"kind": "ssh", "address": address or board.address},
                "device": device,
                "engines": [{"name": engine, "precisions": ["fp32"], "threads": 1}],
            }
        )
    )


def outputs_here(model: Path, images: Any) -> Any:
    (found,) = infer(model, "onnxruntime", resolve_target(load_spec("target", "cpu-onnxruntime")), [images])
    return found


# ---------------------------------------------------------------------------------------------------------------------
# What it gives


@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt"])
def test_a_board_measures_and_computes_what_this_machine_computes(
    model: Path,
    image: Callable[..., Any],
    quick: MeasureSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
) -> None:
    with open_board(tmp_path / "board", jetson=False) as board:
        make_client(tmp_path / "client", monkeypatch, board.sshd)
        measures_and_computes(board, engine, model, image, quick, tmp_path / "turnstile")


def measures_and_computes(
    board: Board, engine: str, model: Path, image: Callable[..., Any], quick: MeasureSettings, room: Path
) -> None:
    target = target_at(board, engine)
    assert target.usable, target.unusable[0].line
    found = measure(model, target, inputs=image(2), settings=quick, turnstile=Turnstile(room)).measurements[0]
    assert found.ok, found.message
    assert found.latency is not None
    assert found.latency.runs >= 64
    (there,) = infer(model, engine, target, [image(3)])
    np.testing.assert_allclose(there, outputs_here(model, image(3)), rtol=1e-5, atol=1e-5)
    # Its engine was built there once, is kept there, and is nowhere else.
    assert len(board.calls("--saveEngine")) == (engine == "tensorrt")
    assert bool(list(board.home.rglob("*.engine"))) == (engine == "tensorrt")
    assert board.sshd.wait_idle() == []


def test_nothing_of_this_machine_is_needed_there(
    board: Board, client: Client, model: Path, image: Callable[..., Any], tmp_path: Path
) -> None:
    # Neither NumPy nor an engine's package: TensorRT by trtexec needs Python alone.
    write_program(board.bin / "python3", f'exec {shlex.quote(sys.executable)} -S -E "$@"')
    job = run_job(model, image(), tmp_path / "job", engine="tensorrt")
    report = host_at(board).run(job)
    assert report.outcome == "ok", report.message
    np.testing.assert_allclose(np.load(tmp_path / "job" / "y.npy"), outputs_here(model, image()), rtol=1e-5, atol=1e-5)


def test_a_file_is_sent_once(
    proxy: Proxy, board: Board, image: Callable[..., Any], model: Path, tmp_path: Path
) -> None:
    host = host_at(board, port=proxy.port)
    padded = tmp_path / "large.onnx"
    # A model of a megabyte that does not shrink: bytes behind the graph would be refused, so they are its doc string.
    proto = onnx.load(str(model))
    proto.doc_string = os.urandom(500_000).hex()
    onnx.save(proto, str(padded))
    for name, images in (("first", image()), ("second", image(2))):
        proxy.reset_counts()
        assert host.run(run_job(padded, images, tmp_path / name)).outcome == "ok"
        if name == "first":
            assert proxy.sent > 1_000_000
        else:
            assert proxy.sent < 200_000
    # By their content, and nothing of the jobs is left.
    stored = sorted(path.stat().st_size for path in (board.home / ".cache/autocompress/files").iterdir())
    assert len(stored) == 4  # agent, model, two images
    assert list((board.home / ".cache/autocompress/jobs").iterdir()) == []


@pytest.mark.slow
def test_what_arrived_damaged_is_sent_again(
    board: Board, client: Client, model: Path, image: Callable[..., Any], tmp_path: Path
) -> None:
    host = host_at(board)
    job = run_job(model, image(), tmp_path / "job")
    assert host.run(job).outcome == "ok"
    # A half of another file is in the place of an upload: found by its digest, and thrown away.
    files = board.home / ".cache/autocompress/files"
    there = files / hashlib.sha256(model.read_bytes()).hexdigest()
    there.unlink()
    there.with_name(f"{there.name}.{_client()}.part").write_bytes(b"x" * (model.stat().st_size - 10))
    assert host.run(job).outcome == "ok"
    assert there.read_bytes() == model.read_bytes()


def test_old_files_are_removed_and_used_ones_stay(
    board: Board, client: Client, model: Path, image: Callable[..., Any], tmp_path: Path
) -> None:
    host = host_at(board)
    assert host.run(run_job(model, image(), tmp_path / "job")).outcome == "ok"
    files = board.home / ".cache/autocompress/files"
    used = {path.name for path in files.iterdir()}
    long_ago = time.time() - 40 * 86400
    (files / ("0" * 64)).write_bytes(b"a model that nobody used for weeks")
    (files / ("1" * 64 + ".abcd.part")).write_bytes(b"an upload that was never completed")
    for path in files.iterdir():
        os.utime(path, (long_ago, long_ago))
    (board.home / ".cache/autocompress/jobs/forgotten").mkdir()
    os.utime(board.home / ".cache/autocompress/jobs/forgotten", (long_ago, long_ago))
    assert host.run(run_job(model, image(), tmp_path / "job")).outcome == "ok"
    # The agent, the model and the image of this job.
    assert {path.name for path in files.iterdir()} == used
    assert list((board.home / ".cache/autocompress/jobs").iterdir()) == []


def test_an_alias_and_a_jump_host_of_the_ssh_configuration(
    tmp_path: Path, board: Board, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sshd(tmp_path / "gate") as gate:
        (client.ssh / "id_ed25519").unlink()
        client.write_config(gate.ssh_config("gate"), board.sshd.ssh_config("nano", jump="gate"))
        client.trust(gate.known_hosts_line(), board.sshd.known_hosts_line())
        assert SshHost(parse_address("nano"), QUICK).run(probe_job()).outcome == "ok"
        assert gate.text().count("Accepted publickey") == 1
        # The same without a configuration: everything is in the profile.
        client.write_config("")
        (client.ssh / "id_ed25519.pub").unlink()
        (client.ssh / "id_ed25519").write_bytes(gate.key.read_bytes())
        (client.ssh / "id_ed25519").chmod(0o600)
        address = replace(
            parse_address(board.address), key_file=str(board.sshd.key), jump_host=f"{gate.user}@127.0.0.1:{gate.port}"
        )
        assert SshHost(address, QUICK).run(probe_job()).outcome == "ok"
        assert gate.text().count("Accepted publickey") == 2


def test_a_board_that_is_off_behind_its_jump_host(tmp_path: Path, board: Board, client: Client) -> None:
    with Sshd(tmp_path / "gate") as gate:
        client.write_config(gate.ssh_config("gate"), board.sshd.ssh_config("nano", jump="gate"))
        client.trust(gate.known_hosts_line(), board.sshd.known_hosts_line())
        board.sshd.stop()
        report = SshHost(parse_address("nano"), replace(QUICK, patience=0.5)).run(probe_job())
        assert report.outcome == "lost"
        assert "SFTP" not in report.message
        assert "\n" not in report.message
        # It is off for a while only: tried again, and found.
        timer = threading.Timer(1.0, board.sshd.start)
        timer.start()
        assert SshHost(parse_address("nano"), QUICK).run(probe_job()).outcome == "ok"


# ---------------------------------------------------------------------------------------------------------------------
# What it refuses, in one line


def refused(host: SshHost) -> str:
    report = host.run(probe_job())
    assert report.outcome == "lost"
    assert "\n" not in report.message
    assert "Traceback" not in report.log
    return report.message


def test_an_unknown_host_key_is_refused_with_what_would_accept_it(board: Board, client: Client) -> None:
    client.trust()
    text = refused(host_at(board))
    assert "host key is not known" in text
    assert f"ssh -p {board.sshd.port} {board.sshd.user}@127.0.0.1" in text
    assert (client.ssh / "known_hosts").read_text() == ""
    assert "Accepted publickey" not in board.sshd.text()


def test_a_changed_host_key_is_refused_with_what_would_forget_the_old_one(board: Board, client: Client) -> None:
    known = (client.ssh / "known_hosts").read_text()
    board.sshd.stop()
    board.sshd.new_host_key()
    board.sshd.start()
    text = refused(host_at(board))
    assert (client.ssh / "known_hosts").read_text() == known
    # What it says does it.
    (command,) = [part for part in text.replace(" and then ", ": ").split(": ") if part.startswith("ssh-keygen -R")]
    subprocess.run(
        [str(program("ssh-keygen")), *shlex.split(command)[1:], "-f", str(client.ssh / "known_hosts")],
        check=True,
        capture_output=True,
    )
    assert (client.ssh / "known_hosts").read_text() == ""


def test_a_changed_host_key_behind_an_alias(board: Board, client: Client) -> None:
    client.write_config(board.sshd.ssh_config("nano"))
    board.sshd.stop()
    board.sshd.new_host_key()
    board.sshd.start()
    # ssh itself refuses until the old key is forgotten: the line has to say so.
    assert f"ssh-keygen -R '[127.0.0.1]:{board.sshd.port}'" in refused(SshHost(parse_address("nano"), QUICK))


def test_no_configuration_turns_the_check_off(board: Board, client: Client) -> None:
    client.trust()
    for setting in ("StrictHostKeyChecking no", "UserKnownHostsFile none", "UserKnownHostsFile /dev/null"):
        client.write_config(f"Host *\n  StrictHostKeyChecking no\n  {setting}\n")
        assert "host key" in refused(host_at(board)), setting
    assert "Accepted publickey" not in board.sshd.text()


def test_hashed_names_of_known_hosts(board: Board, client: Client) -> None:
    # Debian and Ubuntu write them so.
    known = client.ssh / "known_hosts"
    subprocess.run([str(program("ssh-keygen")), "-H", "-f", str(known)], check=True, capture_output=True)
    assert "127.0.0.1" not in known.read_text()
    assert host_at(board).run(probe_job()).outcome == "ok"


def test_somebody_who_never_used_ssh(board: Board, client: Client) -> None:
    for path in client.ssh.iterdir():
        path.unlink()
    client.ssh.rmdir()
    assert "host key is not known" in refused(host_at(board))
    client.ssh.mkdir()
    client.trust(board.sshd.known_hosts_line())
    assert "ssh-copy-id" in refused(host_at(board))


def test_a_key_with_a_passphrase_is_used_through_an_agent(
    board: Board, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = program("ssh-agent")
    if agent is None or program("ssh-add") is None:
        pytest.skip("no ssh-agent here")
    key = client.ssh / "id_ed25519"
    add = subprocess.run(
        [str(program("ssh-keygen")), "-q", "-p", "-N", "secret words", "-P", "", "-f", str(key)],
        check=True,
        capture_output=True,
    )
    assert add.returncode == 0
    named = SshHost(replace(parse_address(board.address), key_file=str(key)), QUICK)
    text = refused(named)
    assert "passphrase" in text.lower()
    assert "ssh-add" in text
    # A path of pytest may be too long for a socket.
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/agent"
        with subprocess.Popen([agent, "-D", "-a", socket], stdout=subprocess.DEVNULL) as running:
            try:
                until(lambda: Path(socket).exists(), "agent")
                environment = {**os.environ, "SSH_AUTH_SOCK": socket}
                subprocess.run([str(program("ssh-add")), "-q", str(board.sshd.key)], env=environment, check=True)
                monkeypatch.setenv("SSH_AUTH_SOCK", socket)
                assert host_at(board).run(probe_job()).outcome == "ok"
                assert named.run(probe_job()).outcome == "ok"
            finally:
                running.terminate()


def test_a_key_that_is_not_accepted(board: Board, client: Client, tmp_path: Path) -> None:
    (client.ssh / "id_ed25519").unlink()
    keygen(client.ssh / "id_ed25519")
    text = refused(host_at(board))
    assert f"ssh-copy-id -p {board.sshd.port} {board.sshd.user}@127.0.0.1" in text


def test_a_key_of_which_the_public_half_is_another(board: Board, client: Client, tmp_path: Path) -> None:
    keygen(tmp_path / "other")
    (client.ssh / "id_ed25519").write_bytes((tmp_path / "other").read_bytes())
    begin = time.monotonic()
    assert "Public key mismatch" in refused(host_at(board))
    # Nothing that would pass by itself: it is not tried again.
    assert time.monotonic() - begin < QUICK.patience


def test_a_user_that_is_not_there(board: Board, client: Client) -> None:
    text = refused(SshHost(parse_address(f"nobody-here@127.0.0.1:{board.sshd.port}"), QUICK))
    assert "accepts none of our keys" in text
    assert "nobody-here@127.0.0.1" in text


def test_no_such_host_and_no_server(board: Board, client: Client) -> None:
    short = replace(QUICK, patience=0.5)
    assert "name no-such-board.invalid is not known" in refused(SshHost(parse_address("no-such-board.invalid"), short))
    board.sshd.stop()
    text = refused(host_at(board, settings=short))
    assert f"nothing listens on its port {board.sshd.port}" in text


def test_a_key_file_that_is_not_there(board: Board, client: Client, tmp_path: Path) -> None:
    address = replace(parse_address(board.address), key_file=str(tmp_path / "missing"))
    assert str(tmp_path / "missing") in refused(SshHost(address, QUICK))


def test_a_board_without_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_board(tmp_path / "board", python=None) as board:
        make_client(tmp_path / "client", monkeypatch, board.sshd)
        assert "has no python3; install Python 3.6 or newer there" in refused(host_at(board))


def test_a_board_without_any_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path, image: Callable[..., Any]
) -> None:
    bare = tmp_path / "python"
    write_program(bare, f'exec {shlex.quote(sys.executable)} -S -E "$@"')
    with open_board(tmp_path / "board", python=str(bare), trtexec=None) as board:
        make_client(tmp_path / "client", monkeypatch, board.sshd)
        for engine, word in (("onnxruntime", "onnxruntime"), ("tensorrt", "trtexec")):
            (missing,) = target_at(board, engine).unusable
            assert word in missing.line
        assert board.sshd.wait_idle() == []


def test_a_target_out_of_reach_is_one_error(board: Board, client: Client) -> None:
    client.trust()
    with pytest.raises(TargetError, match="host key is not known") as error:
        target_at(board)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------------------------------
# One board, several clients


def test_two_clients_take_turns_and_the_second_knows_of_the_first(board: Board, client: Client) -> None:
    agents = Agents(board, sys.executable)
    agents.delay(2)
    with started(host_at(board, owner="ann@desk"), probe_job()) as first:
        agents.wait_for(1)
        busy = host_at(board, settings=replace(QUICK, lease=0.5), owner="bob@desk").run(probe_job())
        assert busy.outcome == "lost"
        assert "ann@desk" in busy.message
        assert len(agents.pids) == 1
        agents.delay(0)
        with started(host_at(board, owner="eve@desk"), probe_job()) as second:
            until(lambda: len(list(board.home.glob(".cache/autocompress/jobs/*/job.json"))) == 2, "second job")
            assert not second.over
            assert first.report().outcome == "ok"
            assert second.report().outcome == "ok"
    assert len(agents.pids) == 2
    assert board.sshd.wait_idle() == []
