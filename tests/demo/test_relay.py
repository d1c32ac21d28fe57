"""The example relay on real sockets."""

import importlib.util
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import anyio
import pytest
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

import memquota


def load_relay() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "relay.py"
    spec = importlib.util.spec_from_file_location("relay_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


relay = load_relay()


@asynccontextmanager
async def serving(tracker: memquota.Tracker) -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(relay.Relay(tracker).serve, listener)
            yield listener.getsockname()[1]
            tasks.cancel_scope.cancel()


async def connect(port: int, first: bytes) -> SocketStream:
    stream = await anyio.connect_tcp("127.0.0.1", port)
    await stream.send(pack(first))
    return stream


def pack(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


async def receive_frame(buffered: BufferedByteReceiveStream) -> bytes:
    size = int.from_bytes(await buffered.receive_exactly(4), "big")
    return await buffered.receive_exactly(size)


async def until_subscribed(tracker: memquota.Tracker, accounts: int) -> None:
    while tracker.statistics().accounts < accounts:
        await anyio.lowlevel.checkpoint()


async def test_subscribers_get_every_frame_in_order() -> None:
    tracker = memquota.Tracker("1MiB")
    with anyio.fail_after(20):
        async with serving(tracker) as port:
            readers = [await connect(port, b"SUB news") for _ in range(3)]
            await until_subscribed(tracker, 4)  # a host and three connections
            publisher = await connect(port, b"PUB news")
            frames = [b"%d" % number * 1000 for number in range(20)]
            for frame in frames:
                await publisher.send(pack(frame))

            for reader in readers:
                buffered = BufferedByteReceiveStream(reader)
                assert [await receive_frame(buffered) for _ in frames] == frames
                await reader.aclose()
            await publisher.aclose()


async def test_who_never_reads_is_cut_off_and_the_others_lose_nothing() -> None:
    tracker = memquota.Tracker("1MiB")
    with anyio.fail_after(30):
        async with serving(tracker) as port:
            sleeper = socket.socket()
            sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sleeper.connect(("127.0.0.1", port))
            sleeper.sendall(pack(b"SUB news"))
            await until_subscribed(tracker, 2)
            reader = await connect(port, b"SUB news")
            await until_subscribed(tracker, 3)
            publisher = await connect(port, b"PUB news")
            buffered = BufferedByteReceiveStream(reader)

            for number in range(400):
                frame = number.to_bytes(2, "big") * 8192
                await publisher.send(pack(frame))
                assert await receive_frame(buffered) == frame

            assert tracker.statistics().counts.collapsed == 1
            assert tracker.used <= tracker.limit
            state = sleeper.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
            assert state != 1, "its connection is closed hard, so that the kernel holds nothing for it"
            sleeper.close()
            await reader.aclose()
            await publisher.aclose()


async def test_a_topic_that_nobody_subscribes_to_any_more_is_forgotten() -> None:
    """Else who subscribes to one after another fills the memory with names."""
    served = relay.Relay(memquota.Tracker("1MiB"))
    with anyio.fail_after(20), socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.serve, listener)
            readers = [await connect(port, b"SUB %d" % (number // 2)) for number in range(6)]
            while sum(map(len, served.topics.values())) < 6:
                await anyio.lowlevel.checkpoint()
            assert sorted(served.topics) == ["0", "1", "2"]
            publishers = [await connect(port, b"PUB %d" % number) for number in range(3)]

            for reader in readers[1:]:
                await reader.aclose()
            while len(served.topics) > 1:  # they are gone when something is sent to them
                for publisher in publishers:
                    await publisher.send(pack(b"x" * 1000))
                await anyio.lowlevel.checkpoint()

            assert await receive_frame(BufferedByteReceiveStream(readers[0])) == b"x" * 1000
            assert list(served.topics) == ["0"]
            for stream in (readers[0], *publishers):
                await stream.aclose()
            tasks.cancel_scope.cancel()


async def test_who_names_a_long_topic_is_let_go() -> None:
    tracker = memquota.Tracker("1MiB")
    with anyio.fail_after(20):
        async with serving(tracker) as port, await connect(port, b"SUB " + b"x" * 201) as stream:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
    assert tracker.statistics().accounts == 0


async def test_echo() -> None:
    with anyio.fail_after(20):
        async with serving(memquota.Tracker("1MiB")) as port, await connect(port, b"ECHO") as stream:
            buffered = BufferedByteReceiveStream(stream)
            await stream.send(pack(b"hello"))
            assert await receive_frame(buffered) == b"hello"


@pytest.mark.parametrize("first", [b"NONSENSE", b"\xff\xfe", b""])
async def test_who_speaks_nonsense_is_let_go(first: bytes) -> None:
    with anyio.fail_after(20):
        async with serving(memquota.Tracker("1MiB")) as port, await connect(port, first) as stream:
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()


async def test_a_frame_that_is_too_large_ends_the_connection() -> None:
    with anyio.fail_after(20):
        async with serving(memquota.Tracker("1MiB")) as port, await connect(port, b"ECHO") as stream:
            await stream.send((relay.LARGEST_FRAME + 1).to_bytes(4, "big"))
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()


async def test_what_nobody_takes_is_not_read_ahead() -> None:
    """Else a client that sends and never reads fills the memory with what nobody counts."""
    tracker = memquota.Tracker("1MiB")
    with anyio.fail_after(60):
        async with serving(tracker) as port:
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(pack(b"ECHO"))
            client.setblocking(False)
            frames = memoryview(pack(bytes(30_000)) * 1000)
            sent = refused = 0

            while sent < len(frames) and refused < 1000:
                try:
                    sent += client.send(frames[sent:])
                    refused = 0
                except BlockingIOError:
                    refused += 1
                    await anyio.lowlevel.checkpoint()

            assert refused == 1000, f"the relay took {sent} bytes, and nobody reads what it sends back"
            assert tracker.used == 30_004
            client.close()


async def test_frames_that_are_not_all_there_are_counted() -> None:
    tracker = memquota.Tracker("1MiB")
    with anyio.fail_after(20):
        async with serving(tracker) as port:
            slow = await connect(port, b"PUB news")
            await slow.send((600_000).to_bytes(4, "big"))
            while tracker.used != 600_000:
                await anyio.lowlevel.checkpoint()

            async with await connect(port, b"ECHO") as other:
                await other.send(pack(bytes(600_000)))

                assert len(await receive_frame(BufferedByteReceiveStream(other))) == 600_000
                with pytest.raises(anyio.BrokenResourceError):  # the slow one was there first
                    await slow.receive()
            assert tracker.statistics().counts.collapsed == 1
            await slow.aclose()


async def test_a_host_that_is_over_its_limit_loses_its_oldest_connection() -> None:
    tracker = memquota.Tracker("8MiB")
    served = relay.Relay(tracker)
    served.peer_limit = "1MiB"
    with anyio.fail_after(20), socket.create_server(("127.0.0.1", 0)) as listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.serve, listener)
            first, second = [await connect(listener.getsockname()[1], b"ECHO") for _ in range(2)]
            for stream, size in ((first, 600_000), (second, 700_000)):
                used = tracker.used
                await stream.send(size.to_bytes(4, "big"))
                while tracker.used == used:
                    await anyio.lowlevel.checkpoint()

            with pytest.raises(anyio.BrokenResourceError):
                await first.receive()
            assert tracker.used == 700_000
            for stream in (first, second):
                await stream.aclose()
            tasks.cancel_scope.cancel()
