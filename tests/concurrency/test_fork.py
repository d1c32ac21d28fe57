"""F41: a process forks while other threads are in the books, in rounds, or wait for one."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from memquota import Reclaimed, Tracker
from memquota.testing import FakeClock, ScriptedParticipant, assert_books_balance
from tests.concurrency.support import PATIENCE, InThread, Point, held, someone_inside
from tests.support.watchdog import run_isolated

MIB = 2**20


def in_child(action: Callable[[], object]) -> None:
    """Fork, do something in the child, and fail when it fails there."""
    child = os.fork()
    if not child:
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class World:
    """A tracker with 500,000 bytes claimed by the older of two participants."""

    def __init__(self, reclaimer: str = "inline") -> None:
        self.clock = FakeClock()
        self.tracker = Tracker(MIB, clock=self.clock, reclaimer=reclaimer, reclaim_timeout=PATIENCE)
        self.old = ScriptedParticipant(self.tracker.new_account("old"), self.clock)
        self.old.put(500_000)
        self.clock.advance(1)
        self.young = ScriptedParticipant(self.tracker.new_account("young"), self.clock)

    def works(self) -> None:
        """The books are those of the moment of the fork, and everything goes on from there."""
        assert_books_balance(self.tracker, 500_000)
        self.young.put(100_000)
        self.old.participation.clone().close()
        self.tracker.new_account("new").claim(1000)  # and is dropped
        assert_books_balance(self.tracker, 600_000)
        self.young.put(600_000)
        while not self.old.account.closed:  # a thread runs the round, where that is what the tracker was told
            threading.Event().wait(0.001)
        assert_books_balance(self.tracker, 700_000)
        self.tracker.close()
        assert self.tracker.used == 0


def _lock_held() -> None:
    world = World()
    with someone_inside(world.tracker):
        in_child(world.works)
    world.works()


def _move_half_done() -> None:
    """The sums say 300,000 bytes more, and the participation does not know it yet."""
    world = World()
    with held(world.tracker._books.ledger, "_move", after=True) as moved:
        claiming = InThread(world.young.participation.claim, 300_000)
        moved.await_arrival()
        in_child(world.works)
        moved.let_go()
        claiming.result()
    world.young.participation.release(300_000)
    world.works()


def _round_under_way() -> None:
    """Another thread asks a participant, which answers after the fork."""
    world = World()
    asked = Point()

    def slowly(participant: ScriptedParticipant, request: object) -> Reclaimed:
        asked.hold()
        participant.items.clear()
        return Reclaimed.COLLAPSING

    world.old.answer = slowly
    claiming = InThread(world.young.put, 700_000)
    asked.await_arrival()

    def works() -> None:
        assert_books_balance(world.tracker, 1_200_000)
        world.young.put(1)  # and runs the round anew
        assert world.old.account.closed
        assert_books_balance(world.tracker, 700_001)
        counts = world.tracker.statistics().counts
        assert (counts.rounds, counts.victims) == (2, 1)

    in_child(works)
    asked.let_go()
    claiming.result()
    assert world.old.account.closed
    assert_books_balance(world.tracker, 700_000)


def _round_by_hand_waited_for() -> None:
    """Whoever waits elsewhere for a round by hand is not there: nothing is reclaimed for him in the child."""
    world = World()
    asked = Point()
    world.old.age = lambda participant: asked.hold()
    first = InThread(world.tracker.reclaim, 400_000)
    asked.await_arrival()
    with held(world.tracker._rounds, "relieve", after=True) as waiting:
        second = InThread(world.tracker.reclaim, 0)
        waiting.await_arrival()

        def works() -> None:
            world.old.age = "honest"
            world.tracker.new_account().claim(1)
            assert not world.old.account.closed
            world.works()

        in_child(works)
    asked.let_go()
    first.result()
    second.result()
    assert world.old.account.closed


def _with_threads() -> None:
    """The threads that run the rounds are not there in the child, which starts others."""
    world = World("thread")
    for _ in range(2):  # so that they run
        world.tracker.reclaim(MIB)
        world.clock.advance(1)
    with someone_inside(world.tracker):
        in_child(world.works)
    world.works()


def _with_a_task() -> None:
    """The loop is the parent's. Another one in the child may run the tracker."""
    world = World("task")
    running = threading.Event()
    done = threading.Event()

    async def parent() -> None:
        async with world.tracker:
            running.set()
            await anyio.to_thread.run_sync(done.wait)

    async def child() -> None:
        async with world.tracker:
            world.young.put(700_000)
            while world.tracker.used > MIB:
                await anyio.lowlevel.checkpoint()

    def works() -> None:
        anyio.run(child, backend="trio")
        assert world.old.account.closed
        assert world.tracker.closed

    loop = InThread(anyio.run, parent)
    assert running.wait(PATIENCE)
    in_child(works)
    assert not world.tracker.closed
    done.set()
    loop.result()


def _in_a_handler() -> None:
    """The thread that is in the middle of a move forks by itself."""
    world = World()
    ledger: Any = world.tracker._books.ledger
    children: list[int] = []
    move = ledger._move

    def fork(*arguments: Any) -> Any:
        del ledger._move
        moved = move(*arguments)
        children.append(os.fork())
        return moved

    ledger._move = fork
    world.young.participation.claim(100_000)
    world.young.participation.release(100_000)
    try:
        world.works()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    if not children[0]:
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


def _in_a_callback() -> None:
    """What is told that an account is closed forks, and returns in the child too."""
    world = World()
    account = world.tracker.new_account("closed")
    children: list[int] = []
    account.on_close(lambda reason: children.append(os.fork()))
    try:
        account.close()
        world.works()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    if not children[0]:
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


@pytest.mark.parametrize(
    "situation",
    [
        _lock_held,
        _move_half_done,
        _round_under_way,
        _round_by_hand_waited_for,
        _with_threads,
        _with_a_task,
        _in_a_handler,
        _in_a_callback,
    ],
    ids=lambda situation: situation.__name__.strip("_"),
)
def test_a_forked_child_has_a_fresh_lock_and_the_books_of_that_moment(situation: Callable[[], None]) -> None:
    """F41: and the parent goes on as if nothing had happened."""
    run_isolated(situation, interpreter_args=["-W", "ignore::DeprecationWarning"])  # fork among threads, on 3.12
