"""Who is the next one to go, among those whom one round may choose from."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from math import inf
from typing import Final

from .holdings import Holding, OwnHolding
from .judgement import judge
from .ledger import Ledger
from .steps import Offer, Survey
from .victims import CandidateIndex, Entry

__all__ = ["Candidates", "age_of", "may_go", "time_of"]

#: Candidates that are looked at in one hold of the lock, well below 1 ms.
_BATCH: Final = 256
#: Candidates that are surveyed in one step: below 1 ms with what asking them takes.
_SURVEYED: Final = 64


class Candidates:
    """The candidates of one round, in order; found out by surveys, one after another.

    Who comes after it was made is not among them, but a candidate of the next round.

    Args:
        ledger: The books.
        ranked: Whether a policy orders them, which needs the ages of all; else the index does: oldest data first.

    Attributes:
        scores: What the policy said of those that it ordered.
    """

    def __init__(self, ledger: Ledger, *, ranked: bool) -> None:
        self._ledger = ledger
        self._ranked = ranked
        self._newest_entry = ledger.sequence
        self._resting: set[Holding] = set()
        self.scores: dict[Holding, object] = {}
        self.begin()

    def begin(self) -> None:
        """Begin anew, with a survey of its own."""
        self._ledger.surveys += 1
        self.survey = self._ledger.surveys
        # Candidates up to here were looked at and passed over.
        self._cursor: Entry | None = None
        self._offered: deque[Holding] = deque()
        self._surveyed_all = False
        self._all_offered = False

    def next(self, index: CandidateIndex, missing: int) -> Holding | Survey | Offer | None:
        """The holding that is next in order and not asked yet, or what has to be done to know it; None for nobody.

        Args:
            index: The candidates.
            missing: How many bytes are still to be found with this one and those after it.
        """
        if self._ranked:
            return self._next_ranked(index)
        passed: list[Entry] = []
        found: Holding | Survey | None = None
        entries = index.behind(self._cursor)
        for entry in entries:
            if self._eligible(entry):
                holding = entry[3]
                found = holding if holding.surveyed_in == self.survey else self._survey_from(entry, entries, missing)
                break
            passed.append(entry)
            if len(passed) == _BATCH:
                found = Survey((), self.survey)
                break
        if len(passed) > 1:  # mostly it is the victim that was chosen, over which it is cheaper to go again
            self._cursor = passed[-1]
        for *_, holding in passed:
            if not holding.live or not holding.booked:
                self._ledger.unlist(holding)
        return found

    def _survey_from(self, first: Entry, following: Iterator[Entry], missing: int) -> Survey:
        """As many as will go if all are as old as their keys say, and the one after them: nobody is asked in vain then.

        A round that asks one at a time takes the lock twice for each.
        """
        asked = [first[3]]
        if missing > 0:
            missing -= first[3].booked
            for entry in islice(following, _SURVEYED - 1):  # mostly a few of them
                holding = entry[3]
                if holding.surveyed_in != self.survey and self._eligible(entry):
                    asked.append(holding)
                    if missing <= 0:
                        break
                    missing -= holding.booked
        return Survey(tuple(asked), self.survey)

    def _next_ranked(self, index: CandidateIndex) -> Holding | Survey | Offer | None:
        if not self._surveyed_all:
            entries = index.after(self._cursor, _SURVEYED)
            if entries:
                self._cursor = entries[-1]
                return Survey(
                    tuple(
                        entry[3] for entry in entries if entry[3].surveyed_in != self.survey and self._eligible(entry)
                    ),
                    self.survey,
                )
            self._surveyed_all = True
        while self._offered:
            entry = self._offered[0].entry
            if entry is not None and self._eligible(entry):
                return entry[3]
            self._offered.popleft()
        return None if self._all_offered else Offer(self.survey)

    def _eligible(self, entry: Entry) -> bool:
        _, _, number, holding = entry
        return (
            not holding.node.asked and number <= self._newest_entry and may_go(holding) and holding not in self._resting
        )

    def again(self, holding: Holding | None) -> None:
        """Look anew at those that were passed over; under a policy that one is the first again."""
        if not self._ranked:
            self._cursor = None
        elif holding is not None:
            self._offered.appendleft(holding)

    def surveyed(self, holding: Holding, answer: object, now: float) -> str | None:
        """Take an answer of `oldest_data` into the books. Returns a complaint where it was nonsense.

        What an account holds itself answers for itself; what is passed is not looked at.
        """
        if not holding.live or holding.entry is None:
            return None
        if isinstance(holding, OwnHolding):
            answer = holding.oldest()
        time, idle, silent, complaint = judge(holding, answer, now)
        holding.surveyed_in = self.survey
        holding.silent_since = holding.claims if silent else -1
        if idle:
            self._resting.add(holding)
        self._ledger.rekey(holding, time)
        if not self._ranked and self._cursor is not None and holding.entry < self._cursor:
            self._cursor = None  # older than it was known to be: may have been passed over
        return complaint

    def offered(self, ranked: list[tuple[Holding, object]]) -> None:
        """Take the next candidates in the policy's order, with their scores; none when all were handed over."""
        for holding, score in ranked:
            self._offered.append(holding)
            self.scores[holding] = score
        if not ranked:
            self._all_offered = True


def may_go(holding: Holding) -> bool:
    """Whether it holds something, in an account that is not protected."""
    node = holding.node  # what `live` asks is asked here: each candidate comes by several times
    return holding.booked > 0 and node.used > node.minimum and holding.ended is None and node.ended is None


def time_of(holding: Holding) -> float:
    """The time of a candidate's oldest data, as far as it is known."""
    return _entry_of(holding)[1]


def age_of(holding: Holding, now: float) -> float | None:
    """How old a candidate's oldest data is, in seconds; None where it is infinitely old or new."""
    time = time_of(holding)
    return now - time if abs(time) != inf else None


def _entry_of(holding: Holding) -> Entry:
    assert holding.entry is not None  # who holds something is a candidate
    return holding.entry
