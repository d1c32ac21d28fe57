"""Attacks on a tracker, simulated with a seed: the worlds that `benchmarks.policies` measures.

The tracker, its accounts and the participants are the real ones; only time is a `FakeClock`, and connections are not
sockets but queues whose peers read as the scenario says. The same seed gives the same world on any machine.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Final, TypeAlias

from attrs import frozen

from memquota import Account, MemoryReclaimed, Reclaimed, ReclaimRequest, Tracker
from memquota.observe import (
    AccountClosing,
    Event,
    RoundEnded,
    RoundOutcome,
    RoundStarted,
    VictimAsked,
    VictimOutcome,
    VictimSettled,
)
from memquota.policies import Policy
from memquota.reclaimers import Rounds, run_here
from memquota.testing import FakeClock, assert_books_balance

LIMIT: Final = 64 * 1024**2
LOW_WATER: Final = LIMIT * 3 // 4
#: How old the oldest data of an honest connection gets, in seconds. Only its ratio to the rates matters.
T: Final = 2.0
#: How many items the queue of an honest connection holds.
ITEMS: Final = 10
#: What attackers send in one piece, unless a scenario says otherwise; 3,000 of these fill the tracker.
PIECE: Final = LIMIT // 3000


class ToTheEnd:
    """Runs rounds as the inline reclaimer does, but never leaves a part to the next claim.

    Where the inline one pauses depends on the machine's speed, and the figures must not.
    """

    asynchronous = False

    def attach(self, rounds: Rounds) -> None:
        self._rounds = rounds

    def wake(self, claimer: object) -> None:
        run_here(self._rounds, claimer, to_the_end=True)  # type: ignore[arg-type]  # a holding, which has no public name

    def close(self) -> None:
        """Nothing runs by itself."""


class Connection:
    """The queue of one connection. It answers truly whoever its peer is: attackers attack by what they send and read.

    Args:
        account: Its account, which it keeps open.
        clock: The tracker's clock.
        on_lost: Called with it when it gave up everything.
    """

    reentrant = True  # it has no locks

    def __init__(self, account: Account, clock: FakeClock, on_lost: Callable[[Connection], None]) -> None:
        self.items: deque[tuple[float, int]] = deque()
        self.held = 0
        self.lost = False
        self._moments = 0.0
        self._clock = clock
        self._on_lost = on_lost
        self._account = account
        self._participation = account.register_participant(self)

    def put(self, size: int) -> bool:
        """Take an item in. Returns whether the connection is still there."""
        try:
            self._participation.claim(size)
        except MemoryReclaimed:
            return False
        now = self._clock()
        self.items.append((now, size))
        self.held += size
        self._moments += now * size
        return True

    def get(self) -> None:
        """The peer reads the oldest item."""
        time, size = self.items.popleft()
        self.held -= size
        self._moments -= time * size
        self._participation.release(size)

    def oldest_data(self) -> float | None:
        return self.items[0][0] if self.items else None

    def byte_seconds(self, now: float) -> float:
        return now * self.held - self._moments

    def reclaim(self, request: ReclaimRequest) -> Reclaimed:
        self.items.clear()
        self.held = 0
        self._moments = 0.0
        self.lost = True
        self._on_lost(self)
        return Reclaimed.COLLAPSING


#: Lets attackers into a world.
Attack: TypeAlias = "Callable[[World], None]"


@frozen(kw_only=True)
class Scenario:
    """Honest connections, and an attack on them.

    Attributes:
        attack: Lets the attackers into a world.
        duration: How long the attack goes on, in seconds.
        honest: How many honest connections there are.
        honest_bytes: What each of them holds.
        honest_age: How old the oldest data of each gets, in seconds.
    """

    attack: Attack
    duration: float
    honest: int = 50
    honest_bytes: int = 4 * PIECE
    honest_age: float = T


@frozen
class Outcome:
    """What became of it.

    Attributes:
        killed: Honest connections that were given up.
        attackers_killed: Attackers that were.
        peak: The largest usage over the limit.
        rounds: Rounds of reclamation.
    """

    killed: int
    attackers_killed: int
    peak: float
    rounds: int


class World:
    """A tracker, who lives on it, and what happens when."""

    def __init__(self, policy: str | Policy, seed: int) -> None:
        self.random = Random(seed)
        self.clock = FakeClock()
        # The timeout is in real time: nobody hangs here, and a busy machine must not make it look so.
        self.tracker = Tracker(LIMIT, policy=policy, reclaimer=ToTheEnd(), reclaim_timeout=60.0, clock=self.clock)
        self.honest: dict[Connection, None] = {}
        self.attackers: dict[Connection, None] = {}
        self.attackers_killed = 0
        self.largest_piece = 0
        self._agenda: list[tuple[float, int, float, Callable[[], bool]]] = []
        self._entered = 0

    def every(self, interval: float, action: Callable[[], bool], *, first: float | None = None) -> None:
        """Act again and again until the action returns False; first at a random moment of the next interval."""
        start = self.clock() + (self.random.random() * interval if first is None else first)
        self._entered += 1
        heappush(self._agenda, (start, self._entered, interval, action))

    def run(self, seconds: float) -> None:
        """Let everything happen that is due."""
        end = self.clock() + seconds
        agenda, clock = self._agenda, self.clock
        while agenda and agenda[0][0] < end:
            time, number, interval, action = heappop(agenda)
            clock.set(time)
            if action():
                heappush(agenda, (time + interval, number, interval, action))
        clock.set(end)

    def admit_honest(self, size: int, age: float) -> None:
        """An honest connection: items come in steadily, and each is read when it is that old."""
        piece = size // ITEMS
        connection = Connection(self.tracker.new_account("honest"), self.clock, self.honest.pop)
        self.honest[connection] = None
        self.largest_piece = max(self.largest_piece, piece)

        def step() -> bool:
            if connection.lost:
                return False
            if len(connection.items) == ITEMS:
                connection.get()
            return connection.put(piece)

        self.every(age / ITEMS, step)

    def attacker(self, piece: int, *, parent: Account | None = None, limit: int | None = None) -> Connection:
        """One more attacker, who will send in pieces of this size."""
        self.largest_piece = max(self.largest_piece, piece)
        account = self.tracker.new_account("attacker", parent=parent, limit=limit)
        connection = Connection(account, self.clock, self._attacker_lost)
        self.attackers[connection] = None
        return connection

    def _attacker_lost(self, connection: Connection) -> None:
        del self.attackers[connection]
        self.attackers_killed += 1


# --- attacks ----------------------------------------------------------------------------------------------------------


def bursts(rate: float, size: int = PIECE, sources: int = 0, limit: int | None = None) -> Attack:
    """Attackers who send one piece each and never read; the next one comes at once: `rate` bytes/s in all.

    Args:
        rate: Bytes/s.
        size: Of a piece, in bytes.
        sources: How many addresses they come from; each has an account above theirs. 0: each has its own.
        limit: The limit of an address's account.
    """

    def attack(world: World) -> None:
        parents = [world.tracker.new_account("source", limit=limit) for _ in range(sources)]

        def step() -> bool:
            parent = world.random.choice(parents) if parents else None
            world.attacker(size, parent=parent, limit=None if parents else limit).put(size)
            return True

        world.every(size / rate, step)

    return attack


def floods(rate: float, flooders: int, limit: int | None = None) -> Attack:
    """Flooders who send all the time, never read, and come back at once when they are cut off: `rate` in all."""

    def attack(world: World) -> None:
        for _ in range(flooders):
            _sender(world, PIECE * flooders / rate, PIECE, None, limit)

    return attack


def tricklers(count: int, each: int, age: float) -> Attack:
    """Attackers who hold up to `each` bytes and read just so fast that their oldest data is never older than `age`."""

    def attack(world: World) -> None:
        for _ in range(count):
            _sender(world, age * PIECE / each, PIECE, age, None)

    return attack


def _sender(world: World, interval: float, size: int, reads_after: float | None, limit: int | None) -> None:
    connection = world.attacker(size, limit=limit)

    def step() -> bool:
        nonlocal connection
        while reads_after is not None and connection.items and connection.items[0][0] <= world.clock() - reads_after:
            connection.get()
        if not connection.put(size):
            connection = world.attacker(size, limit=limit)
            connection.put(size)
        return True

    world.every(interval, step)


# --- a run ------------------------------------------------------------------------------------------------------------


def simulate(scenario: Scenario, policy: str | Policy, seed: int = 1) -> Outcome:
    """Let honest connections settle for T, then attack.

    Raises:
        AssertionError: The tracker did not keep what it promises.
    """
    world = World(policy, seed)
    audit = Audit(world)
    for _ in range(scenario.honest):
        world.admit_honest(scenario.honest_bytes, scenario.honest_age)
    world.run(1.1 * scenario.honest_age)
    scenario.attack(world)
    world.run(scenario.duration)
    audit.check()
    statistics = world.tracker.statistics()
    killed = scenario.honest - len(world.honest)
    world.tracker.close()
    return Outcome(killed, world.attackers_killed, statistics.peak / LIMIT, statistics.counts.rounds)


class Audit:
    """Watches that the tracker behaves under attack: rounds, victims, events, books."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: Counter[type[Event]] = Counter()
        self._last: VictimSettled | None = None
        self._wrong: list[str] = []  # a hook that raises is removed: nobody would hear
        world.tracker.subscribe(self._note)

    def _note(self, event: Event) -> None:
        self._seen[type(event)] += 1
        if isinstance(event, VictimSettled):
            self._last = event
            if event.outcome is not VictimOutcome.COLLAPSED:
                self._wrong.append(f"not as its participant answered: {event}")
        elif isinstance(event, RoundEnded):
            last = self._last
            if event.outcome is not RoundOutcome.DONE or event.used > event.target:
                self._wrong.append(f"not down to low water: {event}")
            if last is None or last.number != event.number or event.used + last.freed <= event.target:
                self._wrong.append(f"a victim beyond need: {last} in {event}")

    def check(self) -> None:
        """Check what can be checked when a run is over.

        Raises:
            AssertionError: Something was wrong, then or before.
            TrackerBroken: The books do not balance.
        """
        assert not self._wrong, self._wrong[0]
        world, seen = self._world, self._seen
        statistics = world.tracker.statistics()
        counts = statistics.counts
        assert seen[RoundStarted] == seen[RoundEnded] == counts.rounds, (seen, counts)
        assert seen[VictimAsked] == seen[VictimSettled] == counts.victims == counts.collapsed, (seen, counts)
        # Nothing else closes accounts here.
        assert seen[AccountClosing] == counts.victims, (seen, counts)
        assert statistics.peak <= LIMIT + world.largest_piece, statistics
        assert_books_balance(world.tracker, sum(connection.held for connection in [*world.honest, *world.attackers]))
