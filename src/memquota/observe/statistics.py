"""What a tracker holds and has done, as frozen values."""

from __future__ import annotations

from attrs import evolve, frozen

from memquota._core.drift import Drift
from memquota._core.graph import AccountNode
from memquota._core.holdings import OwnHolding
from memquota._core.ledger import Counts, Ledger

__all__ = ["AccountSnapshot", "Counts", "HoldingSnapshot", "Statistics", "TrackerSnapshot", "snapshot", "statistics"]


@frozen(kw_only=True)
class Statistics:
    """A tracker in numbers. Sizes in bytes, times in seconds.

    Attributes:
        used: What is claimed now; at most 1/32 of the limit too much, never too little.
        limit: Above it reclamation starts.
        low_water: At or below it reclamation stops.
        hard_limit: Never exceeded; None without one.
        peak: The largest `used` so far.
        credit: How much of `used` may be in handles as credit.
        accounts: How many are open.
        longest_round: How long the longest round took, by the tracker's clock.
        counts: What has happened so far.
        drift: The drift as it was measured last (`Tracker.drift`, `Tracker.watch_drift`); None: never.
    """

    used: int
    limit: int
    low_water: int
    hard_limit: int | None
    peak: int
    credit: int
    accounts: int
    longest_round: float
    counts: Counts
    drift: Drift | None = None


@frozen
class HoldingSnapshot:
    """What one participation holds; `participant` is None for what the account claimed itself."""

    participant: str | None
    used: int


@frozen
class AccountSnapshot:
    """One account. `used` is that of its subtree, each participation once."""

    name: str
    parents: tuple[str, ...]
    used: int
    limit: int | None
    hard_limit: int | None
    minimum: int
    priority: int
    holdings: tuple[HoldingSnapshot, ...]


@frozen
class TrackerSnapshot:
    """All that is in the books at one moment. Parents stand before their children."""

    name: str
    statistics: Statistics
    accounts: tuple[AccountSnapshot, ...]


def statistics(ledger: Ledger, longest_round: float, drift: Drift | None = None) -> Statistics:
    """The numbers of a tracker. O(1)."""
    scope = ledger.root_scope
    return Statistics(
        used=ledger.root.used,
        limit=scope.limits.bound,
        low_water=scope.limits.low_water,
        hard_limit=scope.limits.hard_limit,
        peak=ledger.peak,
        credit=scope.credit_out,
        accounts=max(0, len(ledger.accounts) - 1),
        longest_round=longest_round,
        counts=evolve(ledger.counts),
        drift=drift,
    )


def snapshot(ledger: Ledger, longest_round: float, drift: Drift | None = None) -> TrackerSnapshot:
    """All that is in the books. O(accounts and participations)."""
    accounts = tuple(_account(node) for node in _parents_first(ledger))
    return TrackerSnapshot(ledger.root.name, statistics(ledger, longest_round, drift), accounts)


def _parents_first(ledger: Ledger) -> list[AccountNode]:
    """The accounts as they were opened, except that those which came below a younger one later stand behind it."""
    found: dict[AccountNode, None] = {ledger.root: None}
    for node in ledger.accounts:
        pending = [node]
        while pending:
            missing = [parent for parent in pending[-1].parents if parent not in found]
            if missing:
                pending += missing
            else:
                found[pending.pop()] = None
    del found[ledger.root]
    return list(found)


def _account(node: AccountNode) -> AccountSnapshot:
    limits = node.scope.limits if node.scope is not None else None
    return AccountSnapshot(
        node.name,
        tuple(parent.name for parent in node.parents),
        node.used,
        limits.limit if limits is not None else None,
        limits.hard_limit if limits is not None else None,
        node.minimum,
        node.priority,
        tuple(
            HoldingSnapshot(None if isinstance(holding, OwnHolding) else holding.label, holding.booked)
            for holding in node.live_holdings()
        ),
    )
