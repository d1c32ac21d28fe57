"""What an item costs: by length, by what it says itself, by its fields, by the queue's function, by an estimate."""

import array
import sys
import tracemalloc
from collections import deque
from decimal import Decimal
from typing import Any, cast

import attrs
import pytest

from memquota import AsyncQueue, Tracker, UsageError
from memquota.queues import ENTRY_COST, counts_fields, item_cost


class Says:
    """An object that says what it costs."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def memory_cost(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@attrs.define
class Header:
    name: str
    value: bytes | None = None


@attrs.define
class Message:
    headers: list[Header]
    body: bytes
    by_key: dict[str, bytes] = attrs.field(factory=dict)


@counts_fields
@attrs.define
class Counted:
    headers: list[Header]
    body: bytes
    by_key: dict[str, bytes] = attrs.field(factory=dict)


@attrs.define
class Child(Counted):
    more: bytes = b""


class PlainChild(Counted):
    pass


@attrs.define
class Unset:
    later: bytes = attrs.field(init=False)


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("item", "cost"),
    [
        (b"", 0),
        (b"x" * 1000, 1000),
        (bytearray(70), 70),
        (memoryview(bytes(90)), 90),
        (memoryview(array.array("q", range(10))), 80),
        (array.array("q", range(10)), 80),
        ("", 0),
        ("a" * 300, 300),
        (Says(12), 12),
        (Says(0), 0),
    ],
)
def test_what_is_known_exactly_is_exact(item: object, cost: int) -> None:
    assert item_cost(item) == cost


@pytest.mark.parametrize(("character", "width"), [("é", 1), ("€", 2), ("😀", 4)])
def test_text_costs_what_the_interpreter_holds(character: str, width: int) -> None:
    assert width * 1000 <= item_cost(character * 1000) <= width * 1000 + 40
    assert item_cost(Text(character * 1000)) >= width * 1000


def test_containers_cost_what_is_inside_and_themselves() -> None:
    body = b"x" * 5000

    for item in ([body], (body,), {body}, frozenset({body}), {1: body}, {body: 1}, deque([body]), [[{1: (body,)}]]):
        assert 5000 < item_cost(item) < 7000, item
    assert item_cost([body] * 10) > 50_000  # each time
    assert item_cost(range(10**9)) < 100


def test_fields_of_attrs_classes_are_counted_nested_in_containers_and_optional() -> None:
    body, value = b"x" * 5000, b"y" * 300
    parts = 5000 + 300 + 300
    message = Message([Header("short", None), Header("long", value)], body, {"key": value})

    assert parts < item_cost(message) < parts + 1500
    without = Message([Header("short", None), Header("long", None)], body, {"key": value})
    assert item_cost(message) - item_cost(without) == 300 - sys.getsizeof(None)


def test_the_decorator_counts_the_same() -> None:
    values: tuple[Any, ...] = ([Header("name", b"z" * 50)], b"x" * 5000, {"key": b"y"})

    assert item_cost(Counted(*values)) == item_cost(Message(*values))


@pytest.mark.parametrize("kind", [Child, PlainChild])
def test_a_class_derived_from_a_decorated_one_is_counted_with_its_own_fields(kind: type[Any]) -> None:
    small, large = kind([], b""), kind([], b"x" * 1000)
    assert item_cost(large) - item_cost(small) == 1000

    if kind is Child:
        assert item_cost(Child([], b"", more=b"x" * 1000)) - item_cost(small) == 1000


@pytest.mark.parametrize("decorate", [counts_fields, lambda kind: kind], ids=["decorated", "as it comes"])
def test_fields_that_are_shared_may_be_left_out(decorate: Any) -> None:
    @decorate
    @attrs.define
    class Session:
        own: bytes
        shared: bytes = attrs.field(metadata={"memory_cost": False})

    assert item_cost(Session(b"", b"x" * 5000)) < 200
    assert item_cost(Session(b"x" * 5000, b"")) > 5000


def test_a_field_that_was_never_set_costs_nothing_that_fails() -> None:
    assert item_cost(Unset()) < 200
    assert item_cost(counts_fields(attrs.make_class("Made", {"later": attrs.field(init=False)}))()) < 200


@pytest.mark.parametrize("other", [int, Says])
def test_only_attrs_classes_can_be_decorated(other: type[Any]) -> None:
    with pytest.raises(UsageError, match=f"attrs class, and {other.__name__} is none.*the line above"):
        counts_fields(other)


def test_anything_else_costs_its_shallow_size() -> None:
    class Holder:
        def __init__(self) -> None:
            self.held = bytes(5000)

    holder = Holder()

    assert item_cost(holder) == sys.getsizeof(holder) < 200
    assert item_cost(Says) == sys.getsizeof(Says)  # a class, not one of its instances
    assert item_cost(None) == sys.getsizeof(None)


@pytest.mark.parametrize("answer", [-1, 1.0, True, None, "5", Decimal(5), 2**62 + 1, 10**100])
def test_an_item_that_answers_nonsense_is_refused(answer: object) -> None:
    for item in (Says(answer), [Says(answer)]):
        with pytest.raises(UsageError, match="memory_cost"):
            item_cost(item)


def test_what_an_item_raises_passes_through_and_nothing_is_put() -> None:
    tracker = Tracker(100_000, strict=True)
    queue = AsyncQueue[object](tracker.new_account())

    with pytest.raises(LookupError, match="no such price"):
        queue.put_nowait([Says(LookupError("no such price"))])

    assert (queue.qsize(), tracker.used) == (0, 0)


def test_an_item_that_contains_itself_is_refused() -> None:
    item: list[object] = []
    item.append(item)

    with pytest.raises(UsageError, match="nested too deeply"):
        item_cost(item)


def test_an_integer_of_another_kind_is_a_cost() -> None:
    class Integer:
        def __index__(self) -> int:
            return 40

    tracker = Tracker(100_000, strict=True)
    queue = AsyncQueue[object](tracker.new_account(), cost=lambda item: cast(int, Integer()))
    queue.put_nowait("item")

    assert tracker.used == 40 + ENTRY_COST
    assert item_cost(Says(Integer())) == 40


def test_the_cost_is_asked_for_once() -> None:
    """Also of an item that waits, is given up by a round, and got."""
    asked: list[str] = []
    tracker = Tracker(100_000, strict=True)

    def cost(item: str) -> int:
        asked.append(item)
        return 10 * len(asked)

    queue = AsyncQueue[str](tracker.new_account(), cost=cost, on_reclaim="drop_oldest")
    for item in ("a", "b", "c"):
        queue.put_nowait(item)
    tracker.reclaim(queue.statistics().bytes - 1)
    queue.get_nowait()
    queue.get_nowait()

    assert asked == ["a", "b", "c"]
    assert queue.statistics().dropped_bytes == 10 + ENTRY_COST


@pytest.mark.parametrize("size", [0, 100, 1000])
def test_what_is_counted_for_bytes_is_what_they_take(size: int) -> None:
    tracker = Tracker("512MiB")
    queue = AsyncQueue[bytes](tracker.new_account())
    count = 5000
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(count):
            queue.put_nowait(bytes(300 + size + number % 7))  # none is one of the interpreter's own
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert queue.statistics().bytes == pytest.approx(taken, rel=0.1)
