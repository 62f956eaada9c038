"""A TCP proxy in front of a server on 127.0.0.1, which behaves like a bad network."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

_T = TypeVar("_T")
_CHUNK = 2**14


class Proxy:
    """Passes every connection on to a port of 127.0.0.1, as a context manager.

    Args:
        target: port of the server.
        delay: seconds that every byte is under way, in each direction.
        bandwidth: bytes per second in each direction of each connection; None for no limit.

    Attributes:
        port: where it listens, on 127.0.0.1; the same for its whole life.
        sent: bytes that arrived at the server so far.
        received: bytes that arrived at the clients so far.
        connections: how many were taken so far.
    """

    def __init__(self, target: int, *, delay: float = 0.0, bandwidth: float | None = None) -> None:
        self.target = target
        self.delay = delay
        self.bandwidth = bandwidth
        self.port = 0
        self.sent = 0
        self.received = 0
        self.connections = 0
        self._cut_at: int | None = None
        self._cut_back_at: int | None = None
        self._refusing = False
        self._swallowing = False
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def cut(self) -> None:
        """Reset all connections now; new ones are taken."""
        self._call(self._cut)

    def cut_after(self, sent: int | None = None, *, received: int | None = None) -> None:
        """Reset all connections once so many further bytes arrived at the server, or at the clients; take new ones."""
        self._cut_at = None if sent is None else self.sent + sent
        self._cut_back_at = None if received is None else self.received + received

    def refuse(self) -> None:
        """Reset all connections now, and every new one, until `heal`."""
        self._refusing = True
        self.cut()

    def black_hole(self) -> None:
        """Swallow everything and close nothing, until `heal`; new connections are taken and get no answer."""
        self._swallowing = True

    def heal(self) -> None:
        """As in the beginning. Connections that lost bytes to a black hole are reset, since they cannot go on."""
        self._cut_at = self._cut_back_at = None
        self._refusing = False
        if self._swallowing:
            self._swallowing = False
            self.cut()

    def reset_counts(self) -> None:
        """Begin to count anew."""
        self.sent = self.received = self.connections = 0

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _call(self, function: Callable[[], None]) -> None:
        async def work() -> None:
            function()

        self._run(work())

    async def _end(self) -> None:
        self._server.close()
        self._cut()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cut(self) -> None:
        for writer in list(self._writers):
            reset(writer)
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._pass(reader, writer)
        finally:
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._refusing:
            reset(writer)
            return
        self._writers.add(writer)
        try:
            there, onward = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            reset(writer)
            return
        self._writers.add(onward)
        try:
            await asyncio.gather(self._pump(reader, onward, True), self._pump(there, writer, False))
        finally:
            for each in (writer, onward):
                self._writers.discard(each)
                each.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: bool) -> None:
        """One direction: what was read is written when it is due."""
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)
        reading = asyncio.ensure_future(self._read(reader, line))
        try:
            free = 0.0
            while True:
                due, data = await line.get()
                due = max(due, free)
                if self.bandwidth is not None:
                    due += len(data) / self.bandwidth
                    free = due
                if (wait := due - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                if self._swallowing:
                    continue
                if not data:
                    if writer.can_write_eof():
                        writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()
                self._count(len(data), up)
        except (OSError, asyncio.CancelledError):
            reset(writer)
        finally:
            reading.cancel()

    async def _read(self, reader: asyncio.StreamReader, line: asyncio.Queue[tuple[float, bytes]]) -> None:
        data = b" "
        while data:
            data = b""
            with suppress(OSError):
                # Small pieces, so that a low bandwidth is a steady one.
                size = _CHUNK if self.bandwidth is None else max(min(_CHUNK, int(self.bandwidth / 20)), 64)
                data = await reader.read(size)
            await line.put((time.monotonic() + self.delay, data))

    def _count(self, size: int, up: bool) -> None:
        self.sent += size if up else 0
        self.received += 0 if up else size
        for count, limit in ((self.sent, self._cut_at), (self.received, self._cut_back_at)):
            if limit is not None and count >= limit:
                self._cut_at = self._cut_back_at = None
                self._cut()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close it so that the other side gets a reset and not an orderly end."""
    with suppress(OSError, RuntimeError):
        each = writer.get_extra_info("socket")
        if each is not None:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
