"""What a gate and those that share its line have in common: the line, its lock, and its place in the books."""

from __future__ import annotations

import os
import sys
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Final, Literal, ParamSpec, TypeAlias, TypeVar

from anyio import WouldBlock
from attrs import frozen

from memquota._books import closed_error
from memquota._core.events import CloseReason, Event, GateClosed, GateOpened, ProviderFailed, ProviderRecovered
from memquota._core.holdings import PinnedHolding
from memquota._core.limits import LARGEST_SIZE, Keep
from memquota._core.waiting_line import Outside, Ticket, TicketState, WaitingLine
from memquota._rounds import Demand, Rounds
from memquota.account import Account
from memquota.errors import QuotaExceeded, UsageError, size_text
from memquota.gates.readings import READ_EVERY, Measure, Readings

if TYPE_CHECKING:
    from memquota.gates.permits import Permit
    from memquota.gates.wakeups import Waiter

__all__ = ["Admission", "GateStatistics", "OnFull", "Oversized"]

# Looking up a member of an enumeration costs as much as a call.
_INSIDE: Final = TicketState.INSIDE
_GONE: Final = TicketState.GONE
_WAITING: Final = TicketState.WAITING

#: Whether a look at a state and its change are one step for other threads. Where not, everybody takes the lock.
_ONE_AT_A_TIME: Final = bool(getattr(sys, "_is_gil_enabled", lambda: True)())

P = ParamSpec("P")
R = TypeVar("R")

OnFull: TypeAlias = Literal["wait", "reclaim", "refuse"]
Oversized: TypeAlias = Literal["alone", "refuse"]


@frozen
class GateStatistics:
    """A gate in numbers.

    Attributes:
        inside: Permits that are out.
        held: What they hold, in bytes.
        waiting: Who waits.
        capacity: Bytes that may be inside; None: any number.
        max_concurrent: Permits that may be out; None: any number.
        closed: Why nobody is admitted though there may be room; None: not so.
        fraction: The last reading: the share of the real limit that is in use; None: unknown.
    """

    inside: int
    held: int
    waiting: int
    capacity: int | None
    max_concurrent: int | None
    closed: str | None
    fraction: float | None


class Admission:
    """One line and who is inside.

    The lock is a leaf: while it is held nothing else is waited for, and neither the books nor code of others is called.
    So permits may be released anywhere, also by a signal handler or finalizer in the middle of the books; in the middle
    of a move of the line itself they leave a note.

    Who is let in has its bytes in `pending` until it booked them itself: then they are in the tracker's usage.
    """

    def __init__(
        self,
        account: Account,
        line: WaitingLine,
        measure: Measure,
        on_full: OnFull,
    ) -> None:
        self.account = account
        self.line = line
        self.measure = measure
        self.readings = _readings_of(measure)
        self.on_full: OnFull = on_full
        self.rounds: Rounds = account._rounds
        self.books = self.rounds.books
        self.ledger = self.books.ledger
        self.root = self.ledger.root
        self.strained = self.ledger.strained
        self.holding = PinnedHolding(account._node, "gate")
        self.lock = RLock()
        # Whether this thread is in the middle of a move: a signal handler or finalizer that finds it set leaves a note.
        self.busy = False
        # Permits that were released by one who found it busy; and whether somebody wanted to look around.
        self.notes: deque[Permit] = deque()
        self.again = False
        # Let in, and not in the books yet; in bytes.
        self.pending = 0
        # Whether nobody waits, nothing closes the gate and no move is under way: then the fast path may be taken.
        self.quick = True
        # The same, and slots may pass from hand to hand: no provider has to be asked first.
        self.swift = False
        # Slots that somebody without a weight gave back and nobody took yet; the line counts them as inside. They pass
        # from hand to hand without the lock while `swift` holds, by one atomic step each; a move takes them back first.
        # Who gives one back looks at `swift` after that: 1. A finds it set; 2. B arrives, clears it and finds no slot;
        # 3. A gives the slot back, finds `swift` cleared, and looks around for B.
        self.spare: list[None] = []
        # How many may be inside at once.
        self.slots = line.max_concurrent or LARGEST_SIZE
        # Whether the tracker was above its limit and did not come down to low water yet.
        self.over = False
        self.why_closed: str | None = None
        # Permits whose bytes are to be given back with the lock free.
        self.returned: deque[Permit] = deque()
        # Who has to look at its ticket again; to be woken with the lock free.
        self.due: deque[Permit] = deque()
        # Who is next, and has been told so.
        self.head: Ticket | None = None
        self._failing = False
        self._watch: Callable[[], object] = self.pump
        myself = weakref.ref(self)

        def closed(reason: CloseReason) -> None:
            admission = myself()
            if admission is not None:
                admission.pump()

        account.on_close(closed)
        _all.add(self)
        self.move(_nothing)

    # --- the fast path ------------------------------------------------------------------------------------------------

    def enter(self, permit: Permit) -> bool:
        """Let a new permit in if there is nothing to think about. Lock: not held."""
        line = self.line
        weight = permit.weight
        with self.lock:
            # No call between these lines: so no signal handler, no finalizer.
            if (
                self.quick
                and self.rounds.round is None
                and not self.strained
                and line.inside < self.slots
                and (not weight or self.has_room(weight))
            ):
                line.inside += 1
                line.held += weight
                permit.state = _INSIDE
                if weight:
                    self.pending += weight
                    permit.pending = weight
                return True
        return False

    def has_room(self, weight: int) -> bool:
        """Whether so many bytes fit, if nothing closes the gate. Lock: held."""
        capacity = self.line.capacity
        scope = self.root.scope
        assert scope is not None
        return (
            capacity is None or self.line.held + weight <= capacity
        ) and self.root.used + self.pending + weight <= scope.limits.bound

    # --- the line -----------------------------------------------------------------------------------------------------

    def move(self, action: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Change the line, let in who may go in then, and wake them with the lock free.

        Raises:
            UsageError: This thread is in the middle of a move already; nothing was changed.
        """
        try:
            with self.lock:
                if self.busy:
                    raise UsageError("a gate was used in the middle of a move of this very thread, by a signal handler")
                self.busy = True
                self.quick = self.swift = False
                try:
                    self._take_back_spare()
                    result = action(*args, **kwargs)
                    self._settle()
                    return result
                finally:
                    self.busy = False
        finally:
            if self.due or self.returned:
                self._wake()
            if self.ledger.events:
                self.books.deliver()
            if (self.notes or self.again) and not self._mine():
                self.pump()

    def _take_back_spare(self) -> None:
        while self.spare:
            self.line.inside -= 1
            try:
                self.spare.pop()
            except IndexError:  # somebody who found `swift` set before this move was faster
                self.line.inside += 1

    def _settle(self) -> None:
        line = self.line
        self.again = False
        while self.notes:
            self._abandon(self.notes[0])
            self.notes.popleft()
        ended = self.holding.node.ended is not None
        if ended:
            self.due.extend(line.close())  # type: ignore[arg-type]  # all our tickets are permits
        while True:
            outside = self.outside()
            permit = line.admit(outside)
            if permit is None:
                break
            if permit.state is _INSIDE:
                self._promise(permit)  # type: ignore[arg-type]
            self.due.append(permit)  # type: ignore[arg-type]
        head = line.first
        if head is not self.head:
            self.head = head
            if head is not None and self.tended:
                self.due.append(head)  # type: ignore[arg-type]
        self.slots = line.max_concurrent or LARGEST_SIZE
        fits = line.capacity is None or line.held <= line.capacity
        self.quick = head is None and outside.closed is None and fits and not ended
        self.swift = self.quick and self.readings is None and _ONE_AT_A_TIME
        if head is None:
            self.books.watchers.pop(self._watch, None)
        else:
            self.books.watchers[self._watch] = None

    @property
    def tended(self) -> bool:
        """Whether who is next has to look around from time to time, as nobody else does."""
        return self.readings is not None or self.on_full == "reclaim"

    def outside(self) -> Outside:
        """The world beyond the gate, as of now. Lock: held."""
        root = self.root
        assert root.scope is not None
        limits = root.scope.limits
        used = root.used
        if limits.over(used):
            self.over = True
        elif self.over and limits.relaxed(used):
            self.over = False
        closed, stuck = None, False
        if root.ended is not None:
            closed = "the tracker is closed"
        elif self.rounds.round is not None:
            closed = "a round runs"
        elif self.over:
            closed = "the tracker was above its limit and is not down to low water yet"
        elif self.readings is not None and self.readings.short:
            closed, stuck = self.readings.why(), self.readings.stuck(self.books._last_time)
        if (closed is None) != (self.why_closed is None):
            self._tell(
                GateOpened(self.account.name, self.books._last_time)
                if closed is None
                else GateClosed(self.account.name, closed, self.books._last_time)
            )
        self.why_closed = closed
        return Outside(closed, limits.bound - used - self.pending, limits.bound, stuck)

    def _tell(self, event: Event) -> None:
        # Subscribers and the log hear of it when somebody leaves the books, or by `_wake`.
        self.ledger.events.append(event)

    def _wake(self) -> None:
        """Wake whom it concerns. Lock: not held."""
        while self.returned:
            try:
                self._give_back(self.returned.popleft())
            except IndexError:
                break
        while self.due:
            try:
                permit = self.due.popleft()
            except IndexError:  # another thread was faster
                return
            if permit.waiter is not None and not permit.waiter.wake():
                self.abandon(permit)  # its loop is gone: the next one, please

    def pump(self) -> None:
        """Look around and let in who may go in now. Lock: not held; calls the provider."""
        if self.busy and self._mine():  # a signal handler or finalizer: whoever is in the middle looks again
            self.again = True
            return
        self.refresh()
        self.books.settle()
        self.move(_nothing)

    def _mine(self) -> bool:
        return bool(self.lock._is_owned())  # type: ignore[attr-defined]  # threading.Condition uses it too

    def refresh(self) -> None:
        """Ask the provider if that is due. Lock: not held."""
        readings = self.readings
        if readings is not None and readings.refresh(self.books.now()):
            self._note_failure(readings)
            self.quick = self.swift = False  # the next one looks around

    def _note_failure(self, readings: Readings) -> None:
        failing = readings.failure is not None
        if failing != self._failing:
            self._failing = failing
            name, now = self.account.name, self.books._last_time
            if readings.failure is not None:
                self._tell(ProviderFailed(name, readings.failure, now))
            else:
                self._tell(ProviderRecovered(name, now))
            self.books.deliver()

    def attempt(self, permit: Permit) -> None:
        """Let a permit in now if nobody waits and it fits. Lock: held."""
        if not len(self.line) and self.line.fits(permit.weight, self.outside()):
            self.line.enter(permit.weight)
            permit.state = _INSIDE
            self._promise(permit)

    def _promise(self, permit: Permit) -> None:
        self.pending += permit.weight
        permit.pending = permit.weight

    def _unpromise(self, permit: Permit) -> None:
        self.pending -= permit.pending
        permit.pending = 0

    def go_in_now(self, permit: Permit) -> None:
        """Let a permit in and book its bytes, or raise. Lock: not held."""
        self.check(permit)
        self.refresh()
        if not self.enter(permit):
            self.move(self.attempt, permit)
            if permit.state is not _INSIDE:
                raise WouldBlock
        if permit.weight:
            self.book(permit)

    def line_up(self, permit: Permit, waiter: Waiter) -> None:
        """Have a permit take its place in the line, or raise. Lock: not held."""
        self.check(permit)
        if self.on_full == "refuse":
            self.move(self.attempt, permit)
            if permit.state is not _INSIDE:
                raise self.full(permit)
        else:
            permit.waiter = waiter
            self.move(self.line.arrive, permit)
            self.tend(permit)

    def check(self, permit: Permit) -> None:
        """Raise if a permit can never go in, as the gate is now. Lock: not held."""
        line = self.line
        node = self.holding.node
        if node.ended is not None:
            raise closed_error(node)
        assert self.root.scope is not None
        bound = self.root.scope.limits.bound
        if line.refuse_oversized and line.oversized(permit.weight, bound):
            if line.capacity is not None:
                bound = min(bound, line.capacity)
            raise QuotaExceeded(
                self.account.name,
                permit.weight,
                line.held,
                bound,
                (),
                f"a weight of {size_text(permit.weight)} never fits through gate {self.account.name!r}, "
                f"which has {size_text(bound)}",
            )

    def reconfigure(
        self,
        capacity: int | Keep | None,
        max_concurrent: int | Keep | None,
        measure: Measure,
        on_full: OnFull,
        refuse_oversized: bool,
    ) -> None:
        """Replace what was configured. Lock: held."""
        self.line.resize(capacity, max_concurrent)
        self.line.refuse_oversized = refuse_oversized
        if measure is not self.measure:
            self.measure = measure
            self.readings = _readings_of(measure)
        self.on_full = on_full
        self.head = None  # whoever is next is told how to wait now

    def place(self, permit: Permit) -> int | None:
        """How many go before it; None when it does not wait. Lock: not held."""
        return self.move(self.line.place, permit)

    # --- who waits ----------------------------------------------------------------------------------------------------

    def pause(self, permit: Permit) -> float | None:
        """How long it may wait before it looks around; None: until it is woken."""
        return READ_EVERY if permit is self.head and self.tended else None

    def tend(self, permit: Permit) -> None:
        """Whoever waits first looks around: at the provider, and whether memory should be asked for. Lock: not held."""
        if permit is not self.head:
            return
        self.pump()
        if self.on_full == "reclaim" and permit.state is _WAITING:
            demand = self.move(self._payment, permit)
            if demand is not None:
                self.rounds.demands.append(demand)
            self.rounds.relieve(None)

    def _payment(self, permit: Permit) -> Demand | None:
        """What has to be asked for so that it can go in; kept for it from then on."""
        line, ledger = self.line, self.books.ledger
        outside = self.outside()
        if (
            permit is not line.first
            or self.rounds.round is not None
            or permit.paid_at == ledger.version
            or line.oversized(permit.weight, outside.bound)
        ):
            return None
        assert outside.room is not None
        if outside.room >= permit.weight + line.reserved - permit.reserved and not self.over:
            return None
        permit.paid_at = ledger.version
        line.reserve(permit)
        assert outside.bound is not None
        return Demand(max(0, outside.bound - self.pending - line.reserved))

    def abandon(self, permit: Permit) -> None:
        """Whoever wanted it wants it no more: what it got passes on. Does nothing the second time."""
        self.move(self._abandon, permit)

    def _abandon(self, permit: Permit) -> None:
        if not self.line.give_up(permit):
            self.line.back_out(permit)
        self._unpromise(permit)
        if permit.booked:
            self.returned.append(permit)

    # --- the books ----------------------------------------------------------------------------------------------------

    def book(self, permit: Permit) -> None:
        """Claim the bytes of a permit that was let in. Lock: not held.

        Raises:
            QuotaExceeded: A hard limit refuses. It is not inside any more.
            AccountClosed: The account is closed. Likewise.
        """
        try:
            strained = self.books.enter(self._book, permit, permit.weight)
            with self.lock:
                self._unpromise(permit)
            if len(self.line):  # who looked meanwhile saw them twice
                self.pump()
            self._relieve(permit, strained)
        except BaseException:
            self.abandon(permit)
            raise

    def _book(self, permit: Permit, size: int) -> bool:
        # Lock: of the books.
        if permit.holding.node.ended is not None:
            raise closed_error(permit.holding.node)
        return self.ledger.pin(permit.holding, permit, size)

    def _relieve(self, permit: Permit, strained: bool) -> None:
        if strained or self.rounds.round is not None:
            self.rounds.relieve(None)
            if permit.holding.node.ended is not None:
                raise closed_error(permit.holding.node)

    def adjust(self, permit: Permit, size: int) -> None:
        """A permit that is inside holds `size` bytes from now on. Errors as for `book`; then nothing was changed."""
        before = permit.weight
        strained = self.books.enter(self._book, permit, size)
        with self.lock:
            inside = permit.state is _INSIDE
            if inside:
                self.line.held += size - permit.weight
                permit.weight = size
                self.quick = self.swift = False  # the next one looks whether it fits
        if not inside:  # released meanwhile by another thread
            self._give_back(permit)
        if size < before:
            self.pump()
        self._relieve(permit, strained)

    def release(self, permit: Permit) -> None:
        """A permit is done. Any thread, signal handlers too. Lock: not held."""
        line = self.line
        with self.lock:
            if self.busy:  # in this very thread
                self.notes.append(permit)
                return
            # No call before the end of the block.
            if permit.state is not _INSIDE:
                return
            permit.state = _GONE
            line.inside -= 1
            if permit.weight:
                line.held -= permit.weight
                self.pending -= permit.pending
                permit.pending = 0
        if permit.booked:
            self._give_back(permit)
        if not self.quick:
            self.pump()

    def drop(self, permit: Permit) -> None:
        """A permit was dropped. For its finalizer: calls nobody, and waits for nothing but the lock."""
        line = self.line
        with self.lock:
            if self.busy:
                self.notes.append(permit)
                return
            if permit.state is _INSIDE:
                permit.state = _GONE
                line.inside -= 1
                line.held -= permit.weight
                self.pending -= permit.pending
                permit.pending = 0
            head = self.head
        if permit.booked:
            self.books.notes.append(partial(self._return, permit))
        waiter = getattr(head, "waiter", None)
        if waiter is not None:
            waiter.wake()  # looks around

    def _give_back(self, permit: Permit) -> None:
        self.books.soon(self._return, permit)

    def _return(self, permit: Permit) -> None:
        # Lock: of the books. May run twice.
        self.ledger.pin(permit.holding, permit, 0)
        if permit.pinned is not None:
            self.ledger.end(permit.pinned, "released")

    def statistics(self) -> GateStatistics:
        """The gate in numbers. Lock: not held."""
        self.refresh()
        return self.move(self._statistics)

    def _statistics(self) -> GateStatistics:
        line = self.line
        fraction = self.readings.fraction if self.readings is not None else None
        return GateStatistics(
            line.inside, line.held, len(line), line.capacity, line.max_concurrent, self.outside().closed, fraction
        )

    def full(self, permit: Permit) -> QuotaExceeded:
        """The error of a gate that lets nobody wait."""
        line = self.line
        text = f"gate {self.account.name!r} is full: {line.inside} inside"
        bound = line.capacity if line.capacity is not None else self.account.tracker.limit
        return QuotaExceeded(self.account.name, permit.weight, line.held, bound, (), text)

    def after_fork(self) -> None:
        """In a child process nobody waits."""
        self.lock = RLock()
        self.busy = False
        self.due.clear()
        self.line.close()
        self.head = None
        self.books.watchers.pop(self._watch, None)


def _readings_of(measure: Measure) -> Readings | None:
    return Readings(measure.provider, measure) if measure.provider is not None else None


def _nothing() -> None:
    """Only look around."""


_all: Final[weakref.WeakSet[Admission]] = weakref.WeakSet()


def _renew_all() -> None:
    for admission in list(_all):
        admission.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
