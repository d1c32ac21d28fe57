"""What tests of gates ask of every gate, and wait for."""

import gc
import threading
from collections.abc import Callable

from memquota import AsyncGate, Gate


def balanced(gate: Gate | AsyncGate, *, collect: bool = True) -> None:
    """Nobody is inside or waits, and nothing is held, promised, reserved or in the books."""
    if collect:
        gc.collect()
    statistics = gate.statistics()
    assert (statistics.inside, statistics.held, statistics.waiting) == (0, 0, 0)
    admission = gate._admission
    assert (admission.line.promised, admission.line.reserved, gate.account.used) == (0, 0, 0)
    assert not admission.guests


def until(true: Callable[[], bool]) -> None:
    """Wait for something that other threads bring about."""
    pause = threading.Event()
    for _ in range(20_000):
        if true():
            return
        pause.wait(0.001)
    raise AssertionError("it never came about")
