"""Streams do what anyio's memory object streams do: the same tests over both."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, WouldBlock
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from anyio.streams.stapled import StapledObjectStream

from memquota import Tracker, open_stream
from memquota.queues import ENTRY_COST, StreamAttribute
from memquota.testing import assert_books_balance
from tests.queues.test_like_asyncio import Task
from tests.queues.worlds import settled

Make = Callable[..., tuple[Any, Any]]


def ours(max_buffer_size: float = math.inf) -> tuple[Any, Any]:
    return open_stream(Tracker("1MiB").new_account(), max_buffer_size)


def anyios(max_buffer_size: float = math.inf) -> tuple[Any, Any]:
    return anyio.create_memory_object_stream[Any](max_buffer_size)


@pytest.fixture(params=[anyios, ours])
def make(request: pytest.FixtureRequest) -> Make:
    found: Make = request.param
    return found


# --- what they are ----------------------------------------------------------------------------------------------------


async def test_the_ends_are_object_streams(make: Make) -> None:
    send, receive = make()
    with send, receive:
        assert isinstance(send, ObjectSendStream)
        assert isinstance(receive, ObjectReceiveStream)

        both = StapledObjectStream(send, receive)
        await both.send(b"there")
        assert await both.receive() == b"there"
        await both.send_eof()
        with pytest.raises(EndOfStream):
            await both.receive()


async def test_first_in_first_out(make: Make) -> None:
    send, receive = make()
    with send, receive:
        await send.send(1)
        send.send_nowait(None)
        await send.send("x")

        assert [await receive.receive(), receive.receive_nowait(), await receive.receive()] == [1, None, "x"]
        with pytest.raises(WouldBlock):
            receive.receive_nowait()


async def test_iteration_ends_with_the_last_sender(make: Make) -> None:
    send, receive = make()
    second = send.clone()
    async with anyio.create_task_group() as tasks, receive:

        async def feed() -> None:
            async with send, second:
                for number in range(3):
                    await (second if number % 2 else send).send(number)

        tasks.start_soon(feed)
        assert [item async for item in receive] == [0, 1, 2]


async def test_send_and_receive_are_checkpoints(make: Make) -> None:
    send, receive = make()
    with send, receive:
        send.send_nowait("inside")
        for call in (lambda: send.send("more"), receive.receive):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await call()
            assert scope.cancelled_caught
        assert receive.receive_nowait() == "inside"
        with pytest.raises(WouldBlock):
            receive.receive_nowait()


async def test_statistics_have_the_same_names(make: Make) -> None:
    send, receive = make(2)
    clones = [send.clone(), receive.clone(), receive.clone()]
    with send, receive, clones[0], clones[1], clones[2]:
        send.send_nowait("a")
        send.send_nowait("b")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send.send, "c")
            await settled()
            for numbers in (send.statistics(), receive.statistics()):
                assert (numbers.current_buffer_used, numbers.max_buffer_size) == (2, 2)
                assert (numbers.open_send_streams, numbers.open_receive_streams) == (2, 3)
                assert (numbers.tasks_waiting_send, numbers.tasks_waiting_receive) == (1, 0)
            for _ in range(3):
                await receive.receive()
            tasks.start_soon(receive.receive)
            tasks.start_soon(clones[1].receive)
            await settled()
            assert send.statistics().tasks_waiting_receive == 2
            tasks.cancel_scope.cancel()
    numbers = send.statistics()
    assert (numbers.open_send_streams, numbers.open_receive_streams) == (0, 0)


# --- bounds -----------------------------------------------------------------------------------------------------------


async def test_a_rendezvous_lets_in_only_what_is_waited_for(make: Make) -> None:
    send, receive = make(0)
    with send, receive:
        with pytest.raises(WouldBlock):
            send.send_nowait("nobody waits")
        getters = [Task(), Task()]
        async with anyio.create_task_group() as tasks:
            for getter in getters:
                tasks.start_soon(getter.run, receive.receive)
                await settled()
            send.send_nowait("first")
            send.send_nowait("second")
            with pytest.raises(WouldBlock):
                send.send_nowait("third")
        assert [getter.results for getter in getters] == [["first"], ["second"]]

        senders = [Task(), Task()]
        async with anyio.create_task_group() as tasks:
            for number, sender in enumerate(senders):
                tasks.start_soon(sender.run, send.send, number)
                await settled()
            assert all(sender.waits for sender in senders)
            assert receive.receive_nowait() == 0
            assert await receive.receive() == 1
        assert [sender.results for sender in senders] == [[None], [None]]
        with pytest.raises(WouldBlock):
            receive.receive_nowait()


async def test_a_full_stream_takes_from_who_waits(make: Make) -> None:
    send, receive = make(1)
    with send, receive:
        send.send_nowait(0)
        with pytest.raises(WouldBlock):
            send.send_nowait(1)
        async with anyio.create_task_group() as tasks:
            for number in (1, 2):
                tasks.start_soon(send.send, number)
                await settled()

            assert [receive.receive_nowait() for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("size", [-1, 1.5])
def test_a_size_that_is_none_is_refused(make: Make, size: float) -> None:
    with pytest.raises((TypeError, ValueError), match="max_buffer_size"):
        make(size)


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_receivers_get_what_is_inside_and_then_the_end(make: Make) -> None:
    send, receive = make()
    with receive:
        send.send_nowait(1)
        send.close()
        send.close()

        assert await receive.receive() == 1
        with pytest.raises(EndOfStream):
            receive.receive_nowait()
        with pytest.raises(EndOfStream):
            await receive.receive()


async def test_senders_learn_that_nobody_receives_any_more(make: Make) -> None:
    send, receive = make(1)
    second = receive.clone()
    with send:
        receive.close()
        await send.send(1)
        second.close()

        with pytest.raises(BrokenResourceError):
            send.send_nowait(2)
        with pytest.raises(BrokenResourceError):
            await send.send(2)


async def test_an_end_that_is_closed_refuses(make: Make) -> None:
    send, receive = make()
    other_send, other_receive = send.clone(), receive.clone()
    with other_send, other_receive:
        await send.aclose()
        await receive.aclose()

        for call in (lambda: send.send_nowait(1), receive.receive_nowait, send.clone, receive.clone):
            with pytest.raises(ClosedResourceError):
                call()
        with pytest.raises(ClosedResourceError):
            await send.send(1)
        with pytest.raises(ClosedResourceError):
            await receive.receive()
        other_send.send_nowait("by the others")
        assert other_receive.receive_nowait() == "by the others"


async def test_who_waits_learns_that_the_other_side_is_gone(make: Make) -> None:
    send, receive = make()
    full_send, full_receive = make(0)
    receiver, sender = Task(), Task()
    with receive, full_send:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receiver.run, receive.receive)
            tasks.start_soon(sender.run, full_send.send, 1)
            await settled()

            send.close()
            full_receive.close()

    assert (type(receiver.error), type(sender.error)) == (EndOfStream, BrokenResourceError)


async def test_a_receiver_cancelled_as_an_item_arrives_leaves_it_to_the_next(make: Make) -> None:
    send, receive = make()
    with send, receive:
        first = Task()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.run, receive.receive)
            await settled()
            first.scope.cancel()
            send.send_nowait("item")  # in the very moment

        found = list(first.results)
        with contextlib.suppress(WouldBlock):
            found.append(receive.receive_nowait())
    assert found == ["item"]


async def test_a_sender_that_is_cancelled_has_sent_nothing(make: Make) -> None:
    send, receive = make(0)
    with send, receive:
        first, second = Task(), Task()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.run, send.send, "first")
            await settled()
            tasks.start_soon(second.run, send.send, "second")
            await settled()
            first.scope.cancel()
            await settled()

            assert await receive.receive() == "second"
        assert (first.results, second.results) == ([], [None])


@pytest.mark.parametrize("end", [0, 1])
async def test_an_end_that_is_dropped_warns(make: Make, end: int) -> None:
    ends = list(make())
    ends.pop(1 - end).close()

    with pytest.warns(ResourceWarning, match="nclosed <"):
        ends.clear()


# --- what is ours -----------------------------------------------------------------------------------------------------


def test_the_bound_is_infinite_unless_it_is_given() -> None:
    send, receive = open_stream(Tracker("1MiB").new_account())
    with send, receive:
        assert send.statistics().max_buffer_size == math.inf


def test_an_end_says_what_it_is() -> None:
    send, receive = open_stream(Tracker("1MiB").new_account("uploads"))
    with send:
        send.send_nowait(1)
        assert repr(send) == "<QuotaSendStream of 1 in account 'uploads'>"
        receive.close()
    assert repr(receive) == "<QuotaReceiveStream of 0 in account 'uploads', closed>"


def test_what_can_be_asked_of_an_end_and_of_what_wraps_it() -> None:
    account = Tracker("1MiB").new_account("mine")
    send, receive = open_stream(account, on_reclaim="drop_oldest")
    with send, receive:
        send.send_nowait(b"x" * 40)
        for stream in (send, receive, StapledObjectStream(send, receive)):
            assert stream.extra(StreamAttribute.account) is account
            numbers = stream.extra(StreamAttribute.statistics)
            assert (numbers.items, numbers.bytes, numbers.dropped_items) == (1, 40 + ENTRY_COST, 0)
        account.tracker.reclaim(0)
        assert receive.extra(StreamAttribute.statistics).dropped_bytes == 40 + ENTRY_COST


async def test_closing_an_end_ends_the_task_that_waits_in_it() -> None:
    send, receive = ours()
    full_send, full_receive = ours(0)
    other_receive, other_send = receive.clone(), full_send.clone()
    receiver, sender = Task(), Task()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receiver.run, receive.receive)
        tasks.start_soon(sender.run, full_send.send, 1)
        await settled()

        receive.close()
        full_send.close()

    assert (type(receiver.error), type(sender.error)) == (ClosedResourceError, ClosedResourceError)
    for end in (send, other_receive, full_receive, other_send):
        end.close()


async def test_receivers_that_wait_let_no_more_bytes_in_than_there_may_be() -> None:
    tracker = Tracker("1MiB", strict=True)
    send, receive = open_stream(tracker.new_account(), 0, max_bytes=3000)
    item = b"x" * (2000 - ENTRY_COST)
    with send, receive:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive.receive)
            tasks.start_soon(receive.receive)
            await settled()
            send.send_nowait(item)

            with pytest.raises(WouldBlock):
                send.send_nowait(item)

            assert send.statistics().bytes == tracker.used == 2000
            await send.send(item)
    assert_books_balance(tracker, 0)


async def test_what_is_inside_when_the_last_receiver_closes_is_off_the_books() -> None:
    tracker = Tracker("1MiB", strict=True)
    send, receive = open_stream(tracker.new_account())
    with send:
        send.send_nowait(b"x" * 1000)
        second = receive.clone()
        receive.close()
        assert tracker.used == 1000 + ENTRY_COST

        second.close()

        assert tracker.used == 0
        with pytest.raises(BrokenResourceError):
            send.send_nowait(b"more")
    assert tracker.snapshot().accounts[0].holdings == ()
