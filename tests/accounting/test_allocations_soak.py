"""A hundred million allocations in groups, threads and all three domains: nothing is lost."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections import deque
from typing import Any

import pytest

from memquota.accounting import allocations
from tests.accounting.allocation_programs import enter, needs_hooks, undisturbed

pytestmark = needs_hooks

ALLOCATIONS = 100_000_000
GROUPS, THREADS = 8, 4

#: Which makes ten thousand allocations at a time and frees as many, of what lived for a while.
BATCH = 2_000


class Slots:
    __slots__ = ("a", "b")


def soak(wanted: int, seed: int) -> int:
    """How many allocations were counted in the end, when all are back."""
    groups = [allocations.register(f"soak {number}") for number in range(GROUPS)]
    passed: deque[Any] = deque()
    ending: list[bool] = []

    def work(number: int) -> None:
        sys.settrace(None)
        chance = random.Random(seed + number)
        room: list[Any] = [None] * 64
        fill = bytes(BATCH)
        while not ending:
            enter(chance.choice(groups))
            place = chance.randrange(64)
            kind = chance.randrange(4)
            if kind == 0:
                room[place] = [Slots() for _ in fill]
            elif kind == 1:
                room[place] = [bytes(size) for size in range(1, BATCH)]
            elif kind == 2:
                room[place] = [bytearray(size) for size in range(BATCH)]
                for each in room[place]:
                    each += b"more than there was room for"
            else:
                room[place] = {str(size): {size} for size in range(BATCH)}
            if chance.random() < 0.2:
                passed.append(room[place])
                room[place] = passed.popleft() if len(passed) > 20 else None
            enter(0)

    def done() -> int:
        found = 0
        for group in groups:
            statistics = allocations.statistics(group)
            assert statistics is not None
            assert statistics.live_bytes >= 0
            assert statistics.live_objects >= 0
            found += statistics.allocated_objects
        return found

    with undisturbed(), allocations.tracking():
        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            while done() < wanted and all(thread.is_alive() for thread in threads):
                threads[0].join(0.1)
        finally:
            ending.append(True)
            for thread in threads:
                thread.join()
        passed.clear()
        for group in groups:
            statistics = allocations.statistics(group)
            assert statistics is not None
            # What the interpreter keeps of lists, dictionaries and their like, for the next ones.
            assert statistics.live_objects < 1_000, statistics
            assert statistics.live_bytes < 200_000, statistics
        status = allocations.status()
        assert status is not None
        assert (status.whole, status.missed_objects) == (True, 0)
        return done()


def test_many_allocations_come_back_to_zero() -> None:
    assert soak(300_000, 1) >= 300_000


@pytest.mark.soak
def test_a_hundred_million_allocations_come_back_to_zero() -> None:
    """MEMQUOTA_SEED repeats a run, as far as threads can be repeated; MEMQUOTA_STEPS makes it shorter."""
    seed = int(os.environ.get("MEMQUOTA_SEED", random.randrange(10**9)))
    wanted = int(os.environ.get("MEMQUOTA_STEPS", ALLOCATIONS))
    print(f"allocations: seed {seed}", flush=True)
    began = time.monotonic()
    found = soak(wanted, seed)
    print(f"allocations: {found:,} in {time.monotonic() - began:.0f} s, all came back")
