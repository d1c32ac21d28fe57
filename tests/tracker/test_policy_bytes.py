"""What a policy judges by: what is really held, not what a handle keeps in hand."""

import pytest

from memquota import ReclaimPlan, Tracker
from memquota.observe import Event, VictimAsked
from memquota.observe.statistics import TrackerSnapshot
from memquota.policies import Candidate
from memquota.testing import FakeClock, ScriptedParticipant


def booked(snapshot: TrackerSnapshot) -> dict[str, int]:
    return {account.name: account.used for account in snapshot.accounts}


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_policy_judges_by_what_is_held_without_the_credit_of_the_handle(dry_run: bool) -> None:
    """P12: the bytes that a policy and a person see are those that the participant holds."""
    judged: dict[str, Candidate] = {}

    def policy(candidate: Candidate) -> int:
        judged[candidate.account] = candidate
        return candidate.bytes

    clock = FakeClock()
    tracker = Tracker("1MiB", policy=policy, clock=clock)
    events: list[Event] = []
    tracker.subscribe(events.append)
    small = ScriptedParticipant(tracker.new_account("small"), clock)
    large = ScriptedParticipant(tracker.new_account("large"), clock)
    other_handle = large.participation.clone()  # two handles: neither has credit
    small.put(1000)
    large.put(1500)
    clock.advance(2.0)
    assert booked(tracker.snapshot())["small"] > 1500  # with its credit

    plan = tracker.reclaim(1200, dry_run=True) if dry_run else tracker.reclaim(1200)

    assert (judged["small"].bytes, judged["small"].byte_seconds) == (1000, 2000.0)
    assert (judged["large"].bytes, judged["large"].byte_seconds) == (1500, 3000.0)
    first = [event.account for event in events if isinstance(event, VictimAsked)][:1]
    assert first == ([] if dry_run else ["large"])
    if isinstance(plan, ReclaimPlan):
        assert plan.victims[0].account == "large"
    assert isinstance(plan, ReclaimPlan) == dry_run
    other_handle.close()


@pytest.mark.parametrize("dry_run", [False, True])
def test_who_holds_nothing_but_credit_has_no_byte_seconds_however_old_it_counts(dry_run: bool) -> None:
    """F13: nothing times infinity is no number, and a policy of one's own need not know of those."""
    judged: list[float] = []

    def policy(candidate: Candidate) -> float:
        judged.append(candidate.byte_seconds)
        return candidate.byte_seconds

    clock = FakeClock()
    tracker = Tracker("1MiB", policy=policy, clock=clock)
    empty = ScriptedParticipant(tracker.new_account("empty"), clock, age="nan")
    empty.put(1000)
    empty.get()
    assert tracker.used > 0

    if dry_run:
        tracker.reclaim(0, dry_run=True)
    else:
        tracker.reclaim(0)

    assert judged == [0.0]
