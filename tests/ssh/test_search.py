"""A whole search whose target is a board: through every fault it ends with the front that it has without them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ssh.boards import Board, Client, make_client, open_board
from tests.ssh.disks import NoDiskError, fill, small_disk
from tests.ssh.proxy import Proxy

STUDY = {
    "data": "phantoms-tiny",
    "space": {
        "resolution": [32, 48, 64],
        "levels": [1],
        "width": [0.25, 0.5],
        "precision": ["fp32", "fp16"],
    },
    "objective": {"constraints": {"min_dice": 0}},
    # A training that is over after its first step: the same weights every time.
    "training": {"trial_seconds": 0.001},
    "parent": {"share": 0.004, "config": {"resolution": 32, "levels": 1, "width": 0.5}},
    "sampler": {"name": "random"},
    "stopping": {"enabled": False},
    "budget": {"seconds": 3000, "trials": 6},
    "workers": 2,
    "seed": 5,
}


def profile(board: Board) -> dict[str, Any]:
    return {
        "host": {"kind": "ssh"},
        "device": "tensorrt-gpu",
        "engines": [
            {
                "name": "tensorrt",
                "precisions": ["fp32", "fp16"],
                "opset": 13,
                "options": {"api": "trtexec", "trtexec": str(board.trtexec)},
            }
        ],
        "accuracy_slices": 6,
    }


def fixed_times(board: Board) -> None:
    """The stand-in for trtexec tells the same times for the same model."""
    assert board.trtexec is not None
    text = board.trtexec.read_text()
    board.trtexec.write_text(text.replace("#!/bin/sh\n", "#!/bin/sh\nexport STANDIN_TRT_TIME=size\n"))


def search(folder: Path, board: Board, port: int, out: str) -> subprocess.Popen[str]:
    """The command, in a process of its own."""
    (folder / "board.yaml").write_text(yaml.safe_dump(profile(board)))
    (folder / "small.yaml").write_text(yaml.safe_dump({**STUDY, "targets": [str(folder / "board.yaml")]}))
    host = f"{board.sshd.user}@127.0.0.1:{port}"
    command = [sys.executable, "-m", "autocompress", "search", "--study", str(folder / "small.yaml"), "--host", host]
    return subprocess.Popen(
        [*command, "--out", str(folder / out), "--no-priors", "--json"],
        stdout=(folder / f"{out}.jsonl").open("w"),
        stderr=(folder / f"{out}.err").open("w"),
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def front(folder: Path, out: str) -> list[tuple[str, float, float, float]]:
    """Configuration, Dice on validation and test volumes, and latency of each member."""
    values = json.loads((folder / out / "small" / "front.json").read_text())
    return [
        (
            json.dumps(each["config"], sort_keys=True),
            round(each["dice"], 6),
            round(each["dice_test"], 6),
            round(each["latency_ms"]["p50"], 6),
        )
        for each in values["front"]
    ]


def agents(board: Board) -> set[int]:
    """Agents that run on the board now."""
    return {each.pid for each in board.sshd.processes() if " request.json answer.json" in each.command}


class Faults(threading.Thread):
    """One fault after the other, each while an agent runs that was not there at the one before."""

    def __init__(self, board: Board, faults: list[Callable[[set[int]], None]]) -> None:
        super().__init__(daemon=True)
        self.board, self.faults, self.done = board, faults, 0
        self.over = threading.Event()

    def run(self) -> None:
        for fault in self.faults:
            before = agents(self.board)
            while not (new := agents(self.board) - before):
                if self.over.wait(0.02):
                    return
            fault(new)
            self.done += 1
            if self.over.wait(2.0):
                return


@pytest.mark.slow
def test_faults_do_not_change_the_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(cache))
    with open_board(tmp_path / "quiet") as board:
        make_client(tmp_path / "client-1", monkeypatch, board.sshd)
        fixed_times(board)
        process = search(tmp_path, board, board.sshd.port, "quiet-runs")
        assert process.wait(900) == 0, (tmp_path / "quiet-runs.err").read_text()
        assert board.sshd.wait_idle() == []
    # What the first one measured must not answer for the second; the parent is the same for both.
    shutil.rmtree(cache / "latency")
    with open_board(tmp_path / "troubled") as board, Proxy(board.sshd.port) as proxy:
        client: Client = make_client(tmp_path / "client-2", monkeypatch, board.sshd)
        client.trust(board.sshd.known_hosts_line(), board.sshd.known_hosts_line(proxy.port))
        fixed_times(board)
        home = board.home / ".cache" / "autocompress"
        try:
            with small_disk(home, 60_000_000) as disk:
                process = search(tmp_path, board, proxy.port, "troubled-runs")

                def cut(_: set[int]) -> None:
                    proxy.cut()

                def kill(new: set[int]) -> None:
                    for pid in new:
                        os.kill(pid, signal.SIGKILL)

                def fill_up(_: set[int]) -> None:
                    filler = fill(disk)
                    time.sleep(8)
                    filler.unlink()

                def reboot(_: set[int]) -> None:
                    board.sshd.reboot(20)

                faults = Faults(board, [cut, kill, fill_up, reboot])
                faults.start()
                code = process.wait(1200)
                faults.over.set()
                board.sshd.join()
                assert code == 0, (tmp_path / "troubled-runs.err").read_text()
                assert faults.done == 4
                assert board.sshd.wait_idle(100) == []
        except NoDiskError as error:
            pytest.skip(str(error))
    assert front(tmp_path, "troubled-runs") == front(tmp_path, "quiet-runs")
    assert len(front(tmp_path, "quiet-runs")) >= 2
