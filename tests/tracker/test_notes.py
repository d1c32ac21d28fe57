"""What finalizers leave for whoever uses the tracker next, when it is much."""

from __future__ import annotations

import pytest

from memquota import Tracker, UsageError
from memquota._core.holdings import Holding
from memquota._core.ledger import Ledger
from memquota.observe import AccountClosing, Event
from memquota.testing import FakeClock, ScriptedParticipant, assert_books_balance

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


def test_an_error_like_ours_that_tears_a_deferred_release_passes_and_the_books_are_mended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F42: a signal handler may raise what it caught of ours; only what the books themselves refuse is a refusal."""
    clock = FakeClock()
    tracker = Tracker(1000, clock=clock)
    one = ScriptedParticipant(tracker.new_account(), clock)
    one.put(300)
    move = Ledger._move

    def interrupted(ledger: Ledger, holding: Holding, size: int, cap: int) -> bool:
        move(ledger, holding, size, cap)
        raise UsageError("from a handler")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_move", interrupted)
        with pytest.raises(UsageError, match="from a handler"):
            tracker._books.enter(one.participation.release, 100)  # from inside, as a finalizer does

    assert tracker.used == 300  # too much rather than too little
    assert_books_balance(tracker, 300)
