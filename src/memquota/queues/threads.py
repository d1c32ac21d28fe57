"""Queue: the interface of queue.Queue on a memory quota."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar, final
from weakref import WeakSet

from memquota._core.events import CloseReason
from memquota.account import Account
from memquota.clock import monotonic
from memquota.errors import MemoryQuotaError
from memquota.queues._freeing import in_thread
from memquota.queues._thread_lines import ThreadLines
from memquota.queues.bounds import queue_bound
from memquota.queues.buffer import Buffer, OnReclaim, raised_here
from memquota.queues.costs import ENTRY_COST, Cost, cost_of
from memquota.queues.entries import Entry
from memquota.queues.shutdown import ShutDown
from memquota.queues.statistics import QueueStatistics

__all__ = ["Queue"]

T = TypeVar("T")


@final
class Queue(Buffer[T]):
    """A queue between threads with the interface of `queue.Queue`, whose items are on an account's books.

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
        Any. Those who wait are served first come first served. Signal handlers and finalizers may use it without
        waiting; in the middle of a move of the tracker's books by their own thread, UsageError refuses all but
        `shutdown` and questions. In a child process after `fork` the queue is as it was, and nobody waits.

    Callbacks:
        `cost` is called by `put`; `on_drop` and `on_collapse` by whoever runs the round. No lock is held.
    """

    __slots__ = ("_getters", "_is_shutdown", "_lines", "_lock", "_maxsize", "_putters")

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
        self._is_shutdown = False
        self._open_lines()
        super().__init__(account, bound, max_bytes, cost, on_reclaim, on_drop, on_collapse)
        self._adjust()
        _all_queues.add(self)

    def _open_lines(self) -> None:
        self._lines = ThreadLines()
        self._lock = self._lines.lock
        self._putters = self._lines.putters
        self._getters = self._lines.getters

    # --- putting ------------------------------------------------------------------------------------------------------

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put an item.

        Args:
            item: The item.
            block: Whether to wait for room.
            timeout: How long, in seconds; None for as long as it takes.

        Raises:
            queue.Full: There is no room, or there was none in time.
            ValueError: A negative timeout. UsageError: the item alone is above `max_bytes`.
            ShutDown: The queue was shut down.
            QuotaExceeded: A hard limit refuses.
            MemoryReclaimed: The account gave up its memory, perhaps for this very item. AccountClosed: it is closed.
            Exception: What the cost function raises passes through.
            In each case nothing was put.
        """
        # See Content for the order of these steps.
        cost = len(item) + ENTRY_COST if type(item) is self._plain else cost_of(item, self._cost)  # type: ignore[arg-type]
        entry = (item, cost, self._clock())
        if timeout is not None and block:
            _check_timeout(timeout)
        if self._books._inside:
            self._books.refuse_in_a_move()
        came_in: Entry | Literal[False] | None = False
        lock = self._lock
        try:  # as `with` does it, at half the cost
            lock.acquire()
            items = self._items
            part = self._part
            if (
                not (self._bounded and (len(items) >= self._limit or items is not self._items))
                and (left := (credit := part._credit) - cost) >= 0
            ):
                part._credit = left
                try:
                    items.append(entry)
                except MemoryError as error:
                    if raised_here(error):
                        part._credit = credit
                    raise
            else:
                came_in = self._put_carefully(item, cost, block, timeout)
        except BaseException:
            try:
                lock.release()
            except RuntimeError:  # an exception from outside came while it waited for the lock
                pass
            raise
        lock.release()
        if came_in is not False:
            self._books.deliver()
            if came_in is not None:
                self._relieve(came_in)

    def put_nowait(self, item: T) -> None:
        """`put` without waiting."""
        self.put(item, block=False)

    def _put_carefully(self, item: T, cost: int, block: bool, timeout: float | None) -> Entry | None:
        """Put where something has to be looked at first, or where credit is short. Its entry where a round is due."""
        # Lock: held.
        until = None if timeout is None else monotonic() + timeout
        self._check_put()
        self._check_cost(cost)
        wait = bool(self._putters) or not self._fits(cost)
        while True:
            if wait:
                left = None if until is None else until - monotonic()
                if not block or not self._lines.turn(
                    self._putters, lambda: self._fits(cost), self._check_put, self._adjust, left
                ):
                    raise queue.Full
            try:
                entry = self._books.enter_quietly(self._come_in, (item, cost, self._clock()))
                if entry is not False:
                    self._lines.call(self._getters)
                    return entry
            except MemoryQuotaError:
                raise
            except BaseException:
                self._interrupted()
                raise
            self._check_put()  # a signal handler or finalizer of this thread was faster
            wait = True

    def _check_put(self) -> None:
        if self._lines.missed:
            self._wake_everybody()
        self._check_over()
        if self._is_shutdown:
            raise ShutDown

    # --- getting ------------------------------------------------------------------------------------------------------

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take out the oldest item.

        Args:
            block: Whether to wait for one.
            timeout: How long, in seconds; None for as long as it takes.

        Raises:
            queue.Empty: There is none, or there was none in time.
            ValueError: A negative timeout.
            ShutDown: There is none, and there will be none.
            MemoryReclaimed: The account gave up its memory. AccountClosed: it is closed.
        """
        if timeout is not None and block:
            _check_timeout(timeout)
        if self._books._inside:
            self._books.refuse_in_a_move()
        short = False
        entry: Entry = ()
        lock = self._lock
        try:  # as in `put`
            lock.acquire()
            items = self._items
            line = self._out
            if items and not self._getters:
                entry = items[0]
                at_work = self._at_work + 1
                credit = line._credit + entry[1]
                if credit <= line._cap:
                    del items[0]
                    line._credit = credit
                    self._at_work = at_work
                    short = True
            if not short:
                entry = self._get_carefully(block, timeout)
        except BaseException:
            try:
                lock.release()
            except RuntimeError:
                pass
            raise
        lock.release()
        if not short:
            self._books.deliver()
        item: T = entry[0]
        return item

    def get_nowait(self) -> T:
        """`get` without waiting."""
        return self.get(block=False)

    def _get_carefully(self, block: bool, timeout: float | None) -> Entry:
        """Get where there is nothing, others wait, or credit has no room."""
        # Lock: held.
        until = None if timeout is None else monotonic() + timeout
        wait = bool(self._getters) or not self._items
        while True:
            self._check_get()
            if wait and block:
                left = None if until is None else until - monotonic()
                if not self._lines.turn(self._getters, self._has_items, self._check_get, self._adjust, left):
                    raise queue.Empty
            try:
                entry = self._books.enter_quietly(self._go_out, ())
                if entry is not None:
                    self._lines.call(self._putters)
                    return entry
            except MemoryQuotaError:
                raise
            except BaseException:
                self._interrupted()
                raise
            if not block:
                self._check_get()
                raise queue.Empty
            wait = True  # dropped in this very moment, by another thread

    def _has_items(self) -> bool:
        return bool(self._items)

    def _check_get(self) -> None:
        if self._lines.missed:
            self._wake_everybody()
        self._check_over()
        if self._is_shutdown and not self._items:
            raise ShutDown

    # --- keeping track ------------------------------------------------------------------------------------------------

    @property
    def unfinished_tasks(self) -> int:
        """Items that were put and are not done with; what was dropped counts as done."""
        return self._left_to_do()

    def task_done(self) -> None:
        """Say that an item that was got is done with.

        Raises:
            ValueError: Called more often than there were items.
        """
        self._books.refuse_in_a_move()
        self._lines.hold(self._task_done)

    def _task_done(self) -> None:
        if self.unfinished_tasks <= 0:
            raise ValueError("task_done() called too many times")
        self._at_work -= 1
        if not self.unfinished_tasks:
            for place in self._lines.joiners:
                place.notify()

    def join(self) -> None:
        """Wait until every item was got and done with.

        Raises:
            MemoryReclaimed: The account gave up its memory before. AccountClosed: it was closed.
        """
        self._books.refuse_in_a_move()
        self._lines.hold(self._join)

    def _join(self) -> None:
        if self.unfinished_tasks:
            self._lines.turn(
                self._lines.joiners, lambda: not self.unfinished_tasks, self._check_over, self._adjust, None
            )

    @property
    def is_shutdown(self) -> bool:
        """Whether it was shut down."""
        return self._is_shutdown

    def shutdown(self, immediate: bool = False) -> None:
        """Let nothing in any more; getters get what is inside, then ShutDown. Immediately: that is given up, too.

        Signal handlers and finalizers may call it at any moment.
        """
        self._lines.missed = True  # in case there is no memory to go on
        self._is_shutdown = True
        self._adjust()
        self._wake_everybody()
        if immediate:
            self._give_up()

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def maxsize(self) -> int:
        """Most items inside; 0 or less for no bound. May be assigned."""
        return self._maxsize

    @maxsize.setter
    def maxsize(self, maxsize: int) -> None:
        bound = queue_bound(maxsize)
        self._books.refuse_in_a_move()

        def bind() -> None:
            self._maxsize = maxsize
            self._max_items = bound
            self._adjust()

        self._lines.missed = True  # as in `shutdown`
        self._lines.hold(bind)
        self._wake_everybody()

    def qsize(self) -> int:
        """How many items are inside, just now."""
        return len(self._items)

    def empty(self) -> bool:
        """Whether there is none, just now."""
        return not self._items

    def full(self) -> bool:
        """Whether an empty item would have to wait, for room or for others, just now."""
        return bool(self._putters) or not self._fits(ENTRY_COST)

    def statistics(self) -> QueueStatistics:
        """The queue in numbers."""
        return self._statistics(len(self._putters), len(self._getters))

    def __repr__(self) -> str:
        return f"<Queue of {self.qsize()} in account {self._account.name!r}>"

    # --- for the buffer -----------------------------------------------------------------------------------------------

    def _lets_nothing_in(self) -> bool:
        return self._is_shutdown

    def _needs_care(self) -> bool:
        return bool(self._getters) or bool(self._putters) or super()._needs_care()

    def _needs_room(self) -> bool:
        return bool(self._putters)

    def _wake_everybody(self) -> None:
        if self._books.in_a_move:
            in_thread(self._lines.wake_everybody)
        else:
            self._lines.wake_everybody()

    def _after_fork(self) -> None:
        """In a child process: only the thread that forked goes on, and others may have been in the middle."""
        self._open_lines()
        self._adjust()


def _check_timeout(timeout: float) -> None:
    if timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")


_all_queues: Final[WeakSet[Queue[Any]]] = WeakSet()


def _renew_all() -> None:
    for each in list(_all_queues):
        each._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
