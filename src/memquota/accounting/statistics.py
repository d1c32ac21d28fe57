"""What a group used, as frozen values."""

from __future__ import annotations

from typing import TypeVar

from attrs import frozen

from memquota.errors import UsageTypeError

__all__ = ["GroupStatistics"]

N = TypeVar("N", int, float)


@frozen(kw_only=True)
class GroupStatistics:
    """What a group used so far, or between two moments: `later - earlier`. None: not available.

    Attributes:
        cpu_seconds: Processor time, user and system, in seconds. None where the system has no clock of threads.
        calls: How often work began in the group while the thread was not in it already: with blocks, runs, calls of
            what was wrapped (of an iterator: items), tasks that inherited it.
        live_bytes: Of what was allocated in the group, what is not freed yet, in bytes. None while allocations are not
            tracked, like all that follow.
        live_objects: The same in blocks of memory.
        allocated_bytes: All that was allocated in the group, in bytes.
        freed_bytes: What of that was freed, by whomever, in bytes.
    """

    cpu_seconds: float | None = 0.0
    calls: int = 0
    live_bytes: int | None = None
    live_objects: int | None = None
    allocated_bytes: int | None = None
    freed_bytes: int | None = None

    def __sub__(self, earlier: GroupStatistics) -> GroupStatistics:
        """What happened since an earlier snapshot; what is not available in both is not available."""
        if not isinstance(earlier, GroupStatistics):
            return NotImplemented
        return GroupStatistics(
            cpu_seconds=_less(self.cpu_seconds, earlier.cpu_seconds),
            calls=self.calls - earlier.calls,
            live_bytes=_less(self.live_bytes, earlier.live_bytes),
            live_objects=_less(self.live_objects, earlier.live_objects),
            allocated_bytes=_less(self.allocated_bytes, earlier.allocated_bytes),
            freed_bytes=_less(self.freed_bytes, earlier.freed_bytes),
        )

    def merge(self, other: GroupStatistics) -> GroupStatistics:
        """Both together: of two groups, or of two processes. What is not available in both is not available.

        Raises:
            UsageError: It is something else.
        """
        if not isinstance(other, GroupStatistics):
            raise UsageTypeError(f"merge takes the statistics of a group, not {other!r}")
        return GroupStatistics(
            cpu_seconds=_more(self.cpu_seconds, other.cpu_seconds),
            calls=self.calls + other.calls,
            live_bytes=_more(self.live_bytes, other.live_bytes),
            live_objects=_more(self.live_objects, other.live_objects),
            allocated_bytes=_more(self.allocated_bytes, other.allocated_bytes),
            freed_bytes=_more(self.freed_bytes, other.freed_bytes),
        )


def _less(later: N | None, earlier: N | None) -> N | None:
    return None if later is None or earlier is None else later - earlier


def _more(one: N | None, other: N | None) -> N | None:
    return None if one is None or other is None else one + other
