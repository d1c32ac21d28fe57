"""One round as a state machine: survey the ages, ask the victims, settle their answers.

`Round.next` says what is to be done, one step at a time. Whoever runs the round does it with the lock free and
reports; nothing of the round is lost when somebody else takes the next step.
"""

from __future__ import annotations

from math import inf
from typing import Final, TypeAlias

from .accounts import close_account
from .candidates import Candidates, age_of, may_go, time_of
from .events import (
    CloseKind,
    CloseReason,
    RoundEnded,
    RoundOutcome,
    RoundStarted,
    VictimAsked,
    VictimOutcome,
    VictimSettled,
)
from .graph import AccountNode, subtree
from .holdings import Holding
from .judgement import describe_age
from .ledger import Ledger
from .steps import Ask, Offer, Step, Survey, Wait

__all__ = ["Round", "may_start"]

#: A victim that gives back less than this part of what was asked, twice in a row, collapses.
_PROGRESS: Final = 64
#: After so many asks in one round an account must have become smaller by half of what it freed: bounds the round
#: against those who free and claim again.
_ASKS: Final = 64
#: After a round found nobody, usage has to grow by this part of the limit, from the least since, before another looks.
_GROWTH: Final = 64

#: How a victim answered, as what its account closes (None: it lives), and why in words.
_Verdict: TypeAlias = "tuple[VictimOutcome, CloseKind | None, str]"


def may_start(ledger: Ledger, node: AccountNode) -> bool:
    """Whether a round about this account has a chance: it is over its limit, and the last one did not just give up."""
    scope = node.scope
    if scope is None or node.ended is not None or not scope.limits.over(node.used):
        return False
    if scope.gave_up is None:
        return True
    used, version = scope.gave_up
    return version != ledger.version or node.used > used + scope.limits.bound // _GROWTH


class Round:
    """One round about one scope: from "over the limit" to "at or below low water" or "nobody left to ask".

    Args:
        ledger: The books.
        node: Whose limit it is about.
        target: Where it stops; None for the low water, read anew at each step.
        why: What started it.
        policy: The name of the policy in explanations; None for the order of the index: oldest data first.
        now: The time.

    Attributes:
        heard: Whether anybody listens to what victims are asked, and answer as they should. Where nobody does, events
            are made of the start, the end, and of what is worth a warning.
    """

    def __init__(
        self,
        ledger: Ledger,
        node: AccountNode,
        *,
        target: int | None,
        why: str,
        policy: str | None,
        now: float,
    ) -> None:
        assert node.scope is not None
        self.node = node
        self.ended: RoundEnded | None = None
        # Whether nobody wants it any more: it ends when those who were asked have answered.
        self.called_off = False
        self.heard = True
        self._ledger = ledger
        self._scope = node.scope
        self._target = target
        self._policy = policy
        ledger.counts.rounds += 1
        self.number = ledger.counts.rounds
        self._version = ledger.version  # whatever changes meanwhile is a reason for another round
        self._candidates = Candidates(ledger, ranked=policy is not None)
        self._progress = False  # in this pass over the candidates
        # The victim that was chosen, while it is found out who would be next.
        self._chosen: Holding | None = None
        self._chosen_members: list[AccountNode] = []
        self._outstanding: dict[Ask, None] = {}
        # How often an account was asked, what it held at first, and what it freed since.
        self._asks: dict[AccountNode, tuple[int, int, int]] = {}
        self._victims = 0
        self._freed = 0
        ledger.events.append(
            RoundStarted(self.number, node.name, why, node.used, self._scope.limits.limit, self.target, now)
        )

    @property
    def target(self) -> int:
        """The usage at which the round stops, in bytes."""
        return self._scope.limits.low_water if self._target is None else self._target

    @property
    def missing(self) -> int:
        """What has still to be found, in bytes: what victims were asked for and may still give is credited."""
        if self.called_off:
            return 0
        missing = self.node.used - self.target
        for ask in self._outstanding:
            if ask.victim.ended is None:
                missing -= min(ask.wanted, ask.victim.used)
        return missing

    # --- what is to be done -----------------------------------------------------------------------

    def next(self, now: float) -> Step:
        """The next step. O(victim's subtree) for an `Ask`, else bounded."""
        if self.ended is not None:
            return self.ended
        scope = self.node.scope
        if self.node.ended is not None or scope is None:
            self._unchoose()
            if self._outstanding:
                return Wait()
            # The account whose limit it is about may have been the victim itself: then all is as it should be.
            done = self.node.ended is not None and self.node.ended.kind.under_pressure
            return self._end(RoundOutcome.DONE if done else RoundOutcome.CANCELLED, now)
        self._scope = scope  # another one when its limits went and came back
        missing = self.missing
        if self._chosen is not None and (missing <= 0 or not may_go(self._chosen)):
            self._unchoose()
        if self._chosen is None:
            if missing <= 0:
                if self._outstanding:
                    return Wait()
                return self._end(RoundOutcome.CANCELLED if self.called_off else RoundOutcome.DONE, now)
            found = self._candidates.next(scope.index, missing)
            if isinstance(found, _QUESTIONS):
                return found
            if found is None:
                if self._outstanding:
                    return Wait()
                if self._policy is not None and self._progress:
                    self._candidates.begin()  # somebody gave part: all are ordered anew
                    self._progress = False
                    return self._let_in()
                return self._end(RoundOutcome.NOBODY_LEFT, now)
            if self._stalls(found):
                self._collapse_stalled(found.node, now)
                return self._let_in()
            self._choose(found)
        chosen = self._chosen
        assert chosen is not None
        following = self._candidates.next(scope.index, missing - chosen.node.used)
        if isinstance(following, _QUESTIONS):
            return following
        return self._ask(chosen, following, min(missing, chosen.node.used), now)

    def _let_in(self) -> Survey:
        return Survey((), self._candidates.survey)

    def _stalls(self, holding: Holding) -> bool:
        """Whether a victim that is next again gave too little twice in a row."""
        node = holding.node
        if node.too_little is not None:
            older_left = time_of(holding) <= node.too_little
            node.stalls = node.stalls + 1 if older_left else 0
            node.too_little = None
        return node.stalls >= 2

    def _collapse_stalled(self, node: AccountNode, now: float) -> None:
        text = f"twice in a row it gave back less than 1/{_PROGRESS} of what it was asked for"
        freed = close_account(self._ledger, node, CloseReason(CloseKind.STALLED, node.name, text, now))
        self._count(VictimOutcome.STALLED, freed)
        self._ledger.events.append(
            VictimSettled(self.number, node.name, VictimOutcome.STALLED, freed, freed, text, now)
        )

    def _choose(self, holding: Holding) -> None:
        self._chosen = holding
        self._mark(holding.node)

    def _mark(self, victim: AccountNode) -> None:
        members = [member for member in subtree(victim) if not member.asked]
        self._chosen_members += members
        for member in members:
            member.asked = True

    def _unchoose(self) -> None:
        for member in self._chosen_members:
            member.asked = False
        self._candidates.again(self._chosen)
        self._chosen = None
        self._chosen_members = []

    def _ask(self, chosen: Holding, following: Holding | None, wanted: int, now: float) -> Ask:
        victim = chosen.node
        self._mark(victim)  # accounts that came below it since it was chosen
        newest = inf
        if self._policy is None and following is not None and following.node.priority == victim.priority:
            newest = time_of(following)
        ask = Ask(
            victim=victim,
            chosen=chosen,
            members=self._chosen_members,
            holdings=[held for member in self._chosen_members for held in member.holdings or ()],
            why=self._why(chosen, now),
            used=victim.used,
            wanted=wanted,
            newest=newest,
            returned=victim.returned,
        )
        self._outstanding[ask] = None  # first: whatever tears this, `cancel` finds who is marked as being asked
        self._chosen = None
        self._chosen_members = []
        if self.heard:
            self._ledger.events.append(
                VictimAsked(
                    self.number,
                    victim.name,
                    ask.why,
                    age_of(chosen, now),
                    ask.used,
                    self._candidates.scores.get(chosen, (victim.priority, time_of(chosen))),
                    ask.wanted,
                    sum(1 for held in ask.holdings if held.live and held.booked),
                    None if following is None else following.node.name,
                    None if following is None else age_of(following, now),
                    now,
                )
            )
        return ask

    def _why(self, holding: Holding, now: float) -> str:
        age = describe_age(time_of(holding), now)
        if self._policy is None:
            return f"holds the oldest data: {age}"
        return f"first by {self._policy}: {self._candidates.scores.get(holding)}; its oldest data is {age}"

    # --- what was done ----------------------------------------------------------------------------

    def surveyed(self, holding: Holding, answer: object, now: float) -> str | None:
        """Take an answer of `oldest_data` into the books. Returns a complaint where it was nonsense."""
        return self._candidates.surveyed(holding, answer, now)

    def offered(self, ranked: list[tuple[Holding, object]]) -> None:
        """Take the next candidates in the policy's order, with their scores; none when all were handed over."""
        self._candidates.offered(ranked)

    def settle(self, ask: Ask, *, collapsing: bool, failure: str | None, now: float) -> None:
        """Take a victim's answer into the books.

        Args:
            ask: What was asked.
            collapsing: Whether a participant gave up everything, or the account had claims of its own.
            failure: What went wrong, if anything did: the account collapses.
            now: The time.
        """
        if ask not in self._outstanding:  # the round was cancelled meanwhile
            return
        victim = ask.victim
        for member in ask.members:
            member.asked = False
        del self._outstanding[ask]
        freed = victim.returned - ask.returned
        detail = failure or ""
        if victim.ended is not None:  # with an account above it, which counts what that freed, or by itself
            outcome, freed = VictimOutcome.GONE, 0 if victim.ended.kind.under_pressure else ask.used
        else:
            outcome, kind, detail = self._verdict(ask, collapsing, failure, freed)
            if kind is None:
                for holding in ask.holdings:
                    holding.surveyed_in = 0
                    holding.silent_since = -1
                self._candidates.again(
                    ask.chosen if victim.too_little is not None else None
                )  # then it is still the first
            else:
                reason = CloseReason(kind, victim.name, f"{ask.why}; {detail}", now)
                freed += close_account(self._ledger, victim, reason, told=self.heard)
        self._count(outcome, freed)
        if self.heard or outcome in _WARNED_OF:
            self._ledger.events.append(VictimSettled(self.number, victim.name, outcome, ask.wanted, freed, detail, now))
        self._ledger.sweep()  # while somebody is in the books anyway

    def _verdict(self, ask: Ask, collapsing: bool, failure: str | None, freed: int) -> _Verdict:
        victim = ask.victim
        if failure is not None:
            return VictimOutcome.FAILED, CloseKind.FAILED, failure
        if collapsing:
            return VictimOutcome.COLLAPSED, CloseKind.RECLAIMED, "gave up everything it held"
        if freed * _PROGRESS < ask.wanted:
            victim.too_little = ask.newest
        else:
            victim.too_little, victim.stalls = None, 0
        count, held, total = self._asks.get(victim, (0, ask.used, 0))
        count, total = count + 1, total + freed
        if count == _ASKS:
            if 2 * (held - victim.used) <= total:
                text = f"freed {total} bytes and claimed half of them or more again"
                return VictimOutcome.STALLED, CloseKind.STALLED, text
            count, held, total = 0, victim.used, 0
        self._asks[victim] = count, held, total
        return VictimOutcome.PARTIAL, None, f"gave back {freed} bytes"

    def _count(self, outcome: VictimOutcome, freed: int) -> None:
        counts = self._ledger.counts
        counts.victims += 1
        counts.bytes_reclaimed += freed
        if outcome is VictimOutcome.COLLAPSED:
            counts.collapsed += 1
        elif outcome is VictimOutcome.PARTIAL:
            counts.partial += 1
        elif outcome is VictimOutcome.FAILED:
            counts.failed += 1
        elif outcome is VictimOutcome.STALLED:
            counts.stalled += 1
        self._victims += 1
        self._freed += freed
        self._progress = self._progress or freed > 0

    def cancel(self, now: float) -> RoundEnded:
        """End the round where it is: nobody stays marked as being asked."""
        self._unchoose()
        for ask in self._outstanding:
            for member in ask.members:
                member.asked = False
        self._outstanding.clear()
        return self.ended or self._end(RoundOutcome.CANCELLED, now)

    def _end(self, outcome: RoundOutcome, now: float) -> RoundEnded:
        self._scope.gave_up = None
        if outcome is RoundOutcome.NOBODY_LEFT:
            self._ledger.counts.nobody_left += 1
            self._scope.gave_up = (self.node.used, self._version)
        self.ended = RoundEnded(
            self.number,
            self.node.name,
            outcome,
            self._victims,
            self._freed,
            self.node.used,
            self.target,
            now,
        )
        self._ledger.events.append(self.ended)
        return self.ended


#: What has to be known before anybody is asked.
_QUESTIONS: Final = (Survey, Offer)

#: How a victim answers that does not do as it should.
_WARNED_OF: Final = (VictimOutcome.FAILED, VictimOutcome.STALLED)
