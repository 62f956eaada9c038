"""Boards for tests: a real SSH server whose sessions find stand-ins for NVIDIA's programs, and a client's ~/.ssh."""

from __future__ import annotations

import functools
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.ssh.sshd import Sshd, unavailable
from tests.standins.launching import calls, install, install_board

HIDDEN = ("python", "pypy", "tegrastats", "nvpmodel", "jetson_clocks", "trtexec")
"""Beginnings of the names of this machine's programs that a board does not have unless it is given them."""


@dataclass
class Board:
    """A board that can be reached.

    Attributes:
        sshd: its server.
        bin: the first folder of its PATH, with the stand-ins.
        trtexec: the stand-in, where it has one.
    """

    sshd: Sshd
    bin: Path
    trtexec: Path | None

    @property
    def home(self) -> Path:
        """Home folder of its user."""
        return self.sshd.home

    @property
    def address(self) -> str:
        """For ``--host``."""
        return self.sshd.address

    def calls(self, flag: str = "") -> list[list[str]]:
        """Arguments of all calls of its trtexec, or of those that have a flag."""
        return [] if self.trtexec is None else calls(self.trtexec, flag)


@dataclass
class Client:
    """The home folder of somebody who connects.

    Attributes:
        home: the folder; ``ssh`` below it is its ``.ssh``.
    """

    home: Path

    @property
    def ssh(self) -> Path:
        """Its folder of keys and configuration."""
        return self.home / ".ssh"

    def write_config(self, *blocks: str) -> None:
        """Replace ``~/.ssh/config``."""
        (self.ssh / "config").write_text("\n".join(blocks))

    def trust(self, *lines: str) -> None:
        """Replace ``~/.ssh/known_hosts``."""
        (self.ssh / "known_hosts").write_text("".join(lines))


def need_sshd() -> None:
    """Skip the test where no SSH server can be started."""
    why = unavailable()
    if why is not None:
        pytest.skip(why)


def make_client(home: Path, patch: pytest.MonkeyPatch, board: Sshd | None = None) -> Client:
    """A home folder that is this process's from now on; with a board, one that trusts it and has its key."""
    client = Client(home)
    client.ssh.mkdir(mode=0o700, parents=True)
    if board is not None:
        client.trust(board.known_hosts_line())
        for name, source in (("id_ed25519", board.key), ("id_ed25519.pub", board.key.with_suffix(".pub"))):
            (client.ssh / name).write_bytes(source.read_bytes())
            (client.ssh / name).chmod(0o600)
    patch.setenv("HOME", str(home))
    patch.delenv("SSH_AUTH_SOCK", raising=False)
    return client


@contextmanager
def open_board(
    folder: Path,
    *,
    python: str | None = sys.executable,
    trtexec: str | None = "8.2.1",
    fail: str = "",
    jetson: bool = True,
    home: str = "home",
    sftp: bool = True,
    **tools: Any,
) -> Iterator[Board]:
    """A board that takes connections, until the block ends; then nothing of it runs any more.

    Args:
        folder: for all that belongs to it.
        python: the interpreter behind its ``python3``; None for a board without Python.
        trtexec: version of its TensorRT; None for a board without.
        fail: how its trtexec fails, see the stand-in.
        jetson: whether it has a Jetson's tools; a run of trtexec takes five seconds at least on such a board.
        home: name of the home folder of its user.
        sftp: whether its SSH server has SFTP.
        tools: for `install_board`; where there are none, its clocks are locked in the mode MAXN of a Jetson Nano.
    """
    need_sshd()
    own = folder / "bin"
    own.mkdir(parents=True)
    if python is not None:
        write_program(own / "python3", f'exec {shlex.quote(python)} "$@"')
    standin = None if trtexec is None else install(own, version=trtexec, fail=fail)
    if jetson:
        install_board(own, **tools)
    with Sshd(folder / "sshd", home=folder / home, sftp=sftp, path=f"{own}{os.pathsep}{usual_programs().name}") as sshd:
        yield Board(sshd, own, standin)


@functools.cache
def usual_programs() -> tempfile.TemporaryDirectory[str]:
    """A folder with this machine's programs but `HIDDEN`; it goes when the tests are over."""
    # Made once: a thousand links take a second.
    folder = tempfile.TemporaryDirectory(prefix="autocompress-board-")
    names = {each.name: each for source in ("/bin", "/usr/bin") for each in Path(source).iterdir()}
    for name, each in names.items():
        if not name.startswith(HIDDEN):
            Path(folder.name, name).symlink_to(each)
    return folder


def write_program(path: Path, *lines: str) -> Path:
    """A shell script that can be run."""
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path
