"""F44: memory runs out at any allocation of a call of a queue at which others wait, for one allocation or for good."""

from __future__ import annotations

import os
from collections.abc import Callable
from queue import Empty, Full
from typing import Any

import pytest

from memquota import Closed, Queue, QueueShutDown, ShutDown, Tracker
from memquota.testing import FakeClock, assert_books_balance
from tests.concurrency.starving import every_allocation, prepare, run_starving, says_so
from tests.concurrency.support import InThread
from tests.contracts.queue_callers import until


class Caller(InThread[object]):
    """A thread that waits at a queue. Notes what becomes of it without taking memory."""

    got: object = None
    error: BaseException | None = None

    def _run(self) -> None:
        try:
            self.got = self._function(*self._args)
        except BaseException as error:
            self.error = error

    @property
    def waits(self) -> bool:
        """Whether nothing has become of it yet. Raises what should not have."""
        error = self.error
        if error is not None and not (says_so(error) or isinstance(error, (Closed, ShutDown, QueueShutDown))):
            raise error
        return self.thread.is_alive()


class World:
    """A queue of at most two items that is full, or empty, and two threads that wait for that to change."""

    def __init__(self, *, full: bool) -> None:
        self.full = full
        self.clock = FakeClock()
        self.tracker = Tracker(1_000_000, clock=self.clock)
        self.account = self.tracker.new_account("queue")
        self.queue: Queue[int] = Queue(self.account, 2, cost=lambda item: 1000, on_reclaim="drop_oldest")
        self.callers: list[Caller] = []
        if full:
            self.queue.put(0)
            self.queue.put(1)
        for number in (10, 11):
            self.callers.append(Caller(self.queue.put, number) if full else Caller(self.queue.get))
            until(lambda number=number: len(self.line) == number - 9)  # type: ignore[misc]

    @property
    def line(self) -> Any:
        return self.queue._putters if self.full else self.queue._getters

    def lock_is_free(self) -> bool:
        with self.queue._lock:
            return True

    def settled(self) -> bool:
        """Whether nobody waits who need not."""
        waiting = sum(caller.waits for caller in self.callers)
        if len(self.line) != waiting:
            return False
        if self.account.closed or self.queue.is_shutdown:
            return not waiting
        return not waiting or (self.queue.full() if self.full else self.queue.empty())

    def check(self) -> None:
        """The lock is free. And after another call with memory nobody waits in vain, and nothing is there twice."""
        assert InThread(self.lock_is_free).result()
        self.tracker.statistics()
        try:
            if self.full:
                self.queue.put(99, block=False)
            else:
                self.queue.get(block=False)
        except (Full, Empty, ShutDown, Closed):
            pass
        until(self.settled)
        assert_books_balance(self.tracker)
        self.queue.shutdown(immediate=True)
        until(lambda: not any(caller.waits for caller in self.callers))
        assert self.queue.empty()
        self.account.close()
        assert self.tracker.used == 0


CALLS: dict[str, tuple[bool, Callable[[World], object]]] = {
    "get": (True, lambda world: world.queue.get(block=False)),
    "put": (False, lambda world: world.queue.put(1, block=False)),
    "drop": (True, lambda world: world.tracker.reclaim(0)),
    "close, full": (True, lambda world: world.account.close()),
    "close, empty": (False, lambda world: world.account.close()),
    "shut down, full": (True, lambda world: world.queue.shutdown()),
    "shut down, empty": (False, lambda world: world.queue.shutdown()),
    "widen": (True, lambda world: setattr(world.queue, "maxsize", 3)),
}


def run_starved() -> None:
    """Let the first allocation of a call fail, in the next run the second one, until it has no so many."""
    prepare()
    for name in os.environ["CASE"].split(";"):
        full, function = CALLS[name]
        step = 1 if os.environ.get("MEMQUOTA_TESTS") == "soak" else 5 if name == "drop" else 1
        failures = 0
        for starving in every_allocation(step=step):
            world = World(full=full)
            with starving:
                function(world)
            try:
                world.check()
            except Exception as error:
                raise AssertionError(f"{name}, {starving}: {error!r}") from error
            failures += starving.failed
        assert failures, name
        print(name, starving.number, "points,", failures, "failures")


@pytest.mark.parametrize("part", range(2))
def test_a_call_that_runs_out_of_memory_leaves_nobody_waiting_in_vain(part: int) -> None:
    """F44: MemoryError or success; whoever waits and need not goes on by the next call of the queue or the tracker."""
    run_starving(run_starved, CASE=";".join([*CALLS][part::2]))
