"""Programs that allocate, grow, shrink, pass on and free in groups, and a model of what lives from `sys.getsizeof`.

Only kinds whose objects come from no free list: a list that was freed is kept by the interpreter for the next one, and
stays allocated. For the same reason a step makes no list, tuple, float or slice of its own while a group is current.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from attrs import define, field

from memquota.accounting import allocations

#: The exact source, or a loud reason for its absence.
needs_hooks = pytest.mark.skipif(not allocations.available(), reason=f"NO EXACT SOURCE: {allocations.why_not()}")


class Thing:
    """One block, with the garbage collector's header."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


class Items(list[None]):
    """Two blocks: the list's own, and that of its items, which is resized."""

    __slots__ = ()


def items(size: int) -> Items:
    """Its items are allocated by the first append."""
    made = Items()
    made.append(None)
    return made


LARGEST = 200
#: Made in advance, so that growing makes nothing but the growth.
NOTHINGS = [(None,) * size for size in range(LARGEST + 1)]
ZEROS = [bytes(size * 997) for size in range(LARGEST + 1)]

#: How to make one of a kind from a size of at least 2.
MAKE: dict[str, Callable[[int], Any]] = {
    "bytes": bytes,
    "large bytes": lambda size: bytes(size * 997),
    "text": "x".__mul__,
    "thing": Thing,
    "bytearray": bytearray,
    "items": items,
}
KINDS = sorted(MAKE)

#: What the first block of those that have two takes; whatever else they take is in the second.
HEADS: dict[type, int] = {Items: sys.getsizeof(Items()), bytearray: sys.getsizeof(bytearray())}


def grow(thing: object, size: int) -> None:
    """Where it can."""
    if isinstance(thing, Items):
        thing.extend(NOTHINGS[size])
    elif isinstance(thing, bytearray):
        thing.extend(ZEROS[size])


def shrink(thing: object, size: int) -> None:
    """By so many items at most, where it can. A list whose last item was popped keeps a block of no bytes; not here."""
    if isinstance(thing, Items | bytearray):
        while size and len(thing) > 1:
            thing.pop()
            size -= 1


def empty(thing: object, size: int) -> None:
    if isinstance(thing, Items | bytearray):
        thing.clear()


CHANGE: dict[str, Callable[[object, int], None]] = {"grow": grow, "shrink": shrink, "empty": empty}
CHANGES = sorted(CHANGE)


@define
class Known:
    """An object that is known alive, and whose its two blocks are. 0: nobody's; None: there is no such block."""

    thing: Any
    head: int
    rest: int | None = None
    rest_size: int = 0

    def sizes(self) -> Iterator[tuple[int, int]]:
        yield self.head, HEADS.get(type(self.thing), sys.getsizeof(self.thing))
        if self.rest is not None:
            yield self.rest, self.rest_size

    def look(self, group: int) -> None:
        """After something was done to it in a group."""
        size = sys.getsizeof(self.thing) - HEADS.get(type(self.thing), sys.getsizeof(self.thing))
        if size == 0:
            self.rest = None
        elif size != self.rest_size:
            self.rest = self.rest or group  # who has it keeps it
        self.rest_size = size


@define
class Program:
    """Places for objects, and the steps that may be done to them."""

    groups: list[int]
    places: list[Known | None]
    held: list[Any] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.held = [None] * len(self.places)

    def make(self, place: int, kind: str, size: int, group: int) -> None:
        self.drop(place, group)
        held, how = self.held, MAKE[kind]
        before = enter(group)
        held[place] = how(size)
        enter(before)
        known = self.places[place] = Known(held[place], group)
        held[place] = None
        known.look(group)

    def change(self, place: int, how: str, size: int, group: int) -> None:
        if (known := self.places[place]) is None:
            return
        thing, step = known.thing, CHANGE[how]
        before = enter(group)
        step(thing, size)
        enter(before)
        known.look(group)

    def drop(self, place: int, group: int) -> None:
        """Freed while that group is current, whosever it is."""
        if (known := self.places[place]) is None:
            return
        self.held[place] = known.thing
        del known
        self.places[place] = None
        held = self.held
        before = enter(group)
        held[place] = None
        enter(before)

    def expected(self) -> dict[int, tuple[int, int]]:
        """Live bytes and blocks of each group."""
        found = dict.fromkeys(self.groups, (0, 0))
        for known in self.places:
            if known is not None:
                for group, size in known.sizes():
                    if group:
                        found[group] = (found[group][0] + size, found[group][1] + 1)
        return found

    def counted(self) -> dict[int, tuple[int, int]]:
        found = {}
        for group in self.groups:
            statistics = allocations.statistics(group)
            assert statistics is not None
            found[group] = (statistics.live_bytes, statistics.live_objects)
        return found

    def check(self) -> None:
        counted, expected = self.counted(), self.expected()
        assert counted == expected, f"counted {counted}, known alive {expected}"


def enter(group: int) -> int:
    assert allocations.enter is not None
    return allocations.enter(group)


@contextmanager
def undisturbed() -> Iterator[None]:
    """No coverage and no garbage collection, whose callbacks would allocate in our groups."""
    outer, collecting = sys.gettrace(), gc.isenabled()
    sys.settrace(None)
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
        sys.settrace(outer)


@contextmanager
def program(groups: int, places: int) -> Iterator[Program]:
    """A program while counting; at its end everything is dropped, and every group back at zero."""
    with undisturbed():
        numbers = [allocations.register(f"group {n}") for n in range(groups)]
        with allocations.tracking():
            made = Program(numbers, [None] * places)
            yield made
            for place in range(places):
                made.drop(place, 0)
            assert made.counted() == dict.fromkeys(numbers, (0, 0))
        for number in numbers:
            allocations.release(number)
