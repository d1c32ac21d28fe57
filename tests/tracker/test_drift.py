"""Drift between what is claimed and what is used, and writing off what leaked."""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path

import pytest

from memquota import AccountClosed, Tracker, TrackerClosed, UsageError, UsageTypeError, UsageValueError, host
from memquota._ticker import Ticker
from memquota.host import FixedProvider, ReadingUnavailable
from memquota.observe import AccountReconciled, CloseKind, DriftBackInBand, DriftLeftBand, Event
from memquota.testing import FakeClock, ScriptedParticipant
from tests.host.support import MIB, write_tree

WATCHDOG = 30.0


def events_of(tracker: Tracker, *kinds: type[Event]) -> queue.Queue[Event]:
    seen: queue.Queue[Event] = queue.Queue()
    tracker.subscribe(lambda event: seen.put(event) if isinstance(event, kinds) else None)
    return seen


def test_the_resident_size_grows_with_what_is_really_taken() -> None:
    before = host.resident_size()
    block = bytearray(b"x") * (64 * MIB)

    grown = host.resident_size() - before

    assert len(block) - MIB <= grown <= len(block) + 8 * MIB


def test_the_resident_size_is_the_second_number_of_statm_in_pages(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"proc/self/statm": "9000 300 200 1 0 500 0\n"})

    assert host.resident_size(root) == 300 * 4096 or host.resident_size(root) % 300 == 0
    for nonsense in ("", "9000", "9000 many", "-1 -2"):
        write_tree(tmp_path, {"proc/self/statm": nonsense})
        with pytest.raises(ReadingUnavailable, match="no resident size"):
            host.resident_size(root)
    with pytest.raises(ReadingUnavailable, match="no resident size"):
        host.resident_size(str(tmp_path / "nothing"))


def test_drift_compares_claims_with_the_resident_size() -> None:
    clock = FakeClock(5.0)
    with Tracker("512MiB", clock=clock) as tracker:
        assert tracker.statistics().drift is None
        account = tracker.new_account()
        account.claim(10 * MIB)
        block = bytearray(b"x") * (64 * MIB)

        drift = tracker.drift()

        assert (drift.nominal, drift.limit, drift.source, drift.when) == (10 * MIB, 512 * MIB, "resident size", 5.0)
        assert drift.real > len(block)
        assert drift.difference == drift.real - 10 * MIB
        assert tracker.statistics().drift == drift
        assert tracker.snapshot().statistics.drift == drift


def test_drift_takes_the_reading_of_a_provider_instead() -> None:
    with Tracker(1000) as tracker:
        account = tracker.new_account()
        account.claim(600)

        drift = tracker.drift(FixedProvider(2000, used=850))

        assert (drift.nominal, drift.real, drift.difference, drift.share) == (600, 850, 250, 0.25)
        assert drift.source == "fixed fixed"


def test_a_real_use_that_cannot_be_told_is_no_drift() -> None:
    provider = FixedProvider(2000)
    provider.fail()
    tracker = Tracker(1000)

    with pytest.raises(ReadingUnavailable):
        tracker.drift(provider)
    with pytest.raises(UsageTypeError, match="provider"):
        tracker.drift(object())  # type: ignore[arg-type]
    assert tracker.statistics().drift is None


def test_a_closed_tracker_holds_nothing() -> None:
    tracker = Tracker(1000)
    account = tracker.new_account()
    account.claim(600)
    tracker.close()

    assert tracker.drift(FixedProvider(2000, used=850)).nominal == 0


def test_a_watch_tells_when_the_drift_leaves_its_band_and_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "memquota.host")
    provider = FixedProvider(2000, used=700)
    with Tracker(1000, name="t") as tracker:
        seen = events_of(tracker, DriftLeftBand, DriftBackInBand)
        account = tracker.new_account()
        account.claim(600)
        tracker.watch_drift((-0.1, 0.3), provider=provider, every=0.002)
        provider.set(used=950)
        left = seen.get(timeout=WATCHDOG)
        provider.set(used=650)
        back = seen.get(timeout=WATCHDOG)
        account.claim(200)  # and nobody uses them
        leaked = seen.get(timeout=WATCHDOG)

    assert isinstance(left, DriftLeftBand)
    assert (left.drift.real, left.drift.share, left.low, left.high) == (950, 0.35, -0.1, 0.3)
    assert isinstance(back, DriftBackInBand)
    assert isinstance(leaked, DriftLeftBand)
    assert leaked.drift.difference == -150
    assert seen.empty()
    apart, again = "what is claimed drifts apart from what is used", "what is claimed agrees again with what is used"
    assert [(record.levelname, record.message) for record in caplog.records] == [
        (
            "WARNING",
            f"t: {apart}: 600 B claimed, 950 B used (fixed fixed), 35% of the limit apart; the band is -10% to 30%",
        ),
        ("INFO", f"t: {again}: 600 B claimed, 650 B used (fixed fixed), 5% of the limit apart"),
        (
            "WARNING",
            f"t: {apart}: 800 B claimed, 650 B used (fixed fixed), -15% of the limit apart; the band is -10% to 30%",
        ),
    ]


def test_a_watch_that_begins_outside_says_so_at_once_and_gates_nothing() -> None:
    with Tracker(1000) as tracker:
        seen = events_of(tracker, DriftLeftBand)
        end = tracker.watch_drift((-0.1, 0.3), provider=FixedProvider(2000, used=1999), every=3600)

        assert isinstance(seen.get_nowait(), DriftLeftBand)
        account = tracker.new_account()
        account.claim(1000)
        assert tracker.used == 1000
        end()
        assert not [thread for thread in threading.enumerate() if thread.name == "memquota-drift"]


def test_a_watch_without_readings_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "memquota.host")
    provider = FixedProvider(2000, used=0)
    provider.fail("gone")
    with Tracker(1000, name="t") as tracker:
        seen = events_of(tracker, DriftLeftBand)
        tracker.watch_drift(provider=provider, every=0.001)
        provider.fail("still gone")
        provider.set(used=900)
        seen.get(timeout=WATCHDOG)

    assert [record.message for record in caplog.records][:2] == [
        "t: the drift is unknown: gone",
        "t: the drift is known again",
    ]


def test_a_watch_that_cannot_be_is_refused_and_leaves_no_thread() -> None:
    tracker = Tracker(1000)
    with pytest.raises(UsageError, match="band"):
        tracker.watch_drift((0.3, -0.1))
    with pytest.raises(UsageError, match="every"):
        tracker.watch_drift(every=0)
    with pytest.raises(UsageTypeError, match="provider"):
        tracker.watch_drift(provider=object())  # type: ignore[arg-type]
    tracker.close()
    with pytest.raises(TrackerClosed):
        tracker.watch_drift()

    assert not [thread for thread in threading.enumerate() if thread.name == "memquota-drift"]


def test_a_watch_does_not_keep_a_tracker_that_nobody_holds() -> None:
    tracker = Tracker(1000)
    tracker.watch_drift(every=3600)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "memquota-drift"]

    del tracker

    thread.join(WATCHDOG)
    assert not thread.is_alive()


def test_two_threads_that_begin_to_watch_at_once_both_end_with_the_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = FixedProvider(2000)
    tracker = Tracker(1000)

    def watch() -> None:
        tracker.watch_drift(provider=provider, every=3600)

    watch()
    alive = Ticker.__dict__["alive"].fget
    in_the_middle = [threading.Thread(target=watch)]

    def look(ticker: Ticker) -> bool:
        if in_the_middle:  # thread A looks who has ended: thread B begins to watch, and is done
            thread = in_the_middle.pop()
            thread.start()
            thread.join()
        return bool(alive(ticker))

    monkeypatch.setattr(Ticker, "alive", property(look))
    watch()
    threads = [thread for thread in threading.enumerate() if thread.name == "memquota-drift"]
    assert len(threads) == 3

    tracker.close()

    for thread in threads:
        thread.join(WATCHDOG)
    assert not any(thread.is_alive() for thread in threads)


def test_watches_that_ended_are_forgotten() -> None:
    with Tracker(1000) as tracker:
        for _ in range(20):
            tracker.watch_drift(provider=FixedProvider(2000), every=3600)()

        assert len(tracker._tickers) <= 2


# --- writing off ------------------------------------------------------------------------------------------------------


def test_reconcile_writes_a_leaked_account_off_and_says_so_loudly(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock(3.0)
    with Tracker(1000, name="t", clock=clock) as tracker:
        seen = events_of(tracker, AccountReconciled)
        leaked, other = tracker.new_account("leaked"), tracker.new_account("other")
        child = leaked.new_child("child")
        held = ScriptedParticipant(child, clock)
        held.put(300)
        leaked.claim(200)
        other.claim(100)

        assert tracker.reconcile(leaked) == 500

        assert tracker.used == 100
        assert seen.get_nowait() == AccountReconciled("leaked", 500, 100, 3.0)
        assert leaked.close_reason is not None
        assert leaked.close_reason.kind is CloseKind.WRITTEN_OFF
        assert child.closed
        assert not other.closed
        counts = tracker.statistics().counts
        assert (counts.reconciled, counts.reconciled_bytes) == (1, 500)
        assert [(record.levelname, record.message) for record in caplog.records] == [
            (
                "WARNING",
                "t: account 'leaked' was written off by hand with 500 B that it had claimed; 100 B stay claimed",
            )
        ]


def test_what_was_written_off_can_be_released_but_not_claimed_and_is_written_off_once() -> None:
    with Tracker(1000) as tracker:
        account = tracker.new_account("leaked")
        participant = ScriptedParticipant(account, FakeClock())
        participant.put(300)
        tracker.reconcile(account)

        participant.get()
        account.release(10)
        with pytest.raises(AccountClosed, match="account 'leaked' is closed: written off by hand"):
            participant.put(1)
        assert tracker.reconcile(account) == 0
        assert tracker.used == 0
        assert tracker.statistics().counts.reconciled == 1


def test_what_has_two_parents_is_written_off_once() -> None:
    with Tracker(1000) as tracker:
        first, second = tracker.new_account("first"), tracker.new_account("second")
        shared = first.new_child("shared")
        shared.add_parent(second)
        shared.claim(100)
        second.claim(50)

        assert tracker.reconcile(first) == 100
        assert (tracker.used, second.used) == (50, 50)


def test_only_an_account_of_this_tracker_can_be_written_off() -> None:
    with Tracker(1000) as tracker, Tracker(1000) as other:
        theirs = other.new_account("theirs")
        theirs.claim(10)

        with pytest.raises(UsageValueError, match="account 'theirs' belongs to another tracker"):
            tracker.reconcile(theirs)
        with pytest.raises(UsageTypeError, match="what is reconciled is an account"):
            tracker.reconcile("theirs")  # type: ignore[arg-type]
        assert other.used == 10
