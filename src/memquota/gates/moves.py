"""The line of a gate and its lock: how it is changed by many threads, and who is woken then.

What is interrupted by an exception from outside, such as Ctrl-C, is done again before the exception goes on, where
others might wait for it. All of that may be done twice.

Where memory runs out, that may fail too. Then what is left to do is noted, which takes no memory, and the next move of
the line does it.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from threading import RLock
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from memquota._core.limits import LARGEST_SIZE
from memquota._core.waiting_line import Outside, TicketState, WaitingLine
from memquota.account import Account
from memquota.errors import UsageError
from memquota.gates.booking import note_return
from memquota.gates.outlook import Outlook
from memquota.gates.readings import Measure
from memquota.gates.terms import OnFull

if TYPE_CHECKING:
    from memquota.gates.permits import Permit

__all__ = ["Moves", "nothing"]

# Looking up a member of an enumeration costs as much as a call.
_INSIDE: Final = TicketState.INSIDE
_GONE: Final = TicketState.GONE
_WAITING: Final = TicketState.WAITING
#: What says that a permit has no note: an AttributeError, or that there is no memory for it.
_NO_NOTE: Final = (AttributeError, MemoryError)

#: Whether a look at a state and its change are one step for other threads. Where not, everybody takes the lock.
_ONE_AT_A_TIME: Final = bool(getattr(sys, "_is_gil_enabled", lambda: True)())

P = ParamSpec("P")
R = TypeVar("R")


class Moves:
    """One line and who is inside.

    The lock is a leaf: while it is held nothing else is waited for, and neither the books nor code of others is called.
    So permits may be released anywhere, also by a signal handler or finalizer in the middle of the books; in the middle
    of a move of the line itself they leave a note.

    Who is let in has its bytes promised by the line until it booked them itself: then they are in the tracker's usage.
    """

    def __init__(self, account: Account, line: WaitingLine[Permit], measure: Measure, on_full: OnFull) -> None:
        self.line = line
        self.outlook = Outlook(account, measure)
        self.on_full: OnFull = on_full
        self.rounds = self.outlook.rounds
        self.books = self.rounds.books
        self.root = self.books.ledger.root
        self.lock = RLock()
        # Whether this thread is in the middle of a move: a signal handler or finalizer that finds it set leaves a note.
        self.busy = False
        # Permits that nobody wants any more, for the next move to take out: each leads to the one noted before it. And
        # whether somebody wanted to look around.
        self.notes: Permit | None = None
        self.again = False
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
        # Who has to look at its ticket again; to be woken with the lock free.
        self.due: deque[Permit] = deque()
        # Who came to the line and has not noticed yet what became of it: whoever is let in is found here, so letting in
        # takes no memory.
        self.guests: dict[Permit, None] = {}
        # Whether somebody of them may have been let in or refused and not woken.
        self.missed = False
        # Whether somebody who waits may never go in: its loop was closed, or its account.
        self.bereaved = False
        # Who is next, and has been told so; and whether it was told to look around from time to time.
        self.head: Permit | None = None
        self.attentive = False

    # --- the fast path ------------------------------------------------------------------------------------------------

    def enter(self, permit: Permit) -> bool:
        """Let a new permit in if there is nothing to think about. Lock: not held."""
        line = self.line
        weight = permit.weight
        try:
            with self.lock:
                # No call in here: so no signal handler and no finalizer comes between.
                if (
                    self.quick
                    and self.rounds.round is None
                    and not self.root.scope.passed  # type: ignore[union-attr]
                    and line.inside < self.slots
                    and (
                        not weight
                        or (
                            (line.capacity is None or line.held + weight <= line.capacity)
                            and self.root.used + line.promised + weight <= self.root.scope.limits.bound  # type: ignore[union-attr]
                        )
                    )
                ):
                    # What takes memory comes first; the line has slots, which take none.
                    inside = line.inside + 1
                    if weight:
                        held, promised = line.held + weight, line.promised + weight
                        permit.promised = weight
                        line.held, line.promised = held, promised
                    line.inside = inside
                    permit.state = _INSIDE
                    return True
        except MemoryError:
            self.unlock()
            raise
        return False

    # --- the line -----------------------------------------------------------------------------------------------------

    def move(self, action: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Change the line, let in who may go in then, and wake them with the lock free.

        Raises:
            UsageError: This thread is in the middle of a move already; nothing was changed.
        """
        try:
            return self._move(action, *args, **kwargs)
        except MemoryError:
            self.unlock()
            if not self._mine():
                self.missed = True
                self._retry()
            raise
        except BaseException:
            if not self._mine():
                self.missed = True
                self.pump()
            raise

    def _move(self, action: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        with self.lock:
            if self.busy:
                raise UsageError("a gate was used in the middle of a move of this very thread, by a signal handler")
            self.busy = True
            self.quick = self.swift = False
            try:
                if self.spare:
                    self._take_back_spare()
                result = action(*args, **kwargs)
                self._settle()
            finally:
                self.busy = False
        if self.due:
            self._wake()
        if self.books.ledger.events or self.books.notes:
            self.books.deliver(moved=False)
        if self.notes is not None or self.again:
            self.pump()
        return result

    def unlock(self) -> None:
        """Memory ran out somewhere at the lock: leaving its block takes memory too, and does not happen without."""
        if self._mine() and not self.busy:
            self.lock.release()

    def _retry(self) -> None:
        """A move found no memory: perhaps there is some by now. If not, whoever is next looks around by itself."""
        try:
            self._move(nothing)
        except MemoryError:
            self.unlock()
            self.nudge()

    def nudge(self) -> None:
        """Have whoever is next look around. Takes no memory where it is a thread. Lock: not held."""
        head = self.head
        if head is not None and head.waiter is not None:
            try:
                head.waiter.wake()
            except MemoryError:
                self.missed = True

    def _take_back_spare(self) -> None:
        line = self.line
        while self.spare:
            inside = line.inside
            line.inside = inside - 1
            try:
                self.spare.pop()
            except IndexError:  # somebody who found `swift` set before this move was faster
                line.inside = inside
            except MemoryError:  # it makes the list smaller: it is still in there
                line.inside = inside
                raise

    def _settle(self) -> None:
        line = self.line
        self.again = False
        while self.notes is not None:
            permit = self.notes
            self._abandon(permit)
            if self.notes is permit:  # else a signal handler or finalizer left another one, and this one has to wait
                # No call between these lines.
                self.notes = permit.later
                del permit.later
        if self.bereaved:
            self._part()
        outside = self.outlook.look()
        while True:
            called = line.admit(outside)
            if called is None:
                break
            self.due.append(called)
        head = line.first
        attentive = head is not None and (
            self.outlook.readings is not None or self.on_full == "reclaim" or outside.closed is not None
        )
        if head is not None and attentive and (self.missed or not (head is self.head and self.attentive)):
            self.due.append(head)
        self.head = head
        self.attentive = attentive
        if self.missed:
            # Of a copy: who notices leaves without the lock.
            self.due.extend([guest for guest in self.guests.copy() if guest.state is not _WAITING])
            self.missed = False
        self.slots = line.max_concurrent or LARGEST_SIZE
        # Those above a number that was lowered go before others come, and who runs alone may be on the way in.
        crowded = (
            line.inside > self.slots
            or (line.capacity is not None and line.held > line.capacity)
            or (outside.bound is not None and line.promised > outside.bound)
        )
        quick = head is None and outside.closed is None and not outside.ended and not crowded
        if head is None:
            self.books.watchers.pop(self.pump, None)
        else:
            self.books.watchers[self.pump] = None
        self.quick = quick
        self.swift = quick and self.outlook.readings is None and _ONE_AT_A_TIME

    def _wake(self) -> None:
        """Wake whom it concerns. Lock: not held."""
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
        self.move(nothing)

    def _mine(self) -> bool:
        return bool(self.lock._is_owned())  # type: ignore[attr-defined]  # threading.Condition uses it too

    def refresh(self) -> None:
        """Ask the provider if that is due. Lock: not held."""
        if self.outlook.readings is not None and self.outlook.refresh():
            self.quick = self.swift = False  # the next one looks around

    def note(self, permit: Permit) -> None:
        """Have the next move take out a permit that nobody wants any more. Takes no memory, and waits for nobody."""
        if _ONE_AT_A_TIME or self._mine():
            self._chain(permit)
        else:
            with self.lock:
                self._chain(permit)

    def _chain(self, permit: Permit) -> None:
        try:
            permit.later  # noqa: B018  # whether it has a note already
        except _NO_NOTE:
            # No call in here: nobody comes between.
            permit.later = self.notes
            self.notes = permit

    def abandon(self, permit: Permit) -> None:
        """Whoever wanted it wants it no more: what it got passes on. Does nothing the second time. Lock: not held."""
        self.note(permit)
        if permit.demand is not None:  # nobody makes room for it any more
            permit.demand.withdrawn = True
        self.move(nothing)
        if permit.demand is not None:
            self.books.soon(self.rounds._withdraw, permit.demand)
        if permit.unwatch is not None:
            permit.unwatch()

    def _abandon(self, permit: Permit) -> None:
        # Lock: held.
        self.guests.pop(permit, None)
        if not self.line.give_up(permit):
            self.line.back_out(permit)
        if permit.booked:
            note_return(self.books, permit)

    def lost_loop(self) -> None:
        """A loop was closed in which somebody waited: nobody there will ever go on. For a finalizer."""
        self.bereaved = True
        self.pump()

    def lost_account(self) -> None:
        """An account was closed for which somebody waits: there is nothing to wait for."""
        self.bereaved = True
        self.pump()

    def _part(self) -> None:
        """Part with those who wait in vain."""
        self.bereaved = False  # first: what a finalizer finds lost meanwhile is looked for again
        try:
            for permit in self.guests.copy():
                if permit.waiter is not None and permit.waiter.dead:
                    self._abandon(permit)
                elif permit.barred:
                    self.due.append(permit)  # first, as it takes memory
                    self.line.refuse(permit)
        except BaseException:
            self.bereaved = True
            raise

    def _leave(self, permit: Permit) -> None:
        line = self.line
        try:
            with self.lock:
                if self.busy:  # in this very thread
                    self.note(permit)
                    return
                # No call before the end of the block; what takes memory comes first.
                if permit.state is _INSIDE:
                    inside, held, promised = line.inside - 1, line.held - permit.weight, line.promised - permit.promised
                    permit.state = _GONE
                    line.inside = inside
                    line.held = held
                    line.promised = promised
                    permit.promised = 0
        except MemoryError:
            self.unlock()
            raise

    def after_fork(self) -> None:
        """In a child process nobody waits."""
        self.lock = RLock()
        self.busy = False
        self.due.clear()
        self.guests.clear()
        while self.line.admit(_NEVER) is not None:
            pass
        self.head = None
        self.books.watchers.pop(self.pump, None)


_NEVER: Final = Outside(ended=True)


def nothing() -> None:
    """Only look around."""
