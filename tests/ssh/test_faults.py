"""Whatever breaks between here and a board: the answer comes all the same, or says in time that there is none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ssh.boards import Board, Client, make_client, open_board
from tests.ssh.disks import NoDiskError, fill, small_disk
from tests.ssh.jobs import QUICK, Agents, host_at, probe_job, run_job, started, until
from tests.ssh.memory import NoLimitError, limited_memory
from tests.ssh.proxy import Proxy


@pytest.fixture
def model(tmp_path: Path, make_model: Callable[..., Path]) -> Path:
    return make_model(tmp_path / "m.onnx", opset=13)


@pytest.fixture
def agents(board: Board) -> Iterator[Agents]:
    """The agents of the board are counted; after the test none of them, nor anything else, runs there."""
    yield Agents(board, sys.executable)
    left = board.sshd.wait_idle(QUICK.grace + 5)
    assert left == []


# ---------------------------------------------------------------------------------------------------------------------
# The network


@pytest.mark.parametrize("fault", ["cut", "black hole"])
def test_an_upload_that_was_stopped_goes_on_where_it_was(
    proxy: Proxy, board: Board, model: Path, image: Callable[..., Any], tmp_path: Path, agents: Agents, fault: str
) -> None:
    ballast = tmp_path / "ballast"
    ballast.write_bytes(os.urandom(8_000_000))  # random, so that nothing is compressed
    job = run_job(model, image(), tmp_path / "job")
    job = replace(job, inputs={**job.inputs, "ballast": ballast})
    proxy.bandwidth = 16e6  # so that it stops in the middle and not behind what the kernel's buffers hold
    if fault == "cut":
        proxy.cut_after(5_000_000)
    with started(host_at(board, port=proxy.port), job) as running:
        if fault == "black hole":
            until(lambda: proxy.sent > 4_000_000, "upload")
            proxy.black_hole()
            threading.Timer(2.0, proxy.heal).start()
        report = running.report()
    assert report.outcome == "ok", report.message
    assert proxy.connections >= 2
    assert proxy.sent < 12_000_000
    assert len(agents.pids) == 1


def test_a_download_that_was_cut_is_taken_up_without_another_run(
    proxy: Proxy, board: Board, model: Path, image: Callable[..., Any], tmp_path: Path, agents: Agents
) -> None:
    job = run_job(model, image(800), tmp_path / "job")  # 2.4 MB of output
    proxy.bandwidth = 16e6
    proxy.cut_after(received=1_000_000)
    report = host_at(board, port=proxy.port).run(job)
    assert report.outcome == "ok", report.message
    assert np.load(tmp_path / "job" / "y.npy").shape == (800, 3, 16, 16)
    assert proxy.connections == 2
    assert len(agents.pids) == 1
    assert not list((tmp_path / "job").glob("*.part"))


@pytest.mark.parametrize("fault", ["cut", "black hole", pytest.param("refused for a while", marks=pytest.mark.slow)])
def test_a_link_that_breaks_during_a_run_costs_nothing(
    proxy: Proxy, board: Board, model: Path, image: Callable[..., Any], tmp_path: Path, agents: Agents, fault: str
) -> None:
    agents.delay(1.5)
    job = run_job(model, image(), tmp_path / "job")
    with started(host_at(board, port=proxy.port), job) as running:
        agents.wait_for(1)
        if fault == "cut":
            proxy.cut()
        else:
            proxy.black_hole() if fault == "black hole" else proxy.refuse()
            threading.Timer(1.8, proxy.heal).start()
        report = running.report()
    assert report.outcome == "ok", report.message
    assert (tmp_path / "job" / "y.npy").exists()
    # Run once: nothing was begun anew that was not lost.
    assert len(agents.pids) == 1


@pytest.mark.slow
def test_cuts_at_any_moment(
    proxy: Proxy, board: Board, model: Path, image: Callable[..., Any], tmp_path: Path, agents: Agents
) -> None:
    host = host_at(board, port=proxy.port)
    assert host.run(run_job(model, image(), tmp_path / "first")).outcome == "ok"
    proxy.reset_counts()
    assert host.run(run_job(model, image(), tmp_path / "second")).outcome == "ok"
    whole = proxy.sent
    # Each link breaks a little later than the one before, from the login to the last word.
    cuts = range(500, whole, 500)
    for count in cuts:
        proxy.cut_after(count)
        folder = tmp_path / f"cut-{count}"
        report = host.run(run_job(model, image(), folder))
        assert report.outcome == "ok", (count, report.message)
        assert (folder / "y.npy").exists()
        proxy.heal()
    # A run may have begun unheard, or ended unheard; it is never made twice.
    assert len(agents.pids) == 2 + len(cuts)


@pytest.mark.slow
def test_a_slow_link_is_slow_and_no_more(
    proxy: Proxy, board: Board, model: Path, image: Callable[..., Any], tmp_path: Path, agents: Agents
) -> None:
    proxy.delay, proxy.bandwidth = 0.02, 500_000
    report = host_at(board, port=proxy.port).run(run_job(model, image(4), tmp_path / "job"))
    assert report.outcome == "ok", report.message
    assert proxy.connections == 1


def test_a_black_hole_that_stays_is_told_in_time(proxy: Proxy, board: Board, agents: Agents) -> None:
    proxy.black_hole()
    settings = replace(QUICK, connect=0.5, patience=1.0)
    report = host_at(board, port=proxy.port, settings=settings).run(probe_job())
    assert report.outcome == "lost"
    assert "no answer" in report.message
    assert agents.pids == []


# ---------------------------------------------------------------------------------------------------------------------
# The board


def test_a_killed_server_that_comes_back(
    board: Board, client: Client, model: Path, image: Callable[..., Any], tmp_path: Path, agents: Agents
) -> None:
    agents.delay(1)
    with started(host_at(board), run_job(model, image(), tmp_path / "job")) as running:
        agents.wait_for(1)
        board.sshd.kill_sshd()
        threading.Timer(0.5, board.sshd.start).start()
        report = running.report()
    assert report.outcome == "ok", report.message
    assert len(agents.pids) == 1


def test_a_reboot_begins_the_run_anew(
    board: Board, client: Client, model: Path, image: Callable[..., Any], tmp_path: Path, agents: Agents
) -> None:
    agents.delay(60)
    with started(host_at(board), run_job(model, image(), tmp_path / "job")) as running:
        agents.wait_for(1)
        agents.delay(0)
        board.sshd.reboot(0.7)
        report = running.report()
    board.sshd.join()
    assert report.outcome == "ok", report.message
    assert (tmp_path / "job" / "y.npy").exists()
    assert len(agents.pids) == 2


def test_a_board_that_stays_away_is_told_in_time(board: Board, client: Client, agents: Agents) -> None:
    agents.delay(60)
    with started(host_at(board, settings=replace(QUICK, patience=1.5)), probe_job()) as running:
        agents.wait_for(1)
        board.sshd.stop()
        report = running.report()
    assert report.outcome == "lost"
    assert board.address in report.message
    assert report.answer == {}


@pytest.fixture
def small_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """A board whose cache is a disk of 4 MB."""
    with open_board(tmp_path / "board", trtexec=None) as found:
        make_client(tmp_path / "client", monkeypatch, found.sshd)
        try:
            with small_disk(found.home / ".cache", 4 * 2**20):
                yield found
        except NoDiskError as error:
            pytest.skip(str(error))


def test_a_full_disk_is_told_and_can_be_freed(
    small_board: Board, model: Path, image: Callable[..., Any], tmp_path: Path
) -> None:
    disk = small_board.home / ".cache"
    filler = fill(disk, leave=300_000)
    job = run_job(model, image(400), tmp_path / "job")  # 0.4 MB
    report = host_at(small_board, settings=replace(QUICK, patience=1.0)).run(job)
    assert report.outcome == "lost"
    assert "no space left on its disk" in report.message
    # Somebody makes room while it is tried again.
    threading.Timer(0.5, filler.unlink).start()
    report = host_at(small_board).run(job)
    assert report.outcome == "ok", report.message
    assert np.load(tmp_path / "job" / "y.npy").shape == (400, 3, 16, 16)
    assert small_board.sshd.wait_idle() == []


@pytest.mark.slow
def test_a_disk_that_gets_full_during_the_run(
    small_board: Board, model: Path, image: Callable[..., Any], tmp_path: Path
) -> None:
    disk, agents = small_board.home / ".cache", Agents(small_board, sys.executable)
    agents.delay(1)
    with started(host_at(small_board), run_job(model, image(400), tmp_path / "job")) as running:
        agents.wait_for(1)
        filler = fill(disk, leave=100_000)  # the output is 1.2 MB
        until(lambda: len(agents.pids) > 1 or running.over, "second attempt")
        filler.unlink()
        report = running.report()
    # Either it was tried again when there was room, or it says what was wrong; a half of an output is never taken.
    assert report.outcome == "ok" or "space" in report.message, report.message
    if report.outcome == "ok":
        assert np.load(tmp_path / "job" / "y.npy").shape == (400, 3, 16, 16)
    assert small_board.sshd.wait_idle() == []


@pytest.mark.slow
def test_a_disk_without_a_byte(small_board: Board) -> None:
    fill(small_board.home / ".cache")
    report = host_at(small_board, settings=replace(QUICK, patience=1.0)).run(probe_job())
    assert report.outcome == "lost"
    assert "no space left on its disk" in report.message


# ---------------------------------------------------------------------------------------------------------------------
# What runs there


def test_an_agent_that_is_killed_twice_is_out_of_memory(board: Board, client: Client, agents: Agents) -> None:
    agents.delay(60)
    with started(host_at(board), probe_job()) as running:
        for count in (1, 2):
            os.kill(agents.wait_for(count), signal.SIGKILL)
        report = running.report()
    assert report.outcome == "out_of_memory"
    assert "SIGKILL" in report.message
    assert len(agents.pids) == 2


def test_a_board_whose_memory_is_too_small(board: Board, client: Client, agents: Agents) -> None:
    agents.run("x = bytearray(400_000_000)")
    try:
        with limited_memory(200_000_000) as group:
            (group / "cgroup.procs").write_text(str(board.sshd.pid))
            report = host_at(board).run(probe_job())
            board.sshd.stop()
    except NoLimitError as error:
        pytest.skip(str(error))
    # The kernel killed the agent alone: its supervisor told.
    assert report.outcome == "out_of_memory", report.message
    assert "want of memory" in report.message
    assert len(agents.pids) == 2


@pytest.mark.slow
def test_an_agent_that_is_killed_once_is_run_again(board: Board, client: Client, agents: Agents) -> None:
    agents.delay(60)
    with started(host_at(board), probe_job()) as running:
        first = agents.wait_for(1)
        agents.delay(0)
        os.kill(first, signal.SIGKILL)
        report = running.report()
    assert report.outcome == "ok", report.message


def test_an_agent_that_hangs_is_killed(board: Board, client: Client, agents: Agents) -> None:
    agents.delay(600)
    report = host_at(board).run(probe_job(timeout_seconds=1.0))
    assert report.outcome == "timeout"
    assert "no answer within 1 s" in report.message
    assert board.sshd.wait_idle() == []


def test_a_supervisor_that_is_killed_takes_its_agent_along(board: Board, client: Client, agents: Agents) -> None:
    agents.delay(60)
    with started(host_at(board), probe_job()) as running:
        agent = agents.wait_for(1)
        supervisor = int(Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[1])
        agents.delay(0)
        os.kill(supervisor, signal.SIGKILL)
        report = running.report()
    assert report.outcome == "ok", report.message
    assert len(agents.pids) == 2


@pytest.mark.slow
def test_a_run_whose_agent_file_is_gone_does_not_go_on_for_ever(board: Board, client: Client, agents: Agents) -> None:
    agents.delay(1)
    settings = replace(QUICK, patience=1.0)
    with started(host_at(board, settings=settings), probe_job()) as running:
        agents.wait_for(1)
        for path in (board.home / ".cache/autocompress/files").iterdir():
            path.unlink()
        board.sshd.drop_sessions()
        report = running.report(30)
    assert report.outcome in ("ok", "lost")


def test_a_run_may_take_longer_than_the_board_waits_for_a_word_from_us(
    board: Board, client: Client, agents: Agents
) -> None:
    agents.delay(3)
    report = host_at(board, settings=replace(QUICK, grace=1.5)).run(probe_job())
    assert report.outcome == "ok", report.message
    assert len(agents.pids) == 1


CLIENT = """
import sys
from dataclasses import replace
from tests.ssh.jobs import QUICK, probe_job
from autocompress.hardware.hosts.address import parse_address
from autocompress.hardware.hosts.ssh import SshHost
SshHost(parse_address(sys.argv[1]), replace(QUICK, grace=2.0)).run(probe_job())
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_client_that_ends_leaves_nothing_behind(
    board: Board, client: Client, agents: Agents, how: signal.Signals
) -> None:
    agents.delay(600)
    command = [sys.executable, "-c", CLIENT, board.address]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE) as process:
        agents.wait_for(1)
        process.send_signal(how)
        process.communicate()
    # After Ctrl-C at once; where the client had no time for it, the board notices by itself.
    assert board.sshd.wait_idle(1.5 if how == signal.SIGINT else 10.0) == []


@pytest.mark.slow
def test_a_program_that_outlives_its_agent_is_ended(
    board: Board, client: Client, model: Path, image: Callable[..., Any], tmp_path: Path
) -> None:
    # A trtexec that leaves something running in the background, as a profiler would.
    assert board.trtexec is not None
    text = board.trtexec.read_text()
    board.trtexec.write_text(text.replace("#!/bin/sh\n", "#!/bin/sh\nsleep 600 >/dev/null 2>&1 &\n", 1))
    job = run_job(model, image(), tmp_path / "job", engine="tensorrt")
    report = host_at(board).run(job)
    assert report.outcome == "ok", report.message
    assert board.sshd.wait_idle() == []


def test_a_home_folder_with_a_name_that_a_shell_would_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path, image: Callable[..., Any]
) -> None:
    with open_board(tmp_path / "board", home="it's a $(touch hacked) ho;me", trtexec=None) as board:
        make_client(tmp_path / "client", monkeypatch, board.sshd)
        report = host_at(board).run(run_job(model, image(), tmp_path / "job"))
        assert report.outcome == "ok", report.message
        assert (board.home / ".cache/autocompress/files").is_dir()
        assert not list(tmp_path.rglob("hacked"))
        assert board.sshd.wait_idle() == []


def test_a_shell_that_greets_whoever_comes(
    board: Board, client: Client, model: Path, image: Callable[..., Any], tmp_path: Path
) -> None:
    # As a .bashrc does in many a laboratory.
    for name in (".bashrc", ".zshenv"):
        path = board.home / name
        path.write_text(path.read_text() + 'echo "Welcome to the laboratory!"\necho "Be kind" >&2\n')
    report = host_at(board).run(run_job(model, image(), tmp_path / "job"))
    assert report.outcome == "ok", report.message
    assert (tmp_path / "job" / "y.npy").exists()


def test_a_server_without_sftp_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_board(tmp_path / "board", sftp=False) as board:
        make_client(tmp_path / "client", monkeypatch, board.sshd)
        report = host_at(board, settings=replace(QUICK, patience=1.0)).run(probe_job())
    assert report.outcome == "lost"
    assert "SFTP" in report.message


def test_a_home_folder_that_cannot_be_written_is_told(board: Board, client: Client) -> None:
    (board.home / ".cache").write_text("a file in the place of the folder")
    report = host_at(board).run(probe_job())
    assert report.outcome == "lost"
    assert "cannot make a folder there" in report.message
