"""When Ctrl-C and SIGTERM may come: not in the middle of what must not be left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM inside the block raises KeyboardInterrupt, as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone, as in the blocks below
        return
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C is ignored inside the block, for the short work that follows an interruption."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def interrupted_later() -> Iterator[None]:
    """Ctrl-C and SIGTERM that come inside the block take effect at its end, whether it fails or not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    # None is a handler that Python did not install and could not put back.
    previous = {number: handler for number in _INTERRUPTS if (handler := signal.getsignal(number)) is not None}
    try:
        for number in previous:
            signal.signal(number, lambda number, _frame: came.append(number))
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
