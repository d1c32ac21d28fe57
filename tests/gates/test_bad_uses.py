"""What cannot be: every argument wrong in every way, permits used twice, copied, entered in the wrong way."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from memquota import AccountClosed, AsyncGate, Gate, QuotaExceeded, Tracker, UsageError
from memquota.host import FixedProvider
from memquota.testing import assert_books_balance
from tests.gates.support import balanced

ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"weight": 0}, "at least 1 byte"),
    ({"weight": -1}, "cannot be negative"),
    ({"weight": 1.0}, "as an int, not float"),
    ({"weight": True}, "as an int, not bool"),
    ({"weight": b"1"}, "as an int, not bytes"),
    ({"weight": 2**62 + 1}, r"above 2\*\*62"),
    ({"weight": "1M"}, "weight"),
    ({"weight": "1.5"}, "weight"),
    ({"priority": 1.5}, "priority"),
    ({"priority": True}, "priority"),
    ({"priority": None}, "priority"),
    ({"priority": 0.0}, "priority"),
    ({"account": "mine"}, "acquire takes an account, not 'mine'"),
]


@pytest.mark.parametrize(("wrong", "text"), ARGUMENTS)
def test_wrong_arguments_of_acquire_are_refused(wrong: dict[str, Any], text: str) -> None:
    gate = Gate(Tracker(1000), capacity=100)
    shared = AsyncGate(sharing=gate)

    for acquire in (gate.acquire, gate.acquire_nowait, shared.acquire, shared.acquire_nowait):
        with pytest.raises(UsageError, match=text):
            acquire(**wrong)

    balanced(gate)


def test_an_account_of_another_tracker_is_refused() -> None:
    gate = Gate(Tracker(1000), capacity=100)
    other = Tracker(1000).new_account("other")

    for call in (lambda: gate.acquire(5, account=other), lambda: Gate(Tracker(1000), account=other)):
        with pytest.raises(UsageError, match="account 'other' belongs to another tracker than the gate"):
            call()

    balanced(gate)


def test_what_is_no_tracker_gate_or_account_is_refused() -> None:
    tracker: Any = Tracker(1000)
    for call, text in (
        (lambda: Gate("1MiB"), "a gate stands on a tracker, not on '1MiB'"),  # type: ignore[arg-type]
        (lambda: Gate(tracker, account="mine"), "a gate's account must be an account, not 'mine'"),  # type: ignore[arg-type]
        (lambda: AsyncGate(sharing=tracker), "sharing takes a gate"),
        (lambda: AsyncGate(tracker, sharing=Gate(tracker)), "takes no other argument"),  # type: ignore[call-overload]
        (lambda: AsyncGate(sharing=Gate(tracker), capacity=5), "takes no other argument"),  # type: ignore[call-overload]
        (lambda: AsyncGate(None), "a gate stands on a tracker"),  # type: ignore[call-overload]
    ):
        with pytest.raises(UsageError, match=text):
            call()


@pytest.mark.parametrize("actual", [-1, 1.0, True, None, "1M", 2**62 + 1])
def test_a_permit_is_not_adjusted_to_what_is_no_size(actual: Any) -> None:
    gate = Gate(Tracker(1000), capacity=100)
    with gate.acquire(5) as permit:
        with pytest.raises(UsageError):
            permit.adjust(actual)
        assert (permit.weight, gate.account.used, gate.statistics().held) == (5, 5, 5)
        permit.adjust(0)
        assert (permit.weight, gate.account.used, gate.statistics().held) == (0, 0, 0)
        permit.adjust("1KiB")
        assert (permit.weight, gate.account.used) == (1024, 1024)
    balanced(gate)


def test_a_permit_without_a_weight_may_get_one() -> None:
    gate = Gate(Tracker(1000), capacity=100)
    with gate.acquire() as permit:
        permit.adjust(30)
        assert (gate.account.used, gate.statistics().held) == (30, 30)
    balanced(gate)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_gates_and_permits_cannot_be_copied_or_pickled(duplicate: Callable[[object], object]) -> None:
    """F49: a copy would be given back twice."""
    gate = Gate(Tracker(1000), max_concurrent=1)
    shared = AsyncGate(sharing=gate)
    with gate.acquire() as permit:
        for handle in (gate, shared, permit, shared.acquire()):
            with pytest.raises(TypeError, match=f"{type(handle).__name__} handles cannot be copied or pickled"):
                duplicate(handle)
    balanced(gate)


def test_a_permit_that_was_adjusted_to_nothing_leaves_nothing_behind() -> None:
    """Its account is long-lived, and would list a holding for each."""
    tracker = Tracker(1000)
    account = tracker.new_account("of all permits")
    gate = Gate(tracker)

    for _ in range(3):
        with gate.acquire(10, account=account) as permit:
            permit.adjust(0)
            permit.adjust(5)
            assert account.used == 5
            permit.adjust(0)
            assert account.used == 0
        assert not account._node.holdings
    assert_books_balance(tracker)
    balanced(gate)


def test_a_released_permit_is_not_entered_again() -> None:
    gate = Gate(Tracker(1000), max_concurrent=1)
    permit = gate.acquire()
    permit.release()

    with pytest.raises(UsageError, match="a permit that is gone cannot be entered"), permit:
        pass

    balanced(gate)


async def test_a_plain_with_does_not_let_a_task_in_unnoticed() -> None:
    gate = AsyncGate(Tracker(1000), max_concurrent=1)

    with pytest.raises(UsageError, match="a permit that is new cannot be entered; in async code: `async with`"):
        with gate.acquire():
            pass

    with await gate.acquire() as permit:
        assert not permit.released
    balanced(gate)


async def test_a_permit_is_awaited_once() -> None:
    gate = AsyncGate(Tracker(1000), max_concurrent=1)
    permit = gate.acquire()
    await permit
    with pytest.raises(UsageError, match="a permit can be awaited once, and this one is inside"):
        await permit
    async with permit:  # it is inside already
        assert gate.statistics().inside == 1
    for again in (permit.__await__().__next__, permit.__aenter__().__await__().__next__):
        with pytest.raises(UsageError, match="and this one is gone"):
            again()
    balanced(gate)


@pytest.mark.parametrize("kind", [Gate, AsyncGate])
def test_a_gate_of_a_closed_tracker_cannot_be_made(kind: Any) -> None:
    from memquota import TrackerClosed

    tracker = Tracker(1000)
    tracker.close()

    with pytest.raises(TrackerClosed):
        kind(tracker)


@pytest.mark.parametrize("kind", [Gate, AsyncGate])
def test_a_gate_of_a_closed_account_cannot_be_made(kind: Any) -> None:
    tracker = Tracker(1000)
    account = tracker.new_account("gone")
    account.close()

    with pytest.raises(AccountClosed, match="account 'gone' is closed"):
        kind(tracker, account=account)


def test_the_error_of_a_full_gate_says_what_it_holds() -> None:
    gate = Gate(Tracker(1000), capacity=10, on_full="refuse")
    with gate.acquire(8), pytest.raises(QuotaExceeded) as caught:
        gate.acquire(5)

    error = caught.value
    assert (error.account, error.asked, error.used, error.limit) == ("gate", 5, 8, 10)
    balanced(gate)


@pytest.mark.parametrize(
    ("options", "inside", "claimed", "text", "used", "limit"),
    [
        ({"max_concurrent": 1}, 8, 0, "gate 'gate' is full: 1 inside", 8, 1000),
        ({"capacity": 10}, 8, 0, "gate 'gate' is full: 1 inside, with 8 B of 10 B", 8, 10),
        ({}, 8, 990, "gate 'gate' finds no room for 5 B: the tracker has 998 B used of 1000 B", 998, 1000),
        (
            {},
            8,
            1001,
            "gate 'gate' lets nobody in: the tracker was above its limit and is not down to low water yet",
            8,
            1000,
        ),
        (
            {"provider": FixedProvider(100, 95)},
            None,
            0,
            "gate 'gate' lets nobody in: the provider reads 95.0%: above 90.0%, or not yet below 85.0%",
            0,
            1000,
        ),
    ],
)
def test_the_error_of_a_gate_that_refuses_says_what_is_missing(
    options: dict[str, Any], inside: int | None, claimed: int, text: str, used: int, limit: int
) -> None:
    tracker = Tracker(1000)
    gate = Gate(tracker, on_full="refuse", **options)
    data = tracker.new_account("data", minimum=2**62)
    permit = gate.acquire(inside) if inside else None
    data.claim(claimed)

    with pytest.raises(QuotaExceeded) as caught:
        gate.acquire(5)

    assert (str(caught.value), caught.value.used, caught.value.limit) == (text, used, limit)
    data.close()
    if permit is not None:
        permit.release()
    balanced(gate)


def test_gates_and_permits_say_what_they_are() -> None:
    gate = Gate(Tracker(1000), max_concurrent=1)
    with gate.acquire(5) as permit:
        assert repr(permit) == "<Permit of 5 B, inside>"
        assert repr(gate) == "<Gate 'gate', 1 inside, 0 waiting>"
    gate.acquire().release()
    assert repr(AsyncGate(sharing=gate)) == "<AsyncGate 'gate', 0 inside, 0 waiting>"
    assert repr(permit) == "<Permit of 5 B, gone>"
