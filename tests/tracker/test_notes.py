"""What finalizers leave for whoever uses the tracker next, when it is much."""

from __future__ import annotations

from memquota import Tracker
from memquota.observe import AccountClosing, Event
from memquota.testing import FakeClock, ScriptedParticipant

MANY = 1000


def test_accounts_that_are_dropped_together_are_closed_some_at_a_time() -> None:
    """P11: others get at the lock in between; who asks then finds all of them closed."""
    tracker = Tracker("1GiB")
    accounts = [tracker.new_account() for _ in range(MANY)]
    open_at_first: list[int] = []

    def look(event: Event) -> None:
        if isinstance(event, AccountClosing) and not open_at_first:
            open_at_first.append(len(tracker._books.ledger.accounts) - 1)

    tracker.subscribe(look)
    accounts.clear()

    assert tracker.statistics().accounts == 0
    assert open_at_first == [MANY - 256]


def test_participants_that_die_with_their_accounts_end_before_these_are_closed() -> None:
    """P7: what they had claimed is nobody's mistake, so nothing is said (warnings are errors here)."""
    clock = FakeClock()
    tracker = Tracker("1GiB", clock=clock)
    members = [ScriptedParticipant(tracker.new_account(), clock) for _ in range(MANY)]
    for member in members:
        member.put(1000)
    del member

    members.clear()

    assert tracker.used == 0
    assert tracker.snapshot().accounts == ()
