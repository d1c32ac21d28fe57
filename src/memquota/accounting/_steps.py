"""Whose group a thread computes for, and the clocks that are read when that changes.

Each thread has a stack of frames: with blocks that are open, and the coroutine whose step is under way. Time belongs to
the topmost. It is added to a tally of that thread and group, so that no two threads write the same number.

No frame of a coroutine stays on the stack while it is suspended: what it has there is taken off with the end of each
step, with blocks inside it included, and put back with the next one.

What is said here about signals and other threads rests on this: where there is a GIL, CPython lets them in only after a
call and at the start of a loop or function, and not between two statements that only assign. Where there is none, one
who reads while time is being given misses it, as it is taken first; it is there the next time.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol

from memquota import clock
from memquota.accounting import allocations

if TYPE_CHECKING:
    from memquota.accounting.groups import Group

__all__ = [
    "Follower",
    "Frame",
    "Kept",
    "MeasuredCoroutine",
    "Tally",
    "ThreadState",
    "cpu",
    "current",
    "leave",
    "resume",
    "tell",
    "this_thread",
]

#: Read once for each change; what it returns is not used where there is no such clock.
cpu: Callable[[], int] = clock.thread_ns if clock.thread_ns is not None else int
real: Callable[[], int] = clock.real_ns

#: To read a thread's own clock costs as much as many a step. A span of real time that is shorter than this, in
#: nanoseconds, is taken for computed: nobody waits for so little. The own clock is read after every longer one; where
#: it was overtaken nothing counts until it has caught up, so that what is given out is never more than it says.
_SHORT: Final = 10_000
#: A real time so long ago that the thread's own clock is read.
_NEVER: Final = -(10**18)

#: The group that tasks inherit which are started here.
current: ContextVar[Group | None] = ContextVar("memquota_group", default=None)


class Tally:
    """What one thread computed for one group. Only that thread writes.

    Attributes:
        ns: Nanoseconds.
        calls: How often the group was entered.
    """

    __slots__ = ("calls", "ns")

    def __init__(self) -> None:
        self.ns = 0
        self.calls = 0


class Frame:
    """A group that was entered and not left yet.

    Attributes:
        group: Which.
        tally: Where its time goes.
        followed: Whether its task's steps are seen, so that it may stay open while the task waits.
        is_block: Whether it is a with block. The rest is only for those.
        below: What the thread was in before. A coroutine finds another one with each step.
        before: What tasks inherited before.
        loop: The loop in whose turn it must be left, where steps are not seen.
    """

    __slots__ = ("before", "below", "followed", "group", "is_block", "loop", "tally")

    def __init__(self, group: Group, tally: Tally, *, followed: bool, is_block: bool = False) -> None:
        self.group = group
        self.tally = tally
        self.followed = followed
        self.is_block = is_block
        self.below: Frame | None = None
        self.before: Group | None = None
        self.loop: Follower | None = None


class Follower(Protocol):
    """What sees to it, in one event loop, that tasks inherit the group in which they are started."""

    def end(self) -> None:
        """A coroutine for which it was asked to is over. Any thread, finalizers too."""


class _Life:
    """Lives in the thread's own variables, and dies with it."""

    __slots__ = ("__weakref__",)


class ThreadState:
    """Where a thread is. Only that thread writes.

    Attributes:
        top: The frame that time belongs to.
        since: Up to when its time was given out, in nanoseconds of the thread's clock.
        real: The real time at that moment, or `_NEVER`.
        clock: Reads the thread's clock from other threads.
        lost: With blocks that were found open after their step.
        in_asyncio: What follows the tasks of the loop of asyncio that was seen last in this thread.
        in_trio: The same for the run of trio.
    """

    __slots__ = ("_life", "clock", "in_asyncio", "in_trio", "lost", "real", "since", "top")

    def __init__(self, life: _Life) -> None:
        self.top: Frame | None = None
        self.since = 0
        self.real = _NEVER
        self.clock = clock.clock_of_this_thread()
        self.lost: list[Frame] = []
        self.in_asyncio: Any = None
        self.in_trio: Any = None
        self._life = weakref.ref(life)

    @property
    def alive(self) -> bool:
        """Whether its thread still runs."""
        return self._life() is not None

    def forked(self) -> None:
        """The thread goes on in a child process, where its clock starts again."""
        self.clock = clock.clock_of_this_thread()
        self.since = cpu()
        self.real = _NEVER


class _Local(threading.local):
    state: ThreadState
    life: _Life


_local: Final = _Local()


def this_thread() -> ThreadState:
    """The state of the calling thread."""
    try:
        return _local.state
    except AttributeError:
        _local.life = _Life()
        _local.state = ThreadState(_local.life)
        return _local.state


def tell(state: ThreadState) -> None:
    """Tell the allocation tracker, while it runs, whose group this thread is in now."""
    if (enter := allocations.enter) is not None:
        enter(state.top.group.allocation_id if state.top is not None else 0)


def resume(state: ThreadState, top: Frame) -> None:
    """Put on the stack what begins now, or was suspended. Nothing has changed if it raises."""
    below = state.top
    if below is None or below.tally is not top.tally:
        moment = real()
        passed = moment - state.real
        spent = passed if passed < _SHORT else cpu() - state.since
        if spent > 0:
            state.since += spent
            state.real = moment
            if below is not None:
                below.tally.ns += spent
    state.top = top
    if allocations.enter is not None:
        tell(state)


def leave(state: ThreadState, below: Frame | None) -> None:
    """Take everything above `below` off the stack. Who calls this does so by hand if it is interrupted before."""
    top = state.top
    if top is not None and (below is None or below.tally is not top.tally):
        moment = real()
        passed = moment - state.real
        spent = passed if passed < _SHORT else cpu() - state.since
        if spent > 0:
            state.since += spent
            state.real = moment
            top.tally.ns += spent
    state.top = below
    if allocations.enter is not None:
        tell(state)


def _move(state: ThreadState, top: Frame, frame: Frame) -> Tally:
    """A coroutine goes on in another thread: the time of its frames goes to that one's tallies."""
    inner: Frame | None = top
    while inner is not None and inner is not frame:
        inner.tally = inner.group._tally(state)
        inner = inner.below
    frame.tally = frame.group._tally(state)
    return frame.tally


def _without_us(error: BaseException) -> BaseException:
    """An exception that came in at a yield of ours, as if it had not: its traceback has no line about that."""
    trace = error.__traceback__
    return error.with_traceback(trace.tb_next if trace is not None else None)


class Kept:
    """What an async generator has on the stack between two of its items: with blocks that have a yield in them.

    Attributes:
        bottom: The frame of the generator itself.
        top: The innermost frame.
    """

    __slots__ = ("bottom", "top")

    def __init__(self, group: Group) -> None:
        self.bottom = self.top = Frame(group, group._tally(this_thread()), followed=True)


def _drive(
    work: Any, frame: Frame, follow: Callable[[], Follower | None], kept: Kept | None
) -> Generator[Any, Any, Any]:
    """Run a coroutine step by step in the group of its frame.

    The body of the loop is what each step costs. It does what `resume` and `leave` do.
    """
    call = send = work.send
    value = None
    try:
        yield
    except GeneratorExit:
        return  # it never began
    except BaseException as error:  # cancelled before it began
        call, value = work.throw, _without_us(error)
    inner = frame
    if kept is not None:
        inner, kept.top = kept.top, frame
    state = tally = follower = None
    before, token = current.get(), None
    try:
        # Once, as coroutines do: while this one waits, its task does, and nobody else has that context.
        token = current.set(inner.group)
        follower = follow()
        while True:
            try:
                here = _local.state
            except AttributeError:
                here = this_thread()
            below = here.top
            if here is not state:
                tally = _move(here, inner, frame)
                if state is None and (below is None or below.tally is not tally):
                    tally.calls += 1
                state = here
            try:
                if below is None or below.tally is not tally or inner is not frame:
                    moment = real()
                    passed = moment - here.real
                    spent = passed if passed < _SHORT else cpu() - here.since
                    if spent > 0:
                        here.since += spent
                        here.real = moment
                        if below is not None:
                            below.tally.ns += spent
                    here.top = inner
                    if (enter := allocations.enter) is not None:
                        enter(inner.group.allocation_id)
                else:
                    here.top = inner
                out = call(value)
                if here.top is not frame or below is None or below.tally is not tally:
                    moment = real()
                    passed = moment - here.real
                    spent = passed if passed < _SHORT else cpu() - here.since
                    inner = here.top
                    if spent > 0:
                        here.since += spent
                        here.real = moment
                        inner.tally.ns += spent
                    here.top = below
                    if (enter := allocations.enter) is not None:
                        enter(below.group.allocation_id if below is not None else 0)
                else:
                    here.top = below
            except StopIteration as stop:
                if kept is not None:
                    kept.top = here.top or frame
                try:
                    leave(here, below)
                finally:
                    here.top = below
                return stop.value
            except BaseException:
                value = None  # that exception, perhaps: it would keep itself alive
                try:
                    leave(here, below)
                finally:
                    here.top = below
                raise
            if call is not send:
                call, value = send, None
            try:
                value = yield out
            except GeneratorExit:
                _close(work, frame, inner)
                raise
            except BaseException as error:
                call, value = work.throw, _without_us(error)
            out = None  # nor does what was waited for stay
    finally:
        if follower is not None:
            follower.end()
        if token is None:  # interrupted
            current.set(before)
        else:
            try:
                current.reset(token)
            except ValueError:
                pass  # it is closed somewhere else than it began


def _close(work: Any, frame: Frame, inner: Frame) -> None:
    """Close a coroutine that is suspended, wherever that happens."""
    state = this_thread()
    _move(state, inner, frame)
    below = state.top
    try:
        resume(state, inner)
        work.close()
    finally:
        try:
            leave(state, below)
        finally:
            state.top = below


class MeasuredCoroutine:
    """A coroutine whose steps belong to a group.

    It looks like the coroutine inside to those who ask for its name, frame or state. A generator does the work; its
    methods are called without one of ours between.
    """

    __slots__ = ("__next__", "__weakref__", "_drive", "_work", "send", "throw")

    if not TYPE_CHECKING:
        # A type checker takes these for methods that cannot be assigned.
        __next__: Callable[[], Any]

    def __init__(
        self, work: Any, group: Group, follow: Callable[[], Follower | None], kept: Kept | None = None
    ) -> None:
        self._work = work
        frame = Frame(group, group._tally(this_thread()), followed=True) if kept is None else kept.bottom
        self._drive = drive = _drive(work, frame, follow, kept)
        next(drive)  # whatever comes first is measured, an exception too
        self.send = drive.send
        self.throw = drive.throw
        self.__next__ = drive.__next__

    def close(self) -> None:
        """Close the coroutine, in its group."""
        self._drive.close()
        self._work.close()  # where it never began

    def __await__(self) -> MeasuredCoroutine:
        return self

    def __iter__(self) -> MeasuredCoroutine:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("cr_", "gi_", "ag_")) or name in ("__name__", "__qualname__"):
            return getattr(self._work, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<measured {self._work!r}>"
