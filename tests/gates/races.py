"""Random races of cancellation against grant at one gate.

A few callers acquire and release as fast as they can while they time out or cancel each other at random. At the end
nothing may be missing, nobody may be left waiting, and never were more inside than may be.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from functools import partial

import anyio
from anyio.lowlevel import checkpoint
from attrs import define

from memquota import AsyncGate, Gate, Permit, Tracker
from memquota.testing import assert_books_balance

KINDS = ("threads", "asyncio", "trio", "shared")

CALLERS = 6
SLOTS = 3
CAPACITY = 100
#: Nobody waits this long, in seconds: who does is stranded.
STRANDED = 60.0


@define
class Outcome:
    """What the callers of one race saw."""

    races: int = 0
    inside: int = 0
    cancelled: int = 0

    def __iadd__(self, other: Outcome) -> Outcome:
        self.races += other.races
        self.inside += other.inside
        self.cancelled += other.cancelled
        return self


class Race:
    """A gate and its rules; `inside` is counted by the callers themselves."""

    def __init__(self) -> None:
        self.tracker = Tracker(1_000_000)
        self.gate = Gate(self.tracker, max_concurrent=SLOTS, capacity=CAPACITY)
        self.async_gate = AsyncGate(sharing=self.gate)
        self.lock = threading.Lock()
        self.holding: dict[int, int] = {}

    def went_in(self, permit: Permit) -> None:
        with self.lock:
            self.holding[id(permit)] = permit.weight
            if len(self.holding) > SLOTS or sum(self.holding.values()) > CAPACITY:
                raise AssertionError(f"over-granted: {sorted(self.holding.values())}")

    def goes_out(self, permit: Permit) -> None:
        with self.lock:
            del self.holding[id(permit)]
        permit.release()

    def check(self) -> None:
        """Raise if a permit was lost or somebody is stranded."""
        statistics = self.gate.statistics()
        found = (
            statistics.inside,
            statistics.held,
            statistics.waiting,
            self.tracker.used,
            self.gate._admission.line.promised,
        )
        if any(found):
            raise AssertionError(f"inside, held, waiting, used, pending are {found}, not zero")
        assert_books_balance(self.tracker)


def weight_of(rng: random.Random) -> int | None:
    return rng.choice((None, 1, 30, 60, 100))


def thread_caller(race: Race, count: int, rng: random.Random) -> Outcome:
    """Acquires with timeouts that run out about when the grant comes."""
    outcome = Outcome()
    for _ in range(count):
        outcome.races += 1
        timeout = rng.choice((0.0, 1e-6, 2e-5, 1e-4, STRANDED))
        try:
            permit = race.gate.acquire(weight_of(rng), timeout=timeout, priority=rng.choice((0, 0, 1)))
        except TimeoutError:
            if timeout == STRANDED:
                raise AssertionError("stranded") from None
            outcome.cancelled += 1
            continue
        race.went_in(permit)
        outcome.inside += 1
        time.sleep(rng.choice((0.0, 0.0, 2e-5)))  # for others to arrive, and to give up
        race.goes_out(permit)
    return outcome


async def task_callers(race: Race, count: int, rng: random.Random) -> Outcome:
    """Callers that cancel each other at random, in the tick of a release too."""
    outcome = Outcome()
    scopes: list[anyio.CancelScope | None] = [None] * CALLERS

    def cancel_somebody() -> None:
        scope = rng.choice(scopes)
        if scope is not None:
            scope.cancel()

    async def caller(me: int) -> None:
        for _ in range(count // CALLERS):
            outcome.races += 1
            permit = None
            with anyio.CancelScope() as scope, anyio.fail_after(STRANDED):
                scopes[me] = scope
                permit = await race.async_gate.acquire(weight_of(rng), priority=rng.choice((0, 0, 1)))
            scopes[me] = None
            if permit is None:
                outcome.cancelled += 1
                await checkpoint()
                continue
            race.went_in(permit)
            outcome.inside += 1
            if rng.random() < 0.7:
                await checkpoint()
            deeds: list[Callable[[], None]] = [cancel_somebody, partial(race.goes_out, permit)]
            rng.shuffle(deeds)
            for deed in deeds:
                deed()
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        for me in range(CALLERS):
            tasks.start_soon(caller, me)
    return outcome


def loop_of_callers(race: Race, count: int, backend: str, rng: random.Random) -> Outcome:
    return anyio.run(task_callers, race, count, rng, backend=backend)


def run(kind: str, count: int, seed: int) -> Outcome:
    """Run about `count` races of callers of one kind, or of all kinds in one line.

    Raises:
        AssertionError: A permit was lost or over-granted, or somebody was stranded.
    """
    race = Race()
    jobs: list[Callable[[random.Random], Outcome]] = []
    if kind in ("threads", "shared"):
        each = count // (CALLERS if kind == "threads" else 9)
        jobs += [partial(thread_caller, race, each)] * (CALLERS if kind == "threads" else 3)
    for backend in ("asyncio", "trio"):
        if kind in (backend, "shared"):
            share = count if kind == backend else count // 3
            jobs.append(partial(loop_of_callers, race, share, backend))
    total, failures = Outcome(), []

    def work(job: Callable[[random.Random], Outcome], rng: random.Random) -> None:
        nonlocal total
        try:
            found = job(rng)
            with race.lock:
                total += found
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=(job, random.Random(seed * 1000 + number)))
        for number, job in enumerate(jobs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    race.check()
    return total
