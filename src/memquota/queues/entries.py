"""The entries of a queue: items, what they cost, when they came; questions about a deque of them."""

from __future__ import annotations

from collections import deque
from typing import Any, TypeAlias

__all__ = ["Entry", "byte_seconds_of", "enough_of", "is_inside", "size_of", "weighed_entry"]

#: An item, what it costs, and when it came. Where the buffer weighs, also the sums of cost and of cost x time over all
#: that came before it since the buffer was empty.
Entry: TypeAlias = "tuple[Any, ...]"


def weighed_entry(items: deque[Entry], item: object, cost: int, now: float) -> Entry:
    """The entry of an item that comes now, with the sums over those before it."""
    try:
        last = items[-1]
    except IndexError:
        return item, cost, now, 0, 0.0
    return item, cost, now, last[3] + last[1], last[4] + last[1] * last[2]


def size_of(items: deque[Entry]) -> int:
    """What weighed entries cost together. O(1)."""
    try:
        first, last = items[0], items[-1]
    except IndexError:
        return 0
    size: int = last[3] + last[1] - first[3]
    return size


def byte_seconds_of(items: deque[Entry], now: float) -> float:
    """The sum of cost x age over weighed entries. O(1)."""
    try:
        first, last = items[0], items[-1]
    except IndexError:
        return 0.0
    size = last[3] + last[1] - first[3]
    moments = last[4] + last[1] * last[2] - first[4]
    return max(0.0, float(now * size - moments))


def enough_of(entries: list[Entry], wanted: int, newest: float) -> int:
    """Leave the first ones that cost `wanted` together, up to `newest`. Returns what they cost."""
    size = 0
    for number, entry in enumerate(entries):
        if size >= wanted or entry[2] > newest:
            del entries[number:]
            break
        size += entry[1]
    return size


def is_inside(entry: Entry, items: deque[Entry]) -> bool:
    """Whether that very entry is there. It came in a moment ago: looks at what came since."""
    try:
        for each in reversed(items):
            if each is entry:
                return True
            if each[2] < entry[2]:
                return False
    except RuntimeError:  # the end of the queue frees them already
        pass
    return False
