"""The server, the network and the disk that the tests of SSH hosts stand on do what those tests take for granted."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.ssh.boards import Board, Client, open_board
from tests.ssh.disks import NoDiskError, fill, small_disk
from tests.ssh.jobs import until
from tests.ssh.proxy import Proxy
from tests.ssh.sshd import MARK


def over_ssh(board: Board, *commands: str, port: int | None = None, **options: Any) -> list[Any]:
    """Run commands one after the other in one connection and return how each ended."""

    async def work() -> list[Any]:
        given = {"username": board.sshd.user, "client_keys": [str(board.sshd.key)], "config": None, **options}
        async with asyncssh.connect("127.0.0.1", port or board.sshd.port, **given) as connection:
            return [await connection.run(command) for command in commands]

    return asyncio.run(work())


def said(board: Board, command: str, **options: Any) -> str:
    (done,) = over_ssh(board, command, **options)
    return str(done.stdout).strip()


def test_a_session_sees_the_board_and_nothing_of_this_machine(board: Board, client: Client) -> None:
    lines = said(board, "pwd; echo $HOME; echo $AUTOCOMPRESS_CACHE; command -v python3; command -v trtexec").split("\n")
    assert lines == [str(board.home), str(board.home), "", str(board.bin / "python3"), str(board.bin / "trtexec")]
    assert "PYTEST_CURRENT_TEST" not in said(board, "env")
    assert "TensorRT v8201" in said(board, "trtexec --help")


def test_sftp_begins_in_the_home_folder(board: Board, client: Client) -> None:
    async def work() -> str:
        async with (
            asyncssh.connect(
                "127.0.0.1", board.sshd.port, username=board.sshd.user, client_keys=[str(board.sshd.key)], config=None
            ) as connection,
            connection.start_sftp_client() as sftp,
        ):
            async with sftp.open("made-by-sftp", "w") as stream:
                await stream.write("here")
            return str(await sftp.realpath("."))

    assert asyncio.run(work()) == str(board.home)
    assert (board.home / "made-by-sftp").read_text() == "here"


def test_a_board_without_python(tmp_path: Path) -> None:
    with open_board(tmp_path, python=None, trtexec=None) as board:
        done = over_ssh(board, "python3 --version", "trtexec", "ls", known_hosts=str(board.sshd.known_hosts))
    assert [each.exit_status for each in done] == [127, 127, 0]


def test_an_unknown_or_changed_host_key_is_seen(board: Board, client: Client) -> None:
    old = client.ssh / "known_hosts"
    board.sshd.stop()
    board.sshd.new_host_key()
    board.sshd.start()
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        over_ssh(board, "true")
    old.write_text("")
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        over_ssh(board, "true")
    old.write_text(board.sshd.known_hosts_line())
    assert over_ssh(board, "true")[0].exit_status == 0


DETACH = "nohup setsid sleep 300 >/dev/null 2>&1 </dev/null & echo started"


def test_detached_programs_outlive_the_server_but_no_reboot(board: Board, client: Client) -> None:
    assert said(board, DETACH) == "started"
    until(lambda: [each.command for each in board.sshd.processes()] == ["sleep 300"], "sleep alone")
    running = board.sshd.processes()
    assert f"{MARK}=".encode() in Path(f"/proc/{running[0].pid}/environ").read_bytes()
    board.sshd.kill_sshd()
    with pytest.raises(OSError):
        over_ssh(board, "true")
    assert board.sshd.processes() == running
    board.sshd.start()
    board.sshd.reboot(0.3)
    assert board.sshd.processes() == []
    assert not board.sshd.running
    board.sshd.join()
    assert over_ssh(board, "true")[0].exit_status == 0


def test_a_dropped_session_is_lost_and_not_done(board: Board, client: Client) -> None:
    killer = threading.Timer(0.5, board.sshd.drop_sessions)
    killer.start()
    done = over_ssh(board, "sleep 300", keepalive_interval=1)[0]
    assert (done.exit_status, done.exit_signal) == (None, None)
    assert over_ssh(board, "true")[0].exit_status == 0
    # The program did not notice: it reads and writes nothing.
    assert [each.command for each in board.sshd.processes()] == ["sleep 300"]


class Echo(socketserver.BaseRequestHandler):
    """Sends back what it gets."""

    def handle(self) -> None:
        while data := self.request.recv(2**16):
            self.request.sendall(data)


@contextmanager
def echo_proxy(**options: Any) -> Iterator[Proxy]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with Proxy(server.server_address[1], **options) as found:
                yield found
        finally:
            server.shutdown()


def connect(found: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", found.port), timeout=5)


def echoed(each: socket.socket, data: bytes) -> bytes:
    each.sendall(data)
    back = b""
    while len(back) < len(data) and (more := each.recv(2**16)):
        back += more
    return back


def test_a_network_passes_everything_on_and_counts() -> None:
    data = os.urandom(300_000)
    with echo_proxy() as found, connect(found) as each:
        threading.Thread(target=each.sendall, args=(data,), daemon=True).start()
        back = b""
        while len(back) < len(data):
            back += each.recv(2**16)
        assert back == data
        assert (found.sent, found.connections) == (len(data), 1)


def test_a_slow_network_takes_its_time() -> None:
    with echo_proxy(delay=0.1, bandwidth=100_000) as found, connect(found) as each:
        begin = time.monotonic()
        assert echoed(each, b"x" * 20_000) == b"x" * 20_000
        # There and back: 0.2 s under way and at least 0.2 s for the bytes.
        assert time.monotonic() - begin >= 0.4


def test_a_cut_ends_connections_and_lets_new_ones_in() -> None:
    with echo_proxy() as found:
        with connect(found) as each:
            assert echoed(each, b"abc") == b"abc"
            found.cut()
            with pytest.raises(OSError) as error:
                while each.recv(10):
                    pass
            assert error.value.errno == errno.ECONNRESET
        found.cut_after(5)
        with connect(found) as each, pytest.raises(OSError):
            assert echoed(each, b"abc") == b"abc"
            while echoed(each, b"def") == b"def":
                pass
            raise OSError("closed in order")
        with connect(found) as each:
            assert echoed(each, b"abc") == b"abc"


def test_a_black_hole_is_silent_until_it_is_healed() -> None:
    with echo_proxy() as found, connect(found) as old:
        assert echoed(old, b"abc") == b"abc"
        found.black_hole()
        with connect(found) as new:
            for each in (old, new):
                each.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    echoed(each, b"abc")
        found.heal()
        with pytest.raises(OSError) as error:
            old.recv(10)
        assert error.value.errno == errno.ECONNRESET
        with connect(found) as each:
            assert echoed(each, b"abc") == b"abc"


def test_a_network_that_refuses() -> None:
    with echo_proxy() as found:
        found.refuse()
        with pytest.raises(OSError), connect(found) as each:
            each.sendall(b"abc")
            while each.recv(10):
                pass
            raise OSError("closed in order")
        found.heal()
        with connect(found) as each:
            assert echoed(each, b"abc") == b"abc"


def test_a_full_disk(tmp_path: Path) -> None:
    try:
        with small_disk(tmp_path / "disk", 2**20) as folder:
            filler = fill(folder, leave=2**16)
            with pytest.raises(OSError) as error:
                (folder / "more").write_bytes(b"x" * 2**18)
            assert error.value.errno == errno.ENOSPC
            filler.unlink()
            (folder / "more").write_bytes(b"x" * 2**18)
    except NoDiskError as error:
        pytest.skip(str(error))
    assert list((tmp_path / "disk").iterdir()) == []
