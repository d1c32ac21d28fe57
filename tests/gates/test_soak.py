"""Random races of cancellation against grant; a million of each kind in `make soak`."""

import os
import random
import sys
import time

import pytest

from tests.gates.races import KINDS, run

SOAK = 1_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_random_races_lose_no_permit_and_strand_nobody(kind: str) -> None:
    """F34, F38: at random."""
    races(kind, 2_000)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_a_million_random_races_lose_no_permit_and_strand_nobody(kind: str) -> None:
    """F34, F38: threads race with timeouts. MEMQUOTA_SEED repeats a run, MEMQUOTA_STEPS makes it shorter."""
    races(kind, int(os.environ.get("MEMQUOTA_STEPS", SOAK)))


def races(kind: str, count: int) -> None:
    seed = int(os.environ.get("MEMQUOTA_SEED", random.randrange(10**9)))
    began, interval = time.monotonic(), sys.getswitchinterval()
    print(f"gates, {kind}: {count:,} races; seed {seed}", flush=True)
    sys.setswitchinterval(1e-4)
    try:
        outcome = run(kind, count, seed)
    finally:
        sys.setswitchinterval(interval)
    print(
        f"gates, {kind}: {outcome.races:,} races in {time.monotonic() - began:.0f} s; seed {seed}: "
        f"{outcome.inside:,} went in, {outcome.cancelled:,} gave up; nobody stranded"
    )
    assert count * 0.99 <= outcome.races == outcome.inside + outcome.cancelled
    assert outcome.inside > count // 20
    assert outcome.cancelled > count // 100
