"""The codec of the native protocol, without a socket."""

from __future__ import annotations

import os
import re
import struct
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus1.core.api import FD_MAX
from bus1.descriptors import Fds
from bus1.errors import (
    BY_ERRNO,
    Bus1Error,
    LocalProtocolError,
    NodeDestroyed,
    NotSupported,
    PeerShutdown,
    RemoteProtocolError,
    WouldBlock,
)
from bus1.exchange import MAX_QUIET, Exchange
from bus1.frames import (
    ANSWER,
    ANSWER_PREFIX,
    HEADER,
    MAX_FRAME,
    QUIET,
    REQUESTS,
    RESULTS,
    SCM_MAX_FD,
    Event,
    Frame,
    FrameReader,
    FrameWriter,
    Operation,
    answer,
    encode,
    error_answer,
    fields,
    refusal,
    words,
)

PROTOCOL = Path(__file__).parent.parent / "docs" / "protocol.md"
frames = st.lists(
    st.tuples(st.integers(0, 0xFFFF), st.integers(0, 2**64 - 1), st.binary(max_size=300)), max_size=12
)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def null() -> int:
    return os.open(os.devnull, os.O_RDONLY)


def all_of(reader: FrameReader) -> list[Frame]:
    found = []
    while (frame := reader.next()) is not None:
        found.append(frame)
    return found


@given(frames, st.lists(st.integers(1, 100)))
def test_frames_are_read_as_they_were_written_however_they_are_cut(
    written: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(encode(operation, tag, body) for operation, tag, body in written)
    reader, found = FrameReader(), []
    for cut in [*cuts, len(stream)]:
        piece, stream = stream[:cut], stream[cut:]
        reader.feed(piece)
        frames_now = all_of(reader)
        found += [(each.operation | QUIET * each.is_quiet, each.tag, each.body) for each in frames_now]
    assert found == written


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_give_frames_or_a_protocol_error(pieces: list[bytes]) -> None:
    reader = FrameReader(4096)
    try:
        for piece in pieces:
            reader.feed(piece)
            for frame in all_of(reader):
                for table in (REQUESTS, RESULTS):
                    if frame.operation in table:
                        fields(table, frame.operation, frame.body)
    except RemoteProtocolError:
        return


@given(st.lists(st.integers(1, 50)))
def test_what_a_writer_hands_out_piece_by_piece_is_the_stream(sizes: list[int]) -> None:
    writer, stream = FrameWriter(), b""
    for number in range(5):
        writer.push(encode(number, number, bytes(number)))
        stream += encode(number, number, bytes(number))
    out = b""
    for size in [*sizes, *[7] * 40]:
        if writer.pending:
            chunk = b"".join(writer.chunk()[0])[:size]
            out += chunk
            writer.sent(len(chunk))
    assert out == stream and writer.pending == 0


@pytest.mark.parametrize("length", [0, 15, MAX_FRAME + 1, 0xFFFFFFFF])
def test_an_impossible_length_is_a_protocol_error(length: int) -> None:
    reader = FrameReader()
    reader.feed(HEADER.pack(length, 1, 0, 1))
    with pytest.raises(RemoteProtocolError):
        reader.next()


def test_descriptors_come_with_the_frame_that_announced_them() -> None:
    first, second = null(), null()
    reader = FrameReader()
    reader.feed(encode(1, 1, b"abc", 1)[:10], [first])
    assert reader.next() is None and reader.n_stray_fds
    reader.feed(encode(1, 1, b"abc", 1)[10:])
    reader.feed(encode(2, 2, b""))
    reader.feed(encode(3, 3, b"", 1), [second])
    found = all_of(reader)
    assert [list(frame.fds) for frame in found] == [[first], [], [second]]
    assert not reader.n_stray_fds
    for frame in found:
        frame.fds.close()
    assert not is_open(first) and not is_open(second)


def test_descriptors_that_no_frame_announced_are_a_protocol_error_and_closed() -> None:
    fd = null()
    reader = FrameReader()
    reader.feed(encode(1, 1, b""), [fd])
    assert reader.next() is not None
    with pytest.raises(RemoteProtocolError):
        reader.next()
    reader.close()
    assert not is_open(fd)


def test_announced_descriptors_that_are_missing_are_a_protocol_error_unless_truncated() -> None:
    reader = FrameReader()
    reader.feed(encode(1, 1, b"", 2))
    with pytest.raises(RemoteProtocolError):
        reader.next()
    fd = null()
    reader = FrameReader()
    reader.feed(encode(1, 1, b"", 2), [fd], truncated=True)
    frame = reader.next()
    assert frame is not None and (list(frame.fds), frame.n_fds) == ([fd], 2)
    frame.fds.close()
    reader.feed(encode(1, 1, b"", 2))
    with pytest.raises(RemoteProtocolError):
        reader.next()


def test_more_descriptors_than_a_message_may_have_are_a_protocol_error() -> None:
    reader = FrameReader()
    reader.feed(encode(1, 1, b"", FD_MAX + 1))
    with pytest.raises(RemoteProtocolError):
        reader.next()


def test_a_frame_with_descriptors_starts_a_sendmsg_and_takes_a_second_for_too_many() -> None:
    writer = FrameWriter()
    owner = Fds([null() for _ in range(SCM_MAX_FD + 2)])
    numbers = list(owner)
    writer.push(encode(1, 1, b"before"))
    writer.push(encode(2, 2, b"", len(numbers)), owner)
    sent = []
    while writer.pending:
        buffers, fds = writer.chunk()
        size = sum(map(len, buffers))
        sent.append((size, list(fds)))
        writer.sent(size)
    assert [fds for _, fds in sent] == [[], numbers[:SCM_MAX_FD], numbers[SCM_MAX_FD:]]
    assert all(size for size, _ in sent)
    assert not any(map(is_open, numbers))


def test_a_partly_sent_frame_does_not_send_its_descriptors_again() -> None:
    writer, fd = FrameWriter(), null()
    writer.push(encode(1, 1, b"body", 1), Fds([fd]))
    assert list(writer.chunk()[1]) == [fd]
    writer.sent(3)
    buffers, fds = writer.chunk()
    assert not fds and b"".join(buffers) == encode(1, 1, b"body", 1)[3:]
    writer.close()
    assert not is_open(fd) and writer.pending == 0


def test_a_tail_that_is_not_there_is_a_protocol_error() -> None:
    assert words(struct.pack("<3Q", 1, 2, 3), 8, 2) == (2, 3)
    for count in (3, 1 << 60):
        with pytest.raises(RemoteProtocolError):
            words(struct.pack("<3Q", 1, 2, 3), 8, count)


# ---- the client's half ------------------------------------------------------------------------------


def exchange_with(*answers: bytes) -> Exchange:
    exchange = Exchange()
    for data in answers:
        exchange.reader.feed(data)
    return exchange


def test_answers_are_taken_by_tag_in_any_order() -> None:
    exchange = Exchange()
    first = exchange.request(Operation.RELEASE, bytes(8))
    second = exchange.request(Operation.RELEASE, bytes(8))
    exchange.reader.feed(error_answer(Operation.RELEASE, first, NotSupported("no")))
    exchange.process()
    assert exchange.take(second) is None
    exchange.reader.feed(answer(Operation.RELEASE, second))
    exchange.process()
    found, failed = exchange.take(second), exchange.take(first)
    assert found is not None and found.error is None
    assert failed is not None and isinstance(failed.error, NotSupported) and str(failed.error) == "no"


@pytest.mark.parametrize(
    "data",
    [
        answer(Operation.QUERY, 1),
        answer(Operation.RELEASE, 2),
        encode(Operation.RELEASE | ANSWER, 1, b"\0"),
        encode(0x4444, 1, b""),
        encode(Event.OFFER, 1, b""),
        encode(Event.RETIRED, 0, b""),
        encode(Operation.RELEASE, 1, b""),
        HEADER.pack(3, 0, 0, 0),
    ],
)
def test_an_answer_that_makes_no_sense_ends_the_channel(data: bytes) -> None:
    exchange = exchange_with(data)
    tag = exchange.request(Operation.RELEASE, bytes(8))
    exchange.process()
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            exchange.take(tag)
    with pytest.raises(RemoteProtocolError):
        exchange.request(Operation.RELEASE, bytes(8))


def test_a_refusal_says_who_is_to_blame() -> None:
    blame = {RemoteProtocolError("bad frame"): LocalProtocolError, PeerShutdown("gone"): PeerShutdown}
    for error, expected in blame.items():
        exchange = exchange_with(refusal(error))
        tag = exchange.request(Operation.RELEASE, bytes(8))
        exchange.process()
        with pytest.raises(expected, match=str(error)):
            exchange.take(tag)


def test_an_offer_is_confirmed_or_refused_at_once_and_its_descriptors_follow_the_answer() -> None:
    for is_complete in (True, False):
        exchange, fd = Exchange(), null()
        tag = exchange.request(Operation.RECV, bytes(24))
        exchange.writer.sent(exchange.writer.pending)
        offer = encode(Event.OFFER, tag, b"", 1 if is_complete else 2)
        exchange.reader.feed(offer, [fd], truncated=not is_complete)
        exchange.process()
        reply = b"".join(exchange.writer.chunk()[0])
        assert reply == encode(Operation.INSTALLED, tag, struct.pack("<Q", is_complete))
        assert is_open(fd) == is_complete
        exchange.fail()
        assert not is_open(fd)


def message_answer(tag: int, destination: int = 0x10, notes: int = 0) -> bytes:
    values = (1, 0, destination, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 1)
    return answer(Operation.RECV, tag, RESULTS[Operation.RECV].pack(*values), notes=notes)


def test_a_cancelled_recv_that_brings_a_message_after_all_keeps_it() -> None:
    exchange = Exchange()
    late, early = exchange.request(Operation.RECV, bytes(24)), exchange.request(Operation.RECV, bytes(24))
    exchange.reader.feed(message_answer(early, 0x20))
    exchange.process()
    exchange.cancel(early)
    exchange.cancel(late)
    assert [found.values[2] for found in exchange.stray] == [0x20]
    exchange.reader.feed(message_answer(late, 0x30))
    exchange.process()
    assert [found.values[2] for found in exchange.stray] == [0x20, 0x30]
    assert exchange.answered() == []
    next_one = exchange.request(Operation.RECV, bytes(24))
    exchange.reader.feed(message_answer(next_one, 0x40))
    exchange.process()
    found = exchange.take(next_one)
    assert found is not None and found.values[2] == 0x20
    assert [kept.values[2] for kept in exchange.stray] == [0x30, 0x40]
    empty = exchange.request(Operation.RECV, bytes(24))
    exchange.reader.feed(error_answer(Operation.RECV, empty, WouldBlock("nothing")))
    exchange.process()
    found = exchange.take(empty)
    assert found is not None and found.values[2] == 0x30


def test_a_recv_that_waits_already_takes_what_a_cancelled_one_brings_along() -> None:
    exchange = Exchange()
    given_up = exchange.request(Operation.RECV, bytes(24))
    exchange.cancel(given_up)
    seed = exchange.request(Operation.RECV, struct.pack("<3Q", 2, 0, 0))
    send, waiting = exchange.request(Operation.SEND, bytes(40)), exchange.request(Operation.RECV, bytes(24))
    assert exchange.take(waiting) is None and exchange.answered() == []
    exchange.reader.feed(message_answer(given_up, 0x20))
    exchange.process()
    assert exchange.answered() == [waiting]
    assert exchange.take(seed) is None and exchange.take(send) is None
    found = exchange.take(waiting)
    assert found is not None and found.values[2] == 0x20 and exchange.stray == []
    assert exchange.take(waiting) is None and exchange.expects(waiting)
    exchange.cancel(waiting)
    exchange.reader.feed(message_answer(waiting, 0x30))
    exchange.process()
    assert [kept.values[2] for kept in exchange.stray] == [0x30]


@pytest.mark.parametrize("is_late", [False, True])
def test_descriptors_of_a_message_that_was_only_looked_at_are_closed_with_the_channel(is_late: bool) -> None:
    exchange, fd = Exchange(), null()
    looking = exchange.request(Operation.RECV, struct.pack("<3Q", 1, 0, 0))
    exchange.reader.feed(encode(Event.OFFER, looking, b"", 1), [fd])
    exchange.reader.feed(message_answer(looking))
    exchange.process()
    for step in (exchange.fail, partial(exchange.cancel, looking))[:: 1 if is_late else -1]:
        assert is_open(fd)
        step()
    assert not is_open(fd) and exchange.unwanted == exchange.stray == []


def test_descriptors_of_an_answer_that_nobody_takes_are_closed() -> None:
    exchange, fd = Exchange(), null()
    tag = exchange.request(Operation.ARENA, bytes(8))
    exchange.abandon(tag)
    exchange.reader.feed(answer(Operation.ARENA, tag, bytes(8), n_fds=1), [fd])
    exchange.process()
    assert not is_open(fd)


def test_each_drained_note_is_one_byte_to_take() -> None:
    exchange = Exchange()
    for tag in [exchange.request(Operation.RELEASE, bytes(8)) for _ in range(2)]:
        exchange.reader.feed(answer(Operation.RELEASE, tag, notes=1))
    exchange.process()
    assert exchange.n_drained == 2


def test_a_quiet_request_has_succeeded_when_a_later_one_is_answered() -> None:
    exchange, failures = Exchange(), list[Bus1Error]()
    exchange.post(Operation.RELEASE, bytes(8), failures.append)
    first = exchange.request(Operation.QUERY, bytes(8))
    for _ in range(MAX_QUIET - 1):
        exchange.post(Operation.RELEASE, bytes(8), failures.append)
    assert not exchange.may_be_quiet
    exchange.reader.feed(answer(Operation.QUERY, first, bytes(48)))
    exchange.process()
    assert exchange.may_be_quiet and exchange.take(first) is not None
    exchange.post(Operation.RELEASE, bytes(8))
    assert not exchange.may_be_quiet and failures == []


def test_whoever_posted_a_request_is_told_that_it_failed() -> None:
    exchange, failures = Exchange(), list[Bus1Error]()
    exchange.post(Operation.SEND, bytes(40), failures.append)
    exchange.post(Operation.SEND, bytes(40), failures.append)
    exchange.reader.feed(error_answer(Operation.SEND, 2, NodeDestroyed("gone")))
    exchange.process()
    assert [type(error) for error in failures] == [NodeDestroyed]
    assert exchange.failure is None
    exchange.reader.feed(error_answer(Operation.SEND, 2, NodeDestroyed("again")))
    exchange.process()
    assert isinstance(exchange.failure, RemoteProtocolError)


def test_an_answer_with_more_behind_it_leaves_the_request_open() -> None:
    exchange = Exchange()
    tag = exchange.request(Operation.RECV, bytes(24))
    for destination, notes in ((0x10, 2), (0x20, 2), (0x30, 0)):
        exchange.reader.feed(message_answer(tag, destination, notes))
    exchange.process()
    taken = []
    while exchange.expects(tag):
        answer_to_it = exchange.take(tag)
        assert answer_to_it is not None
        taken.append(answer_to_it.values[2])
    assert taken == [0x10, 0x20, 0x30]


def test_whoever_leaves_a_request_with_several_answers_keeps_what_comes_after_all() -> None:
    exchange = Exchange()
    tag = exchange.request(Operation.RECV, bytes(24))
    exchange.reader.feed(message_answer(tag, 0x10, 2) + message_answer(tag, 0x20, 2))
    exchange.process()
    exchange.cancel(tag)
    exchange.reader.feed(message_answer(tag, 0x30, 2) + message_answer(tag, 0x40))
    exchange.process()
    assert [found.values[2] for found in exchange.stray] == [0x10, 0x20, 0x30, 0x40]
    assert not exchange.expects(tag)


def test_a_request_that_nobody_waits_for_is_answered_when_too_many_were_quiet() -> None:
    exchange = Exchange()
    for _ in range(MAX_QUIET + 1):
        exchange.forget(Operation.RELEASE, bytes(8))
    exchange.reader.feed(answer(Operation.RELEASE, MAX_QUIET + 1))
    exchange.process()
    assert exchange.may_be_quiet and exchange.failure is None and exchange.answered() == []


# ---- the documentation -----------------------------------------------------------------------------


def test_protocol_md_tells_the_numbers_and_sizes_of_the_tables() -> None:
    pattern = r"^\| ([A-Z_]+) \| (0x[0-9a-f]+) \| (\d+) \| (\d+|–) \|"
    rows = re.findall(pattern, PROTOCOL.read_text(), re.MULTILINE)
    told = {name: (int(number, 16), int(size), result) for name, number, size, result in rows}
    assert told == {
        operation.name: (
            int(operation), REQUESTS[operation].size,
            str(RESULTS[operation].size) if operation in RESULTS else "–",
        )
        for operation in Operation
    }
    assert {event.name: hex(event) for event in Event} == dict(
        re.findall(r"^\| ([A-Z]+) \| (0x4[0-9a-f]+) \| [^|]*\|$", PROTOCOL.read_text(), re.MULTILINE)
    )
    assert f"{HEADER.size} bytes" in PROTOCOL.read_text() and ANSWER_PREFIX.size == 8


def test_every_errno_of_the_contract_crosses_the_link() -> None:
    for code, kind in BY_ERRNO.items():
        exchange = Exchange()
        tag = exchange.request(Operation.RELEASE, bytes(8))
        exchange.reader.feed(error_answer(Operation.RELEASE, tag, kind("why")))
        exchange.process()
        found = exchange.take(tag)
        assert found is not None and type(found.error) is kind and found.error.errno == code
