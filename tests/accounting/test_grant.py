"""Grants: what may be planned with."""

from __future__ import annotations

from typing import Any

import pytest

from memquota import UsageError, UsageTypeError, UsageValueError, host
from memquota.accounting import Grant
from memquota.host import FixedProvider

MIB = 1024**2


def test_a_quarter_is_left_alone_unless_told_otherwise() -> None:
    assert Grant("512MiB").available == 384 * MIB
    assert Grant(512 * MIB) == Grant("512MiB", 0.25)
    assert Grant("512MiB", 0).available == 512 * MIB
    assert Grant("512MiB", 0.5).available == 256 * MIB


@pytest.mark.parametrize(
    ("limit", "slop", "available"),
    [
        (100, 0.1, 90),  # and not 89, as by the binary number next to 0.1
        (10**18, 0.3, 7 * 10**17),
        (2**62, 1e-18, 2**62 - 5),  # rounded down
        (3, 0.5, 1),
        (1, 0.25, 0),
        (1000, 0.999, 1),
    ],
)
def test_what_is_available_is_exact_and_rounded_down(limit: int, slop: float, available: int) -> None:
    assert Grant(limit, slop).available == available


def test_auto_is_all_that_the_host_gives_and_percentages_are_parts_of_it() -> None:
    provider = FixedProvider("10GiB", used="9GiB")

    assert Grant("auto", provider=provider).limit == 10 * 1024 * MIB
    assert Grant(provider=provider).available == 7680 * MIB
    assert Grant(" 80% ", 0, provider=provider).available == 8192 * MIB
    assert Grant("62.5%", provider=provider).limit == 6400 * MIB
    assert Grant("auto").limit == host.limits().effective


def test_a_grant_says_how_it_came_about() -> None:
    assert str(Grant("512MiB")) == "384.0 MiB (512.0 MiB less 25 %)"
    assert str(Grant("1KiB", 0.125)) == "896 B (1.0 KiB less 12.5 %)"
    assert str(Grant("1KiB", 0)) == "1.0 KiB"
    assert Grant("80%", 0.1, provider=FixedProvider(1000)).as_dict() == {
        "given": "80%",
        "limit": 800,
        "slop": 0.1,
        "available": 720,
    }
    assert Grant(1000).given == "1000 bytes"
    with pytest.raises(AttributeError):
        Grant(1).limit = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((0,), UsageValueError, "a limit of 0 grants nothing"),
        (("0%",), UsageValueError, "not above 0 %"),
        (("101%",), UsageValueError, "at most 100 %"),
        (("512M",), UsageValueError, "ambiguous"),
        (("all",), UsageValueError, "limit 'all' is not a size"),
        ((-1,), UsageValueError, "must not be negative"),
        ((2**62 + 1,), UsageValueError, "must not be above"),
        ((True,), UsageTypeError, "not bool"),
        ((1.5,), UsageTypeError, "not float"),
        ((None,), UsageTypeError, "not NoneType"),
        ((1, -0.1), UsageValueError, "slop must be at least 0 and below 1, not -0.1"),
        ((1, 1), UsageValueError, "below 1, not 1"),
        ((1, float("nan")), UsageValueError, "below 1, not nan"),
        ((1, "0.25"), UsageTypeError, "slop must be a number, not '0.25'"),
        ((1, True), UsageTypeError, "slop must be a number, not True"),
    ],
)
def test_what_is_no_grant_is_refused(arguments: Any, error: type[UsageError], text: str) -> None:
    with pytest.raises(error, match=text):
        Grant(*arguments)


def test_where_the_host_is_unknown_bytes_have_to_be_given() -> None:
    provider = FixedProvider("1GiB")
    provider.fail("on purpose")

    with pytest.raises(UsageValueError, match=r"limit 'auto' needs to know the host's memory.*on purpose"):
        Grant("auto", provider=provider)
    with pytest.raises(UsageTypeError, match="a provider must have a method read"):
        Grant("auto", provider=object())  # type: ignore[arg-type]
    with pytest.raises(UsageValueError, match="is nothing"):
        Grant("auto", provider=FixedProvider(0))
