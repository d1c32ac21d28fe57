"""The example relay on real sockets."""

import gc
import socket

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

import memquota
from tests.support.relay import (
    a_sleeper,
    connect,
    leave,
    pack,
    publish,
    receive_frame,
    relay,
    serving,
    until_subscribed,
)


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
            sleeper = a_sleeper(port, b"SUB news")
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
    with anyio.fail_after(20), relay.listen(0) as listener:
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
    with anyio.fail_after(20), relay.listen(0) as listener:
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


async def test_a_frame_on_its_way_to_a_subscriber_is_counted() -> None:
    """Else many who never read, each with a large frame, are more than the quota, and nobody counts them."""
    tracker = memquota.Tracker("1MiB")
    served = relay.Relay(tracker)
    with anyio.fail_after(20):
        async with serving(tracker, served) as port:
            sleeper = a_sleeper(port, b"SUB news")
            while "news" not in served.topics:
                await anyio.lowlevel.checkpoint()
            await publish(port, b"news", bytes(900_000))
            await anyio.wait_all_tasks_blocked()  # it is out of the queue, and not sent

            assert tracker.used == 900_004
            sleeper.close()


async def test_many_who_take_a_large_frame_each_and_do_not_read_it_are_cut_off() -> None:
    tracker = memquota.Tracker("4MiB")
    served = relay.Relay(tracker)
    with anyio.fail_after(60):
        async with serving(tracker, served) as port:
            sleepers = [a_sleeper(port, b"SUB %d" % number) for number in range(10)]
            while len(served.topics) < 10:
                await anyio.lowlevel.checkpoint()
            for number in range(10):
                await publish(port, b"%d" % number, bytes(900_000))

            assert tracker.used <= tracker.limit
            assert tracker.statistics().counts.collapsed >= 6
            for sleeper in sleepers:
                sleeper.close()


@pytest.mark.parametrize("how", ["closes", "resets", "says no more", "speaks"])
async def test_a_subscriber_who_leaves_is_let_go_without_anything_being_sent(how: str) -> None:
    """Else who subscribes and leaves, again and again, uses up the files that the relay may have open."""
    tracker = memquota.Tracker("1MiB")
    served = relay.Relay(tracker)
    with anyio.fail_after(20):
        async with serving(tracker, served) as port:
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(pack(b"SUB quiet"))
            while "quiet" not in served.topics:
                await anyio.lowlevel.checkpoint()

            leave(client, how)

            while tracker.statistics().accounts:
                await anyio.lowlevel.checkpoint()
            assert served.topics == {}
            client.close()


@pytest.mark.parametrize("how", ["closes", "resets", "says no more"])
@pytest.mark.parametrize("verb", [b"PUB news", b"SUB news", b"ECHO"])
async def test_wherever_clients_leave_nothing_of_them_stays(verb: bytes, how: str) -> None:
    tracker = memquota.Tracker("1MiB")
    served = relay.Relay(tracker)
    said = pack(verb) + (b"" if verb == b"SUB news" else pack(b"one") + pack(b"") + pack(b"three"))
    with anyio.fail_after(60):
        async with serving(tracker, served) as port, await connect(port, b"SUB news") as reader:
            await until_subscribed(tracker, 2)
            for length in range(len(said) + 1):
                client = socket.create_connection(("127.0.0.1", port))
                client.sendall(said[:length])
                await until_subscribed(tracker, 3)
                leave(client, how)
                while tracker.statistics().accounts > 2:
                    await anyio.lowlevel.checkpoint()
                client.close()

            await publish(port, b"news", b"the end")
            buffered = BufferedByteReceiveStream(reader)
            while await receive_frame(buffered) != b"the end":
                pass
        gc.collect()

    assert tracker.used == 0
    assert tracker.statistics().accounts == 0
    assert served.topics == {}


async def test_frames_that_come_a_byte_at_a_time_arrive() -> None:
    with anyio.fail_after(20):
        async with serving(memquota.Tracker("1MiB")) as port, await connect(port, b"ECHO") as stream:
            for byte in pack(b"hello") + pack(b"world"):
                await stream.send(bytes([byte]))
                await anyio.wait_all_tasks_blocked()

            buffered = BufferedByteReceiveStream(stream)
            assert [await receive_frame(buffered) for _ in range(2)] == [b"hello", b"world"]


async def test_a_relay_that_ends_leaves_nothing_on_the_books() -> None:
    tracker = memquota.Tracker("4MiB")
    served = relay.Relay(tracker)
    with anyio.fail_after(20):
        async with serving(tracker, served) as port:
            clients = [a_sleeper(port, b"SUB news"), a_sleeper(port, b"ECHO"), a_sleeper(port, b"PUB other")]
            while "news" not in served.topics or tracker.statistics().accounts < 4:
                await anyio.lowlevel.checkpoint()
            for client in clients[1:]:
                client.sendall((600_000).to_bytes(4, "big"))
            await publish(port, b"news", *[bytes(500_000)] * 3)
            while tracker.used < 2 * 600_000 + 3 * 500_004:
                await anyio.lowlevel.checkpoint()
        gc.collect()

    assert tracker.used == 0
    assert tracker.statistics().accounts == 0
    assert served.topics == {}
    for client in clients:
        client.close()
