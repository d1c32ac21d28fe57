"""Queues that give memory back: between threads, between tasks, and as anyio streams.

Each has the interface of a queue that one knows, and takes an account first. What its items cost is claimed there when
they go in and released when they come out; when the tracker asks, the queue gives up everything ("collapse") or its
oldest items ("drop_oldest").
"""

from memquota.queues.buffer import OnReclaim
from memquota.queues.costs import ENTRY_COST, Cost, counts_fields, item_cost
from memquota.queues.shutdown import QueueShutDown, ShutDown
from memquota.queues.statistics import QueueStatistics, StreamStatistics
from memquota.queues.streams import (
    QuotaReceiveStream,
    QuotaSendStream,
    StreamAttribute,
    open_stream,
)
from memquota.queues.tasks import AsyncQueue
from memquota.queues.threads import Queue

__all__ = [
    "ENTRY_COST",
    "AsyncQueue",
    "Cost",
    "OnReclaim",
    "Queue",
    "QueueShutDown",
    "QueueStatistics",
    "QuotaReceiveStream",
    "QuotaSendStream",
    "ShutDown",
    "StreamAttribute",
    "StreamStatistics",
    "counts_fields",
    "item_cost",
    "open_stream",
]
