"""The bytes of permits in the books: claimed once they are let in, corrected, given back."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from memquota._books import Books
from memquota._core.holdings import PinnedHolding
from memquota._core.ledger import Ledger
from memquota._core.waiting_line import TicketState
from memquota._handles import closed_error
from memquota.errors import UsageValueError

if TYPE_CHECKING:
    from memquota.gates.admission import Admission
    from memquota.gates.permits import Permit

__all__ = ["adjust", "book", "give_back", "note_return"]

_INSIDE: Final = TicketState.INSIDE


def book(admission: Admission, permit: Permit) -> None:
    """Claim the bytes of a permit that was let in. Lock: not held.

    Raises:
        QuotaExceeded: A hard limit refuses. It is not inside any more.
        AccountClosed: The account is closed. Likewise.
    """
    books, line = admission.books, admission.line
    try:
        strained = books.enter(_pin, books.ledger, permit, permit.weight)
        try:
            with admission.lock:  # no call in here: nobody else of this thread comes between
                line.promised -= permit.promised
                permit.promised = 0
        except MemoryError:
            admission.unlock()
            raise
        if len(line):  # who looked meanwhile saw them twice
            admission.pump()
        if strained or admission.rounds.round is not None:
            _relieve(admission, permit)
    except BaseException:
        try:
            admission.abandon(permit)
        except BaseException:  # perhaps before it did anything
            admission.abandon(permit)
            raise
        raise


def adjust(admission: Admission, permit: Permit, size: int) -> None:
    """A permit holds `size` bytes from now on. Errors as for `book`, and UsageError where it is not inside.

    What is interrupted counts as the larger of the two, in the line or in the books, until the permit is released.
    """
    books, line, before = admission.books, admission.line, permit.weight
    if size > before:
        if not admission.move(line.adjust, permit, size):
            raise _not_held(permit)
        try:
            strained = books.enter(_pin, books.ledger, permit, size)
        except BaseException:
            if permit.booked != size:
                admission.move(line.adjust, permit, before)
            raise
    else:
        if permit.state is not _INSIDE:
            raise _not_held(permit)
        strained = books.enter(_pin, books.ledger, permit, size)
        admission.move(line.adjust, permit, size)
    if permit.state is not _INSIDE:  # released meanwhile by another thread
        give_back(books, permit)
    if strained or admission.rounds.round is not None:
        _relieve(admission, permit)


def give_back(books: Books, permit: Permit) -> None:
    """Release the bytes of a permit that is not inside any more: now, or when whoever is in the books leaves."""
    books.soon(_unpin, books.ledger, permit)


def note_return(books: Books, permit: Permit) -> None:
    """The same, by whoever enters the books next. For finalizers."""
    books.notes.append(partial(_unpin, books.ledger, permit))


def _pin(ledger: Ledger, permit: Permit, size: int) -> bool:
    # Lock: of the books.
    holding = permit.holding
    if holding.node.ended is not None:
        raise closed_error(holding.node)
    if size or permit.pinned is None:
        return ledger.pin(holding, permit, size)
    # Its account lists it no longer, as nothing may be left to give back; another one is there for what may come.
    fresh = PinnedHolding(holding.node, "permit")
    _unpin(ledger, permit)
    permit.pinned = fresh
    return False


def _unpin(ledger: Ledger, permit: Permit) -> None:
    # Lock: of the books. May run twice.
    ledger.pin(permit.holding, permit, 0)
    if permit.pinned is not None:
        ledger.end(permit.pinned, "released")


def _relieve(admission: Admission, permit: Permit) -> None:
    admission.rounds.relieve(None)
    node = permit.holding.node
    if node.ended is not None:
        raise closed_error(node)


def _not_held(permit: Permit) -> UsageValueError:
    return UsageValueError(f"a permit that is {permit.state.value} cannot be adjusted")
