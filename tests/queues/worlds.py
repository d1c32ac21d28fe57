"""A queue of each kind in its own world, with everything that went in and came out."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from memquota import AsyncQueue, Closed, Queue, QueueShutDown, ShutDown, Tracker, open_stream
from memquota.queues import ENTRY_COST
from memquota.testing import FakeClock, assert_books_balance
from tests.concurrency.support import InThread
from tests.contracts.queue_callers import until

KINDS = ("Queue", "AsyncQueue", "stream")

NOTHING = (queue.Empty, asyncio.QueueEmpty, anyio.WouldBlock)
NO_ROOM = (queue.Full, asyncio.QueueFull, anyio.WouldBlock)
OVER = (Closed, ShutDown, QueueShutDown, anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError)

#: What an item costs in bytes, with its entry.
COST = 1000


async def settled() -> None:
    """Let everybody run until they wait. (What anyio has for it sleeps for a tenth of a second.)"""
    for _ in range(12):
        await checkpoint()


class World:
    """A queue with the numbers 0, 1, 2 … that were put into it.

    Args:
        kind: One of `KINDS`.
        mode: What it does when asked for memory.
        items: How many are inside at first.
        maxsize: Most items inside; 0 for no bound.
        strict: Whether every put and get goes through the books.
    """

    def __init__(self, kind: str, mode: str, items: int = 3, maxsize: int = 0, *, strict: bool = False) -> None:
        self.kind = kind
        self.mode = mode
        self.clock = FakeClock(1000.0)
        self.tracker = Tracker(1_000_000, clock=self.clock, strict=strict)
        self.account = self.tracker.new_account("queue")
        self.put_in: list[int] = []
        self.got: list[int] = []
        self.reported: list[tuple[int, int]] = []
        self.collapses: list[object] = []
        self._next = 0
        options: dict[str, Any] = {
            "cost": lambda item: COST - ENTRY_COST,
            "on_reclaim": mode,
            "on_drop": lambda count, size: self.reported.append((count, size)),
            "on_collapse": self.collapses.append,
        }
        if kind == "stream":
            self.send, self.receive = open_stream(self.account, maxsize or math.inf, **options)
        else:
            self.queue: Any = (Queue if kind == "Queue" else AsyncQueue)(self.account, maxsize, **options)
        for _ in range(items):
            self.put()
            self.clock.advance(1)

    @property
    def buffer(self) -> Any:
        return self.send._shared if self.kind == "stream" else self.queue

    def put(self) -> None:
        """Put the next number without waiting."""
        number, self._next = self._next, self._next + 1
        (self.send.send_nowait if self.kind == "stream" else self.queue.put_nowait)(number)
        self.put_in.append(number)

    def get(self) -> None:
        """Get a number without waiting."""
        got = (self.receive.receive_nowait if self.kind == "stream" else self.queue.get_nowait)()
        self.got.append(got)

    def attempt(self, action: Callable[[], object]) -> None:
        """Do it, if the queue is not over, full, or empty."""
        try:
            action()
        except (*OVER, *NOTHING, *NO_ROOM):
            pass

    async def put_waiting(self) -> None:
        """Put the next number when there is room."""
        number, self._next = self._next, self._next + 1
        put: Callable[[int], Awaitable[None]] = self.send.send if self.kind == "stream" else self.queue.put
        try:
            await put(number)
        except OVER:
            return
        self.put_in.append(number)

    async def get_waiting(self) -> None:
        """Get a number when there is one."""
        get: Callable[[], Awaitable[int]] = self.receive.receive if self.kind == "stream" else self.queue.get
        try:
            got = await get()
        except OVER:
            return
        self.got.append(got)

    def end(self) -> None:
        """Let nothing in any more, and give up what is inside."""
        if self.kind == "stream":
            self.receive.close()
            self.send.close()
        else:
            self.queue.shutdown(immediate=True)

    def in_use(self) -> int:
        """What the books say is claimed, without the credit that is out."""
        books = self.tracker._books
        return books.enter(lambda: sum(h.in_use() for node in books.ledger.accounts for h in node.live_holdings()))

    def lock_is_free(self) -> bool:
        """Whether another thread gets the locks of the queue and of the books."""

        def look() -> bool:
            if self.kind == "Queue":
                if not self.queue._lock.acquire(timeout=5):
                    return False
                self.queue._lock.release()
            return self.tracker.statistics().limit == 1_000_000

        return InThread(look).result()

    def inside(self) -> list[int]:
        """The numbers that are inside, taken out."""
        found = len(self.got)
        try:
            while True:
                self.get()
        except (*NOTHING, *OVER):
            pass
        inside = self.got[found:]
        del self.got[found:]
        return inside

    def check(self, *, given_up: bool = False) -> None:
        """Everything that was put was got, was dropped and reported, or is inside; the books know what is.

        Args:
            given_up: Whether what was inside at some moment was given up by hand.
        """
        try:
            self._check(given_up)
        finally:
            self.end()

    def _check(self, given_up: bool) -> None:
        # A thread gives up and frees, where there was no other way.
        until(lambda: all(thread.name != "memquota-free" for thread in threading.enumerate()))
        statistics = self.buffer._statistics(0, 0)
        count = statistics.items
        assert_books_balance(self.tracker, 0 if self.account.closed else count * COST)
        assert statistics.dropped_items == sum(items for items, _ in self.reported)
        assert statistics.dropped_bytes == sum(size for _, size in self.reported) == statistics.dropped_items * COST
        inside = self.inside()
        assert len(inside) == count
        assert_books_balance(self.tracker, 0)
        seen = sorted(self.got + inside)
        assert len(set(seen)) == len(seen), f"delivered twice: {seen}"
        assert set(seen) <= set(self.put_in), f"never put: {set(seen) - set(self.put_in)}"
        lost = len(self.put_in) - len(seen) - statistics.dropped_items
        assert lost >= 0
        if self.account.closed:
            assert not inside
            assert len(self.collapses) == 1 or (given_up and not self.collapses)
        elif not given_up:
            assert lost == 0, f"{lost} of {self.put_in} lost; got {self.got}, inside {inside}"
        self.account.close()
        assert self.tracker.used == 0
