"""Participation: the handle by which a participant claims and releases, and its fast path."""

from __future__ import annotations

import weakref
from typing import final

from memquota._core.holdings import NO_CREDIT, CreditLine, Receipt
from memquota._handles import Handle, Registration, checked_size, closed_error
from memquota._rounds import Rounds

__all__ = ["Participation"]


@final
class Participation(CreditLine, Handle):
    """The handle by which one participant claims and releases bytes of one account.

    Made by `Account.register_participant` and by `clone`. It belongs to its account without keeping it open, and keeps
    neither the participant nor the tracker alive. When the last handle is closed or dropped, or the participant dies,
    the participation ends and what it still had claimed is written off.

    Threads:
        A handle has one owner at a time: a thread, or whatever holds the owner's lock. `clone()` gives another owner
        one. `close`, `destroy` and `release` may be called from finalizers and signal handlers.

    Cost:
        `claim` and `release` are a few arithmetic operations while they stay within the handle's credit; else one lock
        and a walk over the account's ancestors, about 3 µs. Only an only handle has credit.
    """

    __slots__ = ("__weakref__", "_holding", "_rounds")
    _holding: Registration
    _rounds: Rounds

    def __init__(self) -> None:
        raise TypeError("participations are made by Account.register_participant")

    def claim(self, size: int) -> None:
        """Claim bytes, before they are taken.

        Args:
            size: Bytes; 0 is allowed.

        Raises:
            UsageError: `size` is no integer, negative, or above 2**62. Nothing was claimed.
            QuotaExceeded: A hard limit refuses. Nothing was claimed.
            ParticipationClosed: The participation is over. Nothing was claimed.
            AccountClosed: The account is. Nothing was claimed.
            MemoryReclaimed: The account gave up its memory, perhaps in the round that this claim started.
                Nothing was claimed.

        Callbacks:
            With the inline reclaimer, a claim that passes the limit runs the round: participants, hooks and the log are
            called in this thread, with no lock of the tracker held.
        """
        # The type first: arithmetic with what is no int might be anybody's code. And no call afterwards, so that no
        # signal handler or finalizer can release or claim in between.
        if type(size) is int and size >= 0:
            left = self._credit - size
            if left >= 0:
                self._credit = left
                return
        self._claim(size)

    def release(self, size: int) -> None:
        """Give bytes back, after they are free. Does nothing when the participation is over.

        Args:
            size: Bytes; 0 is allowed. More than is claimed releases what is, is counted, and logged once per account.

        Raises:
            UsageError: `size` is no integer or negative; or more than is claimed, on a strict tracker.
                Nothing was released.
        """
        if type(size) is int and size >= 0:
            credit = self._credit + size
            if credit <= self._cap:
                self._credit = credit
                return
        self._release(size)

    def clone(self) -> Participation:
        """Another handle of the same participation, for another owner. Credit is for an only handle: both have none.

        Raises:
            ParticipationClosed: The participation is over.
            AccountClosed: The account is.
        """
        return self._rounds.books.enter(self._clone)

    def resurvey(self) -> None:
        """Say that older data may have come in than the participant named last, as when it takes over another's."""
        self._rounds.books.soon(self._resurvey)

    def close(self) -> None:
        """End this handle; the participation ends with its last. Does nothing the second time."""
        if not self._closed:
            self._rounds.books.soon(self._close)
            self.cut()  # also where somebody is inside the books, who will do it: nothing can be claimed after this

    def destroy(self) -> None:
        """End the participation for all its handles. What it had claimed is written off."""
        self._rounds.books.soon(self._destroy)
        self.cut()

    @property
    def used(self) -> int:
        """What the participation has claimed, in bytes, over all its handles. For its owner; others see it late."""
        self._rounds.books.settle()
        return self._holding.in_use() if self._holding.live else 0

    @property
    def closed(self) -> bool:
        """Whether claims fail: this handle was closed, or the participation or the account is over."""
        self._rounds.books.settle()
        return self._closed or not self._holding.live

    @property
    def account_name(self) -> str:
        """The name of its account."""
        return self._holding.node.name

    def __repr__(self) -> str:
        return f"<Participation in account {self.account_name!r}{', closed' if self._closed else ''}>"

    def __del__(self) -> None:
        # Uses no global name: they may be gone at exit. Appends a note, as a finalizer may run anywhere.
        if not getattr(self, "_closed", True):
            self._rounds.books.notes.append(self._holding)

    # --- the slow path ------------------------------------------------------------------------------------------------

    def _claim(self, size: object) -> None:
        size = checked_size(size, "claim")
        rounds = self._rounds
        books = rounds.books
        receipt = Receipt()
        try:
            strained = books.enter(self._book, size, books.now(), receipt)
            if size and (strained or rounds.round is not None):
                rounds.relieve(self._holding)
                books.settle()  # its participant may have died when the round let go of it
                if not self._holding.live:
                    raise closed_error(self._holding.node, self._holding)
        except BaseException:
            if receipt.booked:  # what is left of it: its own round may have taken some, and no error may hide this one
                self._release(min(size, self._in_use()))
            raise

    def _release(self, size: object) -> None:
        size = checked_size(size, "release")
        self._rounds.books.give_back(self._give_back, self._give_back_late, size)

    # --- for our own queues, which claim under a lock of theirs -------------------------------------------------------

    def _stop_short_ways(self) -> None:
        """Let the next release come to the books."""
        self._cap = NO_CREDIT - 1

    def _in_use(self) -> int:
        """What is claimed, without a look at notes. O(1), no lock."""
        holding = self._holding
        return holding.booked - max(0, self._credit) if holding.live else 0

    # Lock: held, for all below.

    def _book(self, size: int, now: float, receipt: Receipt) -> bool:
        self._check_open()
        if not size:
            return False
        self._be_found()
        return self._rounds.books.ledger.claim(self._holding, self, size, now, receipt)

    def _be_found(self) -> None:
        """Let the books find the handle that they may give credit now: before they do, as this may fail."""
        line = self._holding.line
        if line is None or line() is not self:  # it may be that of a handle that was dropped
            self._holding.line = weakref.ref(self)

    def _give_back(self, size: int) -> None:
        if size and not self._closed and self._holding.live:
            self._be_found()
            self._rounds.books.ledger.release(self._holding, self, size)

    def _give_back_late(self, size: int) -> None:
        if size and not self._closed and self._holding.live:
            self._rounds.books.ledger.release_late(self._holding, self, size)

    def _clone(self) -> Participation:
        self._check_open()
        handle = new_handle(self._rounds, self._holding)
        self._rounds.books.ledger.add_handle(self._holding, self)
        self._holding.line = None
        handle._closed = False
        return handle

    def _resurvey(self) -> None:
        self._holding.known = self._holding.last_age()
        self._rounds.books.ledger.resurvey(self._holding)

    def _close(self) -> None:
        if self._closed:
            return
        holding = self._holding
        if holding.live:
            self._rounds.books.ledger.close_handle(holding, self)
        self._closed = True
        holding.line = None
        self.cut()

    def _destroy(self) -> None:
        self._rounds.books.ledger.end(self._holding, "destroyed")
        self._holding.cut()
        self.cut()

    def _check_open(self) -> None:
        if self._closed or not self._holding.live:
            self.cut()
            raise closed_error(self._holding.node, self._holding)


def new_handle(rounds: Rounds, holding: Registration) -> Participation:
    """A handle that does not count yet: whoever counts it in the books sets `_closed` to False."""
    handle = object.__new__(Participation)
    CreditLine.__init__(handle)
    handle._holding = holding
    handle._rounds = rounds
    return handle
