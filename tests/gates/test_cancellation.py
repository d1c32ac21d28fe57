"""Cancelled before, at and after the grant: a permit is held or passes on, never both, never neither."""

import asyncio
import itertools
from collections.abc import Callable
from functools import partial
from types import coroutine
from typing import Any

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from memquota import AsyncGate, Permit, Tracker
from tests.gates.support import balanced

DEEDS = ("cancel", "release", "widen", "narrow")


class Holder:
    """A task that goes in, notes it, and leaves when it is told to."""

    def __init__(self, gate: AsyncGate, weight: int | None = None) -> None:
        self.gate = gate
        self.weight = weight
        self.scope = anyio.CancelScope()
        self.leave = anyio.Event()
        self.outcome = "waits"

    async def run(self) -> None:
        try:
            with self.scope:
                permit = await self.gate.acquire(self.weight)
                self.outcome = "inside"
                # Shielded: a cancellation that came too late for the acquisition is none of this test's.
                with anyio.CancelScope(shield=True):
                    await self.leave.wait()
                permit.release()
        finally:
            if self.outcome == "waits":
                self.outcome = "cancelled"


@pytest.mark.parametrize("deeds", [d for n in (1, 2, 3) for d in itertools.permutations(DEEDS, n) if "cancel" in d])
@pytest.mark.parametrize("weight", [None, 5])
async def test_a_cancellation_in_the_same_tick_as_anything_else_loses_no_permit(
    deeds: tuple[str, ...], weight: int | None
) -> None:
    """F34: cancelled before, at and after the grant, in the same tick: the permit is held, or the next one has it."""
    gate = AsyncGate(Tracker(1000), max_concurrent=1, capacity=10)
    inside = await gate.acquire(weight)
    first, second = Holder(gate, weight), Holder(gate, weight)
    async with anyio.create_task_group() as tasks:
        for holder in (first, second):
            tasks.start_soon(holder.run)
            await wait_all_tasks_blocked()
        for deed in deeds:
            if deed == "cancel":
                first.scope.cancel()
            elif deed == "release":
                inside.release()
            else:
                gate.reconfigure(max_concurrent=2 if deed == "widen" else 1)
        await wait_all_tasks_blocked()

        assert first.outcome in ("cancelled", "inside")
        gate.reconfigure(max_concurrent=1)
        inside.release()
        first.leave.set()
        await wait_all_tasks_blocked()
        assert second.outcome == "inside"
        second.leave.set()
    balanced(gate)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("deeds", list(itertools.permutations(("cancel", "release"))))
async def test_asyncios_own_cancellation_loses_no_permit(deeds: tuple[str, ...]) -> None:
    """F34: with Task.cancel()."""
    gate = AsyncGate(Tracker(1000), max_concurrent=1)
    inside = await gate.acquire()

    async def acquire() -> Permit:
        return await gate.acquire()

    first = asyncio.ensure_future(acquire())
    await checkpoint()
    second = asyncio.ensure_future(acquire())
    await checkpoint()
    for deed in deeds:
        first.cancel() if deed == "cancel" else inside.release()

    with pytest.raises(asyncio.CancelledError):
        (await first).release()
    (await second).release()
    balanced(gate)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("thrown", [asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("before", ["nothing", "release", "resize", "close"])
@pytest.mark.parametrize("enter", ["await", "async with"])
async def test_whatever_is_thrown_at_any_await_point_gives_up_the_place(
    thrown: type[BaseException], before: str, enter: str
) -> None:
    tracker = Tracker(1000)
    steps = await await_points(AsyncGate(tracker, capacity=10), enter)
    assert steps > 0

    for step in range(steps):
        account = tracker.new_account("mine")
        gate = AsyncGate(tracker, capacity=10, account=account)
        inside = await gate.acquire(8)
        waiting = acquisition(gate, enter)
        for _ in range(step + 1):
            waiting.send(None)
        deeds: dict[str, Callable[[], object]] = {
            "nothing": lambda: None,
            "release": inside.release,
            "resize": partial(gate.reconfigure, capacity=20),
            "close": account.close,
        }
        deeds[before]()
        with pytest.raises(thrown):
            waiting.throw(thrown)

        inside.release()
        balanced(gate)


def acquisition(gate: AsyncGate, enter: str) -> Any:
    @coroutine
    def run() -> Any:
        permit = gate.acquire(5)
        if enter == "await":
            yield from permit.__await__()
        else:
            yield from permit.__aenter__().__await__()
        return permit

    return run()


async def await_points(gate: AsyncGate, enter: str) -> int:
    """How many times somebody who has to wait gives way to the loop until it is in."""
    points = 0

    @coroutine
    def counted() -> Any:
        nonlocal points
        waiting = acquisition(gate, enter)
        try:
            while True:
                given = waiting.send(None)
                points += 1
                yield given
        except StopIteration as stop:
            return stop.value

    async def go_in() -> None:
        (await counted()).release()

    inside = await gate.acquire(8)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(go_in)
        await wait_all_tasks_blocked()
        inside.release()
    return points


async def test_a_timeout_in_the_tick_of_the_grant_is_a_timeout_or_a_permit() -> None:
    """F38: never both, never neither."""
    gate = AsyncGate(Tracker(1000), max_concurrent=1)
    for delay in (0.0, 0.0001, 0.001):
        inside = await gate.acquire()
        got: list[Permit] = []

        async def acquire(delay: float = delay, got: list[Permit] = got) -> None:
            with anyio.move_on_after(delay):
                got.append(await gate.acquire())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(acquire)
            await anyio.sleep(delay)
            inside.release()

        assert gate.statistics().inside == len(got)
        for permit in got:
            permit.release()
    balanced(gate)


async def test_a_waiter_sees_its_place() -> None:
    gate = AsyncGate(Tracker(1000), max_concurrent=1)
    inside = await gate.acquire()
    permits = [gate.acquire(), gate.acquire(), gate.acquire(priority=1)]

    async def hold(permit: Any) -> None:
        async with permit:
            pass

    async with anyio.create_task_group() as tasks:
        for permit in permits:
            tasks.start_soon(hold, permit)
            await wait_all_tasks_blocked()
        assert [permit.place for permit in permits] == [1, 2, 0]
        inside.release()

    assert [permit.place for permit in permits] == [None, None, None]
    balanced(gate)
