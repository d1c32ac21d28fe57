"""Waking whoever waits at a gate: a thread, or a task of any loop. The waker never waits."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, current_task
from typing import Final, Protocol
from weakref import WeakKeyDictionary, WeakSet

from anyio import Event, move_on_after

from memquota._latch import Latch
from memquota._loops import Bell, Loop, Ringer, current_loop

__all__ = ["Bereft", "TaskWaiter", "ThreadWaiter", "Waiter", "task_waiter"]

#: In seconds: nobody waits so long for anything.
_FAR: Final = 10 * 365 * 86400.0
# The loop that this thread runs, or None: what anyio and sniffio ask, too.
_running_loop: Final = asyncio._get_running_loop


class Waiter(Protocol):
    """How somebody in the line is woken."""

    @property
    def dead(self) -> bool:
        """Whether it will never go on."""
        ...

    def wake(self) -> bool:
        """Have it look at its ticket again. False when it never will. Any thread; never waits."""
        ...


class ThreadWaiter:
    """A thread that waits."""

    __slots__ = ("_latch",)

    def __init__(self) -> None:
        self._latch = Latch()

    @property
    def dead(self) -> bool:
        """Never: what waits for a lock goes on."""
        return False

    def wake(self) -> bool:
        """Let the thread go on."""
        self._latch.open()
        return True

    def wait(self, seconds: float | None) -> None:
        """Wait until woken, or about so long."""
        self._latch.wait(seconds)


class TaskWaiter(Waiter, Protocol):
    """A task that waits in the loop in which this was made."""

    async def wait(self, seconds: float | None) -> None:
        """Wait until woken, or so long."""
        ...


class Bereft(Ringer, Protocol):
    """Who wants to know when a loop is closed, or finds no memory to wake somebody."""

    def lost_loop(self) -> None:
        """A loop was closed. Called by a finalizer."""
        ...


def task_waiter(bereft: Bereft) -> TaskWaiter:
    """What the calling task waits by; `bereft` is told when its loop is closed."""
    loop = _running_loop()
    # A loop of trio may be a guest in one of asyncio: its tasks are none of asyncio's.
    if loop is not None and current_task(loop) is not None:
        _watch(loop, bereft)
        return _InAsyncio(loop, bereft)
    return _InTrio()


class _InAsyncio(Bell):
    __slots__ = ()

    @property
    def dead(self) -> bool:
        return self._loop.is_closed()

    def wake(self) -> bool:
        loop = self._loop
        # In one of its tasks, or in a signal handler or finalizer in the middle of one, the loop need not be woken.
        if _running_loop() is loop and current_task(loop) is not None:
            self.ring()
            return True
        try:
            loop.call_soon_threadsafe(self.ring)
        except RuntimeError:  # it is closed
            return False
        return True

    async def wait(self, seconds: float | None = None) -> None:
        timer = None if seconds is None or self._woken else self._loop.call_later(seconds, self.ring)
        try:
            await super().wait()
        finally:
            if timer is not None:
                timer.cancel()


class _InTrio:
    """Trio ends when all its tasks have ended, so none is ever left behind."""

    __slots__ = ("_event", "_loop")

    def __init__(self) -> None:
        self._loop: Loop = current_loop()
        self._event = Event()

    @property
    def dead(self) -> bool:
        return self._loop.closed

    def wake(self) -> bool:
        return self._loop.call_soon(self._set)

    def _set(self) -> None:
        self._event.set()

    async def wait(self, seconds: float | None) -> None:
        if seconds is None:
            await self._event.wait()
        else:
            with move_on_after(seconds):
                await self._event.wait()
        if self._event.is_set():
            self._event = Event()


_watched: Final[WeakKeyDictionary[AbstractEventLoop, WeakSet[Bereft]]] = WeakKeyDictionary()


def _watch(loop: AbstractEventLoop, bereft: Bereft) -> None:
    """Have somebody told when a loop of asyncio is closed."""
    watchers = _watched.get(loop)
    if watchers is None:
        watchers = WeakSet()
        loop.call_later(_FAR, _Will(watchers))
        _watched[loop] = watchers
    watchers.add(bereft)


class _Will:
    """A timer that never runs. A loop drops its timers when it is closed, which is how this learns of it.

    Nobody else tells: a task that nobody cancelled just never runs again, and while somebody keeps it, it keeps its
    place in the line.
    """

    _watchers: WeakSet[Bereft] | tuple[()] = ()

    def __init__(self, watchers: WeakSet[Bereft]) -> None:
        self._watchers = watchers

    def __call__(self) -> None:
        pass

    def __del__(self) -> None:
        for bereft in [*self._watchers]:
            bereft.lost_loop()
