"""Coroutines, generators and iterators in groups, step by step, on both loops."""

import asyncio
import contextvars
import functools
import gc
import inspect
import re
import sys
import traceback
import types
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from memquota import UsageError
from memquota.accounting import Group, _steps
from memquota.accounting._steps import current
from tests.accounting.group_world import StepClock, inside, seconds, standing_clock


@pytest.fixture
def clock() -> Iterator[StepClock]:
    with standing_clock() as standing:
        yield standing
    assert _steps.current.get() is None


@types.coroutine
def pause(value: object = None) -> Generator[object, Any, Any]:
    """One suspension, for coroutines that are driven by hand."""
    return (yield value)


class Trouble(Exception):
    """What a test raises."""


# --- run --------------------------------------------------------------------------------------------------------------


async def test_a_coroutine_is_measured_while_it_runs_and_not_while_it_waits(clock: StepClock) -> None:
    group = Group("a")

    async def work() -> str:
        for _ in range(3):
            clock.compute(2)
            await checkpoint()
        clock.compute(1)
        return "done"

    async def others() -> None:
        for _ in range(5):
            clock.compute(100)
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        result = await group.run(work())
        clock.compute(50)

    assert result == "done"
    assert seconds(group) == 7
    assert group.statistics().calls == 1
    assert inside() == []


async def test_two_groups_that_take_turns_each_get_their_own(clock: StepClock) -> None:
    one, other = Group("one"), Group("other")

    async def work(each: float) -> None:
        for _ in range(4):
            clock.compute(each)
            await checkpoint()
            clock.wait(1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.run, work, 3)
        tasks.start_soon(other.run, work, 5)

    assert (seconds(one), seconds(other)) == (12, 20)


async def test_time_of_a_nested_run_belongs_to_the_innermost(clock: StepClock) -> None:
    outer, inner = Group("outer"), Group("inner")

    async def deep() -> None:
        clock.compute(10)
        await checkpoint()
        clock.compute(10)

    async def work() -> None:
        clock.compute(1)
        await inner.run(deep())
        clock.compute(1)
        await outer.run(deep())

    await outer.run(work())

    assert (seconds(outer), seconds(inner)) == (22, 20)
    assert outer.statistics().calls == 1


async def test_a_block_around_an_await_goes_with_its_task(clock: StepClock) -> None:
    outer, inner = Group("outer"), Group("inner")

    async def work() -> None:
        with inner:
            clock.compute(1)
            await checkpoint()
            clock.compute(1)
            with outer:
                clock.compute(100)
                await checkpoint()
                clock.compute(100)
            clock.compute(1)
        clock.compute(50)

    async def others() -> None:
        for _ in range(4):
            assert inside() == []
            clock.compute(1000)
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        tasks.start_soon(outer.run, work)

    assert (seconds(outer), seconds(inner)) == (250, 3)


@pytest.mark.parametrize("form", ["coroutine", "function", "partial", "callable", "awaitable", "task"])
async def test_run_takes_whatever_can_be_awaited_or_called_for_it(
    clock: StepClock, form: str, anyio_backend_name: str
) -> None:
    group = Group("a")

    async def work(what: str) -> str:
        clock.compute(1)
        await checkpoint()
        clock.compute(1)
        return what

    class Called:
        def __call__(self, what: str) -> Awaitable[str]:
            clock.compute(1)
            return work(what)

    class Awaited:
        def __await__(self) -> Generator[Any, Any, str]:
            return work("x").__await__()

    expected = 2.0
    if form == "coroutine":
        result = await group.run(work("x"))
    elif form == "function":
        result = await group.run(work, "x")
    elif form == "partial":
        result = await group.run(functools.partial(work, what="x"))
    elif form == "callable":
        result, expected = await group.run(Called(), "x"), 3
    elif form == "awaitable":
        result = await group.run(Awaited())
    else:
        if anyio_backend_name == "trio":
            return  # its tasks cannot be awaited
        result, expected = await group.run(asyncio.create_task(work("x"))), 0  # it computes in a task of its own

    assert result == "x"
    assert seconds(group) == expected


@pytest.mark.parametrize(
    ("work", "arguments", "text"),
    [
        (5, (), "run takes a coroutine or an async callable, not 5"),
        (None, (), "run takes a coroutine or an async callable, not None"),
        (len, ("abc",), "run takes an async callable, and <built-in function len> returned 3"),
    ],
)
async def test_run_refuses_what_cannot_be_awaited(work: Any, arguments: tuple[Any, ...], text: str) -> None:
    group = Group("a")

    with pytest.raises(UsageError, match=re.escape(text)) as caught:
        await group.run(work, *arguments)
    assert isinstance(caught.value, TypeError)


async def test_run_refuses_arguments_for_a_coroutine() -> None:
    coroutine = checkpoint()

    with pytest.raises(UsageError, match="only a callable takes arguments"):
        await Group("a").run(coroutine, 1)
    coroutine.close()


async def test_a_coroutine_that_was_awaited_cannot_be_run_again(clock: StepClock) -> None:
    coroutine = checkpoint()
    await coroutine

    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await Group("a").run(coroutine)

    assert inside() == []


# --- the ways in which a step ends ------------------------------------------------------------------------------------


async def test_what_it_raises_passes_through_and_it_is_left(clock: StepClock) -> None:
    group = Group("a")

    async def work() -> None:
        await checkpoint()
        clock.compute(2)
        raise Trouble

    with pytest.raises(Trouble):
        await group.run(work())

    assert seconds(group) == 2
    assert inside() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_step_that_is_interrupted_is_left(clock: StepClock, error: type[BaseException]) -> None:
    group = Group("a")

    async def work() -> None:
        await pause()
        clock.compute(2)
        raise error

    coroutine = group.run(work())
    coroutine.send(None)
    with pytest.raises(error):
        coroutine.send(None)

    assert seconds(group) == 2
    assert inside() == []
    assert _steps.current.get() is None


@pytest.mark.parametrize("step", range(6))
async def test_cancelled_at_any_step_it_is_measured_until_it_is_over(clock: StepClock, step: int) -> None:
    group = Group("a")
    begun = 0

    async def work() -> None:
        nonlocal begun
        try:
            for _ in range(5):
                begun += 1
                clock.compute(1)
                await checkpoint()
        finally:
            clock.compute(10)
            with anyio.CancelScope(shield=True):
                await checkpoint()
            clock.compute(10)

    with anyio.CancelScope() as scope:

        async def cancel() -> None:
            for _ in range(step):
                await anyio.lowlevel.cancel_shielded_checkpoint()
            scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(group.run, work)
            with anyio.CancelScope(shield=True):
                await cancel()

    assert seconds(group) == begun + (20 if begun else 0)
    assert inside() == []


async def test_cancelled_before_it_began_it_ends_like_any_other(clock: StepClock, anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        return  # it lets every task begin
    group = Group("a")

    async def child() -> None:
        raise AssertionError("it was cancelled")

    async def work() -> None:
        task = asyncio.get_running_loop().create_task(child())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    await group.run(work())

    assert inside() == []


def test_closing_it_is_measured(clock: StepClock) -> None:
    group, other = Group("a"), Group("b")

    async def work() -> None:
        try:
            with other:
                await pause()
        finally:
            clock.compute(4)

    coroutine = group.run(work())
    coroutine.send(None)
    clock.compute(1)
    coroutine.close()

    assert (seconds(group), seconds(other)) == (4, 0)
    assert inside() == []
    assert _steps.current.get() is None


def test_one_that_is_closed_before_it_began_does_not_warn(clock: StepClock) -> None:
    async def work() -> None:
        raise AssertionError("it was closed")

    group = Group("a")
    coroutine = _steps.MeasuredCoroutine(work(), group, lambda: None)
    coroutine.close()
    del coroutine
    gc.collect()  # what warns here is an error

    assert group.statistics().calls == 0


def test_one_that_will_not_close_is_told_so(clock: StepClock) -> None:
    group = Group("a")

    async def work() -> None:
        try:
            await pause()
        except GeneratorExit:
            clock.compute(1)
            await pause()

    coroutine = group.run(work())
    coroutine.send(None)
    with pytest.raises(RuntimeError, match="coroutine ignored GeneratorExit"):
        coroutine.close()

    assert seconds(group) == 1
    assert inside() == []


def test_one_that_is_collected_while_it_waits_is_closed_in_its_group(clock: StepClock) -> None:
    group, other = Group("a"), Group("b")

    async def work() -> None:
        try:
            await pause()
        finally:
            clock.compute(4)

    coroutine = group.run(work())
    contextvars.copy_context().run(coroutine.send, None)
    with other:
        clock.compute(1)
        del coroutine
        gc.collect()
        clock.compute(1)

    assert (seconds(group), seconds(other)) == (4, 2)
    assert inside() == []


def test_what_is_sent_and_thrown_in_arrives_and_what_is_yielded_comes_out(clock: StepClock) -> None:
    group = Group("a")

    async def work() -> list[object]:
        heard = [await pause("first")]
        try:
            await pause("second")
        except Trouble as error:
            heard.append(error)
            heard.append(sys.exc_info()[1])
        heard.append(sys.exc_info()[1])
        heard.append(await pause("third"))
        return heard

    coroutine = group.run(work())
    error = Trouble("x")

    assert coroutine.send(None) == "first"
    assert coroutine.send(1) == "second"
    assert coroutine.throw(error) == "third"
    with pytest.raises(StopIteration) as stop:
        coroutine.send(2)
    assert stop.value.value == [1, error, error, None, 2]
    assert _steps.current.get() is None


def test_a_later_exception_does_not_have_the_thrown_one_as_its_context(clock: StepClock) -> None:
    async def work() -> None:
        try:
            await pause()
        except Trouble:
            pass
        raise KeyError

    coroutine = Group("a").run(work())
    coroutine.send(None)
    with pytest.raises(KeyError) as caught:
        coroutine.throw(Trouble())

    assert caught.value.__context__ is None


def test_a_traceback_names_the_lines_of_the_coroutine_and_each_once(clock: StepClock) -> None:
    async def work() -> None:
        await pause()

    coroutine = Group("a").run(work())
    coroutine.send(None)
    with pytest.raises(Trouble) as caught:
        coroutine.throw(Trouble())

    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-2:] == ["work", "pause"]
    assert names.count("_drive") == 1


def test_an_exception_that_passed_through_is_freed_without_the_collector(clock: StepClock) -> None:
    class Held:
        pass

    async def work() -> None:
        held = Held()
        references.append(weakref.ref(held))
        await pause(held)

    async def fails() -> None:
        held = Held()
        references.append(weakref.ref(held))
        raise Trouble

    references: list[weakref.ref[Held]] = []
    gc.disable()
    try:
        coroutine = Group("a").run(work())
        coroutine.send(None)
        with pytest.raises(Trouble) as caught:
            coroutine.throw(Trouble())
        del caught, coroutine
        with pytest.raises(Trouble) as caught:
            Group("a").run(fails()).send(None)
        del caught
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()


def test_what_was_awaited_is_not_kept_while_the_next_step_runs(clock: StepClock) -> None:
    class Held:
        pass

    async def work() -> None:
        held = Held()
        reference = weakref.ref(held)
        waiting = pause(held)
        del held
        await waiting
        del waiting
        assert reference() is None
        await pause()

    coroutine = Group("a").run(work())
    coroutine.send(None)
    coroutine.send(None)
    coroutine.close()


def test_a_coroutine_that_goes_on_in_another_thread_counts_there(clock: StepClock) -> None:
    import threading

    group, other = Group("a"), Group("b")

    async def work() -> None:
        with other:
            clock.compute(1)
            await pause()
            here = _steps.this_thread()
            assert here.top is not None
            assert here.top.tally is other._tallies[here]  # which no other thread writes
            clock.compute(10)
            await pause()
        clock.compute(5)

    coroutine = group.run(work())
    coroutine.send(None)
    thread = threading.Thread(target=coroutine.send, args=(None,))
    thread.start()
    thread.join()
    with pytest.raises(StopIteration):
        coroutine.send(None)

    assert (seconds(group), seconds(other)) == (5, 11)
    assert inside() == []


# --- who looks at it --------------------------------------------------------------------------------------------------


async def test_whoever_walks_along_the_awaits_finds_the_coroutine_inside(clock: StepClock) -> None:
    async def work() -> None:
        await pause()

    inner: Any = work()
    coroutine = Group("a").run(inner)
    coroutine.send(None)

    found: Any = coroutine
    frames = []
    while found is not None and hasattr(found, "cr_frame"):
        frames.append(found.cr_frame.f_code.co_name)
        found = found.cr_await
    assert frames[-1] == "work"
    assert inner.cr_await is found
    coroutine.close()


# --- wrap -------------------------------------------------------------------------------------------------------------


async def test_a_wrapped_coroutine_function_runs_in_the_group(clock: StepClock) -> None:
    group = Group("a")

    @group.wrap
    async def work(number: int, *, named: int) -> int:
        """What it does."""
        clock.compute(1)
        await checkpoint()
        clock.compute(1)
        return number + named

    result = await work(1, named=2)
    await work(1, named=2)

    assert result == 3
    assert seconds(group) == 4
    assert group.statistics().calls == 2
    assert (work.__name__, work.__doc__) == ("work", "What it does.")
    assert inspect.iscoroutinefunction(work)


async def test_a_wrapped_function_runs_in_the_group_and_so_does_a_coroutine_that_it_returns(clock: StepClock) -> None:
    group = Group("a")

    async def coroutine() -> str:
        clock.compute(1)
        await checkpoint()
        clock.compute(1)
        return "x"

    def work() -> Any:
        clock.compute(5)
        return coroutine()

    assert await group.wrap(work)() == "x"
    assert group.wrap(len)("abc") == 3
    assert seconds(group) == 7


class Numbers:
    """An async iterator that is no generator."""

    def __init__(self, clock: StepClock) -> None:
        self.left = 3
        self.clock = clock

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        self.clock.compute(1)
        await checkpoint()
        self.clock.compute(1)
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        return self.left


async def numbers(clock: StepClock) -> AsyncGenerator[int, None]:
    """The same, as a generator."""
    source = Numbers(clock)
    async for number in source:
        yield number


@pytest.mark.parametrize("make", [Numbers, numbers])
async def test_items_of_an_async_iterator_are_made_in_the_group(
    clock: StepClock, make: Callable[[StepClock], AsyncIterator[int]]
) -> None:
    group, consumer = Group("a"), Group("consumer")
    seen = []

    async def consume() -> None:
        async for number in group.wrap(make(clock)):
            clock.compute(100)
            await checkpoint()
            seen.append(number)

    await consumer.run(consume())

    assert seen == [2, 1, 0]
    assert (seconds(group), seconds(consumer)) == (8, 300)
    assert group.statistics().calls == 4


async def test_other_methods_of_a_wrapped_iterator_are_its_own(clock: StepClock) -> None:
    wrapped: Any = Group("a").wrap(Numbers(clock))

    assert wrapped.left == 3
    with pytest.raises(AttributeError, match="'Numbers' object has no attribute 'right'"):
        _ = wrapped.right


async def test_all_that_can_be_done_with_an_async_generator_is_measured(clock: StepClock) -> None:
    group = Group("a")
    heard: list[object] = []

    @group.wrap
    async def talk() -> AsyncGenerator[str, int]:
        """What it does."""
        try:
            clock.compute(1)
            heard.append((yield "first"))
            try:
                yield "second"
            except Trouble as error:
                await checkpoint()
                clock.compute(10)
                heard.append(error)
            yield "third"
        finally:
            await checkpoint()
            clock.compute(100)

    talking = talk()
    error = Trouble()
    assert await talking.__anext__() == "first"
    assert await talking.asend(5) == "second"
    assert await talking.athrow(error) == "third"
    clock.compute(1000)
    await talking.aclose()

    assert heard == [5, error]
    assert seconds(group) == 111
    assert talk.__doc__ == "What it does."
    assert talking.__name__ == "talk"  # type: ignore[attr-defined]
    with pytest.raises(StopAsyncIteration):
        await talking.__anext__()
    assert inside() == []


async def test_a_block_in_an_async_generator_is_not_on_while_its_consumer_runs(clock: StepClock) -> None:
    group, inner = Group("a"), Group("inner")

    async def source() -> AsyncGenerator[int, None]:
        yield 1
        clock.compute(1)
        yield 2

    async def consume() -> None:
        async for _ in inner.wrap(source()):
            clock.compute(10)

    await group.run(consume())

    assert (seconds(group), seconds(inner)) == (20, 1)


@pytest.mark.parametrize("end", ["exhausted", "closed", "thrown at"])
async def test_a_block_with_a_yield_in_it_stays_with_its_wrapped_async_generator(clock: StepClock, end: str) -> None:
    group, block = Group("a"), Group("block")
    inherited: list[Group | None] = []

    @group.wrap
    async def source() -> AsyncGenerator[int, None]:
        clock.compute(1)
        with block:
            for number in range(2):
                clock.compute(10)
                await checkpoint()
                inherited.append(current.get())
                yield number
            clock.compute(100)
        inherited.append(current.get())
        clock.compute(1000)

    items = source()
    assert [await anext(items), await anext(items)] == [0, 1]
    assert inside() == []
    clock.compute(10_000)
    if end == "exhausted":
        assert [item async for item in items] == []
    elif end == "closed":
        await items.aclose()
    else:
        with pytest.raises(Trouble):
            await items.athrow(Trouble())

    assert inside() == []
    assert inherited[:2] == [block, block]
    assert inherited[2:] == ([group] if end == "exhausted" else [])
    assert (seconds(group), seconds(block)) == ((1001, 120) if end == "exhausted" else (1, 20))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncio_a_block_of_an_async_generator_that_was_forgotten_is_left_without_an_error(
    clock: StepClock,
) -> None:
    """The loop closes it, in a task of its own. Trio warns, and does so when the run ends."""
    group, block = Group("a"), Group("block")
    ends: list[BaseException] = []

    @group.wrap
    async def source() -> AsyncGenerator[int, None]:
        try:
            with block:
                yield 1
        except BaseException as error:
            ends.append(error)
            raise

    async for _ in source():
        break
    gc.collect()
    for _ in range(5):
        await checkpoint()

    assert [type(error) for error in ends] == [GeneratorExit]
    assert inside() == []


def test_a_generator_is_measured_while_it_makes_its_items(clock: StepClock) -> None:
    group = Group("a")

    @group.wrap
    def source(last: int) -> Generator[int, object, str]:
        for number in range(last):
            clock.compute(1)
            yield number
        return "end"

    seen = []
    for number in source(3):
        clock.compute(100)
        seen.append(number)
    also = list(group.wrap(number for number in range(2)))

    assert seen == [0, 1, 2]
    assert also == [0, 1]
    assert seconds(group) == 3


@pytest.mark.parametrize(
    ("work", "text"),
    [
        (5, "wrap takes a callable, an async iterator or a generator, not 5"),
        (None, "wrap takes a callable"),
        ([1], "wrap takes a callable"),
        (checkpoint, None),
    ],
)
def test_wrap_refuses_what_does_not_run(work: Any, text: str | None) -> None:
    group = Group("a")
    if text is None:
        coroutine = work()
        with pytest.raises(UsageError, match="that is for run"):
            group.wrap(coroutine)
        coroutine.close()
        return
    with pytest.raises(UsageError, match=re.escape(text)):
        group.wrap(work)
