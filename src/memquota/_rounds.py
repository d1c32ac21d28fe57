"""The rounds of a tracker: one at a time, run by whoever took it, step by step."""

from __future__ import annotations

from collections import deque
from threading import get_ident
from typing import Any, Final, Protocol, TypeAlias

from attrs import define, field

from memquota._books import Books
from memquota._core.events import RoundEnded
from memquota._core.graph import AccountNode
from memquota._core.holdings import Holding
from memquota._core.reclamation import Round, may_start
from memquota._core.steps import Ask, Step, Survey
from memquota._core.victims import Policy, oldest_data
from memquota._handles import Registration
from memquota._latch import Latch
from memquota._ranking import Ranking, name_of
from memquota.clock import monotonic
from memquota.errors import TrackerClosed, UsageError
from memquota.observe.log import log_participant, logs_victims
from memquota.participant import ReclaimRequest

__all__ = ["Call", "Demand", "Later", "Reclaimer", "Rounds", "Runner"]

#: How long to wait for somebody to take a round, in seconds.
_SOON: Final = 0.0005


@define(eq=False)
class Demand:
    """A round that was asked for by hand."""

    target: int | None
    #: How the round ended.
    ended: RoundEnded | None = None
    #: Opened then. A signal handler may run the round while its thread waits here.
    bell: Latch = field(factory=Latch)
    thread: int = field(factory=get_ident)
    #: Whether nobody waits for it any more.
    withdrawn: bool = False


#: A call of a participant: of which, for which ask (None: for its age), and when it is due, in seconds of real time.
Call: TypeAlias = "tuple[Registration, Ask | None, float]"
#: A participation, its participant, and what it is to be asked later.
Later: TypeAlias = "tuple[Registration, Any, ReclaimRequest]"


class Runner:
    """Whoever runs the round. Tells what it is doing, so that others can take over from one that hangs."""

    __slots__ = ("_participant", "call", "claimer", "later", "left", "logs", "thread")

    def __init__(self, claimer: Holding | None = None) -> None:
        self.thread = get_ident()
        # The participation whose claim started the round: its owner may hold locks of his own. And its participant,
        # which may have other participations too.
        self.claimer = claimer
        self._participant = claimer.target() if isinstance(claimer, Registration) else None
        # Whether the log tells of each victim. Looked at here, as that takes locks of the log's.
        self.logs = logs_victims()
        # What it is doing; one value, so that others always see things that belong together.
        self.call: Call | None = None
        # Whether it was interrupted. Set before anything else is done about it, which may be interrupted too.
        self.left = False
        # Asks of the claimer itself, to be made when its claim has failed and its owner's locks may be free.
        self.later: list[Later] = []

    def spares(self, registration: Registration, participant: object) -> bool:
        """Whether it must not call this participant, which there is, because of whose claim it runs the round for."""
        if registration.reentrant:
            return False
        return registration is self.claimer or participant is self._participant

    def overdue(self) -> Call | None:
        """The call that it is in and that should be over, in another thread than this one."""
        call = self.call
        return call if call is not None and self.thread != get_ident() and monotonic() > call[2] else None


class Reclaimer(Protocol):
    """Who runs the rounds of one tracker: your own one has these methods, and runs `reclaimers.run_here(rounds)`."""

    #: Whether it can await a `reclaim` that is a coroutine function.
    asynchronous: bool

    def attach(self, rounds: Rounds) -> None:
        """Serve this tracker; called once.

        Raises:
            UsageError: It serves one already.
        """
        ...

    def wake(self, claimer: Holding | None) -> None:
        """A round is due. Called with no lock held by whoever noticed; `claimer` is the participation that claimed."""
        ...

    def close(self) -> None:
        """The tracker is closed or gone. May be called more than once, also by a finalizer: must not wait."""
        ...


class Rounds:
    """The present round of a tracker and who runs it; changed under the lock of the books.

    Args:
        books: The books.
        policy: Orders the candidates.
        reclaimer: Runs the rounds.
        timeout: How long a call of a participant may take, in seconds of real time.
    """

    def __init__(self, books: Books, policy: Policy, reclaimer: Reclaimer, timeout: float) -> None:
        self.books = books
        self.reclaimer = reclaimer
        self.policy = policy
        self.timeout = timeout
        self.by_time = policy is oldest_data
        self.policy_name = name_of(policy)
        self.round: Round | None = None
        self.runner: Runner | None = None
        self.demands: deque[Demand] = deque()
        self._ranking: Ranking | None = None
        self._demand: Demand | None = None
        # How long the longest round took, in seconds of the tracker's clock.
        self.longest = 0.0
        self._started = 0.0
        self._orphaned = False
        # How many accounts were ever opened: names those that have none.
        self.opened = 0
        books.after_fork.append(self._after_fork)

    def relieve(self, claimer: Holding | None) -> None:
        """Have a round run if one is due and nobody runs it. With no lock held."""
        # Without the lock, yet never wrong about what this thread just did: a runner looks again before it leaves.
        if (self.round is not None or self.demands or self.books.ledger.strained) and not self.taken():
            self.reclaimer.wake(claimer)

    def run_by_hand(self, demand: Demand) -> RoundEnded | None:
        """Have a round run that was asked for by hand; see `Tracker.reclaim`."""
        runner = self.runner
        mine = runner is not None and not runner.left and runner.thread == get_ident()
        if mine and not self.reclaimer.asynchronous:
            raise UsageError("a round cannot be asked for in the middle of a round")
        try:
            # Where nobody waits for it, one that has not begun yet does as well.
            waiting = tuple(self.demands) if self.reclaimer.asynchronous else ()
            if all(other.target != demand.target for other in waiting):
                self.demands.append(demand)
            self.relieve(None)
            while not self.reclaimer.asynchronous:
                # It stopped after a slice, or a thread starts; or somebody else runs a round, who may hang.
                demand.bell.wait(_SOON if self.runner is None else self.timeout / 8)
                if demand.ended is not None:
                    return demand.ended
                if self.books.closed:
                    raise TrackerClosed("the tracker was closed before the round")
                self.relieve(None)
        except BaseException:
            demand.withdrawn = True  # first, as the rest may fail too
            self.books.soon(self._withdraw, demand)
            raise
        return None

    def _withdraw(self, demand: Demand) -> None:
        # Lock: held, so that whoever begins a round finds the demand that it looked at.
        if demand in self.demands:
            self.demands.remove(demand)
        elif self._demand is demand:
            if self.round is None:
                self._demand = None
            else:  # its own
                self.round.called_off = True

    def awaited_here(self) -> bool:
        """Whether this thread waits for a round that it asked for by hand."""
        return any(demand is not None and demand.thread == get_ident() for demand in (*self.demands, self._demand))

    def taken(self) -> bool:
        """Whether somebody runs the round already, and is not overdue."""
        runner = self.runner
        return runner is not None and not runner.left and runner.overdue() is None

    # --- taking and leaving -------------------------------------------------------------------------------------------

    def take(self, runner: Runner) -> bool:
        """Become who runs the round, if there is one to run and nobody else does; or in place of one who hangs."""
        if self.taken():
            return False
        return self.books.enter(self._take, runner, self.books.now())

    def _take(self, runner: Runner, now: float) -> bool:
        present = self.runner
        if self._orphaned or (present is not None and present.left):
            if self.round is not None:
                self._finish(self.round.cancel(now))
        elif present is not None:
            call = present.overdue()
            if call is None or self.round is None:  # it came back in this very moment, and will report
                return False
            self._fail(self.round, call, now)
        if self.round is None and not self._choose(now):
            self.runner = None
            return False
        self.runner = runner
        return True

    def _fail(self, current: Round, call: Call, now: float) -> None:
        """Settle a call that hangs as failed; what its thread reports later is not heard."""
        registration, ask, _ = call
        text = f"did not answer within {self.timeout} s"
        if ask is None:
            self._detach(registration, f"oldest_data {text}")
        else:
            current.heard = True
            failure = f"participant {registration.label} {text}"
            current.settle(ask, collapsing=True, failure=failure, now=now)

    def pause(self, runner: Runner) -> None:
        """Leave the round as it is; the next claim goes on with it."""
        self.books.enter(self._leave, runner)

    def _leave(self, runner: Runner) -> None:
        if self.runner is runner:
            self.runner = None

    def abandon(self, runner: Runner) -> None:
        """End the round where it is, because its runner is interrupted. The next claim starts a new one."""
        self.books.enter(self._abandon, runner, self.books.now())

    def _abandon(self, runner: Runner, now: float) -> None:
        if self.runner is runner:
            if self.round is not None:
                self._finish(self.round.cancel(now))
            self.runner = None

    def _after_fork(self) -> None:
        """In a child process nobody runs the round; the next claim starts anew. Who waits elsewhere is not there."""
        self.runner = None
        self._orphaned = self.round is not None
        self.demands = deque(demand for demand in self.demands if demand.thread == get_ident())

    # --- steps --------------------------------------------------------------------------------------------------------

    def next_step(self, runner: Runner) -> Step | None:
        """What its runner has to do next; None when all rounds are over or somebody else has taken it over."""
        return self.books.enter(self._next_step, runner, self.books.now())

    def _next_step(self, runner: Runner, now: float) -> Step | None:
        if self.runner is not runner or self.round is None:
            return None
        self.round.heard = runner.logs or bool(self.books.hooks.entries)
        step = self.round.next(now)
        if not isinstance(step, RoundEnded):
            return step
        self._finish(step)
        if not self._choose(now):
            self.runner = None
            return None
        return Survey((), 0)

    def _choose(self, now: float) -> bool:
        """Begin the next round, if one is due: about inner accounts first, then outer ones, the tracker at last."""
        ledger = self.books.ledger
        if self._demand is not None:  # an exception from outside came before its round began or after it ended
            self.demands.appendleft(self._demand)
            self._demand = None
        due: AccountNode | None = None
        for node in list(ledger.strained):
            if node.scope is None or not node.scope.limits.over(node.used):
                del ledger.strained[node]
            elif may_start(ledger, node) and (due is None or len(node.scoped()) > len(due.scoped())):
                due = node  # what is below another one is below more limits than that
        target: int | None = None
        why = "its limit is passed"
        if due is None:
            while self.demands and self.demands[0].withdrawn:
                del self.demands[0]
            if not self.demands:
                return False
            self._demand = self.demands[0]
            del self.demands[0]
            due, target, why = ledger.root, self._demand.target, "asked for by hand"
        self._started = now
        policy = None if self.by_time else self.policy_name
        self.round = Round(ledger, due, target=target, why=why, policy=policy, now=now)
        return True

    def _finish(self, ended: RoundEnded) -> None:
        self.round = None
        self._orphaned = False
        self._retire_ranking()
        self.longest = max(self.longest, ended.when - self._started)
        if self._demand is not None:
            self._demand.ended = ended
            self._demand.bell.open()
            self._demand = None

    def surveyed(self, runner: Runner, answers: list[tuple[Holding, object]]) -> None:
        """Take the answers of a survey into the books."""
        for holding, complaint in self.books.enter(self._surveyed, runner, answers, self.books.now()):
            if isinstance(holding, Registration):
                log_participant(holding.node.name, holding.label, complaint)

    def _surveyed(self, runner: Runner, answers: list[tuple[Holding, object]], now: float) -> list[tuple[Holding, str]]:
        complaints: list[tuple[Holding, str]] = []
        if self.runner is runner and self.round is not None:
            for holding, answer in answers:
                complaint = self.round.surveyed(holding, answer, now)
                if complaint is not None:
                    complaints.append((holding, complaint))
        return complaints

    def ranking_of(self, survey: int) -> Ranking:
        """The order of what a survey found; outlives the runner that began it."""
        ranking = self._ranking
        if ranking is None or ranking.survey != survey:
            self._retire_ranking()
            self._ranking = ranking = Ranking(survey, self.policy)
        return ranking

    def _retire_ranking(self) -> None:
        ranking, self._ranking = self._ranking, None
        if ranking is not None:
            self.books.spent += ranking.pieces()

    def offered(self, runner: Runner, ranked: list[tuple[Holding, object]]) -> None:
        """Hand over the next candidates in the policy's order."""
        self.books.enter(self._offered, runner, ranked)

    def _offered(self, runner: Runner, ranked: list[tuple[Holding, object]]) -> None:
        if self.runner is runner and self.round is not None:
            self.round.offered(ranked)

    def settle(self, runner: Runner, ask: Ask, *, collapsing: bool, failure: str | None) -> None:
        """Take a victim's answer into the books."""
        self.books.enter(self._settle, runner, ask, collapsing, failure, self.books.now())

    def _settle(self, runner: Runner, ask: Ask, collapsing: bool, failure: str | None, now: float) -> None:
        if self.runner is runner and self.round is not None:
            self.round.heard = runner.logs or bool(self.books.hooks.entries)
            self.round.settle(ask, collapsing=collapsing, failure=failure, now=now)

    def detach(self, registration: Registration, why: str) -> None:
        """End the participation of a participant that failed when it was asked for its age."""
        self.books.enter(self._detach, registration, why)

    def _detach(self, registration: Registration, why: str) -> None:
        self.books.ledger.detach(registration, why)
        registration.cut()

    def vanished(self, registration: Registration) -> None:
        """End the participation of a participant that died."""
        self.books.enter(self._vanished, registration)

    def _vanished(self, registration: Registration) -> None:
        self.books.ledger.end(registration, "its participant is gone")
        registration.cut()
