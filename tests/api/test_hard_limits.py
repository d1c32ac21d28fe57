"""Hard limits at all levels, and how exact the books are while handles have credit."""

from itertools import cycle

import pytest

from memquota import QuotaExceeded
from memquota.observe import ClaimRefused, RoundStarted
from memquota.testing import ScriptedParticipant, assert_books_balance
from tests.api.support import World

# --- hard limits ------------------------------------------------------------------------------------------------------


def test_a_hard_limit_refuses_and_nothing_is_claimed() -> None:
    """P8: the error names who, how much, and who holds most; the books are as before."""
    world = World(1000, hard_limit=1200)
    big, small = world.holder("big", 600), world.holder("small", 100)
    late = world.tracker.new_account("late")
    before = world.books()

    with pytest.raises(QuotaExceeded) as caught:
        late.claim(501)

    error = caught.value
    assert str(error) == (
        "claim of 501 B by 'late' refused: 700 B used of 1.2 KiB; largest holders: 'big' 600 B, 'small' 100 B"
    )
    assert (error.account, error.asked, error.used, error.limit) == ("late", 501, 700, 1200)
    assert error.holders == (("big", 600), ("small", 100))
    assert world.books() == before
    assert world.told(ClaimRefused) == [ClaimRefused("late", 501, 700, 1200)]
    assert world.told(RoundStarted) == []
    assert world.tracker.statistics().counts.refused == 1
    assert (big.surveys, small.surveys) == (0, 0)
    with pytest.raises(QuotaExceeded):
        small.participation.claim(501)
    assert small.participation.used == 100
    late.claim(250)
    assert late.used == 250


def test_a_claim_up_to_the_hard_limit_is_granted() -> None:
    """P3: exactly up to it; a hard limit equal to the limit needs no round."""
    world = World(1000, hard_limit=1000)
    holder = world.holder("a", 900)

    holder.put(100)
    with pytest.raises(
        QuotaExceeded, match=r"^claim of 1 B by 'a' refused: 1000 B used of 1000 B; largest holders: 'a'"
    ):
        holder.put(1)

    assert world.tracker.used == 1000
    assert world.told(RoundStarted) == []


def test_the_largest_of_many_are_looked_for_now_and_then() -> None:
    """P11: looking takes a while, and under attack much is refused; of up to 255 nobody is overlooked."""
    world = World(1000, hard_limit=1000)
    accounts = [world.tracker.new_account(f"a{number}") for number in range(254)]
    for number, account in enumerate(accounts[:4]):
        account.claim(100 + number)

    def holders() -> tuple[tuple[str, int], ...]:
        with pytest.raises(QuotaExceeded) as caught:
            accounts[0].claim(1000)
        return caught.value.holders

    assert holders() == (("a3", 103), ("a2", 102), ("a1", 101))
    accounts[4].claim(104)
    assert holders() == (("a4", 104), ("a3", 103), ("a2", 102))
    accounts += [world.tracker.new_account() for _ in range(513 - 254)]
    assert holders() == (("a4", 104), ("a3", 103), ("a2", 102))
    accounts[5].claim(105)
    accounts[2].claim(10)
    accounts[3].close()
    assert [holders(), holders()] == [(("a2", 112), ("a4", 104))] * 2
    assert holders() == (("a2", 112), ("a5", 105), ("a4", 104))


def test_the_hard_limits_of_all_levels_refuse() -> None:
    """P3: the account's own, those above it on every way up, and the tracker's."""
    world = World("1MiB", hard_limit="1MiB")
    new = world.tracker.new_account
    left, right = new("left", hard_limit=300), new("right", hard_limit=200)
    child = left.new_child("child", hard_limit=250)
    child.add_parent(right)
    right.claim(50)

    with pytest.raises(QuotaExceeded, match=r"by 'child' refused: 50 B used of 200 B"):
        child.claim(151)
    child.claim(150)
    right.release(50)
    with pytest.raises(QuotaExceeded, match=r"refused: 150 B used of 200 B"):
        child.claim(51)
    right.reconfigure(hard_limit=None)
    with pytest.raises(QuotaExceeded, match=r"refused: 150 B used of 250 B"):
        child.claim(101)
    child.reconfigure(hard_limit=None)
    with pytest.raises(QuotaExceeded, match=r"refused: 150 B used of 300 B"):
        child.claim(151)
    left.reconfigure(hard_limit=None)
    child.claim(151)
    with pytest.raises(QuotaExceeded, match=r"of 1.0 MiB"):
        child.claim(2**20)

    assert child.used == 301


def test_a_hard_limit_holds_whatever_credit_is_out() -> None:
    """P3: P2: credit counts as used: a claim may be refused up to 1/32 early, and never too late."""
    world = World("1MiB", hard_limit="1MiB")
    holders = [world.holder(f"h{n}", 100) for n in range(200)]
    claimed = 200 * 100

    for one in cycle(holders):
        try:
            one.participation.claim(997)
        except QuotaExceeded:
            break
        claimed += 997

    assert 2**20 - 2**20 // 32 - 997 <= claimed <= 2**20
    assert world.tracker.statistics().peak <= 2**20
    assert_books_balance(world.tracker, claimed)


# --- exactness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handles", [1, 10, 300])
@pytest.mark.parametrize("limit", [1000, 2**20, 2**30])
def test_reported_usage_is_exact_to_a_32nd_whatever_the_number_of_handles(handles: int, limit: int) -> None:
    """P2: of the limit, and of an account's own limit below that account."""
    world = World(limit)
    parent = world.tracker.new_account("parent", limit=max(1, limit // 2))
    holders = [ScriptedParticipant(parent.new_child(), world.clock) for _ in range(handles)]
    true = 0
    for turn in range(7):
        for one in holders:
            size = limit // (handles * 20)
            one.participation.claim(size)
            one.participation.release(size // 3 if turn % 2 else size)
            true += size - (size // 3 if turn % 2 else size)

            assert 0 <= world.tracker.used - true <= limit // 32
            assert 0 <= parent.used - true <= limit // 64

    assert true > 0 or limit < handles * 20
    assert_books_balance(world.tracker, true)


def test_small_limits_are_exact(world: World) -> None:
    """P2: below the least worthwhile credit no byte is handed out."""
    holder = world.holder("a", 1)

    assert world.tracker.used == 1
    assert world.tracker.statistics().credit == 0
    assert holder.participation.used == 1
