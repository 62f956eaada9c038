"""When Ctrl-C and SIGTERM may come: not in the middle of what must not be left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None] | signal.Handlers


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM inside the block raises KeyboardInterrupt, as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled({signal.SIGTERM: interrupt}):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C is ignored inside the block, for the short work that follows an interruption."""
    with _handled({signal.SIGINT: signal.SIG_IGN}):
        yield


@contextmanager
def interrupted_later() -> Iterator[None]:
    """Ctrl-C and SIGTERM that come inside the block take effect at its end, whether it fails or not."""
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    try:
        with _handled({signal.SIGINT: note, signal.SIGTERM: note}):
            yield
    finally:
        if came:
            signal.raise_signal(came[0])


@contextmanager
def _handled(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Signals have these handlers inside the block; nothing is changed where none can come."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return
    # None is a handler that Python did not install and could not put back.
    previous = {number: handler for number in handlers if (handler := signal.getsignal(number)) is not None}
    try:
        for number in previous:
            signal.signal(number, handlers[number])
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
