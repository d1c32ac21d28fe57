"""How many items may be inside a queue."""

from __future__ import annotations

from math import inf

from memquota.errors import UsageTypeError, UsageValueError

__all__ = ["buffer_bound", "queue_bound"]


def queue_bound(maxsize: object) -> float:
    """The bound that the `maxsize` of a queue means: 0 or less is none.

    Raises:
        UsageError: It is no int.
    """
    if type(maxsize) is not int:
        raise UsageTypeError(f"maxsize must be a number of items as an int, not {maxsize!r}")
    return maxsize if maxsize > 0 else inf


def buffer_bound(max_buffer_size: object) -> float:
    """The bound that the `max_buffer_size` of a stream means: 0 is a rendezvous, infinity is none.

    Raises:
        UsageError: It is neither an int nor infinity, or negative.
    """
    if type(max_buffer_size) is float and max_buffer_size == inf:
        return inf
    if type(max_buffer_size) is not int:
        raise UsageTypeError(
            f"max_buffer_size must be a number of items as an int, or math.inf, not {max_buffer_size!r}"
        )
    if max_buffer_size < 0:
        raise UsageValueError(f"max_buffer_size must not be negative, but is {max_buffer_size}")
    return max_buffer_size
