"""What a gate does, for those of either kind that share it: let in, refuse, line up, correct, let go."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from anyio import WouldBlock

from memquota._core.events import CloseReason, RoundOutcome
from memquota._core.holdings import PinnedHolding
from memquota._core.limits import KEEP, Keep
from memquota._core.waiting_line import Outside, TicketState, WaitingLine
from memquota._handles import closed_error
from memquota._rounds import Demand
from memquota.account import Account
from memquota.errors import QuotaExceeded, size_text
from memquota.gates.booking import book, give_back, note_return
from memquota.gates.moves import Moves, nothing
from memquota.gates.readings import READ_EVERY, Measure
from memquota.gates.terms import GateStatistics, OnFull, Oversized

if TYPE_CHECKING:
    from memquota.gates.permits import Permit
    from memquota.gates.wakeups import Waiter

__all__ = ["Admission"]

#: Between two slices of a round that whoever waits runs, in seconds: for its loop, and for others.
BREATH: Final = 0.001

# Looking up a member of an enumeration costs as much as a call.
_INSIDE: Final = TicketState.INSIDE
_GONE: Final = TicketState.GONE
_WAITING: Final = TicketState.WAITING


class Admission(Moves):
    """A gate without the face that its callers see."""

    def __init__(self, account: Account, line: WaitingLine[Permit], measure: Measure, on_full: OnFull) -> None:
        super().__init__(account, line, measure, on_full)
        self.account = account
        self.holding = PinnedHolding(account._node, "gate")
        myself = weakref.ref(self)

        def closed(reason: CloseReason) -> None:
            admission = myself()
            if admission is not None:
                admission.pump()

        # An account that outlives its gates does not collect their callbacks.
        weakref.finalize(self, account._call_at_end(closed, restartable=True)).atexit = False
        _all.add(self)
        self.move(nothing)

    # --- going in -----------------------------------------------------------------------------------------------------

    def attempt(self, permit: Permit) -> None:
        """Let a permit in now if nobody waits and it fits. Lock: held."""
        if not len(self.line) and self.line.fits(permit.weight, self.outlook.look()):
            self.line.enter(permit)

    def go_in_now(self, permit: Permit) -> None:
        """Let a permit in and book its bytes, or raise. Lock: not held."""
        self.check(permit)
        self.refresh()
        if not self.enter(permit):
            self.move(self.attempt, permit)
            if permit.state is not _INSIDE:
                self.check(permit)  # closed meanwhile
                raise WouldBlock
        if permit.weight:
            book(self, permit)

    def line_up(self, permit: Permit, waiter: Waiter) -> None:
        """Have a permit take its place in the line, or raise. Lock: not held."""
        self.check(permit)
        if self.on_full == "refuse":
            self.move(self.attempt, permit)
            if permit.state is not _INSIDE:
                self.check(permit)
                raise self.move(self._full, permit)
        else:
            permit.waiter = waiter
            self.move(self._arrive, permit)
            if permit.pinned is not None and permit.weight:
                self._watch(permit)
            self.tend(permit)

    def _arrive(self, permit: Permit) -> None:
        self.guests[permit] = None
        self.line.arrive(permit)

    def _watch(self, permit: Permit) -> None:
        """Hear of it when the account for which a permit waits is closed. Lock: not held."""
        myself = weakref.ref(self)

        def closed(reason: CloseReason) -> None:
            admission = myself()
            if admission is not None:
                admission.lost_account()

        assert permit.account is not None
        permit.unwatch = permit.account.on_close(closed)

    def check(self, permit: Permit) -> None:
        """Raise if a permit can never go in, as the gate is now. Lock: not held."""
        line = self.line
        node = self.holding.node
        if node.ended is not None:
            raise closed_error(node)
        if permit.barred:
            raise closed_error(permit.holding.node)
        bound = self._bound()
        if line.refuse_oversized and permit.weight > bound:
            raise QuotaExceeded(
                self.account.name,
                permit.weight,
                line.held,
                bound,
                (),
                f"a weight of {size_text(permit.weight)} never fits through gate {self.account.name!r}, "
                f"which has {size_text(bound)}",
            )

    def _bound(self) -> int:
        """A greater weight is oversized."""
        assert self.root.scope is not None
        bound = self.root.scope.limits.bound
        return bound if self.line.capacity is None else min(bound, self.line.capacity)

    def _full(self, permit: Permit) -> QuotaExceeded:
        """Why it is not let in now, in words. Lock: held."""
        line, outside, name = self.line, self.outlook.look(), self.account.name
        used, bound = line.held, self._bound()
        if outside.closed is not None:
            text = f"gate {name!r} lets nobody in: {outside.closed}"
        elif len(line):
            text = f"gate {name!r} is full: {len(line)} wait"
        elif line.fits(permit.weight, Outside(bound=outside.bound)):  # all but room in the tracker
            used, bound = self.root.used, outside.bound or 0
            text = f"gate {name!r} finds no room for {size_text(permit.weight)}: the tracker has "
            text += f"{size_text(used)} used of {size_text(bound)}"
        elif line.max_concurrent is not None and line.inside >= line.max_concurrent:
            text = f"gate {name!r} is full: {line.inside} inside"
        else:
            text = f"gate {name!r} is full: {line.inside} inside, with {size_text(used)} of {size_text(bound)}"
        return QuotaExceeded(name, permit.weight, used, bound, (), text)

    def reconfigure(
        self,
        capacity: int | Keep | None,
        max_concurrent: int | Keep | None,
        measured: Callable[[Measure], Measure],
        on_full: OnFull | Keep,
        oversized: Oversized | Keep,
    ) -> None:
        """Replace what was configured, in one step: somebody else may do the same. Lock: held."""
        measure = measured(self.outlook.measure)
        new_on_full = self.on_full if on_full is KEEP else on_full
        refuse = self.line.refuse_oversized if oversized is KEEP else oversized == "refuse"
        readings = self.outlook.readings_by(measure)
        guests = self.guests.copy()
        self.line.resize(capacity, max_concurrent)
        if new_on_full != "reclaim":  # nobody asks on their behalf any more
            self.line.release_reserved()
            for guest in guests:
                if guest.demand is not None:
                    guest.demand.withdrawn = True
        # Commit.
        self.outlook.go_by(measure, readings)
        self.line.refuse_oversized = refuse
        self.on_full = new_on_full
        self.head = None  # whoever is next is told how to wait now

    def place(self, permit: Permit) -> int | None:
        """How many go before it; None when it does not wait. Lock: not held."""
        return self.move(self.line.place, permit)

    def statistics(self) -> GateStatistics:
        """The gate in numbers. Lock: not held."""
        self.refresh()
        return self.move(self._statistics)

    def _statistics(self) -> GateStatistics:
        line, readings = self.line, self.outlook.readings
        return GateStatistics(
            line.inside,
            line.held,
            len(line),
            line.capacity,
            line.max_concurrent,
            self.outlook.look().closed,
            readings.fraction if readings is not None else None,
        )

    # --- who waits ----------------------------------------------------------------------------------------------------

    def pause(self, permit: Permit) -> float | None:
        """How long it may wait before it looks around; None: until it is woken."""
        if permit is not self.head or not self.attentive:
            return None
        return BREATH if self.rounds.round is not None and self.rounds.runner is None else READ_EVERY

    def tend(self, permit: Permit) -> None:
        """Whoever waits first looks around: at the provider, and whether memory should be asked for. Lock: not held.

        It would claim if it could: so a round that is due, or was left after a slice, is as much its business as that
        of whoever claims next. Perhaps everybody waits here, and nobody ever does.
        """
        if permit is not self.head:
            return
        self.pump()
        if permit.state is not _WAITING:
            return
        if self.on_full == "reclaim":
            self._paid(permit)
            demand = self.move(self._payment, permit)
            if demand is not None:
                permit.demand = demand
                self.rounds.demands.append(demand)
        self.rounds.relieve(None)
        if permit.state is _WAITING:
            self._paid(permit)

    def _payment(self, permit: Permit) -> Demand | None:
        """What has to be asked for so that it can go in; kept for it from then on. Nothing while slots are missing."""
        line, version = self.line, self.books.ledger.version
        outside = self.outlook.look()
        assert outside.room is not None
        assert outside.bound is not None
        if (
            permit is not line.first
            or self.rounds.round is not None
            or permit.demand is not None
            or permit.barren_at == version
            or permit.weight + line.held > outside.bound  # others would give up theirs in vain
            or not line.fits(permit.weight, Outside(bound=outside.bound))
        ):
            return None
        need = permit.weight + line.promised + line.reserved - permit.reserved
        if outside.room >= need and not self.outlook.over:
            return None
        target = max(0, outside.bound - need)
        demand = Demand(min(target, self.outlook.low_water) if self.outlook.over else target)
        # Commit.
        permit.paid_at = version
        line.reserve(permit)
        return demand

    def _paid(self, permit: Permit) -> None:
        """See how the round ended that a permit asked for. Lock: not held."""
        demand = permit.demand
        if demand is not None and demand.withdrawn:  # by who said that nobody is to ask
            demand = permit.demand = None
        if demand is None or demand.ended is None:
            return
        if demand.ended.outcome is RoundOutcome.NOBODY_LEFT:
            # Not again until there is somebody. What was kept would only bar others from what there is.
            permit.barren_at = permit.paid_at
            self.move(self.line.release_reserved)
        permit.demand = None

    def arrived(self, permit: Permit) -> None:
        """Whoever waited has seen what became of it; raises if that is nothing good. Lock: not held."""
        self.guests.pop(permit, None)
        if permit.demand is not None:  # it found room without that
            self.books.soon(self.rounds._withdraw, permit.demand)
        if permit.unwatch is not None:
            permit.unwatch()
            permit.unwatch = None
        if permit.state is not _INSIDE:
            self.check(permit)
            text = f"a weight of {size_text(permit.weight)} was refused at gate {self.account.name!r} while it waited"
            raise QuotaExceeded(self.account.name, permit.weight, self.line.held, self._bound(), (), text)

    # --- leaving ------------------------------------------------------------------------------------------------------

    def release(self, permit: Permit) -> None:
        """A permit is done. Any thread, signal handlers too. Lock: not held."""
        try:
            self._release(permit)
        except BaseException:
            try:
                self._release(permit)
            except BaseException:  # no memory, or interrupted again
                if permit.state is _INSIDE or permit.booked:
                    self.note(permit)
                self.nudge()
                raise
            raise

    def _release(self, permit: Permit) -> None:
        self._leave(permit)
        if permit.booked and permit.state is _GONE:
            give_back(self.books, permit)
        if not self.quick:
            self.pump()

    def hand_on(self) -> None:
        """A slot was given back that somebody may wait for. Lock: not held."""
        try:
            self.pump()
        except BaseException:
            try:
                self.pump()
            except BaseException:
                self.nudge()
                raise
            raise

    def drop(self, permit: Permit) -> None:
        """A permit was dropped. For its finalizer: calls nobody, and waits for nothing but the lock."""
        try:
            self._leave(permit)
            if permit.booked:
                note_return(self.books, permit)
        except MemoryError:
            self.note(permit)  # it lives until the next move takes it out
        self.nudge()


_all: Final[weakref.WeakSet[Admission]] = weakref.WeakSet()


def _renew_all() -> None:
    for admission in list(_all):
        admission.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
