"""A board behind a real SSH server, the home folder of whoever connects to it, and a bad network between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hardware.conftest import image, make_model, quick
from tests.ssh.boards import Board, Client, make_client, open_board
from tests.ssh.proxy import Proxy

__all__ = ["image", "make_model", "quick"]


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    """A board with the stand-in for trtexec 8.2.1; nothing may run on it any more when the test ends."""
    with open_board(tmp_path / "board") as found:
        yield found


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, board: Board) -> Client:
    """This process has a home folder whose ``.ssh`` trusts the board and holds its key."""
    return make_client(tmp_path / "client", monkeypatch, board.sshd)


@pytest.fixture
def proxy(board: Board, client: Client) -> Iterator[Proxy]:
    """A network in front of the board; its port is trusted too."""
    with Proxy(board.sshd.port) as found:
        client.trust(board.sshd.known_hosts_line(), board.sshd.known_hosts_line(found.port))
        yield found
