"""The standard log, written from the events. Nothing is logged on the fast path, nothing under the lock."""

from __future__ import annotations

import logging
from contextlib import suppress

from memquota._core.drift import AccountReconciled, Drift, DriftBackInBand, DriftLeftBand
from memquota._core.events import (
    AccountClosing,
    ClaimRefused,
    Event,
    GateClosed,
    GateOpened,
    OverRelease,
    ParticipationEnded,
    ProviderFailed,
    ProviderRecovered,
    RoundEnded,
    RoundOutcome,
    RoundStarted,
    VictimAsked,
    VictimOutcome,
    VictimSettled,
)
from memquota.errors import size_text

__all__ = [
    "Trouble",
    "log_accounting",
    "log_callback_failure",
    "log_event",
    "log_host",
    "log_participant",
    "logs_victims",
]

_accounts = logging.getLogger("memquota.accounts")
_gates = logging.getLogger("memquota.gates")
_reclaim = logging.getLogger("memquota.reclaim")
_host = logging.getLogger("memquota.host")
_accounting = logging.getLogger("memquota.accounting")


def log_callback_failure(what: str, where: str) -> None:
    """Somebody else's callback raised; for the handler of that exception."""
    _emit(_accounts, logging.ERROR, f"{what} raised ({where})", trace=True)


def log_participant(account: str, participant: str, text: str, *, trace: bool = False) -> None:
    """A participant misbehaves."""
    _emit(_reclaim, logging.WARNING, f"participant {participant} of account {account!r} {text}", trace=trace)


def log_host(text: str, *, warn: bool = False) -> None:
    """What a tracker does about the host's memory."""
    _emit(_host, logging.WARNING if warn else logging.INFO, text)


def log_accounting(text: str) -> None:
    """What cannot be measured here."""
    _emit(_accounting, logging.WARNING, text)


def logs_victims() -> bool:
    """Whether a line is written of a victim that does as it should. Not under a lock: the log has locks of its own."""
    return _reclaim.isEnabledFor(logging.INFO) or _accounts.isEnabledFor(logging.DEBUG)


def log_event(event: Event, tracker: str) -> None:
    """Write the line of an event, if it has one."""
    match event:
        case RoundStarted():
            if _reclaim.isEnabledFor(logging.INFO):
                text = (
                    f"{tracker}: round {event.number} about {event.scope!r} starts: {event.why}; "
                    f"{size_text(event.used)} used, down to {size_text(event.target)}"
                )
                _emit(_reclaim, logging.INFO, text)
        case VictimAsked() if _reclaim.isEnabledFor(logging.INFO):  # two lines a victim: not made where nobody reads
            following = f"; next would be {event.next_account!r}" if event.next_account is not None else ""
            text = (
                f"{tracker}: round {event.number} asks {event.account!r} for {size_text(event.bytes_wanted)} "
                f"of its {size_text(event.used)}: {event.why}{following}"
            )
            _emit(_reclaim, logging.INFO, text)
        case VictimSettled():
            level = logging.INFO
            if event.outcome in (VictimOutcome.FAILED, VictimOutcome.STALLED):
                level = logging.WARNING
            if _reclaim.isEnabledFor(level):
                text = (
                    f"{tracker}: round {event.number}: {event.account!r} {event.outcome.value}, "
                    f"{size_text(event.freed)} freed: {event.detail}"
                )
                _emit(_reclaim, level, text)
        case RoundEnded():
            level = logging.WARNING if event.outcome is RoundOutcome.NOBODY_LEFT else logging.INFO
            if _reclaim.isEnabledFor(level):
                text = (
                    f"{tracker}: round {event.number} about {event.scope!r} ends, {event.outcome.value}: "
                    f"{event.victims} asked, {size_text(event.freed)} freed, "
                    f"{size_text(event.used)} used of {size_text(event.target)}"
                )
                _emit(_reclaim, level, text)
        case ParticipationEnded():
            text = (
                f"{tracker}: participant {event.participant} of account {event.account!r} is detached, "
                f"{size_text(event.written_off)} written off: {event.why}"
            )
            _emit(_reclaim, logging.WARNING, text)
        case DriftLeftBand():
            text = f"{tracker}: what is claimed drifts apart from what is used: {_drift(event.drift)}"
            _emit(_host, logging.WARNING, f"{text}; the band is {event.low:.0%} to {event.high:.0%}")
        case DriftBackInBand():
            text = f"{tracker}: what is claimed agrees again with what is used: {_drift(event.drift)}"
            _emit(_host, logging.INFO, text)
        case AccountReconciled():
            text = (
                f"{tracker}: account {event.account!r} was written off by hand with {size_text(event.written_off)} "
                f"that it had claimed; {size_text(event.used)} stay claimed"
            )
            _emit(_accounts, logging.WARNING, text)
        case OverRelease() if event.first:
            text = (
                f"{tracker}: account {event.account!r} released {event.excess} bytes more than it claimed; "
                "further ones of this account are only counted"
            )
            _emit(_accounts, logging.WARNING, text)
        case ClaimRefused() if _accounts.isEnabledFor(logging.DEBUG):
            text = (
                f"{tracker}: claim of {size_text(event.asked)} by {event.account!r} refused: "
                f"{size_text(event.used)} used of {size_text(event.limit)}"
            )
            _emit(_accounts, logging.DEBUG, text)
        case AccountClosing() if _accounts.isEnabledFor(logging.DEBUG):
            text = f"{tracker}: account {event.account!r} closed: {event.reason.text}"
            _emit(_accounts, logging.DEBUG, text)
        case GateClosed():
            _emit(_gates, logging.INFO, f"{tracker}: gate {event.gate!r} admits nobody: {event.why}")
        case GateOpened():
            _emit(_gates, logging.INFO, f"{tracker}: gate {event.gate!r} admits again")
        case ProviderFailed():
            text = f"{tracker}: gate {event.gate!r} gets no memory readings, and soon goes on without: {event.why}"
            _emit(_gates, logging.WARNING, text)
        case ProviderRecovered():
            _emit(_gates, logging.INFO, f"{tracker}: gate {event.gate!r} gets memory readings again")
        case _:
            pass


def _drift(drift: Drift) -> str:
    sizes = f"{size_text(drift.nominal)} claimed, {size_text(drift.real)} used ({drift.source})"
    return f"{sizes}, {drift.share:.0%} of the limit apart"


class Trouble:
    """Says once that something fails, and once that it is over.

    Args:
        failing: What is said before the reason.
        over: What is said when it is over.
    """

    def __init__(self, failing: str, over: str) -> None:
        self._failing = failing
        self._over = over
        self._present = False

    def begins(self, error: Exception) -> None:
        """It fails, perhaps again."""
        if not self._present:
            self._present = True
            log_host(f"{self._failing}: {str(error) or type(error).__name__}", warn=True)

    def ends(self) -> None:
        """It works, perhaps again."""
        if self._present:
            self._present = False
            log_host(self._over)


def _emit(logger: logging.Logger, level: int, text: str, *, trace: bool = False) -> None:
    """Log, whatever handlers do: one that raises harms nobody who claims."""
    with suppress(Exception):
        logger.log(level, "%s", text, exc_info=trace)
