"""The check of the books finds every sort of disorder, and rebuilding brings order again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

import pytest

from memquota._core.accounts import add_parent, close_account
from memquota._core.checks import check_books, rebuild
from memquota._core.events import CloseKind, CloseReason
from memquota._core.graph import AccountNode, Scope
from memquota._core.holdings import Holding, OwnHolding
from memquota._core.ledger import Ledger
from memquota._core.limits import Limits
from memquota.errors import TrackerBroken
from tests.core.support import Member, account, ledger_of, member

MIB = 1024 * 1024


class Sample:
    """A diamond with limits, credit, own claims, candidates and debris.

    root > top (limited) > left, right > both; alone.
    """

    def __init__(self) -> None:
        self.ledger = ledger_of(32 * MIB)
        self.top = account(self.ledger, "top", limit=MIB)
        self.left = account(self.ledger, "left", self.top)
        self.right = account(self.ledger, "right", self.top, limit=MIB // 2, hard_limit=MIB)
        self.who = member(self.ledger, "both", 100, age=1.0, parent=self.left)
        self.both = self.who.holding.node
        add_parent(self.ledger, self.both, self.right)
        self.ledger.claim_own(self.left, 50, 2.0)
        self.ledger.claim_own(self.left, 60, 3.0)
        self.alone = member(self.ledger, "alone", 1000, age=4.0)
        self.idle = Member(self.ledger, self.both, "idle")
        self.gone = member(self.ledger, "gone", 10, age=5.0)
        close_account(self.ledger, self.gone.holding.node, CloseReason(CloseKind.CLOSED, "gone", "by hand", 5.0))
        self.ledger.ended.clear()

    @property
    def own(self) -> OwnHolding:
        assert self.left.own is not None
        return self.left.own

    def scope(self, node: AccountNode) -> Scope:
        assert node.scope is not None
        return node.scope

    def holdings(self) -> list[Holding]:
        return [self.who.holding, self.alone.holding, self.own, self.idle.holding]


def test_books_in_order_pass() -> None:
    check_books(Sample().ledger)


def less_credit(s: Sample) -> None:
    s.who.holding.cap = -1
    s.scope(s.top).credit_out = -1
    s.scope(s.right).credit_out = -1
    s.ledger.root_scope.credit_out = s.alone.holding.cap - 1


def more_credit(s: Sample) -> None:
    more = s.who.holding.booked + 1 - s.who.holding.cap
    s.who.holding.cap += more
    for node in (s.top, s.right, s.ledger.root):
        s.scope(node).credit_out += more


def negative(s: Sample) -> None:
    left = s.ledger
    less = s.alone.holding.booked + left.root.used
    s.alone.holding.booked -= less
    s.alone.holding.node.used -= less
    left.root.used -= less


def elsewhere(s: Sample) -> None:
    s.idle.holding.node = s.left


def unlisted(s: Sample) -> None:
    s.ledger.unlist(s.alone.holding)


def another_priority(s: Sample) -> None:
    s.both.priority = 1


def closed(s: Sample) -> None:
    s.idle.holding.ended = "closed"  # so that only the account itself is wrong
    s.gone.holding.node.used = s.gone.holding.booked
    s.ledger.accounts[s.gone.holding.node] = None


def orphan(s: Sample) -> None:
    del s.ledger.accounts[s.right]
    assert s.top.children is not None
    del s.top.children[s.right]


def rootless(s: Sample) -> None:
    node = s.alone.holding.node
    node.parents = ()
    s.ledger.root.used -= s.alone.holding.booked
    s.ledger.root_scope.credit_out -= s.alone.holding.cap
    s.ledger.root_scope.index.discard(s.alone.holding.entry)  # type: ignore[arg-type]
    assert s.ledger.root.children is not None
    del s.ledger.root.children[node]
    node.forget_lineage()


def root_with_parents(s: Sample) -> None:
    s.ledger.root.parents = (s.alone.holding.node,)


def cycle(s: Sample) -> None:
    s.both.children = {s.top: None}
    s.top.parents = (*s.top.parents, s.both)


def own_parent(s: Sample) -> None:
    s.both.children = {s.both: None}
    s.both.parents = (*s.both.parents, s.both)
    s.both.forget_lineage()


def unknown_to_parent(s: Sample) -> None:
    node = account(s.ledger, "new", s.both)
    assert s.both.children is not None
    del s.both.children[node]


def unknown_to_all_parents(s: Sample) -> None:
    account(s.ledger, "new", s.both)
    s.both.children = None


def unknown_to_child(s: Sample) -> None:
    assert s.top.children is not None
    s.top.children[s.both] = None


def closed_child(s: Sample) -> None:
    node = s.gone.holding.node
    s.ledger.debris.clear()
    s.ledger.root_scope.index.discard(s.gone.holding.entry)  # type: ignore[arg-type]
    s.gone.holding.ended = "closed"
    assert s.ledger.root.children is not None
    s.ledger.root.children[node] = None


def extra_credit(s: Sample) -> None:
    s.scope(s.right).credit_out += 1


def twice(s: Sample) -> None:
    assert s.alone.holding.entry is not None
    s.ledger.root_scope.index.add(s.alone.holding.entry)


def not_in_index(s: Sample) -> None:
    assert s.who.holding.entry is not None
    s.scope(s.right).index.discard(s.who.holding.entry)


def no_candidate(s: Sample) -> None:
    s.scope(s.right).index.add((0, 0.0, 99, s.idle.holding))


def ended_candidate(s: Sample) -> None:
    s.ledger.debris.clear()


def over(s: Sample) -> None:
    s.scope(s.top).limits = Limits(10)


def passed(s: Sample) -> None:
    over(s)
    s.ledger.strained[s.top] = None


def still_passed(s: Sample) -> None:
    s.scope(s.right).passed = True


def wrong_lineage(s: Sample) -> None:
    s.both.lineage()
    s.both._lineage = tuple(node for node in s.both.lineage() if node is not s.right)


def double_lineage(s: Sample) -> None:
    s.both._lineage = (*s.both.lineage(), s.right)


def wrong_scopes(s: Sample) -> None:
    s.both.lineage()
    s.both._scoped = s.both._scoped[1:]


def own_claims(s: Sample) -> None:
    s.own.claimed[0][1] += 1


@pytest.mark.parametrize(
    ("disorder", "message"),
    [
        (lambda s: setattr(s.top, "used", s.top.used + 1), "B1 (used is the sum below) does not hold at account 'top'"),
        (lambda s: setattr(s.top, "used", s.top.used - 1), "B1 (used is the sum below) does not hold at account 'top'"),
        (negative, "B1 (used is the sum below) does not hold at account 'tracker'"),
        (less_credit, "B2 (credit is booked) does not hold at account 'both'"),
        (more_credit, "B2 (credit is booked) does not hold at account 'both'"),
        (elsewhere, "B2 (a holding is where it says) does not hold at account 'both'"),
        (unlisted, "B6 (who holds is a candidate, but for running work) does not hold at account 'alone'"),
        (another_priority, "B6 (by its priority) does not hold at account 'both'"),
        (closed, "B2 (a holding is where it says) does not hold at account 'gone'"),
        (orphan, "B3 (parents are open) does not hold at account 'both'"),
        (rootless, "B3 (all but the root have parents) does not hold at account 'alone'"),
        (root_with_parents, "B3 (all but the root have parents) does not hold at account 'tracker'"),
        (cycle, "B3 (no cycles) does not hold at account 'top'"),
        (own_parent, "B3 (no cycles) does not hold at account 'both'"),
        (unknown_to_parent, "B4 (parents know it) does not hold at account 'new'"),
        (unknown_to_all_parents, "B4 (parents know it) does not hold at account 'new'"),
        (unknown_to_child, "B4 (children know it) does not hold at account 'top'"),
        (closed_child, "B4 (children know it) does not hold at account 'tracker'"),
        (extra_credit, "B5 (credit that is out) does not hold at account 'right'"),
        (twice, "B6 (each candidate once) does not hold at account 'tracker'"),
        (not_in_index, "B6 (every candidate is in the index) does not hold at account 'right'"),
        (no_candidate, "B6 (every entry is a candidate) does not hold at account 'right'"),
        (ended_candidate, "B6 (every entry is a candidate) does not hold at account 'tracker'"),
        (over, "B9 (who is over is looked at) does not hold at account 'top'"),
        (passed, "B10 (who is over has passed its limit) does not hold at account 'top'"),
        (still_passed, "B10 (until it is at low water) does not hold at account 'right'"),
        (wrong_lineage, "B7 (lineage) does not hold at account 'both'"),
        (double_lineage, "B7 (lineage) does not hold at account 'both'"),
        (wrong_scopes, "B7 (scopes of the lineage) does not hold at account 'both'"),
        (own_claims, "B8 (own claims add up) does not hold at account 'left'"),
    ],
)
def test_disorder_is_found(disorder: Callable[[Sample], object], message: str) -> None:
    sample = Sample()
    disorder(sample)

    with pytest.raises(TrackerBroken) as caught:
        check_books(sample.ledger)

    assert str(caught.value) == f"invariant {message}"


def test_an_account_that_ended_does_not_stand_among_the_open_ones() -> None:
    ledger = ledger_of()
    node = account(ledger)
    node.ended = CloseReason(CloseKind.CLOSED, "account", "by hand", 0.0)

    with pytest.raises(TrackerBroken, match=r"B3 \(an open account is open\) does not hold at account 'account'"):
        check_books(ledger)


def test_checking_changes_nothing_but_what_is_known_of_lineages() -> None:
    sample = Sample()
    rebuilt = Sample()
    check_books(sample.ledger)
    rebuild(rebuilt.ledger)

    assert facts(sample) == facts(rebuilt)


def facts(sample: Sample) -> list[object]:
    found: list[object] = []
    for node in sample.ledger.accounts:
        found += [node.name, node.used, [child.name for child in node.children or ()]]
        if node.scope is not None:
            found += [node.scope.credit_out, [row[:3] for row in node.scope.index if row[3].live]]
    return found


def spoil(sample: Sample) -> None:
    """Everything that is derived is wrong."""
    for node in sample.ledger.accounts:
        node.used = 12345
        node.children = {sample.gone.holding.node: None}
        node._lineage = (node,)
        node._scoped = ()
        if node.scope is not None:
            node.scope.credit_out = -7
            node.scope.gave_up = (1, 1)
            for entry in list(node.scope.index):
                node.scope.index.discard(entry)
    sample.own.booked = 1
    sample.own.moments = -1.0
    sample.left.own = None


def test_rebuilding_derives_everything_from_the_facts() -> None:
    sample, original = Sample(), Sample()
    version = sample.ledger.version
    own = sample.own
    spoil(sample)

    rebuild(sample.ledger)

    check_books(sample.ledger)
    assert facts(sample) == facts(original)
    assert sample.left.own is own
    assert (own.booked, own.moments) == (110, 280.0)
    assert sample.ledger.version == version + 1  # the next round looks again
    assert sample.scope(sample.top).gave_up is None
    assert not sample.ledger.debris
    assert not sample.ledger.strained


def test_rebuilding_twice_is_rebuilding_once() -> None:
    sample = Sample()
    rebuild(sample.ledger)
    once = facts(sample)
    rebuild(sample.ledger)

    assert facts(sample) == once
    assert not sample.ledger.ended


def test_rebuilding_ends_what_is_below_an_account_that_ended() -> None:
    """Closing was torn after the topmost account: it is closed, and so is what it took with it."""
    sample = Sample()
    why = CloseReason(CloseKind.RECLAIMED, "left", "held the oldest data", 9.0)
    sample.left.ended = why
    sample.ledger.strained[sample.left] = None

    rebuild(sample.ledger)

    check_books(sample.ledger)
    assert sample.left.ended is why
    assert sample.both.ended == CloseReason(
        CloseKind.RECLAIMED, "left", "closed with 'left': held the oldest data", 9.0
    )
    assert list(sample.ledger.ended) == [sample.left, sample.both]
    assert sample.right.ended is None
    assert sample.right.used == sample.top.used == 0
    assert sample.ledger.root.used == sample.alone.holding.booked
    assert not sample.ledger.strained


def test_rebuilding_names_the_account_that_was_closed_itself() -> None:
    ledger = ledger_of()
    top = account(ledger, "top")
    middle = account(ledger, "middle", top)
    below = account(ledger, "below", middle)
    why = CloseReason(CloseKind.CLOSED, "top", "by hand", 9.0)
    top.ended, middle.ended = why, why.along()

    rebuild(ledger)

    assert below.ended == CloseReason(CloseKind.CLOSED, "top", "closed with 'top': by hand", 9.0)


def test_rebuilding_tells_an_account_that_was_closed_from_one_of_its_name_that_went_along() -> None:
    """Names are not unique: the reason says once with whom it was closed."""
    ledger = ledger_of()
    top = account(ledger, "same")
    middle = account(ledger, "same", top)
    below = account(ledger, "below", middle)
    why = CloseReason(CloseKind.CLOSED, "same", "by hand", 9.0)
    top.ended, middle.ended = why, why.along()

    rebuild(ledger)

    assert below.ended == CloseReason(CloseKind.CLOSED, "same", "closed with 'same': by hand", 9.0)


def test_rebuilding_trusts_no_lineage_that_was_known() -> None:
    """What is above an account is found anew before it is asked whether that ended."""
    sample = Sample()
    sample.both._lineage = (sample.both,)
    sample.left.ended = CloseReason(CloseKind.CLOSED, "left", "by hand", 9.0)

    rebuild(sample.ledger)

    assert sample.both.ended == CloseReason(CloseKind.CLOSED, "left", "closed with 'left': by hand", 9.0)
    check_books(sample.ledger)


def test_rebuilding_ends_a_holding_whose_last_handle_went() -> None:
    sample = Sample()
    sample.alone.holding.handles = 0
    sample.idle.holding.ended = "destroyed"

    rebuild(sample.ledger)

    check_books(sample.ledger)
    assert sample.alone.holding.ended == "closed"
    assert sample.alone.holding.node.holdings == {}
    assert sample.idle.holding.ended == "destroyed"
    assert list(sample.both.holdings or ()) == [sample.who.holding]
    assert sample.ledger.root.used == sample.top.used


def test_rebuilding_makes_candidates_of_those_who_lost_their_place() -> None:
    sample = Sample()
    sample.ledger.unlist(sample.alone.holding)
    sequence = sample.ledger.sequence

    rebuild(sample.ledger)

    check_books(sample.ledger)
    assert sample.alone.holding.entry == (
        0,
        -inf,
        sequence + 1,
        sample.alone.holding,
    )  # asked first, so nothing is lost
    assert sample.idle.holding.entry is None


def test_rebuilding_orders_by_the_priority_that_was_set() -> None:
    sample = Sample()
    sample.both.priority = 4

    rebuild(sample.ledger)

    assert sample.who.holding.entry == (4, 1.0, 1, sample.who.holding)
    check_books(sample.ledger)


def test_rebuilding_notes_again_who_is_over() -> None:
    ledger = ledger_of(100)
    who = member(ledger, "who", 101, limit=101)
    exactly = who.holding.node
    ledger.strained.clear()

    rebuild(ledger)

    assert list(ledger.strained) == [ledger.root]
    assert exactly.used == 101


@pytest.mark.parametrize(("left", "passed"), [(75, False), (76, True), (101, True)])
def test_rebuilding_knows_who_passed_its_limit_and_was_not_at_low_water_since(left: int, passed: bool) -> None:
    ledger = ledger_of(100)
    who = member(ledger, "who", 150)
    who.release(50)
    assert ledger.root_scope.passed
    who.holding.booked = left  # a torn move

    rebuild(ledger)

    assert ledger.root_scope.passed is passed
    check_books(ledger)


def test_rebuilding_keeps_accounts_and_their_order() -> None:
    sample = Sample()
    names = [node.name for node in sample.ledger.accounts]
    rebuild(sample.ledger)

    assert (
        [node.name for node in sample.ledger.accounts] == names == ["tracker", "top", "left", "right", "both", "alone"]
    )
    assert isinstance(sample.ledger.debris, deque)


def test_an_empty_ledger_is_rebuilt() -> None:
    ledger = Ledger("tracker", Limits(10))
    rebuild(ledger)
    check_books(ledger)

    assert list(ledger.accounts) == [ledger.root]
