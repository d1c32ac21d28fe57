"""Claims and releases: what is refused, what is counted, what stays unchanged."""

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from math import inf, nan
from typing import Any

import pytest

from memquota import (
    Account,
    AccountClosed,
    MemoryReclaimed,
    Participation,
    ParticipationClosed,
    QuotaExceeded,
    Tracker,
    UsageError,
)
from memquota.observe import OverRelease
from memquota.testing import assert_books_balance
from tests.api.support import World, raises

Claimer = Participation | Account


@pytest.fixture(params=["account", "handle", "handle with credit", "clone"])
def claimer(request: pytest.FixtureRequest) -> Any:
    """Everything that claims, with 300 bytes claimed; and what keeps it."""
    small = request.param != "handle with credit"
    world = World(1000 if small else "1MiB")
    holder = world.holder("conn-7")
    one: Claimer = holder.participation
    if request.param == "account":
        one = holder.account
    elif request.param == "clone":
        one = holder.participation.clone()
    one.claim(300)
    if request.param != "account":
        holder.items.append((world.clock(), 300))
    return world, holder, one


class Foreign:
    """A number with arithmetic of its own, which is none of the tracker's business."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value

    def _never(self, other: object = None) -> Any:
        raise AssertionError("foreign arithmetic was run")

    __add__ = __radd__ = __sub__ = __rsub__ = __lt__ = __gt__ = __le__ = __ge__ = __bool__ = __neg__ = _never


class Grown(int):
    """An int that lies in all its arithmetic."""

    def _lie(self, other: object = None) -> Any:
        return 10**6

    __add__ = __radd__ = __sub__ = __rsub__ = __neg__ = _lie

    def __lt__(self, other: object) -> bool:
        return False


# --- bad sizes --------------------------------------------------------------------------------------------------------


def test_negative_size_is_refused(claimer: Any) -> None:
    """F1: a negative size is a UsageError and a ValueError, and changes nothing."""
    world, _, one = claimer
    before = world.books()

    with raises(UsageError, "claim of -1 bytes: a size cannot be negative") as caught:
        one.claim(-1)
    assert isinstance(caught.value, ValueError)
    with raises(UsageError, "release of -1 bytes: a size cannot be negative") as caught:
        one.release(-1)
    assert isinstance(caught.value, ValueError)

    assert world.books() == before


@pytest.mark.parametrize(
    "size",
    [True, False, 1.0, nan, inf, -inf, Decimal(1), Fraction(1), 1j, "5", "", None, b"5", [1], (), {}, object(), int],
    ids=repr,
)
def test_what_is_no_int_is_refused(claimer: Any, size: Any) -> None:
    """F2: neither bool nor float nor text is a size; UsageError and TypeError, nothing changed."""
    world, _, one = claimer
    before = world.books()

    for call, what in ((one.claim, "claim"), (one.release, "release")):
        text = f"^{what} takes a number of bytes as an int, not {type(size).__name__}$"
        with pytest.raises(UsageError, match=text) as caught:
            call(size)
        assert isinstance(caught.value, TypeError)

    assert world.books() == before
    one.claim(1)
    assert one.used == 301


@pytest.mark.parametrize("kind", [Foreign, Grown])
def test_integers_of_other_types_are_taken_at_their_index(claimer: Any, kind: Callable[[int], Any]) -> None:
    """F2: `__index__` is all that is asked of a foreign integer, such as numpy's."""
    _, _, one = claimer

    one.claim(kind(40))
    assert one.used == 340
    one.release(kind(240))
    assert one.used == 100
    one.claim(kind(0))
    assert one.used == 100


def test_what_the_index_of_a_foreign_integer_raises_passes_and_changes_nothing(claimer: Any) -> None:
    """F2: the fault is the size's own."""

    class Broken:
        def __index__(self) -> int:
            raise ZeroDivisionError

    world, _, one = claimer
    before = world.books()

    for call in (one.claim, one.release):
        with pytest.raises(ZeroDivisionError):
            call(Broken())

    assert world.books() == before


@pytest.mark.parametrize(
    "size", [2**62 + 1, 2**63 - 1, 2**63, 2**64, 10**100, 10**5000], ids=lambda n: str(len(hex(n)))
)
def test_sizes_above_the_sanity_cap_are_refused_and_poison_nothing(claimer: Any, size: int) -> None:
    """F4: above 2**62 nothing is believed; the next claim works."""
    world, _, one = claimer
    before = world.books()

    with pytest.raises(UsageError, match=r"^claim of .* bytes: sizes above 2\*\*62 are refused$") as caught:
        one.claim(size)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(UsageError, match=r"^release of .* bytes: sizes above 2\*\*62 are refused$"):
        one.release(size)
    with pytest.raises(UsageError, match=r"a size cannot be negative"):
        one.claim(-size)

    assert world.books() == before
    one.claim(1)
    assert one.used == 301


def test_sizes_are_spelled_out_as_far_as_people_read_them() -> None:
    """F4: a number of thousands of digits is described."""
    account = Tracker(1000).new_account()

    with pytest.raises(UsageError, match=r"^claim of 9223372036854775808 bytes: "):
        account.claim(2**63)
    with pytest.raises(UsageError, match=r"^claim of 2\*\*16609 or more bytes: "):
        account.claim(10**5000)
    with pytest.raises(UsageError, match=r"^claim of -2\*\*16609 or more bytes: "):
        account.claim(-(10**5000))


def test_the_largest_size_is_a_size_like_any_other() -> None:
    """F4: 2**62 itself is allowed, and goes over the limit."""
    world = World()
    holder = world.holder()

    with pytest.raises(MemoryReclaimed):
        holder.put(2**62)

    assert world.tracker.used == 0


def test_nothing_is_something_to_claim(claimer: Any) -> None:
    """F3: 0 bytes are allowed, and change nothing."""
    world, _, one = claimer
    before = world.books()

    one.claim(0)
    one.release(0)

    assert world.books() == before


def test_nothing_is_not_claimed_where_all_is_over(claimer: Any) -> None:
    """F3: on a closed handle a claim of 0 bytes raises too; a release does not."""
    _, holder, one = claimer
    holder.account.close()

    with raises(AccountClosed, "account 'conn-7' is closed: closed by hand"):
        one.claim(0)
    one.release(0)


# --- releasing more than was claimed ----------------------------------------------------------------------------------


def test_over_release_is_clamped_counted_and_reported(claimer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """F5: P9: what was not claimed is not released; others are not touched; the log says it once for an account."""
    world, _, one = claimer
    other = world.holder("other", 50)

    one.release(1000)
    one.release(1)
    one.release(1)

    assert one.used == 0
    assert other.participation.used == 50
    assert_books_balance(world.tracker, 50)
    counts = world.tracker.statistics().counts
    assert (counts.over_releases, counts.over_released_bytes) == (3, 702)
    assert world.told(OverRelease) == [
        OverRelease("conn-7", 700, first=True),
        OverRelease("conn-7", 1, first=False),
        OverRelease("conn-7", 1, first=False),
    ]
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage() == (
        "tracker: account 'conn-7' released 700 bytes more than it claimed; "
        "further ones of this account are only counted"
    )


def test_over_release_of_another_account_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    """F5: once for each account."""
    world = World()
    for name in ("a", "b"):
        account = world.tracker.new_account(name)
        account.release(5)
        account.release(5)

    assert len(caplog.records) == 2


def test_an_account_does_not_release_what_its_participants_claimed(world: World) -> None:
    """F5: and they not what it claimed itself."""
    holder = world.holder("a", 100)
    holder.account.claim(10)

    holder.account.release(60)
    assert holder.account.used == 100
    holder.account.claim(10)
    holder.participation.release(500)
    assert holder.account.used == 10


def test_release_when_all_is_over_does_nothing(claimer: Any) -> None:
    """F6: after close."""
    world, holder, one = claimer
    holder.account.close()

    one.release(300)
    one.release(10**6)

    assert world.tracker.used == 0
    assert world.told(OverRelease) == []
    with pytest.raises(AccountClosed) as caught:
        one.claim(1)
    assert type(caught.value) is AccountClosed


def test_release_after_a_collapse_does_nothing_and_claims_tell_of_it(claimer: Any) -> None:
    """F6: after reclaim; the claim says why and when."""
    world, holder, one = claimer
    world.clock.advance(3)
    world.tracker.reclaim(0)

    one.release(300)

    assert world.told(OverRelease) == []
    with pytest.raises(
        MemoryReclaimed, match=r"^account 'conn-7' gave up its memory: holds the oldest data: "
    ) as caught:
        one.claim(1)
    assert caught.value.reason == holder.account.close_reason
    assert caught.value.when == 104.0
    assert world.tracker.used == 0


# --- a participation that is over -------------------------------------------------------------------------------------


def test_claims_of_a_closed_handle_say_so(world: World) -> None:
    holder = world.holder("a", 10)
    holder.participation.close()

    with raises(ParticipationClosed, "participation in account 'a' is over: closed"):
        holder.participation.claim(1)
    holder.participation.release(10)

    assert holder.account.used == 0
    assert not holder.account.closed


def test_destroying_ends_a_participation_for_all_its_handles(world: World) -> None:
    holder = world.holder("a", 100)
    clone = holder.participation.clone()
    clone.claim(11)

    clone.destroy()
    clone.destroy()

    assert holder.account.used == 0
    for handle in (clone, holder.participation):
        assert handle.closed
        assert handle.used == 0
        handle.release(5)
        with raises(ParticipationClosed, "participation in account 'a' is over: destroyed"):
            handle.claim(1)
        with pytest.raises(ParticipationClosed):
            handle.clone()


@pytest.mark.parametrize("limit", [1000, "1GiB"])
def test_a_participation_ends_with_its_last_handle(limit: int | str) -> None:
    holder = World(limit).holder("a", 100)
    first = holder.participation
    second, third = first.clone(), first.clone()
    second.claim(20)

    first.close()
    assert [one.closed for one in (first, second, third)] == [True, False, False]
    assert [one.used for one in (first, second, third)] == [120, 120, 120]
    third.release(60)
    third.close()
    assert second.used == holder.account.used == 60
    second.claim(2)
    assert [one.used for one in (first, second, third)] == [62, 62, 62]
    second.close()

    assert second.closed
    assert holder.account.used == 0
    with pytest.raises(ParticipationClosed):
        first.clone()


def test_the_credit_of_a_closed_handle_goes_back() -> None:
    """P2: nothing of it stays booked."""
    world = World("1GiB")
    holder = world.holder("a", 100)
    assert world.tracker.used > 100
    holder.participation.release(100)
    assert world.tracker.used > 0

    holder.participation.close()

    assert world.tracker.used == world.tracker.statistics().credit == 0


def test_closing_twice_and_late_drops_usage_once(world: World) -> None:
    """F7: close in `finally` after a reclaim, close twice, destroy after close."""
    holder, other = world.holder("a", 100), world.holder("b", 50)
    world.tracker.reclaim(50)
    assert holder.account.closed

    for _ in range(2):
        holder.participation.close()
        holder.participation.destroy()
        holder.account.close()
    assert world.tracker.used == 50
    for _ in range(2):
        other.participation.close()
    assert world.tracker.used == 0
    assert_books_balance(world.tracker, 0)


# --- what an account claims itself ------------------------------------------------------------------------------------


def test_a_with_block_claims_for_its_length(world: World) -> None:
    account = world.tracker.new_account()

    with account.claimed(300):
        assert account.used == 300
        with account.claimed(0):
            assert account.used == 300
    assert account.used == 0
    with pytest.raises(ZeroDivisionError), account.claimed(300):
        raise ZeroDivisionError
    assert account.used == 0


def test_a_with_block_that_cannot_claim_is_not_entered() -> None:
    """P8: and releases nothing."""
    account = World(1000, hard_limit=1000).tracker.new_account()
    account.claim(600)

    with pytest.raises(QuotaExceeded), account.claimed(401):
        raise AssertionError("entered")
    with pytest.raises(UsageError), account.claimed(-1):
        raise AssertionError("entered")

    assert account.used == 600


def test_a_with_block_whose_account_collapses_inside_is_left_in_peace(world: World) -> None:
    """F6: releasing what is written off already does nothing."""
    account = world.tracker.new_account()

    with account.claimed(300):
        world.tracker.reclaim(0)
        assert account.closed

    assert world.tracker.used == 0
    assert world.told(OverRelease) == []


def test_what_an_account_claims_is_as_old_as_its_earliest_claim_not_given_back(world: World) -> None:
    account = world.tracker.new_account("a")
    for size in (10, 20, 30):
        account.claim(size)
        world.clock.advance(5)

    ages = []
    for size in (9, 1, 20, 29):
        account.release(size)
        (victim,) = world.tracker.reclaim(0, dry_run=True).victims
        ages.append(victim.age)

    assert ages == [15.0, 10.0, 5.0, 5.0]
