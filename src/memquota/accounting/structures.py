"""What a structure takes in memory: `sys.getsizeof`, and what belongs to it."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import attrs

__all__ = ["structure_name", "structure_size"]

#: Code, and what there is once for the whole program: it belongs to no structure.
_EVERYBODYS: Final = (
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType),
    *(types.NoneType, bool, types.EllipsisType, types.NotImplementedType),
)

#: Built-in containers whose items belong to them, beside dictionaries.
_CONTAINERS: Final = (list, tuple, set, frozenset, deque)

# What CPython puts before an object and `sys.getsizeof` counts: flags of its class, and bytes.
_BEFORE: Final = (
    (1 << 14, 16),  # Py_TPFLAGS_HAVE_GC: the links of the garbage collector
    (0b11 << 3, 16),  # Py_TPFLAGS_MANAGED_WEAKREF and _MANAGED_DICT: pointers to these
)


def structure_name(thing: object) -> str:
    """The name of a class, or of an example's class."""
    return (thing if isinstance(thing, type) else type(thing)).__qualname__


def structure_size(thing: object) -> int:
    """What a structure takes, in bytes.

    Of an example: itself (`sys.getsizeof`) and what belongs to it, each object once: the values of its slots and of
    its `__dict__`, which attrs and data classes have, and the items of lists, tuples, sets, dictionaries and deques,
    all the way down. Classes, functions, modules, None, True and the like belong to everybody. What has an `nbytes`, as
    numpy's arrays do, takes that besides, unless `sys.getsizeof` has it in already.

    Of a class: an instance with its slots, or with a `__dict__` for the fields of attrs and data classes, without what
    these refer to. No instance is made.

    Raises:
        Exception: What the example's `__sizeof__` or `nbytes` raises passes through.

    Cost:
        One visit of each object inside.

    Approximate:
        What structures share is counted in each of them; what C libraries hold and do not tell is not seen.
    """
    return _class_size(thing) if isinstance(thing, type) else _example_size(thing)


def _class_size(kind: type[Any]) -> int:
    size = int(kind.__basicsize__) + sum(before for flags, before in _BEFORE if kind.__flags__ & flags)
    if not kind.__dictoffset__:
        return size
    fields: tuple[Any, ...] = ()
    if attrs.has(kind):
        fields = attrs.fields(kind)
    elif dataclasses.is_dataclass(kind):
        fields = dataclasses.fields(kind)
    return size + sys.getsizeof(dict.fromkeys(field.name for field in fields))


def _example_size(example: object) -> int:
    total = 0
    # The objects themselves: some exist only while they are looked at, and their ids would be given out again.
    seen: dict[int, object] = {}
    pending = [example]
    while pending:
        thing = pending.pop()
        if id(thing) not in seen and not isinstance(thing, _EVERYBODYS):
            seen[id(thing)] = thing
            total += _own_size(thing)
            pending.extend(_belongings(thing))
    return total


def _own_size(thing: object) -> int:
    size = sys.getsizeof(thing)
    attributes = getattr(thing, "__dict__", None)
    if isinstance(attributes, dict):
        size += sys.getsizeof(attributes)
    data = getattr(thing, "nbytes", 0)
    if type(data) is not int or data < 0 or size >= data:
        return size  # no such thing, or counted in already
    return size + data


def _belongings(thing: Any) -> Iterator[object]:
    if isinstance(thing, dict):
        yield from dict.keys(thing)
        yield from dict.values(thing)
    elif isinstance(thing, _CONTAINERS):
        yield from thing
    attributes = getattr(thing, "__dict__", None)
    if isinstance(attributes, dict):
        yield from attributes.values()  # their names are the class's
    for kind in type(thing).__mro__:
        for slot in kind.__dict__.values() if "__slots__" in kind.__dict__ else ():
            if isinstance(slot, types.MemberDescriptorType):
                try:
                    yield slot.__get__(thing)
                except AttributeError:  # never set
                    pass
