"""The loop that runs rounds, shared by all reclaimers: the steps of the core, carried out with the lock free."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from threading import Thread
from typing import Any, Final, Literal, TypeAlias

from attrs import define

from memquota._core.holdings import Holding
from memquota._core.steps import Ask, Offer, Survey, Wait
from memquota._dry_run import area_of, candidate_of, oldest_of
from memquota._handles import Registration
from memquota._rounds import Rounds, Runner
from memquota.clock import monotonic, processor_time
from memquota.observe.log import log_callback_failure, log_participant
from memquota.participant import Reclaimed, ReclaimRequest

__all__ = ["Answers", "Pace", "Request", "ask_here", "call", "request", "requests_of", "start_thread", "steps"]

#: When a round lets others in, in seconds: the longest it computes at a stretch (promise P11) less its longest step.
_SLICE: Final = 0.003
#: A call of a participant that takes longer is worth a warning, in seconds.
_SLOW: Final = 0.05

#: "breathe": let others run, then go on. "wait": await one of the outstanding asks.
Pace: TypeAlias = Literal["breathe", "wait"]
#: A participation, its participant, and how many bytes are wanted of it.
Request: TypeAlias = "tuple[Registration, Any, int]"


@define
class Answers:
    """What the participants of one victim answered, added up."""

    collapsing: bool = False
    failure: str | None = None

    def fail(self, registration: Registration, text: str, *, trace: bool = False) -> None:
        """Note that a participant failed: its account collapses."""
        log_participant(registration.node.name, registration.label, text, trace=trace)
        if self.failure is None:
            self.failure = f"participant {registration.label} {text}"

    def take(self, registration: Registration, answer: object) -> None:
        """Note an answer; nonsense counts as a failure."""
        if answer is Reclaimed.COLLAPSING:
            self.collapsing = True
        elif answer is not Reclaimed.PARTIAL:
            if isinstance(answer, Coroutine):
                answer.close()  # never awaited: would warn when it is collected
            self.fail(registration, f"answered {type(answer).__name__} when it was asked for memory")


class _Turn:
    """How long a runner has computed since it let others in."""

    __slots__ = ("_computed", "_real")

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Others were let in."""
        self._real = monotonic()
        self._computed = processor_time()

    def over(self) -> bool:
        """Whether it is time to let others in."""
        # Who computed for that long has taken that long: mostly there is no need to ask the system, which costs more.
        return monotonic() - self._real > _SLICE and processor_time() - self._computed > _SLICE


def steps(rounds: Rounds, runner: Runner) -> Generator[Ask | Pace, None, None]:
    """Run rounds until none is due. Surveys itself; yields the asks that are to be made, and when to let others run."""
    turn = _Turn()
    while (step := rounds.next_step(runner)) is not None:
        match step:
            case Ask():
                yield step
            case Survey():
                _survey(rounds, runner, step, turn)
            case Offer():
                ranking = rounds.ranking_of(step.survey)
                while ranking.sort_some():
                    if turn.over():
                        yield "breathe"
                        turn.begin()
                rounds.offered(runner, ranking.hand_over())
            case Wait():
                yield "wait"
                turn.begin()
        if turn.over():
            yield "breathe"
            turn.begin()


def _survey(rounds: Rounds, runner: Runner, step: Survey, turn: _Turn) -> None:
    by_time = rounds.by_time
    answers: list[tuple[Holding, object]] = []
    found: list[tuple[Holding, float | None]] = []
    for holding in step.holdings:
        answer, area = None, None
        if isinstance(holding, Registration) and holding.participant is not None:
            told = _ask_age(rounds, runner, holding)
            if told is None:
                continue
            answer, area = told
        answers.append((holding, answer))
        if not by_time:
            found.append((holding, area))
        elif turn.over():
            break  # the others are asked for again, when others were let in
    rounds.surveyed(runner, answers)
    if not by_time and rounds.runner is runner:
        _add_to_ranking(rounds, step.survey, found)


def _add_to_ranking(rounds: Rounds, survey: int, found: list[tuple[Holding, float | None]]) -> None:
    now = rounds.books.now()
    ranking = rounds.ranking_of(survey)
    for holding, area in found:
        entry = holding.entry
        if entry is not None:
            ranking.add(holding, candidate_of(holding, entry[1], area, now))


def _ask_age(rounds: Rounds, runner: Runner, registration: Registration) -> tuple[object, float | None] | None:
    """What a participant says of its oldest data, and of its byte-seconds where the policy may want them.

    None where the participant is gone, or was detached.
    """
    participant = registration.target()
    if participant is None:
        rounds.vanished(registration)
        return None
    if runner.spares(registration, participant):  # what is known already stands in
        return registration.last_age(), None
    started = call_begins(rounds, runner, registration)
    try:
        answer = oldest_of(participant)
        area = None if rounds.by_time else area_of(participant, rounds.books.now())
    except Exception as error:
        text = f"raised {type(error).__name__} when it was asked for its age"
        log_participant(registration.node.name, registration.label, text, trace=True)
        rounds.detach(registration, text)
        return None
    finally:
        took = call_ends(runner, started)
    if took > rounds.timeout:
        rounds.detach(registration, f"took {took:.3f} s to name its age")
        return None
    if took > _SLOW:
        log_participant(registration.node.name, registration.label, f"took {took:.3f} s to name its age")
    return answer, area


def call_begins(rounds: Rounds, runner: Runner, registration: Registration, ask: Ask | None = None) -> float:
    """Note whom the runner calls, so that others can take over when it hangs. Returns the real time."""
    started = monotonic()
    runner.call = registration, ask, started + rounds.timeout
    return started


def call_ends(runner: Runner, started: float) -> float:
    """The call came back. Returns how long it took in seconds."""
    runner.call = None
    return monotonic() - started


def requests_of(rounds: Rounds, runner: Runner, ask: Ask, answers: Answers) -> list[Request]:
    """Whom to ask for what: each participant for its part of what is wanted of the account.

    What the account claimed itself collapses with it. The participant whose own claim runs the round is asked later
    unless it is reentrant, see `Runner.later`.
    """
    requests: list[Request] = []
    for holding in ask.holdings:
        booked = holding.booked
        if not holding.live or not booked or holding.pinned:
            continue
        if not isinstance(holding, Registration):
            answers.collapsing = True
            continue
        if holding.participant is None:  # still being made
            continue
        participant = holding.target()
        if participant is None:
            rounds.vanished(holding)
            continue
        holding.recall()
        wanted = min(booked, -(-ask.wanted * booked // max(ask.used, 1)))
        if runner.spares(holding, participant):
            answers.collapsing = True
            runner.later.append((holding, participant, request(rounds, ask, wanted, monotonic())))
        else:
            requests.append((holding, participant, wanted))
    return requests


def request(rounds: Rounds, ask: Ask, wanted: int, now: float) -> ReclaimRequest:
    """What is said to one of the participants of a victim, at a moment of real time."""
    return ReclaimRequest(ask.why, wanted, ask.newest, now + rounds.timeout)


def ask_here(rounds: Rounds, runner: Runner, ask: Ask) -> None:
    """Ask the participants of a victim in this thread, one after another."""
    answers = Answers()
    for registration, participant, wanted in requests_of(rounds, runner, ask, answers):
        if not registration.live:  # one that was asked before it has closed the account
            continue
        started = call_begins(rounds, runner, registration, ask)
        try:
            call(registration, participant, request(rounds, ask, wanted, started), answers)
        finally:
            took = call_ends(runner, started)
        if took > rounds.timeout:
            answers.fail(registration, f"took {took:.3f} s to answer when it was asked for memory")
        if rounds.runner is not runner:  # taken over meanwhile
            return
    rounds.settle(runner, ask, collapsing=answers.collapsing, failure=answers.failure)


def call(registration: Registration, participant: Any, what: ReclaimRequest, answers: Answers) -> None:
    """Ask one participant in this thread."""
    try:
        answers.take(registration, participant.reclaim(what))
    except Exception as error:
        answers.fail(registration, f"raised {type(error).__name__} when it was asked for memory", trace=True)


def start_thread(name: str, work: Callable[[], object]) -> bool:
    """Start a daemon thread. Logs and returns False where there can be none: too many, or the program is ending.

    Never under the lock: to start a thread is to wait for it, and finalizers may run in it that wait for the lock.
    """
    try:
        Thread(target=work, name=name, daemon=True).start()
    except RuntimeError:
        log_callback_failure("the start of a thread", name)
        return False
    return True
