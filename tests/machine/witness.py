"""Listens to a tracker's events, and checks each decision against the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from memquota.observe import (
    AccountClosing,
    ClaimRefused,
    CloseKind,
    OverRelease,
    ParticipationEnded,
    RoundEnded,
    RoundOutcome,
    RoundStarted,
    VictimAsked,
    VictimOutcome,
    VictimSettled,
)
from tests.machine.model import Acc, Part

if TYPE_CHECKING:
    from tests.machine.world import World

CLOSED_AS = {
    VictimOutcome.COLLAPSED: CloseKind.RECLAIMED,
    VictimOutcome.FAILED: CloseKind.FAILED,
    VictimOutcome.STALLED: CloseKind.STALLED,
}


class Witness:
    """What was told of rounds, and whether it is right."""

    def __init__(self, world: World) -> None:
        self.world = world
        # The round that runs, when it started in stamps of the world, and whose limit it is about.
        self.round: RoundStarted | None = None
        self.since = 0
        self.scope: Acc | None = None
        self.target: int | None = None
        self.freed = 0
        self.settled = 0
        # The victim that is being asked, what its participants answered, and whether it had claims of its own.
        self.victim: Acc | None = None
        self.answers: list[str] = []
        self.own = False
        self.first = True
        # Whether somebody used the tracker in the middle of the round, or it was begun in another step.
        self.meddled = False
        # Accounts that their minimum protected when the round began: passed over then, whatever they claim meanwhile.
        self.protected: set[Acc] = set()
        self.outcomes: dict[str, RoundOutcome] = {}
        self.too_little: dict[Acc, int] = {}
        self.asked: dict[Acc, int] = {}
        self.names: list[str] = []
        self.totals = {"rounds": 0, "victims": 0, "freed": 0, "refused": 0, "detached": 0, "over": 0, "nobody": 0}

    def heard(self, event: Any) -> None:
        match event:
            case RoundStarted():
                self._started(event)
            case VictimAsked():
                self._asked(event)
            case VictimSettled():
                self._settled(event)
            case RoundEnded():
                self._ended(event)
            case ClaimRefused():
                self.totals["refused"] += 1
            case ParticipationEnded():
                self.totals["detached"] += 1
            case OverRelease():
                self.totals["over"] += 1
                assert not self.world.strict
            case AccountClosing():
                acc = self.find(event.account)
                if acc is not None:
                    assert acc.ended is None, "told twice that it closed"
                    acc.ended = event.reason
                    self.world.closings.append((acc, event.reason))
            case _:
                pass

    def find(self, name: str) -> Acc | None:
        return next((acc for acc in self.world.accs if acc.name == name), None)

    def _started(self, event: RoundStarted) -> None:
        world = self.world
        assert self.round is None, "two rounds at once"
        self.round = event
        world.stamp += 1
        self.since = world.stamp
        self.scope = self.find(event.scope)
        self.freed = self.settled = 0
        self.first, self.meddled = True, False
        self.protected = {acc for acc in world.accs if acc.minimum and world.used(acc) <= acc.minimum}
        self.asked.clear()
        self.totals["rounds"] += 1
        assert event.number == self.totals["rounds"]
        assert event.used >= world.used(self.scope)
        if event.why == "its limit is passed":
            assert event.limit is not None
            assert event.used > event.limit
            self.target = None
        else:
            assert self.scope is None
            self.target = self.world.wanted
            assert event.target == self.present_target()

    def present_target(self) -> int:
        if self.target is not None:
            return self.target
        return self.scope.low_water if self.scope is not None else self.world.tracker.low_water

    def _asked(self, event: VictimAsked) -> None:
        """P10, P12: nobody beyond need, in the policy's order, and the numbers are right."""
        world = self.world
        acc = self.find(event.account)
        assert acc is not None
        assert acc.ended is None
        assert self.victim is None, "two asks at once"
        self.victim = acc
        self.answers = []
        inside = world.below(acc)
        self.own = any(one.own for one in inside if one.ended is None)
        if self.scope is not None:
            assert acc in world.below(self.scope)
        used = self.reported()
        if used is not None:
            missing = used - self.present_target()
            assert missing > 0, "asked beyond need"
            assert event.bytes_wanted == min(missing, event.used)
        assert event.used >= world.used(acc)
        assert event.used > acc.minimum
        self._check_order(event, acc)
        self.first = False
        self.asked[acc] = self.asked.get(acc, 0) + 1
        assert self.asked[acc] <= 64 * 45  # a 64th of what is missing each time, however much that is
        self.names.append(acc.name)

    def reported(self) -> int | None:
        """What the scope of the round is said to hold; None when its handle is gone."""
        if self.scope is None:
            return self.world.tracker.used
        return self.scope.api.used if self.scope.api is not None else None

    def others(self, inside: Iterable[Acc]) -> list[Part]:
        """Those who were candidates all the time since the round began, are honest, and are not being asked."""
        world = self.world
        below = world.below(self.scope) if self.scope is not None else None
        return [
            part
            for part in world.parts
            if part.live
            and part.honest
            and part.full_since < self.since
            and part.acc not in inside
            and part.acc.changed < self.since
            and (below is None or part.acc in below)
            and part.acc not in self.protected
            and (not part.acc.minimum or world.used(part.acc) > part.acc.minimum)
        ]

    def _check_order(self, event: VictimAsked, acc: Acc) -> None:
        world = self.world
        others = self.others(world.below(acc))
        if world.policy != "oldest_data":  # who had its turn has another one when all had theirs
            others = [part for part in others if not self.asked.keys() & set(part.acc.above())]
        for part in others:
            assert part.acc.priority >= acc.priority or self.meddled
        rivals = [part for part in others if part.acc.priority == acc.priority]
        if world.policy == "oldest_data":
            if event.age is not None and not world.backwards:
                oldest = event.when - event.age
                for part in rivals:
                    assert part.oldest >= oldest or part.lied, "somebody else has older data"
        elif self.first and not self.meddled and not callable(world.policy):
            for part in rivals:
                age = max(0.0, event.when - part.oldest)
                key = part.told if world.policy == "largest" else part.told * age
                if part is not world.claimer:
                    assert key <= event.score  # type: ignore[operator]

    def _settled(self, event: VictimSettled) -> None:
        """P5: what an answer is worth, and whom it takes along."""
        world = self.world
        acc = self.find(event.account)
        assert acc is not None
        members = world.below(acc)
        outcome = event.outcome
        if self.victim is None:
            assert outcome is VictimOutcome.STALLED
        else:
            assert self.victim is acc
            self._check_verdict(acc, outcome)
        self.victim = None
        if outcome in CLOSED_AS:
            for one in members:
                assert one.ended is not None
                if one.ended.account == acc.name:
                    assert one.ended.kind is CLOSED_AS[outcome]
                    world.justified.add(one)
            assert acc.ended is not None
            assert acc.ended.account == acc.name
        elif outcome is VictimOutcome.PARTIAL:
            assert acc.ended is None or acc in world.justified
            if event.freed * 64 < event.bytes_wanted:
                self.too_little[acc] = self.too_little.get(acc, 0) + 1
        else:
            assert acc.ended is not None
        if outcome is VictimOutcome.STALLED:
            assert self.too_little.get(acc, 0) >= 2 or self.asked.get(acc, 0) >= 64
        self.freed += event.freed
        self.settled += 1
        self.totals["victims"] += 1
        self.totals["freed"] += event.freed

    def _check_verdict(self, acc: Acc, outcome: VictimOutcome) -> None:
        if outcome is VictimOutcome.GONE:
            return
        if "failure" in self.answers:
            assert outcome is VictimOutcome.FAILED
        elif "collapse" in self.answers or self.own:
            assert outcome is VictimOutcome.COLLAPSED
        elif outcome is VictimOutcome.COLLAPSED:
            claimer = self.world.claimer
            assert claimer is not None, "nobody said that it collapses"
            assert claimer.acc in self.world.below(acc)
            assert claimer.body is None or not claimer.body.reentrant
        else:
            assert outcome in (VictimOutcome.PARTIAL, VictimOutcome.STALLED)

    def _ended(self, event: RoundEnded) -> None:
        """P4: at or below the target, or with nobody left."""
        assert self.round is not None
        assert event.number == self.round.number
        assert event.scope == self.round.scope
        assert (event.freed, event.victims) == (self.freed, self.settled)
        if event.outcome is RoundOutcome.DONE:
            assert event.used <= event.target
            assert event.target == self.present_target()
        elif event.outcome is RoundOutcome.NOBODY_LEFT:
            self.totals["nobody"] += 1
            assert event.used > event.target
            left = [part for part in self.others(()) if not part.acc.minimum]
            assert not left or self.meddled, "there was somebody left to ask"
        self.outcomes[event.scope] = event.outcome
        if event.outcome is not RoundOutcome.CANCELLED:
            self.world.pending = False
        self.round = None
        self.victim = None
        self.scope = None

    def next_step(self) -> None:
        self.next_claim()
        self.names.clear()

    def next_claim(self) -> None:
        """Between two steps, and two claims of one step, anything may have changed for a round that pauses."""
        self.meddled = self.meddled or self.round is not None
