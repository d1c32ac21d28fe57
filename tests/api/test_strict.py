"""Strict trackers: over-release raises where it happens."""

import gc
import warnings

import pytest

from memquota import UsageError
from memquota.observe import Event, OverRelease
from memquota.testing import assert_books_balance
from tests.api.support import World, raises


@pytest.mark.parametrize("limit", [1000, "1GiB"])
def test_a_release_beyond_what_was_claimed_raises(limit: int | str) -> None:
    """F5: P9: of a handle, a clone, an account; nothing was released."""
    world = World(limit, strict=True)
    holder = world.holder("a", 100)
    clone = holder.participation.clone()
    holder.account.claim(20)
    before = world.books()

    for handle in (holder.participation, clone):
        with raises(UsageError, "release of 101 bytes by 'a': only 100 are claimed") as caught:
            handle.release(101)
        assert isinstance(caught.value, ValueError)
    with raises(UsageError, "release of 21 bytes by 'a': only 20 are claimed"):
        holder.account.release(21)

    assert world.books() == before
    assert world.told(OverRelease) == []
    clone.release(100)
    holder.account.release(20)
    with raises(UsageError, "release of 1 bytes by 'a': only 0 are claimed"):
        holder.participation.release(1)
    assert_books_balance(world.tracker, 0)


def test_handles_have_no_credit() -> None:
    """P2: every byte shows at once."""
    world = World("1GiB", strict=True)
    holder = world.holder("a", 100)

    assert world.tracker.used == 100
    holder.put(1)
    assert world.tracker.used == 101
    holder.get()
    assert world.tracker.used == 1
    assert world.tracker.statistics().credit == 0


def test_a_release_after_the_end_is_no_over_release() -> None:
    """F6: strict or not."""
    world = World(strict=True)
    holder = world.holder("a", 100)
    holder.account.claim(5)
    with holder.account.claimed(10):
        holder.account.close()

    holder.participation.release(100)
    holder.account.release(5)
    holder.participation.close()

    assert world.tracker.used == 0


def test_an_over_release_in_the_midst_of_a_move_is_a_warning() -> None:
    """P9: a finalizer's release is carried out later, where nobody is to blame."""
    world = World(strict=True)
    account = world.tracker.new_account("a")
    account.claim(5)

    class Releases:
        def __del__(self) -> None:
            account.release(6)

    def move() -> None:
        cycle: list[object] = [Releases()]
        cycle.append(cycle)
        del cycle
        gc.collect()

    with pytest.warns(ResourceWarning) as warned:
        world.tracker._books.enter(move)

    assert [str(warning.message) for warning in warned] == [
        "a deferred call failed: release of 6 bytes by 'a': only 5 are claimed"
    ]
    assert account.used == 5


def test_without_strict_nothing_raises() -> None:
    """P9: over-release never crashes production."""
    world = World()
    holder = world.holder("a", 100)
    events: list[Event] = []
    world.tracker.subscribe(events.append)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        holder.participation.release(101)

    assert len(events) == 1
    assert world.tracker.used == 0
