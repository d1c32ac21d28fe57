"""Limits in relation to the host's memory, and following it while it changes."""

from __future__ import annotations

import functools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memquota import Tracker, TrackerClosed, UsageError, UsageTypeError, UsageValueError, host
from memquota._quota import share_of
from memquota.host import FixedProvider
from memquota.observe import Event, LimitsChanged, RoundEnded
from memquota.testing import ScriptedParticipant
from tests.host.support import GIB, MIB, v2_tree
from tests.host.test_live_group import LiveGroup, new_group  # noqa: F401  # a fixture
from tests.support.watchdog import run_isolated

#: Seconds that nothing here takes.
WATCHDOG = 30.0


class Changes:
    """The limits that a tracker gets, one after the other."""

    def __init__(self, tracker: Tracker) -> None:
        self._seen: queue.Queue[LimitsChanged] = queue.Queue()
        tracker.subscribe(self._note)

    def _note(self, event: Event) -> None:
        if isinstance(event, LimitsChanged):
            self._seen.put(event)

    def next(self) -> tuple[int | None, int | None, int | None]:
        event = self._seen.get(timeout=WATCHDOG)
        return event.limit, event.low_water, event.hard_limit


def of_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Let what is found out about this host be a group with this limit on a machine of 1 GiB."""
    monkeypatch.setattr(host, "detect", functools.partial(host.detect, v2_tree(tmp_path, limit=str(limit))))


@pytest.mark.parametrize(
    ("effective", "quota"),
    [
        (GIB, 768 * MIB),
        (8 * GIB - 4, 6 * GIB - 3),
        (8 * GIB, 8 * GIB * 2 // 5),
        (64 * GIB, 8 * GIB),
        (300 * MIB, 225 * MIB),  # the rule that it comes from says 256 MiB
        (256 * MIB, 192 * MIB),
        (100 * MIB, 75 * MIB),
        (4, 3),
    ],
)
def test_auto_is_the_known_rule_but_leaves_a_quarter_of_a_small_host(effective: int, quota: int) -> None:
    share = share_of("auto")

    assert share is not None
    assert share.of(effective) == quota


@pytest.mark.parametrize(
    ("text", "quota"), [("80%", 800), ("62.5 %", 625), ("100%", 1000), ("0.1%", 1), ("33.333333333%", 333)]
)
def test_a_percentage_is_of_the_effective_limit(text: str, quota: int) -> None:
    share = share_of(text)

    assert share is not None
    assert share.of(1000) == quota


@given(effective=st.integers(2, 2**62))
def test_auto_never_takes_more_than_three_quarters(effective: int) -> None:
    share = share_of("auto")

    assert share is not None
    assert 1 <= share.of(effective) <= effective * 3 // 4


@pytest.mark.parametrize("text", ["0%", "0.0%", "101%", "100.1%", "-5%", "80%%", "eighty%", "%", "1e1%", "٨٠%"])
def test_a_percentage_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageValueError, match=r"percentage|above 0 %"):
        Tracker(text)


@pytest.mark.parametrize("text", ["auto", "80%"])
def test_nothing_can_be_shared_out_of_nothing(text: str) -> None:
    share = share_of(text)

    assert share is not None
    with pytest.raises(UsageValueError, match="is nothing"):
        share.of(0)


def test_a_tracker_takes_its_share_of_the_group_that_it_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_tree(tmp_path, monkeypatch, 100 * MIB)

    tracker = Tracker("auto", hard_limit="90MiB")

    assert (tracker.limit, tracker.low_water, tracker.hard_limit) == (75 * MIB, 75 * MIB * 3 // 4, 90 * MIB)
    tracker.reconfigure(limit="80%")
    assert tracker.limit == 80 * MIB


def test_a_tracker_here_gets_what_the_effective_limit_of_this_host_says() -> None:
    effective = host.limits().effective
    share = share_of("auto")

    assert effective is not None
    assert share is not None
    assert Tracker("auto").limit == share.of(effective)


def test_in_a_real_group_auto_leaves_a_quarter(new_group: Callable[[int], LiveGroup]) -> None:  # noqa: F811
    group = new_group(200 * MIB)

    _, printed = group.run("import memquota; print(memquota.Tracker('auto').limit, memquota.Tracker('50%').limit)")

    assert printed.split() == [str(150 * MIB), str(100 * MIB)]


def test_the_limit_moves_when_a_real_group_is_resized(new_group: Callable[[int], LiveGroup]) -> None:  # noqa: F811
    group = new_group(200 * MIB)
    limit = group.directory / ("memory.limit_in_bytes" if group.version == 1 else "memory.max")

    _, printed = group.run(f"""
import queue, memquota
with memquota.Tracker("50%") as tracker, host.detect() as provider:
    events = queue.Queue()
    tracker.subscribe(events.put)
    tracker.follow(provider, every=0.05)
    for size in (100, 160):  # smaller than its limit with swap
        open({str(limit)!r}, "w").write(str(size * 1024**2))
        print(events.get(timeout=20).limit // 1024**2, tracker.limit // 1024**2)
""")

    assert printed.splitlines() == ["50 50", "80 80"]


def test_a_host_that_tells_nothing_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "detect", functools.partial(host.detect, str(tmp_path)))
    tracker = Tracker(1000)

    with pytest.raises(UsageValueError, match=r"limit 'auto' needs to know the host's memory.*give a number of bytes"):
        Tracker("auto")
    with pytest.raises(UsageValueError, match="limit '50%' needs"):
        tracker.reconfigure(limit="50%")
    assert tracker.limit == 1000


def test_low_water_and_hard_limit_are_sizes() -> None:
    with pytest.raises(UsageValueError, match="low water '50%' is not a size"):
        Tracker(1000, low_water="50%")
    with pytest.raises(UsageValueError, match="hard limit 'auto' is not a size"):
        Tracker(1000, hard_limit="auto")


def test_importing_the_package_does_not_load_what_only_auto_needs() -> None:
    run_isolated("""
        import sys, memquota
        tracker = memquota.Tracker(1000)
        assert not [name for name in sys.modules if name.startswith("memquota.host.")], sys.modules
    """)


# --- following --------------------------------------------------------------------------------------------------------


def test_the_limit_moves_with_what_is_followed() -> None:
    provider = FixedProvider(1000)
    with Tracker("100%") as tracker:
        changes = Changes(tracker)
        tracker.reconfigure(limit="50%", low_water=100, hard_limit=2**50)
        changes.next()
        tracker.follow(provider, every=0.005)
        assert tracker.limit == 500  # at once

        changes.next()
        provider.set(limit=2000)
        limit, low, hard = changes.next()
        provider.set(limit=800)
        back = changes.next()

    assert limit == 1000
    assert low is not None
    assert hard is not None
    assert low < 100  # it was set for this machine's limit, and keeps its proportion
    assert back[0] == 400
    assert back[2] is not None
    assert abs(back[2] * 1000 - hard * 400) <= 1000


def test_the_proportion_is_kept_exactly_however_often_the_limit_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_tree(tmp_path, monkeypatch, 100_000)
    provider = FixedProvider(100_000)
    with Tracker("50%", low_water=30_000, hard_limit=60_000) as tracker:
        changes = Changes(tracker)
        tracker.follow(provider, every=0.005)
        for size in (7, 99_999, 13, 1_000, 100_000):
            provider.set(limit=size)
            changes.next()

        assert (tracker.limit, tracker.low_water, tracker.hard_limit) == (50_000, 30_000, 60_000)


def test_a_limit_in_bytes_takes_over_and_a_percentage_is_of_what_is_followed() -> None:
    provider = FixedProvider(1000)
    with Tracker("50%") as tracker:
        end = tracker.follow(provider, every=0.005)
        tracker.reconfigure(limit=123)
        changes = Changes(tracker)
        provider.set(limit=2000)
        tracker.reconfigure(limit="10%")

        assert changes.next()[0] == 200  # 123 was not moved before
        end()
        end()
        provider.set(limit=10)
        tracker.reconfigure(low_water=7)
        assert (tracker.limit, tracker.low_water) == (200, 7)


def test_a_limit_in_bytes_cannot_follow() -> None:
    tracker = Tracker(1000)

    with pytest.raises(UsageError, match="was given in bytes: give 'auto' or a percentage"):
        tracker.follow(FixedProvider(1000))
    with pytest.raises(UsageTypeError, match="a provider must have a method read"):
        tracker.follow(object())  # type: ignore[arg-type]
    for every in (0, -1.0, float("nan"), float("inf"), True, "1"):
        with pytest.raises(UsageError, match="every must be"):
            tracker.follow(FixedProvider(1000), every=every)  # type: ignore[arg-type]
    tracker.close()
    with pytest.raises(TrackerClosed):
        tracker.follow(FixedProvider(1000))
    assert tracker.limit == 1000


def test_readings_that_fail_leave_the_limit_and_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "memquota.host")
    provider = FixedProvider(1000)
    with Tracker("50%", name="t") as tracker:
        provider.fail("no such file")
        looks = Looks(provider)
        tracker.follow(looks, every=0.002)
        looks.wait(5)
        assert [record.message for record in caplog.records] == [
            "t: the limit stays as it is, because the host's is unknown: no such file"
        ]
        before = tracker.limit
        provider.set(limit=0)  # nothing to share out
        looks.wait(5)
        assert tracker.limit == before
        changes = Changes(tracker)
        provider.set(limit=600)
        assert changes.next()[0] == 300

        looks.wait(2)
        assert len(caplog.records) == 3
        assert caplog.records[1].message == "t: the limit follows the host again"
        assert caplog.records[2].message.endswith("to 300 B: the host's effective limit is 600 B")


class Looks:
    """A provider that counts its readings."""

    def __init__(self, provider: FixedProvider) -> None:
        self._provider = provider
        self._count = threading.Semaphore(0)
        self.threads: set[str] = set()

    def read(self) -> host.MemoryReading:
        self.threads.add(threading.current_thread().name)
        self._count.release()
        return self._provider.read()

    def wait(self, count: int) -> None:
        """Wait for so many readings that begin from now on; all but the last of them are over then."""
        while self._count.acquire(blocking=False):
            pass
        for _ in range(count):
            assert self._count.acquire(timeout=WATCHDOG)


def followers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "memquota-follow"]


def test_following_again_and_closing_and_dropping_leave_no_thread() -> None:
    def joined(threads: list[threading.Thread]) -> bool:
        for thread in threads:
            thread.join(WATCHDOG)
        return not any(thread.is_alive() for thread in threads)

    tracker = Tracker("50%")
    end = tracker.follow(FixedProvider(1000), every=0.002)
    first = followers()
    tracker.follow(FixedProvider(4000), every=0.002)
    assert joined(first)
    end()  # of the first: does not end the second
    assert tracker.limit == 2000
    second = followers()
    assert len(second) == 1
    tracker.close()
    assert joined(second)

    dropped = Tracker("50%")
    dropped.follow(FixedProvider(1000), every=3600)
    third = followers()
    assert len(third) == 1
    del dropped
    assert joined(third)


def test_inline_the_next_claim_runs_the_round_that_a_smaller_host_asks_for() -> None:
    provider = FixedProvider(2000)
    with Tracker("50%") as tracker:
        tracker.follow(provider, every=0.002)
        asked_in: list[str] = []
        account = tracker.new_account("old")
        old = ScriptedParticipant(account, time.monotonic)
        tracker.subscribe(lambda event: asked_in.append(threading.current_thread().name))
        old.put(900)
        changes = Changes(tracker)
        provider.set(limit=1000)
        changes.next()
        assert tracker.used == 900  # nobody was called by a foreign thread
        asked_in.clear()

        tracker.new_account("new").claim(1)

        assert tracker.used <= 500
        assert set(asked_in) == {threading.current_thread().name}


def test_with_a_thread_the_round_runs_at_once() -> None:
    provider = FixedProvider(2000)
    ended = threading.Event()
    with Tracker("50%", reclaimer="thread") as tracker:
        tracker.subscribe(lambda event: ended.set() if isinstance(event, RoundEnded) else None)
        tracker.follow(provider, every=0.002)
        account = tracker.new_account("old")
        account.claim(900)
        provider.set(limit=1000)

        assert ended.wait(WATCHDOG)
        assert account.closed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_goes_on_with_the_limit_that_it_had_and_can_follow_anew() -> None:
    run_isolated("""
        import os, threading, warnings
        from memquota import Tracker
        from memquota.host import FixedProvider

        warnings.simplefilter("ignore", DeprecationWarning)
        provider = FixedProvider(1000)
        tracker = Tracker("50%")
        end = tracker.follow(provider, every=0.001)
        for _ in range(20):
            child = os.fork()
            if child == 0:
                assert tracker.limit == 500 and threading.active_count() == 1
                tracker.new_account("x").claim(1)
                changed = threading.Event()
                tracker.follow(provider, every=0.001)
                tracker.subscribe(lambda event: changed.set())
                provider.set(limit=2000)
                assert changed.wait(20)
                end()
                tracker.close()
                os._exit(0 if tracker.limit == 1000 else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        end()
        tracker.close()
        assert threading.active_count() == 1
    """)
