"""What an item costs: the bytes that a queue claims for it, fixed at the moment it goes in."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Mapping, Sequence, Set
from operator import index
from typing import Any, Final, TypeAlias, TypeVar

import attrs

from memquota.errors import UsageTypeError, UsageValueError
from memquota.sizes import LARGEST_SIZE

__all__ = ["ENTRY_COST", "Cost", "cost_of", "counts_fields", "item_cost"]

#: What an entry costs beside the content of its item: a tuple of three, the time and the cost in it, its place in a
#: deque (128 bytes), and the head of the item itself. As measured for bytes on 64-bit CPython 3.11 to 3.13.
ENTRY_COST: Final = 160

#: What to claim for an item, in bytes, without the entry.
Cost: TypeAlias = Callable[[Any], int]

C = TypeVar("C", bound=type[Any])
_BYTES_LIKE: Final = (bytes, bytearray)


def item_cost(item: object) -> int:
    """The cost of an item in bytes, without its entry in the queue.

    - bytes and bytearray: their length; memoryview and array: the bytes of their elements;
    - str: its length times the width at which CPython holds it (1, 2 or 4 bytes a character), without encoding it;
    - anything with a method `memory_cost()`: what that says;
    - an instance of an attrs class: itself and the sum over its fields, by this same function; a field with
      `metadata={"memory_cost": False}` is left out, for what is shared with others;
    - lists, tuples, sets, dictionaries: their own size and that of their items, by this same function;
    - anything else: `sys.getsizeof`, which does not see what the object refers to.

    Raises:
        UsageError: `memory_cost` answered no int, a negative one or one above 2**62; or the item is nested deeper than
            the stack.
        Exception: What `memory_cost` raises passes through.

    Cost:
        Constant for bytes and text, else one visit of each item inside. Shared objects are counted each time.

    Approximate:
        Headers of small objects, hash tables' spare room and what C libraries hold are not seen. Give the queue a cost
        function when you know better.
    """
    kind = type(item)
    if kind in _BYTES_LIKE:
        return len(item)  # type: ignore[arg-type]  # just looked
    if kind is str:
        return sys.getsizeof(item) - _EMPTY_TEXT
    try:
        return _nested(item)
    except RecursionError:
        raise UsageValueError("an item is nested too deeply to be counted: give the queue a cost function") from None


_EMPTY_TEXT: Final = sys.getsizeof("")


def _nested(item: object) -> int:
    own = getattr(type(item), "memory_cost", None)
    if callable(own):
        return _checked(own(item), "memory_cost()")
    if isinstance(item, bytes | bytearray):
        return len(item)
    if isinstance(item, memoryview):
        return item.nbytes
    if isinstance(item, array):  # one of the sequences, whose elements are no objects
        return len(item) * item.itemsize
    if isinstance(item, str):
        return sys.getsizeof(item) - _EMPTY_TEXT
    kind: Any = type(item)
    if attrs.has(kind):  # a field that was never set counts as None
        return sys.getsizeof(item) + sum(_nested(getattr(item, name, None)) for name in _counted(kind))
    if isinstance(item, Mapping):
        return sys.getsizeof(item) + sum(_nested(key) + _nested(value) for key, value in item.items())
    if isinstance(item, Sequence | Set) and not isinstance(item, range):
        return sys.getsizeof(item) + sum(_nested(part) for part in item)
    return sys.getsizeof(item)


def counts_fields(cls: C) -> C:
    """A decorator that gives an attrs class a `memory_cost` derived from its fields, as `item_cost` counts them.

    The fields are looked up once, which takes a third off the time of counting the instance as it comes. Classes
    derived from it are counted with their own fields, which are looked up each time unless they are decorated as well.

    Raises:
        UsageError: It is no attrs class.
    """
    kind: Any = cls
    if not attrs.has(kind):
        raise UsageTypeError(
            f"counts_fields takes an attrs class, and {cls.__name__} is none: it belongs in the line above `define`"
        )
    names = _counted(kind)

    def memory_cost(self: Any) -> int:
        """What an instance costs in bytes: itself and its fields."""
        size = sys.getsizeof(self)
        for name in names if type(self) is kind else _counted(type(self)):
            size += item_cost(getattr(self, name, None))
        return size

    setattr(cls, "memory_cost", memory_cost)  # noqa: B010  # type checkers know no such attribute
    return cls


def _counted(kind: Any) -> tuple[str, ...]:
    """The names of the fields of an attrs class that are counted."""
    return tuple(field.name for field in attrs.fields(kind) if field.metadata.get("memory_cost", True))


def cost_of(item: object, cost: Cost | None) -> int:
    """What a queue claims for an item: its cost by the queue's function, or `item_cost`, and its entry.

    Raises:
        UsageError: The function answered no int, a negative one, or one above 2**62.
        Exception: What it raises passes through.
    """
    if cost is None:
        return item_cost(item) + ENTRY_COST
    return _checked(cost(item), "the queue's cost function") + ENTRY_COST


def _checked(answer: object, who: str) -> int:
    if type(answer) is not int:
        try:
            if isinstance(answer, bool | float):
                raise TypeError
            answer = index(answer)  # type: ignore[arg-type]  # says itself what it does not take
        except TypeError:
            raise UsageTypeError(f"{who} must answer a number of bytes as an int, not {answer!r}") from None
    if answer < 0:
        raise UsageValueError(f"{who} answered {answer}: a size cannot be negative")
    if answer > LARGEST_SIZE:
        raise UsageValueError(f"{who} answered {answer}: sizes above 2**62 are refused")
    return answer
