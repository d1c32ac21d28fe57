"""The exceptions of a queue that was shut down: the standard library's own where it has them (3.13)."""

from __future__ import annotations

import asyncio
import queue
from typing import TYPE_CHECKING

__all__ = ["QueueShutDown", "ShutDown"]

if TYPE_CHECKING:

    class ShutDown(Exception):
        """Raised by put and get of a `Queue` that was shut down."""

    class QueueShutDown(Exception):
        """Raised by put and get of an `AsyncQueue` that was shut down."""
else:
    ShutDown = getattr(queue, "ShutDown", None) or type(
        "ShutDown", (Exception,), {"__doc__": "Raised by put and get of a `Queue` that was shut down."}
    )
    QueueShutDown = getattr(asyncio, "QueueShutDown", None) or type(
        "QueueShutDown", (Exception,), {"__doc__": "Raised by put and get of an `AsyncQueue` that was shut down."}
    )
