"""The participant of a queue: gives its items back when it is asked, and says who may take the short ways."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Final, Literal, TypeAlias, TypeVar

from memquota._core.events import CloseReason
from memquota._core.holdings import CreditLine
from memquota._core.ledger import IdleLedger
from memquota._handles import closed_error
from memquota.account import Account
from memquota.clock import Clock, processor_time
from memquota.errors import UsageError, UsageTypeError, UsageValueError
from memquota.observe.log import log_callback_failure
from memquota.participant import Reclaimed, ReclaimRequest
from memquota.queues._freeing import SLICE, in_thread, let_go
from memquota.queues.content import Content
from memquota.queues.costs import Cost
from memquota.queues.entries import Entry, is_inside
from memquota.sizes import parse_size

__all__ = ["Buffer", "OnReclaim", "raised_here"]

T = TypeVar("T")

#: What a queue does when it is asked for memory: give up everything, or drop its oldest items.
OnReclaim: TypeAlias = Literal["collapse", "drop_oldest"]

#: The part of what is wanted that is dropped at least, however long it takes: less, twice in a row, is a collapse.
_LEAST_PART: Final = 64
#: As good as no bound on the number of items. Small enough for the interpreter's fast integers.
_UNBOUNDED: Final = 2**29
#: A handle without credit, for who has to take the long way.
_NOBODY: Final = CreditLine()


class _Never:
    """The type of no item."""


def raised_here(error: BaseException) -> bool:
    """Whether the function that caught it raised it, and no signal handler, nor anybody else."""
    return error.__traceback__ is None or error.__traceback__.tb_next is None


class Buffer(Content[T]):
    """Base of the queues: the participant that gives their items back, and who may take the short ways.

    Callbacks:
        `on_drop` and `on_collapse` run in the thread that reclaims, with no lock held.
    """

    #: The thread that claims for it may call it: no lock of its own is in the way.
    reentrant = True

    __slots__ = (
        "__weakref__",
        "_account",
        "_bounded",
        "_clock",
        "_cost",
        "_drops",
        "_farewell",
        "_limit",
        "_on_collapse",
        "_on_drop",
        "_out",
        "_over",
        "_plain",
        "_reported_bytes",
        "_reported_items",
    )

    def __init__(
        self,
        account: Account,
        max_items: int | float,
        max_bytes: int | str | None,
        cost: Cost | None,
        on_reclaim: OnReclaim,
        on_drop: Callable[[int, int], object] | None,
        on_collapse: Callable[[CloseReason], object] | None,
    ) -> None:
        if not isinstance(account, Account):
            raise UsageTypeError(f"a queue needs an account, not {account!r}")
        if on_reclaim not in ("collapse", "drop_oldest"):
            raise UsageValueError(f"on_reclaim must be 'collapse' or 'drop_oldest', not {on_reclaim!r}")
        for what, callback in (("cost", cost), ("on_drop", on_drop), ("on_collapse", on_collapse)):
            if callback is not None and not callable(callback):
                raise UsageTypeError(f"{what} must be callable, not {callback!r}")
        size = inf if max_bytes is None else parse_size(max_bytes, what="max_bytes")
        if size < 1:
            raise UsageValueError("max_bytes of 0 would let nothing in")
        rounds = account._rounds
        # Entries carry sums for a bound in bytes, for policies that judge by area, and where the books count nothing.
        weighs = size != inf or not rounds.by_time or isinstance(rounds.books.ledger, IdleLedger)
        super().__init__(rounds.books, max_items, size, weighs=weighs)
        self._account = account
        self._clock: Clock = account.tracker.clock
        self._cost = cost
        # The type whose items cost their length.
        self._plain: type = bytes if cost is None else _Never
        self._drops = on_reclaim == "drop_oldest"
        self._on_drop = on_drop
        self._on_collapse = on_collapse
        # What was told of what "drop_oldest" dropped.
        self._reported_items = 0
        self._reported_bytes = 0
        # Why it is over; None while it is not.
        self._over: CloseReason | None = None
        self._part = account.register_participant(self)
        # What the short ways look at: whether a put has to look first, at how many items it takes the long way, and the
        # credit that a get may use.
        self._bounded = True
        self._limit = 0
        self._out: CreditLine = self._part
        weakly = weakref.ref(self)

        def closed(reason: CloseReason) -> None:
            buffer = weakly()
            if buffer is not None:
                buffer._end(reason)

        forget = account._call_at_end(closed, restartable=True)
        self._farewell: Callable[[], object] | None = partial(rounds.books.note, partial(forget))

    def __del__(self) -> None:
        # Uses no global name: they may be gone at exit. Appends a note, as a finalizer may run anywhere.
        farewell = getattr(self, "_farewell", None)
        if farewell is not None:
            farewell()

    # --- for the queues, which own it ---------------------------------------------------------------------------------

    def _needs_care(self) -> bool:
        """Whether every put has to take the long way just now. Queues add their own reasons."""
        return self._over is not None or self._weighs or self._lets_nothing_in()

    def _needs_room(self) -> bool:
        """Whether somebody waits for an item to leave, so that every get has to take the long way."""
        return False

    def _wake_everybody(self) -> None:
        """Let everybody who waits look again. Any thread."""

    def _adjust(self) -> None:
        """Decide anew who may take the short ways. After every change of what the questions above ask."""
        most = min(_UNBOUNDED, self._max_items)
        if not self._needs_care():
            self._limit, self._bounded = int(most), most < _UNBOUNDED
        if self._needs_care():  # or does, meanwhile, by another thread or a signal handler
            self._limit, self._bounded = 0, True
        self._out = _NOBODY if self._needs_room() else self._part

    def _check_over(self) -> None:
        """Raise when it is over: MemoryReclaimed when it gave up its memory."""
        holding = self._part._holding
        if self._over is not None or not holding.live:
            raise closed_error(holding.node, holding)

    def _relieve(self, entry: Entry) -> None:
        """Have the round run that is due after an item came in.

        Raises:
            MemoryReclaimed: It took the queue, and the item.
        """
        lost = False
        try:
            self._account._rounds.relieve(self._part._holding)
            if not self._part._holding.live:
                # The end takes out what it finds inside; nobody else gets anything any more.
                lost = is_inside(entry, self._items) or id(entry) not in self._in_rounds
        except MemoryError:  # the item is inside all the same: the next claim goes on with the round
            pass
        finally:
            self._in_rounds.pop(id(entry), None)
        if lost:
            self._check_over()

    def _interrupted(self) -> None:
        """An exception from outside came into a long way: finish what it left, and wake whom it was to wake."""
        self._books.soon(self._settle)
        self._wake_everybody()

    def _give_up(self) -> None:
        """Give up what is inside, which counts as done, and tell who waits. Only when nothing can come in any more."""
        gone: list[deque[Entry]] = [deque()]
        try:
            self._books.enter(self._take_all, gone)
        except UsageError:  # a signal handler or a finalizer in the middle of a move of this very thread
            in_thread(self._give_up)
            return
        self._wake_everybody()
        let_go(gone.pop())

    def _retire(self) -> None:
        """Nobody can use it any more: leave the account."""
        self._part.destroy()
        farewell, self._farewell = self._farewell, None
        if farewell is not None:
            farewell()
            self._books.settle()

    # --- for the tracker ----------------------------------------------------------------------------------------------

    def reclaim(self, request: ReclaimRequest) -> Reclaimed:
        """Collapse: everything goes when the account closes, in a moment. Or drop the oldest items."""
        if not self._drops:
            return Reclaimed.COLLAPSING
        wanted = request.bytes_wanted
        before = self._dropped_bytes
        started = processor_time()
        try:
            while (freed := self._dropped_bytes - before) < wanted:
                if freed * _LEAST_PART >= wanted and processor_time() - started > SLICE:
                    break  # it will be asked again, for the rest
                gone: list[Entry] = []  # the piece before is freed here, with no lock held
                self._books.enter(self._drop, gone, wanted - freed, request.newest_to_discard)
                if not gone:
                    break
        except BaseException:
            self._books.soon(self._settle)
            raise
        finally:
            self._report()
        return Reclaimed.PARTIAL

    def _report(self) -> None:
        """Tell what was dropped."""
        if self._dropped_items == self._reported_items:
            return
        self._wake_everybody()  # first: it is done again where it fails
        dropped_items, dropped_bytes = self._dropped_items, self._dropped_bytes
        items, size = dropped_items - self._reported_items, dropped_bytes - self._reported_bytes
        if not items:  # another thread was faster
            return
        self._reported_items, self._reported_bytes = dropped_items, dropped_bytes
        if self._on_drop is not None:
            try:
                self._on_drop(items, size)
            except Exception:
                log_callback_failure("on_drop", self._account.name)

    def _end(self, reason: CloseReason) -> None:
        """The account is closed: drop what is inside, and tell. By any thread, with no lock held.

        Where an exception from outside interrupts it, or memory runs out, it is begun anew; what others can see of it
        happens once.
        """
        self._over = reason
        self._limit, self._bounded = 0, True
        for key, entry in tuple(self._in_rounds.items()):
            if is_inside(entry, self._items):
                self._in_rounds.pop(key, None)
        items, self._items = self._items, deque()
        lost = len(items)
        self._at_work += lost  # nobody will ever be done with them
        self._wake_everybody()
        on_collapse, self._on_collapse = self._on_collapse, None
        if on_collapse is not None:
            try:
                on_collapse(reason)
            except Exception:
                log_callback_failure("on_collapse", self._account.name)
        let_go(items)
