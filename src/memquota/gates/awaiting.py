"""AsyncGate: where tasks of asyncio and trio wait for room."""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from sys import _getframe
from types import TracebackType, coroutine
from typing import Any, Final, Self, cast, final, overload

from memquota._core.limits import KEEP, Keep
from memquota._core.waiting_line import TicketState
from memquota._handles import Handle
from memquota.account import Account
from memquota.errors import UsageError
from memquota.gates.admission import Admission
from memquota.gates.blocking import Gate
from memquota.gates.booking import book
from memquota.gates.permits import NOT_TAKEN, Permit, make, new, prepare
from memquota.gates.readings import Provider
from memquota.gates.setup import change, describe
from memquota.gates.terms import GateStatistics, OnFull, Oversized
from memquota.gates.wakeups import task_waiter
from memquota.tracker import Tracker

__all__ = ["AsyncGate", "AsyncPermit"]

_INSIDE: Final = TicketState.INSIDE
_GONE: Final = TicketState.GONE
_NEW: Final = TicketState.NEW
#: The default priority: an int so small is one object.
_PLAIN: Final = 0
_WAITING: Final = TicketState.WAITING


@coroutine
def _nothing() -> Generator[None, None, None]:
    yield


#: What can be awaited and is done: a generator that has ended goes on ending, for nothing but a look at it.
_DONE: Final = _nothing()
cast("Generator[None]", _DONE).close()


@final
class AsyncPermit(Permit):
    """A permit of an `AsyncGate`: await it to go in, or enter it with `async with`.

    Example:
        >>> import anyio, memquota
        >>> async def main():
        ...     gate = memquota.AsyncGate(memquota.Tracker("1MiB"), max_concurrent=2)
        ...     async with gate.acquire("64KiB") as permit:
        ...         permit.adjust("16KiB")
        ...     permit = await gate.acquire()
        ...     permit.release()
        >>> anyio.run(main)

    Cancellation:
        Who is cancelled while waiting holds nothing, and its place is given up; what it was granted in that very moment
        passes on.
    """

    @property
    def place(self) -> int | None:
        """How many go before it, 0 for the next one; None when it does not wait."""
        return self._admission.place(self)

    def __await__(self) -> Generator[Any, Any, Self]:
        if not self._go_in():
            yield from self._wait().__await__()
        return self

    async def __aenter__(self) -> Self:
        admission = self._admission
        if (
            self.state is _NEW
            and not self.weight
            and admission.swift
            and admission.spare
            and admission.rounds.round is None
            and not admission.root.scope.passed  # type: ignore[union-attr]
        ):
            # As in `Gate.acquire`.
            self.state = _INSIDE
            try:
                admission.spare.pop()
            except NOT_TAKEN:
                self.state = _NEW
            else:
                return self
        if self.state is not _INSIDE and not self._go_in():
            await self._wait()
        return self

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Awaitable[None]:
        # As `Permit.__exit__`, without a call; and no coroutine, as there is nothing to wait for.
        admission = self._admission
        if self.state is _INSIDE and not self.weight and admission.swift:
            self.state = _GONE
            try:
                admission.spare.append(None)
            except MemoryError:  # it is not in there
                self.state = _INSIDE
                admission.release(self)
            finally:
                if not admission.swift:  # another thread came meanwhile
                    admission.hand_on()  # type: ignore[unreachable]
        else:
            admission.release(self)
        return _DONE

    def _go_in(self) -> bool:
        """Whether it is in without having to wait."""
        admission = self._admission
        if self.state is not _NEW:
            raise UsageError(f"a permit can be awaited once, and this one is {self.state.value}")
        if admission.outlook.readings is not None:
            admission.refresh()
        if not admission.enter(self):
            return False
        if self.weight:
            book(admission, self)
        return True

    async def _wait(self) -> None:
        admission = self._admission
        waiter = task_waiter(admission)
        try:
            admission.line_up(self, waiter)
            while self.state is _WAITING:
                await waiter.wait(admission.pause(self))
                admission.tend(self)
            admission.arrived(self)
        except BaseException:
            try:
                admission.abandon(self)
            except BaseException:  # perhaps before it did anything
                admission.abandon(self)
                raise
            raise
        if self.weight:
            book(admission, self)


@final
class AsyncGate(Handle):
    """Where new work waits before it takes memory. For tasks of asyncio and trio; `Gate` is for threads.

    Arguments, errors and what it promises are those of `Gate`.

    Args:
        tracker: Whose books the gate stands on; None with `sharing`.
        sharing: Another gate of either kind: both are one gate then, with one line. No other argument goes with it.
        capacity: As for `Gate`, like all that follow.
        max_concurrent: Permits that may be out at once.
        provider: Readings of real memory.
        high: The share of the real limit above which nobody is admitted.
        hysteresis: How far below `high` it has to fall again.
        on_full: "wait", "reclaim" or "refuse".
        oversized: "alone" or "refuse".
        account: Where weights are claimed.

    Threads:
        Any, and tasks of any loops at once.
    """

    __slots__ = ("__weakref__", "_admission")

    @overload
    def __init__(self, *, sharing: Gate | AsyncGate) -> None: ...

    @overload
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
    ) -> None: ...

    def __init__(
        self, tracker: Tracker | None = None, *, sharing: Gate | AsyncGate | None = None, **given: Any
    ) -> None:
        if sharing is not None:
            if tracker is not None or given:
                raise UsageError("a gate that shares another one's line takes no other argument")
            if not isinstance(sharing, Gate | AsyncGate):
                raise UsageError(f"sharing takes a gate, not {sharing!r}")
            self._admission: Admission = sharing._admission
        else:
            self._admission = Gate(tracker, **given)._admission  # type: ignore[arg-type]  # it says itself what it takes

    def acquire(
        self, weight: int | str | None = None, *, priority: int = 0, account: Account | None = None
    ) -> AsyncPermit:
        """A permit to await, or to enter with `async with`. Nothing happens before that.

        Args:
            weight: Bytes; None takes a slot only.
            priority: Larger goes first.
            account: Where the bytes are claimed; None: in the gate's.

        Raises:
            UsageError: A wrong argument.
            QuotaExceeded: When awaited: the gate refuses, or a hard limit does. Nothing is held.
            AccountClosed: When awaited: the account is closed. Nothing is held.

        Cancellation:
            Nothing is held, and the place in the line is given up. Does not yield to the loop where it need not wait.
        """
        # `make`, without a call.
        permit = new(AsyncPermit)
        permit._admission = self._admission
        frame = _getframe(1)
        permit._code = frame.f_code
        permit._instruction = frame.f_lasti
        permit.weight = 0
        permit.state = _NEW
        if weight is not None or priority is not _PLAIN or account is not None:
            prepare(permit, weight, priority, account)
        return permit

    def acquire_nowait(
        self, weight: int | str | None = None, *, priority: int = 0, account: Account | None = None
    ) -> AsyncPermit:
        """Go in if nobody waits and there is room.

        Raises:
            WouldBlock: It would have to wait.
        """
        permit = make(AsyncPermit, self._admission, _getframe(1))
        prepare(permit, weight, priority, account)
        self._admission.go_in_now(permit)
        return permit

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
        """Change what was given, as `Gate.reconfigure`."""
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
