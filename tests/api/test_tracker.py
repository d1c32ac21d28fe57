"""Making trackers: what they are given, what they refuse, how they end."""

from typing import Any

import pytest

from memquota import Tracker, TrackerClosed, UsageError, policies
from memquota.reclaimers import Inline
from memquota.testing import FakeClock, ScriptedParticipant, assert_books_balance
from tests.api.support import raises


def test_a_tracker_tells_what_it_was_given() -> None:
    tracker = Tracker("1.5MiB", low_water="1MB", hard_limit="2MiB", name="main")

    assert (tracker.limit, tracker.low_water, tracker.hard_limit) == (1_572_864, 1_000_000, 2_097_152)
    assert (tracker.name, tracker.used, tracker.closed) == ("main", 0, False)


def test_everything_but_the_limit_has_a_default() -> None:
    tracker = Tracker(1001)

    assert (tracker.limit, tracker.low_water, tracker.hard_limit, tracker.name) == (1001, 750, None, "tracker")


@pytest.mark.parametrize("limit", [1, 2, 2**62])
def test_any_size_above_zero_is_a_limit(limit: int) -> None:
    """The smallest limit is one byte."""
    tracker = Tracker(limit, hard_limit=limit)
    account = tracker.new_account()

    account.claim(limit)

    assert tracker.used == limit
    tracker.close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"limit": 0}, "limit of 0 bytes is not between 1 and 2**62"),
        ({"limit": "0"}, "limit of 0 bytes is not between 1 and 2**62"),
        ({"limit": -5}, "limit must not be negative"),
        ({"limit": 2**62 + 1}, "limit must not be above 4.0 EiB (2**62 bytes)"),
        ({"limit": 10**5000}, "limit must not be above 4.0 EiB (2**62 bytes)"),
        ({"limit": 1e6}, "limit must be a whole number of bytes or a text such as '512MiB', not float"),
        ({"limit": None}, "limit must be a whole number of bytes or a text such as '512MiB', not NoneType"),
        ({"limit": b"1MiB"}, "limit must be a whole number of bytes or a text such as '512MiB', not bytes"),
        ({"limit": "512M"}, "limit '512M' is ambiguous: write '512MiB' or '512MB'"),
        ({"low_water": 1001}, "low water 1001 is above the limit 1000"),
        ({"low_water": -1}, "low water must not be negative"),
        ({"low_water": 0.5}, "low water must be a whole number of bytes or a text such as '512MiB', not float"),
        ({"hard_limit": 999}, "hard limit 999 is below the limit 1000"),
        ({"hard_limit": 0}, "hard limit of 0 bytes is not between 1 and 2**62"),
        ({"name": 5}, "a tracker's name must be text, not 5"),
        ({"reclaim_timeout": 0}, "reclaim_timeout must be positive and finite, not 0"),
        ({"reclaim_timeout": -1.0}, "reclaim_timeout must be positive and finite, not -1.0"),
        ({"reclaim_timeout": float("nan")}, "reclaim_timeout must be positive and finite, not nan"),
        ({"reclaim_timeout": float("inf")}, "reclaim_timeout must be positive and finite, not inf"),
        ({"reclaim_timeout": True}, "reclaim_timeout must be a number of seconds, not True"),
        ({"reclaim_timeout": "1s"}, "reclaim_timeout must be a number of seconds, not '1s'"),
        ({"reclaim_timeout": None}, "reclaim_timeout must be a number of seconds, not None"),
        ({"reclaimer": "process"}, "no reclaimer 'process'; there are inline, thread, task"),
        ({"reclaimer": None}, "a reclaimer must be a name or have attach, wake, close and asynchronous, not None"),
        (
            {"reclaimer": Inline},
            f"a reclaimer must be a name or have attach, wake, close and asynchronous, not {Inline!r}",
        ),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_a_wrong_argument_makes_no_tracker(options: dict[str, Any], text: str) -> None:
    with raises(UsageError, text) as caught:
        Tracker(**{"limit": 1000, **options})
    assert isinstance(caught.value, TypeError | ValueError)


@pytest.mark.parametrize("timeout", [1e-9, 1, 10**12, 1e300, 10**400])
@pytest.mark.parametrize("reclaimer", ["inline", "thread"])
def test_any_timeout_above_zero_is_taken(timeout: float, reclaimer: str) -> None:
    """As long as nobody is asked who could be late."""
    with Tracker(1000, reclaim_timeout=timeout, reclaimer=reclaimer) as tracker:
        account = tracker.new_account()
        account.claim(10)

        ended = tracker.reclaim(0)

        assert ended is not None
        assert ended.used == 0


def test_a_reclaimer_of_ones_own_runs_the_rounds() -> None:
    """It is woken with no lock held, and told of the end."""

    class Later(Reclaims):
        asynchronous = False

    runs = Later()
    tracker = Tracker(1000, reclaimer=runs)
    holder = ScriptedParticipant(tracker.new_account(), FakeClock())
    holder.put(600)
    holder.put(600)
    assert runs.woken == 1
    assert tracker.used == 1200

    runs.run()

    assert tracker.used == 0
    tracker.close()
    assert runs.closed == 1


class Reclaims:
    def __init__(self) -> None:
        self.woken = 0
        self.closed = 0

    def attach(self, rounds: Any) -> None:
        self.rounds = rounds

    def wake(self, claimer: object) -> None:
        self.woken += 1

    def close(self) -> None:
        self.closed += 1

    def run(self) -> None:
        from memquota.reclaimers import run_here

        run_here(self.rounds)


def test_a_reclaimer_without_what_it_takes_is_refused() -> None:
    """When the tracker is made, not when the first participant comes."""
    runs: Any = Reclaims()

    with pytest.raises(
        UsageError, match=r"^a reclaimer must be a name or have attach, wake, close and asynchronous, not"
    ):
        Tracker(1000, reclaimer=runs)


def test_policies_are_objects_too() -> None:
    for policy in (policies.largest, policies.oldest_data, policies.byte_seconds):
        assert Tracker(1000, policy=policy).reclaim(dry_run=True).victims == ()


def test_a_with_block_closes_a_tracker() -> None:
    """Whatever happens in it."""
    with Tracker(1000) as tracker:
        account = tracker.new_account()
        account.claim(10)
    assert tracker.closed
    with pytest.raises(ZeroDivisionError), Tracker(1000) as other:
        raise ZeroDivisionError
    assert other.closed
    with pytest.raises(TrackerClosed):
        account.claim(1)


async def test_an_async_with_block_closes_any_tracker() -> None:
    """With a task that runs its rounds where it has one."""
    for reclaimer in ("inline", "thread", "task"):
        async with Tracker(1000, reclaimer=reclaimer) as tracker:
            account = tracker.new_account()
            account.claim(10)
        assert tracker.closed
        assert account.closed
        assert_books_balance(tracker, 0)


async def test_only_a_tracker_with_a_task_is_run() -> None:
    tracker = Tracker(1000, name="main")

    with raises(UsageError, "tracker 'main' has no reclaimer='task', so there is nothing to run"):
        await tracker.run()
