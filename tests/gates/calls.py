"""Every call of a gate, each in a world that is made for it: what tests interrupt at every point."""

import gc
import os
from collections.abc import Callable
from functools import partial

import anyio

from memquota import AccountClosed, AsyncGate, Gate, Permit, Tracker, WouldBlock
from memquota.gates.wakeups import ThreadWaiter
from memquota.testing import assert_books_balance
from tests.concurrency.support import InThread
from tests.gates.support import until

BACKEND = os.environ.get("BACKEND", "asyncio")

#: In bytes. Larger than the numbers that the interpreter has ready: sums of them take memory of their own.
KB = 1000
CAPACITY = 100 * KB
SLOTS = 3


class World:
    """A gate with two inside, of 30 and of 50 kB, and threads in the line where they are asked for."""

    def __init__(self, *weights: int | None, slots: int = SLOTS) -> None:
        self.tracker = Tracker(10_000 * KB)
        self.account = self.tracker.new_account("mine")
        self.gate = Gate(self.tracker, capacity=CAPACITY, max_concurrent=slots, account=self.account)
        self.admission = self.gate._admission
        self.async_gate = AsyncGate(sharing=self.gate)
        self.permits: list[Permit] = [self.gate.acquire(30 * KB), self.gate.acquire(50 * KB)]
        self.weights = weights
        self.waiting: list[InThread[Permit]] = []
        for number, weight in enumerate(weights):
            self.line_up(weight)
            until(lambda number=number: len(self.admission.line) == number + 1)  # type: ignore[misc]
        self.closes = False
        # What a call that was interrupted wanted to make of a permit.
        self.adjusted: dict[Permit, int] = {}

    def line_up(self, weight: int | None) -> None:
        """Another thread that waits."""
        self.waiting.append(InThread(partial(self.gate.acquire, weight)))

    def inside(self) -> list[Permit]:
        """Whose holders have their permits, and did not give them back."""
        served = []
        for waiting in self.waiting:
            if not waiting.thread.is_alive():
                try:
                    served.append(waiting.result())
                except AccountClosed:
                    assert self.account.closed
        return [permit for permit in self.permits + served if not permit.released]

    def lock_is_free(self) -> bool:
        with self.admission.lock:
            return True

    def settled(self) -> bool:
        """Whether nobody who waits could go in, without asking the gate."""
        line = self.admission.line
        waiting = list(line)
        if self.account.closed:
            return not waiting
        if len(waiting) + sum(not waiting.thread.is_alive() for waiting in self.waiting) != len(self.waiting):
            return False  # somebody is on the way
        inside = line.inside - len(self.admission.spare)
        slots, capacity = line.max_concurrent, line.capacity
        assert slots is not None
        assert capacity is not None
        return not waiting or inside >= slots or line.held + waiting[0].weight > capacity

    def check(self) -> None:
        """The lock is free, nobody is under-counted, nobody waits for nothing, and all goes on to zero."""
        gc.collect()
        assert not self.admission.busy
        assert InThread(self.lock_is_free).result()
        if self.closes:
            self.tracker.statistics()  # whoever enters the books next tells the gate, if the one who closed could not
        until(self.settled)
        line = self.admission.line
        inside = self.inside()
        assert line.inside - len(self.admission.spare) >= len(inside)
        assert line.held >= sum(permit.weight for permit in inside)
        least = sum(min(permit.weight, self.adjusted.get(permit, permit.weight)) for permit in inside)
        assert self.account.closed or self.account.used >= least
        self.end()

    def let_go(self) -> bool:
        """Release who is inside. Whether nobody is left."""
        alive = any(waiting.thread.is_alive() for waiting in self.waiting)
        inside = self.inside()
        for permit in inside:
            permit.release()
        return not alive and not inside

    def end(self) -> None:
        until(self.let_go)
        self.permits.clear()
        gc.collect()
        statistics = self.gate.statistics()
        assert (statistics.inside, statistics.held, statistics.waiting) == (0, 0, 0)
        assert (self.admission.line.promised, self.admission.line.reserved, self.account.used) == (0, 0, 0)
        assert not self.admission.guests
        assert_books_balance(self.tracker)
        if not self.account.closed:
            with self.gate.acquire(CAPACITY):
                pass
            with self.gate.acquire():
                pass


CALLS: dict[str, tuple[Callable[..., World], Callable[[World], object]]] = {}
Call = Callable[[World], object]


def call(*weights: int | None) -> Callable[[Call], Call]:
    """A call, with these in the line before it."""

    def add(function: Call) -> Call:
        CALLS[function.__name__] = partial(World, *weights), function
        return function

    return add


@call()
def acquire(world: World) -> None:
    world.permits.append(world.gate.acquire())


@call()
def acquire_again(world: World) -> None:
    with world.gate.acquire():
        pass
    with world.gate.acquire():
        pass


@call()
def acquire_weight(world: World) -> None:
    with world.gate.acquire(20 * KB):
        pass


@call()
def acquire_in_an_account(world: World) -> None:
    other = world.tracker.new_account("other")
    with world.gate.acquire(20 * KB, account=other, priority=1):
        pass


@call()
def acquire_nowait(world: World) -> None:
    world.permits.append(world.gate.acquire_nowait(20 * KB))


@call()
def acquire_nowait_in_vain(world: World) -> None:
    try:
        world.gate.acquire_nowait(21 * KB)
    except WouldBlock:
        pass


@call(40 * KB)
def time_out(world: World) -> None:
    try:
        world.gate.acquire(1, timeout=0)
    except TimeoutError:
        pass


@call(40 * KB, 10 * KB)
def time_out_in_front(world: World) -> None:
    try:
        world.gate.acquire(90 * KB, timeout=0, priority=1)
    except TimeoutError:
        pass


@call(40 * KB)
def wait_and_go_in(world: World) -> None:
    """The second in the line is let in while it waits, as both others leave."""
    leaving = list(world.permits)

    def wait(waiter: ThreadWaiter, seconds: float | None) -> None:
        while leaving:
            InThread(leaving.pop().release).result()
        original(waiter, seconds)

    original, ThreadWaiter.wait = ThreadWaiter.wait, wait  # type: ignore[method-assign, assignment]
    try:
        with world.gate.acquire(60 * KB):
            pass
    finally:
        ThreadWaiter.wait = original  # type: ignore[method-assign]


@call(40 * KB, None, 20 * KB)
def release(world: World) -> None:
    world.permits[1].release()


@call(40 * KB, None)
def release_both(world: World) -> None:
    for permit in list(world.permits):
        permit.release()


@call()
def release_slot(world: World) -> None:
    permit = world.gate.acquire()
    permit.release()


@call(40 * KB)
def adjust_down(world: World) -> None:
    world.adjusted[world.permits[1]] = 10 * KB
    world.permits[1].adjust(10 * KB)


@call(40 * KB)
def adjust_up(world: World) -> None:
    world.adjusted[world.permits[1]] = 50 * KB
    world.permits[1].adjust(80 * KB)


@call(40 * KB, 50 * KB)
def widen(world: World) -> None:
    world.gate.reconfigure(capacity=200 * KB, max_concurrent=10, on_full="wait", oversized="alone")


@call(40 * KB)
def narrow(world: World) -> None:
    world.gate.reconfigure(capacity=40 * KB, max_concurrent=1)


@call(40 * KB, None)
def close(world: World) -> None:
    world.closes = True
    world.account.close()


@call(40 * KB)
def look(world: World) -> None:
    world.gate.statistics()


async def _enter(world: World, weight: int | None) -> None:
    async with world.async_gate.acquire(weight):
        pass
    (await world.async_gate.acquire(weight)).release()


@call()
def task_slot(world: World) -> None:
    anyio.run(_enter, world, None, backend=BACKEND)


@call()
def task_weight(world: World) -> None:
    anyio.run(_enter, world, 20 * KB, backend=BACKEND)


@call(40 * KB)
def task_that_waits(world: World) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_enter, world, 60 * KB)
            await anyio.wait_all_tasks_blocked()
            for permit in leaving:
                permit.release()

    leaving = list(world.permits)
    anyio.run(main, backend=BACKEND)


@call(40 * KB)
def task_that_gives_up(world: World) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_enter, world, 60 * KB)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

    anyio.run(main, backend=BACKEND)
