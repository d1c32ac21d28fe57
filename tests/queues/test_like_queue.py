"""`Queue` does what `queue.Queue` does: the same tests over both."""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable
from typing import Any

import pytest

from memquota import AccountClosed, MemoryReclaimed, Queue, ShutDown, Tracker
from memquota.testing import assert_books_balance
from tests.concurrency.support import InThread
from tests.contracts.queue_callers import until

#: Long enough for who waits to be served, in seconds.
LONG = 30

Make = Callable[..., Any]
Calls = tuple[Callable[[], Any], ...]


def ours(maxsize: int = 0) -> Queue[Any]:
    return Queue(Tracker("1MiB").new_account(), maxsize)


@pytest.fixture(params=[queue.Queue, ours], ids=["standard", "ours"])
def make(request: pytest.FixtureRequest) -> Make:
    found: Make = request.param
    return found


@pytest.fixture(
    params=[
        pytest.param(
            queue.Queue,
            marks=pytest.mark.skipif(sys.version_info < (3, 13), reason="cannot be shut down before 3.13"),
            id="standard",
        ),
        pytest.param(ours, id="ours"),
    ]
)
def make_one_to_shut_down(request: pytest.FixtureRequest) -> Make:
    found: Make = request.param
    return found


def begun(function: Callable[..., Any], *args: Any, waiting: Callable[[], bool]) -> InThread[Any]:
    """Start it in a thread, and come back when it waits."""
    thread: InThread[Any] = InThread(function, *args)
    until(waiting)
    return thread


def waits_at(where: Any, what: str) -> Callable[[], bool]:
    """Whether a thread waits in that queue."""

    def look() -> bool:
        if isinstance(where, Queue):
            line = {"put": where._putters, "get": where._getters, "join": where._lines.joiners}[what]
            return bool(line)
        condition = {"put": where.not_full, "get": where.not_empty, "join": where.all_tasks_done}[what]
        return bool(condition._waiters)

    return look


# --- putting and getting ----------------------------------------------------------------------------------------------


def test_first_in_first_out(make: Make) -> None:
    made = make()

    for item in (1, None, "x"):
        made.put(item)

    assert (made.qsize(), made.empty(), made.full()) == (3, False, False)
    assert [made.get(), made.get_nowait(), made.get(block=False)] == [1, None, "x"]
    assert (made.qsize(), made.empty(), made.full()) == (0, True, False)


def test_a_queue_that_is_full_or_empty_says_so(make: Make) -> None:
    made = make(1)
    gets: Calls = (made.get_nowait, lambda: made.get(False), lambda: made.get(timeout=0), lambda: made.get(True, 0.001))
    for get in gets:
        with pytest.raises(queue.Empty):
            get()
    made.put(1)

    assert made.full()
    puts: Calls = (
        lambda: made.put_nowait(2),
        lambda: made.put(2, False),
        lambda: made.put(2, timeout=0),
        lambda: made.put(2, True, 0.001),
    )
    for put in puts:
        with pytest.raises(queue.Full):
            put()
    assert (made.qsize(), made.unfinished_tasks) == (1, 1)


def test_who_waits_with_a_timeout_is_served_within_it(make: Make) -> None:
    made = make(1)
    getter = begun(made.get, True, LONG, waiting=waits_at(made, "get"))
    made.put("first")
    assert getter.result() == "first"

    made.put("second")
    putter = begun(made.put, "third", True, LONG, waiting=waits_at(made, "put"))
    assert [made.get(), made.get(timeout=LONG)] == ["second", "third"]
    putter.result()


def test_a_timeout_counts_only_where_one_would_wait(make: Make) -> None:
    made = make(1)
    actions: Calls = (lambda: made.put(1, timeout=-1), lambda: made.get(timeout=-0.5))
    for action in actions:
        with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
            action()

    made.put(1, False, -1)
    assert made.get(False, -1) == 1


@pytest.mark.parametrize("maxsize", [0, -1])
def test_a_size_of_nothing_is_no_bound(make: Make, maxsize: int) -> None:
    made = make(maxsize)

    for number in range(100):
        made.put_nowait(number)

    assert (made.maxsize, made.full(), made.qsize()) == (maxsize, False, 100)


def test_the_size_may_be_assigned(make: Make) -> None:
    made = make(1)
    made.put(1)
    made.maxsize = 3
    made.put_nowait(2)
    made.put_nowait(3)
    made.maxsize = 2

    with pytest.raises(queue.Full):
        made.put_nowait(4)
    made.get()
    assert made.full()
    made.get()
    made.put_nowait(4)
    made.maxsize = 0
    for number in range(50):
        made.put_nowait(number)
    assert made.qsize() == 52


def test_a_size_that_is_assigned_lets_in_who_waits() -> None:
    """The standard one leaves them waiting until somebody gets."""
    made = ours(1)
    made.put(1)
    putters = [
        begun(made.put, 2, waiting=lambda: len(made._putters) == 1),
        begun(made.put, 3, waiting=lambda: len(made._putters) == 2),
    ]

    made.maxsize = 3

    for putter in putters:
        putter.result()
    assert [made.get() for _ in range(3)] == [1, 2, 3]


# --- done with them ---------------------------------------------------------------------------------------------------


def test_join_waits_until_everything_is_done(make: Make) -> None:
    made = make()
    made.join()
    made.put(1)
    made.put(2)
    assert made.unfinished_tasks == 2
    joiners = [begun(made.join, waiting=waits_at(made, "join")) for _ in range(2)]

    for left in (1, 0):
        made.get()
        assert all(joiner.thread.is_alive() for joiner in joiners)
        made.task_done()
        assert made.unfinished_tasks == left

    for joiner in joiners:
        joiner.result()
    made.join()


def test_more_done_than_there_was_is_an_error(make: Make) -> None:
    made = make()
    with pytest.raises(ValueError, match="called too many times"):
        made.task_done()
    made.put(1)
    made.task_done()  # also before it was got

    with pytest.raises(ValueError, match="called too many times"):
        made.task_done()
    assert (made.unfinished_tasks, made.qsize()) == (0, 1)
    made.join()


# --- the end ----------------------------------------------------------------------------------------------------------


def test_after_a_shutdown_what_is_inside_can_be_got(make_one_to_shut_down: Make) -> None:
    made = make_one_to_shut_down()
    made.put(1)
    made.put(2)
    assert not made.is_shutdown

    made.shutdown()

    assert made.is_shutdown
    puts: Calls = (lambda: made.put(3), lambda: made.put_nowait(3), lambda: made.put(3, timeout=1))
    for put in puts:
        with pytest.raises(ShutDown):
            put()
    assert [made.get(), made.get_nowait()] == [1, 2]
    gets: Calls = (made.get, made.get_nowait, lambda: made.get(timeout=1))
    for get in gets:
        with pytest.raises(ShutDown):
            get()
    joiner = begun(made.join, waiting=waits_at(made, "join"))
    made.task_done()
    made.task_done()
    joiner.result()
    made.shutdown()


def test_a_shutdown_ends_those_who_wait(make_one_to_shut_down: Make) -> None:
    full, empty = make_one_to_shut_down(1), make_one_to_shut_down()
    full.put(1)
    waiting = [
        begun(full.put, 2, waiting=waits_at(full, "put")),
        begun(empty.get, waiting=waits_at(empty, "get")),
        begun(empty.get, True, LONG, waiting=waits_at(empty, "get")),
    ]

    full.shutdown()
    empty.shutdown()

    for thread in waiting:
        with pytest.raises(ShutDown):
            thread.result()
    assert full.get() == 1


def test_an_immediate_shutdown_counts_what_was_inside_as_done(make_one_to_shut_down: Make) -> None:
    made = make_one_to_shut_down()
    for number in range(3):
        made.put(number)
    made.get()
    joiner = begun(made.join, waiting=waits_at(made, "join"))

    made.shutdown(immediate=True)

    with pytest.raises(ShutDown):
        made.get_nowait()
    assert (made.qsize(), made.unfinished_tasks) == (0, 1)
    assert joiner.thread.is_alive()
    made.task_done()  # the one that somebody is at
    joiner.result()


def test_an_immediate_shutdown_ends_a_join_where_nobody_is_at_work(make_one_to_shut_down: Make) -> None:
    made = make_one_to_shut_down()
    made.put(1)
    joiner = begun(made.join, waiting=waits_at(made, "join"))

    made.shutdown(immediate=True)

    joiner.result()
    assert made.unfinished_tasks == 0


def test_an_immediate_shutdown_counts_nothing_twice_as_done(make_one_to_shut_down: Make) -> None:
    made = make_one_to_shut_down()
    made.put(1)
    made.task_done()

    made.shutdown(immediate=True)

    assert made.unfinished_tasks == 0
    made.join()


# --- what is ours -----------------------------------------------------------------------------------------------------


def test_the_exception_is_the_standard_one_where_there_is_one() -> None:
    assert getattr(queue, "ShutDown", ShutDown) is ShutDown
    assert ShutDown.__name__ == "ShutDown"


def test_what_is_dropped_counts_as_done_and_ends_a_join() -> None:
    tracker = Tracker(100_000)
    made = Queue[bytes](tracker.new_account(), on_reclaim="drop_oldest")
    made.put(b"x" * 1000)
    made.put(b"x" * 1000)
    made.get()
    joiner = begun(made.join, waiting=waits_at(made, "join"))

    tracker.reclaim(0)

    assert made.unfinished_tasks == 1
    assert joiner.thread.is_alive()
    made.task_done()
    joiner.result()


def test_what_is_dropped_ends_a_join_where_nobody_is_at_work() -> None:
    tracker = Tracker(100_000)
    made = Queue[bytes](tracker.new_account(), on_reclaim="drop_oldest")
    made.put(b"x" * 1000)
    joiner = begun(made.join, waiting=waits_at(made, "join"))

    tracker.reclaim(0)

    joiner.result()


def test_an_immediate_shutdown_in_the_middle_of_a_move_ends_a_join() -> None:
    """F43: as a signal handler brings it about; a thread gives up what is inside when the books are free."""
    made = ours()
    made.put(1)
    joiner = begun(made.join, waiting=waits_at(made, "join"))

    made._books.enter(lambda: made.shutdown(immediate=True))

    joiner.result()


def test_what_was_said_to_be_done_and_is_dropped_then_keeps_nobody_waiting() -> None:
    tracker = Tracker(100_000)
    made = Queue[bytes](tracker.new_account(), on_reclaim="drop_oldest")
    made.put(b"x" * 1000)
    made.task_done()

    tracker.reclaim(0)

    assert made.unfinished_tasks == 0
    made.join()


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (lambda made: made._account.tracker.reclaim(0), MemoryReclaimed),
        (lambda made: made._account.close(), AccountClosed),
    ],
)
def test_a_join_learns_of_the_end_of_the_account(end: Callable[[Any], object], error: type[Exception]) -> None:
    made = ours()
    made.put(b"x" * 1000)
    joiner = begun(made.join, waiting=waits_at(made, "join"))

    end(made)

    with pytest.raises(error):
        joiner.result()
    with pytest.raises(error):
        made.join()


def test_a_join_of_a_queue_that_is_done_with_ends_whatever_became_of_the_account() -> None:
    made = ours()
    made._account.close()

    made.join()


def test_threads_that_wait_are_served_first_come_first_served() -> None:
    made = ours(1)
    getters = [begun(made.get, waiting=lambda: len(made._getters) == 1)]
    getters.append(begun(made.get, waiting=lambda: len(made._getters) == 2))
    getters.append(begun(made.get, waiting=lambda: len(made._getters) == 3))

    for number in range(3):
        made.put(number)
        assert getters[number].result() == number

    assert_books_balance(made._account.tracker, 0)


def test_it_says_what_it_is() -> None:
    made: Queue[int] = Queue(Tracker("1MiB").new_account("uploads"))
    made.put(1)

    assert repr(made) == "<Queue of 1 in account 'uploads'>"
