"""Random programs on a queue, after which every item that was put was got, or dropped and reported, or is inside."""

from __future__ import annotations

import asyncio
import math
import random
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from memquota import Account, AsyncQueue, Queue, Tracker, open_stream
from memquota.queues import ENTRY_COST
from memquota.testing import assert_books_balance
from tests.queues.worlds import NO_ROOM, NOTHING, OVER


class Items:
    """What went in and came out of one queue. Items are numbers, each of which costs something else."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.costs: list[int] = []
        self.accepted: list[int] = []
        self.got: list[int] = []
        self.dropped: list[tuple[int, int]] = []
        self.ends: list[object] = []

    def new(self) -> int:
        """A number that was not used before."""
        self.costs.append(self.rng.choice((0, 10, 100, 1000)))
        return len(self.costs) - 1

    def options(self, mode: str) -> dict[str, Any]:
        return {
            "cost": self.costs.__getitem__,
            "on_reclaim": mode,
            "on_drop": lambda count, size: self.dropped.append((count, size)),
            "on_collapse": self.ends.append,
        }

    def cost(self, numbers: set[int]) -> int:
        return sum(self.costs[number] + ENTRY_COST for number in numbers)

    def check(self, queue: Any, account: Account, inside: list[int]) -> None:
        """Every item is exactly one of got, dropped and reported, inside; after an end, given up with the rest."""
        seen = self.got + inside
        assert len(set(seen)) == len(seen), "delivered twice"
        assert set(seen) <= set(self.accepted), f"never put: {sorted(set(seen) - set(self.accepted))}"
        missing = set(self.accepted) - set(seen)
        statistics = queue.statistics()
        reported = (sum(count for count, _ in self.dropped), sum(size for _, size in self.dropped))
        assert reported == (statistics.dropped_items, statistics.dropped_bytes)
        if account.closed:
            assert not inside
            assert len(self.ends) == 1
            assert len(missing) >= reported[0]
        else:
            assert (len(missing), self.cost(missing)) == reported


class Tasks:
    """A program of tasks on one queue of one event loop: they put and get, waiting or not, and are cancelled.

    Args:
        rng: Decides everything.
        account: The queue's own.
        kind: "AsyncQueue" or "stream".
        mode: What the queue does when asked for memory.
    """

    def __init__(self, rng: random.Random, account: Account, kind: str, mode: str) -> None:
        self.rng = rng
        self.account = account
        self.items = Items(rng)
        options = self.items.options(mode)
        size = rng.choice((0, 0, 1, 3))
        if rng.random() < 0.3:
            options["max_bytes"] = rng.choice((2000, 5000))
        self._ends: list[Any] = []
        if kind == "stream":
            send, receive = open_stream(account, size if rng.random() < 0.7 else math.inf, **options)
            self._ends = [send, receive]
            self.queue: Any = send
            self._put, self._get = send.send, receive.receive
            self._put_nowait, self._get_nowait = send.send_nowait, receive.receive_nowait
        else:
            self.queue = queue = AsyncQueue[int](account, size, **options)
            self._put, self._get = queue.put, queue.get
            self._put_nowait, self._get_nowait = queue.put_nowait, queue.get_nowait
        self._scopes: list[anyio.CancelScope] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, operations: int) -> None:
        """So many operations; then nobody waits any more."""
        native = self._has_tasks_of_asyncio()
        async with anyio.create_task_group() as tasks:
            for _ in range(operations):
                choice = self.rng.random()
                if choice < 0.55:
                    work = self._putting if self.rng.random() < 0.55 else self._getting
                    if native and self.rng.random() < 0.5:
                        self._tasks.append(asyncio.create_task(self._alone(work)))
                    else:
                        scope = anyio.CancelScope()
                        self._scopes.append(scope)
                        tasks.start_soon(self._scoped, work, scope)
                elif choice < 0.65:
                    self._now(self._put_something)
                elif choice < 0.75:
                    self._now(self._get_something)
                elif choice < 0.9:
                    self._cancel_one()
                else:
                    await checkpoint()
            for scope in self._scopes:
                scope.cancel()
            for task in self._tasks:
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
            for task in self._tasks:
                if not task.cancelled():
                    task.result()

    def inside(self) -> list[int]:
        """What is inside, taken out."""
        found: list[int] = []
        try:
            while True:
                found.append(self._get_nowait())
        except (*NOTHING, *OVER):
            return found

    def close(self) -> None:
        for end in self._ends:
            end.close()

    def check(self) -> None:
        self.items.check(self.queue, self.account, self.inside())

    @staticmethod
    def _has_tasks_of_asyncio() -> bool:
        try:
            return asyncio.current_task() is not None
        except RuntimeError:
            return False

    async def _scoped(self, work: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
        with scope:
            await work()

    async def _alone(self, work: Callable[[], Awaitable[None]]) -> None:
        await work()

    async def _putting(self) -> None:
        number = self.items.new()
        try:
            await self._put(number)
        except OVER:
            return
        self.items.accepted.append(number)

    async def _getting(self) -> None:
        try:
            number = await self._get()
        except OVER:
            return
        self.items.got.append(number)

    def _put_something(self) -> None:
        number = self.items.new()
        self._put_nowait(number)
        self.items.accepted.append(number)

    def _get_something(self) -> None:
        self.items.got.append(self._get_nowait())

    def _now(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (*NOTHING, *NO_ROOM, *OVER):
            pass

    def _cancel_one(self) -> None:
        candidates: list[Any] = [*self._scopes[-5:], *self._tasks[-5:]]
        if candidates:
            self.rng.choice(candidates).cancel()


def new_tracker(rng: random.Random) -> Tracker:
    """One that runs rounds now and then while a queue holds a few items."""
    return Tracker(rng.choice((4000, 20_000, 1_000_000)), strict=rng.random() < 0.3, policy=rng.choice(POLICIES))


POLICIES = ("oldest_data", "largest", "byte_seconds")


async def one_queue(rng: random.Random, kind: str, mode: str, operations: int) -> None:
    """A program on one queue with a tracker of its own."""
    tracker = new_tracker(rng)
    program = Tasks(rng, tracker.new_account("queue"), kind, mode)
    await program.run(operations)
    statistics = program.queue.statistics()
    assert_books_balance(tracker, 0 if program.account.closed else statistics.bytes)
    program.check()
    assert_books_balance(tracker, 0)
    program.close()


# --- threads ----------------------------------------------------------------------------------------------------------


def threads(seed: int, mode: str, operations: int) -> None:
    """Four threads on one queue and two loops with queues of their own share a tracker, while a fifth asks for memory.

    Every queue asks the others for memory whenever the limit is passed.
    """
    rng = random.Random(seed)
    tracker = Tracker(30_000, strict=rng.random() < 0.3)
    account = tracker.new_account("threads")
    items = Items(rng)
    queue = Queue[int](account, rng.choice((0, 5)), **items.options(mode))
    numbers = [[items.new() for _ in range(operations)] for _ in range(2)]
    accepted: list[list[int]] = [[], []]
    got: list[list[int]] = [[], []]
    loops: list[Tasks] = []
    failures: list[BaseException] = []
    done = threading.Event()

    def put(which: int) -> None:
        for number in numbers[which]:
            try:
                queue.put(number)
            except OVER:
                return
            accepted[which].append(number)

    def get(which: int) -> None:
        try:
            while True:
                got[which].append(queue.get())
        except OVER:
            return

    def reclaim() -> None:
        own = random.Random(seed + 1)
        while not done.wait(0.001):
            # By hand only in one mode: in the other each time is the end of a queue.
            if mode == "drop_oldest":
                tracker.reclaim(own.choice((0, 5000, 20_000)))

    def loop(which: int) -> None:
        kind = ("AsyncQueue", "stream")[which]
        program = Tasks(random.Random(seed + 2 + which), tracker.new_account(kind), kind, mode)
        loops.append(program)
        anyio.run(program.run, operations, backend=("asyncio", "trio")[which])

    def guarded(action: Callable[..., None], *args: int) -> None:
        try:
            action(*args)
        except BaseException as error:
            failures.append(error)

    def started(action: Callable[..., None], *args: int) -> threading.Thread:
        thread = threading.Thread(target=guarded, args=(action, *args))
        thread.start()
        return thread

    asking = started(reclaim)
    working = [started(put, 0), started(put, 1), started(loop, 0), started(loop, 1)]
    getting = [started(get, 0), started(get, 1)]
    for thread in working:
        thread.join()
    queue.shutdown()
    for thread in getting:
        thread.join()
    done.set()
    asking.join()
    assert not failures, failures

    items.accepted = accepted[0] + accepted[1]
    items.got = got[0] + got[1]
    items.check(queue, account, [])
    for program in loops:
        program.check()
    assert_books_balance(tracker, 0)
    for program in loops:
        program.close()


@contextmanager
def impatient() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
