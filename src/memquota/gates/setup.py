"""What both kinds of gates are configured with, checked."""

from __future__ import annotations

from math import isfinite
from typing import Final, cast, get_args

from memquota._core.limits import KEEP, Keep
from memquota._core.waiting_line import WaitingLine
from memquota._handles import closed_error
from memquota.account import Account
from memquota.errors import UsageTypeError, UsageValueError
from memquota.gates.admission import Admission
from memquota.gates.permits import Permit
from memquota.gates.readings import Measure, Provider
from memquota.gates.terms import OnFull, Oversized
from memquota.sizes import parse_size
from memquota.tracker import Tracker

__all__ = ["build", "change", "checked_timeout", "describe"]

_NEVER: Final = 100 * 365 * 86400.0


def build(
    tracker: Tracker,
    capacity: int | str | None,
    max_concurrent: int | None,
    provider: Provider | None,
    high: float,
    hysteresis: float,
    on_full: OnFull,
    oversized: Oversized,
    account: Account | None,
) -> Admission:
    """Make what a gate consists of.

    Raises:
        UsageError: A wrong argument.
        TrackerClosed: The tracker is closed.
        AccountClosed: The account is closed.
    """
    if not isinstance(tracker, Tracker):
        raise UsageTypeError(f"a gate stands on a tracker, not on {tracker!r}")
    if account is not None:
        if not isinstance(account, Account):
            raise UsageTypeError(f"a gate's account must be an account, not {account!r}")
        if account.tracker is not tracker:
            raise UsageValueError(f"account {account.name!r} belongs to another tracker than the gate")
        if account.closed:
            raise closed_error(account._node)
    _check_choices(on_full, oversized)
    size = None if capacity is None else parse_size(capacity, what="capacity")
    slots = _checked_count(max_concurrent)
    line: WaitingLine[Permit] = WaitingLine(size, slots, refuse_oversized=oversized == "refuse")
    _check_provider(provider)
    measure = _measure(provider, high, hysteresis)
    return Admission(tracker.new_account("gate") if account is None else account, line, measure, on_full)


def change(
    admission: Admission,
    capacity: int | str | Keep | None,
    max_concurrent: int | Keep | None,
    provider: Provider | Keep | None,
    high: float | Keep,
    hysteresis: float | Keep,
    on_full: OnFull | Keep,
    oversized: Oversized | Keep,
) -> None:
    """Replace what a gate was configured with.

    Raises:
        UsageError: A wrong argument; everything is as before.
    """
    _check_choices("wait" if on_full is KEEP else on_full, "alone" if oversized is KEEP else oversized)
    size = capacity if capacity is KEEP or capacity is None else parse_size(capacity, what="capacity")
    slots = max_concurrent if max_concurrent is KEEP else _checked_count(max_concurrent)
    if provider is not KEEP:
        _check_provider(provider)

    def measured(old: Measure) -> Measure:
        if provider is high is hysteresis is KEEP:
            return old
        return _measure(
            old.provider if provider is KEEP else provider,
            old.high if high is KEEP else high,
            old.hysteresis if hysteresis is KEEP else hysteresis,
        )

    admission.move(admission.reconfigure, size, slots, measured, on_full, oversized)
    admission.pump()


def _check_choices(on_full: object, oversized: object) -> None:
    for what, value, allowed in (
        ("on_full", on_full, get_args(OnFull)),
        ("oversized", oversized, get_args(Oversized)),
    ):
        if value not in allowed:
            raise UsageValueError(f"{what} must be one of {', '.join(map(repr, allowed))}, not {value!r}")


def _checked_count(count: object) -> int | None:
    if count is not None and type(count) is not int:
        raise UsageTypeError(f"max_concurrent must be an int, not {count!r}")
    return count


def _check_provider(provider: object) -> None:
    if provider is not None and not callable(getattr(provider, "read", None)):
        raise UsageTypeError(f"a provider has a method read; {provider!r} has none")


def _measure(provider: Provider | None, high: object, hysteresis: object) -> Measure:
    for what, share in (("high", high), ("hysteresis", hysteresis)):
        if isinstance(share, bool) or not isinstance(share, int | float):
            raise UsageTypeError(f"{what} must be a number, not {share!r}")
    top, gap = cast("float", high), cast("float", hysteresis)
    if not 0.0 < top <= 1.0:
        raise UsageValueError(f"high must be above 0 and at most 1, not {high!r}")
    if not 0.0 <= gap < top:
        raise UsageValueError(f"hysteresis must be at least 0 and below high, not {hysteresis!r}")
    return Measure(provider, top, gap)


def checked_timeout(timeout: object) -> float:
    """A timeout as a float, or UsageError."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise UsageTypeError(f"a timeout must be a number of seconds, not {timeout!r}")
    if not timeout >= 0:
        raise UsageValueError(f"a timeout must not be negative, and be a number: {timeout!r}")
    return float(timeout) if isfinite(timeout) and timeout < _NEVER else _NEVER


def describe(gate: object, admission: Admission) -> str:
    """The repr of a gate."""
    line = admission.line
    inside = line.inside - len(admission.spare)
    return f"<{type(gate).__name__} {admission.account.name!r}, {inside} inside, {len(line)} waiting>"
