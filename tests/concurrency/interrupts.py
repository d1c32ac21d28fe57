"""Raises an exception at each point at which a signal handler could, one point a run.

The interpreter looks for signals when a function begins, when a call of something built in returns, and when a loop
goes round; nowhere else. Profiling and tracing tell of these moments, and what they raise comes out there.
"""

import dis
import sys
from collections.abc import Iterator
from functools import cache
from types import CodeType, FrameType, TracebackType
from typing import Any


class InterruptAt:
    """Raises KeyboardInterrupt in the block at its `number`-th point, and swallows it at the end of the block.

    Only what the modules of `package` do is looked at. `fired` tells whether there was such a point; `where` it was.
    """

    def __init__(self, number: int, package: str = "memquota") -> None:
        self.fired = False
        self.where = ""
        self._left = number
        self._package = package

    def __enter__(self) -> "InterruptAt":
        # The interpreter calls these without holding them, and the first may come to an end while it runs.
        self._kept = self._trace, self._profile
        self._outer = sys.gettrace()  # such as coverage's
        sys.settrace(self._kept[0])
        sys.setprofile(self._kept[1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        sys.setprofile(None)
        sys.settrace(self._outer)
        return kind is KeyboardInterrupt

    def _is_ours(self, frame: FrameType) -> bool:
        return str(frame.f_globals.get("__name__", "")).partition(".")[0] == self._package

    def _profile(self, frame: FrameType, event: str, arg: object) -> None:
        if event in ("call", "c_return"):
            if self._is_ours(frame):
                self._point(frame, event)
        elif event == "return":
            caller = frame.f_back  # calls between Python functions do not look for signals when they return
            if caller is not None and self._is_ours(caller):
                by = _names(caller.f_code).get(caller.f_lasti)
                if by == "CALL_FUNCTION_EX" or frame.f_code.co_name == "__init__":
                    self._point(caller, f"return of {frame.f_code.co_qualname}")

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if not self._is_ours(frame):
            return None
        if event == "opcode":
            if _names(frame.f_code)[frame.f_lasti] == "JUMP_BACKWARD":
                self._point(frame, "loop")
        elif event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        return self._trace

    def _point(self, frame: FrameType, event: str) -> None:
        if self.fired:
            return
        if self._left:
            self._left -= 1
            return
        sys.setprofile(None)
        sys.settrace(None)
        self.fired = True
        self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno} ({event})"
        raise KeyboardInterrupt(self.where)


@cache
def _names(code: CodeType) -> dict[int, str]:
    """The name of each instruction by its offset."""
    return {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}


def every_interrupt(*, step: int = 1, package: str = "memquota") -> Iterator[InterruptAt]:
    """Interrupts for one run each: at the first point, `step` points later … Ends when a run had no such point."""
    number = 0
    while True:
        interrupt = InterruptAt(number, package)
        yield interrupt
        if not interrupt.fired:
            return
        number += step
