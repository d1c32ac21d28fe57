"""Tasks that wait for their turn, first come first served; woken from any thread."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any

from anyio import Event, get_cancelled_exc_class

from memquota._loops import Loop, current_loop

__all__ = ["Line", "Waiter"]


class Waiter:
    """A task that waits in a line.

    Attributes:
        who: On whose behalf, for who wants to wake only some.
        offer: What it brings, for who takes it from it; None when it may not be taken just now.
        taken: Whether that was taken: then it has nothing to wait for any more.
    """

    __slots__ = ("_event", "_loop", "_thread", "offer", "taken", "who")

    def __init__(self, who: object, offer: Any) -> None:
        self.who = who
        self.offer = offer
        self.taken = False
        self._event = Event()
        self._loop: Loop = current_loop()
        self._thread = get_ident()

    @property
    def lost(self) -> bool:
        """Whether its loop is closed, so that it will never run again."""
        return self._loop.closed

    def wake(self) -> None:
        """Let it look again. Any thread."""
        if self._thread == get_ident():
            try:
                self._event.set()
                return
            except RuntimeError:  # another loop runs in this thread now
                pass
        self._loop.call_soon(self._set)

    def _set(self) -> None:
        self._event.set()

    async def sleep(self) -> None:
        """Wait to be woken."""
        await self._event.wait()
        self._event = Event()


class Line:
    """Tasks that wait for the same thing. Nobody is handed anything: who is first and finds that he may go, goes.

    So a task that is cancelled, even in the moment in which it was woken, has taken nothing with it. A waiter whose
    loop was closed leaves when the next one looks.
    """

    __slots__ = ("waiters",)

    def __init__(self) -> None:
        self.waiters: deque[Waiter] = deque()

    def __len__(self) -> int:
        return len(self.waiters)

    async def turn(
        self,
        may_go: Callable[[], bool],
        check: Callable[[], None],
        adjust: Callable[[], None],
        who: object = None,
        offer: Any = None,
        *,
        first: bool = False,
    ) -> bool:
        """Wait until nobody is ahead and `may_go()`; what follows must act before it awaits.

        Args:
            may_go: Whether whoever is first may go. Changes nothing.
            check: Raises what ends the waiting.
            adjust: Called when the line has become longer or shorter.
            who: On whose behalf it waits.
            offer: What it brings.
            first: Whether it goes to the front: it was there before.

        Returns:
            False when what it brings was taken from it instead.

        Cancellation:
            The place is given up and the next one is woken. Once the offer was taken there is nothing left to cancel:
            the cancellation strikes at the task's next wait.
        """
        waiter = Waiter(who, offer)
        if first:
            self.waiters.appendleft(waiter)
        else:
            self.waiters.append(waiter)
        adjust()
        try:
            while not waiter.taken:
                check()
                if self.first() is waiter and may_go():
                    break
                await waiter.sleep()
        except BaseException as error:
            if not (waiter.taken and isinstance(error, get_cancelled_exc_class())):
                raise
            _put_off(error)
        finally:
            waiter.offer = None
            try:
                self.waiters.remove(waiter)
            except ValueError:  # whoever took its offer, or found its loop closed, took it out
                pass
            adjust()
            self.wake()
        return not waiter.taken

    def first(self) -> Waiter | None:
        """Who is first of those who can still run."""
        while True:
            try:
                waiter = self.waiters[0]
            except IndexError:
                return None
            if not waiter.lost:
                return waiter
            self.waiters.popleft()

    def wake(self) -> None:
        """Let the first one look again."""
        waiter = self.first()
        if waiter is not None:
            waiter.wake()

    def wake_all(self) -> None:
        """Let everybody look again. Any thread."""
        for waiter in tuple(self.waiters):
            waiter.wake()


def _put_off(error: BaseException) -> None:
    """Let a cancellation strike at the next wait: what it was to prevent has happened.

    The scopes of anyio and trio do that by themselves; a bare `Task.cancel()` is repeated, unless whoever called it
    takes it back before, as `asyncio.timeout` does when its block ends.
    """
    if not isinstance(error, asyncio.CancelledError):  # trio's
        return
    if error.args and "cancel scope" in str(error.args[0]):
        return
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        return
    requests = task.cancelling()

    def again() -> None:
        if not task.done() and task.cancelling() >= requests:
            task.uncancel()
            task.cancel(*error.args)

    asyncio.get_running_loop().call_soon(again)
