"""Tasks whose loop is closed while they wait, or between the grant and the moment in which they would have gone on."""

import asyncio
import gc
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from memquota import AsyncGate, AsyncPermit, Gate, Permit, Tracker
from memquota.host.readings import FixedProvider
from tests.concurrency.support import InThread
from tests.gates.support import balanced, until


class Loop:
    """A loop of asyncio that runs only when told to, with a task that waits at a gate and that somebody keeps."""

    def __init__(self, gate: Gate, weight: int | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.permit: AsyncPermit = AsyncGate(sharing=gate).acquire(weight)
        self.task = self.loop.create_task(self._wait())
        self.tick()

    async def _wait(self) -> None:
        await self.permit

    def tick(self) -> None:
        """Run what is ready now."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def end(self) -> None:
        self.loop.close()
        self.task._log_destroy_pending = False  # type: ignore[attr-defined]  # it never ends, on purpose


@contextmanager
def dead(loop: Loop) -> Iterator[None]:
    """Close the loop for the block, and forget the task only after it."""
    loop.end()
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del loop
        gc.collect()


def behind(gate: Gate, weight: int | None = None) -> InThread[Permit]:
    """A thread that is next in the line."""
    waiting = len(gate._admission.line)
    thread = InThread(partial(gate.acquire, weight))
    until(lambda: len(gate._admission.line) == waiting + 1)
    return thread


@pytest.mark.parametrize("ticks", [0, 1])
@pytest.mark.parametrize("weight", [None, 5])
def test_a_grant_whose_loop_is_closed_before_its_task_goes_on_passes_on(weight: int | None, ticks: int) -> None:
    """F39: closed before the loop heard of the grant, or before the task's next step. Nobody has to ask."""
    gate = Gate(Tracker(1000), max_concurrent=1, capacity=9)
    inside = gate.acquire(weight)
    loop = Loop(gate, weight)
    next_one = behind(gate, weight)
    inside.release()
    for _ in range(ticks):
        loop.tick()
    assert loop.permit.state.value == "inside"
    assert not loop.task.done()

    with dead(loop):
        next_one.result().release()
        assert loop.permit.released
    balanced(gate)


def test_who_waits_in_a_closed_loop_leaves_the_line() -> None:
    """F39: waiters of a dead loop are dropped; nothing is said about a different loop."""
    gate = Gate(Tracker(1000), capacity=10)
    inside = gate.acquire(6)
    loop = Loop(gate, 10)
    next_one = behind(gate, 4)

    with dead(loop):
        next_one.result().release()
        assert gate.statistics().waiting == 0
    inside.release()
    balanced(gate)


def test_who_is_behind_a_dead_one_looks_at_the_provider_itself() -> None:
    """F39: only the first in the line asks the provider."""
    source = FixedProvider(100, 10)
    gate = Gate(Tracker(1000), provider=source)
    inside = gate.acquire()
    source.set(used=99)
    until(lambda: gate.statistics().closed is not None)
    loop = Loop(gate)
    next_one = behind(gate)

    with dead(loop):
        source.set(used=10)
        next_one.result().release()
    inside.release()
    balanced(gate)


def test_who_cannot_be_woken_is_passed_over() -> None:
    """F39: its loop is closed in the very moment in which it is let in."""

    class Deaf:
        dead = True

        def wake(self) -> bool:
            return False

    gate = Gate(Tracker(1000), max_concurrent=1)
    inside = gate.acquire()
    loop = Loop(gate)
    loop.permit.waiter = Deaf()
    next_one = behind(gate)

    inside.release()

    next_one.result().release()
    with dead(loop):
        balanced(gate)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_ends_in_the_tick_of_a_grant_passes_it_on(backend: str) -> None:
    """F39, F48: its tasks are cancelled, and have given back what they were granted when it has ended."""
    gate = Gate(Tracker(1000), max_concurrent=1)
    shared = AsyncGate(sharing=gate)
    inside = gate.acquire(5)
    lines: list[InThread[Permit]] = []

    async def wait() -> None:
        async with shared.acquire(5):
            raise AssertionError("it went in")

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await wait_all_tasks_blocked()
            lines.append(behind(gate, 5))
            inside.release()
            raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        anyio.run(main, backend=backend)

    assert caught.group_contains(ZeroDivisionError)
    lines[0].result().release()
    balanced(gate)


@pytest.mark.parametrize("backends", [("asyncio", "asyncio"), ("trio", "trio"), ("asyncio", "trio")])
def test_a_gate_serves_one_loop_after_another(backends: tuple[str, ...]) -> None:
    """F39, F48: used from another loop, after the first one was closed."""
    gate = AsyncGate(Tracker(1000), max_concurrent=1)

    async def main() -> int:
        inside = await gate.acquire()
        entered = []

        async def wait() -> None:
            async with gate.acquire(5):
                entered.append(1)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait)
            await wait_all_tasks_blocked()
            inside.release()
        return len(entered)

    assert [anyio.run(main, backend=backend) for backend in backends] == [3, 3]
    balanced(gate)


def test_a_permit_may_be_released_after_its_loop_was_closed() -> None:
    """F39: by whoever has it."""
    gate = AsyncGate(Tracker(1000), max_concurrent=1)

    async def acquire() -> Permit:
        return await gate.acquire(5)

    permit = asyncio.run(acquire())
    with pytest.raises(anyio.WouldBlock):
        gate.acquire_nowait()

    permit.release()

    gate.acquire_nowait().release()
    balanced(gate)


async def test_permits_may_be_released_by_a_thread() -> None:
    """F39: used from another thread."""
    gate = AsyncGate(Tracker(1000), max_concurrent=1)
    inside = await gate.acquire(5)

    async with anyio.create_task_group() as tasks:

        async def wait() -> None:
            async with gate.acquire(5):
                pass

        tasks.start_soon(wait)
        await wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(inside.release)

    balanced(gate)


def test_two_loops_pass_a_slot_to_and_fro() -> None:
    """F39: each wakes the other one's tasks."""
    gate = Gate(Tracker(1000), max_concurrent=1)
    shared = AsyncGate(sharing=gate)
    order: list[str] = []

    async def main(backend: str) -> None:
        for _ in range(50):
            async with shared.acquire():
                order.append(backend)
                await anyio.lowlevel.checkpoint()

    threads = [
        threading.Thread(target=partial(anyio.run, main, backend, backend=backend)) for backend in ("asyncio", "trio")
    ]
    with gate.acquire():
        for thread in threads:
            thread.start()
        until(lambda: len(gate._admission.line) == 2)
    for thread in threads:
        thread.join(30)

    assert sorted(order) == ["asyncio"] * 50 + ["trio"] * 50
    balanced(gate)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_whoever_wakes_does_not_wait_for_the_loop(backend: str) -> None:
    """Which is in the middle of something that takes long."""
    gate = Gate(Tracker(1000), max_concurrent=1)
    hangs, go_on = threading.Event(), threading.Event()
    entered: list[int] = []

    async def enter() -> None:
        async with AsyncGate(sharing=gate).acquire(5):
            entered.append(gate.statistics().held)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(enter)
            await wait_all_tasks_blocked()
            hangs.set()
            assert go_on.wait(30)

    inside = gate.acquire(5)
    thread = InThread(partial(anyio.run, main, backend=backend))
    assert hangs.wait(30)
    inside.release()
    assert not entered
    assert gate.statistics().inside == 1  # it has been let in, and will see
    go_on.set()
    thread.result()
    assert entered == [5]
    balanced(gate)


def test_a_loop_gets_one_timer_for_all_gates() -> None:
    loop = asyncio.new_event_loop()

    async def wait_at_many() -> int:
        for _ in range(20):
            gate = AsyncGate(Tracker(1000), max_concurrent=1)
            inside = await gate.acquire()
            task = asyncio.ensure_future(_enter(gate))
            await asyncio.sleep(0)
            inside.release()
            await task
        return len(asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]

    assert loop.run_until_complete(wait_at_many()) == 1
    loop.close()


async def _enter(gate: AsyncGate) -> None:
    async with gate.acquire():
        pass
