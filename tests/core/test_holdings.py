"""What a participation holds, and what an account holds itself."""

from collections import deque
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from memquota._core.events import CloseKind, CloseReason
from memquota._core.graph import AccountNode
from memquota._core.holdings import NO_CREDIT, CreditLine, Holding, OwnHolding, Receipt


def own() -> OwnHolding:
    return OwnHolding(AccountNode("account", ()))


def test_a_new_handle_takes_the_slow_path_for_everything() -> None:
    line = CreditLine()

    assert line._credit == NO_CREDIT == -1  # a claim of 0 leaves less than 0
    assert line._credit + 0 > line._cap  # a release of 0 is above the cap
    assert line._cap == -2


def test_a_new_holding_has_one_handle_and_nothing_else() -> None:
    node = AccountNode("account", ())
    holding = Holding(node)

    assert holding.node is node
    assert holding.label == "?"
    assert Holding(node, "buffer").label == "buffer"
    assert (holding.booked, holding.cap, holding.handles, holding.claims) == (0, 0, 1, 0)
    assert (holding.ended, holding.entry) == (None, None)
    assert holding.surveyed_in == 0  # no survey has this number
    assert holding.silent_since == -1  # nor any holding as many claims
    assert holding.in_use() == 0
    assert holding.live


def test_a_holding_is_over_when_it_ended_or_its_account_did() -> None:
    node = AccountNode("account", ())
    ended, held = Holding(node), Holding(node)
    ended.ended = "destroyed"

    assert (ended.live, held.live) == (False, True)
    node.ended = CloseReason(CloseKind.CLOSED, "account", "closed by hand", 0.0)
    assert (ended.live, held.live) == (False, False)


def test_all_that_is_booked_is_in_use_as_far_as_the_books_know() -> None:
    holding = Holding(AccountNode("account", ()))
    holding.booked = 7

    assert holding.in_use() == 7


def test_own_claims_are_as_old_as_the_earliest_not_given_back() -> None:
    holding = own()
    assert holding.oldest() is None

    holding.came(10, 1.0)
    holding.came(20, 5.0)
    assert holding.oldest() == 1.0

    holding.went(9)
    assert holding.oldest() == 1.0
    holding.went(1)
    assert holding.oldest() == 5.0
    holding.went(20)
    assert holding.oldest() is None


def test_a_release_takes_several_claims_the_oldest_first() -> None:
    holding = own()
    for time in (1.0, 2.0, 3.0):
        holding.came(10, time)

    holding.went(25)

    assert list(holding.claimed) == [[3.0, 5]]


def test_a_claim_that_failed_is_taken_back_itself() -> None:
    """P8: not the oldest, which would make the account's data younger than it is."""
    holding = own()
    for size, time in ((10, 1.0), (20, 2.0), (30, 3.0)):
        holding.came(size, time)

    holding.undone(5, 2.0)
    assert list(holding.claimed) == [[1.0, 10], [2.0, 15], [3.0, 30]]
    holding.undone(15, 2.0)
    assert list(holding.claimed) == [[1.0, 10], [3.0, 30]]
    assert holding.moments == 1.0 * 10 + 3.0 * 30


def test_what_was_given_back_of_a_failed_claim_is_taken_from_those_after_it() -> None:
    """They were claimed by others meanwhile, and the release took the oldest."""
    holding = own()
    holding.came(20, 2.0)
    holding.came(30, 3.0)
    holding.went(15)

    holding.undone(20, 2.0)
    assert list(holding.claimed) == [[3.0, 15]]
    holding.undone(15, 2.0)
    assert (list(holding.claimed), holding.moments) == ([], 0.0)


def test_claims_of_one_moment_are_one_entry() -> None:
    holding = own()
    holding.came(10, 1.0)
    holding.came(5, 1.0)
    holding.came(1, 2.0)

    assert list(holding.claimed) == [[1.0, 15], [2.0, 1]]


def test_byte_seconds_are_bytes_times_age() -> None:
    holding = own()
    holding.came(10, 1.0)
    holding.came(20, 5.0)
    holding.booked = 30

    assert holding.byte_seconds(6.0) == 10 * 5.0 + 20 * 1.0

    holding.went(15)
    holding.booked = 15
    assert holding.byte_seconds(6.0) == 15 * 1.0


def test_byte_seconds_are_never_negative() -> None:
    holding = own()
    holding.came(10, 5.0)
    holding.booked = 10

    assert holding.byte_seconds(0.0) == 0.0


def test_what_rounding_left_is_forgotten_when_nothing_is_held() -> None:
    holding = own()
    for time in (0.1, 0.2, 0.3):
        holding.came(3, time)
    holding.went(9)

    assert holding.moments == 0.0


def test_recounting_derives_the_sums_from_the_claims() -> None:
    holding = own()
    holding.claimed = deque([[1.0, 10], [3.0, 0], [4.0, 5]])
    holding.recount()

    assert holding.booked == 15
    assert holding.moments == 30.0


def test_recounting_takes_out_what_was_given_back_so_that_it_makes_nobody_older() -> None:
    holding = own()
    holding.claimed = deque([[1.0, 0], [2.0, 0], [4.0, 5]])
    holding.recount()

    assert holding.oldest() == 4.0
    assert holding.booked == 5

    holding.claimed = deque([[1.0, 0]])
    holding.recount()
    assert holding.oldest() is None
    assert holding.moments == 0.0


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("came"), st.integers(1, 1000), st.integers(0, 20)),
            st.tuples(st.just("went"), st.integers(0, 2000), st.integers(0, 0)),
        ),
        max_size=40,
    )
)
def test_own_claims_are_a_queue_of_bytes(moves: list[tuple[str, int, int]]) -> None:
    holding = own()
    queue: list[list[int]] = []  # [time, bytes]
    now = 0
    for what, size, step in moves:
        if what == "came":
            now += step
            holding.came(size, float(now))
            holding.booked += size
            queue.append([now, size])
        else:
            size = min(size, holding.booked)
            holding.went(size)
            holding.booked -= size
            while size:
                taken = min(size, queue[0][1])
                queue[0][1] -= taken
                size -= taken
                if not queue[0][1]:
                    queue.pop(0)

        held = sum(size for _, size in queue)
        area = sum(Fraction(now + 7 - time) * size for time, size in queue)
        assert holding.booked == held == sum(size for _, size in holding.claimed)
        assert holding.oldest() == (queue[0][0] if queue else None)
        assert holding.byte_seconds(now + 7.0) == area


def test_a_new_handle_is_not_counted_yet() -> None:
    assert CreditLine()._closed


def test_a_handle_that_is_cut_takes_the_slow_path_for_everything() -> None:
    line = CreditLine()
    line._credit, line._cap = 500, 1000

    line.cut()

    assert (line._credit, line._cap) == (NO_CREDIT, NO_CREDIT - 1)


def test_a_receipt_says_whether_a_claim_is_in_the_books() -> None:
    holding, receipt = own(), Receipt()
    assert not receipt.booked

    holding.came(5, 1.0, receipt)

    assert receipt.booked


def test_rounding_is_forgotten_when_all_is_given_back() -> None:
    holding = own()
    for time in (0.1, 0.2, 0.3):
        holding.came(1, time)
    assert holding.moments != 0.0

    holding.went(3)

    assert 0.1 + 0.2 + 0.3 - 0.1 - 0.2 - 0.3 != 0.0
    assert holding.moments == 0.0
