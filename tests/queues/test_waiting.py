"""Tasks that wait: woken from signal handlers too, and in nobody's way when they can never run again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from memquota import AsyncQueue, MemoryReclaimed, Tracker, open_stream
from tests.concurrency.test_fork import in_child
from tests.queues.worlds import World, settled
from tests.support.watchdog import run_isolated


def _handler_reclaims(backend: str) -> None:
    """A loop that has nothing else to do sleeps in the system until somebody writes to it."""
    tracker = Tracker(100_000)
    account = tracker.new_account()
    queue, other = AsyncQueue[bytes](account), AsyncQueue[bytes](account)
    other.put_nowait(b"something to reclaim")

    async def main() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(MemoryReclaimed):
            await queue.get()

    signal.signal(signal.SIGALRM, lambda number, frame: tracker.reclaim(0))
    anyio.run(main, backend=backend)


def _handler_reclaims_in_asyncio() -> None:
    _handler_reclaims("asyncio")


def _handler_reclaims_in_trio() -> None:
    _handler_reclaims("trio")


@pytest.mark.parametrize("function", [_handler_reclaims_in_asyncio, _handler_reclaims_in_trio])
def test_a_collapse_by_a_signal_handler_wakes_a_loop_that_sleeps(function: Callable[[], None]) -> None:
    run_isolated(function)


def left_waiting(waiting: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task that waits in a loop that is closed."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(waiting)
    for _ in range(4):
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    return task


def forget(task: asyncio.Task[Any]) -> None:
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    task.get_coro().close()


@pytest.mark.parametrize("kind", ["AsyncQueue", "stream"])
def test_who_waits_to_put_in_a_closed_loop_does_not_make_a_queue_full(kind: str) -> None:
    world = World(kind, "drop_oldest", items=1, maxsize=1)
    task = left_waiting(world.put_waiting())
    world.tracker.reclaim(0)

    assert world.buffer._statistics(len(world.buffer._putters), 0).waiting_to_put == 0
    world.put()
    world.get()

    assert world.got == [2]
    forget(task)
    world.check()


def test_who_waits_to_receive_in_a_closed_loop_is_nobody_to_meet() -> None:
    world = World("stream", "collapse", items=0)
    send, receive = open_stream(world.account, 0)
    task = left_waiting(receive.receive())

    with pytest.raises(anyio.WouldBlock):
        send.send_nowait("for nobody")

    forget(task)
    send.close()
    receive.close()
    world.check()


def test_a_sender_in_a_closed_loop_can_be_forgotten_after_its_item_was_taken() -> None:
    send, receive = open_stream(Tracker(100_000).new_account(), 0)
    with send, receive:
        sending = send.send("item")
        loop = asyncio.new_event_loop()
        task = loop.create_task(sending)
        for _ in range(4):
            loop.run_until_complete(asyncio.sleep(0))

        assert receive.receive_nowait() == "item"
        loop.close()

        forget(task)


def _fork_while_tasks_wait() -> None:
    world = World("AsyncQueue", "collapse", items=1, maxsize=1)
    stream = World("stream", "collapse", items=0)

    async def in_new_loop() -> None:
        with anyio.fail_after(5):
            world.get()
            world.put()
            world.get()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.get_waiting)
                await stream.put_waiting()
            assert (len(world.got), len(stream.got)) == (2, 1)

    def child() -> None:
        for each in (world, stream):
            assert (len(each.buffer._putters), len(each.buffer._getters)) == (0, 0)
        asyncio.run(in_new_loop())

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.put_waiting)
            tasks.start_soon(stream.get_waiting)
            await settled()
            in_child(child)
            assert (len(world.buffer._putters), len(stream.buffer._getters)) == (1, 1)
            tasks.cancel_scope.cancel()

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_in_a_child_process_nobody_waits_at_the_queues_of_tasks() -> None:
    """F41: a loop of the parent never runs there."""
    run_isolated(_fork_while_tasks_wait)
