"""The clients of the relay: publishers, honest subscribers that check everything, and echo clients."""

from __future__ import annotations

import sysconfig
from hashlib import sha256
from itertools import count
from pathlib import Path
from time import monotonic

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from memquota.demo.scenario import Measured, Scenario

__all__ = ["Clients", "connect", "send_frame"]

#: A frame that arrives within so many seconds of when it was due is on schedule.
_IN_TIME = 1.0
_ECHOES = 4
#: What happens to a connection whose other end is gone.
GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, anyio.IncompleteRead, OSError)


async def connect(port: int, host: str, first: str) -> SocketStream:
    """Connect to the relay from an address of the loopback network, and say what the connection is."""
    stream = await anyio.connect_tcp("127.0.0.1", port, local_host=host)
    await send_frame(stream, first.encode())
    return stream


async def send_frame(stream: SocketStream, payload: bytes) -> None:
    """Send one frame."""
    await stream.send(len(payload).to_bytes(4, "big") + payload)


class Corpus:
    """The text of the standard library, in frames that can be told apart and checked."""

    def __init__(self, frame: int, frames: int = 256) -> None:
        text = bytearray()
        for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
            text += path.read_bytes()
            if len(text) >= frames * frame:
                break
        self._chunks = [bytes(text[at : at + frame - 8]) for at in range(0, len(text) - frame, frame)][:frames]
        self._digests = [sha256(chunk).digest() for chunk in self._chunks]

    def frame(self, number: int) -> bytes:
        """The frame of that number."""
        return number.to_bytes(8, "big") + self._chunks[number % len(self._chunks)]

    def number_of(self, frame: bytes) -> int | None:
        """The number of a frame; None when its content is not what was sent under that number."""
        number = int.from_bytes(frame[:8], "big")
        digest = sha256(memoryview(frame)[8:]).digest()
        return number if digest == self._digests[number % len(self._digests)] else None


class Clients:
    """The honest clients of one run."""

    def __init__(self, scenario: Scenario, port: int, measured: Measured) -> None:
        self.attacked = False
        # Set when none of them has its connection any more.
        self.all_cut = anyio.Event()
        # When publishing began.
        self._began: float | None = None
        self._scenario = scenario
        self._port = port
        self._measured = measured
        self._corpus = Corpus(scenario.frame)
        self._received = [0] * scenario.honest
        self._stopping = anyio.Event()
        self._echoing = True

    @property
    def received(self) -> int:
        """Frames that honest subscribers received correct and in order, in all."""
        return sum(self._received)

    async def run(self) -> None:
        """Publish, receive and echo until stopped."""
        ready = [anyio.Event() for _ in range(self._scenario.honest)]
        async with anyio.create_task_group() as tasks:
            for index in range(self._scenario.honest):
                tasks.start_soon(self._subscribe, index, ready[index])
            for event in ready:
                await event.wait()
            await anyio.sleep(0.2)  # the relay has seen their first frames
            self._began = monotonic()
            for topic in range(self._scenario.topics):
                tasks.start_soon(self._publish, topic)
            for index in range(_ECHOES):
                tasks.start_soon(self._echo, index)
            await self._stopping.wait()
            await anyio.sleep(0.5)  # what is under way arrives
            tasks.cancel_scope.cancel()

    def stop(self) -> None:
        """Let `run` end after what is under way has arrived."""
        self.count_due()
        self._stopping.set()

    def count_due(self) -> None:
        """What was to be delivered until now, by the clock."""
        if self._began is not None:
            now, scenario = monotonic(), self._scenario
            for index in range(scenario.honest):
                running = now - self._first(index % scenario.topics)
                self._measured.scheduled += max(0, 1 + int(running * scenario.rate))

    def _first(self, topic: int) -> float:
        """When the first frame of a topic is due: one topic after another."""
        assert self._began is not None
        return self._began + topic / self._scenario.topics / self._scenario.rate

    def _lost(self) -> None:
        if not self._stopping.is_set():
            self._measured.honest_cut += 1
            if self._measured.honest_cut == self._scenario.honest + self._scenario.topics + _ECHOES:
                self.all_cut.set()

    async def _publish(self, topic: int) -> None:
        scenario, first = self._scenario, self._first(topic)
        try:
            async with await connect(self._port, f"127.0.1.{100 + topic}", f"PUB news-{topic}") as stream:
                for number in count():
                    ahead = first + number / scenario.rate - monotonic()
                    if ahead > 0:
                        await anyio.sleep(ahead)
                    if self._stopping.is_set():
                        return
                    await send_frame(stream, self._corpus.frame(number))
        except GONE:
            self._lost()

    async def _subscribe(self, index: int, ready: anyio.Event) -> None:
        topic = index % self._scenario.topics
        try:
            async with await connect(self._port, f"127.0.1.{10 + index}", f"SUB news-{topic}") as stream:
                ready.set()
                buffered = BufferedByteReceiveStream(stream)
                while True:
                    size = int.from_bytes(await buffered.receive_exactly(4), "big")
                    number = self._corpus.number_of(await buffered.receive_exactly(size))
                    if number == self._received[index]:
                        self._received[index] += 1
                        due = self._first(topic) + number / self._scenario.rate
                        self._measured.delivered += monotonic() - due <= _IN_TIME
                    else:
                        self._measured.wrong += 1
        except GONE:
            ready.set()
            self._lost()

    async def _echo(self, index: int) -> None:
        payload = bytes(64)
        try:
            async with await connect(self._port, f"127.0.1.{50 + index}", "ECHO") as stream:
                buffered = BufferedByteReceiveStream(stream)
                while not self._stopping.is_set():
                    began = monotonic()
                    await send_frame(stream, payload)
                    await buffered.receive_exactly(4 + len(payload))
                    took = monotonic() - began
                    (self._measured.echo_attack if self.attacked else self._measured.echo_baseline).append(took)
                    await anyio.sleep(0.01)
        except GONE:
            self._lost()
