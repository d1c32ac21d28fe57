"""Lets allocations fail, where the interpreter can: one of them, or all that come."""

from __future__ import annotations

import gc
import importlib
import itertools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from types import CodeType, TracebackType
from typing import Any

import pytest

from tests.support.watchdog import run_isolated

try:
    testcapi: Any = importlib.import_module("_testcapi")
except ImportError:
    testcapi = None

#: What fails at a stretch. Not all that come: where an exception meets a `finally` in a function of some length, the
#: interpreter looks for memory over and over until there is some.
ONCE, LONG = 1, 10_000

_UNSOUND = "unsound\n"


class Starving:
    """A block in which a stretch of allocations fails, from the `number`-th on; it swallows what says so.

    `failed` tells whether the block was left that way; `reached`, of a stretch of one, whether the block came so far.

    Args:
        number: The first allocation that fails.
        stretch: How many do.
        tuples: Whether the interpreter keeps the tuples of three that it has ready for who leaves the block of a lock.
    """

    __slots__ = ("_spare", "_tuples", "failed", "number", "reached", "stretch")

    def __init__(self, number: int, stretch: int, *, tuples: bool = False) -> None:
        self.number = number
        self.stretch = stretch
        self.failed = self.reached = False
        self._tuples = tuples
        self._spare: list[object] = []

    def __enter__(self) -> Starving:
        self._spare += [(each, each, each) for each in range(0 if self._tuples else 2100)]
        testcapi.set_nomemory(self.number, self.number + self.stretch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.reached = not next_fails()
        testcapi.remove_mem_hooks()
        self.failed = error is not None and says_so(error)
        return self.failed

    def __str__(self) -> str:
        return f"{self.stretch} allocations from {self.number} on"


def every_allocation(*, step: int = 1) -> Iterator[Starving]:
    """Blocks for one run of a call each: its first allocation fails, `step` later … Ends when a run had no so many."""
    for number in itertools.count(step=step):
        reached = False
        for stretch in (ONCE, LONG):
            starving = Starving(number, stretch)
            yield starving
            reached |= stretch == ONCE and (starving.failed or starving.reached)
        if not reached:
            return


def says_so(error: BaseException) -> bool:
    """Whether this is how the interpreter says that there was no memory."""
    return (
        isinstance(error, MemoryError)
        # `threading`, and an exception for whose traceback there was none.
        or (isinstance(error, RuntimeError) and str(error) == "can't allocate lock")
        or (isinstance(error, SystemError) and str(error) == "error return without exception set")
    )


def next_fails() -> bool:
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
        testcapi.set_nomemory(number, number + 1)
        try:
            make(1000)
        except MemoryError:
            pass
        testcapi.remove_mem_hooks()
    return sys.getrefcount(code) == before


def run_starving(function: Callable[[], object], *, timeout: float = 120, **env: str) -> None:
    """Run a function that calls `prepare` first in a process of its own, or skip the test where nothing can fail."""
    if testcapi is None:
        pytest.skip("this interpreter has no _testcapi: no allocation can be made to fail")
    done = run_isolated(function, env=env, timeout=timeout)
    if done.stdout == _UNSOUND:
        pytest.skip("this interpreter itself breaks where a function finds no memory")


def prepare() -> None:
    """Be quiet; the end of an interpreter that breaks by itself."""
    if not _is_sound():
        print(_UNSOUND, end="", flush=True)
        os._exit(0)
    quiet()


def quiet() -> None:
    """Let finalizers and callbacks of weak references fail: they have nobody to tell."""
    gc.collect()
    gc.freeze()  # so that looking for garbage takes no time
    logging.disable()
    warnings.simplefilter("ignore", ResourceWarning)
    sys.unraisablehook = lambda failure: None
