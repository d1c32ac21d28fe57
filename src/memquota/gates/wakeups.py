"""Waking whoever waits at a gate: a thread, or a task of any loop. The waker never waits."""

from __future__ import annotations

from threading import Lock
from typing import Protocol

from anyio import Event, move_on_after

from memquota._loops import Loop, current_loop

__all__ = ["TaskWaiter", "ThreadWaiter", "Waiter"]


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
        self._latch = Lock()
        self._latch.acquire()

    @property
    def dead(self) -> bool:
        """Never: what waits for a lock goes on."""
        return False

    def wake(self) -> bool:
        """Let the thread go on."""
        try:
            self._latch.release()
        except RuntimeError:  # woken already, and not yet back in `wait`
            pass
        return True

    def wait(self, seconds: float | None) -> None:
        """Wait until woken, or so long."""
        self._latch.acquire(timeout=-1 if seconds is None else max(0.0, seconds))


class TaskWaiter:
    """A task that waits in the loop in which this was made."""

    __slots__ = ("_event", "_loop")

    def __init__(self) -> None:
        self._loop: Loop = current_loop()
        self._event = Event()

    @property
    def dead(self) -> bool:
        """Whether its loop is closed."""
        return self._loop.closed

    def wake(self) -> bool:
        """Let the task go on."""
        return self._loop.call_soon(self._set)

    def _set(self) -> None:
        self._event.set()

    async def wait(self, seconds: float | None) -> None:
        """Wait until woken, or so long."""
        if seconds is None:
            await self._event.wait()
        else:
            with move_on_after(seconds):
                await self._event.wait()
        if self._event.is_set():
            self._event = Event()
