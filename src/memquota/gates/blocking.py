"""Gate: where threads wait for room."""

from __future__ import annotations

from sys import _getframe
from typing import Final, final

from memquota._core.limits import KEEP, Keep
from memquota._core.waiting_line import TicketState
from memquota._handles import Handle
from memquota.account import Account
from memquota.clock import monotonic
from memquota.gates.booking import book
from memquota.gates.permits import NOT_TAKEN, Permit, make, new, prepare
from memquota.gates.readings import Provider
from memquota.gates.setup import build, change, checked_timeout, describe
from memquota.gates.terms import GateStatistics, OnFull, Oversized
from memquota.gates.wakeups import ThreadWaiter
from memquota.tracker import Tracker

__all__ = ["Gate"]

_INSIDE: Final = TicketState.INSIDE
_NEW: Final = TicketState.NEW
#: The default priority: an int so small is one object.
_PLAIN: Final = 0
_WAITING: Final = TicketState.WAITING


@final
class Gate(Handle):
    """Where new work waits before it takes memory. For threads; `AsyncGate` is for tasks.

    Who is inside holds a permit: one slot of `max_concurrent`, and bytes if a weight was named, both or none. The bytes
    are claimed in the gate's account: they count, and are never reclaimed. Nobody is admitted while a round runs, nor
    from when the tracker is above its limit until it is at low water; nor while the provider says that more than
    `high` of the real limit is in use, until that is below `high - hysteresis`. Accounts within their minimum and
    permits are never asked for memory: where they alone hold more than low water after the tracker was above its
    limit, the gate stays shut until they give back. Keep minimums, and what is inside for long, below low water.

    Strictly by priority, then first come first served: nobody small overtakes somebody large.

    Args:
        tracker: Whose books the gate stands on.
        capacity: Bytes that may be inside at once, as an int or as text; None: what the tracker has room for.
        max_concurrent: Permits that may be out at once; None: any number.
        provider: Readings of real memory, such as `memquota.host.detect()`; None: only the tracker counts. One that
            fails is trusted with its last reading for 5 s, then ignored until it recovers. That of `detect` holds its
            last reading for 5 s itself before it fails.
        high: The share of the real limit above which nobody is admitted.
        hysteresis: How far below `high` it has to fall again.
        on_full: "wait"; "reclaim": ask the tracker to make room from older data, up to what is missing, then wait;
            "refuse": raise QuotaExceeded.
        oversized: What happens to a weight above the capacity or the tracker's limit: "alone": it waits until nobody is
            inside and runs alone, and one above the capacity only for room in the tracker as well; "refuse":
            QuotaExceeded at once.
        account: Where weights are claimed; None: an account of the gate's own, called "gate". Kept open. The gate has
            its name, in errors and events.

    Raises:
        UsageError: A wrong argument.
        TrackerClosed: The tracker is closed.
        AccountClosed: The account is closed.

    Threads:
        Any. Who waits first runs a round that is due, as one who claims does. In a forked child nobody waits in the
        line; permits that other threads held stay inside there, as nobody is left to release them.
    """

    __slots__ = ("__weakref__", "_admission")

    def __init__(
        self,
        tracker: Tracker,
        *,
        capacity: int | str | None = None,
        max_concurrent: int | None = None,
        provider: Provider | None = None,
        high: float = 0.90,
        hysteresis: float = 0.05,
        on_full: OnFull = "wait",
        oversized: Oversized = "alone",
        account: Account | None = None,
    ) -> None:
        self._admission = build(
            tracker, capacity, max_concurrent, provider, high, hysteresis, on_full, oversized, account
        )

    def acquire(
        self,
        weight: int | str | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        account: Account | None = None,
    ) -> Permit:
        """Wait for room and go in. A context manager that leaves again.

        Args:
            weight: Bytes; None takes a slot only.
            timeout: Seconds of real time to wait at most; None: as long as it takes.
            priority: Larger goes first.
            account: Where the bytes are claimed; None: in the gate's.

        Raises:
            TimeoutError: The time is over. As for the others: nothing is held, and the place in the line given up.
            QuotaExceeded: The gate refuses, or a hard limit does.
            AccountClosed: The account is closed, perhaps while this waits, or by the round that this claim started.
            UsageError: A wrong argument; or called by a signal handler in the middle of a move of the gate.

        Cost:
            Measured with its release, when nobody waits, on CPython 3.11: without a weight 0.6 times as long as
            `threading.BoundedSemaphore`; a weight is claimed and released in the books, which makes it 6 to 10 µs.
        """
        admission = self._admission
        # `make`, without a call.
        permit = new(Permit)
        permit._admission = admission
        frame = _getframe(1)
        permit._code = frame.f_code
        permit._instruction = frame.f_lasti
        permit.weight = 0
        if weight is not None or priority is not _PLAIN or account is not None:
            prepare(permit, weight, priority, account)
        elif (
            timeout is None
            and admission.swift
            and admission.spare
            and admission.rounds.round is None
            and not admission.root.scope.passed  # type: ignore[union-attr]
        ):
            # Inside first: what is interrupted after the step gives the slot back.
            permit.state = _INSIDE
            try:
                admission.spare.pop()
            except NOT_TAKEN:
                permit.state = _NEW
            else:
                return permit
        if timeout is not None:
            timeout = checked_timeout(timeout)
        if admission.outlook.readings is not None:
            admission.refresh()
        if not admission.enter(permit):
            self._wait(permit, timeout)
        if permit.weight:
            book(admission, permit)
        return permit

    def acquire_nowait(
        self, weight: int | str | None = None, *, priority: int = 0, account: Account | None = None
    ) -> Permit:
        """Go in if nobody waits and there is room. Arguments and errors as for `acquire`.

        Raises:
            WouldBlock: It would have to wait.
        """
        admission = self._admission
        permit = make(Permit, admission, _getframe(1))
        prepare(permit, weight, priority, account)
        admission.go_in_now(permit)
        return permit

    def _wait(self, permit: Permit, timeout: float | None) -> None:
        admission = self._admission
        deadline = None if timeout is None else monotonic() + timeout
        waiter = ThreadWaiter()
        try:
            admission.line_up(permit, waiter)
            while permit.state is _WAITING:
                left = None if deadline is None else deadline - monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"no room at gate {admission.account.name!r} within {timeout} s")
                pause = admission.pause(permit)
                waiter.wait(left if pause is None else pause if left is None else min(left, pause))
                admission.tend(permit)
            admission.arrived(permit)
        except BaseException:
            try:
                admission.abandon(permit)
            except BaseException:  # perhaps before it did anything
                admission.abandon(permit)
                raise
            raise

    def reconfigure(
        self,
        *,
        capacity: int | str | Keep | None = KEEP,
        max_concurrent: int | Keep | None = KEEP,
        provider: Provider | Keep | None = KEEP,
        high: float | Keep = KEEP,
        hysteresis: float | Keep = KEEP,
        on_full: OnFull | Keep = KEEP,
        oversized: Oversized | Keep = KEEP,
    ) -> None:
        """Change what was given, all at once, while people wait. Who is inside stays; more room wakes who waits.

        Raises:
            UsageError: A wrong argument; everything is as before.
        """
        change(self._admission, capacity, max_concurrent, provider, high, hysteresis, on_full, oversized)

    def statistics(self) -> GateStatistics:
        """The gate in numbers."""
        return self._admission.statistics()

    @property
    def account(self) -> Account:
        """Where weights are claimed."""
        return self._admission.account

    def __repr__(self) -> str:
        return describe(self, self._admission)
