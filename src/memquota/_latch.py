"""Waiting to be let go on, for so long at most, whatever signals come."""

from __future__ import annotations

from threading import TIMEOUT_MAX, Lock
from typing import final

__all__ = ["Latch"]


@final
class Latch:
    """One thread waits here until somebody lets it go on: a lock that is held until then.

    Reentrant, unlike an Event: finalizers, and signal handlers of the very thread that waits, may let it go on. And its
    time runs out, unlike a SimpleQueue's: where signals come often enough, CPython waits for ever there.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()

    def open(self) -> None:
        """Let the thread go on, now or when it is about to wait. Any thread; never waits."""
        try:
            self._lock.release()
        except RuntimeError:  # open already, and nobody has come by since
            pass

    def wait(self, seconds: float | None) -> bool:
        """Wait until it is open, then shut it again; about so long at most. Returns whether it was open."""
        return self._lock.acquire(timeout=-1 if seconds is None else min(max(0.0, seconds), TIMEOUT_MAX))
