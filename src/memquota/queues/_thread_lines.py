"""Threads that wait for their turn at a queue, first come first served."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Condition, RLock

from memquota.clock import monotonic

__all__ = ["ThreadLines"]


class ThreadLines:
    """The lock of a queue and who waits for what, first come first served.

    All but `hold` and `wake_everybody` under the lock.
    """

    def __init__(self) -> None:
        # Reentrant, so that a signal handler or finalizer may use the queue in the middle of a call of its own thread.
        self.lock = RLock()
        self.putters: deque[Condition] = deque()
        self.getters: deque[Condition] = deque()
        self.joiners: deque[Condition] = deque()
        # Whether somebody may have been let wait in vain, as there was no memory to wake him: the next call does.
        self.missed = False

    def hold(self, act: Callable[[], object]) -> None:
        """Do something under the lock: to leave a block of `with` takes memory, and without the lock stays held."""
        try:
            self.lock.acquire()
            act()
        except BaseException:
            try:
                self.lock.release()
            except RuntimeError:  # an exception from outside came while it waited for the lock
                pass
            raise
        self.lock.release()

    def turn(
        self,
        line: deque[Condition],
        may_go: Callable[[], bool],
        check: Callable[[], None],
        adjust: Callable[[], None],
        timeout: float | None,
    ) -> bool:
        """Wait until nobody is ahead and `may_go()`. Returns False when the time is up."""
        until = None if timeout is None else monotonic() + timeout
        place = Condition(self.lock)
        line.append(place)
        try:
            adjust()
            while True:
                check()
                if line[0] is place and may_go():
                    return True
                left = None if until is None else until - monotonic()
                if left is not None and left <= 0:
                    return False
                place.wait(left)
        finally:
            line.remove(place)
            adjust()
            self.call(line)

    def call(self, line: deque[Condition]) -> None:
        """Let the first one look again."""
        if line:
            try:
                line[0].notify()
            except MemoryError:
                self.missed = True

    def wake_everybody(self) -> None:
        """Let everybody look again. Any thread."""
        self.missed = True
        self.hold(self._wake_everybody)

    def _wake_everybody(self) -> None:
        self.missed = False
        try:
            for line in (self.putters, self.getters, self.joiners):
                for place in line:
                    place.notify()
        except BaseException:
            self.missed = True
            raise
