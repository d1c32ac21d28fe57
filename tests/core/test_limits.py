"""Limit, low water and hard limit."""

from inspect import signature

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memquota._core.limits import CREDIT_SHARE, KEEP, LARGEST_SIZE, Keep, Limits
from memquota.errors import UsageValueError

sizes = st.integers(1, 2**62)


def test_low_water_is_three_quarters_of_the_limit_rounded_down() -> None:
    assert [Limits(limit).low_water for limit in (1, 2, 3, 4, 1000, 1001, 1002, 1003)] == [
        0,
        1,
        2,
        3,
        750,
        750,
        751,
        752,
    ]


def test_low_water_that_was_set_stands_also_when_it_is_nothing_or_all() -> None:
    assert Limits(1000, 0).low_water == 0
    assert Limits(1000, 1000).low_water == 1000


def test_at_the_limit_is_not_over_it() -> None:
    limits = Limits(1000)

    assert not limits.over(1000)
    assert limits.over(1001)


def test_a_hard_limit_alone_is_never_passed_and_refuses() -> None:
    limits = Limits(None, None, 1000)

    assert not limits.over(10**9)
    assert not limits.refuses(1000)
    assert limits.refuses(1001)
    assert limits.bound == 1000
    assert limits.low_water == 750


def test_without_a_hard_limit_nothing_is_refused() -> None:
    assert not Limits(1000).refuses(10**9)


def test_the_bound_is_the_limit_where_there_is_one() -> None:
    assert Limits(1000, None, 2000).bound == 1000


def test_at_low_water_a_round_may_stop() -> None:
    limits = Limits(1000)

    assert limits.relaxed(750)
    assert not limits.relaxed(751)


def test_a_thirty_second_part_may_be_out_as_credit() -> None:
    assert CREDIT_SHARE == 32
    assert [Limits(limit).credit for limit in (31, 32, 63, 64, 3200)] == [0, 1, 1, 2, 100]
    assert Limits(None, None, 3200).credit == 100


def test_the_least_sizes_are_taken() -> None:
    Limits(1, 0, 1)


def test_the_largest_sizes_are_taken() -> None:
    assert LARGEST_SIZE == 2**62
    Limits(2**62, 2**62, 2**62)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((0, None, None), "limit of 0 bytes is not between 1 and 2**62"),
        ((-1, None, None), "limit of -1 bytes is not between 1 and 2**62"),
        ((2**62 + 1, None, None), f"limit of {2**62 + 1} bytes is not between 1 and 2**62"),
        ((10, -1, None), "low water of -1 bytes is not between 0 and 2**62"),
        ((10, None, 0), "hard limit of 0 bytes is not between 1 and 2**62"),
        ((10, None, 2**62 + 1), f"hard limit of {2**62 + 1} bytes is not between 1 and 2**62"),
        ((None, 5, None), "a low water without a limit means nothing"),
        ((None, 5, 10), "a low water without a limit means nothing"),
        ((10, 11, None), "low water 11 is above the limit 10"),
        ((10, None, 9), "hard limit 9 is below the limit 10"),
    ],
)
def test_limits_that_contradict_themselves_are_refused(
    limits: tuple[int | None, int | None, int | None], message: str
) -> None:
    with pytest.raises(UsageValueError) as caught:
        Limits(*limits)

    assert str(caught.value) == message


def test_limits_may_all_be_equal() -> None:
    limits = Limits(10, 10, 10)

    assert (limits.low_water, limits.bound, limits.hard_limit) == (10, 10, 10)


def test_what_is_not_changed_stays() -> None:
    limits = Limits(100, 50, 200)

    assert limits.changed() == limits
    assert limits.changed(limit=150) == Limits(150, 50, 200)
    assert limits.changed(low_water=60) == Limits(100, 60, 200)
    assert limits.changed(hard_limit=300) == Limits(100, 50, 300)


def test_none_takes_a_value_away() -> None:
    limits = Limits(100, 50, 200)

    assert limits.changed(low_water=None) == Limits(100, None, 200)
    assert limits.changed(hard_limit=None) == Limits(100, 50, None)
    assert limits.changed(limit=None, low_water=None) == Limits(None, None, 200)


def test_a_low_water_that_was_not_set_follows_the_limit() -> None:
    assert Limits(1000).changed(limit=2000).low_water == 1500


def test_a_change_is_checked_as_a_whole() -> None:
    limits = Limits(100, 50, 200)

    assert limits.changed(limit=300, hard_limit=400) == Limits(300, 50, 400)
    with pytest.raises(UsageValueError, match="hard limit 200 is below the limit 300"):
        limits.changed(limit=300)
    with pytest.raises(UsageValueError, match="low water 50 is above the limit 40"):
        limits.changed(limit=40)
    assert limits == Limits(100, 50, 200)


def test_keep_says_its_name() -> None:
    assert repr(KEEP) == "KEEP"
    assert KEEP is Keep.KEEP
    assert KEEP.value == "keep"


@given(limit=sizes, used=st.integers(0, 2**63))
def test_between_limit_and_low_water_neither_starts_nor_stops(limit: int, used: int) -> None:
    limits = Limits(limit)

    assert not (limits.over(used) and limits.relaxed(used))
    assert 0 <= limits.credit * 32 <= limit
    assert limits.low_water * 4 <= limit * 3 < (limits.low_water + 1) * 4


def test_what_follows_from_the_limits_is_neither_given_nor_shown() -> None:
    limits = Limits(100, None, 200)

    assert list(signature(Limits).parameters) == ["limit", "low_water_set", "hard_limit"]
    assert repr(limits) == "Limits(limit=100, low_water_set=None, hard_limit=200)"


def test_no_limit_at_all_has_no_bound_and_no_credit() -> None:
    none = Limits(None)

    assert (none.bound, none.low_water, none.credit) == (0, 0, 0)
