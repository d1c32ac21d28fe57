"""What every gate promises, whoever calls: threads, asyncio, trio, and all three in one line."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from memquota import AccountClosed, QuotaExceeded, Tracker, TrackerClosed, UsageError, WouldBlock
from memquota.host import FixedProvider
from memquota.observe import Event, RoundEnded
from memquota.testing import FakeClock
from tests.contracts.gate_callers import KINDS, Callers, portals_of

Make = Callable[..., Callers]
MIB = 2**20


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(100.0)


@pytest.fixture
def tracker(clock: FakeClock) -> Tracker:
    return Tracker("64MiB", clock=clock)


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tracker: Tracker) -> Iterator[Make]:
    made: list[Callers] = []
    with portals_of(request.param) as portals:

        def make_one(tracker: Tracker = tracker, **options: Any) -> Callers:
            made.append(Callers(request.param, portals, tracker, **options))
            return made[-1]

        yield make_one
        for callers in made:
            callers.end()
            statistics = callers.statistics()
            assert (statistics.inside, statistics.held, statistics.waiting) == (0, 0, 0)
            assert callers.gate._admission.line.promised == 0
            assert callers.gate.account.used == 0


def test_a_free_gate_lets_in_at_once(make: Make) -> None:
    callers = make(max_concurrent=2)

    first, second = callers.start(), callers.start()

    assert [first.result().released, second.result().released] == [False, False]
    assert callers.statistics().inside == 2
    first.release()
    second.release()


def test_a_release_lets_the_next_one_in_first_come_first_served(make: Make) -> None:
    callers = make(max_concurrent=1)
    line = [callers.start() for _ in range(7)]
    order = []

    for i in range(7):
        line[i].result()
        order.append([caller.finished.is_set() for caller in line].count(True))
        assert callers.statistics().waiting == 6 - i
        line[i].release()

    assert order == [1, 2, 3, 4, 5, 6, 7]


def test_a_weight_is_claimed_in_the_gates_account_and_given_back(make: Make, tracker: Tracker) -> None:
    callers = make(capacity="10MiB")

    permit = callers.start("4MiB").result()

    assert (tracker.used, callers.gate.account.used, callers.statistics().held) == (4 * MIB, 4 * MIB, 4 * MIB)
    permit.release()
    assert (tracker.used, callers.statistics().held) == (0, 0)


def test_a_weight_is_claimed_in_the_callers_account_and_given_back(make: Make, tracker: Tracker) -> None:
    callers = make(capacity="10MiB")
    mine = tracker.new_account("mine")

    permit = callers.start("4MiB", account=mine).result()

    assert (mine.used, callers.gate.account.used) == (4 * MIB, 0)
    permit.release()
    assert mine.used == 0


def test_slots_and_bytes_are_taken_both_or_none(make: Make) -> None:
    callers = make(capacity=10, max_concurrent=2)
    large = callers.start(8)
    waits = callers.start(4)

    assert callers.statistics().inside == 1
    assert callers.statistics().held == 8
    large.release()
    waits.result()
    assert (callers.statistics().inside, callers.statistics().held) == (1, 4)
    waits.release()


def test_nobody_small_overtakes_somebody_large(make: Make) -> None:
    callers = make(capacity=10)
    inside = callers.start(6)
    large, small = callers.start(8), callers.start(1)

    assert not small.finished.is_set()
    inside.release()
    large.result()
    small_went_in = small.result()
    assert callers.statistics().held == 9
    large.release()
    small_went_in.release()


def test_a_larger_priority_goes_first(make: Make) -> None:
    callers = make(max_concurrent=1)
    inside = callers.start()
    ordinary, urgent = callers.start(), callers.start(priority=1)

    inside.release()
    urgent.result()
    assert not ordinary.finished.is_set()
    urgent.release()
    ordinary.release()


def test_a_timeout_gives_the_place_up(make: Make) -> None:
    callers = make(max_concurrent=1)
    inside = callers.start()

    with pytest.raises(TimeoutError):
        callers.start(timeout=0.01).result()

    assert callers.statistics().waiting == 0
    inside.release()


def test_who_gives_up_in_front_makes_room_for_the_next(make: Make) -> None:
    callers = make(capacity=10)
    inside = callers.start(6)
    large = callers.start(8, timeout=0.05)
    small = callers.start(2)

    with pytest.raises(TimeoutError):
        large.result()
    small.result()

    assert callers.statistics().held == 8
    inside.release()
    small.release()


def test_oversized_waits_until_nobody_is_inside_and_runs_alone(make: Make) -> None:
    """F37: a weight above the capacity runs alone."""
    callers = make(capacity=10)
    inside = callers.start(1)
    huge = callers.start(11)
    after = callers.start(1)

    inside.release()
    huge.result()
    assert (callers.statistics().inside, callers.statistics().held) == (1, 11)
    huge.release()
    after.release()


def test_nobody_follows_one_who_runs_alone_before_it_has_noticed_that_it_is_in(make: Make) -> None:
    """F37: its bytes are not in the books yet, so the tracker is not above its limit."""
    callers = make()
    inside = callers.start(1)
    huge = callers.start(65 * MIB)

    with callers.nobody_wakes():
        inside.release()
        slot = callers.start()
        assert not slot.finished.is_set()
    huge.result()
    assert callers.statistics().inside == 1
    huge.release()
    slot.release()


def test_oversized_for_the_capacity_takes_no_room_from_others(make: Make, tracker: Tracker) -> None:
    """F37: it waits for room in the tracker, and no round makes it, where nobody asked for one."""
    callers = make(capacity=10)
    data = tracker.new_account("data")
    data.claim(64 * MIB - 5)
    oversized = callers.start(11)
    assert not oversized.finished.is_set()

    data.release(6)
    oversized.result()

    assert not data.closed
    assert tracker.used == 64 * MIB
    oversized.release()


def test_oversized_is_refused_at_once_where_that_was_chosen(make: Make) -> None:
    """F37: a weight above the capacity is refused."""
    callers = make(capacity=10, oversized="refuse")

    with pytest.raises(QuotaExceeded, match="a weight of 11 B never fits through gate 'gate', which has 10 B"):
        callers.start(11).result()


def test_who_was_refused_while_waiting_does_not_come_in_when_the_rule_is_taken_back(make: Make) -> None:
    """Before it noticed: it holds nothing, and its bytes are not in the books."""
    callers = make(capacity=10)
    inside = callers.start(1)
    oversized = callers.start(11)

    with callers.nobody_wakes():
        callers.gate.reconfigure(oversized="refuse")
        callers.gate.reconfigure(oversized="alone")

    with pytest.raises(QuotaExceeded, match="a weight of 11 B was refused at gate 'gate' while it waited"):
        oversized.result()
    assert callers.gate.account.used == 1
    inside.release()


@pytest.mark.parametrize("weight", [0, -1, 1.5, True, "8M", 2**62 + 1])
def test_a_weight_that_is_no_size_is_refused(make: Make, weight: Any) -> None:
    """F37: weight 0, negative, a float."""
    callers = make(capacity=10)

    with pytest.raises(UsageError):
        callers.start(weight).result()


def test_a_gate_that_refuses_lets_nobody_wait(make: Make) -> None:
    callers = make(max_concurrent=1, on_full="refuse")
    inside = callers.start()

    with pytest.raises(QuotaExceeded, match="gate 'gate' is full: 1 inside"):
        callers.start().result()

    inside.release()
    callers.start().release()


def test_nobody_is_admitted_from_above_the_limit_until_low_water(make: Make, tracker: Tracker) -> None:
    callers = make()
    account = tracker.new_account("data", minimum=2**62)
    account.claim(65 * MIB)

    waits = callers.start(1)
    account.release(5 * MIB)
    assert not waits.finished.is_set()
    assert callers.statistics().closed is not None
    account.release(12 * MIB)
    waits.release()
    assert callers.statistics().closed is None
    account.close()


def test_whether_it_was_above_the_limit_does_not_depend_on_who_looked(make: Make, tracker: Tracker) -> None:
    """Usage rises and falls while nobody comes to the gate."""
    callers = make()
    account = tracker.new_account("data", minimum=2**62)

    account.claim(65 * MIB)
    account.release(10 * MIB)
    waits = [callers.start(), callers.start(1)]
    assert [caller.finished.is_set() for caller in waits] == [False, False]
    account.release(7 * MIB)
    for caller in waits:
        caller.release()

    account.claim(17 * MIB)
    account.release(17 * MIB)
    account.claim(8 * MIB)
    callers.start(1).release()
    tracker.reconfigure(limit=50 * MIB)
    account.release(7 * MIB)
    waits = [callers.start(1)]
    assert not waits[0].finished.is_set()
    tracker.reconfigure(limit=80 * MIB)
    waits[0].release()
    account.close()


def test_a_weight_waits_for_room_in_the_tracker(make: Make, tracker: Tracker) -> None:
    callers = make()
    account = tracker.new_account("data")
    account.claim(40 * MIB)

    waits = callers.start("30MiB")
    assert not waits.finished.is_set()
    account.release(10 * MIB)
    waits.result()
    assert tracker.used == 60 * MIB
    waits.release()


def test_reclaim_makes_room_from_older_data(make: Make, tracker: Tracker, clock: FakeClock) -> None:
    callers = make(on_full="reclaim")
    older, newer = tracker.new_account("older"), tracker.new_account("newer")
    older.claim(20 * MIB)
    clock.advance(1.0)
    newer.claim(20 * MIB)

    permit = callers.start("30MiB").result()

    assert older.closed
    assert not newer.closed
    assert tracker.used == 50 * MIB
    permit.release()


def test_who_asked_for_memory_in_vain_keeps_none_from_those_who_are_before_it(make: Make, tracker: Tracker) -> None:
    """Else both would wait for good: it for what is not there, and the other one for it."""
    callers = make(on_full="reclaim")
    data = tracker.new_account("data", minimum=2**62)
    data.claim(50 * MIB)
    large = callers.start("20MiB")

    callers.start("10MiB", priority=1).release()

    assert not large.finished.is_set()
    data.release(6 * MIB)
    large.release()


def test_memory_that_others_took_first_is_asked_for_again(make: Make, tracker: Tracker) -> None:
    callers = make(on_full="reclaim")
    data = [tracker.new_account(f"data {number}") for number in range(4)]
    for account in data:
        account.claim(15 * MIB)
    greedy = tracker.new_account("greedy", minimum=2**62)
    rounds = []

    def take(event: Event) -> None:
        if isinstance(event, RoundEnded):
            rounds.append(event)
            if len(rounds) == 1:
                greedy.claim(15 * MIB)

    tracker.subscribe(take)

    callers.start("15MiB").release()

    assert [account.closed for account in data] == [True, True, False, False]
    assert len(rounds) == 2


def test_above_the_limit_and_not_yet_at_low_water_memory_is_asked_for_down_to_low_water(
    make: Make, tracker: Tracker
) -> None:
    callers = make(on_full="reclaim")
    pinned, data = [tracker.new_account(name, minimum=2**62) for name in ("pinned", "data")]
    pinned.claim(40 * MIB)
    data.claim(25 * MIB)
    assert callers.statistics().closed is not None
    pinned.release(2 * MIB)
    data.reconfigure(minimum=0)

    callers.start("1MiB").release()

    assert data.closed
    assert tracker.used == 38 * MIB


def test_no_memory_is_asked_for_while_slots_are_missing(make: Make, tracker: Tracker) -> None:
    """P10: who leaves gives bytes back too."""
    callers = make(on_full="reclaim", max_concurrent=1)
    data = tracker.new_account("data")
    data.claim(30 * MIB)
    inside = callers.start("30MiB")
    inside.result()

    waits = callers.start("30MiB")
    assert not data.closed
    inside.release()

    waits.release()
    assert not data.closed


def test_a_round_that_was_left_after_a_slice_is_finished_by_whoever_waits(
    make: Make, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4: the next claim goes on with it, and perhaps all who would claim wait here."""
    callers = make()
    accounts = [tracker.new_account(f"data {number}") for number in range(8)]
    for account in accounts:
        account.claim(8 * MIB)
    monkeypatch.setattr("memquota.reclaimers._loop._SLICE", -1.0)
    newest = tracker.new_account("newest")
    newest.claim(1)
    assert callers.statistics().closed == "a round runs"
    assert tracker.used > 48 * MIB

    permit = callers.start(1).result()

    assert [account.closed for account in accounts] == [True] * 3 + [False] * 5
    permit.release()


def test_a_round_that_comes_while_they_wait_and_is_left_is_finished_by_who_is_next(
    make: Make, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4: also when nobody claims any more."""
    callers = make()
    data, pinned = tracker.new_account("data"), callers.start("40MiB")
    data.claim(20 * MIB)
    line = [callers.start("8MiB"), callers.start("1MiB")]
    monkeypatch.setattr("memquota.reclaimers._loop._SLICE", -1.0)

    with suppress(AccountClosed):  # where they were faster
        data.claim(5 * MIB)
    pinned.release()

    for caller in line:
        caller.release()


def test_who_is_next_runs_the_round_that_a_smaller_limit_asks_for(make: Make) -> None:
    """P4: where rounds are inline, nobody but who claims would."""
    provider = FixedProvider(2000)
    with Tracker("50%") as tracker:
        tracker.follow(provider, every=0.001)
        callers = make(tracker=tracker)
        data = tracker.new_account("data")
        data.claim(990)
        waits = callers.start(20)
        provider.set(limit=1000)

        waits.release()

        assert data.closed


def test_permits_are_never_victims(make: Make, tracker: Tracker) -> None:
    callers = make()
    permit = callers.start("40MiB").result()
    data = tracker.new_account("data")

    with pytest.raises(AccountClosed):
        data.claim(30 * MIB)

    assert not permit.released
    assert tracker.used == 40 * MIB
    permit.release()


def test_adjusting_upwards_may_pass_the_capacity_and_admits_nobody_until_it_is_over(make: Make) -> None:
    callers = make(capacity=10)
    permit = callers.start(4).result()
    permit.adjust(12)
    waits = callers.start(1)

    assert callers.statistics().held == 12
    assert not waits.finished.is_set()
    permit.adjust(9)
    waits.release()
    permit.release()


def test_raising_the_capacity_wakes_and_lowering_it_below_what_is_in_use_admits_nobody(make: Make) -> None:
    """F36: capacity lowered below in-use, then raised."""
    callers = make(max_concurrent=2)
    inside = [callers.start(), callers.start()]
    line = [callers.start(), callers.start()]

    callers.gate.reconfigure(max_concurrent=1)
    inside[0].release()
    assert [caller.finished.is_set() for caller in line] == [False, False]
    callers.gate.reconfigure(max_concurrent=2)
    line[0].result()
    assert not line[1].finished.is_set()
    callers.gate.reconfigure(max_concurrent=None)
    line[1].release()
    line[0].release()
    inside[1].release()


def test_closing_the_account_sends_away_who_waits(make: Make, tracker: Tracker) -> None:
    account = tracker.new_account("mine")
    callers = make(max_concurrent=1, account=account)
    inside = callers.start()
    waits = callers.start()

    account.close()

    with pytest.raises(AccountClosed):
        waits.result()
    with pytest.raises(AccountClosed):
        callers.start().result()
    assert callers.statistics().closed == "the gate's account is closed"
    inside.release()


def test_closing_the_callers_account_sends_away_who_waits_for_it_and_those_behind_go_on(
    make: Make, tracker: Tracker
) -> None:
    callers = make(capacity=10)
    mine, other = tracker.new_account("mine"), tracker.new_account("other")
    inside = callers.start(5)
    line = [callers.start(6, account=mine), callers.start(5, account=other), callers.start(6, account=mine)]

    mine.close()

    for caller in (line[0], line[2]):
        with pytest.raises(AccountClosed, match="account 'mine' is closed"):
            caller.result()
    line[1].result()
    assert callers.statistics().waiting == 0
    with pytest.raises(AccountClosed, match="account 'mine' is closed"):
        callers.start(6, account=mine).result()
    assert not tracker._books.on_close[other._node]
    line[1].release()
    inside.release()


def test_nobody_makes_room_for_an_account_that_is_closed(make: Make, tracker: Tracker) -> None:
    """P10: it would be refused once it is in."""
    callers = make(on_full="reclaim")
    mine, data = tracker.new_account("mine"), tracker.new_account("data")
    data.claim(60 * MIB)
    mine.close()

    with pytest.raises(AccountClosed):
        callers.start("30MiB", account=mine).result()

    assert not data.closed


def test_closing_the_tracker_sends_away_who_waits(make: Make, tracker: Tracker) -> None:
    callers = make(max_concurrent=1)
    inside = callers.start(5)
    waits = callers.start()

    tracker.close()

    with pytest.raises(TrackerClosed):
        waits.result()
    assert callers.statistics().closed == "the tracker is closed"
    inside.release()


def test_acquire_nowait_never_overtakes(make: Make) -> None:
    """F35: between the release and the woken waiter's next step, nobody slips in."""
    callers = make(max_concurrent=1)
    inside = callers.start()
    waits = callers.start()

    inside.release()
    for acquire_nowait in (callers.gate.acquire_nowait, callers.async_gate.acquire_nowait):
        with pytest.raises(WouldBlock):
            acquire_nowait()
    assert callers.statistics().inside == 1
    waits.release()


def test_nobody_who_would_fit_slips_past_somebody_large_who_waits(make: Make) -> None:
    """F35: not without waiting either, nor where the gate refuses by now."""
    callers = make(capacity=10)
    inside = callers.start(5)
    large = callers.start(8)

    for acquire_nowait in (callers.gate.acquire_nowait, callers.async_gate.acquire_nowait):
        for weight in (None, 2):
            with pytest.raises(WouldBlock):
                acquire_nowait(weight)
    callers.gate.reconfigure(on_full="refuse")
    with pytest.raises(QuotaExceeded, match="gate 'gate' is full: 1 wait"):
        callers.start(2).result()
    inside.release()
    large.release()


def test_a_permit_is_given_back_once(make: Make, tracker: Tracker) -> None:
    callers = make(capacity=10, max_concurrent=1)
    permit = callers.start(4).result()

    for _ in range(3):
        permit.release()

    assert permit.released
    assert (callers.statistics().inside, callers.statistics().held, tracker.used) == (0, 0, 0)
    with pytest.raises(UsageError, match="gone cannot be adjusted"):
        permit.adjust(5)
