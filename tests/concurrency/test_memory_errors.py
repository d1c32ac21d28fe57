"""F44: memory runs out at any allocation of any call, for one allocation or for many."""

from __future__ import annotations

import os

import pytest

from memquota import Tracker
from tests.concurrency.calls import CASES, MIB, Case, World
from tests.concurrency.starving import LONG, ONCE, Starving, every_allocation, prepare, run_starving

#: What may be claimed besides: a participant that finds no memory to name its age is detached, and others are spared
#: then. Where the round has failed and giving back fails too, the claim stays until its handle is closed.
BESIDES = {"claim_that_runs_a_round": (709_000, 1_109_000)}


def starved(case: Case, stretch: int) -> None:
    """Let the first allocation of a call fail, in the next run the second one, until it has no so many."""
    prepare()
    step = 1 if os.environ.get("MEMQUOTA_TESTS") == "soak" else case.step
    besides = BESIDES.get(case.call.__name__, ())
    number = failures = 0
    reached = True
    while reached:
        world = World()
        with Starving(number, stretch) as starving:
            case.call(world)
        failed = starving.failed
        reached = failed or starving.reached
        try:
            world.check(case.done, *besides, *(case.used if failed else ()))
        except Exception as error:
            raise AssertionError(f"{starving}: {error}") from error
        failures += failed
        number += step
    assert failures


def run_case() -> None:
    starved(CASES[os.environ["CASE"]], int(os.environ["STRETCH"]))


@pytest.mark.parametrize("stretch", [ONCE, LONG])
@pytest.mark.parametrize("name", CASES)
def test_a_call_that_runs_out_of_memory_leaves_balanced_books(name: str, stretch: int) -> None:
    """F44: MemoryError or success."""
    run_starving(run_case, CASE=name, STRETCH=str(stretch), timeout=60)


@pytest.mark.soak
@pytest.mark.parametrize("stretch", [ONCE, LONG])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.step > 1])
def test_a_long_call_that_runs_out_of_memory_anywhere_leaves_balanced_books(name: str, stretch: int) -> None:
    """F44."""
    run_starving(run_case, CASE=name, STRETCH=str(stretch), timeout=600)


class Called:
    """A callback that counts its calls, which takes no memory."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, reason: object) -> None:
        self.times += 1


def run_callbacks() -> None:
    prepare()
    for starving in every_allocation():
        tracker = Tracker(MIB)
        account = tracker.new_account("a")
        child = account.new_child("b")
        callbacks = [Called() for _ in range(4)]
        forget = account.on_close(Called())
        for callback in callbacks[:3]:
            account.on_close(callback)
        child.on_close(callbacks[3])
        with starving:
            account.close()
        tracker.statistics()
        if account.closed:
            forget()
            times = [callback.times for callback in callbacks]
            assert times == [1, 1, 1, 1], f"{starving}: {times}"
        account.close()
        assert [callback.times for callback in callbacks] == [1, 1, 1, 1]
    assert starving.number > 30


def test_callbacks_of_an_account_that_closes_are_called_once_whatever_runs_out() -> None:
    """F44: others may wait for what they do."""
    run_starving(run_callbacks, timeout=60)
