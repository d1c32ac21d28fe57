"""Lets allocations fail, where the interpreter can: one of them, or all that come."""

from __future__ import annotations

import gc
import importlib
import logging
import sys
import warnings
from types import CodeType, TracebackType
from typing import Any

try:
    testcapi: Any = importlib.import_module("_testcapi")
except ImportError:
    testcapi = None

#: What fails at a stretch. Not all that come: where an exception meets a `finally` in a function of some length, the
#: interpreter looks for memory over and over until there is some.
ONCE, LONG = 1, 10_000


class Starving:
    """A block in which a stretch of allocations fails, from the `number`-th on; it swallows what says so.

    `failed` tells whether the block was left that way; `reached`, of a stretch of one, whether the block came so far.

    Args:
        number: The first allocation that fails.
        stretch: How many do.
        tuples: Whether the interpreter keeps the tuples of three that it has ready for who leaves the block of a lock.
    """

    __slots__ = ("_spare", "failed", "number", "reached", "stretch")

    def __init__(self, number: int, stretch: int, *, tuples: bool = False) -> None:
        self.number = number
        self.stretch = stretch
        self.failed = self.reached = False
        self._spare = [(each, each, each) for each in range(0 if tuples else 2100)]

    def __enter__(self) -> Starving:
        testcapi.set_nomemory(self.number, self.number + self.stretch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.reached = not next_fails()
        testcapi.remove_mem_hooks()
        self.failed = error is not None and says_so(error)
        return self.failed


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


def is_sound() -> bool:
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


def quiet() -> None:
    """Let finalizers and callbacks of weak references fail: they have nobody to tell."""
    gc.collect()
    gc.freeze()  # so that looking for garbage takes no time
    logging.disable()
    warnings.simplefilter("ignore", ResourceWarning)
    sys.unraisablehook = lambda failure: None
