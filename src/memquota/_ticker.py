"""A thread that does one small thing over and over until it is told to end."""

from __future__ import annotations

import os
from collections.abc import Callable
from math import isfinite
from threading import Thread, current_thread
from typing import Final, final

from memquota._latch import Latch
from memquota.errors import UsageTypeError, UsageValueError
from memquota.observe.log import log_callback_failure

__all__ = ["Ticker", "checked_interval"]

#: How long `end` waits for an action under way, in seconds: one that hangs is left to itself.
_PATIENCE: Final = 5.0


@final
class Ticker:
    """Calls `action` every `every` seconds of real time in a daemon thread of its own, until it returns False.

    Threads:
        Any may end it. A forked child has no such thread: there it has ended.
    """

    def __init__(self, action: Callable[[], bool], every: float, name: str) -> None:
        self._action = action
        self._every = every
        self._end = Latch()
        self._process = os.getpid()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(self._every):
            try:
                if not self._action():
                    return
            except Exception:
                log_callback_failure(self._thread.name, "goes on")

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._thread.is_alive()

    def tell_to_end(self) -> None:
        """Let it end after the action under way. Never waits."""
        self._end.open()

    def end(self) -> None:
        """Let it end and wait for that, except in its own thread. May be called more than once."""
        self.tell_to_end()
        if self._process == os.getpid() and self._thread is not current_thread():
            self._thread.join(_PATIENCE)


def checked_interval(every: object) -> float:
    """Seconds between two looks as a float, or UsageError."""
    if isinstance(every, bool) or not isinstance(every, int | float):
        raise UsageTypeError(f"every must be a number of seconds, not {every!r}")
    if not (isfinite(every) and 0 < every <= 3600):
        raise UsageValueError(f"every must be above 0 and at most an hour, not {every!r} s")
    return float(every)
