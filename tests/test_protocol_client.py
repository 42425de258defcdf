"""docs/protocol.md is enough to write a client: one that knows the page alone talks to a real bus."""

from __future__ import annotations

import ast
import errno
import os
import re
import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import plain_client
import pytest
from native_bus import NativeBus, charges
from plain_client import (
    CALL,
    CANCEL,
    DETACH,
    DETACHED,
    DISCONNECT,
    INVALID,
    QUERY,
    RELEASE,
    SLICE_RELEASE,
    UNMAPPED,
    Client,
    Failed,
    Refused,
    close_all,
)
from shortage import room_for

PAGE = Path(__file__).parent.parent / "docs" / "protocol.md"
DATA, NODE_DESTROY, NODE_RELEASE = 1, 2, 3
PEEK = 1


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[NativeBus]:
    bus = NativeBus(tmp_path)
    yield bus
    bus.close()


@pytest.fixture
def p(bus: NativeBus) -> Iterator[Client]:
    client = Client(bus.address)
    yield client
    client.close()


@pytest.fixture
def q(bus: NativeBus) -> Iterator[Client]:
    client = Client(bus.address)
    yield client
    client.close()


@pytest.fixture
def to_q(p: Client, q: Client) -> int:
    return q.transfer(0x200, p.peer.fileno())


def is_readable(client: Client) -> bool:
    return bool(select.select([client.peer], [], [], 0)[0])


def failure(act: object, *arguments: object, **named: object) -> int:
    assert callable(act)
    with pytest.raises(Failed) as caught:
        act(*arguments, **named)
    assert str(caught.value), "an error comes with words"
    return caught.value.errno


def test_the_client_knows_nothing_but_the_standard_library() -> None:
    tree = ast.parse(Path(plain_client.__file__).read_text())
    imports = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imports == {"array", "mmap", "os", "socket", "struct"} and froms == {"__future__"}


def test_the_exchange_on_the_page_is_what_goes_over_the_wire(bus: NativeBus) -> None:
    dump = PAGE.read_text().rpartition("byte by byte")[2].partition("```\n")[2].partition("```")[0]
    frames = re.findall(r"^([<>]) (.*?)(?=^[<>]|\Z)", dump, re.M | re.S)
    assert [side for side, _ in frames] == [">", "<"] * 4
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(bus.address)
        fds: list[int] = []
        for side, text in frames:
            octets = [octet for line in text.splitlines() for octet in line[:52].split() if len(octet) == 2]
            if side == ">":
                sock.sendall(bytes.fromhex("".join(octets)))
            else:
                data, came, _, _ = socket.recv_fds(sock, 4096, 8)
                assert [
                    told if told == "xx" else f"{byte:02x}" for byte, told in zip(data, octets, strict=True)
                ] == octets
                fds += came
        assert len(fds) == 2
        for fd in fds:
            os.close(fd)


def test_a_message_with_handles_arrives_inline(p: Client, q: Client, to_q: int) -> None:
    assert p.granted == () and to_q == 0xB
    assert not is_readable(q)
    assert p.send([to_q], b"hello", [0x100, 0x100]) == [0]
    assert is_readable(q)
    message = q.recv()
    assert (message.type, message.destination, message.payload) == (DATA, 0x200, b"hello")
    assert message.handles == (0xB, 0xB)
    assert (message.uid, message.gid, message.pid, message.tid) == (os.getuid(), os.getgid(), os.getpid(), 0)
    assert not is_readable(q), "DRAINED: one byte is taken"
    q.give_back(message)
    assert failure(q.give_back, message) == errno.ENXIO


def test_a_detached_message_has_no_slice_to_give_back(p: Client, q: Client, to_q: int) -> None:
    p.send([to_q], b"hello")
    message = q.recv(options=DETACH)
    assert message.payload == b"hello" and message.note & DETACHED and not q.segments
    assert failure(q.give_back, message) == errno.ENXIO


@pytest.mark.parametrize("size", [5000, 1 << 16, (1 << 16) + 1, 1_000_000])
def test_a_large_payload_goes_through_the_arena_and_is_read_from_the_segment(
    bus: NativeBus, p: Client, q: Client, to_q: int, size: int
) -> None:
    payload = os.urandom(size)
    p.send([to_q], payload, [0x100])
    message = q.recv()
    assert message.payload == payload and message.handles == (0xB,)
    assert (p.arena is not None) == (size > p.max_inline)
    q.give_back(message)
    p.send([to_q], b"small", [0x100])
    assert q.recv().payload == b"small"


def test_a_segment_that_was_lost_is_asked_for(p: Client, q: Client, to_q: int) -> None:
    p.send([to_q], bytes(5000))
    first = q.recv()
    q.segments.clear()
    p.send([to_q], b"x" * 5000)
    assert q.recv().payload == b"x" * 5000
    assert first.generation in q.segments


def test_a_slice_with_another_serial_is_left_alone(p: Client, q: Client, to_q: int) -> None:
    """L-8: neither is it given back, nor does its segment count as unmapped."""
    p.send([to_q], bytes(2 << 20))
    message = q.recv()
    for serial in (message.serial + 1, INVALID):
        stale = struct.pack("<QQQ", message.offset, UNMAPPED, serial)
        assert failure(q.request, SLICE_RELEASE, stale) == errno.ENXIO
    assert message.generation in q.segments
    q.give_back(message)
    assert q.segments == {}, "the bus asked for it"


def test_a_reply_gives_back_the_slice_that_it_answers_and_no_other(p: Client, q: Client, to_q: int) -> None:
    """L-8: what lies at its offset by now stays."""
    p.send([to_q], b"first")
    message = q.recv()
    q.request(SLICE_RELEASE, struct.pack("<QQQ", message.offset, 0, 0))
    p.send([to_q], b"second")
    second = q.recv()
    assert second.offset == message.offset
    with pytest.raises(Failed, match="serial") as caught:
        q.reply([0x200], b"third", message)
    assert (caught.value.errno, caught.value.done) == (errno.ENXIO, 1)
    q.give_back(second)


def test_a_retired_segment_is_unmapped_and_its_charge_returns(
    bus: NativeBus, p: Client, q: Client, to_q: int
) -> None:
    used_before = bus.snapshot()["users"]
    p.send([to_q], bytes(2 << 20))
    message = q.recv()
    tag = q.start(SLICE_RELEASE, struct.pack("<QQQ", message.offset, 0, 0))
    assert bus.snapshot()["users"] != used_before
    q.answer(tag)
    assert q.segments == {}, "RETIRED came before the answer"
    q.request(QUERY, bytes(8))
    assert bus.snapshot()["users"] == used_before


def test_who_unmaps_a_large_slice_is_not_asked(bus: NativeBus, p: Client, q: Client, to_q: int) -> None:
    used_before = bus.snapshot()["users"]
    p.send([to_q], bytes(2 << 20))
    q.give_back(q.recv(), unmap=True)
    assert bus.snapshot()["users"] == used_before and q.segments == {}


def test_who_has_unmapped_a_slice_that_others_map_is_not_asked(
    bus: NativeBus, p: Client, q: Client, to_q: int
) -> None:
    """Two channels map one segment: it is charged until the other one has unmapped it, too."""
    other = Client(bus.address, q.peer.fileno())
    used_before = bus.snapshot()["users"]
    p.send([to_q], bytes(2 << 20))
    look, message = q.recv(PEEK), other.recv()
    assert look.generation == message.generation
    q.give_back(look, unmap=True)
    q.request(QUERY, bytes(8))
    assert bus.snapshot()["users"] != used_before and len(other.segments) == 1
    other.request(QUERY, bytes(8))
    assert other.segments == {}, "RETIRED came to it alone"
    other.request(QUERY, bytes(8))
    assert bus.snapshot()["users"] == used_before
    other.close()


@pytest.mark.parametrize("n", [1, 253, 256])
def test_descriptors_are_offered_then_taken(p: Client, q: Client, to_q: int, n: int) -> None:
    r, w = os.pipe()
    p.send([to_q], b"pipe", fds=[w] * n)
    os.close(w)
    message = q.recv()
    assert message.payload == b"pipe" and len(message.fds) == message.n_fds == n
    os.write(message.fds[-1], b"x")
    close_all(message.fds)
    assert os.read(r, 10) == b"x" and os.read(r, 10) == b""
    os.close(r)


def test_descriptors_that_do_not_fit_leave_the_message_queued(p: Client, q: Client, to_q: int) -> None:
    r, w = os.pipe()
    p.send([to_q], b"pipe", fds=[w] * 40)
    with room_for(20):
        assert failure(q.recv) == errno.EMFILE
    assert is_readable(q)
    message = q.recv()
    assert len(message.fds) == 40
    close_all([*message.fds, r, w])


def test_a_parked_recv_is_answered_by_the_next_message(p: Client, q: Client, to_q: int) -> None:
    tag = q.park()
    assert q.transfer(0x300) == 0x300, "what is behind it is not held up"
    p.send([to_q], b"at last")
    assert q.received(tag).payload == b"at last"
    assert not is_readable(q)


def test_a_recv_that_has_waited_long_enough_is_cancelled(p: Client, q: Client, to_q: int) -> None:
    tag = q.park()
    q.write(CANCEL, tag, b"")
    assert failure(q.received, tag) == errno.EAGAIN
    tag = q.park()
    p.send([to_q], b"faster")
    q.write(CANCEL, tag, b"")
    assert q.received(tag).payload == b"faster"


def test_nodes_are_released_and_destroyed(p: Client, q: Client, to_q: int) -> None:
    p.release(to_q)
    assert failure(p.release, to_q) == errno.ENXIO
    notice = q.recv()
    assert (notice.type, notice.destination, notice.offset) == (NODE_RELEASE, 0x200, INVALID)
    again = q.transfer(0x200, p.peer.fileno())
    assert again == 0x13
    q.destroy(0x200, 0x300)
    assert [(notice.type, notice.destination, notice.flags) for notice in (q.recv(), q.recv())] == [
        (NODE_DESTROY, 0x200, 2), (NODE_DESTROY, 0x300, 0),
    ]
    assert p.recv().destination == again
    assert failure(p.send, [again]) == errno.EHOSTUNREACH
    assert p.send([0x100], optional=[again, 0x33]) == [0, -errno.EHOSTUNREACH, -errno.ENXIO]


def test_a_server_answers_and_takes_the_next_with_one_request(p: Client, q: Client, to_q: int) -> None:
    p.send([to_q], b"one", [0x100])
    p.send([to_q], b"two", [0x100])
    first = q.recv()
    second = q.reply([first.handles[0]], b"answer", first, release=first.handles[0])
    assert second.payload == b"two"
    assert p.recv().payload == b"answer"
    assert failure(q.give_back, first) == errno.ENXIO


def test_a_sequence_tells_how_far_it_came(p: Client, q: Client, to_q: int) -> None:
    p.send([to_q], b"one")
    first = q.recv()
    q.give_back(first)
    with pytest.raises(Failed) as caught:
        q.reply([0x500], b"sent", first)
    assert (caught.value.errno, caught.value.done) == (errno.ENXIO, 1)
    assert q.recv().payload == b"sent"
    fixed, tail = q.sending([0x500], b"", [], [], 0)
    with pytest.raises(Failed) as caught:
        q.request(CALL, fixed + struct.pack("<3Q", 1 << 10, INVALID, 0) + tail)
    assert (caught.value.errno, caught.value.done) == (errno.EINVAL, 0)


def test_a_second_channel_speaks_for_the_same_peer(bus: NativeBus, p: Client, q: Client, to_q: int) -> None:
    with_copy = Client(bus.address, q.peer.fileno())
    p.send([to_q], bytes(5000))
    p.send([to_q], bytes(6000))
    messages = [with_copy.recv(), q.recv()]
    assert [message.n_bytes for message in messages] == [5000, 6000]
    q.sock.close()
    p.send([to_q], b"still there")
    assert with_copy.recv().payload == b"still there"
    with_copy.close()


def test_after_disconnect_everything_is_shutdown_and_the_descriptor_hangs_up(q: Client) -> None:
    tag = q.park()
    q.request(DISCONNECT, bytes(8))
    assert failure(q.received, tag) == errno.ESHUTDOWN
    assert failure(q.transfer, 0x100) == errno.ESHUTDOWN
    assert failure(q.request, 0x777, b"") == errno.ESHUTDOWN
    assert q.peer.recv(1) == b""


def test_an_unknown_operation_is_enotty(q: Client) -> None:
    assert failure(q.request, 0x777, bytes(100)) == errno.ENOTTY
    assert q.transfer(0x100) == 0x100


@pytest.mark.parametrize(("request_", "words"), [
    (struct.pack("<IHHQ4sIQ", 32, 1, 0, 1, b"l\1\0\1", 1, 0), "something else"),
    (struct.pack("<IHHQ4sIQ", 32, 1, 0, 1, b"bus1", 2, 0), "version 2"),
    (struct.pack("<IHHQQ", 24, 2, 0, 1, 0), "before the peer is known"),
    (struct.pack("<IHHQ", 15, 1, 0, 1), "15 bytes"),
], ids=["D-Bus", "a later version", "OPEN before HELLO", "no frame"])
def test_what_makes_no_sense_is_refused_in_words(bus: NativeBus, request_: bytes, words: str) -> None:
    client = Client.__new__(Client)
    client.connect(bus.address)
    client.sock.sendall(request_)
    with pytest.raises(Refused, match=words):
        client.step()
    client.sock.close()


def test_a_request_that_makes_no_sense_costs_the_channel_not_the_peer(
    bus: NativeBus, p: Client, q: Client, to_q: int
) -> None:
    with pytest.raises(Refused, match="bytes, not"):
        q.request(RELEASE, bytes(9))
    p.send([to_q], b"it lives")
    other = Client(bus.address, q.peer.fileno())
    assert other.recv().payload == b"it lives"
    other.close()


def test_nothing_is_left_behind(bus: NativeBus) -> None:
    n_fds = bus.n_fds()
    p, q = Client(bus.address), Client(bus.address)
    to_q = q.transfer(0x200, p.peer.fileno())
    p.send([to_q], bytes(100_000), [0x100])
    q.recv()
    assert charges(bus.snapshot()) != {}
    p.close()
    q.close()
    bus.wait_until_idle(n_fds)
