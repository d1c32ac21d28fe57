"""Ctrl-C, signal handlers and finalizers at every point of every call of a gate."""

import gc
import logging
import os
import warnings
from collections.abc import Callable
from functools import partial
from types import CodeType, FrameType
from typing import Any

import anyio
import pytest
import trio

from memquota import AccountClosed, AsyncGate, Gate, Permit, Tracker, UsageError, WouldBlock
from memquota.gates.wakeups import ThreadWaiter
from memquota.testing import assert_books_balance
from tests.concurrency.interrupts import InterruptAt, _names
from tests.concurrency.support import InThread
from tests.gates.support import until
from tests.queues.points import ActAt
from tests.support.watchdog import run_isolated

CAPACITY = 100
SLOTS = 3


class World:
    """A gate with two inside, of 30 and of 50 bytes, and threads in the line where they are asked for."""

    def __init__(self, *weights: int | None, slots: int = SLOTS) -> None:
        self.tracker = Tracker(10_000)
        self.account = self.tracker.new_account("mine")
        self.gate = Gate(self.tracker, capacity=CAPACITY, max_concurrent=slots, account=self.account)
        self.admission = self.gate._admission
        self.async_gate = AsyncGate(sharing=self.gate)
        self.permits: list[Permit] = [self.gate.acquire(30), self.gate.acquire(50)]
        self.weights = weights
        self.waiting: list[InThread[Permit]] = []
        for number, weight in enumerate(weights):
            self.waiting.append(InThread(partial(self.gate.acquire, weight)))
            until(lambda number=number: len(self.admission.line) == number + 1)  # type: ignore[misc]
        self.closes = False
        # What a call that was interrupted wanted to make of a permit.
        self.adjusted: dict[Permit, int] = {}

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
        assert not self.admission.called
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
    with world.gate.acquire(20):
        pass


@call()
def acquire_in_an_account(world: World) -> None:
    other = world.tracker.new_account("other")
    with world.gate.acquire(20, account=other, priority=1):
        pass


@call()
def acquire_nowait(world: World) -> None:
    world.permits.append(world.gate.acquire_nowait(20))


@call()
def acquire_nowait_in_vain(world: World) -> None:
    try:
        world.gate.acquire_nowait(21)
    except WouldBlock:
        pass


@call(40)
def time_out(world: World) -> None:
    try:
        world.gate.acquire(1, timeout=0)
    except TimeoutError:
        pass


@call(40, 10)
def time_out_in_front(world: World) -> None:
    try:
        world.gate.acquire(90, timeout=0, priority=1)
    except TimeoutError:
        pass


@call(40)
def wait_and_go_in(world: World) -> None:
    """The second in the line is let in while it waits, as both others leave."""
    leaving = list(world.permits)

    def wait(waiter: ThreadWaiter, seconds: float | None) -> None:
        while leaving:
            InThread(leaving.pop().release).result()
        original(waiter, seconds)

    original, ThreadWaiter.wait = ThreadWaiter.wait, wait  # type: ignore[method-assign, assignment]
    try:
        with world.gate.acquire(60):
            pass
    finally:
        ThreadWaiter.wait = original  # type: ignore[method-assign]


@call(40, None, 20)
def release(world: World) -> None:
    world.permits[1].release()


@call(40, None)
def release_both(world: World) -> None:
    for permit in list(world.permits):
        permit.release()


@call()
def release_slot(world: World) -> None:
    permit = world.gate.acquire()
    permit.release()


@call(40)
def adjust_down(world: World) -> None:
    world.adjusted[world.permits[1]] = 10
    world.permits[1].adjust(10)


@call(40)
def adjust_up(world: World) -> None:
    world.adjusted[world.permits[1]] = 50
    world.permits[1].adjust(80)


@call(40, 50)
def widen(world: World) -> None:
    world.gate.reconfigure(capacity=200, max_concurrent=10, on_full="wait", oversized="alone")


@call(40)
def narrow(world: World) -> None:
    world.gate.reconfigure(capacity=40, max_concurrent=1)


@call(40, None)
def close(world: World) -> None:
    world.closes = True
    world.account.close()


@call(40)
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
    anyio.run(_enter, world, 20, backend=BACKEND)


@call(40)
def task_that_waits(world: World) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_enter, world, 60)
            await anyio.wait_all_tasks_blocked()
            for permit in leaving:
                permit.release()

    leaving = list(world.permits)
    anyio.run(main, backend=BACKEND)


@call(40)
def task_that_gives_up(world: World) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_enter, world, 60)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

    anyio.run(main, backend=BACKEND)


BACKEND = os.environ.get("BACKEND", "asyncio")
NAME = os.environ.get("CASE", "")


def _start(code: CodeType) -> int:
    """Where a function begins, after what makes a coroutine of it."""
    return next(offset for offset, name in _names(code).items() if name == "RESUME")


class Interrupt(InterruptAt):
    """KeyboardInterrupt, but not where it cannot come, or nobody would hear of it: that is the end of a finalizer.

    Trio keeps it from what it runs by itself. A coroutine that goes on has no such point of its own; profiling says so.
    """

    def _point(self, frame: FrameType, event: str) -> None:
        if BACKEND == "trio" and trio.lowlevel.currently_ki_protected():
            return
        if event == "call" and frame.f_lasti > _start(frame.f_code):
            return
        above: FrameType | None = frame
        while above is not None:
            if above.f_code.co_name == "__del__":
                return
            above = above.f_back
        super()._point(frame, event)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        super().__exit__(kind, error, trace)
        while isinstance(error, BaseExceptionGroup):  # from a task group, or a loop of trio
            error = error.exceptions[0]
        return isinstance(error, KeyboardInterrupt)


def quiet() -> None:
    gc.collect()
    gc.freeze()  # so that looking for garbage takes no time
    logging.disable()
    warnings.simplefilter("ignore", ResourceWarning)


def run_interrupted() -> None:
    """One call, interrupted at each of its points."""
    quiet()
    make, function = CALLS[NAME]
    number = 0
    while True:
        world = make()
        interrupt = Interrupt(number)
        with interrupt:
            function(world)
        try:
            world.check()
        except Exception as error:
            raise AssertionError(f"interrupted at point {number}, {interrupt.where}: {error!r}") from error
        if not interrupt.fired:
            break
        number += 1
    assert number >= 3
    print(number, "points")


@pytest.mark.parametrize("name", [name for name in CALLS if not name.startswith("task")])
def test_an_interrupt_at_any_point_strands_nobody(name: str) -> None:
    """F42: the lock is free, nobody inside is under-counted, whoever can go in is in, and closing gives zero."""
    run_isolated(run_interrupted, env={"CASE": name}, timeout=120)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("task")])
def test_an_interrupt_at_any_point_of_a_task_strands_nobody(name: str, backend: str) -> None:
    """F42: the same for tasks; the interrupt ends their loop."""
    run_isolated(run_interrupted, env={"CASE": name, "BACKEND": backend}, timeout=120)


# --- calls in the middle of calls -------------------------------------------------------------------------------------


def _release(world: World) -> None:
    world.permits[0].release()


def _drop(world: World) -> None:
    del world.permits[0]


def _acquire(world: World) -> None:
    try:
        world.gate.acquire_nowait(5).release()
        world.permits.append(world.gate.acquire_nowait())
    except WouldBlock:
        pass


def _reconfigure(world: World) -> None:
    world.gate.reconfigure(capacity=120, max_concurrent=5)


def _close(world: World) -> None:
    world.closes = True
    world.account.close()


NESTED: dict[str, Callable[[World], object]] = {
    "release": _release,
    "drop": _drop,
    "acquire_nowait": _acquire,
    "reconfigure": _reconfigure,
    "close": _close,
}


def _expected(error: BaseException, name: str, world: World) -> bool:
    """Whether this is what has to come of a call in whose middle that happened."""
    if isinstance(error, BaseExceptionGroup):
        return all(_expected(inner, name, world) for inner in error.exceptions)
    if isinstance(error, AccountClosed):
        return world.closes
    if isinstance(error, WouldBlock):
        return name in ("acquire_nowait", "reconfigure")
    if isinstance(error, IndexError):  # no such permit any more
        return name == "drop"
    return isinstance(error, UsageError) and name in ("release", "drop") and "cannot be adjusted" in str(error)


def run_nested() -> None:
    """One call, and another one at each of its points: by the same thread, or by another one."""
    quiet()
    make, function = CALLS[NAME]
    elsewhere = os.environ["WHO"] == "another thread"
    # Of calls that come to the loop as well, fewer points are looked at, but in `make soak`.
    step = 1 if os.environ.get("MEMQUOTA_TESTS") == "soak" else 19 if NAME.startswith("task") else 5
    points = 0
    for name, deed in NESTED.items():
        number = 0
        while True:
            world = make(slots=SLOTS + 1)  # one for whoever comes between

            def act(world: World = world, deed: Callable[[World], object] = deed) -> None:
                try:
                    deed(world)
                except UsageError as error:
                    if "in the middle of" not in str(error):
                        raise
                except AccountClosed:
                    assert world.closes

            point = ActAt(number, act, elsewhere=elsewhere)
            with point:
                try:
                    function(world)
                except Exception as error:
                    if not _expected(error, name, world):
                        raise
            line = world.admission.line
            try:
                if function not in (narrow, adjust_up) and name != "reconfigure":
                    assert line.inside <= (line.max_concurrent or 0), "over-granted"
                    assert line.held <= (line.capacity or 0), "over-granted"
                world.check()
            except Exception as error:
                raise AssertionError(f"{name} at point {number}, {point.where}: {error!r}") from error
            if not point.fired:
                break
            number += step
            points += 1
    assert points >= 5
    print(points, "points")


@pytest.mark.parametrize("who", ["this thread", "another thread"])
@pytest.mark.parametrize("name", [name for name in CALLS if not name.startswith("task")])
def test_whatever_comes_in_the_middle_of_a_call_strands_nobody(name: str, who: str) -> None:
    """F35, F43: by a signal handler or finalizer, or by another thread: no deadlock, nobody over-granted."""
    run_isolated(run_nested, env={"CASE": name, "WHO": who}, timeout=120)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("who", ["this thread", "another thread"])
@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("task")])
def test_whatever_comes_in_the_middle_of_a_task_strands_nobody(name: str, who: str, backend: str) -> None:
    """F43: the same for tasks."""
    run_isolated(run_nested, env={"CASE": name, "WHO": who, "BACKEND": backend}, timeout=120)


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("who", ["this thread", "another thread"])
@pytest.mark.parametrize("name", CALLS)
def test_whatever_comes_at_any_point_at_all_strands_nobody(name: str, who: str, backend: str) -> None:
    """F43: the same, at each point."""
    run_isolated(run_nested, env={"CASE": name, "WHO": who, "BACKEND": backend}, timeout=600)
