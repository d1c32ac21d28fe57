"""The order of a round whose policy judges everybody: the policy's keys, sorted a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from itertools import islice
from math import inf
from typing import Any, Final

from memquota._core.holdings import Holding
from memquota._core.victims import Candidate, Policy
from memquota._handles import number_text
from memquota.observe.log import log_callback_failure

__all__ = ["Ranking", "name_of"]

#: Candidates that are sorted in one go: below 1 ms.
_CHUNK: Final = 512
#: Candidates that are handed over in one go.
_HAND: Final = 16
#: Integers of more bits than these are described, not spelled out.
_SPELLED: Final = 128


class _Reversed:
    """Turns the order of a key of any type around. Numbers beside it are negative, which is the same."""

    __slots__ = ("key",)

    def __init__(self, key: Any) -> None:
        self.key = key

    def __lt__(self, other: Any) -> bool:
        return bool((other.key if isinstance(other, _Reversed) else -other) < self.key)

    def __gt__(self, other: float) -> bool:
        return bool(self.key < -other)


class Ranking:
    """What one survey found, in the order of a policy. Runs the policy, so never used under the lock, nor freed there.

    A policy that raises, or whose keys cannot be compared, is logged; oldest data first orders this survey then. A key
    of NaN comes last.
    """

    def __init__(self, survey: int, policy: Policy) -> None:
        self.survey = survey
        self._policy = policy
        # What is not sorted yet, and what is, in pieces.
        self._found: list[tuple[Holding, Candidate]] = []
        self._chunks: list[list[tuple[Any, ...]]] = []
        self._order: Iterator[tuple[Any, ...]] | None = None

    def add(self, holding: Holding, candidate: Candidate) -> None:
        """Take a candidate in."""
        self._found.append((holding, candidate))

    def sort_some(self) -> bool:
        """Sort the next piece. Returns whether there is more to do before `hand_over`."""
        found = self._found[-_CHUNK:]
        if not found:
            return False
        try:
            chunk = sorted(self._keyed(found, len(self._found) - len(found)))
        except Exception:
            self._fall_back()
            return True
        self._chunks.append(chunk)
        del self._found[-_CHUNK:]
        return True

    def hand_over(self) -> list[tuple[Holding, object]]:
        """The next candidates with their keys, as text where they are no numbers; none when all were handed over."""
        if self._order is None:
            self._order = merge(*self._chunks)
        try:
            return [(row[3], row[4]) for row in islice(self._order, _HAND)]
        except Exception:
            self._fall_back()
            while self.sort_some():
                pass
            return self.hand_over()

    def pieces(self) -> list[object]:
        """What it is made of, in pieces that are freed in no time each. It is of no use afterwards."""
        self._order = None
        starts = range(0, len(self._found), _CHUNK)
        return [*self._chunks, *(self._found[start : start + _CHUNK] for start in starts)]

    def _keyed(self, found: list[tuple[Holding, Candidate]], start: int) -> Iterator[tuple[Any, ...]]:
        for number, (holding, candidate) in enumerate(found, start):
            key: Any = self._policy(candidate)
            rank: Any
            if isinstance(key, float):
                key = float.__pos__(key)  # not a subclass any more, whose code would run elsewhere
                rank = -key if key == key else inf
            elif isinstance(key, int):
                key = int.__pos__(key)
                rank = -key
                if key.bit_length() > _SPELLED:
                    key = number_text(key)
            else:
                rank = _Reversed(key)
                key = str.__str__(str(key))  # likewise: what it answers may be a subclass
            # The number differs: holdings are never compared.
            yield candidate.priority, rank, number, holding, key, candidate

    def _fall_back(self) -> None:
        log_callback_failure("a policy, instead of which oldest data goes first,", name_of(self._policy))
        self._policy = _by_age
        self._found += [(row[3], row[5]) for chunk in reversed(self._chunks) for row in sorted(chunk, key=_number)]
        self._chunks = []
        self._order = None


def _number(row: tuple[Any, ...]) -> int:
    number: int = row[2]
    return number


def name_of(policy: Policy) -> str:
    """What a policy is called in explanations."""
    name = getattr(policy, "__name__", None)
    return name if type(name) is str else type(policy).__name__


def _by_age(candidate: Candidate) -> float:
    return candidate.age
