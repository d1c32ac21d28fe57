"""Something that happens at each point of a call at which it can: in this thread, or in another one."""

from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Literal

from tests.concurrency.interrupts import InterruptAt
from tests.concurrency.support import InThread

#: How long to wait for an action of another thread that waits for a lock of this one, in seconds.
_BLOCKED = 0.004


class ActAt(InterruptAt):
    """Runs an action at the `number`-th point of a block, and lets the block go on.

    Points are where the interpreter handles signals, runs finalizers and lets other threads run.

    Args:
        number: The point.
        action: What happens there; what it raises comes out at the end of the block.
        elsewhere: Whether another thread does it. One that has to wait for a lock of this thread does the rest of it
            meanwhile.
    """

    def __init__(self, number: int, action: Callable[[], object], *, elsewhere: bool) -> None:
        super().__init__(number)
        self._action = action
        self._elsewhere = elsewhere
        self._thread: InThread[object] | None = None
        self._error: BaseException | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        super().__exit__(None, None, None)
        if self._thread is not None:
            self._thread.result()
        if self._error is not None:
            raise self._error
        return False

    def _point(self, frame: FrameType, event: str) -> None:
        if self.fired:
            return
        if self._left:
            self._left -= 1
            return
        self.fired = True  # the block is traced to its end: CPython 3.11 bears no other way
        self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno} ({event})"
        if self._elsewhere:
            self._thread = InThread(self._action)
            self._thread.thread.join(_BLOCKED)
            return
        try:
            self._action()
        except BaseException as error:
            self._error = error


def at_every_point(action: Callable[[], object], *, elsewhere: bool, step: int = 1) -> Iterator[ActAt]:
    """One for each run: at the first point, `step` points later … Ends when a run had no such point."""
    number = 0
    while True:
        act = ActAt(number, action, elsewhere=elsewhere)
        yield act
        if not act.fired:
            return
        number += step
