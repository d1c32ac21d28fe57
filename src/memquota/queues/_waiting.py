"""Tasks that wait for their turn, first come first served; woken from any thread."""

from __future__ import annotations

import asyncio
import os
from asyncio import AbstractEventLoop, current_task
from collections import deque
from collections.abc import Awaitable, Callable
from threading import get_ident
from typing import Any, ClassVar, Final

from anyio import Event, get_cancelled_exc_class

from memquota._loops import Bell, Loop, current_loop

__all__ = ["Line", "Waiter"]

# The loop that this thread runs, or None: what anyio and sniffio ask, too.
_running_loop: Final = asyncio._get_running_loop


class Waiter:
    """A task that waits in a line.

    Attributes:
        who: On whose behalf, for who wants to wake only some.
        offer: What it brings, for who takes it from it; None when it may not be taken just now.
        taken: Whether that was taken: then it has nothing to wait for any more.
    """

    __slots__ = ("_process", "_thread", "offer", "taken", "who")

    #: Stands for this process: another object in a child process, where nobody waits any more who did before.
    here: ClassVar[object] = object()

    def __init__(self, who: object, offer: Any) -> None:
        self.who = who
        self.offer = offer
        self.taken = False
        self._thread = get_ident()
        self._process = Waiter.here

    @property
    def lost(self) -> bool:
        """Whether it will never run again: its loop is closed, or is another process's."""
        return self._process is not Waiter.here or self._loop_is_closed()

    def wake(self) -> None:
        """Let it look again, in a moment. For a task of its loop, or a thread without one."""
        if self._thread == get_ident():
            try:
                self._set()
                return
            except RuntimeError:  # another loop runs in this thread now
                pass
        self.rouse()

    def rouse(self) -> None:
        """Let it look again, also where its loop sleeps. From any thread, and from signal handlers."""
        raise NotImplementedError

    def sleep(self) -> Awaitable[None]:
        """Wait to be woken."""
        raise NotImplementedError

    def _loop_is_closed(self) -> bool:
        raise NotImplementedError

    def _set(self) -> None:
        raise NotImplementedError


class _AsyncioWaiter(Waiter):
    """Waits by a future."""

    __slots__ = ("_bell", "_loop")

    def __init__(self, loop: AbstractEventLoop, line: Line, who: object, offer: Any) -> None:
        super().__init__(who, offer)
        self._loop = loop
        self._bell = Bell(loop, line)

    def _loop_is_closed(self) -> bool:
        return self._loop.is_closed()

    def rouse(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._bell.ring)
        except RuntimeError:  # it is closed
            pass

    def _set(self) -> None:
        self._bell.ring()

    def sleep(self) -> Awaitable[None]:
        return self._bell.wait()


class _EventWaiter(Waiter):
    """Waits by an event of anyio's: in trio."""

    __slots__ = ("_event", "_loop")

    def __init__(self, who: object, offer: Any) -> None:
        super().__init__(who, offer)
        self._loop: Loop = current_loop()
        self._event = Event()

    def _loop_is_closed(self) -> bool:
        return self._loop.closed

    def rouse(self) -> None:
        self._loop.call_soon(self._set)

    def _set(self) -> None:
        self._event.set()

    async def sleep(self) -> None:
        await self._event.wait()
        self._event = Event()


def _waiter(line: Line, who: object, offer: Any) -> Waiter:
    """One for the calling task."""
    loop = _running_loop()
    # A loop of trio may be a guest in one of asyncio: its tasks are none of asyncio's.
    if loop is not None and current_task(loop) is not None:
        return _AsyncioWaiter(loop, line, who, offer)
    return _EventWaiter(who, offer)


class Line:
    """Tasks that wait for the same thing. Nobody is handed anything: who is first and finds that he may go, goes.

    So a task that is cancelled, even in the moment in which it was woken, has taken nothing with it. A waiter whose
    loop was closed, or is that of the process that this one was forked from, leaves when somebody looks for the first.

    Attributes:
        missed: Whether somebody may wait in vain, as there was no memory to wake him.
    """

    __slots__ = ("missed", "waiters")

    def __init__(self) -> None:
        self.waiters: deque[Waiter] = deque()
        self.missed = False

    def __len__(self) -> int:
        return sum(not waiter.lost for waiter in tuple(self.waiters))

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
        waiter = _waiter(self, who, offer)
        try:
            if first:
                self.waiters.appendleft(waiter)
            else:
                self.waiters.append(waiter)
            adjust()
            while not waiter.taken:
                check()
                if self.first() is waiter and may_go():
                    break
                await waiter.sleep()
        except GeneratorExit:  # no loop runs it any more
            raise
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
            try:
                adjust()
            finally:
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
        try:
            waiter = self.first()
            if waiter is not None:
                waiter.wake()
        except MemoryError:
            self.missed = True

    def wake_all(self) -> None:
        """Let everybody look again. Any thread, and signal handlers."""
        self.missed = False
        try:
            for waiter in tuple(self.waiters):
                waiter.rouse()
        except BaseException:
            self.missed = True
            raise


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


def _in_child_process() -> None:
    Waiter.here = object()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child_process)
