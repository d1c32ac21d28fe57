"""Waiting for room: gates for threads and tasks, and a limiter for smooth backpressure."""

from memquota.gates.admission import GateStatistics
from memquota.gates.awaiting import AsyncGate, AsyncPermit
from memquota.gates.blocking import Gate
from memquota.gates.limiter import PressureLimiter
from memquota.gates.permits import Permit

__all__ = ["AsyncGate", "AsyncPermit", "Gate", "GateStatistics", "Permit", "PressureLimiter"]
