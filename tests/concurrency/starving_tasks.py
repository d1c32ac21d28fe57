"""Lets allocations fail in one step of a task."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from anyio.lowlevel import checkpoint

from memquota._loops import Bell
from tests.concurrency.starving import Starving

Steps = Generator[Any, Any, Any]


async def settled() -> None:
    """Let everybody run until they wait."""
    for _ in range(12):
        await checkpoint()


@contextmanager
def bells_that_find_no_memory(starving: Starving) -> Iterator[None]:
    """In asyncio: the futures that tasks wait for find no memory to tell their tasks."""
    original = Bell.ring

    def starved(bell: Bell) -> None:
        with starving:
            original(bell)

    Bell.ring = starved  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Bell.ring = original  # type: ignore[method-assign]


class Driven:
    """An awaitable that finds no memory in its step of that number."""

    def __init__(self, awaitable: Awaitable[object], at: int, starving: Starving) -> None:
        self.steps = awaitable.__await__()
        self.at = at
        self.starving = starving

    def __await__(self) -> Steps:
        for number in itertools.count():
            try:
                if number == self.at:
                    given = self._starved()
                    if self.starving.failed:
                        raise MemoryError
                else:
                    given = self._resume()
            except StopIteration:
                return
            try:
                answer = yield given
                self._resume = self._send(answer)  # type: ignore[method-assign]
            except BaseException as error:
                self._resume = self._throw(error)  # type: ignore[method-assign]

    def _starved(self) -> object:
        with self.starving:
            return self._resume()
        return None

    def _resume(self) -> object:
        return next(self.steps)

    def _send(self, answer: object) -> Callable[[], object]:
        return lambda: self.steps.send(answer)

    def _throw(self, error: BaseException) -> Callable[[], object]:
        return lambda: self.steps.throw(error)
