"""The items of a queue and what is claimed for them: both change together. Knows nobody who puts, gets or waits."""

from __future__ import annotations

from collections import deque
from itertools import islice, repeat, starmap
from math import inf, nan
from typing import Generic, Literal, TypeVar

from memquota._books import Books
from memquota._core.holdings import Receipt
from memquota._handles import Handle
from memquota.errors import UsageValueError
from memquota.participation import Participation
from memquota.queues._freeing import PIECE
from memquota.queues.entries import Entry, byte_seconds_of, enough_of, size_of, weighed_entry
from memquota.queues.statistics import QueueStatistics
from memquota.sizes import format_size

__all__ = ["Content"]

T = TypeVar("T")


class Content(Handle, Generic[T]):
    """Items, what they cost and when they came, on the books of an account.

    Claim and enqueue are one operation, as are release and dequeue: no signal handler, finalizer or other thread finds
    them apart. The interpreter lets those run when a function begins, when a call returns and when a loop goes round.
    So what belongs together stands together, with nothing of that kind in between:

    1. what may run anybody's code comes first: the cost function, the clock, whatever allocates;
    2. then `_items` is fetched, and only then looked whether the queue is over: who ends it does so in the other order,
       so that nothing goes into a queue that has ended;
    3. an item goes in by the very call after which its bytes are claimed, and comes out by no call at all (`del`).

    The short ways, in the queues themselves, live on the credit of the participation. The long ways, here, do the same
    in one move of the books. What is claimed and not inside because an exception from outside came is noted, and
    released with the next move.

    Threads:
        One owner: the thread of its event loop, or whoever holds the queue's lock. The tracker calls `oldest_data` and
        `byte_seconds` from any thread at any moment; they take single steps on the deque. Items are dropped by any
        thread under the lock of the books.
    """

    __slots__ = (
        "_at_work",
        "_books",
        "_claimed",
        "_dropped_bytes",
        "_dropped_items",
        "_in_rounds",
        "_items",
        "_max_bytes",
        "_max_items",
        "_owed",
        "_part",
        "_receipt",
        "_weighs",
    )
    #: The handle by which they are claimed: who registers the participant sets it.
    _part: Participation

    def __init__(self, books: Books, max_items: float, max_bytes: float, *, weighs: bool) -> None:
        # Entries, oldest first.
        self._items: deque[Entry] = deque()
        self._books = books
        self._max_items = max_items
        self._max_bytes = max_bytes
        # Whether entries carry sums.
        self._weighs = weighs
        # Items that were got, less those that were said to be done. Streams never ask.
        self._at_work = 0
        # What was dropped. And what was taken out and is still claimed. These and the next are changed under the lock
        # of the books.
        self._dropped_items = 0
        self._dropped_bytes = 0
        self._owed = 0
        # The size of the last claim of the long way, and whether it is booked while its item is not inside.
        self._claimed = 0
        self._receipt = Receipt()
        # Entries whose puts run rounds: by their ids, until the end of the queue finds them inside.
        self._in_rounds: dict[int, Entry] = {}

    def _lets_nothing_in(self) -> bool:
        """Whether it was ended by its users. Queues say how."""
        return False

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

    def _statistics(self, putting: int, getting: int) -> QueueStatistics:
        """The queue in numbers, with how many wait."""
        return QueueStatistics(
            len(self._items), self._size(), self._dropped_items, self._dropped_bytes, putting, getting
        )

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

    # --- the long ways, under the lock of the books -------------------------------------------------------------------

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
        if not strained and self._part._rounds.round is None:
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

    def _take_all(self, gone: list[deque[Entry]]) -> None:
        # Lock: that of the books is held.
        self._settle()
        items, part, empty = self._items, self._part, gone[0]
        part._stop_short_ways()  # which puts cannot take any more
        part._give_back_late(part._in_use())
        self._items = empty
        gone[0] = items

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
