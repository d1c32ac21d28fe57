"""The check that the books of a tracker balance."""

from __future__ import annotations

from memquota._core.checks import check_books
from memquota.errors import TrackerBroken
from memquota.tracker import Tracker

__all__ = ["assert_books_balance"]


def assert_books_balance(tracker: Tracker, expected: int | None = None) -> None:
    """Check every invariant of a tracker's books, and that `used` is off by at most 1/32 of the limit.

    After a limit was lowered, it may be off by what was in handles as credit then, until they release something.

    Args:
        tracker: The tracker.
        expected: What is really claimed in all, in bytes, if the test knows it.

    Raises:
        TrackerBroken: The books do not balance: a bug of memquota.
        AssertionError: They do, but say something else than `expected`.

    Threads:
        Other threads should not claim meanwhile: credit in their handles is read as it is.

    Cost:
        Everything is counted again under the lock: for tests only.
    """
    ledger = tracker._books.ledger

    def check() -> tuple[int, int]:
        check_books(ledger)
        held = [holding for node in ledger.accounts for holding in node.live_holdings()]
        return ledger.root.used, sum(holding.in_use() for holding in held)

    used, true = tracker._books.enter(check)
    scope = ledger.root_scope
    if used != 0 and not 0 <= used - true <= max(scope.limits.credit, scope.credit_out):
        raise TrackerBroken(f"{used} bytes are booked, {true} are in use: off by more than 1/32 of the limit")
    if expected is not None and true != expected:
        raise AssertionError(f"{true} bytes are claimed, not {expected}")
