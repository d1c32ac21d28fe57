"""F44: memory runs out at any allocation of any call, for one allocation or for many."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from types import CodeType

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
#: What may be claimed besides: a participant that finds no memory to name its age is detached, and others are spared
#: then. Where the round has failed and giving back fails too, the claim stays until its handle is closed.
BESIDES = {"claim_that_runs_a_round": (709_000, 1_109_000)}


def starved(case: Case, stretch: int) -> None:
    """Let the first allocation of a call fail, in the next run the second one, until it has no so many."""
    logging.disable()
    warnings.simplefilter("ignore", ResourceWarning)
    sys.unraisablehook = lambda failure: None  # finalizers and callbacks of weak references have nobody to tell
    step = 1 if os.environ.get("MEMQUOTA_TESTS") == "soak" else case.step
    besides = BESIDES.get(case.call.__name__, ())
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
            world.check(case.done, *besides, *(case.used if failed else ()))
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


def _is_sound() -> bool:
    """Whether the interpreter lives on: 3.12.1 and 3.13.0 lose the code of a function that finds no memory."""

    def make(number: int) -> object:
        return lambda: number

    code = next(constant for constant in make.__code__.co_consts if isinstance(constant, CodeType))
    before = sys.getrefcount(code)
    for number in range(3):
        _testcapi.set_nomemory(number, number + 1)
        try:
            make(1000)
        except MemoryError:
            pass
        _testcapi.remove_mem_hooks()
    return sys.getrefcount(code) == before


def run_case() -> None:
    if _is_sound():
        starved(CASES[os.environ["CASE"]], int(os.environ["STRETCH"]))
    else:
        print("unsound", flush=True)
        os._exit(0)


def run(name: str, stretch: int, timeout: float) -> None:
    if _testcapi is None:
        pytest.skip("this interpreter has no _testcapi: no allocation can be made to fail")
    done = run_isolated(run_case, env={"CASE": name, "STRETCH": str(stretch)}, timeout=timeout)
    if done.stdout == "unsound\n":
        pytest.skip("this interpreter itself breaks where a function finds no memory")


@pytest.mark.parametrize("stretch", [ONCE, LONG])
@pytest.mark.parametrize("name", CASES)
def test_a_call_that_runs_out_of_memory_leaves_balanced_books(name: str, stretch: int) -> None:
    """F44: MemoryError or success."""
    run(name, stretch, timeout=60)


@pytest.mark.soak
@pytest.mark.parametrize("stretch", [ONCE, LONG])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.step > 1])
def test_a_long_call_that_runs_out_of_memory_anywhere_leaves_balanced_books(name: str, stretch: int) -> None:
    """F44."""
    run(name, stretch, timeout=600)
