"""The books driven by hand: handles without a tracker, and the loop of a round without locks or threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from memquota._core.accounts import open_account
from memquota._core.checks import check_books
from memquota._core.events import Event, RoundEnded
from memquota._core.graph import AccountNode
from memquota._core.holdings import CreditLine, Holding, OwnHolding
from memquota._core.ledger import Ledger
from memquota._core.limits import Limits
from memquota._core.reclamation import Round
from memquota._core.steps import Ask, Offer, Survey, Wait

#: More steps than any round of these tests takes.
_STEPS = 20_000


class Handle:
    """A handle as the shell has it: a credit line with its fast path, and what its owner was told."""

    def __init__(self, ledger: Ledger, holding: Holding) -> None:
        self.ledger = ledger
        self.holding = holding
        self.line = CreditLine()
        self.told = 0

    def claim(self, size: int, now: float = 0.0) -> bool:
        left = self.line._credit - size
        if left < 0:
            strained = self.ledger.claim(self.holding, self.line, size, now)
        else:
            self.line._credit = left
            strained = False
        self.told += size
        return strained

    def release(self, size: int) -> None:
        credit = self.line._credit + size
        if credit > self.line._cap:
            self.ledger.release(self.holding, self.line, size)
        else:
            self.line._credit = credit
        self.told = max(0, self.told - size)

    @property
    def credit(self) -> int:
        return max(0, self.line._credit)

    @property
    def in_use(self) -> int:
        return self.holding.booked - self.credit


class Member(Handle):
    """A participant with one handle, who answers a round as told.

    `age` is what it says of its oldest data. `answer` gets the ask; it returns "collapse", "partial", or what went
    wrong.
    """

    def __init__(self, ledger: Ledger, node: AccountNode, label: str = "member") -> None:
        holding = Holding(node, label)
        ledger.register(holding)
        super().__init__(ledger, holding)
        self.age: Any = None
        self.answer: Callable[[Ask], str] = lambda ask: "collapse"
        self.surveys = 0
        self.asks: list[Ask] = []


def ledger_of(
    limit: int | None = 1000, low_water: int | None = None, hard_limit: int | None = None, *, strict: bool = False
) -> Ledger:
    return Ledger("tracker", Limits(limit, low_water, hard_limit), strict=strict)


def account(
    ledger: Ledger,
    name: str = "account",
    parent: AccountNode | None = None,
    *,
    limit: int | None = None,
    hard_limit: int | None = None,
    minimum: int = 0,
    priority: int = 0,
) -> AccountNode:
    """An account below another one, or below the root."""
    limits = Limits(limit, None, hard_limit) if limit is not None or hard_limit is not None else None
    return open_account(ledger, name, parent or ledger.root, limits=limits, minimum=minimum, priority=priority)


def member(ledger: Ledger, name: str, size: int = 0, age: float = 0.0, **options: Any) -> Member:
    """A participant with an account of its own, whose data came in at `age`."""
    one = Member(ledger, account(ledger, name, **options), name)
    one.age = age
    if size:
        one.claim(size, age)
    return one


def round_about(
    ledger: Ledger,
    node: AccountNode | None = None,
    *,
    target: int | None = None,
    why: str = "its limit is passed",
    policy: str | None = None,
    now: float = 100.0,
) -> Round:
    return Round(ledger, node or ledger.root, target=target, why=why, policy=policy, now=now)


def answer_survey(one: Round, step: Survey, members: Iterable[Member], now: float) -> None:
    of = {who.holding: who for who in members}
    for holding in step.holdings:
        who = of.get(holding)
        if who is not None:
            who.surveys += 1
        one.surveyed(holding, who.age if who is not None else None, now)


def survey(one: Round, members: Iterable[Member], now: float = 100.0) -> Ask | Wait | RoundEnded:
    """Carry out a round by time up to a step that is no survey."""
    members = list(members)
    for _ in range(_STEPS):
        step = one.next(now)
        if not isinstance(step, Survey):
            assert not isinstance(step, Offer)
            return step
        answer_survey(one, step, members, now)
    raise AssertionError("the round surveys for ever")


def next_ask(one: Round, members: Iterable[Member], now: float = 100.0) -> Ask:
    step = survey(one, members, now)
    assert isinstance(step, Ask)
    return step


def answers_of(ask: Ask, members: Iterable[Member]) -> tuple[bool, str | None]:
    """What the members that are asked answer, added up as the shell does."""
    of = {who.holding: who for who in members}
    collapsing, failure = False, None
    for holding in ask.holdings:
        if not holding.live or not holding.booked:
            continue
        if isinstance(holding, OwnHolding):
            collapsing = True
        elif holding in of:
            of[holding].asks.append(ask)
            answer = of[holding].answer(ask)
            collapsing = collapsing or answer == "collapse"
            if answer not in ("collapse", "partial"):
                failure = failure or answer
    return collapsing, failure


def run(
    one: Round,
    members: Iterable[Member] = (),
    *,
    now: float = 100.0,
    key: Callable[[Holding, float], Any] = lambda holding, time: -time,
    hand: int = 2,
    check: bool = True,
) -> RoundEnded:
    """Carry a round out to its end, one victim at a time. With a policy, the largest key goes first."""
    members = list(members)
    found: dict[Holding, float] = {}
    queue: list[tuple[Holding, object]] | None = None
    number = 0
    for _ in range(_STEPS):
        step = one.next(now)
        match step:
            case Survey():
                if step.survey != number:
                    found, queue, number = {}, None, step.survey
                answer_survey(one, step, members, now)
                found.update((held, held.entry[1]) for held in step.holdings if held.entry is not None)
            case Offer():
                assert step.survey == number
                if queue is None:
                    rows = [(holding, key(holding, time)) for holding, time in found.items()]
                    queue = sorted(rows, key=lambda row: (-row[0].node.priority, row[1]), reverse=True)
                one.offered(queue[:hand])
                queue = queue[hand:]
            case Ask():
                collapsing, failure = answers_of(step, members)
                one.settle(step, collapsing=collapsing, failure=failure, now=now)
            case Wait():
                raise AssertionError("waits for an ask that nobody made")
            case RoundEnded():
                return step
            case _:
                raise AssertionError(f"{step!r} is no step")
        if check:
            check_books(one._ledger)
    raise AssertionError("the round does not end")


def give(who: Member, size: int | None = None) -> Callable[[Ask], str]:
    """An answer that frees so many bytes, or what is wanted, and lives on."""

    def answer(ask: Ask) -> str:
        who.release(min(who.told, ask.wanted if size is None else size))
        return "partial"

    return answer


def events_of(ledger: Ledger, kind: type[Event] = Event) -> list[Any]:
    """What happened since the last look, of one kind."""
    found = [event for event in ledger.events if isinstance(event, kind)]
    ledger.events.clear()
    return found
