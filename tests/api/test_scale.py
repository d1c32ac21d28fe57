"""Deep graphs and many participants: no recursion, nothing left over, no time lost to size.

Nothing here looks at a clock but for the watchdog: who is quadratic, or recurses, does not come to the end.
"""

import gc

import pytest

from memquota import Account, Reclaimed, ReclaimRequest, Tracker, UsageError
from memquota.observe import RoundEnded, RoundOutcome
from memquota.testing import FakeClock, assert_books_balance
from tests.support.watchdog import run_isolated


class Tiny:
    """The least that a participant is."""

    __slots__ = ("__weakref__", "participation", "time")

    def __init__(self, account: Account, time: float) -> None:
        self.time = time
        self.participation = account.register_participant(self)

    def oldest_data(self) -> float:
        return self.time

    def reclaim(self, request: ReclaimRequest) -> Reclaimed:
        return Reclaimed.COLLAPSING


def chain(tracker: Tracker, depth: int) -> list[Account]:
    accounts = [tracker.new_account("top")]
    for _ in range(depth - 1):
        accounts.append(accounts[-1].new_child())
    return accounts


# --- depth ------------------------------------------------------------------------------------------------------------


def test_a_chain_of_10000_claims_and_closes() -> None:
    """F29: from the end, in the middle, from the top."""
    tracker = Tracker("1GiB")
    accounts = chain(tracker, 10_000)
    accounts[-1].claim(100)
    accounts[5000].claim(10)
    assert accounts[0].used == 110
    assert accounts[5001].used == 100

    accounts[9000].close()
    assert (accounts[0].used, accounts[-1].closed, accounts[8999].closed) == (10, True, False)
    accounts[0].close()

    assert all(account.closed for account in accounts)
    assert tracker.used == 0
    assert tracker.statistics().accounts == 0


def test_a_chain_of_10000_can_be_a_victim() -> None:
    """F29: all of it is asked, and goes."""
    tracker = Tracker(1000, clock=FakeClock())
    accounts = chain(tracker, 10_000)
    low, high = Tiny(accounts[-1], 5.0), Tiny(accounts[0], 1.0)
    low.participation.claim(300)
    high.participation.claim(600)

    tracker.reclaim(500)

    assert accounts[-1].closed
    assert tracker.used == 0


def test_a_chain_of_10000_refuses_cycles_and_takes_parents() -> None:
    """F26: however far apart both ends are."""
    tracker = Tracker("1GiB")
    accounts = chain(tracker, 10_000)
    accounts[-1].claim(7)
    other = tracker.new_account("other")

    with pytest.raises(UsageError, match=r"^account 'top' is 'account-10000' or above it: no cycles$"):
        accounts[0].add_parent(accounts[-1])
    accounts[0].add_parent(other)
    accounts[-1].add_parent(other)

    assert (accounts[0].used, other.used, tracker.used) == (7, 7, 7)


def free_a_chain(depth: int) -> None:
    """A chain whose handles are dropped at once: each keeps the one above."""
    tracker = Tracker("1GiB")
    last = tracker.new_account("top")
    for _ in range(depth - 1):
        last = last.new_child()
    assert tracker.statistics().accounts == depth
    del last
    assert tracker.used == 0
    assert tracker.statistics().accounts == 0
    last = tracker.new_account("top")
    for _ in range(depth - 1):
        last = last.new_child()
    last.claim(5)
    tracker.close()
    assert last.closed
    del last, tracker
    gc.collect()


def free_100_000() -> None:
    free_a_chain(100_000)


def free_1_000_000() -> None:
    free_a_chain(1_000_000)


def test_a_chain_of_100000_is_freed() -> None:
    """F29: without recursion, neither ours nor the interpreter's."""
    run_isolated(free_100_000, timeout=60)


@pytest.mark.soak
def test_a_chain_of_1000000_is_freed() -> None:
    """F29: the same in full."""
    run_isolated(free_1_000_000, timeout=300)


def ladder() -> None:
    """A lattice in which every account has two parents: 2**400 ways up."""
    tracker = Tracker("1GiB")
    level = [tracker.new_account(), tracker.new_account()]
    kept = [level]
    for _ in range(400):
        below = [level[0].new_child(), level[1].new_child()]
        below[0].add_parent(level[1])
        below[1].add_parent(level[0])
        kept.append(below)
        level = below
    level[0].claim(10)
    level[1].claim(1)
    assert [account.used for account in kept[0]] == [11, 11]
    level[0].release(4)
    kept[1][0].close()
    assert tracker.used == 0
    assert tracker.statistics().accounts == 3
    assert_books_balance(tracker, 0)


def test_many_ways_up_are_walked_once() -> None:
    """F29: P1: each account counts once, whatever the number of ways to it."""
    run_isolated(ladder, timeout=60)


# --- width ------------------------------------------------------------------------------------------------------------


def attack(participants: int, policy: str) -> None:
    """Many participants over the quota, then closed."""
    clock = FakeClock()
    tracker = Tracker(participants * 10, clock=clock, policy=policy, strict=True)
    tiny = []
    accounts = []
    for number in range(participants):
        clock.set(float(number))
        accounts.append(tracker.new_account())
        tiny.append(Tiny(accounts[-1], float(number)))
        tiny[-1].participation.claim(10)
    ended: list[RoundEnded] = []
    tracker.subscribe(lambda event: ended.append(event) if isinstance(event, RoundEnded) else None)
    late = tracker.new_account(minimum=participants)
    while not ended:  # a slice with each claim
        late.claim(1)

    victims = sum(account.closed for account in accounts)
    assert ended[0].outcome is RoundOutcome.DONE
    assert tracker.used <= participants * 15 // 2 < tracker.used + 10 + late.used
    assert victims == ended[0].victims
    if policy == "oldest_data":
        assert all(account.closed for account in accounts[:victims])
    assert not late.closed
    tracker.close()
    assert tracker.used == 0
    assert all(account.closed for account in accounts)


def attack_100_000_by_age() -> None:
    attack(100_000, "oldest_data")


def attack_100_000_by_size() -> None:
    attack(100_000, "largest")


def attack_1_000_000() -> None:
    attack(1_000_000, "oldest_data")


def test_100000_participants_over_quota() -> None:
    """F30: set up, a round in slices, and the end."""
    run_isolated(attack_100_000_by_age, timeout=120)


@pytest.mark.soak
@pytest.mark.parametrize("run", [attack_1_000_000, attack_100_000_by_size])
def test_1000000_participants_over_quota(run: object) -> None:
    """F30: in full; and with a policy that surveys everybody."""
    run_isolated(run, timeout=600)  # type: ignore[arg-type]


def a_life(child: Account, *, by_hand: bool) -> None:
    if by_hand:
        child.claim(10)
        child.close()
    else:
        tiny = Tiny(child, 1.0)
        tiny.participation.claim(10)


def test_dead_children_leave_nothing_below_their_parent() -> None:
    """F31: closed or dropped, with participants or without."""
    tracker = Tracker("1GiB", clock=FakeClock())
    parent = tracker.new_account("parent", limit="1MiB")
    kept = parent.new_child("kept")
    for number in range(20_000):
        a_life(parent.new_child(), by_hand=bool(number % 2))

    assert parent.used == 0
    for _ in range(200):  # what is left is swept in small pieces
        kept.claim(1)
        kept.release(1)
    children = parent._node.children
    assert children is not None
    assert len(children) == 1
    ledger = tracker._books.ledger
    assert len(ledger.accounts) == 3
    assert len(ledger.debris) == 0
    assert len(ledger.root_scope.index) <= 1
    assert tracker.statistics().accounts == 2


def test_closing_many_children_at_once_leaves_nothing() -> None:
    """F31: with their parent; the next entries into the books sweep what is left."""
    tracker = Tracker("1GiB", clock=FakeClock())
    parent = tracker.new_account("parent")
    children = [parent.new_child() for _ in range(20_000)]
    for child in children:
        child.claim(10)
    parent.close()

    for _ in range(200):
        tracker.statistics()

    ledger = tracker._books.ledger
    assert (len(ledger.accounts), len(ledger.debris), len(ledger.root_scope.index)) == (1, 0, 0)
    assert_books_balance(tracker, 0)
