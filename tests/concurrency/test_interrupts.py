"""Ctrl-C at every point of every call: the lock is free, nothing is under-counted, rounds run, closing gives zero."""

import logging
import os
import warnings
from math import inf

import pytest

from memquota import CloseReason
from memquota.reclaimers import _loop
from tests.concurrency.calls import CASES, Case, World
from tests.concurrency.interrupts import every_interrupt
from tests.support.watchdog import run_isolated


def interrupted(case: Case) -> None:
    """Interrupt a call at each point at which it can be."""
    logging.disable()
    _loop._SLICE = inf  # type: ignore[misc]  # tracing is slow, and a round that stops after 5 ms is another story
    warnings.simplefilter("ignore", ResourceWarning)
    points = 0
    for interrupt in every_interrupt(step=1 if os.environ.get("MEMQUOTA_TESTS") == "soak" else case.step):
        world = World()
        with interrupt:
            case.call(world)
        try:
            world.check(*case.used, case.done) if interrupt.fired else world.check(case.done)
        except Exception as error:
            raise AssertionError(f"interrupted at {interrupt.where}: {error}") from error
        points += interrupt.fired
    assert points >= 5


def run_case() -> None:
    interrupted(CASES[os.environ["CASE"]])


@pytest.mark.parametrize("name", CASES)
def test_an_interrupted_call_leaves_balanced_books_and_a_free_lock(name: str) -> None:
    """F42: an exception at every point at which the interpreter handles signals."""
    run_isolated(run_case, env={"CASE": name}, timeout=60)


def interrupted_end() -> None:
    logging.disable()
    points = 0
    for interrupt in every_interrupt():
        world, told = World(), list[CloseReason]()
        child = world.account.new_child()
        for account in (world.account, world.account, child):
            account.on_close(told.append)
        world.account.on_close(lambda reason: 1 / 0)
        with interrupt:
            world.account.close()
        world.account.close()
        world.tracker.statistics()  # where it was closed, somebody else has to come by
        assert told == [world.account.close_reason] * 2 + [child.close_reason], interrupt.where
        points += interrupt.fired
    assert points >= 50


def test_an_interrupt_while_an_account_ends_loses_no_callback_and_calls_none_twice() -> None:
    """F42: who waits for the end of an account would wait for ever."""
    run_isolated(interrupted_end, timeout=60)


@pytest.mark.soak
@pytest.mark.parametrize("name", CASES)
def test_an_interrupted_call_leaves_balanced_books_wherever_it_is_interrupted(name: str) -> None:
    run_isolated(run_case, env={"CASE": name}, timeout=300)
