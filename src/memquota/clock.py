"""Clocks: any callable that returns seconds as a float. The only file that reads time."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import TypeAlias

__all__ = ["Clock", "clock_of_this_thread", "monotonic", "processor_time", "real_ns", "thread_ns"]

#: Returns seconds since some moment that does not change; should not go backwards.
Clock: TypeAlias = Callable[[], float]

#: The default clock, and real time for deadlines whatever the tracker's clock.
monotonic: Clock = time.monotonic

#: Seconds that this thread has computed. Slices of work are measured by it, so that a busy machine does not cut them.
processor_time: Clock = getattr(time, "thread_time", time.monotonic)

#: Nanoseconds that this thread has computed, user and system; None where the system has no such clock.
thread_ns: Callable[[], int] | None = getattr(time, "thread_time_ns", None)

#: Nanoseconds of real time. Far cheaper to read than a thread's own.
real_ns: Callable[[], int] = time.perf_counter_ns


def clock_of_this_thread() -> Callable[[], int] | None:
    """What reads this thread's `thread_ns` from any thread; None where there is no such thing.

    Raises:
        OSError: When called: the thread has ended.
    """
    find = getattr(time, "pthread_getcpuclockid", None)
    if find is None or thread_ns is None:
        return None
    try:
        return partial(time.clock_gettime_ns, find(get_ident()))
    except OSError:
        return None
