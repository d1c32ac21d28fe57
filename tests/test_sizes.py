from fractions import Fraction
from typing import Any, SupportsIndex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memquota.errors import UsageTypeError, UsageValueError
from memquota.sizes import LARGEST_SIZE, format_size, parse_size

UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "PB": 10**15,
    "EB": 10**18,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "Pi": 2**50,
    "Ei": 2**60,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "PiB": 2**50,
    "EiB": 2**60,
}
units = st.sampled_from(sorted(UNITS))


class Indexed:
    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class Unindexable:
    def __index__(self) -> int:
        raise TypeError("only scalars can be an index")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MiB", 536_870_912),
        ("2GB", 2_000_000_000),
        ("1.5Gi", 1_610_612_736),
        ("1_000_000", 1_000_000),
        ("10 KiB", 10_240),
        ("  1024 ", 1024),
        ("1024B", 1024),
        ("1024b", 1024),
        ("3 kB", 3000),
        ("3mb", 3_000_000),
        ("3MIB", 3_145_728),
        ("0", 0),
        ("0.5KB", 500),
        ("1_0.2_5KiB", 10_496),
        ("0.0009765625KiB", 1),
        ("4EiB", 2**62),
    ],
)
def test_text_is_understood_exactly(text: str, size: int) -> None:
    assert parse_size(text) == size


@given(st.integers(0, LARGEST_SIZE))
def test_an_integer_and_its_text_mean_that_many_bytes(size: int) -> None:
    assert parse_size(size) == size
    assert parse_size(str(size)) == size
    assert parse_size(f"{size:_}") == size
    assert parse_size(Indexed(size)) == size


@given(st.integers(0, 2**62), units)
def test_whole_numbers_of_a_unit_are_exact(number: int, unit: str) -> None:
    expected = number * UNITS[unit]
    text = f"{number} {unit}"

    if expected > 2**62:
        with pytest.raises(UsageValueError, match="must not be above"):
            parse_size(text)
    else:
        assert parse_size(text) == expected


@given(st.integers(0, 2**40), st.text("0123456789", min_size=1, max_size=20), units)
def test_a_fraction_is_exact_or_refused(whole: int, fraction: str, unit: str) -> None:
    text = f"{whole}.{fraction}{unit}"
    expected = Fraction(f"{whole}.{fraction}") * UNITS[unit]

    if expected > 2**62 or expected.denominator != 1:
        with pytest.raises(UsageValueError):
            parse_size(text)
    else:
        assert parse_size(text) == expected


@given(st.integers(0, 2**32), units, st.randoms(use_true_random=False))
def test_case_matters_only_where_bits_could_be_meant(number: int, unit: str, random: Any) -> None:
    cased = "".join(random.choice([letter.lower(), letter.upper()]) for letter in unit)
    looks_like_bits = cased.endswith("b") and cased != cased.lower()

    if number * UNITS[unit] > 2**62 or looks_like_bits:
        with pytest.raises(UsageValueError):
            parse_size(f"{number}{cased}")
    else:
        assert parse_size(f"{number}{cased}") == number * UNITS[unit]


@given(st.text())
def test_any_text_is_a_size_or_refused(text: str) -> None:
    try:
        size = parse_size(text)
    except UsageValueError:
        return
    assert 0 <= size <= 2**62


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("512M", "limit '512M' is ambiguous: write '512MiB' or '512MB'"),
        ("1.5k", "limit '1.5k' is ambiguous: write '1.5KiB' or '1.5KB'"),
        ("8Mb", "limit '8Mb' is ambiguous: 'Mb' may mean bits, write '8MB' for bytes"),
        ("8Mib", "limit '8Mib' is ambiguous: 'Mib' may mean bits, write '8MiB' for bytes"),
        ("0.3KiB", "limit '0.3KiB' is not a whole number of bytes"),
        ("-1", "limit must not be negative, got '-1'"),
        ("", "limit '' is not a size such as '512MiB', '2GB' or '1.5Gi'"),
        ("nan", "limit 'nan' is not a size such as '512MiB', '2GB' or '1.5Gi'"),
        ("1e9", "limit '1e9' is not a size such as '512MiB', '2GB' or '1.5Gi'"),
        ("1__0", "limit '1__0' is not a size such as '512MiB', '2GB' or '1.5Gi'"),
        ("٣KiB", "limit '٣KiB' is not a size such as '512MiB', '2GB' or '1.5Gi'"),
        (
            "3 blocks",
            (
                "limit '3 blocks' has the unknown unit 'blocks': "
                "the units are B, KiB, MiB, GiB, TiB, PiB, EiB, KB, MB, GB, TB, PB, EB"
            ),
        ),
        ("9" * 5000, "limit is not a size: a text of 5000 characters"),
        ("4611686018427387905", "limit must not be above 4.0 EiB (2**62 bytes)"),
    ],
)
def test_text_that_cannot_be_used_is_refused_with_a_reason(text: str, message: str) -> None:
    with pytest.raises(UsageValueError) as caught:
        parse_size(text, what="limit")
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [True, 1.0, float("nan"), None, b"1", 1j, int, Unindexable()])
def test_what_is_neither_whole_number_nor_text_is_refused(value: SupportsIndex) -> None:
    with pytest.raises(UsageTypeError) as caught:
        parse_size(value, what="limit")
    assert str(caught.value) == (
        f"limit must be a whole number of bytes or a text such as '512MiB', not {type(value).__name__}"
    )


@pytest.mark.parametrize("value", [2**62 + 1, 10**100, 10**6000], ids=["2**62+1", "10**100", "10**6000"])
def test_numbers_above_the_cap_are_refused(value: int) -> None:
    with pytest.raises(UsageValueError) as caught:
        parse_size(value, what="limit")
    assert str(caught.value) == "limit must not be above 4.0 EiB (2**62 bytes)"


@pytest.mark.parametrize("value", [-1, -(10**6000)], ids=["-1", "-10**6000"])
def test_negative_numbers_are_refused(value: int) -> None:
    with pytest.raises(UsageValueError) as caught:
        parse_size(value, what="limit")
    assert str(caught.value) == "limit must not be negative"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (4096, "4.0 KiB"),
        (8 * 2**20, "8.0 MiB"),
        (1_048_524, "1023.9 KiB"),
        (1_048_525, "1.0 MiB"),
        (2**62, "4.0 EiB"),
        (2**80, "1048576.0 EiB"),
        (-8 * 2**20, "-8.0 MiB"),
    ],
)
def test_a_size_is_shown_in_the_unit_that_fits(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 2**62))
def test_shown_sizes_are_right_to_half_a_tenth_of_their_unit(size: int) -> None:
    number, unit = format_size(size).split()

    shown = Fraction(number) * UNITS[unit]
    assert abs(shown - size) * 20 <= UNITS[unit]
    assert Fraction(number) < 1024
