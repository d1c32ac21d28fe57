"""Reaching an event loop from anywhere: from its own thread, other threads, finalizers; without waiting for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from anyio.lowlevel import current_token

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from contextvars import Context

__all__ = ["Bell", "Loop", "Ringer", "being_cancelled", "current_loop"]


class Loop:
    """An event loop of asyncio or trio."""

    __slots__ = ("_is_closed", "_schedule")

    def __init__(self, native: Any) -> None:
        # A trio token, or an asyncio loop. Trio leaves no task behind when it ends, so nobody has to ask.
        self._is_closed: Callable[[], bool] = getattr(native, "is_closed", bool)
        self._schedule: Callable[..., object] = (
            native.run_sync_soon if hasattr(native, "run_sync_soon") else native.call_soon_threadsafe
        )

    @property
    def closed(self) -> bool:
        """Whether its tasks will never run again."""
        return self._is_closed()

    def call_soon(self, action: Callable[[], object]) -> bool:
        """Have the loop run `action` soon. False when it never will. Any thread; never waits."""
        try:
            self._schedule(action)
        except RuntimeError:  # asyncio: "Event loop is closed"; trio.RunFinishedError
            return False
        return True


class Ringer(Protocol):
    """Who wakes others, and does so again when he has missed somebody."""

    #: Whether somebody may wait in vain, as there was no memory to wake him.
    missed: bool


class Bell:
    """Wakes a task of asyncio by a future, without what anyio puts around it: a third of the cost."""

    __slots__ = ("_future", "_loop", "_lost", "_ringer", "_woken")

    def __init__(self, loop: AbstractEventLoop, ringer: Ringer) -> None:
        self._loop = loop
        self._ringer = ringer
        self._future: Future[None] | None = None
        # Whom the future was to call when there was no memory for it: it is done, and has forgotten the task.
        self._lost: list[tuple[Callable[..., object], Context]] | None = None
        self._woken = False

    def ring(self) -> None:
        """Wake the task, now or when it is about to wait. In its loop. MemoryError: missed; ring again."""
        self._woken = True
        future = self._future
        if future is None:
            return
        callbacks = None
        try:
            if not future.done():
                callbacks = future._callbacks
                future.set_result(None)
            elif self._lost is not None:
                for callback, context in self._lost:
                    self._loop.call_soon(callback, future, context=context)
                self._lost = None
        except MemoryError:
            self._lost = callbacks or self._lost
            self._ringer.missed = True
            raise

    async def wait(self) -> None:
        """Wait until rung."""
        if not self._woken:
            future = self._future = self._loop.create_future()
            try:
                if not self._woken:  # by a signal handler, since
                    await future
            finally:
                self._future = None
        self._woken = False


def current_loop() -> Loop:
    """The loop that runs the calling task."""
    token: Any = current_token()
    return Loop(getattr(token, "native_token", token))


def being_cancelled() -> bool:
    """Whether the calling task is, rather than somebody raising the exception that says so. In its handler."""
    import asyncio  # here, as those who use threads alone need none of it

    try:
        task = asyncio.current_task()
    except RuntimeError:  # in trio, nobody else can raise it
        return True
    return task is not None and task.cancelling() > 0
