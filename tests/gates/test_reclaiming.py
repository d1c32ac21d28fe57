"""A gate that has others make room: the bytes belong to whoever paid for them, and nobody pays for one who left."""

import threading

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from anyio.abc import TaskStatus

from memquota import AsyncGate, Gate, Reclaimed, ReclaimRequest, Tracker
from memquota.host import FixedProvider
from memquota.observe import GateOpened, RoundEnded, RoundOutcome
from memquota.testing import FakeClock
from tests.gates.support import balanced, until


@pytest.mark.parametrize("who", ["thread", "task"])
async def test_nobody_makes_room_for_one_who_gave_up(who: str) -> None:
    """P10: the round was asked for, and had not begun."""
    tracker = Tracker(1000, reclaimer="task")
    data = tracker.new_account("data")
    data.claim(900)
    gate = Gate(tracker, on_full="reclaim")

    if who == "thread":
        with pytest.raises(TimeoutError):
            gate.acquire(200, timeout=0)
    else:
        with anyio.move_on_after(0):
            await AsyncGate(sharing=gate).acquire(200)
    async with tracker:
        await wait_all_tasks_blocked()
        assert not data.closed
        assert tracker.used == 900

        async with AsyncGate(sharing=gate).acquire(200):
            assert data.closed
    balanced(gate)


async def test_nobody_makes_room_for_one_who_found_some() -> None:
    """P10: somebody left before the round that was asked for had begun."""
    tracker = Tracker(1000, reclaimer="task")
    data = tracker.new_account("data")
    data.claim(600)
    gate = AsyncGate(tracker, on_full="reclaim")
    leaves = await gate.acquire(300)

    async def enter() -> None:
        async with gate.acquire(400):
            assert not gate._admission.rounds.demands
            await tasks.start(run)
            await wait_all_tasks_blocked()
            assert not data.closed
            tasks.cancel_scope.cancel()

    async def run(*, task_status: TaskStatus[None]) -> None:
        async with tracker:
            task_status.started()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
        await wait_all_tasks_blocked()
        assert [demand.target for demand in gate._admission.rounds.demands] == [600]
        leaves.release()
    balanced(gate)


async def test_a_gate_that_is_told_to_wait_asks_for_no_memory_any_more() -> None:
    """P10: not for who waits already, nor is anything kept for it; until it is told to ask again."""
    tracker = Tracker(1000, reclaimer="task")
    data = tracker.new_account("data")
    data.claim(900)
    gate = AsyncGate(tracker, on_full="reclaim")
    done = anyio.Event()

    async def enter() -> None:
        async with gate.acquire(300):
            done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
        await wait_all_tasks_blocked()

        gate.reconfigure(on_full="wait")
        with anyio.fail_after(20):
            async with gate.acquire(100, priority=1):
                pass
        async with tracker:
            await wait_all_tasks_blocked()
            assert not data.closed
            gate.reconfigure(on_full="reclaim")
            with anyio.fail_after(20):
                await done.wait()
            assert data.closed
    balanced(gate)


def test_nobody_gives_up_anything_in_vain() -> None:
    """P10: who is inside holds too much, whatever the others give up; and enough for when it leaves."""
    tracker = Tracker(1000)
    data = tracker.new_account("data")
    data.claim(300)
    gate = Gate(tracker, on_full="reclaim")

    with gate.acquire(600), pytest.raises(TimeoutError):
        gate.acquire(401, timeout=0)
    with gate.acquire(700):
        assert not data.closed
    with gate.acquire(600), gate.acquire(400):
        assert data.closed
    balanced(gate)


async def test_what_a_subscriber_gives_back_because_a_gate_opens_is_there_for_others() -> None:
    """Those who wait at another gate have been looked at already when that one tells that it opens."""
    clock = FakeClock()
    tracker = Tracker(1000, clock=clock)
    data = tracker.new_account("data")
    data.claim(700)
    provider = FixedProvider(100, 99)
    first, second = AsyncGate(tracker), AsyncGate(tracker, provider=provider)
    tracker.subscribe(lambda event: data.release(600) if isinstance(event, GateOpened) else None)

    async def enter(gate: AsyncGate, weight: int | None) -> None:
        async with gate.acquire(weight):
            pass

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter, first, 500)
        await wait_all_tasks_blocked()
        tasks.start_soon(enter, second, None)
        await wait_all_tasks_blocked()
        provider.set(used=10)
        clock.advance(0.125)

        data.claim(1)

        assert (first._admission.line.inside, second._admission.line.inside) == (1, 1)
    balanced(first)
    balanced(second)


def test_a_round_asks_nobody_else_when_the_one_who_paid_for_it_gives_up() -> None:
    """P10: it goes to the end of the ask under way."""
    asked, gave_up = threading.Event(), threading.Event()

    class Holder:
        def reclaim(self, request: ReclaimRequest) -> Reclaimed:
            asked.set()
            assert gave_up.wait(20)
            return Reclaimed.COLLAPSING

        def oldest_data(self) -> float:
            return 0.0

    ended: list[RoundEnded] = []
    with Tracker(1000, reclaimer="thread", reclaim_timeout=30.0) as tracker:
        tracker.subscribe(lambda event: ended.append(event) if isinstance(event, RoundEnded) else None)
        accounts = [tracker.new_account(str(number)) for number in range(4)]
        holders = [Holder() for _ in accounts]
        parts = [account.register_participant(holder) for account, holder in zip(accounts, holders, strict=True)]
        for part in parts:
            part.claim(200)
        gate = Gate(tracker, on_full="reclaim")

        while not asked.is_set():  # the round may begin too late for the first one
            with pytest.raises(TimeoutError):
                gate.acquire(900, timeout=0.05)
        gave_up.set()
        until(lambda: bool(ended) and gate._admission.rounds.round is None)

        assert [account.closed for account in accounts].count(True) <= 1
        assert {event.outcome for event in ended} == {RoundOutcome.CANCELLED}
        balanced(gate)


async def test_no_more_is_asked_for_than_is_missing() -> None:
    """P10: and it is kept for whoever asked."""
    tracker = Tracker(1000, reclaimer="task")
    old, new = tracker.new_account("old"), tracker.new_account("new")
    old.claim(500)
    new.claim(400)
    gate = AsyncGate(tracker, on_full="reclaim")
    order = []

    async def enter(weight: int, priority: int) -> None:
        async with gate.acquire(weight, priority=priority):
            order.append(weight)
            await wait_all_tasks_blocked()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter, 300, 0)
        await wait_all_tasks_blocked()
        assert gate._admission.line.reserved == 300
        async with tracker:
            while not order:
                await anyio.lowlevel.checkpoint()
            assert old.closed
            assert not new.closed
            await wait_all_tasks_blocked()
    balanced(gate)
