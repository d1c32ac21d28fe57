"""What every queue promises: threads, asyncio, trio, and streams on both; collapsing or dropping its oldest items."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from memquota import (
    AccountClosed,
    CloseKind,
    CloseReason,
    MemoryReclaimed,
    QuotaExceeded,
    Reclaimed,
    ReclaimRequest,
    Tracker,
    TrackerClosed,
    UsageError,
)
from memquota.queues import ENTRY_COST
from memquota.testing import FakeClock, ScriptedParticipant, assert_books_balance
from tests.contracts.queue_callers import EMPTY, FULL, KINDS, MODES, NO_MORE, Kind, User, of_kind, until

#: Content of an item whose cost is 1000 bytes with its entry.
KILO = b"x" * (1000 - ENTRY_COST)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(100.0)


@pytest.fixture
def tracker(clock: FakeClock) -> Tracker:
    """Strict, so that its numbers are exact: no handle has credit."""
    return Tracker(100_000, clock=clock, strict=True)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    with of_kind(request.param) as made:
        yield made


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    found = request.param
    assert isinstance(found, str)
    return found


# --- what goes in comes out -------------------------------------------------------------------------------------------


def test_items_come_out_in_their_order_and_are_counted_while_inside(kind: Kind, tracker: Tracker, mode: str) -> None:
    user = kind(tracker, on_reclaim=mode)

    for size in (10, 2000, 300):
        user.put_nowait(b"x" * size)

    assert tracker.used == 10 + 2000 + 300 + 3 * ENTRY_COST == user.statistics().bytes
    assert [len(user.get_nowait()) for _ in range(3)] == [10, 2000, 300]
    assert tracker.used == 0 == user.statistics().bytes


def test_credit_in_hand_counts_nothing_wrong(kind: Kind, mode: str) -> None:
    tracker = Tracker("64MiB")
    user = kind(tracker, on_reclaim=mode)

    for size in range(0, 20_000, 100):
        user.put_nowait(b"x" * size)
        user.put_nowait(b"y" * size)
        assert len(user.get_nowait()) == size // 200 * 100
        assert_books_balance(tracker, user.statistics().bytes)

    user.drain()
    assert_books_balance(tracker, 0)


def test_an_empty_queue_says_so(kind: Kind, tracker: Tracker) -> None:
    user = kind(tracker)

    with pytest.raises(EMPTY):
        user.get_nowait()


def test_who_waits_for_an_item_gets_it(kind: Kind, tracker: Tracker) -> None:
    user = kind(tracker)
    first, second = user.get(), user.get()

    user.put_nowait("a")
    user.put_nowait("b")

    assert [first.result(), second.result()] == ["a", "b"]
    assert tracker.used == 0


def test_who_waits_for_room_goes_in_first_come_first_served(kind: Kind, tracker: Tracker) -> None:
    user = kind(tracker, 1)
    user.put_nowait(0)
    waiting = [user.put(number) for number in (1, 2, 3)]

    assert user.get().result() == 0
    for put, number in zip(waiting, (1, 2, 3), strict=True):
        put.result()
        assert user.statistics().waiting_to_put == 3 - number
        assert user.get().result() == number

    assert tracker.used == 0


def test_nobody_overtakes_who_waits_for_room(kind: Kind, tracker: Tracker) -> None:
    user = kind(tracker, max_bytes=3000)
    user.put_nowait(KILO)
    user.put_nowait(KILO)
    large = user.put(b"x" * (2000 - ENTRY_COST))

    with pytest.raises(FULL):
        user.put_nowait(b"")

    assert user.get_nowait() == KILO
    large.result()
    assert tracker.used == 3000


def test_a_full_queue_lets_nothing_in(kind: Kind, tracker: Tracker) -> None:
    user = kind(tracker, 2)
    user.put_nowait(1)
    user.put_nowait(2)
    before = tracker.used

    with pytest.raises(FULL):
        user.put_nowait(3)

    assert (tracker.used, user.statistics().items) == (before, 2)


def test_a_queue_is_full_when_its_bytes_let_nothing_in(kind: Kind, tracker: Tracker) -> None:
    if kind.name.startswith("stream"):
        pytest.skip("a stream does not say")
    user = kind(tracker, max_bytes=2000 + ENTRY_COST)
    queue = user.buffer
    user.put_nowait(KILO)
    user.put_nowait(KILO)
    assert not queue.full()

    user.put_nowait(b"")

    assert queue.full()
    with pytest.raises(FULL):
        user.put_nowait(b"")


def test_a_queue_is_full_while_somebody_waits_for_room(kind: Kind, tracker: Tracker) -> None:
    if kind.name.startswith("stream"):
        pytest.skip("a stream does not say")
    user = kind(tracker, max_bytes=3000)
    queue = user.buffer
    user.put_nowait(KILO)
    user.put_nowait(KILO)
    large = user.put(b"x" * (2000 - ENTRY_COST))

    assert queue.full()  # put_nowait overtakes nobody

    user.get_nowait()
    large.result()
    assert queue.full()
    user.get_nowait()
    assert not queue.full()


def test_an_item_that_never_fits_is_refused_at_once(kind: Kind, tracker: Tracker) -> None:
    user = kind(tracker, max_bytes=3000)

    for put in (user.put_nowait, lambda item: user.put(item).result()):
        with pytest.raises(UsageError, match="never fits"):
            put(b"x" * 3000)

    user.put_nowait(b"x" * (3000 - ENTRY_COST))
    assert tracker.used == 3000


def test_what_an_item_costs_is_fixed_when_it_goes_in(kind: Kind, tracker: Tracker) -> None:
    user = kind(tracker)
    item = bytearray(500)
    user.put_nowait(item)

    item.extend(bytes(5000))

    assert tracker.used == 500 + ENTRY_COST
    assert user.get_nowait() is item
    assert tracker.used == 0


# --- what fails changes nothing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [-1, 1.0, True, None, "5", 2**62 + 1, 10**100])
def test_a_cost_that_is_nonsense_puts_nothing(kind: Kind, tracker: Tracker, answer: object) -> None:
    user = kind(tracker, cost=lambda item: answer)

    with pytest.raises(UsageError):
        user.put_nowait("item")
    with pytest.raises(UsageError):
        user.put("item").result()

    assert (tracker.used, user.statistics().items) == (0, 0)


def test_what_a_cost_function_raises_passes_through(kind: Kind, tracker: Tracker) -> None:
    def cost(item: object) -> int:
        raise LookupError("no such price")

    user = kind(tracker, cost=cost)

    with pytest.raises(LookupError, match="no such price"):
        user.put_nowait("item")
    with pytest.raises(LookupError, match="no such price"):
        user.put("item").result()

    assert (tracker.used, user.statistics().items) == (0, 0)


def test_a_hard_limit_puts_nothing(kind: Kind, tracker: Tracker) -> None:
    account = tracker.new_account(hard_limit=2500)
    user = kind(account)
    user.put_nowait(KILO)
    user.put_nowait(KILO)

    with pytest.raises(QuotaExceeded):
        user.put_nowait(KILO)
    with pytest.raises(QuotaExceeded):
        user.put(KILO).result()

    assert (account.used, user.statistics().items) == (2000, 2)
    assert user.drain() == [KILO, KILO]
    assert account.used == 0


@pytest.mark.parametrize(
    "options",
    [
        {"on_reclaim": "shrug"},
        {"max_bytes": 0},
        {"max_bytes": -5},
        {"max_bytes": 1.5},
        {"max_bytes": "5M"},
        {"cost": 5},
        {"on_drop": "loud"},
        {"on_collapse": 1},
    ],
)
def test_a_wrong_argument_is_refused_and_registers_nothing(kind: Kind, tracker: Tracker, options: Any) -> None:
    account = tracker.new_account()

    with pytest.raises(UsageError):
        kind(account, **options)
    gc.collect()

    assert [entry.holdings for entry in tracker.snapshot().accounts] == [()]


@pytest.mark.parametrize("maxsize", [1.5, "5", None, True])
def test_a_size_that_is_no_number_of_items_is_refused(kind: Kind, tracker: Tracker, maxsize: Any) -> None:
    if maxsize is None and kind.name.startswith("stream"):
        pytest.skip("stands for infinity in these tests")
    with pytest.raises(UsageError):
        kind(tracker, maxsize)


def test_an_account_is_needed_and_an_open_one(kind: Kind, tracker: Tracker) -> None:
    account = tracker.new_account()
    account.close()

    with pytest.raises(AccountClosed):
        kind(account)
    with pytest.raises(UsageError):
        kind("account")  # type: ignore[arg-type]


# --- collapse ---------------------------------------------------------------------------------------------------------


def collapse(tracker: Tracker) -> None:
    tracker.reclaim(0)


def test_a_collapse_tells_everybody_why_and_when(kind: Kind, tracker: Tracker, clock: FakeClock) -> None:
    reasons: list[CloseReason] = []
    user = kind(tracker.new_account("slow"), 1, on_collapse=reasons.append)
    user.put_nowait(KILO)
    writer = user.put(KILO)
    clock.advance(7)

    collapse(tracker)

    error = writer.error
    assert isinstance(error, MemoryReclaimed)
    assert error.reason is not None
    assert (error.reason.kind, error.reason.account, error.when) == (CloseKind.RECLAIMED, "slow", 107.0)
    assert "7.000 s old" in error.reason.text
    assert reasons == [error.reason]
    for action in (user.get_nowait, lambda: user.put_nowait(1), user.get().result, user.put(1).result):
        with pytest.raises(MemoryReclaimed) as caught:
            action()
        assert caught.value.reason == error.reason
    assert tracker.used == 0


def test_a_collapse_wakes_who_waits_for_an_item(kind: Kind, tracker: Tracker) -> None:
    account = tracker.new_account("slow")
    idle, other = kind(account), kind(account)
    readers = [idle.get(), idle.get()]
    other.put_nowait(KILO)

    collapse(tracker)

    assert [type(reader.error) for reader in readers] == [MemoryReclaimed, MemoryReclaimed]


def test_a_put_whose_own_round_takes_its_queue_fails(kind: Kind, clock: FakeClock) -> None:
    """F10: a claim during reclaim by the victim."""
    tracker = Tracker(3500, clock=clock)
    user = kind(tracker)
    user.put_nowait(KILO)
    clock.advance(1)
    user.put_nowait(KILO)
    user.put_nowait(KILO)

    with pytest.raises(MemoryReclaimed):
        user.put_nowait(KILO)

    assert (tracker.used, user.statistics().items) == (0, 0)


def test_a_put_into_another_queue_while_a_victim_is_asked_goes_in(kind: Kind, clock: FakeClock, mode: str) -> None:
    """F9: a claim during reclaim by another account."""
    tracker = Tracker(3500, clock=clock)
    user = kind(tracker, on_reclaim=mode)

    def answer(participant: ScriptedParticipant, request: ReclaimRequest) -> Reclaimed:
        user.put_nowait("meanwhile")
        participant.items.clear()
        return Reclaimed.COLLAPSING

    victim = ScriptedParticipant(tracker.new_account(), clock, answer=answer)
    victim.put(3000)
    clock.advance(1)

    tracker.reclaim(1000)

    assert victim.account.closed
    assert user.drain() == ["meanwhile"]
    assert tracker.used == 0


def test_a_collapse_with_a_parent_names_it(kind: Kind, tracker: Tracker, clock: FakeClock) -> None:
    parent = tracker.new_account("peer")
    user = kind(parent.new_child("stream"))
    reader = kind(parent.new_child("other")).get()
    user.put_nowait(KILO)
    clock.advance(1)
    ScriptedParticipant(parent, clock).put(1)
    oldest = ScriptedParticipant(parent, clock)
    oldest.put(10)
    oldest.items[0] = (0.0, 10)
    oldest.participation.resurvey()

    collapse(tracker)

    for action in (user.get_nowait, reader.result):
        with pytest.raises(MemoryReclaimed, match="closed with 'peer'"):
            action()


def test_a_collapse_hook_that_raises_harms_nobody(kind: Kind, tracker: Tracker) -> None:
    def hook(reason: CloseReason) -> None:
        raise RuntimeError("fails as it was told")

    user = kind(tracker, on_collapse=hook)
    user.put_nowait(KILO)

    collapse(tracker)

    assert tracker.used == 0
    with pytest.raises(MemoryReclaimed):
        user.get_nowait()


def test_a_queue_that_dropped_its_content_is_not_asked_again(kind: Kind, tracker: Tracker) -> None:
    user = kind(tracker)
    user.put_nowait(KILO)

    collapse(tracker)
    collapse(tracker)

    assert tracker.statistics().counts.victims == 1


# --- dropping the oldest ----------------------------------------------------------------------------------------------


def put_in_a_row(user: User, clock: FakeClock, count: int) -> None:
    """One item of 1000 bytes each second."""
    for _ in range(count):
        clock.advance(1)
        user.put_nowait(KILO[:-8] + b"%08d" % clock())


def times(user: User) -> list[int]:
    return [int(item[-8:]) for item in user.drain()]


def test_the_oldest_go_until_it_is_enough(kind: Kind, tracker: Tracker, clock: FakeClock) -> None:
    drops: list[tuple[int, int]] = []
    user = kind(tracker, on_reclaim="drop_oldest", on_drop=lambda items, size: drops.append((items, size)))
    put_in_a_row(user, clock, 10)

    tracker.reclaim(6500)

    statistics = user.statistics()
    assert (statistics.items, statistics.dropped_items, statistics.dropped_bytes) == (6, 4, 4000)
    assert (sum(items for items, _ in drops), sum(size for _, size in drops)) == (4, 4000)
    assert tracker.used == 6000
    assert times(user) == [105, 106, 107, 108, 109, 110]
    assert tracker.used == 0


def test_newer_data_than_that_of_others_stays(kind: Kind, tracker: Tracker, clock: FakeClock) -> None:
    user = kind(tracker, on_reclaim="drop_oldest")
    put_in_a_row(user, clock, 4)
    other = ScriptedParticipant(tracker.new_account("other"), clock)
    other.put(3000)
    put_in_a_row(user, clock, 40)

    tracker.reclaim(40_500)

    assert other.account.closed  # its data is older than what the queue came in with later
    assert times(user)[0] == 105


def test_a_drop_makes_room_for_who_waits(kind: Kind, tracker: Tracker) -> None:
    user = kind(tracker, 2, on_reclaim="drop_oldest")
    user.put_nowait(KILO)
    user.put_nowait(KILO)
    writers = [user.put("first"), user.put("second")]

    tracker.reclaim(500)  # which is more than the two that come in then

    for writer in writers:
        writer.result()
    assert user.drain() == ["first", "second"]
    assert tracker.used == 0


def test_a_drop_hook_that_raises_harms_nobody(kind: Kind, tracker: Tracker) -> None:
    def hook(items: int, size: int) -> None:
        raise RuntimeError("fails as it was told")

    user = kind(tracker, on_reclaim="drop_oldest", on_drop=hook)
    user.put_nowait(KILO)

    tracker.reclaim(0)

    assert tracker.used == 0
    user.put_nowait("alive")
    assert user.get_nowait() == "alive"


def test_a_drop_of_many_items_is_reported_whole(kind: Kind, clock: FakeClock) -> None:
    tracker = Tracker("64MiB", clock=clock)
    drops: list[tuple[int, int]] = []
    user = kind(tracker, on_reclaim="drop_oldest", on_drop=lambda items, size: drops.append((items, size)))

    def fill() -> None:
        for _ in range(20_000):
            user._put_nowait(b"")

    user.call(fill)
    tracker.reclaim(0)

    assert sum(items for items, _ in drops) == 20_000 == user.statistics().dropped_items
    assert_books_balance(tracker, 0)


def test_byte_seconds_are_those_of_what_is_inside(kind: Kind, clock: FakeClock, mode: str) -> None:
    tracker = Tracker(1_000_000, clock=clock, policy="byte_seconds", strict=True)
    user = kind(tracker, on_reclaim=mode)
    put_in_a_row(user, clock, 4)  # at 101, 102, 103, 104
    user.get_nowait()
    clock.set(110)

    assert user.buffer.byte_seconds(110.0) == pytest.approx(1000 * (8 + 7 + 6))
    if mode == "drop_oldest":
        tracker.reclaim(2500)
        assert user.buffer.byte_seconds(110.0) == pytest.approx(1000 * (7 + 6))


# --- the end ----------------------------------------------------------------------------------------------------------


def test_what_is_inside_can_be_got_after_a_shutdown(kind: Kind, tracker: Tracker) -> None:
    user = kind(tracker)
    user.put_nowait(1)
    user.shut_down()

    with pytest.raises(NO_MORE):
        user.put_nowait(2)
    assert user.get_nowait() == 1
    with pytest.raises(NO_MORE):
        user.get_nowait()

    assert tracker.used == 0


def test_a_shutdown_wakes_who_waits(kind: Kind, tracker: Tracker) -> None:
    user, full = kind(tracker), kind(tracker, 1)
    full.put_nowait(1)
    reader, writer = user.get(), full.put(2)

    user.shut_down()
    full.shut_down()

    for waiting in (reader, writer):
        with pytest.raises(NO_MORE):
            waiting.result()
    assert full.get_nowait() == 1
    assert tracker.used == 0


def test_an_end_by_force_gives_up_what_is_inside(kind: Kind, tracker: Tracker) -> None:
    user = kind(tracker, 2)
    user.put_nowait(KILO)
    user.put_nowait(KILO)
    writer = user.put(KILO)

    user.abandon()

    with pytest.raises(NO_MORE):
        writer.result()
    with pytest.raises(NO_MORE):
        user.get_nowait()
    assert tracker.used == 0


def test_an_account_that_is_closed_ends_its_queues(kind: Kind, tracker: Tracker, mode: str) -> None:
    account = tracker.new_account("mine")
    user, idle, full = (kind(account, size, on_reclaim=mode) for size in (0, 0, 1))
    user.put_nowait(KILO)
    full.put_nowait(KILO)
    reader, writer = idle.get(), full.put(KILO)

    account.close()

    for action in (reader.result, writer.result, user.get_nowait, lambda: user.put_nowait(1)):
        with pytest.raises(AccountClosed, match="closed by hand") as caught:
            action()
        assert not isinstance(caught.value, MemoryReclaimed)
    assert tracker.used == 0


def test_a_tracker_that_is_closed_ends_its_queues(kind: Kind, tracker: Tracker) -> None:
    user = kind(tracker)
    reader = user.get()

    tracker.close()

    with pytest.raises(TrackerClosed):
        reader.result()
    with pytest.raises(TrackerClosed):
        user.put_nowait(1)


def test_a_queue_keeps_its_account_open(kind: Kind, tracker: Tracker) -> None:
    """P7: our queues keep the account they were given open."""
    user = kind(tracker)
    gc.collect()

    user.put_nowait(KILO)

    assert tracker.used == 1000


def test_a_dropped_queue_is_off_the_books(kind: Kind, tracker: Tracker, mode: str) -> None:
    """F23: also when it is part of a cycle."""
    account = tracker.new_account("kept")
    user = kind(account, on_reclaim=mode)
    user.put_nowait(KILO)
    user.put_nowait([user.buffer, user])
    buffer = weakref.ref(user.buffer)
    if kind.name.startswith("stream"):
        user.call(user._send.close)
        user.call(user._receive.close)

    kind.users.clear()
    del user
    gc.collect()

    assert buffer() is None
    assert (tracker.used, account.used) == (0, 0)
    assert tracker.snapshot().accounts[0].holdings == ()
    assert not tracker._books.on_close.get(account._node)


def test_finalizers_of_items_may_use_the_queue(kind: Kind, tracker: Tracker, mode: str) -> None:
    """F43: a finalizer of what is given up puts and gets."""

    class Item:
        def __del__(self) -> None:
            other.put_nowait("from a finalizer")

    if kind.portal is not None:
        pytest.skip("a queue of tasks belongs to its loop")
    other = kind(tracker.new_account("other"))
    user = kind(tracker.new_account("victim"), on_reclaim=mode)
    user.put_nowait(Item())
    gc.collect()

    tracker.reclaim(0)

    until(lambda: bool(other.statistics().items))
    assert other.get_nowait() == "from a finalizer"


def test_a_disabled_tracker_changes_nothing_else(kind: Kind) -> None:
    tracker = Tracker.disabled()
    user = kind(tracker, 2, on_reclaim="drop_oldest")
    user.put_nowait(KILO)
    user.put_nowait(KILO)
    writer = user.put("third")

    with pytest.raises(FULL):
        user.put_nowait("fourth")
    assert user.get_nowait() == KILO
    writer.result()
    assert user.drain() == [KILO, "third"]
    with pytest.raises(UsageError):
        kind(tracker, cost=lambda item: -1).put_nowait("item")
    assert tracker.used == 0


def test_max_bytes_holds_on_a_disabled_tracker(kind: Kind) -> None:
    user = kind(Tracker.disabled(), max_bytes=2500)
    user.put_nowait(KILO)
    user.put_nowait(KILO)

    with pytest.raises(FULL):
        user.put_nowait(KILO)

    assert user.statistics().bytes == 2000
    user.get_nowait()
    user.put_nowait(KILO)
    assert user.statistics().bytes == 2000


# --- cancellation -----------------------------------------------------------------------------------------------------


def test_who_gives_up_waiting_gives_the_place_to_the_next(kind: Kind, tracker: Tracker) -> None:
    if kind.portal is None:
        pytest.skip("threads are not cancelled")
    user = kind(tracker, max_bytes=3000)
    user.put_nowait(KILO)
    user.put_nowait(KILO)
    large, small = user.put(b"x" * (3000 - ENTRY_COST)), user.put(KILO)

    large.give_up()

    assert isinstance(large.error, BaseException)
    small.result()
    assert tracker.used == 3000
    assert user.drain() == [KILO, KILO, KILO]


def test_a_reader_cancelled_as_an_item_arrives_loses_nothing(kind: Kind, tracker: Tracker) -> None:
    if kind.portal is None:
        pytest.skip("threads are not cancelled")
    user = kind(tracker)
    first, second = user.get(), user.get()

    def at_once() -> None:
        user._put_nowait("item")
        first.give_up()

    user.call(at_once)

    if first.error is None:
        assert first.result() == "item"
        second.give_up()
        assert second.error is not None
    else:
        assert second.result() == "item"
    assert tracker.used == 0


def test_a_writer_cancelled_as_room_appears_is_in_or_not(kind: Kind, tracker: Tracker) -> None:
    if kind.portal is None:
        pytest.skip("threads are not cancelled")
    user = kind(tracker, 1)
    user.put_nowait("inside")
    first, second = user.put("first"), user.put("second")
    found = []

    def at_once() -> None:
        found.append(user._get_nowait())
        first.give_up()

    user.call(at_once)
    expected = ["inside"] + (["first"] if first.error is None else []) + ["second"]
    while len(found) < len(expected):
        found.append(user.get().result())
    second.result()

    assert found == expected
    assert user.statistics().items == 0
    assert tracker.used == 0
