"""What a round costs while an attack runs: `python -m benchmarks.reclamation`.

Half of the participants are honest: their heads move on every second. The others are attackers, who never read; they
come at a constant rate, and each is the oldest after four seconds. So low water holds four times what comes in while an
honest head waits, and nobody honest goes. The peers ask the same participants through the same weak references, with no
lock, no deadline, no care for what they answer, and do not ask for memory.
"""

import heapq
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from statistics import median
from time import thread_time
from typing import Any

from benchmarks.harness import Row, TimedLock, compared, measured, quiet, show, time_text
from memquota import Reclaimed, ReclaimRequest, Tracker
from memquota.testing import FakeClock

HEAD_LIFE = 1.0
ATTACKER_LIFE = 4.0
SIZE = 1000
VICTIMS = 10

#: The longest stretch of a round, in seconds, and the largest part of what asking all takes (design: 1/100).
STALL = 0.005
PART = 0.01


class Holder:
    """Holds some bytes that came in together."""

    __slots__ = ("__weakref__", "account", "head", "participation")

    def __init__(self, tracker: Tracker, now: float, size: int) -> None:
        self.head = now
        self.account = tracker.new_account("holder")
        self.participation = self.account.register_participant(self)
        self.participation.claim(size)

    def oldest_data(self) -> float:
        return self.head

    def reclaim(self, request: ReclaimRequest) -> Reclaimed:
        return Reclaimed.COLLAPSING


class Attack:
    """A tracker in the middle of an attack: at low water, as if it had been going on for long.

    Args:
        participants: How many there are, half of them attackers.
        policy: The policy of the tracker. For those that go by size honest participants are the smaller ones.
    """

    def __init__(self, participants: int, policy: str = "oldest_data") -> None:
        self.clock = FakeClock()
        self.honest_size = SIZE if policy == "oldest_data" else SIZE // 2
        self.honest: deque[Holder] = deque()
        self.attackers: deque[Holder] = deque()
        attackers = participants // 2
        self.calm = attackers * (self.honest_size + SIZE)
        limit, low_water = self.calm + VICTIMS * SIZE - 1, self.calm + SIZE // 2
        # Strict, so that what is booked is what is claimed and each round takes as many victims.
        self.tracker = Tracker(limit, low_water=low_water, policy=policy, clock=self.clock, strict=True)
        self.bystander = self.tracker.new_account("bystander")
        self.step = ATTACKER_LIFE / attackers
        # One of each in turn over the life of an attacker: so what the books know of the honest ones' ages is as old,
        # and as evenly spread, as if there had been rounds all the time.
        for _ in range(attackers):
            self.honest.append(Holder(self.tracker, self.clock(), self.honest_size))
            self.arrive()

    def arrive(self) -> float:
        """Let time pass until the next attacker comes. Returns the seconds of its claim, with the round it may run."""
        self.clock.advance(self.step)
        now = self.clock()
        while self.honest[0].head <= now - HEAD_LIFE:
            reader = self.honest.popleft()
            reader.participation.release(self.honest_size)
            reader.participation.claim(self.honest_size)
            reader.head = now
            self.honest.append(reader)
        started = thread_time()
        self.attackers.append(Holder(self.tracker, now, SIZE))
        return thread_time() - started

    def go_on(self) -> float:
        """Let a claim of somebody else go on with the round. Returns the seconds of that claim."""
        started = thread_time()
        self.bystander.claim(1)
        took = thread_time() - started
        self.bystander.release(1)
        return took

    def round(self) -> float:
        """Let attackers come until a round has run. Returns the seconds it took."""
        for _ in range(VICTIMS - 1):
            self.arrive()
        took = self.arrive()
        while self.tracker.used > self.calm:  # a busy machine: the round goes on with the next claim
            took += self.go_on()
        for _ in range(VICTIMS):
            assert self.attackers.popleft().account.closed
        return took

    def everybody(self) -> list[weakref.ref[Any]]:
        """Weak references to all participants, as the tracker has them."""
        return [weakref.ref(participant) for participant in (*self.honest, *self.attackers)]


def heap_of(references: list[weakref.ref[Any]]) -> list[Any]:
    """Ask all, build a heap, take the first ones."""
    heap = []
    for number, reference in enumerate(references):
        participant = reference()
        if participant is not None:
            heap.append((participant.oldest_data(), number, reference))
    heapq.heapify(heap)
    return [heapq.heappop(heap) for _ in range(VICTIMS)]


def sorted_of(references: list[weakref.ref[Any]]) -> list[Any]:
    """Ask all, sort them, take the first ones."""
    found = []
    for number, reference in enumerate(references):
        participant = reference()
        if participant is not None:
            found.append((participant.oldest_data(), number, reference))
    found.sort()
    return found[:VICTIMS]


def timed(function: Callable[[list[weakref.ref[Any]]], object], references: list[weakref.ref[Any]]) -> float:
    started = thread_time()
    function(references)
    return thread_time() - started


def attack_rows(participants: int) -> Iterator[Row]:
    """Rounds in the order of the index, in turn with their peers."""
    rounds: list[float] = []
    samples: list[float] = []
    heaps: list[float] = []
    sorts: list[float] = []
    with quiet():
        attack = Attack(participants)
        for _ in range(20):
            attack.round()
        for _ in range(7):
            some = [attack.round() for _ in range(30)]
            rounds += some
            samples.append(median(some))
            references = attack.everybody()
            heaps.append(timed(heap_of, references))
            sorts.append(timed(sorted_of, references))
        lock = TimedLock(attack.tracker)  # only now: it takes time itself
        for _ in range(30):
            attack.round()
        lock.stop()
    name = f"round of {VICTIMS} victims of {participants:,}"
    judged = participants == 100_000
    yield compared(name, samples, "heap of all", heaps, PART if judged else None)
    yield compared(name, samples, "sort of all", sorts)
    yield measured(f"{name}: the longest", max(rounds), STALL if judged else None, time_text)
    yield measured(f"{name}: hold of the lock", lock.longest, STALL if judged else None, time_text)


def survey_rows(participants: int, policy: str) -> Iterator[Row]:
    """A round that asks everybody, which one claim after another takes up: how long each of them is held up."""
    claims: list[float] = []
    with quiet():
        attack = Attack(participants, policy)
        lock = TimedLock(attack.tracker)
        claims += [attack.arrive() for _ in range(VICTIMS)]
        while attack.tracker.statistics().counts.victims < VICTIMS:
            claims.append(attack.go_on())
        lock.stop()
        assert not any(holder.account.closed for holder in attack.honest)
    name = f"round by {policy!r} of {participants:,}"
    yield measured(f"{name}: all of it", sum(claims), None, time_text)
    yield measured(f"{name}: longest stretch", max(claims), STALL, time_text)
    yield measured(f"{name}: hold of the lock", lock.longest, STALL, time_text)


def rows(full: bool = False) -> Iterator[Row]:
    """Every line about rounds; `full` with a million participants."""
    for participants in (1_000, 10_000, 100_000, *((1_000_000,) if full else ())):
        yield from attack_rows(participants)
    yield from survey_rows(100_000, "largest")


if __name__ == "__main__":
    show(rows)
