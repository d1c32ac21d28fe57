"""Much content goes in pieces: never much at a stretch, in the thread that asked or another one, with no lock held."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from memquota import Participation, Reclaimed, ReclaimRequest
from memquota.queues import _freeing
from memquota.queues import buffer as buffers
from memquota.queues._freeing import PIECE, let_go
from memquota.testing import assert_books_balance
from tests.contracts.queue_callers import until
from tests.queues.worlds import COST, KINDS, World

#: How many pieces are inside, and how many items.
PIECES = 12
MANY = PIECES * PIECE


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found = request.param
    assert isinstance(found, str)
    return found


class Witness:
    """An item that tells who frees it, and whether the lock of the books was free then."""

    freed: ClassVar[list[tuple[int, bool]]] = []

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def __del__(self) -> None:
        Witness.freed.append((threading.get_ident(), not self._lock._is_owned()))


def full_of_witnesses(kind: str, mode: str, clock: Callable[[], float], monkeypatch: pytest.MonkeyPatch) -> World:
    """A queue in a world where processor time goes by as `clock` says."""
    world = World(kind, mode, items=0)
    world.tracker.reconfigure(limit=2 * MANY * COST)
    put = world.send.send_nowait if kind == "stream" else world.queue.put_nowait
    for _ in range(MANY):
        put(Witness(world.tracker._books._lock))
    monkeypatch.setattr(Witness, "freed", [])
    monkeypatch.setattr(_freeing, "processor_time", clock)
    monkeypatch.setattr(buffers, "processor_time", clock)
    return world


def stands_still() -> float:
    return 0.0


def each_look_takes(seconds: float) -> Callable[[], float]:
    times = iter(range(10**9))
    return lambda: next(times) * seconds


ENDS: dict[str, Callable[[World], object]] = {
    "collapse": lambda world: world.tracker.reclaim(0),
    "close": lambda world: world.account.close(),
    "end": World.end,
}


@pytest.mark.parametrize("end", ENDS)
def test_an_end_frees_little_itself_and_leaves_the_rest_to_a_thread(
    kind: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = full_of_witnesses(kind, "collapse", each_look_takes(0.001), monkeypatch)
    freeing: list[Any] = []
    monkeypatch.setattr(_freeing, "in_thread", freeing.append)

    ENDS[end](world)

    assert PIECE <= len(Witness.freed) <= 4 * PIECE  # 3 ms, of which each takes one
    assert world.in_use() == 0, "it is off the books at once"
    (rest,) = freeing
    rest()
    assert len(Witness.freed) == MANY
    assert all(free for _, free in Witness.freed), "no lock is held"
    world.end()


@pytest.mark.parametrize("end", ENDS)
def test_what_is_quick_is_freed_at_once(kind: str, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = full_of_witnesses(kind, "collapse", stands_still, monkeypatch)

    ENDS[end](world)

    assert Witness.freed == [(threading.get_ident(), True)] * MANY
    world.end()


def test_the_thread_that_frees_the_rest_is_not_the_one_that_ended_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    world = full_of_witnesses("AsyncQueue", "collapse", each_look_takes(1.0), monkeypatch)

    world.account.close()

    until(lambda: len(Witness.freed) == MANY)
    until(lambda: all(thread.name != "memquota-free" for thread in threading.enumerate()))
    by_whom = [thread for thread, _ in Witness.freed]
    assert by_whom.count(threading.get_ident()) == PIECE
    assert len(set(by_whom)) == 2


def test_a_drop_takes_a_piece_at_a_time_out_of_the_books(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = full_of_witnesses(kind, "drop_oldest", stands_still, monkeypatch)
    pieces: list[int] = []
    drop = buffers.Buffer._drop

    def watched(self: Any, gone: list[Any], wanted: int, newest: float) -> None:
        drop(self, gone, wanted, newest)
        pieces.append(len(gone))
        assert len(Witness.freed) == sum(pieces[:-1]), "those before are freed, with no lock held; these are not yet"

    monkeypatch.setattr(buffers.Buffer, "_drop", watched)

    world.tracker.reclaim(0)

    assert sum(pieces) == len(Witness.freed) == MANY == world.buffer._dropped_items
    assert max(pieces) == PIECE
    assert all(free for _, free in Witness.freed)
    assert world.reported == [(MANY, MANY * COST)]
    world.end()


def test_a_drop_that_takes_long_stops_and_goes_on_when_asked_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = full_of_witnesses(kind, "drop_oldest", each_look_takes(0.001), monkeypatch)
    request = ReclaimRequest("a test", MANY * COST, math.inf, math.inf)
    left = []

    for _ in range(2):
        assert world.buffer.reclaim(request) is Reclaimed.PARTIAL
        left.append(world.buffer._statistics(0, 0).items)

    first, second = MANY - left[0], left[0] - left[1]
    assert PIECE <= first <= 4 * PIECE
    assert PIECE <= second <= 4 * PIECE
    assert_books_balance(world.tracker, left[1] * COST)
    world.end()


def test_a_drop_frees_a_part_that_counts_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than 1/64 of what was asked for, twice in a row, would be a collapse."""
    world = full_of_witnesses("AsyncQueue", "drop_oldest", each_look_takes(1.0), monkeypatch)
    wanted = 64 * 5 * PIECE * COST

    world.buffer.reclaim(ReclaimRequest("a test", wanted, math.inf, math.inf))

    assert world.buffer._dropped_bytes * 64 >= wanted
    assert world.buffer._dropped_items == 5 * PIECE
    world.end()


def test_several_may_let_go_of_the_same_items() -> None:
    """As the end of the account does that finds a queue in the middle of its own."""

    class Item:
        def __del__(self) -> None:
            let_go(items)  # somebody else, while the first is at it

    items: deque[Any] = deque((Item(), *range(10)))

    let_go(items)

    assert not items


def test_an_end_in_the_middle_of_another_end_frees_everything_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The account is closed already, and its queue has not heard of it yet when its users end it."""
    world = full_of_witnesses(kind, "collapse", stands_still, monkeypatch)
    stop = Participation._stop_short_ways

    def meanwhile(self: Any) -> None:
        stop(self)
        world.buffer._end(world.account.close_reason)

    world.account.close()
    world.buffer._items.append((Witness(world.tracker._books._lock), COST, 0.0))
    monkeypatch.setattr(Participation, "_stop_short_ways", meanwhile)

    world.end()

    assert len(Witness.freed) == MANY + 1
    assert not world.buffer._items
    assert world.tracker.used == 0
