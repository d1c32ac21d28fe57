"""A publish/subscribe relay that readers who never read cannot kill.

Clients speak frames: four bytes of length, big-endian, then that many bytes. The first frame of a connection says what
it is: ``PUB topic`` sends everything that follows to the topic's subscribers, ``SUB topic`` receives it, ``ECHO`` gets
its own frames back.

What memquota does here is in a few places, marked (1) to (4). Without them a subscriber that does not read makes its
queue grow until the kernel kills the relay; with them, when everything that is held for clients is more than the quota,
the client whose oldest data waits longest is cut off.

    python examples/relay.py --quota 48MiB --port 7000
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import sys
from contextlib import suppress
from weakref import WeakValueDictionary

import anyio
import anyio.lowlevel

import memquota
from memquota.queues import QuotaReceiveStream, QuotaSendStream

LARGEST_FRAME = 1024 * 1024
LONGEST_TOPIC = 200
#: The kernel's buffers are counted by nobody, so they are small: left alone, one connection's may grow to megabytes.
SOCKET_BUFFER = 64 * 1024


class NotOurProtocol(Exception):
    """What the client sends makes no sense."""


class Connection:
    """A client's socket, from which nothing is read before somebody asks for it.

    That is why it is no stream of anyio: on asyncio one may read ahead, without bounds, what nobody counts.
    """

    def __init__(self, client: socket.socket, address: tuple[str, int]) -> None:
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = client
        self.host, self.port = address

    async def frame(self, account: memquota.Account) -> bytes:
        """The next frame, as it goes over the wire: with its length."""
        await anyio.lowlevel.checkpoint()  # who sends without a pause does not keep the others waiting
        head = await self.receive(4)
        size = int.from_bytes(head, "big")
        if size > LARGEST_FRAME:
            raise NotOurProtocol(f"a frame of {size} bytes is too large")
        with account.claimed(size):  # (3) a frame that is not all there yet is memory, too
            return head + await self.receive(size)

    async def receive(self, size: int) -> bytes:
        """Exactly so many bytes."""
        received = bytearray(size)
        missing = memoryview(received)
        while missing:
            try:
                count = self.socket.recv_into(missing)
            except BlockingIOError:
                await anyio.wait_readable(self.socket)
                continue
            if count == 0:
                raise EOFError("the client closed the connection")
            missing = missing[count:]
        return bytes(received)

    async def send(self, data: bytes) -> None:
        """Send everything."""
        left = memoryview(data)
        while left:
            try:
                left = left[self.socket.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(self.socket)

    async def until_gone(self) -> None:
        """Wait until a client that has nothing to say is gone. If it speaks all the same, it may go as well."""
        await anyio.wait_readable(self.socket)
        raise EOFError("the client closed the connection, or spoke out of turn")

    def forget(self) -> None:
        """Let the kernel drop what it still holds for the client when the socket is closed."""
        with suppress(OSError):  # it is gone already; not on Linux
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Relay:
    """The topics and who subscribed to them."""

    def __init__(self, tracker: memquota.Tracker, peer_limit: str | None = None) -> None:
        self.tracker = tracker
        self.peer_limit = peer_limit
        self.topics: dict[str, set[QuotaSendStream[bytes]]] = {}
        tracker.new_account(limit=peer_limit).close()  # refuses a limit that makes no sense, before a client comes
        # An account for each host that is connected; it lives as long as one of its connections.
        self.peers: WeakValueDictionary[str, memquota.Account] = WeakValueDictionary()

    async def serve(self, listener: socket.socket) -> None:
        """Serve everybody who connects, until cancelled."""
        listener.setblocking(False)
        async with anyio.create_task_group() as tasks:
            while True:
                await anyio.wait_readable(listener)
                try:
                    connection = Connection(*listener.accept())
                except OSError:  # gone again, or too many files are open
                    await anyio.sleep(0.01)
                else:
                    tasks.start_soon(self.handle, connection)

    async def handle(self, connection: Connection) -> None:
        """Serve one connection."""
        with connection.socket:
            # (1) An account for the connection, below that of its host. When it has to go, so has what is done for it.
            account = self.peer(connection.host).new_child(f"{connection.host}:{connection.port}")
            with anyio.CancelScope() as scope:
                account.on_close(lambda reason: scope.cancel())
                try:
                    await self.do(connection, account)
                except* (OSError, EOFError, NotOurProtocol, memquota.Closed):  # a group where `subscribe` runs tasks
                    pass  # gone, not speaking frames, or cut off: its own affair
            if account.closed:
                connection.forget()

    async def do(self, connection: Connection, account: memquota.Account) -> None:
        """What the first frame asks for, until the client is gone."""
        verb, _, topic = (await connection.frame(account))[4:].decode(errors="replace").partition(" ")
        if len(topic) > LONGEST_TOPIC:
            raise NotOurProtocol("the name of a topic is too long")
        while verb == "PUB":
            self.publish(topic, await connection.frame(account))
        while verb == "ECHO":
            frame = await connection.frame(account)
            with account.claimed(len(frame)):  # (3) one that is on its way out, as well
                await connection.send(frame)
        if verb == "SUB":
            await self.subscribe(topic, connection, account)

    def publish(self, topic: str, frame: bytes) -> None:
        """Queue a frame for every subscriber, without waiting for any of them."""
        for queue in list(self.topics.get(topic, ())):
            try:
                queue.send_nowait(frame)
            except memquota.MemoryReclaimed:  # this subscriber was the slowest: `handle` cuts it off
                pass

    async def subscribe(self, topic: str, connection: Connection, account: memquota.Account) -> None:
        """Send what is queued, as fast as the subscriber reads."""
        # (2) A queue on the account instead of anyio.create_memory_object_stream.
        send: QuotaSendStream[bytes]
        receive: QuotaReceiveStream[bytes]
        send, receive = memquota.open_stream(account)
        queues = self.topics.setdefault(topic, set())
        queues.add(send)
        with send, receive:
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(connection.until_gone)  # else who leaves is noticed at the next frame
                    async for frame in receive:
                        with account.claimed(len(frame)):  # (3) no longer in the queue, and not sent yet
                            await connection.send(frame)
            finally:
                queues.discard(send)  # before it is closed: `publish` takes whatever it finds
                if not queues:  # names that nobody uses any more are memory, too
                    del self.topics[topic]

    def peer(self, host: str) -> memquota.Account:
        """The account of a host."""
        account = self.peers.get(host)
        if account is None or account.closed:
            self.peers[host] = account = self.tracker.new_account(host, limit=self.peer_limit)
        return account


def listen(port: int) -> socket.socket:
    """A socket for `Relay.serve`."""
    listener = socket.create_server(("127.0.0.1", port), backlog=1000)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):  # the connections inherit them
        listener.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
    return listener


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
    """Serve until interrupted."""
    try:
        if options.quota == "none":
            tracker = memquota.Tracker.disabled()
        else:  # (4) one budget for all clients together
            tracker = memquota.Tracker(options.quota, low_water=options.low_water, policy=options.policy, name="relay")
        relay = Relay(tracker, options.peer_limit)
        listener = listen(options.port)
    except (memquota.UsageError, OSError, OverflowError) as error:  # a quota that is no size, a port that is taken
        sys.exit(f"relay: {error}")
    with listener:
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        async with anyio.create_task_group() as tasks:
            if options.report > 0:
                tasks.start_soon(report, tracker, options.report)
            await relay.serve(listener)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="A publish/subscribe relay with a memory quota.")
    parser.add_argument("--port", type=int, default=0, help="where to listen on 127.0.0.1; 0 picks one and prints it")
    parser.add_argument("--quota", default="48MiB", help='for all that is held for clients, or "none"')
    parser.add_argument("--low-water", help="where reclamation stops; 75 %% of the quota by default")
    parser.add_argument("--peer-limit", help="for what is held for one host; none by default")
    parser.add_argument("--policy", default="oldest_data", help="who is cut off first")
    parser.add_argument("--backend", default="asyncio", choices=["asyncio", "trio"])
    parser.add_argument("--report", type=float, default=0.0, help="print numbers every so many seconds")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    chosen = parse(sys.argv[1:])
    try:
        anyio.run(main, chosen, backend=chosen.backend)
    except* KeyboardInterrupt:
        pass
