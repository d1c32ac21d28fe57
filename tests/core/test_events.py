"""The names that events and reasons carry: people read them, and programs compare them."""

from memquota._core.events import CloseKind, CloseReason, Event, RoundOutcome, VictimOutcome


def test_kinds_of_closing() -> None:
    assert {kind.name: kind.value for kind in CloseKind} == {
        "CLOSED": "closed",
        "DROPPED": "dropped",
        "RECLAIMED": "reclaimed",
        "FAILED": "failed",
        "STALLED": "stalled",
        "WRITTEN_OFF": "written off",
        "TRACKER_CLOSED": "tracker closed",
    }


def test_memory_given_up_under_pressure_is_told_from_an_account_that_was_closed() -> None:
    under_pressure = {kind for kind in CloseKind if kind.under_pressure}

    assert under_pressure == {CloseKind.RECLAIMED, CloseKind.FAILED, CloseKind.STALLED}
    assert all(kind.under_pressure is (kind in under_pressure) for kind in CloseKind)


def test_what_goes_along_says_with_whom_and_why() -> None:
    reason = CloseReason(CloseKind.FAILED, "account", "did not answer", 3.0)

    assert reason.along() == CloseReason(CloseKind.FAILED, "account", "closed with 'account': did not answer", 3.0)


def test_outcomes_of_victims() -> None:
    assert {outcome.name: outcome.value for outcome in VictimOutcome} == {
        "COLLAPSED": "collapsed",
        "PARTIAL": "partial",
        "FAILED": "failed",
        "STALLED": "stalled",
        "GONE": "gone",
    }


def test_outcomes_of_rounds() -> None:
    assert {outcome.name: outcome.value for outcome in RoundOutcome} == {
        "DONE": "at or below low water",
        "NOBODY_LEFT": "nobody left to ask",
        "CANCELLED": "cancelled",
    }


def test_reasons_are_values() -> None:
    reason = CloseReason(CloseKind.CLOSED, "account", "closed by hand", 3.0)

    assert reason == CloseReason(CloseKind.CLOSED, "account", "closed by hand", 3.0)
    assert not isinstance(reason, Event)
