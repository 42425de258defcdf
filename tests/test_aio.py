"""The anyio face: the same peers, awaited, on both event loops."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from core_bus import Core
from native_bus import NativeBus
from shortage import everything_given_back

from bus1 import aio
from bus1.broker import Broker
from bus1.core.api import Credentials, Limits, MessageType, RecvFlag
from bus1.errors import (
    Bus1Error,
    BusGone,
    Denied,
    Disconnected,
    NodeDestroyed,
    NoSuchHandle,
    QuotaExceeded,
    WouldBlock,
)
from bus1.hub import PlainHub
from bus1.peer import Peer
from bus1.reactor import Reactor
from bus1.received import ReceivedMessage

MIB = 1 << 20
Test = Callable[[aio.Peer, aio.Peer, int], Coroutine[Any, Any, None]]
Run = Callable[[Test], None]


class EnoughError(Exception):
    """Ends what would go on for ever."""


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeBus]:
    bus = NativeBus(tmp_path_factory.mktemp("bus"), Limits(inflight_bytes=1 << 30))
    yield bus
    bus.close()


@pytest.fixture(params=["asyncio", "trio"])
def run(bus: NativeBus, request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a test with two peers and the first one's handle to the other; nothing is left behind."""

    async def with_peers(test: Test) -> None:
        with anyio.fail_after(30):
            async with aio.connect(bus.address) as p, aio.connect(bus.address) as q:
                await test(p, q, await q.transfer(0x10, p))

    with everything_given_back(bus):
        yield lambda test: anyio.run(partial(with_peers, test), backend=request.param)


async def payload_of(peer: aio.Peer) -> bytes:
    with await peer.recv() as message:
        return bytes(message.payload)


def test_messages_handles_and_descriptors_arrive(run: Run) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        read, write = os.pipe()
        assert await p.send([to_q], [b"one ", b"two"], [0x300], [read]) == [0]
        os.close(read)
        with await q.recv() as message:
            assert (message.type, message.destination) == (MessageType.DATA, 0x10)
            assert bytes(message.payload) == b"one two" and message.pid == os.getpid()
            os.write(write, b"x")
            assert os.read(message.fds[0], 1) == b"x"
            await q.send([message.handles[0]], b"back")
            await q.release(message.handles[0])
        os.close(write)
        assert await payload_of(p) == b"back"
        assert (await p.recv()).type is MessageType.NODE_RELEASE

    run(test)


@pytest.mark.parametrize("size", [0, 4000, 5000, 70_000, 3 * MIB, 100 * MIB])
def test_a_payload_of_any_size_arrives_as_it_was(run: Run, size: int) -> None:
    payload = os.urandom(MIB) * (size // MIB) + os.urandom(size % MIB)

    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        await p.send([to_q], payload)
        with await q.recv() as message:
            assert message.payload == payload

    run(test)


def test_many_tasks_use_one_peer_at_once(run: Run) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        got: list[bytes] = []

        async def receive() -> None:
            for _ in range(50):
                got.append(await payload_of(q))

        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(receive)
            for number in range(100):
                tasks.start_soon(p.send, [to_q], b"%d" % number)
                tasks.start_soon(p.query)
        assert sorted(map(int, got)) == list(range(100))

    run(test)


def test_large_payloads_of_several_tasks_do_not_mix(run: Run) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(p.send, [to_q], bytes([number]) * MIB)
        seen = set()
        for _ in range(8):
            content = await payload_of(q)
            assert content == content[:1] * MIB
            seen.add(content[0])
        assert seen == set(range(8))

    run(test)


def test_more_requests_than_the_sockets_hold_go_through(run: Run) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        async def one() -> None:
            slots = await p.send([to_q], bytes(60_000))
            assert slots == [0]

        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(one)
        for _ in range(100):
            assert len(await payload_of(q)) == 60_000

    run(test)


def test_a_cancelled_recv_loses_nothing_and_keeps_the_order(run: Run) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        got: list[int] = []
        sent = 0
        while len(got) < 40:
            with anyio.move_on_after(0.0005 * (sent % 5)):
                got.append(int(await payload_of(q)))
            await p.send([to_q], b"%d" % sent)
            sent += 1
        while len(got) < sent:
            got.append(int(await payload_of(q)))
        assert got == list(range(sent))
        with pytest.raises(WouldBlock):
            await q.recv_nowait()

    run(test)


@pytest.mark.parametrize("payload", [b"once", bytes(100_000)])
def test_a_cancelled_look_leaves_the_message_and_the_references_as_they_were(
    bus: NativeBus, run: Run, payload: bytes
) -> None:
    """R-10, R-11, H-30: it is received once, and each reference can be given back once."""

    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(q.recv, flags=RecvFlag.PEEK))
            await anyio.wait_all_tasks_blocked()
            with Peer.from_descriptor(p.fileno(), bus.address) as sender:
                sender.send([to_q], payload, [0x300])  # no task runs meanwhile
            tasks.cancel_scope.cancel()
        with await q.recv() as message:
            assert bytes(message.payload) == payload
            await q.release(message.handles[0])
            with pytest.raises(NoSuchHandle):
                await q.release(message.handles[0])
        with pytest.raises(WouldBlock):
            await q.recv_nowait()
        assert (await p.recv()).type is MessageType.NODE_RELEASE

    run(test)


def test_a_large_call_that_waits_lets_others_send(run: Run) -> None:
    """T-47: what is large is sent at once, and only the answer takes its time."""

    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(p.call, [to_q], bytes(100_000))
            assert len(await payload_of(q)) == 100_000
            await p.send([to_q], bytes(200_000))
            assert len(await payload_of(q)) == 200_000
            tasks.cancel_scope.cancel()

    run(test)


def test_cancelling_whoever_reads_leaves_no_other_task_waiting(run: Run) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        got: list[bytes] = []

        async def receive() -> None:
            got.append(await payload_of(q))

        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as cancelled:
                    cancelled.start_soon(receive)
                    await anyio.wait_all_tasks_blocked()
                    tasks.start_soon(receive)
                    await anyio.wait_all_tasks_blocked()
                    scope.cancel()
            await p.send([to_q], b"for the other")
        assert got == [b"for the other"]

    run(test)


def test_a_peer_may_wait_and_be_polled_in_turns(run: Run) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        for _ in range(5):
            await p.send([to_q], b"x")
            await anyio.wait_readable(q)
            await payload_of(q)
            with anyio.move_on_after(0) as scope:
                await anyio.wait_readable(q)
            assert scope.cancelled_caught

    run(test)


def test_errors_are_those_of_the_contract_and_cost_nothing_else(run: Run) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        with pytest.raises(NoSuchHandle):
            await p.release(0xB + 8 * 100)
        await q.reset(max_inflight_bytes=1000)
        with pytest.raises(QuotaExceeded):
            await p.send([to_q], bytes(2000))
        assert (await q.query()).limits.inflight_bytes == 1000
        await q.destroy([0x10])
        with pytest.raises(NodeDestroyed):
            await p.send([to_q])
        with pytest.raises(NodeDestroyed):
            await p.call([to_q], b"call")

    run(test)


def test_calls_and_replies_in_one_exchange_each(run: Run) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        async def serve() -> None:
            request = await q.recv()
            for _ in range(20):
                to = request.handles[0]
                request = await q.reply([to], bytes(request.payload).upper(), answered=request, release=to)
            request.release()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            for number in range(21):
                if number == 20:
                    await p.send([to_q], b"end")
                    break
                with await p.call([to_q], b"call %d" % number, [0x300]) as answer:
                    assert bytes(answer.payload) == b"CALL %d" % number
                assert (await p.recv()).type is MessageType.NODE_RELEASE

    run(test)


def test_a_slice_that_is_not_detached_goes_back_without_waiting(run: Run, bus: NativeBus) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        for _ in range(10):
            await p.send([to_q], bytes(100_000))
            (await q.recv()).release()
        await q.query()
        slices = [user["used"]["slices"] for user in bus.snapshot()["users"].values()]
        assert slices == [0]

    run(test)


def test_a_queued_release_drops_the_reference(run: Run) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        p.release_soon(to_q)
        with await q.recv() as message:
            assert (message.type, message.destination) == (MessageType.NODE_RELEASE, 0x10)
        p.release_soon(to_q)  # what goes wrong is not reported
        await p.query()

    run(test)


def test_what_is_posted_arrives_in_order_and_its_failure_is_told(run: Run) -> None:
    """G-2: one order of what a peer requests, awaited or not."""

    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        failures = list[Bus1Error]()
        for number in range(3):
            assert p.post([to_q], [b"%d" % number], (), failures.append)
        await p.send([to_q], b"3")
        assert [await payload_of(q) for _ in range(4)] == [b"0", b"1", b"2", b"3"]
        assert p.post([to_q], [b"last"], [0x300], failures.append)
        assert p.post([0xB + 8 * 100], [b"to nobody"], (), failures.append)
        await p.query()
        assert [type(error) for error in failures] == [NoSuchHandle]
        assert not p.post([to_q], [bytes(MIB)], (), failures.append)
        with await q.recv() as message:
            assert bytes(message.payload) == b"last"

    run(test)


def test_a_posted_last_message_takes_its_handle_along_unless_it_fails(run: Run) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        failures = list[Bus1Error]()
        assert p.post_last(to_q, [b"last"], (), failures.append)
        assert await payload_of(q) == b"last"
        assert (await q.recv()).type is MessageType.NODE_RELEASE
        with pytest.raises(NoSuchHandle):
            await p.release(to_q)
        again = await q.transfer(0x20, p)
        await q.reset(max_inflight_bytes=1000)
        assert p.post_last(again, [bytes(2000)], (), failures.append)
        await p.query()
        assert [type(error) for error in failures] == [QuotaExceeded]
        await p.release(again)

    run(test)


def test_what_a_corked_peer_posts_leaves_with_its_next_request(run: Run) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        p.cork()
        assert p.post([to_q], [b"kept"], (), lambda error: None)
        p.release_soon(to_q)
        p.destroy_soon([0x300])
        with pytest.raises(WouldBlock):
            await q.recv_nowait()
        await p.query()
        assert await payload_of(q) == b"kept"
        assert (await q.recv()).type is MessageType.NODE_RELEASE
        p.cork()
        p.release_soon(p.granted[0] if p.granted else to_q)
        await p.flush()
        await p.query()

    run(test)


def test_all_messages_are_received_in_order_and_none_is_lost_when_that_ends(run: Run) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        found = list[bytes]()

        def hear(message: ReceivedMessage) -> bool:
            with message:
                found.append(bytes(message.payload))
            if len(found) == 6:
                raise EnoughError
            return False

        for number in range(10):
            await p.send([to_q], b"%d" % number)
        with pytest.raises(EnoughError):
            await q.attend(hear, lambda: None, ahead=4)
        await p.send([to_q], b"10")
        while len(found) < 11:
            found.append(await payload_of(q))
        assert found == [b"%d" % number for number in range(11)]

    run(test)


def test_what_is_left_behind_by_the_last_message_to_a_node_comes_along(run: Run) -> None:
    """N-10: NODE_RELEASE, in the order of the queue."""

    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        seen = list[tuple[object, ...]]()
        again = await q.transfer(0x20, p)

        def hear(message: ReceivedMessage) -> bool:
            seen.append((message.type, message.destination, bytes(message.payload), message.is_released))
            if (message.is_released and message.destination == 0x20) or len(seen) == 3:
                raise EnoughError
            return False

        assert p.post_last(to_q, [b"reply"], (), lambda error: None)
        assert p.post([again], [b"other"], (), lambda error: None)
        p.release_soon(again)
        with pytest.raises(EnoughError):
            await q.attend(hear, lambda: None)
        assert seen[0] == (MessageType.DATA, 0x10, b"reply", True)
        assert seen[1][:3] == (MessageType.DATA, 0x20, b"other")
        assert seen[1][3] or seen[2][:2] == (MessageType.NODE_RELEASE, 0x20)

    run(test)


def test_a_task_that_receives_all_messages_is_cancelled_without_loss(run: Run) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        found = list[bytes]()

        def hear(message: ReceivedMessage) -> bool:
            with message:
                found.append(bytes(message.payload))
            return False

        async def take() -> None:
            await q.attend(hear, lambda: None)

        for start in (0, 40, 80):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take)
                for number in range(start, start + 40):
                    await p.send([to_q], b"%d" % number)
                tasks.cancel_scope.cancel()
        await p.send([to_q], b"120")
        while len(found) < 121:
            found.append(await payload_of(q))
        assert found == [b"%d" % number for number in range(121)]

    run(test)


def test_seeds_are_set_and_fetched(run: Run) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        await p.set_seed(b"seed", [0x300])
        for flags in (RecvFlag.SEED | RecvFlag.PEEK, RecvFlag.SEED):
            with await p.recv_nowait(flags=flags) as seed:
                assert bytes(seed.payload) == b"seed" and seed.handles == (0x300,)
        with pytest.raises(WouldBlock):
            await p.recv_nowait(flags=RecvFlag.SEED)

    run(test)


def test_both_faces_are_the_same_peer(run: Run, bus: NativeBus) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        with Peer.from_descriptor(q.fileno(), bus.address) as synchronous:
            await p.send([to_q], b"1")
            with synchronous.recv() as message:
                assert bytes(message.payload) == b"1"
            again = await aio.Peer.from_descriptor(synchronous.fileno(), bus.address)
            await p.send([to_q], b"2")
            assert await payload_of(again) == b"2"
            again.close()

    run(test)


def test_whoever_waits_when_the_peer_ends_is_told(run: Run) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        async def wait() -> None:
            with pytest.raises(Disconnected):
                await q.recv()

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await q.disconnect()

    run(test)


def test_closing_wakes_whoever_waits(run: Run) -> None:
    async def test(p: aio.Peer, q: aio.Peer, to_q: int) -> None:
        async def wait() -> None:
            with pytest.raises(BusGone):
                await q.recv()

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await q.aclose()
        q.close()
        with pytest.raises(BusGone):
            await q.query()

    run(test)


def test_without_a_bus_there_is_no_peer(tmp_path: os.PathLike[str]) -> None:
    async def attempt() -> None:
        with pytest.raises(BusGone):
            async with aio.connect(os.path.join(tmp_path, "nothing")):
                pytest.fail("connected")

    anyio.run(attempt)


class Selective(PlainHub):
    """A bus that lets nobody open a peer."""

    def peer_opened(
        self, peer: int, credentials: Credentials, entrance: object = None
    ) -> tuple[int, ...]:
        raise Denied("not you")


def test_who_may_not_open_a_peer_is_told_so(tmp_path: Path) -> None:
    """Denied is an OSError, but none of the socket's: the bus is there."""
    address, over = str(tmp_path / "bus"), threading.Event()
    hub = Selective(Core())
    reactor = Reactor(hub)
    broker = Broker(reactor, hub)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen()
    broker.listen(listener)

    def serve() -> None:
        while not over.is_set():
            reactor.run_once(reactor.clock() + 0.01)
        broker.close()
        reactor.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with pytest.raises(Denied, match="not you"):
            anyio.run(aio.Peer.open, address)
        with pytest.raises(Denied, match="not you"):
            Peer.connect(address)
    finally:
        over.set()
        thread.join()
