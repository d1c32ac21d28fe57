"""P1, P4, P6: many threads on few participants, with rounds and garbage; in the end exactly nothing is left."""

from __future__ import annotations

import gc
import logging
import os
import random
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import pytest

from memquota import Account, Closed, Participation, QuotaExceeded, Reclaimed, ReclaimRequest, Tracker
from memquota.testing import assert_books_balance
from tests.support.watchdog import run_isolated

MIB = 2**20
THREADS, ACCOUNTS, HOLDERS = 16, 8, 64
#: Operations between two looks at the clock.
BATCH = 64
#: Of so many operations, how many are of each kind; `work` says what each does. The rest are claims and releases.
PROGRAM = 8192
RARE = {"large": 80, "empty": 40, "foreign": 400, "own": 8, "clone": 4, "register": 4, "account": 2, "tracker": 1}


class Holder:
    """A participant with a lock, as the simplest of queues would be."""

    def __init__(self, account: Account, number: int) -> None:
        self.reentrant = number % 2 == 0
        self.partial = number % 4 < 2
        self.lock: Any = threading.RLock() if self.reentrant else threading.Lock()
        self.number = number
        self.since = float(number)
        self.account = account
        self.held = 0
        self.part: Participation = account.register_participant(self)

    def claim(self, size: int) -> None:
        with self.lock:
            self.part.claim(size)
            self.held += size

    def release(self, size: int) -> None:
        with self.lock:
            if size > self.held:
                size = self.held
            self.part.release(size)
            self.held -= size

    def oldest_data(self) -> float | None:
        return self.since if self.held else None

    def reclaim(self, request: ReclaimRequest) -> Reclaimed:
        with self.lock:
            self.since += 1.0
            if self.partial:
                self.release_some(request.bytes_wanted)
                return Reclaimed.PARTIAL
            self.held = 0
            return Reclaimed.COLLAPSING

    def release_some(self, wanted: int) -> None:
        size = min(wanted, self.held)
        self.part.release(size)
        self.held -= size


class World:
    """A tracker that is now and then too small, its 8 accounts, and the 64 participants in them."""

    def __init__(self, reclaimer: str) -> None:
        self.tracker = Tracker(4 * MIB, hard_limit=6 * MIB, reclaimer=reclaimer, reclaim_timeout=30.0)
        self.accounts = [self.open(number) for number in range(ACCOUNTS)]
        self.holders = [Holder(self.accounts[number % ACCOUNTS], number) for number in range(HOLDERS)]
        self.renewing = threading.Lock()
        self.done = threading.Event()
        self.errors: list[str] = []
        self.refused: Counter[str] = Counter()

    def open(self, number: int) -> Account:
        return self.tracker.new_account(f"a{number}", limit=2 * MIB if number == 3 else None, priority=number % 2)

    def renew(self, old: Holder) -> None:
        """Put another participant in the place of one whose account or participation is over."""
        with self.renewing:
            number = old.number % ACCOUNTS
            if self.accounts[number].closed:
                self.accounts[number] = self.open(number)
            if self.holders[old.number] is old and old.part.closed:
                try:
                    self.holders[old.number] = Holder(self.accounts[number], old.number)
                except Closed:
                    pass  # again: whoever uses it next comes here

    def run(self, action: Callable[..., None], *args: World) -> None:
        try:
            action(*args)
        except BaseException:
            self.errors.append(traceback.format_exc())
            self.done.set()

    def check(self) -> None:
        """Every participation holds what its participant does; closed, they hold nothing."""
        tracker = self.tracker
        held = 0
        for holder in self.holders:
            if not holder.part.closed:
                assert holder.part.used == holder.held, f"{holder.part.used} is claimed and {holder.held} held"
                held += holder.held
        gc.collect()
        assert_books_balance(tracker, held)
        for holder in self.holders:
            holder.release(holder.held)
        assert_books_balance(tracker, 0)
        for holder in self.holders:
            holder.part.close()
        assert tracker.used == 0, tracker.used
        assert_books_balance(tracker, 0)
        tracker.close()


class Worker:
    """One of the threads. It owns four of the participants, and now and then uses those of others."""

    def __init__(self, world: World, number: int, operations: int) -> None:
        self.world = world
        self.operations = operations
        self.longest = 0.0
        self.random = random.Random(number)
        self.mine = range(number, HOLDERS, THREADS)
        self.thread = threading.Thread(target=world.run, args=(self.work,))
        self.program = [kind for kind, often in RARE.items() for _ in range(often)]
        self.program += [""] * (PROGRAM - len(self.program))
        self.random.shuffle(self.program)
        self.sizes = [self.random.randrange(1, 200) for _ in range(PROGRAM)]

    def work(self) -> None:
        steps = cycle(zip(self.program, self.sizes, strict=True))
        holders, mine = self.world.holders, self.mine
        left = self.operations
        last = time.monotonic()
        while left > 0 and not self.world.done.is_set():
            for kind, size in islice(steps, BATCH):
                holder = holders[mine[size & 3]]
                try:
                    if kind:
                        getattr(self, kind)(holder, size)
                    elif size & 4:
                        holder.claim(size)
                    else:
                        holder.release(size)
                except (Closed, QuotaExceeded) as error:
                    self.world.refused[type(error).__name__] += 1
                    if isinstance(error, Closed):
                        self.world.renew(holder)
            left -= BATCH
            now = time.monotonic()
            self.longest = max(self.longest, now - last)
            last = now

    def large(self, holder: Holder, size: int) -> None:
        holder.claim(size * 500)

    def empty(self, holder: Holder, size: int) -> None:
        holder.release(holder.held)

    def foreign(self, holder: Holder, size: int) -> None:
        other = self.random.choice(self.world.holders)
        try:
            other.claim(size * 4)
            other.release(size * 4)
        except Closed:
            self.world.renew(other)

    def own(self, holder: Holder, size: int) -> None:
        with holder.account.claimed(size):
            pass

    def clone(self, holder: Holder, size: int) -> None:
        with holder.lock:
            clone = holder.part.clone()
        clone.claim(size)
        clone.release(size)
        if size % 2:  # else it is dropped
            clone.close()

    def register(self, holder: Holder, size: int) -> None:
        with holder.lock:
            holder.part.close() if size % 2 else holder.part.destroy()
        self.world.renew(holder)

    def account(self, holder: Holder, size: int) -> None:
        holder.account.reconfigure(limit=None if size % 3 else size * MIB // 64, priority=size % 2)
        if size % 7 == 0:
            holder.account.close()

    def tracker(self, holder: Holder, size: int) -> None:
        self.world.tracker.reconfigure(limit=(3 + size % 3) * MIB, low_water=None if size % 2 else 2 * MIB)


def reclaim(world: World) -> None:
    """Ask for rounds by hand."""
    while not world.done.wait(0.02):
        world.tracker.reclaim(3 * MIB // 2)


class Garbage:
    """A participant in a cycle, with a finalizer that uses its handle."""

    def __init__(self, account: Account) -> None:
        self.part = account.register_participant(self)
        self.cycle = self
        self.part.claim(700)

    def oldest_data(self) -> None: ...

    def reclaim(self, request: object) -> Reclaimed:
        return Reclaimed.COLLAPSING

    def __del__(self) -> None:
        part = getattr(self, "part", None)  # none where its account was closed
        if part is not None:
            part.release(300)
            part.close()


def litter(world: World) -> None:
    """Leave behind what only the collector can find, and dropped handles and accounts."""
    kept = Holder(world.tracker.new_account(), 0)
    while not world.done.wait(0.002):
        for account in (world.accounts[0], world.tracker.new_account()):
            try:
                Garbage(account)
                account.register_participant(kept).claim(50)
                account.new_child().claim(20)
            except (Closed, QuotaExceeded):
                pass
        gc.collect(1)


def hammer() -> None:
    """What runs in a process of its own. Prints what happened."""
    operations, threshold = int(os.environ["OPERATIONS"]), int(os.environ["THRESHOLD"])
    logging.disable()
    warnings.simplefilter("ignore", ResourceWarning)  # accounts are dropped with bytes still claimed, on purpose
    failed: list[str] = []
    sys.unraisablehook = lambda failure: failed.append(repr(failure))
    threading.excepthook = lambda failure: failed.append(repr(failure))
    world = World(os.environ["RECLAIMER"])
    workers = [Worker(world, number, operations) for number in range(THREADS)]
    helpers = [threading.Thread(target=world.run, args=(action, world)) for action in (reclaim, litter)]
    threads = [*(worker.thread for worker in workers), *helpers]
    sys.setswitchinterval(1e-6)
    gc.set_threshold(threshold, 10, 10)
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for worker in workers:
        worker.thread.join()
    took = time.monotonic() - began
    world.done.set()
    for thread in threads:
        thread.join()
    gc.set_threshold(700, 10, 10)
    sys.setswitchinterval(0.005)

    assert not world.errors, "\n".join(world.errors)
    assert not failed, "\n".join(failed)
    counts = world.tracker.statistics().counts
    world.check()
    assert counts.rounds > operations * THREADS // 100_000
    assert counts.victims > 0
    longest = max(worker.longest for worker in workers)
    done = sum(worker.operations for worker in workers)
    refused = ", ".join(f"{count:,} {name}" for name, count in sorted(world.refused.items()))
    print(f"{done:,} operations in {took:.1f} s, the longest {BATCH} took {longest:.3f} s, {counts.rounds:,} rounds")
    print(f"{counts.victims:,} victims, {refused}")
    if operations >= 1_000_000:
        assert longest <= 1.0, f"somebody stood still for {longest:.3f} s"


def run(operations: int, reclaimer: str, threshold: int, timeout: float) -> str:
    env = {"OPERATIONS": str(operations), "RECLAIMER": reclaimer, "THRESHOLD": str(threshold)}
    return run_isolated(hammer, env=env, timeout=timeout).stdout


@pytest.mark.parametrize(("reclaimer", "threshold"), [("inline", 700), ("thread", 700), ("inline", 1)])
def test_threads_leave_nothing_behind(reclaimer: str, threshold: int) -> None:
    """P1, P4, P6: 16 of them, that switch whenever they can; also with a collection at every allocation."""
    run(10_000, reclaimer, threshold, timeout=100)


@pytest.mark.soak
@pytest.mark.parametrize(("reclaimer", "threshold"), [("inline", 700), ("thread", 700), ("inline", 1)])
def test_threads_leave_nothing_behind_after_a_million_operations_each(reclaimer: str, threshold: int) -> None:
    """The same within 120 s, and nobody stands still for a second."""
    said = run(1_000_000, reclaimer, threshold, timeout=120)
    print(f"threads: {reclaimer}, gc.set_threshold({threshold}): {said}")
