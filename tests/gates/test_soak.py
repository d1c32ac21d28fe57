"""Random races of cancellation against grant; a million of each kind in `make soak`."""

import random
import sys

import pytest

from tools.soak_gates import KINDS, run


@pytest.mark.parametrize("kind", KINDS)
def test_random_races_lose_no_permit_and_strand_nobody(kind: str) -> None:
    """F38: and F34, at random."""
    races(kind, 2_000)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_a_million_random_races_lose_no_permit_and_strand_nobody(kind: str) -> None:
    races(kind, 1_000_000)


def races(kind: str, count: int) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        outcome = run(kind, count, seed)
    finally:
        sys.setswitchinterval(interval)
    assert outcome.races == outcome.inside + outcome.cancelled
    assert outcome.inside > count // 20
    assert outcome.cancelled > count // 100
