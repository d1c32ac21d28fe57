"""AsyncQueue: the interface of asyncio.Queue on a memory quota, also on trio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar, final

from memquota._core.events import CloseReason
from memquota.account import Account
from memquota.errors import MemoryQuotaError
from memquota.queues._waiting import Line
from memquota.queues.bounds import queue_bound
from memquota.queues.buffer import Buffer, OnReclaim, raised_here
from memquota.queues.costs import ENTRY_COST, Cost, cost_of
from memquota.queues.entries import Entry
from memquota.queues.shutdown import QueueShutDown
from memquota.queues.statistics import QueueStatistics

__all__ = ["AsyncQueue", "TaskBuffer"]

T = TypeVar("T")


class TaskBuffer(Buffer[T]):
    """A buffer with lines of tasks that wait to put and to get; its owner is the event loop."""

    __slots__ = ("_getters", "_putters")

    def __init__(self, account: Account, max_items: float, *options: Any) -> None:
        self._putters = Line()
        self._getters = Line()
        super().__init__(account, max_items, *options)
        self._adjust()

    def _needs_care(self) -> bool:
        return super()._needs_care() or bool(self._getters.waiters) or bool(self._putters.waiters)

    def _needs_room(self) -> bool:
        return bool(self._putters.waiters)

    def _wake_everybody(self) -> None:
        self._getters.missed = True
        self._putters.wake_all()
        self._getters.wake_all()

    def _check_over(self) -> None:
        if self._has_missed():
            self._wake_everybody()
        super()._check_over()

    def _has_missed(self) -> bool:
        """Whether somebody may wait in vain, as there was no memory to wake him."""
        return self._putters.missed or self._getters.missed

    def _check_put(self) -> None:
        """Raise when nothing may go in any more."""
        self._check_over()

    def _put_carefully(self, item: T, cost: int) -> bool:
        """Put where something has to be looked at first, or where credit is short. False: it has to wait."""
        self._check_put()
        self._check_cost(cost)
        return self._putters.first() is None and self._fits(cost) and self._take_in(item, cost)

    def _take_in(self, item: T, cost: int) -> bool:
        """Take in an item that may go in, and wake who waits for it. False: it may not any more."""
        now = self._clock()
        try:
            entry = self._books.enter(self._come_in, item, cost, now)
            if entry is not False and self._getters.waiters:
                self._getters.wake()
        except MemoryQuotaError:
            raise
        except BaseException:
            self._interrupted()
            raise
        if entry is False:  # a signal handler or finalizer was faster
            self._check_put()
            return False
        if entry is not None:
            self._relieve(entry)
        return True

    def _take_out(self) -> Entry | None:
        """Take out the oldest item where credit has no room for its cost, or somebody waits for room."""
        if self._has_missed():
            self._wake_everybody()
        try:
            entry = self._books.enter(self._go_out)
            if entry is not None and self._putters.waiters:
                self._putters.wake()
        except MemoryQuotaError:
            raise
        except BaseException:
            self._interrupted()
            raise
        return entry


@final
class AsyncQueue(TaskBuffer[T]):
    """A queue between tasks with the interface of `asyncio.Queue`, whose items are on an account's books.

    Args:
        account: Where its items are claimed. The queue keeps it open.
        maxsize: Most items inside; 0 for no such bound.
        max_bytes: Most bytes inside, by cost with entries; None for no such bound.
        cost: What an item costs in bytes, without its entry; None for `memquota.queues.item_cost`.
        on_reclaim: What to do when asked for memory: "collapse" or "drop_oldest".
        on_drop: Called with the number and bytes of items that "drop_oldest" dropped.
        on_collapse: Called once with the reason when the account closes, whatever closes it.

    Raises:
        UsageError: A wrong argument.
        AccountClosed: The account is closed.

    Threads:
        One event loop at a time, of asyncio or trio, like any asyncio queue. The tracker may reclaim from any thread.

    Cancellation:
        A cancelled `put` has put nothing, a cancelled `get` has taken nothing, and their place goes to the next.
        `put` and `get` do not yield when they need not wait, as in asyncio.

    Callbacks:
        `cost` is called by `put`; `on_drop` and `on_collapse` by whoever runs the round, from any thread, with no lock
        held.
    """

    __slots__ = ("_joiners", "_last_end", "_maxsize", "_shut_down")

    def __init__(
        self,
        account: Account,
        maxsize: int = 0,
        *,
        max_bytes: int | str | None = None,
        cost: Cost | None = None,
        on_reclaim: OnReclaim = "collapse",
        on_drop: Callable[[int, int], object] | None = None,
        on_collapse: Callable[[CloseReason], object] | None = None,
    ) -> None:
        bound = queue_bound(maxsize)
        self._maxsize = maxsize
        self._joiners = Line()
        # Stands for the last moment in which everything was done: who joined before has nothing to wait for any more.
        self._last_end = object()
        self._shut_down = False
        super().__init__(account, bound, max_bytes, cost, on_reclaim, on_drop, on_collapse)

    # --- putting ------------------------------------------------------------------------------------------------------

    def put_nowait(self, item: T) -> None:
        """Put an item without waiting. Never overtakes a `put` that waits.

        Raises:
            asyncio.QueueFull: There is no room, or others wait for it.
            UsageError: The item alone is above `max_bytes`.
            QueueShutDown: The queue was shut down.
            QuotaExceeded: A hard limit refuses.
            MemoryReclaimed: The account gave up its memory, perhaps for this very item. AccountClosed: it is closed.
            Exception: What the cost function raises passes through.
            In each case nothing was put.
        """
        # See Content for the order of these steps.
        cost = len(item) + ENTRY_COST if type(item) is self._plain else cost_of(item, self._cost)  # type: ignore[arg-type]
        entry = (item, cost, self._clock())
        items = self._items
        part = self._part
        if (self._bounded and (len(items) >= self._limit or items is not self._items)) or (
            left := (credit := part._credit) - cost
        ) < 0:
            if not self._put_carefully(item, cost):
                raise asyncio.QueueFull
            return
        part._credit = left
        try:
            items.append(entry)
        except MemoryError as error:
            if raised_here(error):
                part._credit = credit
            raise

    async def put(self, item: T) -> None:
        """Put an item, after those who wait already. Errors as for `put_nowait`, but for QueueFull."""
        cost = cost_of(item, self._cost)
        inside = self._put_carefully(item, cost)
        again = False
        while not inside:
            await self._putters.turn(lambda: self._fits(cost), self._check_put, self._adjust, first=again)
            inside = self._take_in(item, cost)
            again = True

    def _check_put(self) -> None:
        self._check_over()
        if self._shut_down:
            raise QueueShutDown

    def _lets_nothing_in(self) -> bool:
        return self._shut_down

    # --- getting ------------------------------------------------------------------------------------------------------

    def get_nowait(self) -> T:
        """Take out the oldest item.

        Raises:
            asyncio.QueueEmpty: There is none.
            QueueShutDown: There is none, and there will be none.
            MemoryReclaimed: The account gave up its memory. AccountClosed: it is closed.
        """
        # See Content for the order of these steps.
        items = self._items
        line = self._out
        try:
            entry = items[0]
        except IndexError:
            found = None
        else:
            at_work = self._at_work + 1
            credit = line._credit + entry[1]
            if credit <= line._cap:
                del items[0]
                line._credit = credit
                self._at_work = at_work
                return entry[0]  # type: ignore[no-any-return]
            found = self._take_out()
        if found is None:
            self._check_get()
            raise asyncio.QueueEmpty
        return found[0]  # type: ignore[no-any-return]

    async def get(self) -> T:
        """Take out the oldest item, after those who wait already. Errors as for `get_nowait`, but for QueueEmpty."""
        again = False
        while True:
            if self._items and (again or not self._getters.waiters):
                try:
                    return self.get_nowait()
                except asyncio.QueueEmpty:  # dropped in this very moment, by another thread
                    pass
            await self._getters.turn(self._has_items, self._check_get, self._adjust, first=again)
            again = True

    def _has_items(self) -> bool:
        return bool(self._items)

    def _check_get(self) -> None:
        self._check_over()
        if self._shut_down and not self._items:
            raise QueueShutDown

    # --- keeping track ------------------------------------------------------------------------------------------------

    def task_done(self) -> None:
        """Say that an item that was got is done with.

        Raises:
            ValueError: Called more often than there were items.
        """
        if self._left_to_do() <= 0:
            raise ValueError("task_done() called too many times")
        self._at_work -= 1
        if not self._left_to_do():
            self._all_done()

    async def join(self) -> None:
        """Wait until every item was got and done with; what was dropped counts as done.

        Raises:
            MemoryReclaimed: The account gave up its memory before. AccountClosed: it was closed.
        """
        if self._left_to_do():
            last_end = self._last_end
            await self._joiners.turn(lambda: self._last_end is not last_end, self._check_over, self._adjust)

    def _has_missed(self) -> bool:
        return self._putters.missed or self._getters.missed or self._joiners.missed

    def _all_done(self) -> None:
        self._last_end = object()
        self._joiners.wake_all()

    def shutdown(self, immediate: bool = False) -> None:
        """Let nothing in any more; getters get what is inside, then QueueShutDown; immediately: that goes, too."""
        self._putters.missed = True  # in case there is no memory to go on
        self._shut_down = True
        self._adjust()
        self._wake_everybody()
        if immediate:
            self._give_up()

    def _wake_everybody(self) -> None:
        self._putters.missed = True  # as in `shutdown`
        super()._wake_everybody()
        if self._left_to_do():
            self._joiners.wake_all()
        else:
            self._all_done()

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def maxsize(self) -> int:
        """Most items inside; 0 or less for no bound."""
        return self._maxsize

    def qsize(self) -> int:
        """How many items are inside."""
        return len(self._items)

    def empty(self) -> bool:
        """Whether there is none."""
        return not self._items

    def full(self) -> bool:
        """Whether an empty item would have to wait, for room or for others."""
        return self._putters.first() is not None or not self._fits(ENTRY_COST)

    def statistics(self) -> QueueStatistics:
        """The queue in numbers."""
        return self._statistics(len(self._putters), len(self._getters))

    def __repr__(self) -> str:
        return f"<AsyncQueue of {self.qsize()} in account {self._account.name!r}>"
