"""Clocks: any callable that returns seconds as a float. The only file that reads time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Clock", "monotonic", "processor_time"]

#: Returns seconds since some moment that does not change; should not go backwards.
Clock: TypeAlias = Callable[[], float]

#: The default clock, and real time for deadlines whatever the tracker's clock.
monotonic: Clock = time.monotonic

#: Seconds that this thread has computed. Slices of work are measured by it, so that a busy machine does not cut them.
processor_time: Clock = getattr(time, "thread_time", time.monotonic)
