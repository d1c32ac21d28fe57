"""Statistics and snapshots: what a tracker holds and has done, as values."""

import pytest

from memquota import MemoryReclaimed, QuotaExceeded
from memquota.observe import AccountSnapshot, HoldingSnapshot
from memquota.testing import assert_books_balance
from tests.api.support import World


def test_statistics_count_what_happened() -> None:
    """P12: how often, and how many bytes."""
    world = World(1000, hard_limit=2000)
    world.holder("collapses", 100)
    world.holder("gives part", 100, answer="partial")
    world.holder("fails", 100, answer="raise")
    world.holder("stalls", 100, answer="nothing")
    world.holder("detached", 100, age="raise")
    world.tracker.reclaim(0)
    account = world.tracker.new_account("protected", minimum=5000)
    account.claim(1900)
    account.release(2000)
    with pytest.raises(QuotaExceeded):
        account.claim(2001)

    statistics = world.tracker.statistics()

    counts = statistics.counts
    assert (counts.rounds, counts.nobody_left) == (2, 1)
    assert (counts.victims, counts.collapsed, counts.partial, counts.failed, counts.stalled) == (6, 1, 3, 1, 1)
    assert (counts.detached, counts.bytes_reclaimed, counts.refused) == (1, 400, 1)
    assert (counts.over_releases, counts.over_released_bytes) == (1, 100)
    assert (statistics.used, statistics.peak) == (0, 1900)
    assert (statistics.limit, statistics.low_water, statistics.hard_limit) == (1000, 750, 2000)
    assert statistics.accounts == 3
    assert statistics.longest_round == 0.0


def test_statistics_are_of_their_moment(world: World) -> None:
    """They do not change afterwards, nor can they be changed."""
    before = world.tracker.statistics()
    world.holder("a", 100)
    world.tracker.reclaim(0)

    assert before.counts.rounds == 0
    assert before.used == before.peak == 0
    with pytest.raises(AttributeError):
        before.used = 5  # type: ignore[misc]
    world.tracker.statistics().counts.rounds = 70
    assert world.tracker.statistics().counts.rounds == 1


def test_the_longest_round_is_by_the_trackers_clock(world: World) -> None:
    def take_long(*_: object) -> str:
        world.clock.advance(3)
        return "nonsense"

    world.holder("a", 100, answer=take_long)
    world.tracker.reclaim(0)
    world.holder("b", 100)
    world.tracker.reclaim(0)

    assert world.tracker.statistics().longest_round == 3.0


def test_a_snapshot_shows_the_graph(world: World) -> None:
    """Parents before children; each participation's bytes, and what an account claimed itself."""
    top = world.tracker.new_account("top", limit=500, minimum=5)
    side = world.tracker.new_account("side", hard_limit=400, priority=2)
    child = world.holder("child", 30, parent=top)
    child.account.add_parent(side)
    child.account.claim(4)

    snapshot = world.tracker.snapshot()

    assert snapshot.name == "tracker"
    assert snapshot.statistics == world.tracker.statistics()
    assert snapshot.accounts == (
        AccountSnapshot("top", ("tracker",), 34, 500, None, 5, 0, ()),
        AccountSnapshot("side", ("tracker",), 34, None, 400, 0, 2, ()),
        AccountSnapshot(
            "child",
            ("top", "side"),
            34,
            None,
            None,
            0,
            0,
            (HoldingSnapshot("ScriptedParticipant", 30), HoldingSnapshot(None, 4)),
        ),
    )


def test_in_a_snapshot_parents_stand_before_their_children_also_where_they_are_younger(world: World) -> None:
    """Each account once; the others in the order in which they were opened."""
    kept = {name: world.tracker.new_account(name) for name in "abcdef"}
    for child, parent in ("ad", "df", "dc", "cf"):
        kept[child].add_parent(kept[parent])

    assert [account.name for account in world.tracker.snapshot().accounts] == ["f", "c", "d", "a", "b", "e"]


def test_the_peak_is_of_what_was_booked(world: World) -> None:
    """Also where the claim that made it did not live."""
    holder = world.holder("a", 700)
    with pytest.raises(MemoryReclaimed):
        holder.put(800)

    assert world.tracker.statistics().peak == 1500
    assert world.tracker.used == 0
    assert_books_balance(world.tracker, 0)


@pytest.mark.parametrize("look", ["tracker", "statistics", "snapshot", "account"])
def test_looking_takes_into_account_who_died_meanwhile(world: World, look: str) -> None:
    """P7: whatever is looked at first."""
    keeper = world.tracker.new_account("keeper")
    child = world.holder("child", 10, parent=keeper)
    world.holders.remove(child)
    del child

    if look == "tracker":
        used = world.tracker.used
    elif look == "statistics":
        used = world.tracker.statistics().used
    elif look == "snapshot":
        used = world.tracker.snapshot().statistics.used
    else:
        used = keeper.used

    assert used == 0
