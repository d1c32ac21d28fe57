"""A disabled tracker: every call succeeds and counts nothing."""

import gc
import warnings
from typing import Any

import pytest

from memquota import AccountClosed, CloseReason, ParticipationClosed, ReclaimPlan, Tracker, TrackerClosed, UsageError
from memquota.observe import Event, OverRelease, RoundOutcome, RoundStarted
from memquota.testing import FakeClock, ScriptedParticipant, assert_books_balance


@pytest.fixture
def tracker() -> Tracker:
    return Tracker.disabled(name="off")


@pytest.fixture
def holder(tracker: Tracker) -> ScriptedParticipant:
    return ScriptedParticipant(tracker.new_account("a", limit=10, hard_limit=10), FakeClock())


def test_everything_can_be_claimed_and_nothing_is_counted(tracker: Tracker, holder: ScriptedParticipant) -> None:
    """Beyond every limit, small and large, on the fast path and beside it."""
    events: list[Event] = []
    tracker.subscribe(events.append)
    clone = holder.participation.clone()

    for size in (0, 1, 11, 2**20, 2**31, 2**62):
        for one in (holder.participation, clone, holder.account):
            one.claim(size)
            one.claim(size)
            one.release(size)
        with holder.account.claimed(size):
            pass

    assert [one.used for one in (tracker, holder.account, holder.participation, clone)] == [0, 0, 0, 0]
    assert events == []
    assert_books_balance(tracker, 0)


def test_nothing_is_released_too_much(tracker: Tracker, holder: ScriptedParticipant) -> None:
    events: list[Event] = []
    tracker.subscribe(events.append)

    for _ in range(3):
        holder.participation.release(2**62)
        holder.account.release(2**62)
        holder.participation.release(5)

    assert [event for event in events if isinstance(event, OverRelease)] == []
    assert tracker.statistics().counts.over_releases == 0


def test_bad_arguments_are_refused_all_the_same(tracker: Tracker, holder: ScriptedParticipant) -> None:
    """F1: F2: F4: code that works with a disabled tracker works with a real one."""
    wrong: list[Any] = [-1, 1.0, True, "5", None, 2**62 + 1]
    for size in wrong:
        for one in (holder.participation, holder.account):
            with pytest.raises(UsageError):
                one.claim(size)
            with pytest.raises(UsageError):
                one.release(size)
    with pytest.raises(UsageError):
        tracker.new_account(limit=0)
    with pytest.raises(UsageError):
        holder.account.register_participant(object())  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        holder.account.add_parent(holder.account)
    with pytest.raises(UsageError):
        tracker.reconfigure(limit=0)
    with pytest.raises(UsageError):
        holder.account.reconfigure(limit=11)


def test_handles_and_accounts_close_as_they_do_elsewhere(tracker: Tracker, holder: ScriptedParticipant) -> None:
    """F3: F6: also after many claims; callbacks run."""
    reasons: list[CloseReason] = []
    account = holder.account
    account.on_close(reasons.append)
    other = account.register_participant(holder)
    other.claim(100)
    other.close()
    with pytest.raises(ParticipationClosed):
        other.claim(0)
    holder.participation.claim(100)

    account.close()

    for size in (0, 1, 2**30):
        with pytest.raises(AccountClosed):
            holder.participation.claim(size)
        with pytest.raises(AccountClosed):
            account.claim(size)
        holder.participation.release(size)
    assert len(reasons) == 1
    tracker.close()
    with pytest.raises(TrackerClosed):
        tracker.new_account()


def test_a_dropped_account_warns_of_nothing(tracker: Tracker) -> None:
    """P7: it closes, and nothing was claimed."""
    account = tracker.new_account()
    holder = ScriptedParticipant(account, FakeClock())
    holder.participation.claim(100)
    account.claim(5)
    del account, holder.account
    gc.collect()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        closed = holder.participation.closed

    assert closed
    assert tracker.statistics().accounts == 0


def test_nobody_is_ever_asked(tracker: Tracker, holder: ScriptedParticipant) -> None:
    holder.participation.claim(2**40)

    ended = tracker.reclaim(0)
    plan = tracker.reclaim(0, dry_run=True)

    assert ended is not None
    assert (ended.outcome, ended.victims) == (RoundOutcome.DONE, 0)
    assert plan == ReclaimPlan(0, 0, (), 0)
    assert holder.surveys == 0
    assert holder.requests == []


def test_limits_can_be_set_and_do_nothing(tracker: Tracker, holder: ScriptedParticipant) -> None:
    events: list[Event] = []
    tracker.subscribe(events.append)

    tracker.reconfigure(limit=5, hard_limit=5)
    holder.account.reconfigure(limit=1, minimum="1KiB")
    holder.participation.claim(10**9)

    assert (tracker.limit, holder.account.limit) == (5, 1)
    assert [event for event in events if isinstance(event, RoundStarted)] == []


def test_it_can_be_looked_at(tracker: Tracker, holder: ScriptedParticipant) -> None:
    holder.participation.claim(100)

    statistics = tracker.statistics()
    (account,) = tracker.snapshot().accounts

    assert (statistics.used, statistics.peak, statistics.credit, statistics.accounts) == (0, 0, 0, 1)
    assert (account.name, account.used, [one.used for one in account.holdings]) == ("a", 0, [0])
    assert repr(tracker) == f"<Tracker 'off', 0 of {2**62} bytes>"


def test_the_death_of_a_participant_ends_its_participation(tracker: Tracker) -> None:
    account = tracker.new_account()
    holder = ScriptedParticipant(account, FakeClock())
    clone = holder.participation.clone()
    clone.claim(5)

    del holder

    assert clone.closed
    with pytest.raises(ParticipationClosed):
        clone.claim(0)


def test_names_of_trackers_are_text() -> None:
    assert Tracker.disabled().name == "tracker"
    with pytest.raises(UsageError, match="a tracker's name must be text, not 5"):
        Tracker.disabled(name=5)  # type: ignore[arg-type]
