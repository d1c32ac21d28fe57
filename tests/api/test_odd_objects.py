"""What may be registered as a participant, and what else it may be."""

from typing import Any

import pytest

from memquota import (
    Account,
    MemoryReclaimed,
    Participation,
    Reclaimed,
    ReclaimRequest,
    UsageError,
)
from tests.api.support import World, raises


class Odd:
    """A participant that collapses, whatever else is wrong with it."""

    def __init__(self, time: float) -> None:
        self.time = time
        self.asked = 0

    def oldest_data(self) -> float:
        return self.time

    def reclaim(self, request: ReclaimRequest) -> Reclaimed:
        self.asked += 1
        return Reclaimed.COLLAPSING


class Unhashable(Odd):
    __hash__ = None  # type: ignore[assignment]


class Uncomparable(Odd):
    def _fail(self, *_: object) -> Any:
        raise AssertionError("compared")

    __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __hash__ = __bool__ = __len__ = _fail


class Equal(Odd):
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


class Speechless(Odd):
    def __repr__(self) -> str:
        raise AssertionError("shown")

    __str__ = __repr__


class Answering(Odd):
    """Has every attribute that anybody asks for, as mocks and proxies do."""

    def __getattr__(self, name: str) -> Any:
        if name == "byte_seconds":
            raise AttributeError(name)
        return self


class Empty(Odd):
    def __len__(self) -> int:
        return 0


class Slots:
    __slots__ = ("__weakref__", "asked", "time")

    __init__ = Odd.__init__
    oldest_data = Odd.oldest_data
    reclaim = Odd.reclaim


@pytest.mark.parametrize("policy", ["oldest_data", "largest"])
@pytest.mark.parametrize("kind", [Unhashable, Uncomparable, Equal, Speechless, Answering, Empty, Slots])
def test_participants_are_told_apart_by_identity(kind: Any, policy: str) -> None:
    """F25: they need neither hash nor equality, and what else they have does not matter."""
    world = World(policy=policy)
    kept: list[tuple[Account, Odd, Participation]] = []
    for time in (3, 1, 2):
        account = world.tracker.new_account()
        odd = kind(100.0 + time)
        kept.append((account, odd, account.register_participant(odd)))
        kept[-1][2].claim(100 - time)
    world.clock.advance(10)

    world.tracker.reclaim(97)
    assert [odd.asked for _, odd, _ in kept] == [0, 1, 1]
    with pytest.raises(MemoryReclaimed):
        kept[0][2].claim(2000)

    assert [account.closed for account, _, _ in kept] == [True, True, True]


def test_an_object_without_weak_references_is_refused(world: World) -> None:
    """F25: nothing is registered."""

    class Bare:
        __slots__ = ()
        oldest_data = Odd.oldest_data
        reclaim = Odd.reclaim

    account = world.tracker.new_account()
    before = world.books()

    with raises(UsageError, "Bare supports no weak references: give it a __weakref__ slot") as caught:
        account.register_participant(Bare())
    assert isinstance(caught.value, TypeError)

    assert world.books() == before


@pytest.mark.parametrize("missing", ["oldest_data", "reclaim"])
def test_an_object_without_the_methods_is_refused(world: World, missing: str) -> None:
    """F25: whichever it is."""
    one = Odd(1.0)
    setattr(one, missing, 5)

    with raises(UsageError, f"a participant needs a method {missing}; Odd has none"):
        world.tracker.new_account().register_participant(one)


def test_an_object_whose_attributes_fail_is_not_registered(world: World) -> None:
    """F25: P8: what it raises passes."""

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise ZeroDivisionError(name)

    account = world.tracker.new_account()
    before = world.books()

    with pytest.raises(ZeroDivisionError):
        account.register_participant(Broken())

    assert world.books() == before


def test_one_object_in_two_accounts_is_asked_for_each(world: World) -> None:
    """F25: a participation is what counts, not the object."""
    one, other = world.tracker.new_account("one"), world.tracker.new_account("other")
    odd = Odd(1.0)
    handles = [account.register_participant(odd) for account in (one, other, other)]
    for handle in handles:
        handle.claim(100)

    world.tracker.reclaim(200)
    assert (one.closed, other.closed, odd.asked) == (True, False, 1)
    world.tracker.reclaim(0)

    assert odd.asked == 3


def test_what_makes_a_participant_has_to_be_callable() -> None:
    nothing: Any = 5
    account = World().tracker.new_account("a")

    with pytest.raises(UsageError, match=r"^register_participant_with takes a callable, not 5$"):
        account.register_participant_with(nothing)
    assert account.tracker.snapshot().accounts[0].holdings == ()
