"""Sizes as people write them, to bytes and back, in exact integer arithmetic."""

import operator
import re
from typing import Final, SupportsIndex

from memquota.errors import UsageTypeError, UsageValueError, size_text

__all__ = ["LARGEST_SIZE", "format_size", "parse_size"]

LARGEST_SIZE: Final = 2**62
"""The largest size that is believed, in bytes; two of them still add up within 64 bits."""

_PREFIXES: Final = "KMGTPE"

# Every suffix in lower case. A bare prefix is missing on purpose: nobody knows which one is meant.
_FACTORS: Final[dict[str, int]] = (
    {"": 1, "b": 1}
    | {f"{prefix.lower()}b": 1000**power for power, prefix in enumerate(_PREFIXES, 1)}
    | {f"{prefix.lower()}i": 1024**power for power, prefix in enumerate(_PREFIXES, 1)}
    | {f"{prefix.lower()}ib": 1024**power for power, prefix in enumerate(_PREFIXES, 1)}
)

_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_SIZE: Final = re.compile(rf"({_DIGITS})(?:\.({_DIGITS}))?\s*([A-Za-z]*)")

# More than any size needs; what is longer is no size, and large integers are slow to read.
_LONGEST_TEXT: Final = 64


def parse_size(value: SupportsIndex | str, *, what: str = "size") -> int:
    """Bytes from an integer or from text such as `"512MiB"`, `"2 GB"`, `"1.5Gi"` or `"1_000_000"`.

    Binary suffixes are `Ki`, `Mi`, `Gi`, `Ti`, `Pi`, `Ei`, each also with a `B`; decimal ones are
    `KB`, `MB`, `GB`, `TB`, `PB`, `EB`; none, or `B`, means bytes. Case does not matter, except that
    a lower-case `b` after a capital reads as bits and is refused, as is a bare `512M`, which may
    mean either kind. A fraction must come to a whole number of bytes.

    Args:
        value: An `int`, anything with `__index__` that is not a `bool` or `float`, or text.
        what: What the size is called in an error's message.

    Returns:
        The size in bytes, between 0 and 2**62.

    Raises:
        UsageTypeError: `value` is neither an integer nor text.
        UsageValueError: `value` is negative, above 2**62, or not understood.

    Example:
        >>> parse_size("1.5GiB")
        1610612736
        >>> parse_size("512M", what="limit")
        Traceback (most recent call last):
            ...
        memquota.errors.UsageValueError: limit '512M' is ambiguous: write '512MiB' or '512MB'
    """
    if isinstance(value, str):
        return _checked(_from_text(value, what), what)
    try:
        if isinstance(value, (bool, float)):
            raise TypeError
        size = operator.index(value)
    except TypeError:
        raise UsageTypeError(
            f"{what} must be a whole number of bytes or a text such as '512MiB', not {type(value).__name__}"
        ) from None
    return _checked(size, what)


def format_size(size: int) -> str:
    """Text of `size` bytes for people, in binary units and rounded to a tenth: `"8.0 MiB"`.

    Example:
        >>> format_size(8 * 1024**2)
        '8.0 MiB'
    """
    return size_text(size)


def _checked(size: int, what: str) -> int:
    if size < 0:
        raise UsageValueError(f"{what} must not be negative")
    if size > LARGEST_SIZE:
        raise UsageValueError(f"{what} must not be above {size_text(LARGEST_SIZE)} (2**62 bytes)")
    return size


def _from_text(text: str, what: str) -> int:
    stripped = text.strip()
    if len(stripped) > _LONGEST_TEXT:
        raise UsageValueError(f"{what} is not a size: a text of {len(stripped)} characters")
    match = _SIZE.fullmatch(stripped)
    if match is None:
        if stripped.startswith("-"):
            raise UsageValueError(f"{what} must not be negative, got {text!r}")
        raise UsageValueError(f"{what} {text!r} is not a size such as '512MiB', '2GB' or '1.5Gi'")
    whole, fraction, suffix = match[1], match[2] or "", match[3]
    factor = _factor(text, whole, fraction, suffix, what)
    digits = fraction.replace("_", "")
    scale: int = 10 ** len(digits)
    size, below = divmod(int(whole.replace("_", "") + digits) * factor, scale)
    if below:
        raise UsageValueError(f"{what} {text!r} is not a whole number of bytes")
    return size


def _factor(text: str, whole: str, fraction: str, suffix: str, what: str) -> int:
    number = f"{whole}.{fraction}" if fraction else whole
    if len(suffix) == 1 and suffix.upper() in _PREFIXES:
        either = f"'{number}{suffix.upper()}iB' or '{number}{suffix.upper()}B'"
        raise UsageValueError(f"{what} {text!r} is ambiguous: write {either}")
    factor = _FACTORS.get(suffix.lower())
    if factor is None:
        raise UsageValueError(
            f"{what} {text!r} has the unknown unit {suffix!r}: "
            "the units are B, KiB, MiB, GiB, TiB, PiB, EiB, KB, MB, GB, TB, PB, EB"
        )
    if suffix.endswith("b") and suffix != suffix.lower():
        raise UsageValueError(
            f"{what} {text!r} is ambiguous: {suffix!r} may mean bits, write '{number}{suffix[:-1]}B' for bytes"
        )
    return factor
