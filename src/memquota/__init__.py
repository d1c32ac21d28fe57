"""One byte budget over many data structures; when it runs out, the oldest data gives way."""

from importlib import import_module
from types import ModuleType

from anyio import WouldBlock

from memquota import observe, policies, queues, reclaimers, testing
from memquota._core.events import CloseKind, CloseReason
from memquota._core.plan import PlannedVictim, ReclaimPlan
from memquota.account import Account
from memquota.errors import (
    AccountClosed,
    BoundsError,
    Closed,
    MemoryQuotaError,
    MemoryReclaimed,
    ParticipationClosed,
    QuotaExceeded,
    TrackerBroken,
    TrackerClosed,
    UsageError,
    UsageTypeError,
    UsageValueError,
)
from memquota.gates import AsyncGate, AsyncPermit, Gate, Permit, PressureLimiter
from memquota.participant import Participant, Reclaimed, ReclaimRequest
from memquota.participation import Participation
from memquota.queues import AsyncQueue, Queue, QueueShutDown, ShutDown, open_stream
from memquota.sizes import format_size, parse_size
from memquota.tracker import Tracker

__all__ = [
    "Account",
    "AccountClosed",
    "AsyncGate",
    "AsyncPermit",
    "AsyncQueue",
    "BoundsError",
    "CloseKind",
    "CloseReason",
    "Closed",
    "Gate",
    "MemoryQuotaError",
    "MemoryReclaimed",
    "Participant",
    "Participation",
    "ParticipationClosed",
    "Permit",
    "PlannedVictim",
    "PressureLimiter",
    "Queue",
    "QueueShutDown",
    "QuotaExceeded",
    "ReclaimPlan",
    "ReclaimRequest",
    "Reclaimed",
    "ShutDown",
    "Tracker",
    "TrackerBroken",
    "TrackerClosed",
    "UsageError",
    "UsageTypeError",
    "UsageValueError",
    "WouldBlock",
    "format_size",
    "observe",
    "open_stream",
    "parse_size",
    "policies",
    "queues",
    "reclaimers",
    "testing",
]


def __getattr__(name: str) -> ModuleType:
    """`memquota.host` and `memquota.accounting` are imported when they are used first: most programs do without."""
    if name in ("accounting", "host"):
        return import_module(f"memquota.{name}")
    raise AttributeError(f"module 'memquota' has no attribute {name!r}")
