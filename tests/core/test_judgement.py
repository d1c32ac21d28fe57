"""What an answer of `oldest_data` is worth."""

from decimal import Decimal
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memquota._core.graph import AccountNode
from memquota._core.holdings import Holding
from memquota._core.judgement import Judged, describe_age, judge

NOW = 100.0


def holding(booked: int = 10, cap: int = 0, claims: int = 3) -> Holding:
    one = Holding(AccountNode("account", ()), "buffer")
    one.booked, one.cap, one.claims = booked, cap, claims
    return one


@pytest.mark.parametrize(
    ("answer", "time"),
    [
        (50.0, 50.0),
        (50, 50.0),
        (-3.5, -3.5),
        (0, 0.0),
        (NOW, NOW),
        (100, NOW),
        (101, NOW),
        (100.001, NOW),
        (inf, NOW),
        (-inf, -inf),
        (10**400, NOW),
        (-(10**400), -inf),
        (-(2**1000), -inf),
        (-(2**1000) + 1, float(-(2**1000))),
    ],
)
def test_a_time_is_believed_and_one_in_the_future_is_now(answer: Any, time: float) -> None:
    """F13: a future time counts as now, a huge integer as what it is."""
    judged = judge(holding(), answer, NOW)

    assert judged == Judged(time)
    assert type(judged.time) is float
    assert (judged.idle, judged.silent, judged.complaint) == (False, False, None)


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (nan, "NaN"),
        (-nan, "NaN"),
        ("yesterday", "an object of type str"),
        (True, "an object of type bool"),
        (False, "an object of type bool"),
        (Decimal(5), "an object of type Decimal"),
        (1j, "an object of type complex"),
        ([], "an object of type list"),
        (float, "an object of type type"),
    ],
)
def test_nonsense_is_very_old_and_is_complained_about(answer: Any, shown: str) -> None:
    """F13: NaN, text and other nonsense are very old, with a log line."""
    judged = judge(holding(), answer, NOW)

    assert judged == Judged(-inf, complaint=f"answered {shown} for the time of its oldest data")
    assert (judged.idle, judged.silent) == (False, False)


def test_no_code_of_an_answer_runs() -> None:
    """P6: a subclass of float or int is read without calling it."""

    def foreign(*_: object) -> Any:
        raise AssertionError("foreign code runs")

    names = ("add", "radd", "lt", "le", "gt", "ge", "eq", "hash", "repr", "float", "int", "bool", "neg", "abs")
    methods = {f"__{name}__": foreign for name in names}
    shy = type("Shy", (float,), methods)
    shy_int = type("ShyInt", (int,), methods)

    assert judge(holding(), shy(50.0), NOW).time == 50.0
    assert judge(holding(), shy(100.5), NOW).time == NOW
    assert judge(holding(), shy_int(50), NOW).time == 50.0
    assert judge(holding(), shy_int(101), NOW).time == NOW
    assert judge(holding(), shy(nan), NOW).complaint == "answered an object of type Shy for the time of its oldest data"


def test_none_is_now_the_first_time() -> None:
    """F13: claims come before what they are for."""
    assert judge(holding(), None, NOW) == Judged(NOW, silent=True)


def test_none_is_very_old_when_nothing_was_claimed_since_the_last_time() -> None:
    """F13: it holds bytes, and hides them."""
    one = holding(booked=10, claims=3)
    one.silent_since = 3

    assert judge(one, None, NOW) == Judged(-inf, silent=True, complaint="names no age twice, yet holds 10 bytes")


def test_none_is_now_again_when_something_was_claimed_meanwhile() -> None:
    one = holding(claims=4)
    one.silent_since = 3

    assert judge(one, None, NOW) == Judged(NOW, silent=True)


def test_none_from_a_handle_whose_bytes_may_all_be_credit_means_idle() -> None:
    one = holding(booked=10, cap=10, claims=3)
    one.silent_since = 3

    assert judge(one, None, NOW) == Judged(NOW, idle=True)
    assert not judge(holding(booked=11, cap=10), None, NOW).idle


def test_judging_changes_nothing() -> None:
    one = holding()
    before = [getattr(one, name) for name in Holding.__slots__]
    for answer in (None, 5.0, nan, "x"):
        judge(one, answer, NOW)

    assert [getattr(one, name) for name in Holding.__slots__] == before


@given(st.floats(allow_nan=False) | st.integers(), st.floats(allow_nan=False))
def test_no_time_is_later_than_now(answer: float, now: float) -> None:
    """F13: whatever number comes, it can be ordered."""
    judged = judge(holding(), answer, now)

    assert judged.time <= now
    assert judged.time == judged.time


def test_ages_in_words() -> None:
    assert describe_age(97.5, 100.0) == "2.500 s old"
    assert describe_age(101.0, 100.0) == "0.000 s old"
    assert describe_age(99.5, 100.0) == "0.500 s old"
    assert describe_age(-inf, 100.0) == "of unknown age, which counts as very old"
