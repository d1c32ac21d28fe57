"""Queues and streams in numbers."""

from __future__ import annotations

from attrs import frozen

__all__ = ["QueueStatistics", "StreamStatistics"]


@frozen
class QueueStatistics:
    """A queue in numbers.

    Attributes:
        items: How many are inside.
        bytes: What they cost, with their entries.
        dropped_items: How many were dropped for want of memory, by "drop_oldest".
        dropped_bytes: What these cost.
        waiting_to_put: How many tasks or threads wait to put.
        waiting_to_get: And to get.
    """

    items: int
    bytes: int
    dropped_items: int
    dropped_bytes: int
    waiting_to_put: int
    waiting_to_get: int


@frozen
class StreamStatistics(QueueStatistics):
    """A stream in numbers. The names that anyio's memory object streams have are there, too.

    Attributes:
        max_buffer_size: Most items inside.
        open_send_streams: How many ends to send by are open.
        open_receive_streams: How many ends to receive by are open.
    """

    max_buffer_size: float
    open_send_streams: int
    open_receive_streams: int

    @property
    def current_buffer_used(self) -> int:
        """`items`."""
        return self.items

    @property
    def tasks_waiting_send(self) -> int:
        """`waiting_to_put`."""
        return self.waiting_to_put

    @property
    def tasks_waiting_receive(self) -> int:
        """`waiting_to_get`."""
        return self.waiting_to_get
