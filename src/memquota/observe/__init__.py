"""What happened, for people and programs that watch: events, statistics, snapshots.

`Tracker.subscribe(callable)` delivers the events; the standard log under `memquota` is written from the same ones.
"""

from memquota._core.drift import AccountReconciled, Drift, DriftBackInBand, DriftLeftBand
from memquota._core.events import (
    AccountClosing,
    ClaimRefused,
    CloseKind,
    CloseReason,
    Event,
    GateClosed,
    GateOpened,
    LimitsChanged,
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
from memquota.observe.hooks import Hook
from memquota.observe.statistics import AccountSnapshot, Counts, HoldingSnapshot, Statistics, TrackerSnapshot

__all__ = [
    "AccountClosing",
    "AccountReconciled",
    "AccountSnapshot",
    "ClaimRefused",
    "CloseKind",
    "CloseReason",
    "Counts",
    "Drift",
    "DriftBackInBand",
    "DriftLeftBand",
    "Event",
    "GateClosed",
    "GateOpened",
    "HoldingSnapshot",
    "Hook",
    "LimitsChanged",
    "OverRelease",
    "ParticipationEnded",
    "ProviderFailed",
    "ProviderRecovered",
    "RoundEnded",
    "RoundOutcome",
    "RoundStarted",
    "Statistics",
    "TrackerSnapshot",
    "VictimAsked",
    "VictimOutcome",
    "VictimSettled",
]
