"""Event loops that end in the middle of a round of the task reclaimer."""

import asyncio
import logging
from collections.abc import Callable

import anyio
import pytest

from memquota.observe import RoundEnded, RoundOutcome
from tests.concurrency.task_world import World, run, until
from tests.support.watchdog import run_isolated


def _in_several_loops(backend: str) -> None:
    """Each loop ends in the middle of a round, with asks under way."""
    logging.basicConfig(level=logging.ERROR)
    world = World()
    hanging = [world.holder(f"hangs{i}", answer="hang") for i in range(3)]

    async def session(leave: str) -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(run, world.tracker)
            for holder in hanging:
                holder.put(400 - holder.held)
            await until(lambda: any(holder.hanging.is_set() for holder in hanging))
            if leave == "cancel":
                tasks.cancel_scope.cancel()
            else:
                raise KeyboardInterrupt

    for leave in ("cancel", "raise", "cancel"):
        try:
            anyio.run(session, leave, backend=backend)
        except (KeyboardInterrupt, BaseExceptionGroup):
            pass
        assert not any(holder.hanging.is_set() for holder in hanging)
        assert world.tracker._rounds.runner is None
        assert world.told(RoundEnded)[-1].outcome is RoundOutcome.CANCELLED

    async def last() -> None:
        for holder in hanging:
            holder.answer = "collapse"
        async with world.tracker:
            await until(lambda: world.tracker.used <= 750)

    anyio.run(last, backend=backend)
    assert world.tracker.used == 0
    print("done")


def _in_asyncio_loops() -> None:
    _in_several_loops("asyncio")


def _in_trio_loops() -> None:
    _in_several_loops("trio")


@pytest.mark.parametrize("function", [_in_asyncio_loops, _in_trio_loops])
def test_a_tracker_outlives_the_loops_that_end_in_the_middle_of_its_rounds(function: Callable[[], None]) -> None:
    """F48: no "Task was destroyed", nothing that was never awaited; a new loop can use the same tracker."""
    done = run_isolated(function, interpreter_args=["-X", "dev", "-W", "error"])

    assert (done.stdout, done.stderr) == ("done\n", "")


def _asyncio_run_ends_with_a_round() -> None:
    """As programs do that never think of it: the run's task is left to `asyncio.run`, which cancels each task."""
    logging.basicConfig(level=logging.ERROR)
    world = World()
    hanging = [world.holder(f"hangs{i}", answer="hang") for i in range(3)]

    async def main() -> None:
        main.task = asyncio.ensure_future(world.tracker.run())  # type: ignore[attr-defined]
        for holder in hanging:
            holder.put(400)
        await until(lambda: any(holder.hanging.is_set() for holder in hanging))

    async def next_main() -> None:
        for holder in hanging:
            holder.answer = "collapse"
        task = asyncio.ensure_future(world.tracker.run())
        await until(lambda: world.tracker.used <= 750)
        world.tracker.close()
        await task

    asyncio.run(main())
    assert not any(holder.account.closed for holder in hanging)
    assert world.tracker._rounds.runner is None
    asyncio.run(next_main())
    print("done")


def test_asyncio_run_that_ends_with_a_round_under_way_says_nothing() -> None:
    """F48: and blames no participant for it."""
    done = run_isolated(_asyncio_run_ends_with_a_round, interpreter_args=["-X", "dev", "-W", "error"])

    assert (done.stdout, done.stderr) == ("done\n", "")


def _loop_is_closed_under_a_round() -> None:
    """A loop that is stopped and closed with its tasks pending never lets them clean up."""
    logging.disable()
    world = World()
    hanging = world.holder("hangs", 500, answer="hang")

    async def main() -> None:
        main.task = asyncio.ensure_future(world.tracker.run())  # type: ignore[attr-defined]
        world.holder("young", 600).account.on_close(print)
        await until(hanging.hanging.is_set)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    keep = world.holder("another")
    keep.put(600)  # wakes nobody, and says nothing
    world.tracker._rounds.reclaimer.wake(None)  # nor does this, as by a claim between two rounds

    async def next_main() -> None:
        hanging.answer = "collapse"
        async with world.tracker:
            await until(lambda: world.tracker.used <= 750)
            await anyio.wait_all_tasks_blocked()
            world.holder("one more").put(600)  # which wakes the new one
            await until(lambda: world.tracker.used <= 750)
        assert hanging.account.closed

    asyncio.run(next_main())
    print("done", flush=True)
    import os

    os._exit(0)  # the pending task is the test's fault, and asyncio would say so


def test_a_loop_that_was_closed_under_its_tasks_does_not_keep_the_tracker() -> None:
    """F48: a new loop runs the rounds, from the beginning."""
    done = run_isolated(_loop_is_closed_under_a_round)

    assert done.stdout.endswith("done\n")
