"""Raises an exception in the middle of the books' moves, wherever one can come from outside.

Signals are handled, and memory runs out, in some instructions of the interpreter and not in others: in calls and after
them, at jumps back, where something is computed, added to a container, or iterated. Between plain assignments to slots
nothing can come, which is what the books rely on.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import memquota._core

_CORE = str(Path(memquota._core.__file__).parent)

#: How the names begin of instructions that neither run anything else, nor allocate, nor look at signals, since 3.11.
_PLAIN = (
    *("CACHE", "CHECK_EXC_MATCH", "COPY", "END_FOR", "EXTENDED_ARG", "IS_OP", "JUMP_FORWARD", "JUMP_IF", "KW_NAMES"),
    *("LOAD_", "MAKE_CELL", "NOP", "NOT_TAKEN", "POP_EXCEPT", "POP_ITER", "POP_JUMP_FORWARD", "POP_JUMP_IF", "POP_TOP"),
    *("PRECALL", "PUSH_EXC_INFO", "PUSH_NULL", "RERAISE", "RETURN_", "STORE_ATTR", "STORE_DEREF", "STORE_FAST", "SWAP"),
    *("TO_BOOL", "UNARY_NOT"),
)


#: A number that neither debuggers nor coverage use.
_TOOL = 4


class TornError(BaseException):
    """What comes from outside."""


@cache
def _points(code: CodeType) -> frozenset[int]:
    """The offsets of the instructions at which something can come."""
    points = set()
    after_call = False
    for instruction in dis.get_instructions(code):
        if instruction.opname.startswith("CALL_INTRINSIC"):
            continue  # 3.12 ends every generator with one, which runs nothing and is no place for a signal
        if after_call or not instruction.opname.startswith(_PLAIN):
            points.add(instruction.offset)
        if instruction.opname not in ("CACHE", "PRECALL", "EXTENDED_ARG"):
            after_call = instruction.opname.startswith("CALL")
    return frozenset(points)


def torn(action: Callable[[], object], point: int) -> bool:
    """Run an action and tear it at its point of that number. Returns False when it has no such point any more."""
    if sys.version_info >= (3, 12):
        return _torn_by_monitoring(action, point)
    left = point

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(_CORE):
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_lasti in _points(frame.f_code):
            if not left:
                raise TornError
            left -= 1
        return trace

    outer = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except TornError:
        return True
    finally:
        sys.settrace(outer)
    return False


def _torn_by_monitoring(action: Callable[[], object], point: int) -> bool:
    """From 3.12 on trace functions miss instructions of code that was traced before."""
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
    left = point

    def look(code: CodeType, offset: int) -> Any:
        nonlocal left
        if not code.co_filename.startswith(_CORE):
            return monitoring.DISABLE
        if offset in _points(code):
            if not left:
                monitoring.set_events(_TOOL, 0)
                raise TornError
            left -= 1
        return None

    monitoring.use_tool_id(_TOOL, "tearing")
    monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, look)
    monitoring.set_events(_TOOL, monitoring.events.INSTRUCTION)
    try:
        action()
    except TornError:
        return True
    finally:
        monitoring.set_events(_TOOL, 0)
        monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, None)
        monitoring.free_tool_id(_TOOL)
    return False
