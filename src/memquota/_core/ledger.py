"""The books of one tracker: the legal moves of bytes between its accounts."""

from __future__ import annotations

from collections import deque
from heapq import nlargest
from operator import attrgetter, itemgetter
from typing import Final

from attrs import define

from memquota.errors import QuotaExceeded, UsageValueError

from .events import ClaimRefused, Event, OverRelease, ParticipationEnded
from .graph import AccountNode, Scope
from .holdings import NO_CREDIT, CreditLine, Holding, OwnHolding, PinnedHolding, Receipt
from .limits import Limits
from .listing import Listing
from .waiting_line import Ticket

__all__ = ["Counts", "IdleLedger", "Ledger"]

#: Credit of a handle for small claims, and for larger ones as a multiple of the claim that asks for it. With 16 KiB a
#: stream of 100-byte items comes to the books once in about 80 items; more buys little.
_CREDIT_LEAST = 16 * 1024
_CREDIT_CLAIMS = 16
#: The part of the credit that is left which one handle may get: the first ones cannot take it all.
_CREDIT_PART = 8
#: Less credit than this saves nobody a way to the books. Small limits are exact therefore.
_CREDIT_WORTH = 256
#: Of so many accounts the largest are found anew whenever a claim is refused; of k times as many at each k-th time:
#: looking at 100,000 takes 10 ms under the lock, and under attack much is refused.
_LOOKED_AT: Final = 256
_used_by: Final = attrgetter("used")


@define
class Counts:
    """What has happened so far; only ever grows."""

    rounds: int = 0
    nobody_left: int = 0
    victims: int = 0
    collapsed: int = 0
    partial: int = 0
    failed: int = 0
    stalled: int = 0
    detached: int = 0
    bytes_reclaimed: int = 0
    refused: int = 0
    over_releases: int = 0
    over_released_bytes: int = 0
    reconciled: int = 0
    reconciled_bytes: int = 0


class Ledger(Listing):
    """All that the accounts of a tracker hold. The root stands for the tracker itself: its limits are the tracker's.

    Not thread-safe: its owner holds the one lock. `accounts.py` has the moves of whole accounts.
    """

    def __init__(self, name: str, limits: Limits, *, strict: bool = False) -> None:
        super().__init__(AccountNode(name, (), limits=limits))
        self.strict = strict
        self.counts = Counts()
        self.peak = 0
        # Invariant B9: every account that is over its limit, and some that were, to be looked at when the next round is
        # chosen.
        self.strained: dict[AccountNode, None] = {}
        # What happened, for others to take and carry out once the lock is free.
        self.events: deque[Event] = deque()
        self.ended: deque[AccountNode] = deque()

    # --- holdings ---------------------------------------------------------------------------------------------------

    def end(self, holding: Holding, why: str) -> int:
        """End one holding; what it has booked is written off. Returns how much that was."""
        if not holding.live:
            return 0
        freed = holding.booked
        self._move(holding, -freed, 0)
        # Commit.
        holding.booked = 0
        holding.cap = 0
        holding.ended = why
        self.unlist(holding)
        assert holding.node.holdings is not None
        holding.node.holdings.pop(holding, None)
        return freed

    def detach(self, holding: Holding, why: str) -> None:
        """End a holding whose participant failed, and say so."""
        if holding.live:
            freed = self.end(holding, why)
            self.counts.detached += 1
            self.events.append(ParticipationEnded(holding.node.name, holding.label, why, freed))

    def add_handle(self, holding: Holding, line: CreditLine) -> None:
        """One handle more. Credit is for an only handle: that of the first one goes back."""
        self._settle(holding, line, 0)
        holding.handles += 1

    def close_handle(self, holding: Holding, line: CreditLine) -> None:
        """One handle less, whose credit goes back; the holding ends with the last."""
        self._settle(holding, line, 0)
        # Commit.
        holding.handles -= 1
        line._closed = True
        if not holding.handles:
            self.end(holding, "closed")

    def drop_handle(self, holding: Holding) -> None:
        """One handle less, which took its credit with it; the holding ends with the last."""
        holding.handles -= 1
        if not holding.handles:
            self.end(holding, "closed")

    # --- claims and releases ----------------------------------------------------------------------------------------

    def claim(self, holding: Holding, line: CreditLine, size: int, now: float, receipt: Receipt | None = None) -> bool:
        """Book `size` bytes more, and new credit when there is some to hand out. The receipt says when it is done.

        Returns:
            Whether a limit is passed now, so that a round should run.

        Raises:
            QuotaExceeded: A hard limit refuses; nothing was claimed.
        """
        kept, kept_cap = line._credit, line._cap
        line._credit, line._cap = _SEALED
        try:
            credit = _credit_of(holding, kept)
            need = size - credit
            if need > 0:
                room = self._room(holding.node, size, need)
                cap = self._allowance(holding, size)
                if room is not None and cap > room:
                    cap = room
                fill = cap // 2
            else:
                cap = fill = -need
            booked = holding.booked + need + fill
            if cap > booked:
                cap = booked
            line_credit, line_cap = (fill, cap) if cap else (NO_CREDIT, NO_CREDIT - 1)
            claims = holding.claims + 1
            strained = self._move(holding, need + fill, cap)
        except BaseException:
            line._credit, line._cap = kept, kept_cap
            raise
        # Commit.
        line._credit = line_credit
        line._cap = line_cap
        holding.cap = cap
        holding.claims = claims
        holding.booked = booked
        if receipt is not None:
            receipt.booked = True
        self._booked(holding, now)
        return strained

    def release(self, holding: Holding, line: CreditLine, size: int) -> None:
        """Give `size` bytes back.

        Raises:
            UsageError: More than was claimed, in strict mode; nothing was released.
        """
        size = self._at_most(holding.node, size, holding.booked - _credit_of(holding, line._credit))
        self._settle(holding, line, size)

    def release_late(self, holding: Holding, line: CreditLine, size: int) -> None:
        """Give `size` bytes back while the owner of the handle may be using it. Errors as for `release`.

        The credit is the owner's alone meanwhile: it is not taken into the books, only kept from growing.
        """
        line._cap = NO_CREDIT - 1
        size = self._at_most(holding.node, size, holding.booked - _credit_of(holding, line._credit))
        booked = holding.booked - size
        cap = min(holding.cap, booked)
        self._move(holding, -size, cap)
        # Commit.
        holding.cap = cap
        holding.booked = booked

    def claim_own(self, node: AccountNode, size: int, now: float, receipt: Receipt | None = None) -> bool:
        """Book bytes that the account claims itself. Errors and result as for `claim`."""
        self._room(node, size, size)
        own = node.own
        # Commit.
        if own is None:
            own = OwnHolding(node)
            self.register(own)
            node.own = own
        own.came(size, now, receipt)
        own.claims += 1
        strained = self._move(own, size, 0)
        own.booked += size
        self._booked(own, now)
        return strained

    def release_own(self, node: AccountNode, size: int, failed: float | None = None) -> None:
        """Give back what the account claimed itself: the oldest first, or the claim of that time, which has failed.

        Errors as for `release`.
        """
        own = node.own
        size = self._at_most(node, size, own.booked if own is not None else 0)
        # Commit.
        if own is not None and size:
            if failed is None:
                own.went(size)
            else:
                own.undone(size, failed)
            self._move(own, -size, 0)
            own.booked -= size

    def pin(self, holding: PinnedHolding, ticket: Ticket, size: int) -> bool:
        """Have running work hold `size` bytes, whatever it held before. Errors and result as for `claim`.

        Nothing happens where the holding is over: what it held is written off.
        """
        more = size - ticket.booked
        if not more or not holding.live:
            return False
        if more > 0:
            self._room(holding.node, more, more)
        if holding.node.holdings is None or holding not in holding.node.holdings:
            self.register(holding)
        booked = holding.booked + more
        strained = self._move(holding, more, 0)
        # Commit. The ticket's own place may take memory.
        ticket.booked = size
        holding.booked = booked
        if self.root.used > self.peak:
            self.peak = self.root.used
        return strained

    def _room(self, node: AccountNode, size: int, need: int) -> int | None:
        """What the hard limits leave beyond `need` bytes more, None for all there is; raises where it is too much."""
        room = None
        for above in node.scoped():
            assert above.scope is not None
            limits = above.scope.limits
            if limits.hard_limit is not None:
                left = limits.hard_limit - above.used - need
                if limits.refuses(above.used + need):
                    raise self.refusal(node, size, above)
                room = left if room is None else min(room, left)
        return room

    def _allowance(self, holding: Holding, size: int) -> int:
        """How much credit the handle may have now: nothing under pressure, in strict mode, or for one of several.

        Nor while its account is asked for memory: what it gives back is to be seen.
        """
        if self.strict or holding.handles != 1 or holding.node.asked:
            return 0
        # Here and in what it calls for comparisons do what min and max would do: at half the cost, in every claim.
        cap = _CREDIT_CLAIMS * size
        if cap < _CREDIT_LEAST:
            cap = _CREDIT_LEAST
        for above in holding.node.scoped():
            scope = above.scope
            assert scope is not None
            limits = scope.limits
            if not limits.relaxed(above.used + size):
                return 0
            part = (limits.credit - scope.credit_out + holding.cap) // _CREDIT_PART
            if cap > part:
                cap = part
        return cap if cap >= _CREDIT_WORTH else 0

    def _at_most(self, node: AccountNode, size: int, held: int) -> int:
        """The part of a release that can be booked; more than that is an error or is counted."""
        excess = size - held
        if excess <= 0:
            return size
        if self.strict:
            raise UsageValueError(f"release of {size} bytes by {node.name!r}: only {held} are claimed")
        self.counts.over_releases += 1
        self.counts.over_released_bytes += excess
        self.events.append(OverRelease(node.name, excess, not node.over_released))
        node.over_released = True
        return held

    def _settle(self, holding: Holding, line: CreditLine, size: int) -> None:
        """Take the handle's credit and `size` bytes more back into the books, less the credit that it may keep."""
        kept, kept_cap = line._credit, line._cap
        line._credit, line._cap = _SEALED
        try:
            back = _credit_of(holding, kept) + size
            allowed = self._allowance(holding, size) if size else 0
            keep = allowed // 2
            if keep > back:
                keep = back
            booked = holding.booked - back + keep
            cap = allowed
            if cap > booked:
                cap = booked
            line_credit, line_cap = (keep, cap) if cap else (NO_CREDIT, NO_CREDIT - 1)
            self._move(holding, keep - back, cap)
        except BaseException:
            line._credit, line._cap = kept, kept_cap
            raise
        # Commit.
        line._credit = line_credit
        line._cap = line_cap
        holding.cap = cap
        holding.booked = booked

    def _move(self, holding: Holding, size: int, cap: int) -> bool:
        """Change the sums above a holding. Returns whether a limit is passed now."""
        more = cap - holding.cap
        if not size and not more:
            return False
        strained = False
        returned = -size if size < 0 else 0
        for above in holding.node.lineage():
            above.used += size
            above.returned += returned
            scope = above.scope
            if scope is not None:
                scope.credit_out += more
                if size > 0:
                    if scope.limits.over(above.used):
                        scope.passed = True
                        self.strained[above] = None
                        strained = True
                elif scope.passed or scope.gave_up is not None:
                    scope.fell(above.used)
        return strained

    def _booked(self, holding: Holding, now: float) -> None:
        if holding.entry is None and holding.booked and not holding.pinned:
            self.enlist(holding, now)
        if self.root.used > self.peak:
            self.peak = self.root.used

    def refusal(self, node: AccountNode, size: int, above: AccountNode) -> QuotaExceeded:
        """Count and tell that a hard limit refuses, and make the error that says so."""
        assert above.scope is not None
        limit = above.scope.limits.hard_limit
        assert limit is not None
        self.counts.refused += 1
        self.events.append(ClaimRefused(node.name, size, above.used, limit))
        return QuotaExceeded(node.name, size, above.used, limit, _largest_below(above, above.scope))


def _largest_below(above: AccountNode, scope: Scope) -> list[tuple[str, int]]:
    """Name and bytes of those that hold most right below a limit. O(256) for each refusal, on the average."""
    if not scope.refusals:
        children = above.children or ()
        scope.largest = nlargest(3, children, key=_used_by)
        scope.refusals = len(children) // _LOOKED_AT
    else:
        scope.refusals -= 1
    holders = [(child.name, child.used) for child in scope.largest if child.used]  # who has closed uses nothing
    return sorted(holders, key=itemgetter(1), reverse=True)


def _credit_of(holding: Holding, credit: int) -> int:
    """What a handle has as credit. Never more than it got, whatever two users of one handle did to it."""
    if credit < 0:
        credit = 0
    if credit > holding.cap:
        credit = holding.cap
    return credit


#: Credit and cap of a handle while it is in the books. Its fast path is closed then, also to a signal handler or
#: finalizer that comes in between and uses this very handle.
_SEALED: Final = (NO_CREDIT, NO_CREDIT - 1)

#: Credit of a handle that counts nothing: small enough for the interpreter's fast integers.
_IDLE_CREDIT = 2**29


class IdleLedger(Ledger):
    """The books of a disabled tracker: accounts and holdings come and go, bytes are not counted."""

    def claim(self, holding: Holding, line: CreditLine, size: int, now: float, receipt: Receipt | None = None) -> bool:
        """Count nothing."""
        self._settle(holding, line, size)
        return False

    def claim_own(self, node: AccountNode, size: int, now: float, receipt: Receipt | None = None) -> bool:
        """Count nothing."""
        return False

    def release_late(self, holding: Holding, line: CreditLine, size: int) -> None:
        """Count nothing."""

    def pin(self, holding: PinnedHolding, ticket: Ticket, size: int) -> bool:
        """Count nothing."""
        return False

    def _at_most(self, node: AccountNode, size: int, held: int) -> int:
        return size

    def _settle(self, holding: Holding, line: CreditLine, size: int) -> None:
        line._credit = _IDLE_CREDIT
        line._cap = 2 * _IDLE_CREDIT
