"""Being told of memory pressure, by the kernel where it grants that, else by looking often."""

import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from memquota.clock import Clock, monotonic
from memquota.errors import UsageTypeError, UsageValueError
from memquota.host import parse
from memquota.host.files import OWN, Root, checked_root
from memquota.host.pressure import LOOK_EVERY, NONE_KEPT, PressureFile, look
from memquota.host.readings import PressureReading, ReadingUnavailable, checked_clock

_logger: Final = logging.getLogger("memquota.host")

# The kernel looks ten times a window too; it takes windows from 0.5 s to 10 s, and from processes
# without CAP_SYS_RESOURCE only whole multiples of 2 s.
_LOOKS_PER_WINDOW: Final = 10
_SHORTEST: Final = 0.5
_LONGEST: Final = 10.0


class StallMeter:
    """Says when the time lost within a sliding window reaches a threshold; no clock of its own.

    Args:
        stall: The threshold in seconds.
        window: The window in seconds.
    """

    def __init__(self, stall: float, window: float) -> None:
        self._stall = stall
        self._window = window
        self._seen: deque[tuple[float, float]] = deque()  # (when, total), oldest first

    def add(self, now: float, total: float) -> bool:
        """Take in the total; whether to tell now, which is at most once a window."""
        seen = self._seen
        if seen and (total < seen[-1][1] or now < seen[-1][0]):
            seen.clear()  # another group's total, or a clock that was set back
        seen.append((now, total))
        while len(seen) > 1 and seen[1][0] <= now - self._window:
            seen.popleft()
        if total - seen[0][1] < self._stall:
            return False
        seen.clear()
        seen.append((now, total))
        return True


class PressureWatch:
    """Calls back when this process's group lost more than `stall` seconds of any `window`.

    Where the kernel grants a trigger, one thread sleeps until it fires; where not (missing rights,
    an old kernel), that thread looks ten times a window. Which of the two is told by `granted`.

    Args:
        callback: Called with what the pressure file says then; the kernel brings that up to date
            every 2 s only, so it may lag behind what is told.
        stall: Seconds lost within a window that are told.
        window: Seconds, 0.5 to 10; the kernel grants unprivileged processes multiples of 2 s.
        full: Whether the time counts in which all tasks waited, instead of at least one.
        root: The root of the file system; another one than `/` reads a recorded tree.
        clock: Times the looks where there is no trigger; what it says must advance by itself.

    Raises:
        UsageError: A wrong argument; `stall` or `window` makes no sense.
        ReadingUnavailable: The kernel keeps no pressure information.

    Callbacks: called in the watch's own thread, at most once a window, without a lock held; it may
        do what it likes, but a callback that blocks delays the next one. An exception is logged.

    Threads: may be closed from any thread, its own callback included. A forked child has no such
        thread: make a new one there.
    """

    def __init__(
        self,
        callback: Callable[[PressureReading], object],
        *,
        stall: float = 0.15,
        window: float = 2.0,
        full: bool = False,
        root: Root = OWN,
        clock: Clock = monotonic,
    ) -> None:
        if not callable(callback):
            raise UsageTypeError(f"a callback must be callable, not {callback!r}")
        for what, seconds in (("stall", stall), ("window", window)):
            if isinstance(seconds, bool) or not isinstance(seconds, int | float):
                raise UsageTypeError(f"{what} must be a number of seconds, not {seconds!r}")
        if not _SHORTEST <= window <= _LONGEST:
            raise UsageValueError(f"window must be {_SHORTEST} to {_LONGEST} s, not {window!r}")
        if not 0 < stall <= window:
            raise UsageValueError(f"stall must be above 0 and at most the window, not {stall!r}")
        self._callback = callback
        self._stall, self._window, self._full = stall, window, full
        self._kind = "full" if full else "some"
        self._root, self._clock = checked_root(root), checked_clock(clock)
        found = look(self._root)
        if found is None:
            raise ReadingUnavailable(NONE_KEPT)
        self._file = found[0]
        self._closed = False
        self._pid = os.getpid()
        self._wake, self._waker = os.pipe()
        self._trigger = self._ask_kernel(self._file)
        self._thread = threading.Thread(target=self._run, name="memquota-pressure", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._let_go()
            os.close(self._waker)
            raise

    @property
    def granted(self) -> bool:
        """Whether the kernel tells; if not, the thread looks."""
        return self._trigger is not None

    @property
    def level(self) -> str:
        """Whose pressure is watched: the path of a control group, or `"machine"`."""
        return self._file.level

    def close(self) -> None:
        """End the watch and wait for its thread; may be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._pid == os.getpid():
            try:
                os.write(self._waker, b"x")
            except OSError:
                pass  # the thread has ended by itself
            if self._thread is not threading.current_thread():
                self._thread.join()
        else:
            # A forked child: the pipe leads to the parent's thread, and here is none to clean up.
            self._let_go()
        os.close(self._waker)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ask_kernel(self, found: PressureFile) -> int | None:
        """A descriptor that becomes ready on pressure; None: the kernel grants none."""
        if self._root != OWN:
            return None  # a recorded tree: writing would change it
        order = f"{self._kind} {self._stall * 1e6:.0f} {self._window * 1e6:.0f}\0"
        try:
            trigger = os.open(found.file.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            os.write(trigger, order.encode())
        except OSError:
            os.close(trigger)
            return None
        return trigger

    def _run(self) -> None:
        meter = StallMeter(self._stall, self._window)
        looked = self._clock()
        try:
            while True:
                pause = self._window / _LOOKS_PER_WINDOW if self._trigger is None else LOOK_EVERY
                fired = self._wait(pause)
                if self._closed:
                    return
                now = self._clock()
                gone = fired & (select.POLLERR | select.POLLHUP | select.POLLNVAL)
                if gone or not 0 <= now - looked < LOOK_EVERY:
                    looked = now
                    self._look_again(anew=bool(gone))
                self._tell_if_due(meter, now, told=bool(fired and not gone))
        finally:
            self._let_go()

    def _let_go(self) -> None:
        os.close(self._wake)
        if self._trigger is not None:
            os.close(self._trigger)

    def _wait(self, pause: float) -> int:
        """Sleep; the trigger's events, or 0."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._trigger is not None:
            poll.register(self._trigger, select.POLLPRI)
        events = dict(poll.poll(pause * 1000))
        return events.get(self._trigger, 0) if self._trigger is not None else 0

    def _look_again(self, *, anew: bool) -> None:
        """Follow this process into another group; `anew`: the old one was removed."""
        looked = look(self._root)
        found = None if looked is None else looked[0]
        if not anew and (found is None or found.file.path == self._file.file.path):
            return
        if self._trigger is not None:
            os.close(self._trigger)
            self._trigger = None
        if found is not None:
            self._file, self._trigger = found, self._ask_kernel(found)

    def _tell_if_due(self, meter: StallMeter, now: float, *, told: bool) -> None:
        if self._trigger is not None and not told:
            return
        try:
            reading = self._file.read()
        except (OSError, parse.Malformed):
            return  # looked for again within 3 s
        total = reading.full.total if self._full else reading.some.total
        if told or meter.add(now, total):
            try:
                self._callback(reading)
            except Exception:
                _logger.exception("callback of a memory pressure watch failed")
