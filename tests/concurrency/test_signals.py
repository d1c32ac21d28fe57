"""F42: real signals whose handler raises KeyboardInterrupt, at any point of what a simple participant does."""

import gc
import logging
import os
import random
import signal
import time
from collections import deque
from types import FrameType
from typing import Any

import pytest

from memquota import Closed, Reclaimed, Tracker
from memquota._ticker import Ticker
from memquota.reclaimers import _loop as loop
from memquota.testing import FakeClock, assert_books_balance
from tests.concurrency.support import InThread
from tests.support.watchdog import run_isolated

MIB = 2**20
SIZES = (1, 100, 5000, 20_000)


class Simple:
    """As simple as a participant can be: it claims before it takes, and releases what it gave out."""

    def __init__(self, tracker: Tracker, clock: FakeClock) -> None:
        self.account = tracker.new_account()
        self.items: deque[tuple[float, int]] = deque()
        self.clock = clock
        self.excess = 0
        self.part = self.account.register_participant(self)

    def put(self, size: int) -> None:
        self.part.claim(size)
        self.items.append((self.clock(), size))

    def get(self) -> None:
        _, size = self.items.popleft()
        self.part.release(size)

    def oldest_data(self) -> float | None:
        return self.items[0][0] if self.items else None

    def reclaim(self, request: object) -> Reclaimed:
        while self.items:
            self.get()
        return Reclaimed.COLLAPSING

    def check(self, signals: int) -> None:
        """It holds no more than is counted, and what is counted too much is an item for each signal."""
        if self.account.closed:
            return
        excess = self.part.used - sum(size for _, size in self.items)
        assert excess >= 0, f"under-counted by {-excess}"
        assert excess - self.excess <= signals * max(SIZES), f"over-counted by {excess}, before it was {self.excess}"
        self.excess = excess


class Storm:
    """Signals that come while `operations` is on the stack, and nowhere else."""

    def __init__(self, burst: bool) -> None:
        self.clock = FakeClock()
        self.tracker = Tracker(MIB, clock=self.clock)
        self.holders = [Simple(self.tracker, self.clock) for _ in range(8)]
        self.random = random.Random(11)
        self.raised = 0
        self.lost = 0
        self._burst = burst
        self._shots = 0
        signal.signal(signal.SIGALRM, self._handle)

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
        choose = self.random
        while True:
            holder = choose.choice(self.holders)
            self.clock.advance(0.001)
            what = choose.random()
            if what < 0.55:
                holder.put(choose.choice(SIZES))
            elif what < 0.98:
                if holder.items:
                    holder.get()
            else:
                holder.part.clone().close()

    def once(self) -> None:
        """Operate until signals come, then look at everybody."""
        before = self.raised
        self._shots = 3 if self._burst else 1
        period = self.random.uniform(0.00005, 0.0004)
        signal.setitimer(signal.ITIMER_REAL, period, 0.00005 if self._burst else 0.0003)
        try:
            self.operations()
        except (KeyboardInterrupt, Closed):
            pass
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._shots = 0
        for holder in self.holders:
            holder.check(self.raised - before)
        self.holders = [
            holder if not holder.account.closed else Simple(self.tracker, self.clock) for holder in self.holders
        ]

    def end(self) -> None:
        """Closing brings everything to nothing; the participations of dropped clones end with theirs."""
        for holder in self.holders:
            holder.part.destroy()
            holder.account.close()
        gc.collect()
        assert self.tracker.used == 0, self.tracker.used
        assert_books_balance(self.tracker, 0)


def _storm() -> None:
    logging.disable()
    signals, burst = int(os.environ["SIGNALS"]), os.environ["BURST"] == "True"
    raised = 0
    unraisable: list[Any] = []
    import sys

    sys.unraisablehook = unraisable.append  # interrupts of finalizers go there
    while raised < signals:
        storm = Storm(burst)
        while storm.raised < min(1000, signals - raised):
            storm.once()
            if not storm.raised % 50:
                InThread(storm.tracker.statistics).result()  # the lock is free for others
        assert_books_balance(storm.tracker)
        storm.end()
        raised += storm.raised
    print(raised, "signals,", round(time.process_time(), 1), "s of processor time")


@pytest.mark.parametrize("burst", [False, True])
def test_ctrl_c_at_any_moment_leaves_the_lock_free_and_the_books_right(burst: bool) -> None:
    """F42: single ones, and three in a row, of which the later ones meet the handling of the first."""
    done = run_isolated(_storm, env={"SIGNALS": "1500", "BURST": str(burst)}, timeout=100)

    assert done.stderr == ""


@pytest.mark.soak
@pytest.mark.parametrize("burst", [False, True])
def test_a_hundred_thousand_signals(burst: bool) -> None:
    """F42."""
    done = run_isolated(_storm, env={"SIGNALS": "100000", "BURST": str(burst)}, timeout=600)

    assert done.stderr == ""
    print(done.stdout)


def besieged() -> None:
    """Rounds by hand that are left after each step, while signals come faster than one waits for the next slice."""
    logging.disable()
    loop._SLICE = -1.0  # type: ignore[misc]  # in a process of its own
    signal.signal(signal.SIGALRM, lambda *_: None)
    for _ in range(20):
        tracker = Tracker("1MiB")
        accounts = [tracker.new_account() for _ in range(20)]
        for account in accounts:
            account.claim(1000)
        signal.setitimer(signal.ITIMER_REAL, 0.00005, 0.00005)
        tracker.reclaim(0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert all(account.closed for account in accounts)


def test_a_round_by_hand_ends_however_often_signals_come() -> None:
    """P4: in CPython a queue's own timeout never ends then."""
    run_isolated(besieged, timeout=60)


def watched_under_siege() -> None:
    """A thread that looks every now and then, while it gets signals faster than it looks."""
    signal.signal(signal.SIGUSR1, lambda *_: None)
    looks = 0

    def look() -> bool:
        nonlocal looks
        looks += 1
        return True

    ticker = Ticker(look, 0.0005, "besieged")
    while looks < 20:
        signal.pthread_kill(ticker._thread.ident or 0, signal.SIGUSR1)
    ticker.end()
    assert not ticker.alive


def test_a_thread_that_looks_every_now_and_then_goes_on_however_often_signals_come() -> None:
    run_isolated(watched_under_siege, timeout=60)
