"""Clients that break the native protocol, die or stop: the bus goes on, and nothing is left behind."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryFile

import pytest
import two_peers
from child import ended, forked
from native_bus import NativeBus, RawChannel

from bus1.core.api import HANDLE_INVALID, NO_LIMIT, DestroyFlag, Limits, MessageType, RecvFlag, SendFlag
from bus1.descriptors import Fds
from bus1.errors import BY_ERRNO, LocalProtocolError, QuotaExceeded, TooLarge
from bus1.frames import (
    ANSWER,
    ANSWER_PREFIX,
    EVENTS,
    HEADER,
    MAGIC,
    MAX_FRAME,
    MAX_INLINE_PAYLOAD,
    MAY_BE_QUIET,
    MORE_SHIFT,
    QUIET,
    REQUESTS,
    VERSION,
    Event,
    Frame,
    Note,
    Operation,
    RecvOption,
    encode,
)
from bus1.peer import Peer

QUERY = encode(Operation.QUERY, 99, struct.pack("<Q", 0))
EXTREMES = {
    "B": (0, 1, 0x7F, 0xFF),
    "H": (0, 1, 0x7FFF, 0xFFFF), "I": (0, 1, 2**31, 2**32 - 1), "Q": (0, 1, 7, 2**32, 2**63, 2**64 - 1),
}


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeBus]:
    bus = NativeBus(
        tmp_path_factory.mktemp("bus"), Limits(inflight_bytes=1 << 28), channels_per_user=40,
        stray_fds_per_user=300,
    )
    yield bus
    bus.close()


@pytest.fixture
def impatient_bus(tmp_path: Path) -> Iterator[NativeBus]:
    """Waits half a second for a client to go on."""
    bus = NativeBus(tmp_path, handshake_timeout=0.5)
    n_fds = bus.n_fds()
    yield bus
    bus.wait_until_idle(n_fds)
    bus.close()


bystanders = two_peers.bystanders


def errno_of(frame: Frame) -> int:
    return int(ANSWER_PREFIX.unpack_from(frame.body)[0])


def is_refused(found: list[Frame]) -> bool:
    """The last frame says why, in words."""
    return bool(found) and found[-1].operation == Event.REFUSED and len(found[-1].body) > 4


def valid_requests() -> dict[str, bytes]:
    """One well-formed request of each kind; an operation that is not named here has zeros for its fields."""
    sending, receiving, slice_ = (0, 1, 0, 1, 3, 0, 0), (0, NO_LIMIT, 0), (NO_LIMIT, 0, 0)
    lists = struct.pack("<QQ", 0x10, 0x20) + b"abc"
    bodies: dict[int, bytes] = {number: bytes(layout.size) for number, layout in REQUESTS.items()} | {
        Operation.HELLO: REQUESTS[Operation.HELLO].pack(MAGIC, VERSION, 0),
        Operation.ARENA: struct.pack("<Q", 4096),
        Operation.SEGMENT: struct.pack("<Q", 1),
        Operation.SEGMENT_UNMAPPED: struct.pack("<Q", 1),
        Operation.INSTALLED: struct.pack("<Q", 1),
        Operation.CANCEL: b"",
        Operation.DISCONNECT: struct.pack("<Q", 0),
        Operation.QUERY: struct.pack("<Q", 0),
        Operation.RESET: struct.pack("<6Q", 0, *[NO_LIMIT] * 5),
        Operation.RELEASE: struct.pack("<Q", 0xB),
        Operation.TRANSFER: struct.pack("<3Q", 0, 0x30, HANDLE_INVALID),
        Operation.DESTROY: struct.pack("<QQQ", 0, 1, 0x40),
        Operation.SLICE_RELEASE: struct.pack("<QQQ", 0, 0, 0),
        Operation.SEND: REQUESTS[Operation.SEND].pack(*sending) + lists,
        Operation.RECV: struct.pack("<3Q", 0, NO_LIMIT, 0),
        Operation.CALL: REQUESTS[Operation.CALL].pack(*sending, *receiving) + lists,
        Operation.REPLY: REQUESTS[Operation.REPLY].pack(*sending, *receiving, *slice_, NO_LIMIT) + lists,
        Operation.RESPOND: REQUESTS[Operation.RESPOND].pack(*sending, 0xB) + lists,
    }
    return {Operation(number).name: encode(number, 7, body) for number, body in bodies.items()}


def channel_for(bus: NativeBus, name: str) -> RawChannel:
    """A client who may make this request now."""
    channel = bus.channel()
    if name == "HELLO":
        return channel
    return channel.greet() if name in {"OPEN", "ATTACH"} else channel.open()


def spoilt(frame: bytes) -> Iterator[bytes]:
    """The frame with each of its fields wrong in turn, those of its tails too, and cut or lengthened."""
    operation = HEADER.unpack_from(frame)[1]
    layout = HEADER.format[1:] + REQUESTS[operation].format.lstrip("<").replace("s", "B")
    codes = "".join(code * int(count or 1) for count, code in _runs(layout))
    codes += "Q" * ((len(frame) - struct.calcsize(f"<{codes}")) // 8)
    sizes = [struct.calcsize(f"<{code}") for code in codes]
    for (start, end), code in zip(pairwise([0, *accumulate(sizes)]), codes, strict=True):
        for value in EXTREMES[code]:
            yield frame[:start] + struct.pack(f"<{code}", value) + frame[end:]
    for body in (frame[HEADER.size : -1], frame[HEADER.size :] + b"\0", b""):
        yield encode(operation, 7, body)


def _runs(layout: str) -> Iterator[tuple[str, str]]:
    digits = ""
    for character in layout:
        if character.isdigit():
            digits += character
        else:
            yield digits, character
            digits = ""


@pytest.mark.parametrize("name", valid_requests())
def test_a_request_with_any_field_wrong_is_answered_or_costs_its_channel(bus: NativeBus, name: str) -> None:
    for frame in spoilt(valid_requests()[name]):
        with channel_for(bus, name) as channel:
            channel.sock.sendall(frame)
            for answer in channel.frames_until_the_end():
                if answer.operation & ANSWER:
                    assert errno_of(answer) in {0, *BY_ERRNO}
                else:
                    assert answer.operation == Event.REFUSED
                    assert EVENTS[Event.REFUSED].unpack_from(answer.body)[0] in BY_ERRNO


@pytest.mark.parametrize("name", valid_requests())
def test_a_request_as_it_should_be_keeps_its_channel(bus: NativeBus, name: str) -> None:
    with channel_for(bus, name) as channel:
        channel.sock.sendall(valid_requests()[name] + QUERY)
        found = channel.frames_until_the_end()
    # Nothing is on offer, no peer is presented, or QUERY comes too early: out of place.
    if name in {"INSTALLED", "ATTACH", "HELLO"}:
        assert is_refused(found)
    else:
        assert found[-1].tag == 99


@pytest.mark.parametrize("name", valid_requests())
def test_a_quiet_request_is_answered_if_it_fails_or_costs_the_channel_if_it_may_not_be_quiet(
    bus: NativeBus, name: str
) -> None:
    frame = valid_requests()[name]
    length, operation, n_fds, tag = HEADER.unpack_from(frame)
    quiet = HEADER.pack(length, operation | QUIET, n_fds, tag) + frame[HEADER.size :]
    with channel_for(bus, name) as channel:
        channel.sock.sendall(quiet + QUERY)
        found = channel.frames_until_the_end()
    if operation not in MAY_BE_QUIET:
        assert is_refused(found)
        return
    with channel_for(bus, name) as channel:
        channel.sock.sendall(frame + QUERY)
        answered = channel.frames_until_the_end()
    outcome = [errno_of(each) for each in answered if each.tag == tag]
    assert [errno_of(each) for each in found if each.tag == tag] == [code for code in outcome if code]
    assert found[-1].tag == answered[-1].tag == 99


@pytest.mark.parametrize("name", valid_requests())
def test_a_descriptor_with_any_request_is_used_refused_or_costs_the_channel(
    bus: NativeBus, name: str
) -> None:
    """T-30: a pipe may travel with a message; it is no peer, and nothing else takes any."""
    read, write = os.pipe()
    frame = valid_requests()[name]
    with channel_for(bus, name) as channel:
        channel.write(frame[:6] + b"\1\0" + frame[8:], Fds([write]))
        found = channel.frames_until_the_end()
    if name in {"SEND", "CALL", "REPLY"}:
        assert errno_of(found[0]) == 0
    elif name == "RESPOND":
        # The descriptor has been sent; there is no such handle to release.
        assert ANSWER_PREFIX.unpack_from(found[0].body)[:2] == (errno.ENXIO, 1)
    elif name in {"ATTACH", "TRANSFER"}:
        assert errno_of(found[0]) == errno.EOPNOTSUPP
    else:
        assert is_refused(found)
    with open(read, "rb") as end:
        assert end.read() == b""


@pytest.mark.parametrize(
    "start",
    [
        b"\0", b"\0AUTH EXTERNAL 30\r\n", b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\xff" * 100,
        QUERY, encode(Operation.OPEN, 1, bytes(8)),
        encode(Operation.HELLO, 1, REQUESTS[Operation.HELLO].pack(b"dbus", VERSION, 0)),
        encode(Operation.HELLO, 1, REQUESTS[Operation.HELLO].pack(MAGIC, VERSION + 1, 0)),
        encode(Operation.HELLO, 1, REQUESTS[Operation.HELLO].pack(MAGIC, 0, 0)),
        encode(Operation.HELLO, 1, b"bus1"),
    ],
)
def test_whoever_does_not_greet_properly_is_refused_in_words(bus: NativeBus, start: bytes) -> None:
    with bus.channel() as channel:
        channel.sock.sendall(start)
        found = channel.frames_until_the_end()
        assert is_refused(found) or (len(start) < HEADER.size and not found)


def test_an_unknown_version_is_named(bus: NativeBus) -> None:
    with bus.channel() as channel:
        channel.sock.sendall(encode(Operation.HELLO, 1, REQUESTS[Operation.HELLO].pack(MAGIC, 77, 0)))
        assert b"77" in channel.frames_until_the_end()[-1].body


@pytest.mark.parametrize("operation", [Operation.HELLO, Operation.OPEN, Operation.ATTACH])
def test_a_channel_is_bound_once(bus: NativeBus, operation: Operation) -> None:
    with bus.channel().open() as channel:
        channel.sock.sendall(encode(operation, 3, bytes(REQUESTS[operation].size)))
        assert is_refused(channel.frames_until_the_end())


def test_an_unknown_operation_is_enotty_and_on_a_dead_peer_eshutdown(bus: NativeBus) -> None:
    """P-6, P-13."""
    with bus.channel().open() as channel:
        disconnect = encode(Operation.DISCONNECT, 4, bytes(8))
        channel.sock.sendall(encode(0x7777, 3, b"?") + disconnect + encode(0x7777, 5, b"?") + QUERY)
        found = channel.frames_until_the_end()
        assert [errno_of(frame) for frame in found] == [25, 0, 108, 108]


@pytest.mark.parametrize("fd", ["pipe", "socket", "other bus's peer", "none", "two"])
def test_only_a_peers_descriptor_attaches(bus: NativeBus, fd: str, tmp_path: Path) -> None:
    left, right = socket.socketpair()
    with left, right, open(os.devnull) as null, bus.channel().greet() as channel:
        numbers = {"pipe": [null.fileno()], "none": [], "two": [null.fileno()] * 2}.get(fd, [left.fileno()])
        fds = Fds([os.dup(number) for number in numbers])
        channel.write(encode(Operation.ATTACH, 3, bytes(8), len(fds)), fds)
        found = channel.frames_until_the_end()
        assert is_refused(found) if len(numbers) != 1 else errno_of(found[-1]) == 95


def test_descriptors_where_none_belong_cost_the_channel(bus: NativeBus) -> None:
    for frame in (QUERY, QUERY[:6] + b"\1\0" + QUERY[8:]):
        with bus.channel().open() as channel, open(os.devnull) as null:
            channel.write(frame, Fds([os.dup(null.fileno())]))
            assert is_refused(channel.frames_until_the_end())


@pytest.mark.parametrize("n", [1, 15, 16, 17, 40, 59])
def test_a_client_that_dies_in_mid_frame_leaves_nothing(bus: NativeBus, n: int) -> None:
    for abandoned in valid_requests().values():
        with bus.channel().open() as channel:
            channel.sock.sendall(QUERY + abandoned[: min(n, len(abandoned) - 1)])
            assert [frame.tag for frame in channel.frames_until_the_end()] == [99]


def test_a_client_that_stops_in_mid_frame_with_descriptors_loses_them_and_its_channel(
    impatient_bus: NativeBus,
) -> None:
    with impatient_bus.channel().open() as channel, open(os.devnull) as null:
        frame = valid_requests()["SEND"]
        frame = frame[:6] + b"\2\0" + frame[8:]
        part = Fds([os.dup(null.fileno()), os.dup(null.fileno())])
        channel.write(frame[:-1], part)
        assert channel.frame().operation == Event.REFUSED
        with pytest.raises(EOFError):
            channel.frame()


def test_a_client_that_never_goes_on_after_connecting_is_refused(impatient_bus: NativeBus) -> None:
    with impatient_bus.channel() as silent, impatient_bus.channel().greet() as greeted:
        for channel in (silent, greeted):
            assert channel.frame().operation == Event.REFUSED


def test_a_user_cannot_fill_the_bus_with_descriptors_of_incomplete_requests(bus: NativeBus) -> None:
    with open(os.devnull) as null, bus.channel().open() as first, bus.channel().open() as second:
        for channel in (first, second):
            fds = Fds([os.dup(null.fileno()) for _ in range(200)])
            channel.write(encode(Operation.SEND, 1, bytes(100), 200)[:-1], fds)
        one_too_many = {first.sock: first, second.sock: second}
        refused = one_too_many[select.select(one_too_many, [], [])[0][0]].frame()
        assert refused.operation == Event.REFUSED
        assert EVENTS[Event.REFUSED].unpack_from(refused.body)[0] == QuotaExceeded.errno


def test_a_user_cannot_have_too_many_channels(bus: NativeBus) -> None:
    channels = [bus.channel().greet() for _ in range(38)]
    with bus.channel() as extra:
        refused = extra.frame()
        assert refused.operation == Event.REFUSED
        assert EVENTS[Event.REFUSED].unpack_from(refused.body)[0] == QuotaExceeded.errno
    for channel in channels:
        channel.close()


def test_a_client_that_does_not_read_stops_itself_alone(bus: NativeBus) -> None:
    with bus.channel().open() as channel:
        channel.sock.setblocking(False)
        sent = 0
        while True:
            writable = select.select([], [channel.sock], [], 0.3)[1]
            if not writable:
                break
            try:
                sent += channel.sock.send(QUERY * 500)
            except BlockingIOError:
                continue
        assert sent < 16 << 20
        with bus.peer() as p:  # everybody else is served
            p.send([0x10], b"x")
            p.recv().release()
        channel.sock.setblocking(True)
        n_answers = 0
        for _ in range(sent // len(QUERY)):
            assert channel.frame().tag == 99
            n_answers += 1
        assert n_answers == sent // len(QUERY)


def receive_again(flags: int, options: int, more: int, tag: int = 8) -> bytes:
    return encode(Operation.RECV, tag, struct.pack("<3Q", flags, NO_LIMIT, options | more << MORE_SHIFT))


def sender_to(bus: NativeBus, channel: RawChannel) -> tuple[Peer, int]:
    """A peer with a handle to a node of the channel's peer."""
    with Peer.from_descriptor(channel.descriptor, bus.address) as reader:
        sender = bus.peer()
        return sender, reader.transfer(0x10, sender)


def test_a_parked_recv_is_answered_as_often_as_it_asked_for(bus: NativeBus) -> None:
    with bus.channel().open() as channel:
        sender, handle = sender_to(bus, channel)
        with sender:
            sender.send([handle], b"0")
            channel.sock.sendall(receive_again(0, RecvOption.PARK | RecvOption.DETACH, 2))
            for number in (1, 2, 3):
                sender.send([handle], b"%d" % number)
            channel.sock.sendall(QUERY)
            found = [channel.frame() for _ in range(4)]
            assert [frame.tag for frame in found] == [8, 8, 8, 99]
            notes = [ANSWER_PREFIX.unpack_from(frame.body)[2] & Note.MORE for frame in found]
            assert notes == [Note.MORE, Note.MORE, 0, 0]
            channel.sock.sendall(receive_again(0, 0, 0, 9))
            assert channel.frame().body.endswith(b"3" + bytes(7))


def test_a_recv_that_is_answered_several_times_can_be_cancelled(bus: NativeBus) -> None:
    with bus.channel().open() as channel:
        sender, handle = sender_to(bus, channel)
        with sender:
            sender.send([handle], b"0")
            channel.sock.sendall(receive_again(0, RecvOption.PARK, 200) + encode(Operation.CANCEL, 8, b""))
            assert ANSWER_PREFIX.unpack_from(channel.frame().body)[2] & Note.MORE
            assert errno_of(channel.frame()) == errno.EAGAIN
            sender.send([handle], b"1")
            channel.sock.sendall(QUERY)
            assert channel.frame().tag == 99


def test_a_client_that_does_not_read_gets_no_more_than_it_has_room_for(bus: NativeBus) -> None:
    """What it asked for in advance ends there: the rest stays queued, and charged to its senders."""
    with bus.channel().open() as channel:
        sender, handle = sender_to(bus, channel)
        with sender:
            tags = range(100, 130)
            channel.sock.sendall(b"".join(
                receive_again(0, RecvOption.PARK | RecvOption.DETACH, 255, tag) for tag in tags
            ))
            n_sent = 0
            with pytest.raises(QuotaExceeded):
                while n_sent < len(tags) * 256:
                    sender.send([handle], bytes(4000))
                    n_sent += 1
            channel.sock.sendall(QUERY)
            n_read, last = 0, 0
            while (frame := channel.frame()).tag != 99:
                n_read += 1
                last += not ANSWER_PREFIX.unpack_from(frame.body)[2] & Note.MORE
            # 1 MiB waits unsent, and what the two sockets hold; each RECV that found no room was the last
            assert 256 <= n_read < 1500 and last == len(tags)


@pytest.mark.parametrize(("flags", "options", "more"), [
    (0, 0, 1), (RecvFlag.PEEK, RecvOption.PARK, 1), (0, RecvOption.PARK, 256),
])
def test_several_answers_are_for_a_recv_that_waits_and_takes(
    bus: NativeBus, flags: int, options: int, more: int
) -> None:
    with bus.channel().open() as channel:
        channel.sock.sendall(receive_again(flags, options, more))
        assert errno_of(channel.frame()) == errno.EINVAL


def test_a_flood_of_requests_holds_nobody_up(bus: NativeBus) -> None:
    with bus.channel().open() as channel, bus.peer() as p:
        channel.sock.sendall(QUERY * 3000)
        p.send([0x10], b"x")
        p.recv().release()
        for _ in range(3000):
            assert channel.frame().tag == 99


def test_requests_that_were_complete_are_executed_when_the_client_dies(bus: NativeBus) -> None:
    with bus.peer() as p:
        channel = bus.channel().open()
        handle = p.transfer(0x10, channel.descriptor)
        body = REQUESTS[Operation.SEND].pack(0, 1, 0, 0, 4, 0, 0) + struct.pack("<Q", handle) + b"last"
        channel.sock.sendall(encode(Operation.SEND, 1, body) * 300)  # more than one turn takes
        os.close(channel.descriptor)
        channel.descriptor = -1
        for _ in range(300):
            with p.recv(wait=True) as message:
                assert bytes(message.payload) == b"last"
        assert p.recv(wait=True).type is MessageType.NODE_RELEASE
        channel.close()


def test_credentials_are_those_of_whoever_wrote_the_request(bus: NativeBus) -> None:
    """P-50: at the send, not at the opening."""
    with bus.peer() as p, bus.channel().open() as channel:
        handle = p.transfer(0x10, channel.descriptor)
        body = REQUESTS[Operation.SEND].pack(0, 1, 0, 0, 0, 0, 0) + struct.pack("<Q", handle)
        child = forked(lambda: channel.sock.sendall(encode(Operation.SEND, 1, body)))
        assert ended(child) == 0
        channel.sock.sendall(encode(Operation.SEND, 2, body))
        assert [p.recv(wait=True).pid for _ in range(2)] == [child, os.getpid()]


def test_a_stopped_client_holds_nobody_up(bus: NativeBus) -> None:
    code = (
        "import sys; from bus1.peer import Peer\n"
        "p = Peer.connect(sys.argv[1]); print(flush=True); p.recv(wait=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code, bus.address], stdout=subprocess.PIPE) as stopped:
        assert stopped.stdout is not None and stopped.stdout.readline()
        stopped.send_signal(signal.SIGSTOP)
        with bus.peer() as p:
            p.send([0x10], b"x")
            p.recv().release()
        stopped.kill()


def test_payload_outside_the_arena_is_refused(bus: NativeBus) -> None:
    with bus.channel().open() as channel:
        def send(start: int, size: int) -> bytes:
            return encode(Operation.SEND, 5, REQUESTS[Operation.SEND].pack(0, 0, 0, 0, 0, start, size))

        arena = encode(Operation.ARENA, 4, struct.pack("<Q", 8192))
        channel.sock.sendall(send(0, 1) + arena + send(0, 8192))
        channel.sock.sendall(send(1, 8192) + send(2**64 - 1, 2) + send(8192, 1))
        codes = [errno_of(frame) for frame in channel.frames_until_the_end()]
        assert codes == [22, 0, 0, 22, 22, 22]


def test_an_arena_that_loses_its_pages_is_read_as_zeros(bus: NativeBus) -> None:
    with bus.channel().open() as channel:
        channel.sock.sendall(encode(Operation.ARENA, 4, struct.pack("<Q", 1 << 20)))
        answer = channel.frame()
        with pytest.raises(PermissionError):
            os.ftruncate(answer.fds[0], 0)
        with answer.fds, mmap.mmap(answer.fds[0], 1 << 20) as arena:
            arena[:] = b"x" * (1 << 20)
            arena.madvise(mmap.MADV_REMOVE)
            body = REQUESTS[Operation.SEND].pack(0, 1, 0, 0, 0, 0, 1 << 20) + struct.pack("<Q", 0x10)
            channel.sock.sendall(encode(Operation.SEND, 5, body))
            assert errno_of(channel.frame()) == 0
        with Peer.from_descriptor(channel.descriptor, bus.address) as peer, peer.recv() as message:
            assert not any(message.payload)


def test_too_much_inline_payload_and_too_large_an_arena_are_emsgsize(bus: NativeBus) -> None:
    with bus.channel().open() as channel:
        n = MAX_INLINE_PAYLOAD + 1
        send = encode(Operation.SEND, 5, REQUESTS[Operation.SEND].pack(0, 0, 0, 0, n, 0, 0) + bytes(n))
        channel.sock.sendall(send + encode(Operation.ARENA, 6, struct.pack("<Q", 1 << 40)))
        assert [errno_of(frame) for frame in channel.frames_until_the_end()] == [90, 90]


def test_a_frame_of_the_largest_size_is_taken_and_a_larger_one_refused(bus: NativeBus) -> None:
    n = (MAX_FRAME - HEADER.size - 16) // 8
    largest = encode(Operation.DESTROY, 5, struct.pack(f"<QQ{n}Q", 0, n, *[0xB] * n))
    with bus.channel().open() as channel:
        channel.sock.sendall(largest)
        assert errno_of(channel.frames_until_the_end()[0]) == errno.EMSGSIZE
    with bus.channel().open() as channel:
        channel.sock.sendall(struct.pack("<I", MAX_FRAME + 1) + largest[4 : HEADER.size])
        assert is_refused(channel.frames_until_the_end())


@pytest.mark.parametrize(("operation", "fields"), [
    (Operation.SEND, (0, 1, 1, 16383, 0, 0, 0)),
    (Operation.SEND, (0, 0, 16385, 0, 0, 0, 0)),
    (Operation.CALL, (0, 1, 0, 16384, 0, 0, 0, 0, NO_LIMIT, 0)),
    (Operation.DESTROY, (0, 16385)),
])
def test_a_request_with_more_than_16384_handles_and_nodes_is_too_large(
    bus: NativeBus, operation: Operation, fields: tuple[int, ...]
) -> None:
    """T-24 leaves the number to the receiver's limits; the link has one of its own, as everybody waits."""
    body = REQUESTS[operation].pack(*fields)
    with bus.channel().open() as channel:
        channel.sock.sendall(encode(operation, 5, body + bytes(8 * 16385)))
        assert errno_of(channel.frames_until_the_end()[0]) == errno.EMSGSIZE


def test_up_to_16384_handles_are_the_accounts_business(bus: NativeBus) -> None:
    with bus.peer() as p:
        with pytest.raises(QuotaExceeded):
            p.send([], handles=[0x10] * 16384, flags=SendFlag.SEED)
        with pytest.raises(TooLarge):
            p.send([], handles=[0x10] * 16385, flags=SendFlag.SEED)


def test_an_offer_that_is_never_confirmed_ends_with_its_channel(bus: NativeBus) -> None:
    recv = encode(Operation.RECV, 8, struct.pack("<3Q", RecvFlag.INSTALL_FDS, NO_LIMIT, 0))
    with (
        bus.channel().open() as channel, open(os.devnull) as null,
        Peer.from_descriptor(channel.descriptor, bus.address) as peer,
    ):
        peer.send([0x10], b"m", fds=[null.fileno()])
        channel.sock.sendall(recv)
        offer = channel.frame()
        assert offer.operation == Event.OFFER and len(offer.fds) == 1
        offer.fds.close()
        channel.sock.close()
        with peer.recv(wait=True) as message:
            assert bytes(message.payload) == b"m" and len(message.fds) == 1


def test_a_failed_installation_leaves_the_message_for_the_next(bus: NativeBus) -> None:
    recv = encode(Operation.RECV, 8, struct.pack("<3Q", RecvFlag.INSTALL_FDS, NO_LIMIT, RecvOption.PARK))
    with bus.channel().open() as channel, open(os.devnull) as null:
        with Peer.from_descriptor(channel.descriptor, bus.address) as peer:
            peer.send([0x10], b"m", fds=[null.fileno()])
        channel.sock.sendall(recv)
        channel.frame().fds.close()
        channel.sock.sendall(recv[:8] + struct.pack("<Q", 9) + recv[16:])  # waits behind the offer
        channel.sock.sendall(encode(Operation.INSTALLED, 8, struct.pack("<Q", 0)))
        failed, offer = channel.frame(), channel.frame()
        assert (failed.tag, errno_of(failed)) == (8, 24)
        assert (offer.tag, offer.operation) == (9, Event.OFFER)
        offer.fds.close()
        channel.sock.sendall(encode(Operation.INSTALLED, 9, struct.pack("<Q", 1)))
        assert errno_of(channel.frame()) == 0


def offers_anew(channel: RawChannel, expected: int) -> bool:
    """The client confirms what it was offered; now it is offered ``expected``, and gets it."""
    confirm = encode(Operation.INSTALLED, 8, struct.pack("<Q", 1))
    channel.sock.sendall(confirm)
    offer = channel.frame()
    with offer.fds:
        is_expected = offer.operation == Event.OFFER and os.path.sameopenfile(offer.fds[0], expected)
    channel.sock.sendall(confirm)
    return is_expected and errno_of(channel.frame()) == 0


def test_a_message_in_place_of_one_that_was_offered_is_offered_itself(bus: NativeBus) -> None:
    """R-30: though the bus has its descriptor under the number of the one that is gone."""
    recv = encode(Operation.RECV, 8, struct.pack("<3Q", RecvFlag.INSTALL_FDS, NO_LIMIT, 0))
    with (
        bus.channel().open() as channel, TemporaryFile() as first, TemporaryFile() as second,
        Peer.from_descriptor(channel.descriptor, bus.address) as peer,
    ):
        peer.send([0x10], fds=[first.fileno()])
        channel.sock.sendall(recv)
        channel.frame().fds.close()
        peer.destroy([0x10], DestroyFlag.RELEASE_HANDLES)
        peer.send([0x20], fds=[second.fileno()])
        assert offers_anew(channel, second.fileno())


def test_a_seed_in_place_of_one_that_was_offered_is_offered_itself(bus: NativeBus) -> None:
    """R-30, S-8: as any other message."""
    recv = encode(Operation.RECV, 8, struct.pack("<3Q", RecvFlag.INSTALL_FDS | RecvFlag.SEED, NO_LIMIT, 0))
    with (
        bus.channel().open() as channel, TemporaryFile() as first, TemporaryFile() as last,
        Peer.from_descriptor(channel.descriptor, bus.address) as peer,
    ):
        peer.set_seed(fds=[first.fileno()])
        channel.sock.sendall(recv)
        channel.frame().fds.close()
        peer.set_seed()
        peer.set_seed(fds=[last.fileno()])
        assert offers_anew(channel, last.fileno())


def test_a_bus_out_of_descriptors_goes_on_and_accepts_again(tmp_path: Path) -> None:
    bus = NativeBus(tmp_path, accept_pause=0.01)
    with bus.peer() as p:
        p.send([0x10], b"the pool has its first segment")
        p.recv().release()
        n_fds = bus.n_fds()
        resource.prlimit(bus.process.pid, resource.RLIMIT_NOFILE, (n_fds + 2, n_fds + 4096))
        waiting = [bus.channel() for _ in range(8)]
        for _ in range(5):
            p.send([0x10], b"x")
            p.recv().release()
        resource.prlimit(bus.process.pid, resource.RLIMIT_NOFILE, (n_fds + 4096, n_fds + 4096))
        for channel in waiting:
            channel.greet().close()
    bus.close()


def test_a_client_that_is_told_of_its_fault_raises_it(bus: NativeBus) -> None:
    with bus.peer() as peer:
        link = peer._link
        link._sock.send(b"\xff" * 64)  # type: ignore[attr-defined]
        with pytest.raises(LocalProtocolError):
            peer.query()
