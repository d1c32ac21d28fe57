"""What a gate is told and what it tells."""

from __future__ import annotations

from typing import Literal, TypeAlias

from attrs import frozen

__all__ = ["GateStatistics", "OnFull", "Oversized"]

OnFull: TypeAlias = Literal["wait", "reclaim", "refuse"]
Oversized: TypeAlias = Literal["alone", "refuse"]


@frozen
class GateStatistics:
    """A gate in numbers.

    Attributes:
        inside: Permits that are out.
        held: What they hold, in bytes.
        waiting: Who waits.
        capacity: Bytes that may be inside; None: any number.
        max_concurrent: Permits that may be out; None: any number.
        closed: Why nobody is admitted though there may be room; None: not so.
        fraction: The last reading: the share of the real limit that is in use; None: unknown.
    """

    inside: int
    held: int
    waiting: int
    capacity: int | None
    max_concurrent: int | None
    closed: str | None
    fraction: float | None
