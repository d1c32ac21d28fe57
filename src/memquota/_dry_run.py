"""A dry run: who would be asked if a round ran now, and why."""

from __future__ import annotations

from collections.abc import Coroutine
from math import inf
from operator import itemgetter
from typing import Any, TypeVar

from memquota._core.holdings import Holding, OwnHolding
from memquota._core.judgement import judge
from memquota._core.plan import ReclaimPlan, plan
from memquota._core.victims import Candidate, Entry
from memquota._handles import Registration
from memquota._ranking import Ranking
from memquota._rounds import Rounds

__all__ = ["area_of", "candidate_of", "dry_run_of", "oldest_of"]

T = TypeVar("T")
_sequence = itemgetter(2)


def dry_run_of(rounds: Rounds, target: int | None) -> ReclaimPlan:
    """Survey everybody, order them by the policy, and take from the front until it is enough. Touches nothing.

    Cost:
        Asks every participant for its age; O(n log n). Holds the lock for O(n) twice, where n is their number.
    """
    ledger = rounds.books.ledger
    ranking = Ranking(0, rounds.policy)
    candidates: dict[Holding, Candidate] = {}
    entries = rounds.books.enter(_entries, rounds)
    if rounds.by_time:  # of one age, by sequence; other policies rank them as they are found
        entries.sort(key=_sequence)
    for *_, holding in entries:
        now = rounds.books.now()
        answer, area = _ask(holding, now)
        judged = judge(holding, answer, now)
        if not judged.idle:
            candidates[holding] = candidate_of(holding, judged.time, area, now)
            ranking.add(holding, candidates[holding])
    while ranking.sort_some():
        pass
    ordered: list[tuple[Holding, Candidate, object]] = []
    while handed := ranking.hand_over():
        ordered.extend((holding, candidates[holding], score) for holding, score in handed)
    return rounds.books.enter(
        plan, ledger, ledger.root_scope.limits.low_water if target is None else target, ordered, rounds.policy_name
    )


def _entries(rounds: Rounds) -> list[Entry]:
    return [entry for entry in rounds.books.ledger.root_scope.index if entry[3].live and entry[3].booked]


def _ask(holding: Holding, now: float) -> tuple[object, float | None]:
    """The age and byte-seconds that a participant names; what fails is very old, as it would be detached."""
    if isinstance(holding, OwnHolding):
        return holding.oldest(), holding.byte_seconds(now)
    assert isinstance(holding, Registration)
    participant = holding.target()
    if participant is None:
        return None, None
    try:
        return oldest_of(participant), area_of(participant, now)
    except Exception:
        return -inf, None


def oldest_of(participant: Any) -> object:
    """What a participant names as the time of its oldest data.

    Raises:
        Exception: What it raises, or TypeError when it answers with a coroutine.
    """
    # Lock: not held. Calls user code.
    answer = participant.oldest_data()
    return answer if type(answer) is float else _awaited_by_nobody(answer)


def area_of(participant: Any, now: float) -> float | None:
    """Its byte-seconds, if it keeps them.

    Raises:
        Exception: What it raises, or TypeError when it answers with a coroutine or its byte-seconds are no number.
    """
    # Lock: not held. Calls user code.
    if not hasattr(participant, "byte_seconds"):
        return None
    kept = float(_awaited_by_nobody(participant.byte_seconds(now)))
    return kept if kept == kept else None


def _awaited_by_nobody(answer: T) -> T:
    if isinstance(answer, Coroutine):
        answer.close()  # would warn when it is collected
        raise TypeError("only reclaim may be a coroutine function")
    return answer


def candidate_of(holding: Holding, time: float, area: float | None, now: float) -> Candidate:
    """What a policy gets to judge by. `area` is what the participant said of its byte-seconds, if it did."""
    age = max(0.0, now - time)
    size = holding.in_use()  # credit in hand is up to limit/32, many times what a small holder has
    if isinstance(holding, OwnHolding):
        area = holding.byte_seconds(now)
    if area is None:
        area = size * age if size else 0.0  # of infinite age, perhaps
    return Candidate(holding.node.name, time, age, size, area, holding.node.priority)
