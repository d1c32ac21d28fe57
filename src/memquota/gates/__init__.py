"""Waiting for room: gates for threads and tasks, and a limiter for smooth backpressure."""

from memquota.gates.awaiting import AsyncGate, AsyncPermit
from memquota.gates.blocking import Gate
from memquota.gates.limiter import PressureLimiter
from memquota.gates.permits import Permit
from memquota.gates.terms import GateStatistics

__all__ = ["AsyncGate", "AsyncPermit", "Gate", "GateStatistics", "Permit", "PressureLimiter"]
