"""The order of a round whose policy judges everybody, made and freed a piece at a time."""

from __future__ import annotations

import pytest

from memquota import Tracker
from memquota._core.graph import AccountNode
from memquota._core.holdings import Holding
from memquota._core.victims import Candidate
from memquota._ranking import Ranking
from memquota.testing import FakeClock, ScriptedParticipant

NODE = AccountNode("account", ())
MANY = 1500  # more than two pieces


def candidate(size: int, age: float = 0.0) -> Candidate:
    return Candidate("account", 0.0, age, size, 0.0, 0)


def handed_over(ranking: Ranking) -> list[Holding]:
    while ranking.sort_some():
        pass
    found: list[Holding] = []
    while rows := ranking.hand_over():
        found += [holding for holding, _ in rows]
    return found


def test_the_order_is_the_policys_over_all_pieces_and_who_came_first_goes_first_among_equals() -> None:
    holdings = [Holding(NODE, str(number)) for number in range(MANY)]
    ranking = Ranking(1, lambda one: one.bytes)
    for number, holding in enumerate(holdings):
        ranking.add(holding, candidate(number * 7 % 10))

    found = handed_over(ranking)

    numbers = sorted(range(MANY), key=lambda number: (-(number * 7 % 10), number))
    assert found == [holdings[number] for number in numbers]


@pytest.mark.parametrize("fails_at", [1, 700, MANY])
def test_a_policy_that_fails_in_any_piece_leaves_all_of_them_to_oldest_data(
    fails_at: int, caplog: pytest.LogCaptureFixture
) -> None:
    holdings = [Holding(NODE, str(number)) for number in range(MANY)]
    judged = 0

    def failing(one: Candidate) -> int:
        nonlocal judged
        judged += 1
        if judged == fails_at:
            raise RuntimeError("as it was told")
        return one.bytes

    ranking = Ranking(1, failing)
    for number, holding in enumerate(holdings):
        ranking.add(holding, candidate(number, age=float(number // 2)))

    found = handed_over(ranking)

    numbers = sorted(range(MANY), key=lambda number: (-(number // 2), number))
    assert found == [holdings[number] for number in numbers]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_what_a_round_leaves_behind_is_freed_in_pieces_with_the_lock_free() -> None:
    """P6 and P11: keys are foreign objects, whose finalizers may be anybody's code."""
    freed_under_lock: list[bool] = []

    class Key:
        def __init__(self, size: int) -> None:
            self.size = size

        def __lt__(self, other: Key) -> bool:
            return self.size < other.size

        def __del__(self) -> None:
            freed_under_lock.append(tracker._books._lock._is_owned())  # type: ignore[attr-defined]

    clock = FakeClock()
    tracker = Tracker(
        MANY * 10 - 1, low_water=MANY * 10 - 10, clock=clock, policy=lambda one: Key(one.bytes), strict=True
    )
    members = [ScriptedParticipant(tracker.new_account(), clock) for _ in range(MANY)]
    for member in members:
        member.put(10)
    # As many claims as it takes slices; the last one may be over when the round is not.
    while tracker.used > tracker.low_water or tracker._rounds.round is not None:
        members[1].put(1)
        members[1].get()
    left = MANY - len(freed_under_lock)
    for _ in range(MANY):
        tracker.statistics()

    assert left > 0
    assert len(freed_under_lock) == MANY
    assert not any(freed_under_lock)
