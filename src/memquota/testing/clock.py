"""A clock that stands still until it is told to move."""

from __future__ import annotations

__all__ = ["FakeClock"]


class FakeClock:
    """A clock for `Tracker(clock=…)` that moves only when told to.

    Args:
        start: The time it shows first, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._time = float(start)

    def __call__(self) -> float:
        """The time it shows, in seconds."""
        return self._time

    def advance(self, seconds: float) -> None:
        """Move by so many seconds; a negative number moves back, as broken clocks do."""
        self._time += seconds

    def set(self, seconds: float) -> None:
        """Show this time."""
        self._time = float(seconds)
