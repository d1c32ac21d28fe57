"""What its holder has while it is inside a gate."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import islice
from types import CodeType, FrameType, TracebackType
from typing import Final, Self, TypeVar

from memquota._core.holdings import PinnedHolding
from memquota._core.waiting_line import Ticket, TicketState
from memquota._handles import Handle, checked_priority, checked_size
from memquota._rounds import Demand
from memquota.account import Account
from memquota.errors import UsageTypeError, UsageValueError, size_text
from memquota.gates.admission import Admission
from memquota.gates.booking import adjust
from memquota.gates.wakeups import Waiter
from memquota.sizes import parse_size

__all__ = ["NOT_TAKEN", "Permit", "make", "new", "prepare"]

_INSIDE: Final = TicketState.INSIDE
_GONE: Final = TicketState.GONE
#: What a slot that is not there any more raises when it is taken, or a list that has no memory to become smaller.
NOT_TAKEN: Final = (IndexError, MemoryError)


class Permit(Ticket, Handle):
    """The right to be inside a gate, with the bytes that come with it, until it is released.

    Made by `Gate.acquire` and `AsyncGate.acquire`; a context manager that releases it. One that is dropped without
    being released gives everything back when it is collected, with a ResourceWarning that names where it was acquired.
    It keeps the gate and its account.

    Threads:
        `release` may be called from any thread, by signal handlers and finalizers too; `adjust` by one at a time.
    """

    # A slot, so that noting it takes no memory: the permit that was noted before it; only where it is noted itself.
    __slots__ = ("later",)
    later: Permit | None

    #: How it is woken while it waits.
    waiter: Waiter | None = None
    #: The account of the caller, which stays open with it.
    account: Account | None = None
    #: The round that is asked for on its behalf, the state of the books then, and where one found nobody left.
    demand: Demand | None = None
    paid_at = -1
    barren_at = -1

    #: Ends the watch over that account, which lasts while it waits.
    unwatch: Callable[[], None] | None = None
    #: Where its bytes are in the books: an account of the caller, or None for the gate's.
    pinned: PinnedHolding | None = None
    weight = 0
    _admission: Admission
    # Where it was acquired: the line is looked up when somebody asks.
    _code: CodeType
    _instruction: int

    def __init__(self) -> None:
        raise TypeError("permits are made by Gate.acquire and AsyncGate.acquire")

    @property
    def holding(self) -> PinnedHolding:
        """Where its bytes are in the books."""
        return self.pinned if self.pinned is not None else self._admission.holding

    @property
    def barred(self) -> bool:
        """Whether its account is closed, so that its bytes cannot be claimed."""
        return self.weight > 0 and self.holding.node.ended is not None

    @property
    def released(self) -> bool:
        """Whether it was given back."""
        return self.state is TicketState.GONE

    @property
    def where(self) -> str:
        """Where it was acquired: file and line."""
        return f"{self._code.co_filename}:{self._line()}"

    def release(self) -> None:
        """Give everything back and let in whoever is next. Does nothing the second time."""
        self.__exit__(None, None, None)

    def adjust(self, actual: int | str) -> None:
        """Say how many bytes it really takes. May pass the gate's capacity: nobody is admitted until that is over.

        Raises:
            UsageError: A wrong size, or the permit is not held. Nothing was changed.
            QuotaExceeded: A hard limit refuses. Nothing was changed.
            AccountClosed: The account is closed. Nothing was changed.
        """
        size = parse_size(actual, what="weight") if isinstance(actual, str) else checked_size(actual, "adjust")
        adjust(self._admission, self, size)

    def __enter__(self) -> Self:
        if self.state is not _INSIDE:
            raise UsageValueError(f"a permit that is {self.state.value} cannot be entered; in async code: `async with`")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # As `release`, without a call.
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

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {size_text(self.weight)}, {self.state.value}>"

    def __del__(self, _inside: TicketState = _INSIDE) -> None:
        if self.state is _inside or (self.weight and self.booked):
            held = self.state is _inside
            self._admission.drop(self)
            if held:
                warnings.warn_explicit(
                    f"a permit of {size_text(self.weight)} was dropped without being released",
                    ResourceWarning,
                    self._code.co_filename,
                    self._line(),
                )

    def _line(self) -> int:
        # Not `co_lines`: without memory CPython 3.11 crashes in there.
        line, *_ = next(islice(self._code.co_positions(), self._instruction // 2, None), (None,))
        return self._code.co_firstlineno if line is None else line


P = TypeVar("P", bound=Permit)
new: Final = object.__new__


def make(kind: type[P], admission: Admission, frame: FrameType) -> P:
    """A permit that is not let in yet, acquired in this frame."""
    permit = new(kind)
    permit._admission = admission
    permit._code = frame.f_code
    permit._instruction = frame.f_lasti
    # The default, but what is not found in the object itself is slow to look up.
    permit.weight = 0
    permit.state = TicketState.NEW
    return permit


def prepare(permit: Permit, weight: int | str | None, priority: int, account: Account | None) -> None:
    """Check the arguments of `acquire` and put them into its permit.

    Raises:
        UsageError: One is wrong.
    """
    if weight is not None:
        size = parse_size(weight, what="weight") if isinstance(weight, str) else checked_size(weight, "acquire")
        if not size:
            raise UsageValueError("a weight must be at least 1 byte; without one, a permit takes a slot only")
        permit.weight = size
    permit.priority = checked_priority(priority)
    if account is not None:
        if not isinstance(account, Account):
            raise UsageTypeError(f"acquire takes an account, not {account!r}")
        if account._rounds is not permit._admission.rounds:
            raise UsageValueError(f"account {account.name!r} belongs to another tracker than the gate")
        permit.account = account
        permit.pinned = PinnedHolding(account._node, "permit")
