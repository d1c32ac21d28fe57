"""Each way into a gate is shut by the same: with and without a weight, and where a slot is handed on without a lock."""

from functools import partial

import anyio
import pytest

from memquota import AsyncGate, Gate, Reclaimed, ReclaimRequest, Tracker
from tests.concurrency.support import InThread
from tests.gates.support import balanced, until

CALLERS = ("thread", "asyncio", "trio")
WAYS = ("handed on", "slot", "weight")

pytestmark = [pytest.mark.parametrize("kind", CALLERS), pytest.mark.parametrize("way", WAYS)]


class Newcomer:
    """Somebody who goes in and out again in a thread of its own; made when that is done, or has to wait."""

    def __init__(self, gate: Gate, kind: str, way: str) -> None:
        self.entered = False
        self._gate = gate
        self._weight = 5 if way == "weight" else None
        enter = self._enter if kind == "thread" else partial(anyio.run, self._enter_as_task, backend=kind)
        self.thread = InThread(enter)
        until(lambda: self.entered or gate._admission.line.first is not None)

    def _enter(self) -> None:
        with self._gate.acquire(self._weight):
            self.entered = True

    async def _enter_as_task(self) -> None:
        async with AsyncGate(sharing=self._gate).acquire(self._weight):
            self.entered = True


def open_gate(tracker: Tracker, way: str, capacity: int | None = None) -> Gate:
    gate = Gate(tracker, capacity=capacity, max_concurrent=2)
    if way == "handed on":
        gate.acquire().release()
        assert gate._admission.spare
    return gate


def test_nobody_is_admitted_while_a_round_runs(kind: str, way: str) -> None:
    """Also one that was asked for by hand, with the tracker far below its limit."""
    tracker = Tracker(1000)
    gate = open_gate(tracker, way)
    newcomers: list[Newcomer] = []
    entered: list[bool] = []

    class Data:
        def oldest_data(self) -> float:
            return 0.0

        def reclaim(self, request: ReclaimRequest) -> Reclaimed:
            newcomers.append(Newcomer(gate, kind, way))
            entered.append(newcomers[0].entered)
            return Reclaimed.COLLAPSING

    data, account = Data(), tracker.new_account("data")
    part = account.register_participant(data)
    part.claim(100)

    tracker.reclaim(target=0)

    assert entered == [False]
    newcomers[0].thread.result()
    assert newcomers[0].entered
    balanced(gate)


def test_nobody_is_admitted_between_the_limit_and_low_water(kind: str, way: str) -> None:
    """After it was above the limit, though nobody looked then; and no round runs any more."""
    tracker = Tracker(1000)
    gate = open_gate(tracker, way)
    account = tracker.new_account("data", minimum=2**62)
    account.claim(1001)
    account.release(200)

    newcomer = Newcomer(gate, kind, way)

    assert not newcomer.entered
    account.release(51)
    newcomer.thread.result()
    assert newcomer.entered
    account.close()
    balanced(gate)


def test_nobody_is_admitted_while_those_inside_hold_more_than_the_capacity(kind: str, way: str) -> None:
    """It takes more than it said, or the capacity was lowered: who wants no bytes waits too."""
    gate = open_gate(Tracker(1000), way, capacity=10)
    permit = gate.acquire(4)
    permit.adjust(11)
    first = Newcomer(gate, kind, way)
    assert not first.entered
    permit.adjust(5)
    first.thread.result()
    gate.reconfigure(capacity=4)
    second = Newcomer(gate, kind, way)
    assert not second.entered
    gate.reconfigure(capacity=10)
    second.thread.result()

    assert first.entered
    assert second.entered
    permit.release()
    balanced(gate)
