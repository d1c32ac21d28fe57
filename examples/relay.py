"""A publish/subscribe relay that readers who never read cannot kill.

Clients speak frames: four bytes of length, big-endian, then that many bytes. The first frame of a connection says what
it is: ``PUB topic`` sends everything that follows to the topic's subscribers, ``SUB topic`` receives it, ``ECHO`` gets
its own frames back.

What memquota does here is in three places, marked (1), (2) and (3). Without them a subscriber that does not read makes
its queue grow until the kernel kills the relay; with them, when all queues together hold more than the quota, the
subscriber whose oldest frame waits longest is cut off.

    python examples/relay.py --quota 48MiB --port 7000
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from weakref import WeakValueDictionary

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

import memquota
from memquota.queues import QuotaReceiveStream, QuotaSendStream

LARGEST_FRAME = 1024 * 1024
LONGEST_TOPIC = 200
#: The kernel's buffers are counted by nobody, so they are small: left alone, one connection's may grow to megabytes.
SOCKET_BUFFER = 64 * 1024


class Relay:
    """The topics and who subscribed to them."""

    def __init__(self, tracker: memquota.Tracker) -> None:
        self.tracker = tracker
        self.topics: dict[str, set[QuotaSendStream[bytes]]] = {}
        # An account for each host that is connected; it lives as long as one of its subscribers.
        self.peers: WeakValueDictionary[str, memquota.Account] = WeakValueDictionary()
        self.peer_limit: str | None = None

    async def handle(self, stream: SocketStream) -> None:
        """Serve one connection."""
        try:
            async with stream, aclosing(read_frames(stream)) as frames:
                verb, _, topic = (await anext(frames, b"")).decode(errors="replace").partition(" ")
                if len(topic) > LONGEST_TOPIC:
                    raise ValueError("the name of a topic is too long")
                if verb == "PUB":
                    await self.publish(topic, frames)
                elif verb == "SUB":
                    await self.subscribe(topic, stream)
                elif verb == "ECHO":
                    async for frame in frames:
                        await stream.send(pack(frame))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ValueError):
            pass  # gone, cut off, or not speaking frames: its own affair

    async def publish(self, topic: str, frames: AsyncIterator[bytes]) -> None:
        """Queue every frame for every subscriber, without waiting for any of them."""
        async for frame in frames:
            packed = pack(frame)
            for queue in list(self.topics.get(topic, ())):
                try:
                    queue.send_nowait(packed)
                except memquota.MemoryReclaimed:  # (3) this subscriber was the slowest: `subscribe` cuts it off
                    pass

    async def subscribe(self, topic: str, stream: SocketStream) -> None:
        """Send what is queued, as fast as the subscriber reads."""
        raw = stream.extra(SocketAttribute.raw_socket)
        host = str(stream.extra(SocketAttribute.remote_address)[0])
        with anyio.CancelScope() as scope:
            # (1) An account below that of its host, and a queue on it instead of anyio.create_memory_object_stream.
            account = self.peer(host).new_child(f"{host} on {topic}")
            send: QuotaSendStream[bytes]
            receive: QuotaReceiveStream[bytes]
            send, receive = memquota.open_stream(account, on_collapse=lambda reason: scope.cancel())
            queues = self.topics.setdefault(topic, set())
            queues.add(send)
            async with send, receive:
                try:
                    async for packed in receive:
                        await stream.send(packed)
                finally:
                    queues.discard(send)  # before it is closed: `publish` takes whatever it finds
                    if not queues:  # names that nobody uses any more are memory, too
                        del self.topics[topic]
        if scope.cancelled_caught:  # cut off at once, with what the kernel still holds for it
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def peer(self, host: str) -> memquota.Account:
        """The account of a host."""
        account = self.peers.get(host)
        if account is None or account.closed:
            self.peers[host] = account = self.tracker.new_account(host, limit=self.peer_limit)
        return account


def pack(frame: bytes) -> bytes:
    """A frame as it goes over the wire."""
    return len(frame).to_bytes(4, "big") + frame


async def read_frames(stream: SocketStream) -> AsyncGenerator[bytes, None]:
    """The frames that come in on a connection, until it ends."""
    buffered = BufferedByteReceiveStream(stream)
    while True:
        try:
            size = int.from_bytes(await buffered.receive_exactly(4), "big")
            if size > LARGEST_FRAME:
                raise ValueError(f"a frame of {size} bytes is too large")
            yield await buffered.receive_exactly(size)
        except (anyio.IncompleteRead, anyio.EndOfStream):
            return


async def report(tracker: memquota.Tracker, seconds: float) -> None:
    """Print the tracker's numbers as lines of JSON, for whoever watches."""
    while True:
        now = tracker.statistics()
        numbers = {
            "used": now.used,
            "peak": now.peak,
            "rounds": now.counts.rounds,
            "victims": now.counts.victims,
            "longest_round": now.longest_round,
        }
        print(json.dumps(numbers), flush=True)
        await anyio.sleep(seconds)


async def main(options: argparse.Namespace) -> None:
    """Serve until killed."""
    if options.quota == "none":
        tracker = memquota.Tracker.disabled()
    else:  # (2) one budget for all queues together
        tracker = memquota.Tracker(options.quota, low_water=options.low_water, policy=options.policy, name="relay")
    relay = Relay(tracker)
    relay.peer_limit = options.peer_limit
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=options.port)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):  # the connections inherit them
        listener.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
    port = listener.extra(SocketAttribute.local_port)
    print(json.dumps({"port": port}), flush=True)
    async with anyio.create_task_group() as tasks:
        if options.report:
            tasks.start_soon(report, tracker, options.report)
        await listener.serve(relay.handle, tasks)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="A publish/subscribe relay with a memory quota.")
    parser.add_argument("--port", type=int, default=0, help="where to listen on 127.0.0.1; 0 picks one and prints it")
    parser.add_argument("--quota", default="48MiB", help='for all queues together, or "none"')
    parser.add_argument("--low-water", help="where reclamation stops; 75 %% of the quota by default")
    parser.add_argument("--peer-limit", help="for the queues of one host; none by default")
    parser.add_argument("--policy", default="oldest_data", help="who is cut off first")
    parser.add_argument("--backend", default="asyncio", choices=["asyncio", "trio"])
    parser.add_argument("--report", type=float, default=0.0, help="print numbers every so many seconds")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    chosen = parse(sys.argv[1:])
    anyio.run(main, chosen, backend=chosen.backend)
