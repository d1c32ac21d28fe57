"""Whatever tears a move, the books are put in order again, and nothing is under-counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from memquota._core.accounts import add_parent, close_account, open_account, reconfigure
from memquota._core.checks import check_books, rebuild
from memquota._core.events import CloseKind, CloseReason, RoundEnded
from memquota._core.graph import subtree
from memquota._core.holdings import Holding, OwnHolding
from memquota._core.ledger import Ledger
from memquota._core.limits import Limits
from memquota._core.steps import Ask, Survey
from memquota.errors import MemoryQuotaError
from tests.core.support import Handle, Member, account, ledger_of, member, round_about, run
from tests.core.tearing import torn

MIB = 1024 * 1024
WHY = CloseReason(CloseKind.CLOSED, "left", "closed by hand", 9.0)
ALL = CloseReason(CloseKind.TRACKER_CLOSED, "tracker", "the tracker was closed", 9.0)


class Sample:
    """root > top (limited) > left, right > both; alone; empty. With credit, own claims, a holding with two handles."""

    def __init__(self) -> None:
        self.ledger = ledger_of(32 * MIB)
        self.top = account(self.ledger, "top", limit=MIB)
        self.left = account(self.ledger, "left", self.top)
        self.right = account(self.ledger, "right", self.top, limit=MIB // 2, hard_limit=MIB // 2)
        self.who = member(self.ledger, "both", 100, age=1.0, parent=self.left)
        self.both = self.who.holding.node
        add_parent(self.ledger, self.both, self.right)
        self.beside = Member(self.ledger, self.both, "beside")
        self.beside.claim(30, 2.0)
        for time in (2.0, 3.0, 4.0):
            self.ledger.claim_own(self.left, 50, time)
        self.alone = member(self.ledger, "alone", 1000, age=4.0)
        self.pair = member(self.ledger, "pair", 70, age=5.0)
        self.ledger.add_handle(self.pair.holding, self.pair.line)
        self.second = Handle(self.ledger, self.pair.holding)
        self.second.claim(7)
        self.fresh = Member(self.ledger, self.both, "fresh")
        self.empty = account(self.ledger, "empty")
        self.lines = [self.who, self.beside, self.alone, self.pair, self.second, self.fresh]
        self.holdings: list[Holding] = [one.holding for one in self.lines]
        assert self.left.own is not None
        self.holdings.append(self.left.own)

    def in_use(self) -> dict[str, int]:
        """What each holding has in use; 0 when it is over."""
        credit: dict[Holding, int] = {}
        for one in self.lines:
            assert -1 <= one.line._credit <= max(one.line._cap, one.line._credit)
            credit[one.holding] = credit.get(one.holding, 0) + one.credit
        found = {
            f"{number} {holding.label}": holding.booked - credit.get(holding, 0) if holding.live else 0
            for number, holding in enumerate(self.holdings)
        }
        found["empty"] = self.empty.own.booked if self.empty.own is not None and self.empty.own.live else 0
        return found

    def places(self) -> dict[str, object]:
        """What else may be as before or as afterwards, and nothing between."""
        found: dict[str, object] = {}
        for number, holding in enumerate(self.holdings):
            found[f"{number} live"] = holding.live
            found[f"{number} handles"] = holding.handles
        for node in (self.top, self.left, self.right, self.both, self.empty, self.alone.holding.node):
            found[f"{node.name} parents"] = [parent.name for parent in node.parents]
            found[f"{node.name} limits"] = node.scope.limits if node.scope is not None else None
            found[f"{node.name} ended"] = node.ended
            found[f"{node.name} order"] = node.minimum, node.priority
        return found


Move = Callable[[Sample], object]


def close_and_sweep(s: Sample) -> None:
    close_account(s.ledger, s.left, WHY)
    s.ledger.sweep()


MOVES: dict[str, Move] = {
    "claim": lambda s: s.who.claim(20_000, 9.0),
    "claim under pressure": lambda s: s.alone.claim(31 * MIB, 9.0),
    "claim of a second handle": lambda s: s.second.claim(1, 9.0),
    "first claim": lambda s: s.fresh.claim(5, 9.0),
    "refused claim": lambda s: s.who.claim(MIB, 9.0),
    "release": lambda s: s.ledger.release(s.who.holding, s.who.line, 60),
    "over-release": lambda s: s.second.release(1000),
    "own claim": lambda s: s.ledger.claim_own(s.left, 11, 9.0),
    "own claim of the same moment": lambda s: s.ledger.claim_own(s.left, 11, 4.0),
    "first own claim": lambda s: s.ledger.claim_own(s.empty, 11, 9.0),
    "own release": lambda s: s.ledger.release_own(s.left, 120),
    "failed own claim": lambda s: s.ledger.release_own(s.left, 50, 3.0),
    "end": lambda s: s.ledger.end(s.who.holding, "destroyed"),
    "detach": lambda s: s.ledger.detach(s.alone.holding, "failed"),
    "second handle": lambda s: s.ledger.add_handle(s.alone.holding, s.alone.line),
    "close of one handle": lambda s: s.ledger.close_handle(s.pair.holding, s.pair.line),
    "close of the last handle": lambda s: s.ledger.close_handle(s.alone.holding, s.alone.line),
    "drop of the last handle": lambda s: s.ledger.drop_handle(s.who.holding),
    "registration": lambda s: s.ledger.register(Holding(s.empty)),
    "new account": lambda s: open_account(s.ledger, "new", s.empty, limits=Limits(5)),
    "parent instead of the tracker": lambda s: add_parent(s.ledger, s.alone.holding.node, s.right),
    "another parent": lambda s: add_parent(s.ledger, s.left, s.empty),
    "refused parent": lambda s: add_parent(s.ledger, s.top, s.both),
    "limits": lambda s: reconfigure(s.ledger, s.top, Limits(10), 3, 0),
    "limits that appear": lambda s: reconfigure(s.ledger, s.left, Limits(10), 0, 0),
    "limits that go": lambda s: reconfigure(s.ledger, s.right, None, 0, 0),
    "priority": lambda s: reconfigure(s.ledger, s.both, None, 0, 6),
    "close": lambda s: close_account(s.ledger, s.left, WHY),
    "close of the whole": lambda s: close_account(s.ledger, s.ledger.root, ALL),
    "resurvey": lambda s: s.ledger.resurvey(s.who.holding),
    "sweep": close_and_sweep,
}


def do(move: Move, sample: Sample) -> None:
    try:
        move(sample)
    except MemoryQuotaError:
        pass


@pytest.mark.parametrize("name", MOVES)
def test_a_torn_move_is_done_or_not_done_and_never_under_counted(name: str) -> None:
    """P1, F42: a claim that did not happen may at most stay booked as a whole; a release that began may not count."""
    move = MOVES[name]
    before, after = Sample(), Sample()
    do(move, after)
    point = 0
    while True:
        sample = Sample()
        was_torn = torn(lambda sample=sample: do(move, sample), point)  # type: ignore[misc]
        rebuild(sample.ledger)

        check_books(sample.ledger)
        now, old, new = sample.in_use(), before.in_use(), after.in_use()
        for key in now:
            assert min(old[key], new[key]) <= now[key] <= max(old[key], new[key])
            if not key.endswith("?"):  # what participants claim moves as a whole
                assert now[key] in (old[key], new[key])
        places, old_places, new_places = sample.places(), before.places(), after.places()
        for key in places:
            assert places[key] in (old_places[key], new_places[key])
        assert_announced(sample)
        assert_goes_on(sample)
        if not was_torn:
            break
        point += 1
    assert point > 1


def assert_announced(sample: Sample) -> None:
    """Who is over is told so, by those who wait for the lock."""
    for node in subtree(sample.top):
        assert (node.ended is not None) == (node in sample.ledger.ended) == (node not in sample.ledger.accounts)


def assert_goes_on(sample: Sample) -> None:
    """The next moves find the books in order, and closing brings them to nothing."""
    for one in sample.lines:
        if one.holding.live:
            one.release(1)
            one.claim(2)
        check_books(sample.ledger)
    if sample.left.ended is None:
        sample.ledger.release_own(sample.left, 1)
    sample.ledger.sweep()
    check_books(sample.ledger)
    close_account(sample.ledger, sample.ledger.root, ALL)
    check_books(sample.ledger)
    assert not sample.ledger.accounts


@pytest.mark.parametrize("name", ["claim", "close", "own release"])
def test_rebuilding_may_be_torn_itself(name: str) -> None:
    """F42: the next one begins anew."""
    move = MOVES[name]
    after = Sample()
    do(move, after)
    rebuild(after.ledger)
    point = 0
    while True:
        sample = Sample()
        do(move, sample)
        was_torn = torn(lambda ledger=sample.ledger: rebuild(ledger), point)  # type: ignore[misc]
        rebuild(sample.ledger)

        check_books(sample.ledger)
        assert sample.in_use() == after.in_use()
        assert sample.places() == after.places()
        assert sample.ledger.root.used == after.ledger.root.used
        if not was_torn:
            break
        point += 1
    assert point > 50


def test_a_closing_that_was_torn_is_announced_also_when_rebuilding_is_torn_too() -> None:
    """F42: nobody who waits for the close is forgotten."""
    for first in range(0, 400, 7):
        for second in range(0, 200, 11):
            sample = Sample()
            torn(lambda s=sample: close_account(s.ledger, s.left, WHY), first)  # type: ignore[misc]
            torn(lambda s=sample: rebuild(s.ledger), second)  # type: ignore[misc]
            rebuild(sample.ledger)

            check_books(sample.ledger)
            assert_announced(sample)


# --- rounds -----------------------------------------------------------------------------------------------------------


class Pressed:
    """A ledger that is over its limit, and a round that takes one of two."""

    def __init__(self, policy: str | None) -> None:
        self.ledger = ledger_of(1000)
        self.members = [member(self.ledger, f"m{number}", 500, age=float(number)) for number in range(2)]
        below = account(self.ledger, "below", self.members[0].holding.node)
        self.ledger.claim_own(below, 10, 50.0)
        self.policy = policy

    def play(self) -> RoundEnded:
        self.round = round_about(self.ledger, policy=self.policy)
        return run(self.round, self.members, check=False)

    def asked(self) -> list[str]:
        return [node.name for node in self.ledger.accounts if node.asked]


@pytest.mark.parametrize("policy", [None, "largest"])
def test_a_torn_round_that_is_cancelled_leaves_nobody_asked_and_the_next_one_does_its_work(policy: str | None) -> None:
    """F18, F42: nobody is stuck in being reclaimed."""
    point = 0
    while True:
        pressed = Pressed(policy)
        was_torn = torn(pressed.play, point)
        rebuild(pressed.ledger)
        if hasattr(pressed, "round"):
            pressed.round.cancel(100.0)

        assert pressed.asked() == []
        check_books(pressed.ledger)
        run(round_about(pressed.ledger, policy=policy), pressed.members)
        assert pressed.ledger.root.used <= 750
        assert pressed.asked() == []
        if not was_torn:
            break
        point += 1
    assert point > 100


def test_a_round_goes_on_after_the_books_were_rebuilt_under_it() -> None:
    """Another thread's move was torn, and everything derived is new."""
    ledger: Ledger = ledger_of(1000)
    members = [member(ledger, f"m{number}", 400, age=float(number)) for number in range(3)]
    one = round_about(ledger, node=ledger.root)
    step = one.next(100.0)
    assert isinstance(step, Survey)
    members[0].release(400)  # nothing there any more when the round comes by
    members[1].claim(700)
    rebuild(ledger)

    ended = run(one, members)

    assert ended.used == 400
    assert [who.holding.live for who in members] == [True, False, True]
    check_books(ledger)


def test_an_ask_outlives_rebuilding() -> None:
    ledger = ledger_of(1000)
    members = [member(ledger, f"m{number}", 600, age=float(number)) for number in range(2)]
    one = round_about(ledger)
    step = one.next(100.0)
    while isinstance(step, Survey):
        one.surveyed(step.holdings[0], 5.0, 100.0)
        step = one.next(100.0)
    assert isinstance(step, Ask)
    rebuild(ledger)

    one.settle(step, collapsing=True, failure=None, now=100.0)

    assert run(one, members).freed == 600
    assert not any(isinstance(held, OwnHolding) for held in step.holdings)
    assert ledger.root.used == 600
