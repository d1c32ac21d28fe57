"""How tasks inherit the group in which they are started, in asyncio and in trio.

The group is in the context, which both loops copy for each new task. What is added here is that the steps of such a
task are measured:

- asyncio tells nobody when a task's step begins, but has each task made by the loop's task factory. Ours wraps the
  coroutine, and hands it to the factory that was there before. It is set while coroutines or with blocks of groups are
  under way in that loop, and taken away after that.
- trio tells instruments of new tasks and of steps. Each instrument is added when it is needed first, and removes itself
  when it saw nothing of interest for a while: adding one costs far more than what it sees.

Nothing here needs either of them to be installed.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from contextvars import Context
from types import ModuleType
from typing import Any, Final

from memquota.accounting._steps import (
    Follower,
    Frame,
    MeasuredCoroutine,
    ThreadState,
    current,
    leave,
    resume,
    tell,
    this_thread,
)

__all__ = ["follow", "follow_block"]

#: New tasks, or steps, after which a trio instrument that is not needed removes itself.
_IDLE: Final = 100


def follow() -> Follower | None:
    """See to it that tasks which are started here inherit, until the follower is told of the end."""
    state = this_thread()
    follower = _here(state)
    if follower is not None:
        follower.begin()
    return follower


def follow_block(state: ThreadState, frame: Frame) -> None:
    """The same for a with block that is about to be entered in a task whose steps nobody sees; or in none at all."""
    follower = _here(state)
    if follower is not None:
        follower.enter(frame)


def _here(state: ThreadState) -> _Loop | _Run | None:
    """What follows tasks where this is called; None outside of event loops."""
    # Trio first: its tasks may run within callbacks of an asyncio loop.
    trio: Any = sys.modules.get("trio")
    lowlevel: Any = getattr(trio, "lowlevel", None)
    in_task = getattr(lowlevel, "in_trio_task", None)  # None: somebody is importing it in another thread
    if in_task is not None and in_task():
        token = lowlevel.current_trio_token()
        run: _Run | None = state.in_trio
        if run is None or run.token is not token:
            state.in_trio = run = _Run(token, lowlevel)
        return run
    asyncio: Any = sys.modules.get("asyncio")
    find = getattr(asyncio, "_get_running_loop", None)
    native = find() if find is not None else None
    if native is None:
        return None
    loop: _Loop | None = state.in_asyncio
    if loop is None or loop.loop() is not native:
        loop = getattr(native.get_task_factory(), "_memquota_loop", None) or _Loop(native, asyncio)
        state.in_asyncio = loop
    return loop


# --- asyncio ----------------------------------------------------------------------------------------------------------


class _Factory:
    """A task factory that lets tasks inherit, before the one that was there."""

    __slots__ = ("_memquota_before", "_memquota_loop", "_task")

    def __init__(self, follower: _Loop, before: Callable[..., Any] | None, task: Callable[..., Any]) -> None:
        self._memquota_loop = follower
        self._memquota_before = before
        self._task = task

    def __call__(self, loop: Any, coro: Any, **options: Any) -> Any:
        coro = _inheriting(coro, options.get("context"))
        if self._memquota_before is not None:
            return self._memquota_before(loop, coro, **options)
        return self._task(coro, loop=loop, **options)


def _eager_factory(follower: _Loop, before: Any, asyncio: Any) -> Any:
    """The same for a factory of tasks that start at once: one of asyncio's own, by which others recognise it.

    Anyio does so by its code, and then calls the constructor that it finds there by itself. None for other factories.
    """
    code = getattr(getattr(asyncio, "eager_task_factory", None), "__code__", None)
    if code is None or getattr(before, "__code__", None) is not code:
        return None
    construct = before.__closure__[0].cell_contents

    def inheriting(coro: Any, **options: Any) -> Any:
        return construct(_inheriting(coro, options.get("context")), **options)

    factory = asyncio.create_eager_task_factory(inheriting)
    factory._memquota_loop = follower
    factory._memquota_before = before
    return factory


def _inheriting(coro: Any, context: Context | None) -> Any:
    """A new task's coroutine, measured if its context is in a group."""
    group = current.get() if context is None else context.get(current)
    if group is None or type(coro) is MeasuredCoroutine or not hasattr(coro, "throw"):
        return coro
    return MeasuredCoroutine(coro, group, follow)


class _Loop:
    """A running loop of asyncio.

    Threads: its own, except that a coroutine may be over in another one, where it is collected.
    """

    __slots__ = ("_asyncio", "_check_is_due", "_context", "_factory", "_users", "loop")

    def __init__(self, loop: Any, asyncio: ModuleType) -> None:
        self.loop = weakref.ref(loop)
        self._asyncio: Any = asyncio
        self._factory: Any = None
        self._users = 0
        self._check_is_due = False
        self._context = Context()

    def begin(self) -> None:
        if not self._users:
            self._install()
        self._users += 1

    def end(self) -> None:
        self._users -= 1
        if not self._users and not self._check_is_due:
            self._remove()

    def enter(self, frame: Frame) -> None:
        frame.loop = self
        if not self._check_is_due:
            self._install()
            # It runs before the task goes on whose step is under way.
            self.loop().call_soon(self._check, context=self._context)  # type: ignore[union-attr]
            self._check_is_due = True

    def _check(self) -> None:
        """Between two steps: a with block that is open is held across an await, and other tasks are running in it."""
        self._check_is_due = False
        state = this_thread()
        frame = state.top
        while frame is not None and frame.loop is self:
            state.lost.append(frame)
            frame = frame.below
        if frame is not state.top:
            state.top = frame  # whose time it was since is not known: theirs who had the thread before, or nobody's
            tell(state)
        if not self._users:
            self._remove()

    def _install(self) -> None:
        loop: Any = self.loop()
        before = loop.get_task_factory()
        if getattr(before, "_memquota_loop", None) is self:
            factory = before
        else:
            factory = _eager_factory(self, before, self._asyncio) or _Factory(self, before, self._asyncio.Task)
            loop.set_task_factory(factory)
        self._factory = factory

    def _remove(self) -> None:
        loop: Any = self.loop()
        # Where somebody else's stands before ours it has to stay; it lets pass what is in no group.
        if loop is not None and self._factory is not None and loop.get_task_factory() is self._factory:
            loop.set_task_factory(self._factory._memquota_before)
        self._factory = None


# --- trio -------------------------------------------------------------------------------------------------------------


class _Run:
    """A run of trio. All in its own thread, except for `end`."""

    __slots__ = ("_idle", "_installed", "_users", "lowlevel", "steps", "token")

    def __init__(self, token: Any, lowlevel: Any) -> None:
        self.token = token
        self.lowlevel = lowlevel
        self.steps = _Steps(lowlevel)
        self._users = 0
        self._idle = 0
        self._installed = False

    def begin(self) -> None:
        self._users += 1
        self._install()

    def end(self) -> None:
        self._users -= 1

    def enter(self, frame: Frame) -> None:
        self._install()
        self.steps.install(this_thread().top)

    def _install(self) -> None:
        self._idle = 0
        if not self._installed:
            self.lowlevel.add_instrument(self)
            self._installed = True

    def task_spawned(self, task: Any) -> None:
        """Trio calls this for each new task, in the step of the one that starts it."""
        group = task.context.get(current)
        if group is not None:
            self.steps.add(task, Frame(group, group._tally(this_thread()), followed=True))
        elif not self._users and not self.steps.tasks and this_thread().top is None:
            self._idle += 1
            if self._idle >= _IDLE:
                self.lowlevel.remove_instrument(self)
                self._installed = False


#: Nobody knows what the thread was in before this step: it was under way when the instrument came.
_UNKNOWN: Final = object()


class _Steps:
    """What sees the steps of trio's tasks.

    Attributes:
        tasks: What a waiting task has on the stack when it goes on, topmost and bottommost frame.
    """

    __slots__ = ("_below", "_ended", "_idle", "_installed", "_lowlevel", "tasks")

    def __init__(self, lowlevel: Any) -> None:
        self.tasks: dict[Any, tuple[Frame, Frame]] = {}
        self._lowlevel = lowlevel
        self._below: Any = None
        self._ended: Any = None
        self._idle = 0
        self._installed = False

    def add(self, task: Any, frame: Frame) -> None:
        """A task inherited the group of a frame."""
        frame.tally.calls += 1
        self.tasks[task] = (frame, frame)
        self.install(_UNKNOWN)

    def install(self, below: Any) -> None:
        """Watch from this step on, which began with so much on the stack."""
        self._idle = 0
        if not self._installed:
            self._below = below
            self._lowlevel.add_instrument(self)
            self._installed = True

    def before_task_step(self, task: Any) -> None:
        """Trio calls this."""
        state = this_thread()
        self._below = state.top
        found = self.tasks.get(task)
        if found is not None:
            top, bottom = found
            bottom.below = state.top
            resume(state, top)

    def task_exited(self, task: Any) -> None:
        """Trio calls this in the task's last step, before it calls that this has ended."""
        self.tasks.pop(task, None)
        self._ended = task

    def after_task_step(self, task: Any) -> None:
        """Trio calls this."""
        state = this_thread()
        top, below = state.top, self._below
        if top is None or top is below or below is _UNKNOWN:
            self.tasks.pop(task, None)  # a with block was left that it had been held
            if not self.tasks:
                self._idle += 1
                if self._idle >= _IDLE:
                    self._lowlevel.remove_instrument(self)
                    self._installed = False
            self._ended = None
            return
        try:
            leave(state, below)
        finally:
            state.top = below
        if self._ended is not task:
            bottom = top
            while bottom.below is not below and bottom.below is not None:
                bottom = bottom.below
            self.tasks[task] = (top, bottom)
        self._ended = None
