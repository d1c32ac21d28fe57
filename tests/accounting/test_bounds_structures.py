"""What structures take."""

from __future__ import annotations

import sys
import types
from array import array
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

import attrs
import pytest

from memquota.accounting import SizeOf, structure_size

#: Their sizes differ between versions of Python.
NAME, PAYLOAD = "x" * 51, bytes(1000)
CONTENT = sys.getsizeof(NAME) + sys.getsizeof(PAYLOAD)


class Plain:
    pass


class Slotted:
    __slots__ = ("first", "second")
    first: object


class Below(Slotted):
    __slots__ = ("__third", "__weakref__")

    def set_third(self, third: object) -> None:
        self.__third = third


class Dictionary(dict[str, int]):
    pass


@attrs.frozen
class Frozen:
    name: str
    payload: bytes


@attrs.define(slots=False)
class Open:
    name: str
    payload: bytes


@dataclass
class Data:
    name: str
    payload: bytes


class Fake:
    """Like an array of numpy: `sys.getsizeof` counts its data or does not."""

    __slots__ = ("header", "nbytes")

    def __init__(self, nbytes: Any, header: int) -> None:
        self.nbytes = nbytes
        self.header = header

    def __sizeof__(self) -> int:
        return self.header


@pytest.mark.parametrize("kind", [object, Slotted, Below, list, dict, OrderedDict, Exception, Plain, Dictionary])
def test_a_class_is_as_large_as_an_instance_of_it_that_was_just_made(kind: type[Any]) -> None:
    instance = kind()
    attributes = sys.getsizeof({}) if hasattr(instance, "__dict__") else 0

    assert structure_size(kind) == sys.getsizeof(instance) + attributes


def test_of_a_class_with_fields_their_places_are_counted_and_what_they_refer_to_is_not() -> None:
    many = attrs.make_class("Many", [f"field_{number}" for number in range(20)], slots=False)

    assert structure_size(Frozen) == sys.getsizeof(Frozen("", b""))
    assert (
        structure_size(Open)
        == structure_size(Data)
        == structure_size(Plain) + (sys.getsizeof(dict.fromkeys(["name", "payload"])) - sys.getsizeof({}))
    )
    assert structure_size(many) > structure_size(Open)


def test_no_instance_is_made_of_a_class() -> None:
    class Careful:
        def __new__(cls) -> Any:
            raise AssertionError

    assert structure_size(Careful) > 0


def test_of_an_example_slots_and_fields_and_items_are_counted_once_each() -> None:
    below = Below()
    below.first = PAYLOAD
    below.set_third([PAYLOAD, PAYLOAD])

    third = sys.getsizeof([PAYLOAD, PAYLOAD])
    assert structure_size(below) == sys.getsizeof(below) + sys.getsizeof(PAYLOAD) + third
    assert structure_size(Frozen(NAME, PAYLOAD)) == sys.getsizeof(Frozen("", b"")) + CONTENT
    opened = Open(NAME, PAYLOAD)
    assert structure_size(opened) == sys.getsizeof(opened) + sys.getsizeof(opened.__dict__) + CONTENT


def test_of_containers_the_items_are_counted_down_to_the_bottom() -> None:
    nested = {NAME: [deque([(PAYLOAD,)])], None: frozenset([b"y"])}

    containers = [nested, [0], deque([0]), (0,), frozenset([0])]
    assert structure_size(nested) == sum(map(sys.getsizeof, containers)) + CONTENT + sys.getsizeof(b"y")


def test_what_refers_to_itself_is_counted_once() -> None:
    ring: list[object] = [None]
    ring[0] = ring

    assert structure_size(ring) == sys.getsizeof(ring)


def test_what_belongs_to_everybody_is_not_counted() -> None:
    holder = [None, True, False, ..., NotImplemented, int, sys, structure_size, len, "".join]

    assert structure_size(holder) == sys.getsizeof(holder)
    assert structure_size([types.SimpleNamespace]) == sys.getsizeof([0])


def test_data_outside_the_object_counts_and_data_inside_counts_once() -> None:
    view = Fake(5000, header=96)
    owner = Fake(5000, header=5096)

    assert structure_size(view) == sys.getsizeof(view) + 5000 + sys.getsizeof(5000) + sys.getsizeof(96)
    assert structure_size(owner) == sys.getsizeof(owner) + sys.getsizeof(5000) + sys.getsizeof(5096)
    assert structure_size(memoryview(array("q", range(1000)))) >= 8000


@pytest.mark.parametrize("nonsense", ["5000", 5000.0, -1, None, True])
def test_an_nbytes_that_is_none_is_not_believed(nonsense: object) -> None:
    fake = Fake(nonsense, header=96)
    attributes = [value for value in (nonsense, 96) if not isinstance(value, bool | None)]

    assert structure_size(fake) == sys.getsizeof(fake) + sum(map(sys.getsizeof, attributes))


def test_arrays_of_numpy_take_their_data_once() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.zeros(100_000)

    assert 800_000 <= structure_size(array) <= 800_200
    assert 400_000 <= structure_size(array[::2]) <= 400_200


def test_the_name_is_that_of_the_class() -> None:
    assert (SizeOf(Frozen).name, SizeOf(Frozen("", b"")).name, SizeOf(Frozen, "frame").name) == (
        "Frozen",
        "Frozen",
        "frame",
    )
    assert SizeOf(Frozen, "frame").structure == "Frozen"
