"""Tasks inherit the group in which they are started; what that changes in a loop is put back."""

import asyncio
import contextlib
import contextvars
import functools
import gc
import inspect
import re
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio
import trio.testing
from anyio.lowlevel import checkpoint

from memquota import UsageError
from memquota.accounting import Group, _follow, _steps, detached
from tests.accounting.group_world import StepClock, inside, seconds, standing_clock

eager = pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks that start at once came with 3.12")


@pytest.fixture
def clock() -> Iterator[StepClock]:
    with standing_clock() as standing:
        yield standing
    assert _steps.current.get() is None


async def computing(clock: StepClock, each: float, steps: int = 3) -> None:
    """Takes so many steps and one more, and computes in each but the last."""
    for _ in range(steps):
        clock.compute(each)
        await checkpoint()


# --- both loops -------------------------------------------------------------------------------------------------------


async def test_tasks_that_are_started_in_a_group_belong_to_it_as_do_those_that_they_start(clock: StepClock) -> None:
    group, other = Group("a"), Group("b")

    async def child() -> None:
        clock.compute(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(computing, clock, 10)
            tasks.start_soon(other.run, computing, clock, 1000)

    async def work() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            tasks.start_soon(child)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(computing, clock, 100_000)
        tasks.start_soon(group.run, work)

    assert (seconds(group), seconds(other)) == (62, 6000)
    assert group.statistics().calls == 7  # the run, and each of six tasks, as those of the other group inherit first


async def test_a_task_outlives_the_run_in_which_it_was_started(clock: StepClock) -> None:
    group = Group("a")

    async with anyio.create_task_group() as tasks:

        async def starts() -> None:
            tasks.start_soon(computing, clock, 2)

        await group.run(starts())
        clock.compute(100)

    assert seconds(group) == 6


async def test_a_task_that_is_started_in_a_block_inherits(clock: StepClock) -> None:
    group = Group("a")

    async with anyio.create_task_group() as tasks:
        with group:
            tasks.start_soon(computing, clock, 2)
        tasks.start_soon(computing, clock, 100)

    assert seconds(group) == 6


async def test_a_task_that_is_started_detached_inherits_nothing(clock: StepClock) -> None:
    group = Group("a")

    async with anyio.create_task_group() as tasks:

        async def work() -> None:
            with detached():
                tasks.start_soon(computing, clock, 2)
                clock.compute(5)
            tasks.start_soon(computing, clock, 10)

        await group.run(work())

    assert seconds(group) == 35


async def test_a_child_that_is_cancelled_or_raises_is_measured_to_its_end(clock: StepClock) -> None:
    group = Group("a")

    async def waits() -> None:
        try:
            clock.compute(1)
            await anyio.sleep_forever()
        finally:
            clock.compute(10)

    async def raises() -> None:
        await checkpoint()
        await checkpoint()
        clock.compute(100)
        raise ZeroDivisionError

    async def work() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waits)
            tasks.start_soon(raises)

    with pytest.raises(ExceptionGroup):
        await group.run(work())

    assert seconds(group) == 111
    assert inside() == []


async def test_blocks_of_a_child_stay_its_own_while_it_waits(clock: StepClock) -> None:
    group, inner = Group("a"), Group("inner")

    async def child() -> None:
        with inner:
            clock.compute(1)
            await checkpoint()
            clock.compute(1)

    async def work() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            tasks.start_soon(computing, clock, 100)

    await group.run(work())

    assert (seconds(group), seconds(inner)) == (300, 2)


async def test_awaiting_a_run_of_the_group_that_was_inherited_counts_once(clock: StepClock) -> None:
    group = Group("a")

    async def work() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(group.run, computing, clock, 2)

    await group.run(work())

    assert seconds(group) == 6


async def test_work_in_a_thread_counts_where_it_is_wrapped(clock: StepClock) -> None:
    group = Group("a")

    async def work() -> None:
        await anyio.to_thread.run_sync(clock.compute, 100)
        await anyio.to_thread.run_sync(group.wrap(clock.compute), 3)

    await group.run(work())

    assert seconds(group) == 3


def test_a_thread_that_is_in_a_group_gives_it_what_no_other_group_gets(clock: StepClock) -> None:
    group, other = Group("a"), Group("b")

    async def main() -> None:
        clock.compute(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(computing, clock, 10)
            tasks.start_soon(other.run, computing, clock, 1000)
            with other:
                clock.compute(1000)

    with group:
        anyio.run(main, backend="trio")
        anyio.run(main, backend="asyncio")

    assert (seconds(group), seconds(other)) == (62, 8000)


# --- a block that is held across an await -----------------------------------------------------------------------------


async def test_asyncio_a_block_held_across_an_await_where_nobody_sees_the_steps_is_refused(
    clock: StepClock, anyio_backend_name: str
) -> None:
    if anyio_backend_name == "trio":
        return
    group, outer = Group("a"), Group("outer")

    async def held() -> None:
        with outer, group:
            clock.compute(1)
            await asyncio.sleep(0)
            clock.compute(10)

    async def others() -> None:
        for _ in range(4):
            await asyncio.sleep(0)
        clock.compute(100)

    other = asyncio.ensure_future(others())
    text = "group 'a' was held across an await in a task whose steps nobody sees; await group.run(…) there"
    with pytest.raises(UsageError, match="'outer' was held across an await") as caught:
        await held()
    await other

    assert re.match(re.escape(text), str(caught.value.__context__))
    assert seconds(group) <= 1  # what it computed before; nothing from after
    assert seconds(outer) == 0
    assert inside() == []
    assert _steps.this_thread().lost == []
    with group:
        clock.compute(5)
    assert 5 <= seconds(group) <= 6


async def test_asyncio_blocks_without_an_await_in_them_are_none_the_worse(
    clock: StepClock, anyio_backend_name: str
) -> None:
    group, other = Group("a"), Group("b")

    async def one(group: Group) -> None:
        for _ in range(5):
            with group:
                clock.compute(1)
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one, group)
        tasks.start_soon(one, other)
        tasks.start_soon(one, group)

    assert (seconds(group), seconds(other)) == (10, 5)


async def test_trio_a_block_may_be_held_across_an_await_in_any_task(clock: StepClock, anyio_backend_name: str) -> None:
    if anyio_backend_name == "asyncio":
        return
    group, other = Group("a"), Group("b")

    async def held(group: Group) -> None:
        with group:
            for _ in range(3):
                clock.compute(1)
                await checkpoint()
            with other:
                clock.compute(10)
                await checkpoint()
                clock.compute(10)
        clock.compute(100)
        await checkpoint()
        clock.compute(100)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(held, group)
        nursery.start_soon(held, group)
        nursery.start_soon(computing, clock, 1000, 6)

    assert (seconds(group), seconds(other)) == (6, 40)
    assert inside() == []


# --- what it changes in asyncio ---------------------------------------------------------------------------------------


def in_asyncio(test: Callable[[StepClock], Coroutine[Any, Any, None]]) -> Callable[[StepClock], None]:
    """Runs a test in a loop of its own."""

    @functools.wraps(test)
    def runs(clock: StepClock) -> None:
        asyncio.run(test(clock))

    runs.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    del runs.__dict__["__wrapped__"]
    return runs


def factory() -> Any:
    return asyncio.get_running_loop().get_task_factory()


@in_asyncio
async def test_the_factory_is_there_while_a_group_has_coroutines_and_no_longer(clock: StepClock) -> None:
    group = Group("a")
    assert factory() is None

    async def work() -> None:
        assert factory() is not None
        tasks.append(asyncio.create_task(computing(clock, 1)))

    tasks: list[asyncio.Task[None]] = []
    await group.run(work())
    await asyncio.sleep(0)
    assert factory() is not None
    await tasks[0]

    assert factory() is None
    assert seconds(group) == 3


@in_asyncio
async def test_after_a_block_the_factory_goes_with_the_loops_next_turn(clock: StepClock) -> None:
    with Group("a"):
        assert factory() is not None
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert factory() is None


@in_asyncio
async def test_a_factory_that_was_there_makes_the_tasks_and_comes_back(clock: StepClock) -> None:
    made = []

    def make(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=loop, **options)
        made.append(task)
        return task

    group = Group("a")
    asyncio.get_running_loop().set_task_factory(make)

    async def work() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(computing(clock, 1), name="first")
            tasks.create_task(computing(clock, 1), context=contextvars.copy_context())
            tasks.create_task(computing(clock, 100), context=contextvars.Context())

    await group.run(work())

    assert factory() is make
    assert len(made) == 3
    assert made[0].get_name() == "first"
    assert seconds(group) == 6  # an empty context is in no group


@in_asyncio
async def test_a_factory_that_is_put_before_ours_stays(clock: StepClock) -> None:
    group = Group("a")
    loop = asyncio.get_running_loop()

    async def work() -> None:
        ours: Any = loop.get_task_factory()
        loop.set_task_factory(functools.partial(ours))
        await asyncio.create_task(computing(clock, 1))

    await group.run(work())
    theirs = factory()
    assert theirs is not None
    await asyncio.create_task(computing(clock, 100))

    async def again() -> None:
        task: Any = asyncio.create_task(computing(clock, 1))
        assert inspect.iscoroutine(task.get_coro()._work)  # wrapped by one of the two
        await task

    await group.run(again())

    assert factory() is theirs
    assert seconds(group) == 6
    assert group.statistics().calls == 4  # two runs and two tasks


@in_asyncio
async def test_a_task_that_was_never_started_warns_as_ever(clock: StepClock) -> None:
    group = Group("a")

    def fails(*both: Any, **options: Any) -> asyncio.Task[Any]:
        raise ZeroDivisionError

    async def child() -> None:
        pass

    async def work() -> None:
        asyncio.create_task(child())  # noqa: RUF006 - there is none

    async def started() -> None:
        with contextlib.suppress(ZeroDivisionError):
            await group.run(work())
        gc.collect()

    asyncio.get_running_loop().set_task_factory(fails)
    with pytest.warns(RuntimeWarning, match=r"child' was never awaited"):
        await started()

    assert factory() is fails
    asyncio.get_running_loop().set_task_factory(None)
    assert group.statistics().calls == 1


@in_asyncio
async def test_a_task_can_be_looked_at(clock: StepClock) -> None:
    async def child() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def work() -> None:
        task: Any = asyncio.create_task(child(), name="watched")
        coroutine = task.get_coro()
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
        await asyncio.sleep(0)
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_SUSPENDED
        assert coroutine.cr_code is child.__code__
        assert coroutine.__qualname__ == child.__qualname__
        assert [frame.f_code for frame in task.get_stack()] == [child.__code__]
        assert f"coro=<{child.__qualname__}() running at {__file__}" in repr(task)
        assert re.match("<measured <coroutine object .*child at ", repr(coroutine))
        with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
            _ = coroutine.nonsense
        await task
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED

    await Group("a").run(work())


@in_asyncio
async def test_the_loop_may_end_while_coroutines_of_a_group_wait(clock: StepClock) -> None:
    group = Group("a")

    async def waits() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            clock.compute(1)

    async def work() -> None:
        background.extend(asyncio.create_task(waits()) for _ in range(3))
        await asyncio.sleep(0)

    background: list[asyncio.Task[None]] = []
    await group.run(work())
    for task in background:
        task.cancel()
    await asyncio.wait(background)

    assert seconds(group) == 3
    assert factory() is None


def test_a_coroutine_may_be_collected_after_its_loop_is_closed(clock: StepClock) -> None:
    group = Group("a")

    async def waits() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            clock.compute(1)

    async def main() -> None:
        coroutine = group.run(waits())
        kept.append(coroutine)
        coroutine.send(None)

    kept: list[Coroutine[Any, Any, None]] = []
    asyncio.run(main())
    kept.clear()
    gc.collect()

    assert seconds(group) == 1


def test_loops_that_take_turns_in_a_thread_each_have_their_own(clock: StepClock) -> None:
    group = Group("a")

    async def steps() -> None:
        await group.run(asyncio.create_task, computing(clock, 1, 1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    with asyncio.Runner() as one, asyncio.Runner() as other:
        for _ in range(3):
            one.run(steps())
            other.run(steps())
        factories = [one.get_loop().get_task_factory(), other.get_loop().get_task_factory()]

    assert factories == [None, None]
    assert seconds(group) == 6


@eager
@in_asyncio
async def test_tasks_that_start_at_once_inherit(clock: StepClock) -> None:
    group = Group("a")
    loop: Any = asyncio.get_running_loop()
    module: Any = asyncio
    loop.set_task_factory(module.eager_task_factory)

    async def at_once() -> None:
        clock.compute(10)

    async def work() -> None:
        await asyncio.create_task(at_once())
        assert seconds(group) == 10
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(computing(clock, 1))
        async with anyio.create_task_group() as task_group:  # which does not let them start at once
            task_group.start_soon(computing, clock, 100)

    await group.run(work())

    assert seconds(group) == 313
    assert factory() is module.eager_task_factory


# --- what it changes in trio ------------------------------------------------------------------------------------------


def instruments() -> list[object]:
    """Those of memquota in this run."""
    runner: Any = trio._core._run.GLOBAL_RUN_CONTEXT.runner
    return [each for each in runner.instruments["_all"] if type(each).__module__ == _follow.__name__]


def test_the_instruments_come_when_they_are_needed_and_go_when_they_have_been_idle(clock: StepClock) -> None:
    group = Group("a")
    nursery: Any = None

    async def starts() -> None:
        nursery.start_soon(computing, clock, 1)
        assert len(instruments()) == 2

    async def runs() -> None:
        assert len(instruments()) == 1

    async def nothing() -> None:
        pass

    async def idle() -> None:
        async with trio.open_nursery() as others:
            for _ in range(2 * _follow._IDLE):
                others.start_soon(nothing)

    async def main() -> None:
        nonlocal nursery
        assert instruments() == []
        await idle()
        await group.run(runs())
        async with trio.open_nursery() as nursery:
            await group.run(starts())
        assert len(instruments()) == 2
        await idle()
        assert instruments() == []
        with group:
            assert len(instruments()) == 2
            clock.compute(4)
            await checkpoint()
            clock.compute(4)

    trio.run(main)

    assert seconds(group) == 11


@pytest.mark.parametrize("where", ["run", "block", "child"])
def test_the_instruments_stay_while_a_group_may_start_tasks(clock: StepClock, where: str) -> None:
    group = Group("a")

    async def nothing() -> None:
        pass

    def start_many(nursery: trio.Nursery) -> None:
        for _ in range(2 * _follow._IDLE):
            nursery.start_soon(nothing)

    async def waits(nursery: trio.Nursery) -> None:
        await may_go_on.wait()
        nursery.start_soon(computing, clock, 1)

    async def has_child(nursery: trio.Nursery) -> None:
        nursery.start_soon(waits, nursery)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            if where == "block":
                with group:
                    with detached():
                        start_many(nursery)
                    nursery.start_soon(computing, clock, 1)
                return
            nursery.start_soon(group.run, waits if where == "run" else has_child, nursery)
            await trio.testing.wait_all_tasks_blocked()
            start_many(nursery)
            may_go_on.set()

    may_go_on = trio.Event()
    trio.run(main)

    assert seconds(group) == 3


def test_tasks_that_inherit_leave_the_thread_in_the_group_that_it_is_in(clock: StepClock) -> None:
    group, other = Group("a"), Group("b")

    async def parent() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(computing, clock, 10)

    async def main() -> None:
        await other.run(parent)
        clock.compute(1)
        await checkpoint()
        clock.compute(1)

    with group:
        trio.run(main)

    assert (seconds(group), seconds(other)) == (2, 30)


def test_a_block_that_waits_in_a_guest_run_is_left_to_whoever_has_the_thread_then(clock: StepClock) -> None:
    group, before, after = Group("a"), Group("before"), Group("after")
    done: list[Any] = []

    async def guest() -> None:
        with group:
            clock.compute(1)
            await may_go_on.wait()
            clock.compute(1)
        clock.compute(10)

    async def start() -> None:
        loop = asyncio.get_running_loop()
        trio.lowlevel.start_guest_run(
            guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=done.append
        )
        while not may_go_on.statistics().tasks_waiting:  # noqa: ASYNC110 - the other loop's tasks wake nobody here
            await asyncio.sleep(0)

    async def finish() -> None:
        may_go_on.set()
        while not done:  # noqa: ASYNC110
            await asyncio.sleep(0)

    may_go_on = trio.Event()
    with asyncio.Runner() as runner:
        with before:
            runner.run(start())
        with after:
            runner.run(finish())

    assert (seconds(group), seconds(before), seconds(after)) == (2, 0, 10)
    assert inside() == []


def test_other_instruments_see_what_they_saw(clock: StepClock) -> None:
    class Steps(trio.abc.Instrument):
        seen = 0

        def before_task_step(self, task: object) -> None:
            self.seen += 1

    async def main() -> None:
        await Group("a").run(computing, clock, 1)

    steps = Steps()
    trio.run(main, instruments=[steps])

    assert steps.seen > 3


def test_trio_within_a_loop_of_asyncio_follows_its_own_tasks(clock: StepClock) -> None:
    group, other = Group("a"), Group("b")

    async def guest() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                with group:
                    nursery.start_soon(computing, clock, 1)
                await other.run(computing, clock, 10)
                seen.append(len(instruments()))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        trio.lowlevel.start_guest_run(
            guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=done.set_result
        )
        while not done.done():
            await group.run(computing, clock, 100, 1)
            turns.append(None)
        done.result().unwrap()

    seen: list[int] = []
    turns: list[None] = []
    asyncio.run(main())

    assert (seconds(group), seconds(other)) == (9 + 100 * len(turns), 90)
    assert seen == [2, 2, 2]
