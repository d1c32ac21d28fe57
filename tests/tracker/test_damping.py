"""Rounds that found nobody to ask do not run again for nothing."""

from contextlib import suppress

import pytest

from memquota import MemoryReclaimed, Tracker
from memquota.testing import FakeClock, ScriptedParticipant


@pytest.mark.parametrize("policy", ["oldest_data", "largest"])
def test_newcomers_within_their_minimum_start_no_round_each(policy: str) -> None:
    """P4: a round that found nobody is followed by another when that may find somebody, or usage has grown."""
    clock = FakeClock()
    tracker = Tracker(100_000, policy=policy, clock=clock, strict=True)
    protected = []
    for _ in range(400):  # 200,000 bytes in all: from there on 100,000 above the limit
        clock.advance(0.001)
        protected.append(ScriptedParticipant(tracker.new_account(minimum=1_000), clock))
        protected[-1].put(500)

    assert tracker.used == 200_000
    # One round when the limit is passed, and one whenever usage has grown by more than a 64th of the limit.
    assert tracker.statistics().counts.nobody_left <= 65

    with suppress(MemoryReclaimed):
        protected[7].put(600)  # 1,100 bytes: may go, and is found by the next round: after that much more of growth
    for _ in range(4):
        protected.append(ScriptedParticipant(tracker.new_account(minimum=1_000), clock))
        protected[-1].put(500)

    assert protected[7].account.closed
    assert tracker.statistics().counts.victims == 1


def test_a_newcomer_that_may_go_is_looked_at_at_once() -> None:
    """P4: somebody new to ask is a change."""
    clock = FakeClock()
    tracker = Tracker(100_000, clock=clock, strict=True)
    protected = [ScriptedParticipant(tracker.new_account(minimum=60_000), clock) for _ in range(2)]
    for participant in protected:
        participant.put(55_000)
    assert tracker.statistics().counts.nobody_left == 1
    clock.advance(1.0)

    newcomer = ScriptedParticipant(tracker.new_account(), clock)
    with pytest.raises(MemoryReclaimed):
        newcomer.put(10)

    assert tracker.statistics().counts.rounds == 2
    assert newcomer.account.closed


@pytest.mark.parametrize("how", ["release", "close", "drop"])
def test_usage_that_fell_meanwhile_grows_from_where_it_fell_to(how: str) -> None:
    """P3, P4: that a round found nobody when far more was used does not keep the next one away."""
    clock = FakeClock()
    tracker = Tracker(100_000, clock=clock)
    gone = ScriptedParticipant(tracker.new_account(minimum=120_000), clock)
    grows = ScriptedParticipant(tracker.new_account(minimum=60_000), clock, answer="partial", reentrant=True)
    for participant, pieces in ((gone, 12), (grows, 6)):
        for _ in range(pieces):
            participant.put(10_000)
    assert tracker.used == 180_000
    assert tracker.statistics().counts.victims == 0

    if how == "release":
        for _ in range(10):
            gone.get()
    elif how == "close":
        gone.account.close()
    else:
        gone.participation.destroy()
    for _ in range(5):
        clock.advance(1.0)
        grows.put(10_000)

    assert tracker.statistics().counts.victims == 1
    assert tracker.used <= 100_000


def test_usage_that_goes_up_and_down_a_little_starts_no_round_each_time() -> None:
    """P4: where nobody was left, every claim would look at all candidates for nothing."""
    clock = FakeClock()
    tracker = Tracker(100_000, clock=clock, strict=True)
    protected = ScriptedParticipant(tracker.new_account(minimum=200_000), clock)
    protected.put(100_000)

    for _ in range(50):
        protected.put(1_500)
        protected.participation.release(protected.items.pop()[1])

    assert tracker.statistics().counts.rounds == 1
