"""The task reclaimer from inside its loop: deadlines, several asks at once, breathing, cancellation."""

import asyncio
import gc
import inspect
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from memquota import CloseKind, Reclaimed, Tracker, UsageError
from memquota._loops import Loop
from memquota.observe import RoundEnded, RoundOutcome, RoundStarted, VictimAsked, VictimSettled
from memquota.testing import AsyncScriptedParticipant, FakeClock, ScriptedParticipant
from tests.concurrency.task_world import World, run, until

# --- deadlines --------------------------------------------------------------------------------------------------------


async def test_who_does_not_answer_is_cancelled_at_the_deadline_and_collapses() -> None:
    """F17, P4, P5: the round goes on to the next one and ends; whoever claimed notices nothing."""
    world = World(reclaim_timeout=0.05)
    async with world.tracker:
        hanging = world.holder("hangs", 300, answer="hang")
        second = world.holder("second", 300)
        third = world.holder("third", 450)

        assert (await world.ended()).outcome is RoundOutcome.DONE

        assert not hanging.hanging.is_set()
        assert hanging.account.close_reason is not None
        assert hanging.account.close_reason.kind is CloseKind.FAILED
        assert "did not answer within 0.05 s" in hanging.account.close_reason.text
        assert [second.account.closed, third.account.closed] == [False, False]


async def test_who_goes_on_when_cancelled_is_not_waited_for() -> None:
    """P4: shields, and handlers that swallow the cancellation, delay only the end of the task."""
    ended = anyio.Event()

    class Stubborn(ScriptedParticipant):
        async def reclaim(self, request: object) -> Reclaimed:
            with anyio.CancelScope(shield=True):
                await ended.wait()
            return Reclaimed.PARTIAL

    world = World(reclaim_timeout=0.05)
    async with world.tracker:
        try:
            stubborn = world.holder("stubborn", 500, Stubborn)
            world.holder("young", 600)

            assert (await world.ended()).outcome is RoundOutcome.DONE

            assert stubborn.account.closed
            world.holder("younger", 600)
            assert (await world.ended(2)).outcome is RoundOutcome.DONE
        finally:
            ended.set()


async def test_all_participants_of_a_victim_have_the_same_deadline() -> None:
    """Five that hang take no longer than one; who answered keeps its answer."""
    world = World(reclaim_timeout=0.05)
    account = world.tracker.new_account("many")
    holders = [AsyncScriptedParticipant(account, world.clock, answer="hang") for _ in range(5)]
    async with world.tracker:
        for holder in holders:
            holder.put(100)
        world.holder("young", 600)

        assert (await world.ended()).outcome is RoundOutcome.DONE

    deadlines = [request.deadline for holder in holders for request in holder.requests]
    assert len(deadlines) == 5
    assert max(deadlines) - min(deadlines) < 0.05


async def test_a_participant_that_awaits_somebody_who_is_cancelled_fails_alone(anyio_backend: str) -> None:
    """P5: that exception does not cancel the task which runs the rounds."""
    if anyio_backend == "trio":
        pytest.skip("in trio nobody but the nursery raises it")

    async def wait_for_one_who_is_cancelled(*_: object) -> Reclaimed:
        task = asyncio.ensure_future(asyncio.sleep(3600))
        asyncio.get_running_loop().call_soon(task.cancel)
        await task
        return Reclaimed.PARTIAL

    def raise_at_once(*_: object) -> Reclaimed:
        raise asyncio.CancelledError

    world = World()
    async with world.tracker:
        for number, answer in enumerate((wait_for_one_who_is_cancelled, raise_at_once), 1):
            bad = world.holder("bad", 500, ScriptedParticipant, answer=answer)
            young = world.holder("young", 600)

            assert (await world.ended(number)).outcome is RoundOutcome.DONE

            assert bad.account.close_reason is not None
            assert bad.account.close_reason.kind is CloseKind.FAILED
            young.account.close()


# --- several at once --------------------------------------------------------------------------------------------------


async def test_what_was_promised_is_credited_before_anybody_else_is_asked() -> None:
    """P10: two victims are asked at once, because it takes both; the third is spared."""
    go_on = anyio.Event()

    async def slowly(holder: ScriptedParticipant, request: object) -> Reclaimed:
        await go_on.wait()
        return Reclaimed.COLLAPSING

    class Slow(ScriptedParticipant):
        async def reclaim(self, request: Any) -> Reclaimed:
            self.requests.append(request)
            return await slowly(self, request)

    world = World()
    async with world.tracker:
        holders = [world.holder(f"h{i}", 200, Slow) for i in range(5)]
        world.holder("young", 100)  # 1100: down to 750 takes two

        await until(lambda: len(world.told(VictimAsked)) == 2)
        for _ in range(20):
            await checkpoint()

        assert [bool(holder.requests) for holder in holders] == [True, True, False, False, False]
        assert world.told(VictimSettled) == []
        go_on.set()
        assert (await world.ended()).outcome is RoundOutcome.DONE
        assert world.tracker.used == 700


async def test_who_gives_less_than_promised_lets_the_next_one_be_asked() -> None:
    """P10: the credit goes with the answer."""
    world = World()
    async with world.tracker:
        mean = world.holder("mean", 400, answer="trickle")
        second = world.holder("second", 300)
        world.holder("young", 400)

        assert (await world.ended()).outcome is RoundOutcome.DONE

        assert len(mean.requests) == 2
        assert not second.account.closed


# --- the loop breathes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "most"), [("oldest_data", 0.006), ("largest", 0.261)])  # it surveys 256 at a time
async def test_others_of_the_loop_run_every_five_milliseconds_of_a_round(
    policy: str, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P11: however many candidates a round has to look at. Each age that is asked for takes a millisecond."""
    meter = FakeClock()
    breaths = [0.0]

    async def breathe() -> None:
        breaths.append(meter())
        await checkpoint()

    monkeypatch.setattr("memquota.reclaimers._loop.processor_time", meter)
    monkeypatch.setattr("memquota.reclaimers._loop.monotonic", meter)
    monkeypatch.setattr("memquota.reclaimers.task.checkpoint", breathe)
    turns = 0

    def age(holder: ScriptedParticipant) -> float:
        meter.advance(0.001)
        return holder.items[0][0] + 1000  # older than it was known to be: nobody is chosen before all were asked

    async def others() -> None:
        nonlocal turns
        while not world.told(RoundEnded):
            turns += 1
            await checkpoint()

    world = World(policy=policy)
    holders = [world.holder(f"h{i}", 1, age=age) for i in range(600)]
    async with world.tracker, anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        world.holder("young", 900)
        await world.ended()

    breaths.append(meter())
    assert sum(holder.surveys for holder in holders) >= 600
    assert max(later - earlier for earlier, later in pairwise(breaths)) <= most
    assert turns >= len(breaths) - 2


# --- cancellation -----------------------------------------------------------------------------------------------------


async def test_a_cancelled_run_leaves_a_round_that_can_start_anew() -> None:
    """F18: nobody is stuck as asked, and the next to run the tracker runs the round."""
    world = World()
    async with anyio.create_task_group() as tasks:
        await tasks.start(run, world.tracker)
        hanging = world.holder("hangs", 500, answer="hang")
        world.holder("young", 600)
        await until(hanging.hanging.is_set)
        tasks.cancel_scope.cancel()

    assert not hanging.hanging.is_set()
    assert not hanging.account.closed
    assert world.told(RoundEnded)[-1].outcome is RoundOutcome.CANCELLED
    hanging.answer = "collapse"
    async with anyio.create_task_group() as tasks:
        await tasks.start(run, world.tracker)
        assert (await world.ended(2)).outcome is RoundOutcome.DONE
        assert hanging.account.closed
        tasks.cancel_scope.cancel()


async def test_leaving_the_tracker_in_the_middle_of_a_round_ends_it() -> None:
    """F18: also when the block is left by an exception."""
    world = World()
    hanging = world.holder("hangs", 500, answer="hang")

    async def block() -> None:
        async with world.tracker:
            world.holder("young", 600)
            await until(hanging.hanging.is_set)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # as it was raised, in no group
        await block()

    assert world.tracker.closed
    assert not hanging.hanging.is_set()
    assert world.tracker.used == 0


async def test_run_ends_when_the_tracker_is_closed_in_the_middle_of_a_round() -> None:
    """F18: at once, whoever is being asked and however long that may take."""
    world = World(reclaim_timeout=3600.0)
    hanging = world.holder("hangs", 500, answer="hang")
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            await tasks.start(run, world.tracker)
            world.holder("young", 600)
            await until(hanging.hanging.is_set)

            world.tracker.close()

    assert not hanging.hanging.is_set()
    assert world.told(RoundEnded)[-1].outcome is RoundOutcome.CANCELLED


async def test_a_loop_that_does_not_get_to_it_is_told_of_a_round_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """P4: else what waits for it would grow with each claim, just when memory is short. The next round wakes it."""
    told = []

    def call_soon(loop: Loop, action: Callable[[], object]) -> bool:
        told.append(action)
        if len(told) == 1:
            raise KeyboardInterrupt
        return original(loop, action)

    original = Loop.call_soon
    monkeypatch.setattr(Loop, "call_soon", call_soon)
    world = World()
    async with world.tracker:
        first, second = world.holder("first", 900), world.holder("second")
        with pytest.raises(KeyboardInterrupt):
            second.put(200)  # interrupted before it could tell

        for _ in range(100):
            second.put(2)
        await world.ended()
        for _ in range(100):
            second.put(10)
        await world.ended(2)

        assert len(told) == 3
        assert [first.account.closed, second.account.closed] == [True, True]


@pytest.mark.filterwarnings("ignore:coroutine '_Reply.receive' was never awaited")  # anyio's task group does not see it
def test_an_answer_that_nobody_will_await_is_closed() -> None:
    """F18, F19: as where a program ends by cancelling each task. Its author would be warned of it for nothing."""
    answers: list[Any] = []

    async def never() -> Reclaimed:
        return Reclaimed.COLLAPSING

    def cancel_all() -> None:
        for task in asyncio.all_tasks():
            task.cancel()

    def answer(one: ScriptedParticipant, request: object) -> Any:
        asyncio.get_running_loop().call_soon(cancel_all)  # before the task that awaits the answer has begun
        answers.append(never())
        return answers[-1]

    async def main() -> None:
        async with world.tracker:
            world.holder("old", 500, ScriptedParticipant, answer=answer)
            world.holder("young", 600)
            await until(lambda: False)

    world = World()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    gc.collect()

    assert inspect.getcoroutinestate(answers[0]) == inspect.CORO_CLOSED


async def test_who_holds_the_loop_up_for_longer_than_it_may_collapses(monkeypatch: pytest.MonkeyPatch) -> None:
    """F17: nobody could interrupt it, but it has not kept its time."""
    real_time = FakeClock()
    monkeypatch.setattr("memquota.reclaimers._loop.monotonic", real_time)
    monkeypatch.setattr("memquota._rounds.monotonic", real_time)
    took = {"in time": 30.0, "late": 30.1}

    def slowly(one: ScriptedParticipant, request: object) -> Reclaimed:
        real_time.advance(took[one.account.name])
        one.get()
        return Reclaimed.PARTIAL

    world = World()
    in_time, late = (world.holder(name, 300, ScriptedParticipant, answer=slowly) for name in took)
    async with world.tracker:
        world.holder("young", 600)
        await world.ended()

        assert not in_time.account.closed
        assert late.account.close_reason is not None
        assert late.account.close_reason.kind is CloseKind.FAILED
        assert "took 30.100 s to answer" in late.account.close_reason.text


async def test_a_tracker_is_run_by_one_task() -> None:
    world = World()
    async with world.tracker:
        with pytest.raises(UsageError, match=r"^another task runs this tracker already$"):
            await world.tracker.run()

        world.holder("old", 500)
        world.holder("young", 600)
        assert (await world.ended()).outcome is RoundOutcome.DONE


async def test_rounds_that_are_asked_for_again_before_they_begin_are_one() -> None:
    """Who asks by a timer while no task runs leaves neither memory behind nor a queue of rounds for nothing."""
    world = World()
    world.holder("old", 500)
    for _ in range(100):
        assert world.tracker.reclaim(10) is None
        world.tracker.reclaim()
    world.tracker.reclaim(10)

    async with world.tracker:
        await world.ended(2)
        await until(lambda: world.tracker._rounds.runner is None)

    assert [event.target for event in world.told(RoundStarted)] == [10, 750]


async def test_nothing_runs_a_tracker_with_another_reclaimer() -> None:
    tracker = Tracker(1000, name="t")

    with pytest.raises(UsageError, match=r"^tracker 't' has no reclaimer='task', so there is nothing to run$"):
        await tracker.run()
    async with tracker:  # which is no more than `with` then
        pass
    assert tracker.closed


async def test_run_ends_when_the_tracker_is_closed() -> None:
    world = World()
    async with anyio.create_task_group() as tasks:
        await tasks.start(run, world.tracker)

        world.tracker.close()

    with anyio.fail_after(30):
        await world.tracker.run()  # at once
