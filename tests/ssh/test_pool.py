"""Several boards of one kind: all of them work, and one that is away costs nothing but its share."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.hardware.hosts import AgentReport
from autocompress.hardware.hosts.pool import HostPool
from tests.ssh.boards import make_client, open_board
from tests.ssh.jobs import QUICK, Agents, host_at, probe_job


@pytest.mark.slow
def test_boards_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_board(tmp_path / "one") as one, open_board(tmp_path / "two") as two:
        client = make_client(tmp_path / "client", monkeypatch, one.sshd)
        two.sshd.folder.joinpath("authorized_keys").write_text(one.sshd.key.with_suffix(".pub").read_text())
        client.trust(one.sshd.known_hosts_line(), two.sshd.known_hosts_line())
        # Two boards on one machine: each has its own folder for temporary files, and so its own lease.
        agents = [Agents(board, sys.executable) for board in (one, two)]
        for each in agents:
            each.delay(1.5)
        quick = replace(QUICK, patience=2.0)
        pool = HostPool((host_at(one, settings=quick), host_at(two, settings=quick)))
        reports: list[AgentReport] = []
        workers = [threading.Thread(target=lambda: reports.append(pool.run(probe_job()))) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [report.outcome for report in reports] == ["ok"] * 4
        # While one is busy the others go to the second one: four jobs of equal length, two for each.
        assert [len(each.pids) for each in agents] == [2, 2]

        two.sshd.stop()
        assert pool.run(probe_job()).outcome == "ok"
        assert pool.run(probe_job()).outcome == "ok"
        one.sshd.stop()
        report = pool.run(probe_job())
        assert report.outcome == "lost"
        assert "127.0.0.1" in report.message
