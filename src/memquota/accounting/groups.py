"""Groups: to whom processor time and allocations are attributed.

A group is entered by a with block, runs coroutines, wraps what others call, and binds executors. Time belongs to the
group that was entered last and not left yet; to a coroutine only while it runs, not while it waits.

Tasks inherit the group in which they are started (in asyncio, and in trio), threads do not.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from threading import RLock
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar, final, overload

from memquota import clock
from memquota._handles import Handle
from memquota.accounting import _steps, allocations
from memquota.accounting._follow import follow_block
from memquota.accounting._steps import Frame, Tally, ThreadState, current, leave, resume, this_thread
from memquota.accounting._wrapping import BoundExecutor, run, wrapped
from memquota.accounting.statistics import GroupStatistics
from memquota.errors import UsageError, UsageTypeError, UsageValueError
from memquota.observe.log import log_accounting

__all__ = ["Group", "detached", "group"]

P = ParamSpec("P")
R = TypeVar("R")
Y = TypeVar("Y")
S = TypeVar("S")

#: Executors of other processes and interpreters.
_ELSEWHERE: Final = frozenset({"ProcessPoolExecutor", "InterpreterPoolExecutor"})

#: How often a clock is read that others disturb.
_TRIES: Final = 8

#: Those of `group`.
_by_name: Final[dict[str, Group]] = {}
#: All of them.
_groups: Final[weakref.WeakSet[Group]] = weakref.WeakSet()

#: Threads that a group knows before it looks for the first time which of them have ended.
_FEW: Final = 16


@final
class Group(Handle):
    """To whom processor time and allocations are attributed while it is entered.

    Each is one of its own, whatever others are called; `group` finds one by its name.

    Guarantees:
        Within one thread, no nanosecond is counted twice: what is nested belongs to the innermost group alone, and a
        group that is entered once more counts once. The time of threads that have ended stays.

    Args:
        name: For people. Text in one line.

    Raises:
        UsageError: The name is wrong.

    Threads:
        Everything may be called from any thread, at once. After a fork the child counts from zero.

    Approximate:
        As fine as the clock of threads (`time.get_clock_info("thread_time")`). What takes less than 10 µs, a step or
        the pause between two, is taken from the clock of real time, which is far cheaper to read. Where a thread waited
        in it, that counts until its own clock is read the next time, and is made up for then: all groups together
        never get more than it computed.

    Example:
        >>> from memquota import accounting
        >>> parser = accounting.Group("parser")
        >>> with parser:
        ...     numbers = sorted(range(1000))
        >>> parser.statistics().calls
        1
    """

    __slots__ = ("__weakref__", "_few", "_lock", "_name", "_number", "_past_calls", "_past_ns", "_tallies")

    def __init__(self, name: str) -> None:
        self._name = _checked_name(name)
        self._number = 0
        self._few = _FEW
        self._start_anew()
        _groups.add(self)
        _say_once_what_is_missing()

    @property
    def name(self) -> str:
        """The name."""
        return self._name

    @property
    def allocation_id(self) -> int:
        """Its number for `allocations`; 0 where there are too many groups to have one."""
        if not self._number:
            with self._lock:
                if not self._number:
                    try:
                        self._number = allocations.register(self._name)
                    except UsageError:
                        return 0
        return self._number

    def __enter__(self) -> Self:
        """Enter the group in this thread, until the block is left.

        Between the two there may be an await only where the task's steps are seen: everywhere in trio, and in asyncio
        in tasks that a group runs, or that inherited it. Elsewhere leaving raises UsageError.
        """
        state = this_thread()
        below = state.top
        tally = self._tally(state)
        frame = Frame(self, tally, followed=below is not None and below.followed, is_block=True)
        frame.below = below
        frame.before = current.get()
        if not frame.followed:
            follow_block(state, frame)
        try:
            current.set(self)
            resume(state, frame)
        except BaseException:
            state.top = below
            current.set(frame.before)
            raise
        if below is None or below.tally is not tally:
            tally.calls += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the group. An exception on its way also leaves what it could not, because a signal came just there.

        Raises:
            UsageError: It is not the one that was entered last in this thread and task, or was held across an await
                where that cannot be. Nothing was changed. Not where a generator is closed that nobody iterates any
                more.
        """
        state = this_thread()
        frame = state.top
        if kind is not None:
            while frame is not None and frame.is_block and frame.group is not self:
                frame = frame.below
        if frame is None or frame.group is not self or not frame.is_block:
            wrong = self._not_here(state)
            if kind is GeneratorExit:
                return  # somebody else closes a generator that was forgotten: here there is nothing to leave
            raise wrong
        below = frame.below
        others = state.top is not frame
        try:
            leave(state, below)
        finally:
            state.top = below
            if others or current.get() is self:  # otherwise this is another context
                current.set(frame.before)
            frame.below = None

    async def run(self, work: Coroutine[Any, Any, R] | Awaitable[R] | Callable[..., Awaitable[R]], *args: Any) -> R:
        """Await `work`, or `work(*args)`, in the group: each step that it computes, and no time that it waits.

        Returns:
            What it returns; what it raises passes through.

        Raises:
            UsageError: It is neither a coroutine (or something else to await), nor a callable that returns one. When
                awaited, like everything here.

        Cancellation:
            As without a group; what it does then is measured, too.

        Cost:
            0.5 µs to 2 µs a step: as much as it takes to read the thread's clock not at all, or twice.
        """
        result: R = await run(self, work, args)
        return result

    @overload
    def wrap(self, work: AsyncGenerator[Y, S]) -> AsyncGenerator[Y, S]: ...
    @overload
    def wrap(self, work: AsyncIterator[Y]) -> AsyncIterator[Y]: ...
    @overload
    def wrap(self, work: Generator[Y, S, R]) -> Generator[Y, S, R]: ...
    @overload
    def wrap(self, work: Callable[P, R]) -> Callable[P, R]: ...

    def wrap(self, work: Any) -> Any:
        """What does the same in the group, each time it is called or iterated; may be used as a decorator.

        A function runs in the group, in whatever thread it is called, and so do the steps of a coroutine function's
        coroutines. An async iterator's items are made in the group, and those of generators, while who iterates is
        not in it.

        Args:
            work: A callable, an async iterator, or a generator of either kind. A generator function is a callable.

        Raises:
            UsageError: It is something else.
        """
        return wrapped(self, work)

    def bind(self, executor: Executor) -> Executor:
        """An executor that hands everything on to this one, to run there in the group.

        Raises:
            UsageError: It is no executor, or one of other processes or interpreters, whose time is not of this one.
        """
        if not isinstance(executor, Executor):
            raise UsageTypeError(f"bind takes an executor, not {executor!r}")
        if any(kind.__name__ in _ELSEWHERE for kind in type(executor).__mro__):
            raise UsageTypeError(f"what a {type(executor).__name__} runs cannot be measured in this process")
        return BoundExecutor(self, executor)

    def statistics(self) -> GroupStatistics:
        """What it used so far, threads that are in it now included.

        Where other threads' clocks cannot be read (they can on Linux), what they are doing is included with the end of
        their block or step.

        Cost:
            Some microseconds, and one for each thread that is in the group.
        """
        with self._lock:
            self._fold()
            ns, calls = self._past_ns, self._past_calls
            mine = this_thread()
            for state, tally in list(self._tallies.items()):
                ns += tally.ns if not state.alive else _spent(state, tally, mine)
                calls += tally.calls
        number = self.allocation_id if allocations.running() else self._number
        memory = allocations.statistics(number) if number else None
        seconds = ns / 1e9 if clock.thread_ns is not None else None
        if memory is None:
            return GroupStatistics(cpu_seconds=seconds, calls=calls)
        return GroupStatistics(
            cpu_seconds=seconds,
            calls=calls,
            live_bytes=memory.live_bytes,
            live_objects=memory.live_objects,
            allocated_bytes=memory.allocated_bytes,
            freed_bytes=memory.freed_bytes,
        )

    def __repr__(self) -> str:
        return f"<Group {self._name!r}>"

    def __del__(self) -> None:
        if getattr(self, "_number", 0):
            try:
                allocations.release(self._number)
            except Exception:
                pass  # the interpreter ends, and that module did before this group

    # --- tallies ------------------------------------------------------------------------------------------------------

    def _tally(self, state: ThreadState) -> Tally:
        """That of a thread, which is the calling one."""
        tally = self._tallies.get(state)
        if tally is None:
            with self._lock:
                if len(self._tallies) >= self._few:
                    self._fold()
                    self._few = max(_FEW, 2 * len(self._tallies))
                # A signal handler or finalizer of this thread may have come first.
                tally = self._tallies.setdefault(state, Tally())
        return tally

    def _fold(self) -> None:
        """Keep of threads that have ended what they computed, and no more. Lock: held."""
        for state in [state for state in list(self._tallies) if not state.alive]:
            tally = self._tallies.pop(state, None)
            if tally is not None:  # otherwise a signal handler or finalizer came first
                self._past_ns += tally.ns
                self._past_calls += tally.calls

    def _start_anew(self) -> None:
        self._lock = RLock()
        self._past_ns = 0
        self._past_calls = 0
        # By thread. Looked up without the lock.
        self._tallies: dict[ThreadState, Tally] = {}

    def _forked(self, state: ThreadState) -> None:
        """Count from zero; what the thread is in goes on."""
        tally = self._tallies.get(state)
        self._start_anew()
        if tally is not None:
            tally.ns = tally.calls = 0
            self._tallies[state] = tally

    def _not_here(self, state: ThreadState) -> UsageError:
        """Why it cannot be left."""
        for frame in state.lost:
            if frame.group is self and current.get() is self:
                state.lost.remove(frame)
                current.set(frame.before)
                return UsageError(
                    f"group {self._name!r} was held across an await in a task whose steps nobody sees; "
                    "await group.run(…) there, or leave the block before"
                )
        top = state.top
        inner = "none is entered" if top is None else f"the innermost one is {top.group.name!r}"
        return UsageError(f"group {self._name!r} cannot be left here: in this thread and task {inner}")


def group(name: str) -> Group:
    """The group of that name: the same one each time. It is kept until the process ends.

    For names that are many, or come from outside, make groups by `Group(name)` and keep them as long as you need them.

    Raises:
        UsageError: The name is wrong.
    """
    found = _by_name.get(_checked_name(name))
    return found if found is not None else _by_name.setdefault(name, Group(name))


@contextmanager
def detached() -> Iterator[None]:
    """Tasks that are started in this block inherit no group. To whom its own time belongs does not change."""
    token = current.set(None)
    try:
        yield
    finally:
        current.reset(token)


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise UsageTypeError(f"a group's name must be text, not {name!r}")
    if not name or not name.isprintable():
        raise UsageValueError(f"a group's name must be printable text in one line, not {name!r}")
    return name


def _spent(state: ThreadState, tally: Tally, mine: ThreadState) -> int:
    """What a thread computed for a group, in nanoseconds, with what it is doing now."""
    read = _steps.cpu if state is mine else state.clock
    for _ in range(_TRIES):
        # Read together: see `_steps` about who may come between.
        spent, top, since = tally.ns, state.top, state.since
        if read is None or top is None or top.tally is not tally:
            return spent
        try:
            now = read()
        except OSError:  # the thread is ending
            return spent
        if state.since is since:  # otherwise it did something else before its clock was read
            return spent + max(0, now - since)
    return tally.ns


_said = False


def _say_once_what_is_missing() -> None:
    global _said  # noqa: PLW0603 - once in a process
    if not _said and clock.thread_ns is None:
        _said = True
        log_accounting("processor time is not available: this system has no clock for each thread")


def _after_fork_in_child() -> None:
    """This thread alone goes on, and its clock starts anew."""
    state = this_thread()
    state.forked()
    for each in list(_groups):
        each._forked(state)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
