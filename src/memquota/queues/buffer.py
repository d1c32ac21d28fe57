"""Items, what they cost, when they came, and the participant that gives them back. Knows nothing of waiting."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import chain
from math import inf, nan
from operator import itemgetter
from threading import Event, Thread
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

from attrs import frozen

from memquota._books import closed_error
from memquota._core.events import CloseReason
from memquota._core.holdings import CreditLine
from memquota._core.ledger import IdleLedger
from memquota.account import Account
from memquota.clock import Clock, processor_time
from memquota.errors import UsageError, UsageTypeError, UsageValueError
from memquota.observe.log import log_callback_failure
from memquota.participant import Reclaimed, ReclaimRequest
from memquota.participation import Participation
from memquota.queues.costs import Cost
from memquota.sizes import format_size, parse_size

__all__ = ["Buffer", "OnReclaim", "QueueStatistics"]

T = TypeVar("T")

#: What a queue does when it is asked for memory: give up everything, or drop its oldest items.
OnReclaim: TypeAlias = Literal["collapse", "drop_oldest"]

#: An item, what it costs, and when it came. Where the buffer weighs, also the sums of cost and of cost x time over all
#: that came before it since the buffer was empty.
Entry: TypeAlias = "tuple[Any, ...]"

#: Items that are dropped in one move of the books, or freed in one go: far below 1 ms.
_PIECE: Final = 256
#: How long dropping and freeing hold up a thread, or an event loop, at a stretch, in seconds.
_SLICE: Final = 0.003
#: The part of what is wanted that is dropped at least, however long it takes: less, twice in a row, is a collapse.
_LEAST_PART: Final = 64
#: As good as no bound on the number of items. Small enough for the interpreter's fast integers.
_UNBOUNDED: Final = 2**29
#: A handle without credit, for who has to take the long way.
_NOBODY: Final = CreditLine()
_cost_of_entry: Final = itemgetter(1)


class _Never:
    """The type of no item."""


@frozen
class QueueStatistics:
    """A queue in numbers.

    Attributes:
        items: How many are inside.
        bytes: What they cost, with their entries.
        dropped_items: How many were dropped for want of memory, by "drop_oldest".
        dropped_bytes: What these cost.
        waiting_to_put: How many tasks or threads wait to put.
        waiting_to_get: And to get.
    """

    items: int
    bytes: int
    dropped_items: int
    dropped_bytes: int
    waiting_to_put: int
    waiting_to_get: int


class Buffer(Generic[T]):
    """Base of the queues: their items on an account's books, and their participant.

    Claim and enqueue are one operation, as are release and dequeue: in between, no signal handler, finalizer or other
    thread that respects the owner finds them apart. The queues write them out where each call counts, in this order:

    1. what may run anybody's code comes first: the cost function, the clock, whatever allocates;
    2. then `_items` is fetched, and only then looked whether the queue is over: who ends it does so in the other order,
       so that nothing goes into a queue that has ended;
    3. then there is no call between the credit's way down and the entry's way in, nor between an entry's way out and
       the credit's way up. An exception from outside that comes between them all the same (MemoryError, or Ctrl-C in
       the very call that takes an entry out) is followed by `_interrupted`.

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
        "_bounded",
        "_claiming",
        "_clock",
        "_cost",
        "_dropped_bytes",
        "_dropped_items",
        "_drops",
        "_farewell",
        "_items",
        "_leaving",
        "_limit",
        "_max_bytes",
        "_max_items",
        "_on_collapse",
        "_on_drop",
        "_out",
        "_over",
        "_part",
        "_plain",
        "_torn",
        "_unfinished",
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
        # What was given up and is still claimed.
        self._leaving: deque[Entry] = deque()
        self._account = account
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
        # Items that came in, less those that were said to be done.
        self._unfinished = 0
        # Changed under the lock of the books.
        self._dropped_items = 0
        self._dropped_bytes = 0
        # Why it is over; None while it is not.
        self._over: CloseReason | None = None
        # Whether the books may say too much after an interruption; and puts that have claimed and are not inside yet,
        # which a recount would not find.
        self._torn = False
        self._claiming = 0
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

        self._farewell: Callable[[], object] | None = partial(rounds.books.note, partial(account.on_close(closed)))

    def __del__(self) -> None:
        # Uses no global name: they may be gone at exit. Appends a note, as a finalizer may run anywhere.
        farewell = getattr(self, "_farewell", None)
        if farewell is not None:
            farewell()

    # --- for the queues, which own it ---------------------------------------------------------------------------------

    def _needs_care(self) -> bool:
        """Whether every put has to take the long way just now. Queues add their own reasons."""
        return self._over is not None or self._torn or self._weighs

    def _needs_room(self) -> bool:
        """Whether somebody waits for an item to leave, so that every get has to take the long way."""
        return False

    def _wake_everybody(self) -> None:
        """Let everybody who waits look again. Any thread."""

    def _adjust(self) -> None:
        """Decide anew who may take the short ways. After every change of what the two questions above ask."""
        most = min(_UNBOUNDED, self._max_items)
        if self._needs_care():
            self._limit, self._bounded = 0, True
        else:
            self._limit, self._bounded = int(most), most < _UNBOUNDED
            if self._over is not None:  # by another thread, meanwhile
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
        return len(self._items) < self._max_items and (self._max_bytes == inf or self._size() + cost <= self._max_bytes)

    def _size(self) -> int:
        """What the items inside cost. O(1)."""
        if not self._weighs:
            return self._part._in_use()
        try:
            first, last = self._items[0], self._items[-1]
        except IndexError:
            return 0
        size: int = last[3] + last[1] - first[3]
        return size

    def _entry(self, item: T, cost: int, now: float) -> Entry:
        """The entry of an item that comes now."""
        if not self._weighs:
            return item, cost, now
        try:
            last = self._items[-1]
        except IndexError:
            return item, cost, now, 0, 0.0
        return item, cost, now, last[3] + last[1], last[4] + last[1] * last[2]

    def _took(self, entry: Entry) -> None:
        """Release what was taken out, where its credit has no room for it. With no lock held."""
        self._part.release(entry[1])

    def _not_put(self, items: deque[Entry], entry: Entry) -> None:
        """An exception from outside interrupted a put that had been counted, before or after the entry went in."""
        if not (items and items[-1] is entry):
            self._unfinished -= 1
        self._interrupted()

    def _not_got(self, entry: Entry, error: BaseException) -> None:
        """An exception from outside interrupted a get after the entry came out: undo it if that can still be.

        Raises:
            BaseException: The error. Where it is one of our own surroundings (MemoryError) and the bytes are released
                already, nothing: then the get has succeeded.
        """
        self._interrupted(entry)
        if not isinstance(error, Exception) or (self._items and self._items[0] is entry):
            raise error

    def _interrupted(self, entry: Entry | None = None) -> None:
        """An exception from outside came between the books and the items: let the books say what is inside.

        Args:
            entry: Came out, and goes back where the books say that its bytes are still claimed.
        """
        self._tear()
        self._mend(entry)

    def _tear(self) -> None:
        """Let the next put recount."""
        self._torn = True
        self._limit, self._bounded = 0, True

    def _mend(self, entry: Entry | None = None) -> None:
        """Recount after an interruption; where that cannot be now, the next put does it. Never raises UsageError."""
        if self._claiming:
            return
        books = self._account._rounds.books
        try:
            books.enter_quietly(self._recount, entry)
        except UsageError:  # in the middle of a move of this very thread
            return
        self._torn = False
        self._adjust()
        self._free_detached()
        self._wake_everybody()  # the interrupted call may have been about to

    def _recount(self, entry: Entry | None) -> None:
        # Lock: that of the books is held, under which others drop items.
        part = self._part
        if part._holding.live and not part._closed:
            excess = part._in_use() - sum(map(_cost_of_entry, chain(self._items, self._leaving)))
            if entry is not None and excess >= entry[1]:
                excess -= entry[1]
                self._items.appendleft(entry)
            if excess > 0:
                part._give_back_late(excess)

    def _retire(self) -> None:
        """Nobody can use it any more: leave the account."""
        self._part.destroy()
        farewell, self._farewell = self._farewell, None
        if farewell is not None:
            farewell()
            self._account._rounds.books.settle()

    def _statistics(self, putting: int, getting: int) -> QueueStatistics:
        """The queue in numbers, with how many wait."""
        return QueueStatistics(
            len(self._items), self._size(), self._dropped_items, self._dropped_bytes, putting, getting
        )

    def _detach(self) -> None:
        """Give up what is inside, which counts as done. `_free_detached` has to follow, without a lock."""
        empty: deque[Entry] = deque()
        count = len(self._items)
        if self._leaving:
            self._items.extendleft(reversed(self._leaving))
        self._leaving, self._items = self._items, empty
        self._unfinished -= count

    def _free_detached(self) -> None:
        """Free what was given up, and release it as it goes."""
        try:
            if self._leaving:
                _let_go(self._take_leaving)
        except BaseException:
            self._tear()
            raise

    def _take_leaving(self, gone: list[Entry]) -> None:
        self._account._rounds.books.enter(self._release_leaving, gone)

    def _release_leaving(self, gone: list[Entry]) -> None:
        # Lock: that of the books is held, so that no recount comes between the items and their bytes.
        _move_some(self._leaving, gone)
        self._part._give_back_late(sum(map(_cost_of_entry, gone)))

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
        if not self._weighs:
            return nan
        try:
            first, last = self._items[0], self._items[-1]
        except IndexError:
            return 0.0
        size = last[3] + last[1] - first[3]
        moments = last[4] + last[1] * last[2] - first[4]
        return max(0.0, float(now * size - moments))

    def reclaim(self, request: ReclaimRequest) -> Reclaimed:
        """Collapse: everything goes when the account closes, in a moment. Or drop the oldest items."""
        if not self._drops:
            return Reclaimed.COLLAPSING
        wanted = request.bytes_wanted
        freed = count = 0
        started = processor_time()
        try:
            while freed < wanted:
                # What is dropped is freed right here, after each piece, with no lock held.
                items, size = self._drop(wanted - freed, request.newest_to_discard)
                if not items:
                    break
                freed += size
                count += items
                if processor_time() - started > _SLICE and freed * _LEAST_PART >= wanted:
                    break  # it will be asked again, for the rest
        finally:
            if count:
                self._dropped(count, freed)
        return Reclaimed.PARTIAL

    def _drop(self, wanted: int, newest: float) -> tuple[int, int]:
        """Drop a few items, but none that came after `newest`. Returns how many, and what they cost."""
        gone: list[Entry] = []
        books = self._account._rounds.books
        counted = self._dropped_items
        try:
            books.enter(self._take_out, gone, wanted, newest)
        except BaseException:
            if gone and self._dropped_items == counted:
                books.enter(self._account_for, gone)
            elif gone:  # perhaps not released
                self._tear()
            raise
        return len(gone), sum(map(_cost_of_entry, gone))

    def _take_out(self, gone: list[Entry], wanted: int, newest: float) -> None:
        # Lock: that of the books is held, so that no recount comes between the items and their bytes.
        items = self._items
        size = 0
        while size < wanted and len(gone) < _PIECE:
            try:
                if items[0][2] > newest:
                    break
                entry = items.popleft()
            except IndexError:  # empty, or the owner was faster
                break
            gone.append(entry)
            size += entry[1]
        self._account_for(gone)

    def _account_for(self, gone: list[Entry]) -> None:
        count = len(gone)
        size = sum(map(_cost_of_entry, gone))
        self._dropped_items += count
        self._dropped_bytes += size
        self._part._give_back_late(size)

    def _dropped(self, items: int, size: int) -> None:
        self._wake_everybody()
        if self._on_drop is not None:
            try:
                self._on_drop(items, size)
            except Exception:
                log_callback_failure("on_drop", self._account.name)

    def _end(self, reason: CloseReason) -> None:
        """The account is closed. In the thread that closed it, with no lock held."""
        if self._over is not None:
            return
        self._over = reason
        self._limit, self._bounded = 0, True
        items, self._items = self._items, deque()
        self._wake_everybody()
        if self._on_collapse is not None:
            try:
                self._on_collapse(reason)
            except Exception:
                log_callback_failure("on_collapse", self._account.name)
        _let_go(partial(_move_some, items))


# --- freeing ----------------------------------------------------------------------------------------------------------


def _let_go(take: Callable[[list[Entry]], object]) -> None:
    """Free the items that `take` puts into a list: at once if that is quick, the rest in a thread of its own."""
    started = processor_time()
    try:
        while _free_some(take):
            if processor_time() - started > _SLICE:
                break
        else:
            return
    except UsageError:  # a finalizer in the middle of a move of this very thread: what is to be released has to wait
        pass
    try:
        Thread(target=_free_slowly, args=(take,), name="memquota-free", daemon=True).start()
    except RuntimeError:  # no more threads, or the interpreter ends
        while _free_some(take):
            pass


def _free_slowly(take: Callable[[list[Entry]], object]) -> None:
    breath = Event()
    while _free_some(take):
        breath.wait(0.0002)  # others run


def _free_some(take: Callable[[list[Entry]], object]) -> bool:
    gone: list[Entry] = []
    take(gone)
    return bool(gone)


def _move_some(items: deque[Entry], gone: list[Entry]) -> None:
    try:
        for _ in range(_PIECE):
            gone.append(items.popleft())  # noqa: PERF401  # may end in the middle
    except IndexError:
        pass
