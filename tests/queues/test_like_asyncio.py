"""`AsyncQueue` does what `asyncio.Queue` does: the same tests over both; and over ours on trio."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from memquota import AccountClosed, AsyncQueue, MemoryReclaimed, QueueShutDown, Tracker
from memquota.testing import assert_books_balance
from tests.queues.worlds import settled

Make = Callable[..., Any]


def ours(maxsize: int = 0, **options: Any) -> AsyncQueue[Any]:
    return AsyncQueue(Tracker("1MiB").new_account(), maxsize, **options)


@pytest.fixture(params=["standard on asyncio", "ours on asyncio", "ours on trio"])
def variant(request: pytest.FixtureRequest) -> str:
    found = request.param
    assert isinstance(found, str)
    return found


@pytest.fixture
def anyio_backend(variant: str) -> str:
    return variant.rpartition(" ")[2]


@pytest.fixture
def make(variant: str) -> Make:
    return asyncio.Queue if variant.startswith("standard") else ours


@pytest.fixture
def make_one_to_shut_down(make: Make) -> Make:
    if make is not ours and sys.version_info < (3, 13):
        pytest.skip("the standard one cannot be shut down before 3.13")
    return make


class Task:
    """What became of a call."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.results: list[Any] = []
        self.error: BaseException | None = None

    async def run(self, function: Callable[..., Any], *args: Any) -> None:
        with self.scope:
            try:
                self.results.append(await function(*args))
            except Exception as error:
                self.error = error

    @property
    def waits(self) -> bool:
        return not self.results and self.error is None and not self.scope.cancelled_caught


# --- putting and getting ----------------------------------------------------------------------------------------------


async def test_first_in_first_out(make: Make) -> None:
    made = make()

    await made.put(1)
    made.put_nowait(None)
    await made.put("x")

    assert (made.qsize(), made.empty(), made.full()) == (3, False, False)
    assert [await made.get(), made.get_nowait(), await made.get()] == [1, None, "x"]
    assert (made.qsize(), made.empty(), made.full()) == (0, True, False)


async def test_a_queue_that_is_full_or_empty_says_so(make: Make) -> None:
    made = make(2)
    with pytest.raises(asyncio.QueueEmpty):
        made.get_nowait()
    made.put_nowait(1)
    made.put_nowait(2)

    with pytest.raises(asyncio.QueueFull):
        made.put_nowait(3)

    assert (made.maxsize, made.full(), made.qsize()) == (2, True, 2)


@pytest.mark.parametrize("maxsize", [0, -1])
async def test_a_size_of_nothing_is_no_bound(make: Make, maxsize: int) -> None:
    made = make(maxsize)

    for number in range(100):
        made.put_nowait(number)

    assert (made.maxsize, made.full(), made.qsize()) == (maxsize, False, 100)


async def test_the_size_cannot_be_assigned(make: Make) -> None:
    with pytest.raises(AttributeError):
        make().maxsize = 5


async def test_who_waits_is_served_first_come_first_served(make: Make) -> None:
    made = make(1)
    getters, putters = [Task(), Task()], [Task(), Task()]
    async with anyio.create_task_group() as tasks:
        for getter in getters:
            tasks.start_soon(getter.run, made.get)
            await settled()
        made.put_nowait("first")
        await settled()
        assert [getter.results for getter in getters] == [["first"], []]
        made.put_nowait("second")
        await settled()
        assert getters[1].results == ["second"]

        made.put_nowait(0)
        for number, putter in enumerate(putters):
            tasks.start_soon(putter.run, made.put, number + 1)
            await settled()
        assert made.get_nowait() == 0
        await settled()
        assert [putter.waits for putter in putters] == [False, True]
        assert [await made.get(), await made.get()] == [1, 2]


async def test_who_need_not_wait_does_not_yield(make: Make) -> None:
    made = make()
    seen: list[str] = []

    async def other() -> None:
        seen.append("other")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        await made.put(1)
        await made.get()
        seen.append("first")
        made.task_done()
        await made.join()
        seen.append("joined")

    assert seen == ["first", "joined", "other"]


async def test_who_is_cancelled_has_taken_and_put_nothing(make: Make) -> None:
    empty, full = make(), make(1)
    full.put_nowait("inside")
    getter, putter, next_getter = Task(), Task(), Task()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(getter.run, empty.get)
        tasks.start_soon(putter.run, full.put, "outside")
        await settled()
        tasks.start_soon(next_getter.run, empty.get)
        await settled()
        getter.scope.cancel()
        putter.scope.cancel()
        empty.put_nowait("item")  # in the very moment
        await settled()

        assert next_getter.results == ["item"]

    assert (getter.results, putter.results) == ([], [])
    assert (full.qsize(), full.get_nowait()) == (1, "inside")


# --- done with them ---------------------------------------------------------------------------------------------------


async def test_join_waits_until_everything_is_done(make: Make) -> None:
    made = make()
    await made.join()
    made.put_nowait(1)
    made.put_nowait(2)
    joiners = [Task(), Task()]
    async with anyio.create_task_group() as tasks:
        for joiner in joiners:
            tasks.start_soon(joiner.run, made.join)
        for _ in range(2):
            await settled()
            assert all(joiner.waits for joiner in joiners)
            await made.get()
            made.task_done()
    assert [joiner.results for joiner in joiners] == [[None], [None]]


async def test_a_join_ends_when_everything_was_done_though_more_came_in_at_once(make: Make) -> None:
    made = make()
    made.put_nowait(1)
    joiners = [Task(), Task()]
    async with anyio.create_task_group() as tasks:
        for joiner in joiners:
            tasks.start_soon(joiner.run, made.join)
        await settled()

        made.get_nowait()
        made.task_done()
        made.put_nowait(2)  # before any of them runs
        await settled()

        assert [joiner.results for joiner in joiners] == [[None], [None]]
        late = Task()
        tasks.start_soon(late.run, made.join)
        await settled()
        assert late.waits
        made.task_done()


async def test_more_done_than_there_was_is_an_error(make: Make) -> None:
    made = make()
    with pytest.raises(ValueError, match="called too many times"):
        made.task_done()
    made.put_nowait(1)
    made.task_done()

    with pytest.raises(ValueError, match="called too many times"):
        made.task_done()
    await made.join()


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_after_a_shutdown_what_is_inside_can_be_got(make_one_to_shut_down: Make) -> None:
    made = make_one_to_shut_down()
    made.put_nowait(1)
    made.put_nowait(2)

    made.shutdown()

    with pytest.raises(QueueShutDown):
        await made.put(3)
    with pytest.raises(QueueShutDown):
        made.put_nowait(3)
    assert [await made.get(), made.get_nowait()] == [1, 2]
    with pytest.raises(QueueShutDown):
        await made.get()
    with pytest.raises(QueueShutDown):
        made.get_nowait()
    made.task_done()
    made.task_done()
    await made.join()
    made.shutdown()


async def test_a_shutdown_ends_those_who_wait(make_one_to_shut_down: Make) -> None:
    full, empty = make_one_to_shut_down(1), make_one_to_shut_down()
    full.put_nowait(1)
    waiting = [Task(), Task(), Task()]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(waiting[0].run, full.put, 2)
        tasks.start_soon(waiting[1].run, empty.get)
        tasks.start_soon(waiting[2].run, empty.get)
        await settled()

        full.shutdown()
        empty.shutdown()

    assert [type(task.error) for task in waiting] == [QueueShutDown] * 3
    assert full.get_nowait() == 1


async def test_an_immediate_shutdown_counts_what_was_inside_as_done(make_one_to_shut_down: Make) -> None:
    made = make_one_to_shut_down()
    for number in range(3):
        made.put_nowait(number)
    made.get_nowait()
    joiner = Task()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(joiner.run, made.join)
        await settled()

        made.shutdown(immediate=True)

        with pytest.raises(QueueShutDown):
            made.get_nowait()
        await settled()
        assert joiner.waits
        made.task_done()  # the one that somebody is at
    assert joiner.results == [None]


async def test_an_immediate_shutdown_counts_nothing_twice_as_done(make_one_to_shut_down: Make) -> None:
    made = make_one_to_shut_down()
    made.put_nowait(1)
    made.task_done()

    made.shutdown(immediate=True)

    with anyio.fail_after(30):
        await made.join()


# --- what is ours -----------------------------------------------------------------------------------------------------


def test_the_exception_is_the_standard_one_where_there_is_one() -> None:
    assert getattr(asyncio, "QueueShutDown", QueueShutDown) is QueueShutDown
    assert QueueShutDown.__name__ == "QueueShutDown"


async def test_put_nowait_does_not_overtake_who_waits() -> None:
    """The standard one lets it, in the moment before the first of those runs."""
    made = ours(1)
    made.put_nowait(0)
    putter = Task()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(putter.run, made.put, 1)
        await settled()
        assert made.get_nowait() == 0
        with pytest.raises(asyncio.QueueFull):
            made.put_nowait(2)

    assert made.get_nowait() == 1


async def test_what_is_dropped_counts_as_done_and_ends_a_join() -> None:
    made = ours(on_reclaim="drop_oldest")
    made.put_nowait(b"x" * 1000)
    made.put_nowait(b"x" * 1000)
    made.get_nowait()
    joiner = Task()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(joiner.run, made.join)
        await settled()

        made._account.tracker.reclaim(0)

        await settled()
        assert joiner.waits
        made.task_done()
    assert joiner.results == [None]


async def test_an_immediate_shutdown_in_the_middle_of_a_move_ends_a_join() -> None:
    """F43: as a signal handler brings it about; a thread gives up what is inside when the books are free."""
    made = ours()
    made.put_nowait(1)
    joiner = Task()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(joiner.run, made.join)
        await settled()

        made._books.enter(lambda: made.shutdown(immediate=True))

        with anyio.fail_after(30):
            while joiner.waits:
                await settled()
    assert joiner.results == [None]


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (lambda made: made._account.tracker.reclaim(0), MemoryReclaimed),
        (lambda made: made._account.close(), AccountClosed),
    ],
)
async def test_a_join_learns_of_the_end_of_the_account(end: Callable[[Any], object], error: type[Exception]) -> None:
    made = ours()
    made.put_nowait(b"x" * 1000)
    joiner = Task()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(joiner.run, made.join)
        await settled()

        end(made)

    assert type(joiner.error) is error


async def test_a_join_of_a_queue_that_is_done_with_ends_whatever_became_of_the_account() -> None:
    made = ours()
    made._account.close()

    await made.join()


async def test_it_says_what_it_is() -> None:
    tracker = Tracker("1MiB")
    made: AsyncQueue[int] = AsyncQueue(tracker.new_account("uploads"))
    await made.put(1)

    assert repr(made) == "<AsyncQueue of 1 in account 'uploads'>"
    await made.get()
    assert_books_balance(tracker, 0)
