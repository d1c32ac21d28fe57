"""F42: real signals whose handler raises KeyboardInterrupt, at any point of put, get, a round and the end."""

import logging
import os
import random
import signal
import sys
import time
from types import FrameType
from typing import Any

import pytest

from memquota.testing import assert_books_balance
from tests.queues.worlds import COST, KINDS, NO_ROOM, NOTHING, OVER, World
from tests.support.watchdog import run_isolated

MODES = ("collapse", "drop_oldest")


class Storm:
    """Signals that come while `operations` is on the stack, and nowhere else."""

    def __init__(self, kind: str, burst: bool) -> None:
        self.kind = kind
        self.rng = random.Random(23)
        self.raised = 0
        self._burst = burst
        self._shots = 0
        self.worlds = [self.new_world() for _ in range(4)]
        signal.signal(signal.SIGALRM, self._handle)

    def new_world(self) -> World:
        return World(self.kind, self.rng.choice(MODES), 5, self.rng.choice((0, 20)), strict=self.rng.random() < 0.3)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code is Storm.operations.__code__:
                if self._shots:
                    self._shots -= 1
                    self.raised += 1
                    raise KeyboardInterrupt
                return
            frame = frame.f_back

    def operations(self) -> None:
        while self._shots:  # one that meets a finalizer is raised to nobody
            world = self.rng.choice(self.worlds)
            what = self.rng.random()
            try:
                if what < 0.5:
                    world.put()
                elif what < 0.97:
                    world.get()
                elif what < 0.98 and self.kind == "Queue":
                    world.queue.get(timeout=0.0001)
                elif what < 0.999:
                    world.tracker.reclaim(max(0, world.tracker.used - 1500))
                else:
                    world.end()
            except (*NOTHING, *NO_ROOM, *OVER):
                pass

    def once(self) -> None:
        """Operate until signals come, then look at everybody."""
        self._shots = 3 if self._burst else 1
        period = self.rng.uniform(0.00005, 0.0004)
        signal.setitimer(signal.ITIMER_REAL, period, 0.00005 if self._burst else 0.0003)
        try:
            self.operations()
        except KeyboardInterrupt:
            pass
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._shots = 0
        for number, world in enumerate(self.worlds):
            check(world, at_once=not self._burst)
            if world.account.closed or world.buffer._lets_nothing_in():
                self.finish(world)
                self.worlds[number] = self.new_world()

    def finish(self, world: World) -> None:
        """The end brings everything to nothing."""
        assert world.lock_is_free()
        assert_books_balance(world.tracker)
        world.end()
        world.account.close()
        assert world.tracker.used == 0


def check(world: World, *, at_once: bool) -> None:
    """What is claimed is what is inside, or one item more.

    Args:
        world: The queue.
        at_once: Whether that must be so already: what several signals left is finished by the next move of the books.
    """
    if world.account.closed:
        return
    if not at_once:
        world.tracker._books.enter(world.buffer._settle)
    inside = world.buffer._statistics(0, 0).items * COST
    assert inside <= world.in_use() <= inside + COST, f"{world.in_use()} claimed, {inside} inside"


def storm() -> None:
    logging.disable()
    kind, signals, burst = os.environ["KIND"], int(os.environ["SIGNALS"]), os.environ["BURST"] == "True"
    unraisable: list[Any] = []
    sys.unraisablehook = unraisable.append  # interrupts of finalizers go there
    gale = Storm(kind, burst)
    while gale.raised < signals:
        gale.once()
        if not gale.raised % 50:
            assert all(world.lock_is_free() for world in gale.worlds)
    for world in gale.worlds:
        gale.finish(world)
    print(f"{kind}: {gale.raised} signals, {time.process_time():.1f} s of processor time")


def rage(kind: str, burst: bool, signals: int, timeout: float) -> None:
    done = run_isolated(storm, env={"KIND": kind, "SIGNALS": str(signals), "BURST": str(burst)}, timeout=timeout)
    assert done.stderr == ""
    print(done.stdout)


@pytest.mark.parametrize("burst", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_at_any_moment_leaves_the_lock_free_and_one_item_too_much_at_most(kind: str, burst: bool) -> None:
    """F42: single ones, and three in a row, of which the later ones meet the handling of the first."""
    rage(kind, burst, 300, 100)


@pytest.mark.soak
@pytest.mark.parametrize("burst", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_thousand_signals(kind: str, burst: bool) -> None:
    """F42."""
    rage(kind, burst, 100_000, 1500)
