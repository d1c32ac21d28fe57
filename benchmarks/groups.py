"""What it costs to be in a group, on each step of a coroutine and for each block: `python -m benchmarks.groups`."""

import asyncio
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterator
from statistics import median
from time import thread_time, thread_time_ns
from typing import Any

from benchmarks.harness import Row, Times, compared, loop, measured, race, show, time_text
from memquota.accounting import Group, _steps, allocations

#: What a step may cost more in a group, in seconds.
BAR = 1.5e-6


def always_by_the_clock(run: Callable[[int], float]) -> Callable[[int], float]:
    """As if each step, and each pause between two, took longer than what is taken from the clock of real time."""

    def slowly(repeats: int) -> float:
        short, _steps._SHORT = _steps._SHORT, -1  # type: ignore[misc]
        try:
            return run(repeats)
        finally:
            _steps._SHORT = short  # type: ignore[misc]

    return slowly


def counting(run: Callable[[int], float]) -> Callable[[int], float]:
    """While allocations are counted."""

    def counted(repeats: int) -> float:
        with allocations.tracking():
            return run(repeats)

    return counted


@types.coroutine
def pause() -> Generator[None, None, None]:
    """One suspension: what every event loop sees of an await that waits."""
    yield


async def steps(repeats: int) -> None:
    """A coroutine that does nothing but take steps."""
    for _ in range(repeats):
        await pause()


async def awaited(work: Awaitable[None]) -> None:
    """The peer of `Group.run`: one coroutine around another."""
    await work


def driven(make: Callable[[int], Coroutine[Any, Any, Any]]) -> Callable[[int], float]:
    """Seconds that a coroutine takes for so many steps, without a loop around it."""

    def run(repeats: int) -> float:
        coroutine = make(repeats)
        send = coroutine.send
        started = thread_time()
        try:
            while True:
                send(None)
        except StopIteration:
            return thread_time() - started

    return run


def in_asyncio(make: Callable[[int], Coroutine[Any, Any, Any]]) -> Callable[[int], float]:
    """The same in a loop of asyncio."""

    async def run(repeats: int) -> float:
        started = thread_time()
        await make(repeats)
        return thread_time() - started

    return lambda repeats: asyncio.run(run(repeats))


def in_trio(make: Callable[[int], Coroutine[Any, Any, Any]]) -> Callable[[int], float]:
    """The same in a loop of trio."""
    import trio

    async def run(repeats: int) -> float:
        started = thread_time()
        await make(repeats)
        return thread_time() - started

    return lambda repeats: trio.run(run, repeats)


def more(operation: str, ours: Times, theirs: Times, bar: float | None = BAR) -> Row:
    """A line about what is added: the median of the differences."""
    added = median(our - their for our, their in zip(ours, theirs, strict=True))
    row = measured(operation, added, bar, time_text)
    return Row(row.operation, row.ours, f"of {time_text(median(ours))}", bar=row.bar, held=row.held)


def step_rows() -> Iterator[Row]:
    """What a step costs more than in a bare coroutine."""
    group, other = Group("measured"), Group("other")
    times = race(
        {
            "bare": driven(lambda n: awaited(steps(n))),
            "run": driven(lambda n: group.run(steps(n))),
            "twice": driven(lambda n: group.run(group.run(steps(n)))),
            "nested": driven(lambda n: other.run(group.run(steps(n)))),
            "long": always_by_the_clock(driven(lambda n: group.run(steps(n)))),
            "clock": loop("clock()", clock=thread_time_ns),
        }
    )
    yield measured("read the clock of the thread, once", median(times["clock"]), None, time_text)
    yield more("group.run: added to a step of a bare coroutine", times["run"], times["bare"])
    yield more("the same where steps and pauses take over 10 µs", times["long"], times["bare"])
    yield more("the same group twice, one in the other", times["twice"], times["bare"], None)
    yield more("a group in another one", times["nested"], times["bare"], None)
    if allocations.available():
        run = driven(lambda n: group.run(steps(n)))
        times = race({"counted": counting(run), "run": run})
        yield more("added to that while allocations are counted", times["counted"], times["run"], None)


async def asyncio_steps(repeats: int) -> None:
    """Steps that go through the loop."""
    for _ in range(repeats):
        await asyncio.sleep(0)


async def child(work: Coroutine[Any, Any, None]) -> None:
    """In a task of its own, which inherits the group."""
    await asyncio.create_task(work)


async def trio_steps(repeats: int) -> None:
    """The same in trio."""
    import trio

    for _ in range(repeats):
        await trio.lowlevel.cancel_shielded_checkpoint()


async def trio_child(repeats: int) -> None:
    """In a task of its own, which inherits the group."""
    import trio

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio_steps, repeats)


def loop_rows() -> Iterator[Row]:
    """The same where event loops take the steps."""
    group = Group("measured")
    times = race(
        {
            "bare": in_asyncio(lambda n: awaited(asyncio_steps(n))),
            "run": in_asyncio(lambda n: group.run(asyncio_steps(n))),
            "bare child": in_asyncio(lambda n: child(asyncio_steps(n))),
            "child": in_asyncio(lambda n: group.run(child(asyncio_steps(n)))),
        }
    )
    yield more("asyncio: added to a step", times["run"], times["bare"])
    yield more("asyncio: added to a step of a task that inherits", times["child"], times["bare child"])
    try:
        import trio  # noqa: F401
    except ImportError:
        return
    times = race(
        {
            "bare": in_trio(lambda n: awaited(trio_steps(n))),
            "run": in_trio(lambda n: group.run(trio_steps(n))),
            "bare child": in_trio(trio_child),
            "child": in_trio(lambda n: group.run(trio_child(n))),
        }
    )
    yield more("trio: added to a step", times["run"], times["bare"])
    yield more("trio: added to a step of a task that inherits", times["child"], times["bare child"])


def other_rows() -> Iterator[Row]:
    """Blocks, calls, items, readings."""
    group = Group("measured")

    async def items(repeats: int) -> AsyncGenerator[int, None]:
        for number in range(repeats):
            yield number

    async def consume(source: AsyncGenerator[int, None]) -> None:
        async for _ in source:
            pass

    def nothing() -> None:
        pass

    times = race(
        {
            "block": loop("with group: pass", group=group),
            "call": loop("call()", call=group.wrap(nothing)),
            "bare call": loop("call()", call=nothing),
            "items": driven(lambda n: consume(group.wrap(items(n)))),
            "bare items": driven(lambda n: consume(items(n))),
            "statistics": loop("read()", read=group.statistics),
        }
    )
    yield measured("a with block", median(times["block"]), None, time_text)
    yield more("added to a call of what was wrapped", times["call"], times["bare call"], None)
    yield more("added to an item of an async generator", times["items"], times["bare items"], None)
    yield measured("group.statistics()", median(times["statistics"]), None, time_text)


def run_row() -> Iterator[Row]:
    """What it costs to begin."""
    group = Group("measured")

    async def nothing() -> None:
        pass

    async def many(repeats: int, run: Callable[[Any], Awaitable[None]]) -> None:
        for _ in range(repeats):
            await run(nothing())

    times = race({"run": in_asyncio(lambda n: many(n, group.run)), "bare": in_asyncio(lambda n: many(n, awaited))})
    yield more("group.run of a coroutine that ends at once", times["run"], times["bare"], None)
    yield compared("the same, as a ratio", times["run"], "one coroutine around another", times["bare"])


def rows(full: bool = False) -> Iterator[Row]:
    """Every line about groups."""
    yield from step_rows()
    yield from loop_rows()
    yield from other_rows()
    yield from run_row()


if __name__ == "__main__":
    show(rows)
