"""Reaching an event loop from anywhere: from its own thread, other threads, finalizers; without waiting for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anyio.lowlevel import current_token

__all__ = ["Loop", "being_cancelled", "current_loop"]


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
