"""The turnstile: two lock files of a host, a gate and a room."""

import os
from typing import Tuple

try:
    import fcntl
except ImportError:  # not a Unix: no locks there
    fcntl = None  # type: ignore[assignment]


GATE_FILE, ROOM_FILE = "gate.lock", "room.lock"


def enter(folder: str, exclusive: bool) -> Tuple[int, ...]:
    """Wait for the room of a host and return what `leave` takes.

    Many may be in the room together, each for one training step or the like; a measurement wants it alone. Everyone
    passes the gate first, and a measurement keeps the gate while it waits, so that no newcomer can hold it up for ever.
    The locks are the kernel's: they end with the process that holds them, however it dies.
    """
    mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    gate = os.open(os.path.join(folder, GATE_FILE), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(gate, mode)
        room = os.open(os.path.join(folder, ROOM_FILE), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(room, mode)
        except BaseException:
            os.close(room)
            raise
    except BaseException:
        os.close(gate)
        raise
    if exclusive:
        return (room, gate)
    _release(gate)
    return (room,)


def wait_for(handle: int) -> None:
    """Wait for an open file that one process at a time may hold; closing it gives it back."""
    fcntl.flock(handle, fcntl.LOCK_EX)


def leave(held: Tuple[int, ...]) -> None:
    """Give back what `enter` returned."""
    for handle in held:
        _release(handle)


def _release(handle: int) -> None:
    # Unlocked explicitly: a child forked meanwhile has a copy of the handle, and closing ours alone would not unlock.
    try:
        fcntl.flock(handle, fcntl.LOCK_UN)
    finally:
        os.close(handle)
