"""Callers of gates of every kind behind one face: threads, tasks of asyncio and trio, and all of them in one line."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from memquota import AsyncGate, Gate, Permit, Tracker
from memquota.gates import GateStatistics

KINDS = ("threads", "asyncio", "trio", "shared")

# Nothing takes this long, in seconds.
WATCHDOG = 20.0


class Caller:
    """Somebody who acquires, and then holds what it got until told to release."""

    def __init__(self) -> None:
        self.permit: Permit | None = None
        self.error: BaseException | None = None
        self.finished = threading.Event()
        self.give_up: Callable[[], object] = lambda: None

    def result(self) -> Permit:
        """The permit, or what was raised."""
        assert self.finished.wait(WATCHDOG), "nobody let it in"
        if self.error is not None:
            raise self.error
        assert self.permit is not None
        return self.permit

    def release(self) -> None:
        self.result().release()

    def run(self, acquire: Callable[[], Permit]) -> None:
        try:
            self.permit = acquire()
        except BaseException as error:
            self.error = error
        self.finished.set()


class Callers:
    """A gate, and callers of one kind or of all kinds in turn."""

    def __init__(self, kind: str, portals: dict[str, BlockingPortal], tracker: Tracker, **options: Any) -> None:
        self.gate = Gate(tracker, **options)
        self.async_gate = AsyncGate(sharing=self.gate)
        self.kinds = ["threads", "asyncio", "trio"] if kind == "shared" else [kind]
        self.portals = portals
        self.threads: list[threading.Thread] = []
        self._started = 0

    def start(self, weight: int | str | None = None, *, timeout: float | None = None, **options: Any) -> Caller:
        """Begin to acquire, and return when the caller has gone in, failed, or waits in the line."""
        caller = Caller()
        kind = self.kinds[self._started % len(self.kinds)]
        self._started += 1
        waiting = self.statistics().waiting
        if kind == "threads":
            thread = threading.Thread(
                target=caller.run, args=(lambda: self.gate.acquire(weight, timeout=timeout, **options),)
            )
            thread.start()
            self.threads.append(thread)
        else:
            portal = self.portals[kind]
            future: Future[None] = portal.start_task_soon(self._acquire, caller, weight, timeout, options)
            caller.give_up = future.cancel
        self.until(lambda: caller.finished.is_set() or self.statistics().waiting > waiting)
        return caller

    async def _acquire(
        self, caller: Caller, weight: int | str | None, timeout: float | None, options: dict[str, Any]
    ) -> None:
        try:
            with anyio.fail_after(timeout):
                caller.permit = await self.async_gate.acquire(weight, **options)
        except BaseException as error:
            caller.error = error
            if not isinstance(error, Exception):
                raise
        finally:
            caller.finished.set()

    def statistics(self) -> GateStatistics:
        return self.gate.statistics()

    @contextmanager
    def nobody_wakes(self) -> Iterator[None]:
        """Let nobody who waits notice within the block what became of it."""
        admission = self.gate._admission
        admission._wake = lambda: None  # type: ignore[method-assign]
        try:
            yield
        finally:
            del admission._wake
            admission.pump()

    def until(self, true: Callable[[], bool]) -> None:
        """Wait for something that other threads bring about."""
        pause = threading.Event()
        for _ in range(int(WATCHDOG * 1000)):
            if true():
                return
            pause.wait(0.001)
        raise AssertionError("it never came about")

    def end(self) -> None:
        for thread in self.threads:
            thread.join(WATCHDOG)
            assert not thread.is_alive()


@contextmanager
def portals_of(kind: str) -> Iterator[dict[str, BlockingPortal]]:
    backends = {"threads": [], "shared": ["asyncio", "trio"]}.get(kind, [kind])
    with ExitStack() as stack:
        yield {backend: stack.enter_context(start_blocking_portal(backend)) for backend in backends}
