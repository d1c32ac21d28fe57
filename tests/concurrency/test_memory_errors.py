"""F44: memory runs out at any allocation of any call, for one allocation or for many."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import pytest

from tests.concurrency.calls import CASES, Case, World
from tests.support.watchdog import run_isolated

try:
    import _testcapi  # type: ignore[import-not-found]
except ImportError:
    _testcapi = None

#: What fails at a stretch. Not all that come: where an exception meets a `finally` in a function of some length, the
#: interpreter looks for memory over and over until there is some.
ONCE, LONG = 1, 10_000
#: What may stay claimed until its handle is closed, where the round has failed and giving back fails too.
STILL_CLAIMED = {"claim_that_runs_a_round": (1_109_000,)}


def starved(case: Case, stretch: int) -> None:
    """Let the first allocation of a call fail, in the next run the second one, until it has no so many."""
    logging.disable()
    warnings.simplefilter("ignore", ResourceWarning)
    sys.unraisablehook = lambda failure: None  # finalizers and callbacks of weak references have nobody to tell
    step = 1 if os.environ.get("MEMQUOTA_TESTS") == "soak" else case.step
    used = (*case.used, case.done, *(STILL_CLAIMED.get(case.call.__name__, ()) if stretch == LONG else ()))
    number = failures = 0
    reached = True
    while reached:
        world = World()
        failed = False
        _testcapi.set_nomemory(number, number + stretch)
        try:
            case.call(world)
        except MemoryError:
            failed = True
        except RuntimeError as error:  # which is how `threading` says the same
            failed = str(error) == "can't allocate lock"
            if not failed:
                raise
        reached = failed or not _next_fails()
        _testcapi.remove_mem_hooks()
        try:
            world.check(*used) if failed else world.check(case.done)
        except Exception as error:
            raise AssertionError(f"{stretch} allocations from {number} on: {error}") from error
        failures += failed
        number += step
    assert failures


def _next_fails() -> bool:
    """Whether the allocation that was to fail is still to come."""
    try:
        for _ in range(64):
            bytes(1000)
    except MemoryError:
        return True
    return False


def run_case() -> None:
    starved(CASES[os.environ["CASE"]], int(os.environ["STRETCH"]))


starving = pytest.mark.skipif(_testcapi is None, reason="no _testcapi in this interpreter: no allocation can fail")


@starving
@pytest.mark.parametrize("stretch", [ONCE, LONG])
@pytest.mark.parametrize("name", CASES)
def test_a_call_that_runs_out_of_memory_leaves_balanced_books(name: str, stretch: int) -> None:
    """F44: MemoryError or success."""
    run_isolated(run_case, env={"CASE": name, "STRETCH": str(stretch)}, timeout=60)


@starving
@pytest.mark.soak
@pytest.mark.parametrize("stretch", [ONCE, LONG])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.step > 1])
def test_a_long_call_that_runs_out_of_memory_anywhere_leaves_balanced_books(name: str, stretch: int) -> None:
    """F44."""
    run_isolated(run_case, env={"CASE": name, "STRETCH": str(stretch)}, timeout=600)
