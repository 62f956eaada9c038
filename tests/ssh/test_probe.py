"""``autocompress probe`` at a board: its state, what is wrong with it; and nothing is done to one that is unknown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autocompress.cli import main
from tests.ssh.boards import Board, Client, make_client, open_board


def test_a_board_is_told_in_full(board: Board, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "jetson-nano", "--host", board.address, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (engine,) = found["engines"]
    assert (engine["name"], engine["version"]) == ("tensorrt", "8.2.1")
    assert sorted(engine["precisions"]) == ["fp16", "fp32"]
    state = found["state"]["board"]
    assert (state["mode"], state["clocks_locked"], state["overcurrent"]) == ("MAXN", True, 0)
    assert board.sshd.wait_idle() == []


def test_a_board_in_the_wrong_mode_is_told_with_its_remedies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_board(tmp_path / "board", mode=1, clocks="free") as board:
        make_client(tmp_path / "client", monkeypatch, board.sshd)
        assert main(["probe", "jetson-nano", "--host", board.address]) == 2
        output = capsys.readouterr()
        assert len(output.err.splitlines()) == 1
        assert "power mode MAXN, it is 5W" in output.err
        assert "nvpmodel -m" in output.out
        assert "sudo jetson_clocks" in output.out
        assert board.sshd.wait_idle() == []


def test_nothing_is_done_to_a_board_that_is_not_trusted(
    board: Board, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    client.trust()
    assert main(["probe", "jetson-nano", "--host", board.address]) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert "host key is not known" in line
    assert f"ssh -p {board.sshd.port} {board.sshd.user}@127.0.0.1" in line
    assert output.out == ""
    assert not (board.home / ".cache").exists()
