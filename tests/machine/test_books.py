"""P1 to P5, P7 to P10, P12: random programs over the public interface against a model from outside."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.machine.machine import Books

#: Steps of a program, and how many programs `make test` and one piece of `make soak` take.
STEPS = 100
PROGRAMS = 720
SOAK_PROGRAMS = 300
SOAK_STEPS = 2_000_000


@contextmanager
def untraced() -> Iterator[None]:
    """Without coverage, which takes three times as long: tests/core covers the books by itself."""
    outer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(outer)


def test_books_hold_whatever_is_done() -> None:
    """P1, P2, P3, P4, P5, P7, P8, P9, P10, P12: 60,000 steps."""
    before = Books.taken
    with untraced():
        run_state_machine_as_test(
            Books,
            settings=settings(
                max_examples=PROGRAMS, stateful_step_count=STEPS, suppress_health_check=[HealthCheck.too_slow]
            ),
        )
    assert Books.taken - before >= 60_000


@pytest.mark.soak
def test_books_hold_whatever_is_done_for_long() -> None:
    """The same for 2,000,000 steps. MEMQUOTA_SEED repeats a run, MEMQUOTA_STEPS makes it shorter."""
    first = int(os.environ.get("MEMQUOTA_SEED", random.randrange(10**9)))
    wanted = int(os.environ.get("MEMQUOTA_STEPS", SOAK_STEPS))
    piece = settings(
        max_examples=SOAK_PROGRAMS,
        stateful_step_count=STEPS,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow],
    )
    began, before, number = time.monotonic(), Books.taken, first
    while (steps := Books.taken - before) < wanted:
        print(f"books: {steps:,} steps in {time.monotonic() - began:.0f} s; seed {number}", flush=True)
        run_state_machine_as_test(seed(number)(type("Books", (Books,), {})), settings=piece)
        number += 1
    seconds = time.monotonic() - began
    print(f"books: {steps:,} steps in {seconds:.0f} s, seeds {first} to {number - 1}: no violation")
