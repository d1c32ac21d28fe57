"""Items, what they cost, when they came, and the participant that gives them back. Knows nothing of waiting."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import islice, repeat, starmap
from math import inf, nan
from typing import Final, Generic, Literal, TypeAlias, TypeVar

from memquota._core.events import CloseReason
from memquota._core.holdings import CreditLine, Receipt
from memquota._core.ledger import IdleLedger
from memquota._handles import Handle, closed_error
from memquota.account import Account
from memquota.clock import Clock, processor_time
from memquota.errors import UsageError, UsageTypeError, UsageValueError
from memquota.observe.log import log_callback_failure
from memquota.participant import Reclaimed, ReclaimRequest
from memquota.participation import Participation
from memquota.queues._freeing import PIECE, SLICE, in_thread, let_go
from memquota.queues.costs import Cost
from memquota.queues.entries import Entry, byte_seconds_of, enough_of, is_inside, size_of, weighed_entry
from memquota.queues.statistics import QueueStatistics
from memquota.sizes import format_size, parse_size

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


class Buffer(Handle, Generic[T]):
    """Base of the queues: their items on an account's books, and their participant.

    Claim and enqueue are one operation, as are release and dequeue: no signal handler, finalizer or other thread finds
    them apart. The interpreter lets those run when a function begins, when a call returns and when a loop goes round.
    So what belongs together stands together, with nothing of that kind in between:

    1. what may run anybody's code comes first: the cost function, the clock, whatever allocates;
    2. then `_items` is fetched, and only then looked whether the queue is over: who ends it does so in the other order,
       so that nothing goes into a queue that has ended;
    3. an item goes in by the very call after which its bytes are claimed, and comes out by no call at all (`del`).

    The short ways live on the credit of the participation. The long ways do the same in one move of the books. What is
    claimed and not inside because an exception from outside came is noted, and released with the next move.

    Threads:
        One owner: the thread of its event loop, or whoever holds the queue's lock. The tracker calls `oldest_data`,
        `byte_seconds` and `reclaim` from any thread at any moment; they take single steps on the deque, and drop items
        under the lock of the books.

    Callbacks:
        `on_drop` and `on_collapse` run in the thread that reclaims, with no lock held.
    """

    #: The thread that claims for it may call it: no lock of its own is in the way.
    reentrant = True

    __slots__ = (
        "__weakref__",
        "_account",
        "_at_work",
        "_books",
        "_bounded",
        "_claimed",
        "_clock",
        "_cost",
        "_dropped_bytes",
        "_dropped_items",
        "_drops",
        "_farewell",
        "_in_rounds",
        "_items",
        "_limit",
        "_max_bytes",
        "_max_items",
        "_on_collapse",
        "_on_drop",
        "_out",
        "_over",
        "_owed",
        "_part",
        "_plain",
        "_receipt",
        "_reported_bytes",
        "_reported_items",
        "_weighs",
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
        # Entries, oldest first.
        self._items: deque[Entry] = deque()
        self._account = account
        self._books = rounds.books
        self._clock: Clock = account.tracker.clock
        self._cost = cost
        # The type whose items cost their length.
        self._plain: type = bytes if cost is None else _Never
        self._max_items = max_items
        self._max_bytes = size
        # Whether entries carry sums: for a bound in bytes, for policies that judge by area, and where the books count
        # nothing.
        self._weighs = size != inf or not rounds.by_time or isinstance(rounds.books.ledger, IdleLedger)
        self._drops = on_reclaim == "drop_oldest"
        self._on_drop = on_drop
        self._on_collapse = on_collapse
        # Items that were got, less those that were said to be done. Streams never ask.
        self._at_work = 0
        # What "drop_oldest" dropped, and what of that was told. And what it took out that is still claimed. These and
        # the next are changed under the lock of the books.
        self._dropped_items = 0
        self._dropped_bytes = 0
        self._reported_items = 0
        self._reported_bytes = 0
        self._owed = 0
        # The size of the last claim of the long way, and whether it is booked while its item is not inside.
        self._claimed = 0
        self._receipt = Receipt()
        # Entries whose puts run rounds: by their ids, until the end of the queue finds them inside.
        self._in_rounds: dict[int, Entry] = {}
        # Why it is over; None while it is not.
        self._over: CloseReason | None = None
        self._part: Participation = account.register_participant(self)
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

    def _lets_nothing_in(self) -> bool:
        """Whether it was ended by its users. Queues say how."""
        return False

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

    def _check_cost(self, cost: int) -> None:
        """Refuse what would never fit."""
        if cost > self._max_bytes:
            raise UsageValueError(
                f"an item of {format_size(cost)} never fits into a queue of max_bytes "
                f"{format_size(int(self._max_bytes))}"
            )

    def _fits(self, cost: int) -> bool:
        """Whether there is room for another item of that cost beside what is inside."""
        return len(self._items) < self._max_items and self._has_bytes_for(cost)

    def _has_bytes_for(self, cost: int) -> bool:
        return self._max_bytes == inf or self._size() + cost <= self._max_bytes

    def _left_to_do(self) -> int:
        """Items that were put and are not done with; what was dropped is. Not negative for who says so too often."""
        # In this order: in other threads a get in between makes it one too many, not one too few.
        return max(0, len(self._items) + self._at_work)

    def _size(self) -> int:
        """What the items inside cost. O(1)."""
        return size_of(self._items) if self._weighs else self._part._in_use()

    def _entry(self, item: T, cost: int, now: float) -> Entry:
        """The entry of an item that comes now."""
        return weighed_entry(self._items, item, cost, now) if self._weighs else (item, cost, now)

    # The long ways, under the lock of the books.

    def _come_in(self, item: T, cost: int, now: float) -> Entry | Literal[False] | None:
        """Claim and take in an item.

        Returns:
            False when it did not go in: there is no room, or the queue was ended. Its entry when a limit is passed now:
            `_relieve` has to follow.
        """
        self._settle()
        if self._lets_nothing_in() or not self._fits(cost):
            return False
        entry = self._entry(item, cost, now)
        came_in = (entry,)
        items = self._items
        self._claimed = cost
        strained = self._part._book(cost, now, self._receipt)
        items += came_in  # no call, which a signal handler might follow
        self._receipt.booked = False
        if not strained and self._account._rounds.round is None:
            return None
        self._in_rounds[id(entry)] = entry
        return entry

    def _go_out(self) -> Entry | None:
        """Take out and release the oldest item; None when there is none, or the queue is over."""
        self._settle()
        items = self._items
        if not items or not self._part._holding.live:
            return None
        entry = items[0]
        at_work = self._at_work + 1
        self._part._give_back(entry[1])
        # No call, which a signal handler might follow.
        del items[0]
        self._at_work = at_work
        return entry

    def _settle(self) -> None:
        """Release what an exception from outside left claimed. By any thread."""
        if self._receipt.booked:
            self._owed += self._claimed
            self._receipt.booked = False
        if self._owed:
            self._part._give_back_late(self._owed)
            self._owed = 0

    # And with no lock held.

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

    def _take_all(self, gone: list[deque[Entry]]) -> None:
        # Lock: that of the books is held.
        self._settle()
        items, part, empty = self._items, self._part, gone[0]
        part._stop_short_ways()  # which puts cannot take any more
        part._give_back_late(part._in_use())
        self._items = empty
        gone[0] = items

    def _retire(self) -> None:
        """Nobody can use it any more: leave the account."""
        self._part.destroy()
        farewell, self._farewell = self._farewell, None
        if farewell is not None:
            farewell()
            self._books.settle()

    def _statistics(self, putting: int, getting: int) -> QueueStatistics:
        """The queue in numbers, with how many wait."""
        return QueueStatistics(
            len(self._items), self._size(), self._dropped_items, self._dropped_bytes, putting, getting
        )

    # --- for the tracker ----------------------------------------------------------------------------------------------

    def oldest_data(self) -> float | None:
        """When the oldest item came in."""
        try:
            time: float = self._items[0][2]
        except IndexError:
            return None
        return time

    def byte_seconds(self, now: float) -> float:
        """The sum of cost x age over the items, in O(1); NaN where no policy of the tracker asks for it."""
        return byte_seconds_of(self._items, now) if self._weighs else nan

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

    def _drop(self, gone: list[Entry], wanted: int, newest: float) -> None:
        """Drop a few items, but none that came after `newest`. `gone` stays empty where there are none to drop."""
        # Lock: that of the books is held.
        if not self._part._holding.live:
            return
        items = self._items
        gone.extend(islice(items, PIECE))
        size = enough_of(gone, wanted, newest)
        if not gone:
            return
        pops = starmap(items.popleft, repeat((), len(gone)))
        # What allocates comes first; then nothing fails.
        owed, dropped_items, dropped_bytes = (
            self._owed + size,
            self._dropped_items + len(gone),
            self._dropped_bytes + size,
        )
        try:
            if items and items[0] is gone[0]:  # else the owner was faster, and they are looked at anew
                self._owed = owed
                self._dropped_items = dropped_items
                self._dropped_bytes = dropped_bytes
                all(pops)  # pops them all: no entry is empty, and nobody comes between
        finally:
            self._settle()

    def _report(self) -> None:
        """Tell what was dropped."""
        dropped_items, dropped_bytes = self._dropped_items, self._dropped_bytes
        items, size = dropped_items - self._reported_items, dropped_bytes - self._reported_bytes
        if not items:
            return
        self._reported_items, self._reported_bytes = dropped_items, dropped_bytes
        self._wake_everybody()
        if self._on_drop is not None:
            try:
                self._on_drop(items, size)
            except Exception:
                log_callback_failure("on_drop", self._account.name)

    def _end(self, reason: CloseReason) -> None:
        """The account is closed: drop what is inside, and tell. By any thread, with no lock held.

        Where an exception from outside interrupts it, it is begun anew; what others can see of it happens once.
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
