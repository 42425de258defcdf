"""The short way of everyday calls takes and sends what the usual way would, and leaves the rest to that."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from bus1_services.body import encode, short_way
from bus1_services.call import Envelope, Kind
from bus1_services.call import encode as encode_envelope

from bus1.core.api import HANDLE_INVALID, MessageType
from bus1.errors import BusGone
from bus1.exchange import new_exchange
from bus1.frames import HEADER, QUIET, REQUESTS, RESULTS, Note, Operation, SliceNote, answer
from bus1.frames import encode as encode_frame

NODE, REPLY = 0x20, 11
CALL, RETURN = ("org.example.One", "Do", "s", "u"), ("", "", "u")


class Scene:
    """A channel with a RECV parked, and the short way through it."""

    def __init__(self) -> None:
        self.exchange = new_exchange()
        self.way = short_way(self.exchange)
        self.errors: list[Exception] = []
        self.receive()
        self.sent()

    def receive(self) -> None:
        body = REQUESTS[Operation.RECV].pack(4, 2**64 - 1, 3 | 255 << 8)
        self.tag = self.exchange.request(Operation.RECV, body)

    def sent(self) -> bytes:
        """What has been written since."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.exchange.transmit(ours)
            ours.close()
            return theirs.recv(1 << 16)

    def arrives(self, *messages: bytes) -> None:
        for message in messages:
            self.exchange.feed(message, [], False)
        self.exchange.process()

    def message(
        self, payload: bytes, handles: Sequence[int] = (), *, secctx: bytes | None = None, notes: int = 0,
        detached: bool = True, flags: int = 0,
    ) -> bytes:
        at = len(payload) + 7 & -8
        tail = payload.ljust(at, b"\0") + struct.pack(f"<{len(handles)}Q", *handles) + (secctx or b"")
        tail = tail.ljust(max(8, len(tail) + 7 & -8), b"\0")
        head = RESULTS[Operation.RECV].pack(
            MessageType.DATA, flags | (secctx is not None), NODE, 1000, 100, 4242, 0, 8, len(payload),
            len(handles), 0, len(secctx or b""), len(tail), SliceNote.DETACHED if detached else 0, len(tail),
            1, 0, 4 << 20, 1,
        )
        return answer(Operation.RECV, self.tag, head + tail, notes=int(Note.MORE) | notes)

    def failed(self, error: Exception) -> None:
        self.errors.append(error)


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.exchange.fail()


def text(kind: Kind, names: Sequence[str], values: Sequence[Any], **more: Any) -> bytes:
    """A whole payload."""
    data = encode(names[2], values).data
    interface, member, signature = names[:3]
    flags, serial = more.get("flags", 0), more.get("serial", 0)
    envelope = Envelope(kind, flags, "l", serial, interface, member, signature, (), len(data))
    return encode_envelope(envelope) + data


def a_call(scene: Scene, **more: Any) -> bytes:
    return scene.message(text(Kind.CALL, CALL, ["a"], serial=7, **more), [REPLY])


def test_a_call_is_taken_with_what_it_says(scene: Scene) -> None:
    scene.arrives(a_call(scene))
    names, sender = CALL[:3], (1000, 100, 4242)
    assert scene.way.take(scene.tag) == (NODE, names, REPLY, 7, ["a"], sender, None)
    assert scene.way.take(scene.tag) is None


def test_a_call_is_taken_with_the_context_of_its_sender(scene: Scene) -> None:
    scene.arrives(scene.message(text(Kind.CALL, CALL, ["a"]), [REPLY], secctx=b"label"))
    assert scene.way.take(scene.tag)[-1] == b"label"


def test_a_result_is_taken_with_the_end_of_its_node(scene: Scene) -> None:
    scene.arrives(scene.message(text(Kind.RETURN, RETURN, [5]), notes=int(Note.RELEASED)))
    assert scene.way.take(scene.tag) == (NODE, "u", [5])


@pytest.mark.parametrize("what", [
    "no reply", "flags", "a dead handle", "two handles", "a slice to give back", "an error", "a signal",
    "a path", "no envelope", "a longer body", "the end of its node", "unknown flags",
])
def test_what_is_not_everyday_is_left_and_nothing_overtakes_it(scene: Scene, what: str) -> None:
    call = text(Kind.CALL, CALL, ["a"])
    other = {
        "no reply": lambda: scene.message(call),
        "flags": lambda: a_call(scene, flags=2),
        "a dead handle": lambda: scene.message(call, [HANDLE_INVALID]),
        "two handles": lambda: scene.message(call, [REPLY, 19]),
        "a slice to give back": lambda: scene.message(call, [REPLY], detached=False),
        "an error": lambda: scene.message(text(Kind.ERROR, ("", "org.example.Bad", "s"), ["a"])),
        "a signal": lambda: scene.message(text(Kind.SIGNAL, CALL, ["a"]), [REPLY]),
        "a path": lambda: scene.message(text(Kind.RETURN, ("", "", "o"), ["/a"])),
        "no envelope": lambda: scene.message(b"text"),
        "a longer body": lambda: scene.message(call + b"more", [REPLY]),
        "the end of its node": lambda: scene.message(call, [REPLY], notes=int(Note.RELEASED)),
        "unknown flags": lambda: scene.message(call, [REPLY], flags=4),
    }[what]()
    scene.arrives(a_call(scene), other, a_call(scene))
    assert scene.way.take(scene.tag)[2] == REPLY
    found = scene.way.take(scene.tag)
    if found is not None:
        assert what == "a path"  # the native way knows more types
    else:
        assert scene.way.take(scene.tag) is None
        left = scene.exchange.take(scene.tag)
        assert left is not None
        assert other.endswith(left.tail)
    assert scene.way.take(scene.tag)[2] == REPLY
    assert not scene.exchange.has_answer(scene.tag)


def test_what_is_put_back_comes_first_again(scene: Scene) -> None:
    results = [scene.message(text(Kind.RETURN, RETURN, [number])) for number in (5, 6)]
    scene.arrives(a_call(scene), *results)
    first = scene.way.take(scene.tag)
    scene.way.put_back()
    assert scene.way.take(scene.tag) == first
    assert [scene.way.take(scene.tag) for _ in results] == [(NODE, "u", [5]), (NODE, "u", [6])]


def test_what_a_cancelled_recv_has_brought_is_not_overtaken(scene: Scene) -> None:
    scene.exchange.cancel(scene.tag)
    late = a_call(scene)
    scene.receive()
    next_one = scene.message(text(Kind.RETURN, RETURN, [5]))
    scene.arrives(late, next_one)
    for message in (late, next_one):
        assert scene.way.take(scene.tag) is None
        found = scene.exchange.take(scene.tag)
        assert found is not None
        assert message.endswith(found.tail)


def test_messages_of_one_transaction_are_messages(scene: Scene) -> None:
    scene.arrives(scene.message(text(Kind.RETURN, RETURN, [5]), flags=2))
    assert scene.way.take(scene.tag) == (NODE, "u", [5])


def test_who_has_not_looked_at_what_has_come_does_not_call(scene: Scene) -> None:
    scene.arrives(a_call(scene))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert scene.way.call(ours, ours, scene.tag, 3, NODE, CALL, ["a"], scene.failed) is False
    assert scene.exchange.pending == 0


def test_what_is_sent_is_what_the_usual_way_sends(scene: Scene) -> None:
    assert scene.way.post_call(3, NODE, CALL, ["a"], scene.failed)
    usual = text(Kind.CALL, CALL, ["a"])
    fields = REQUESTS[Operation.SEND].pack(0, 1, 0, 1, len(usual), 0, 0) + struct.pack("<QQ", 3, NODE)
    tag = scene.tag + 1
    assert scene.sent() == encode_frame(Operation.SEND | QUIET, tag, fields + usual)
    assert scene.way.respond(REPLY, 7, "u", [5], scene.failed)
    usual = text(Kind.RETURN, RETURN, [5], serial=7)
    fields = REQUESTS[Operation.RESPOND].pack(0, 1, 0, 0, len(usual), 0, 0, REPLY) + struct.pack("<Q", REPLY)
    assert scene.sent() == encode_frame(Operation.RESPOND | QUIET, tag + 1, fields + usual)


@pytest.mark.parametrize("names, values", [
    (CALL, [1]), (CALL, []), (CALL, ["a" * 70_000]), (("org.example.One", "Do", "s(", ""), ["a"]),
])
def test_what_does_not_fit_is_not_sent(
    scene: Scene, names: tuple[str, str, str, str], values: list[Any]
) -> None:
    assert not scene.way.post_call(3, NODE, names, values, scene.failed)
    assert scene.exchange.pending == 0


def test_too_many_calls_without_an_answer_are_not_sent(scene: Scene) -> None:
    n_sent = 0
    while scene.way.post_call(3, NODE, CALL, ["a"], scene.failed):
        n_sent += 1
    assert n_sent == 256
    assert not scene.way.respond(REPLY, 7, "u", [5], scene.failed)


def test_who_waits_gets_the_values_and_gives_the_node_up(scene: Scene) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(scene.message(text(Kind.RETURN, RETURN, [5]), notes=int(Note.RELEASED)))
        assert scene.way.call(ours, ours, scene.tag, 3, NODE, CALL, ["a"], scene.failed) == [5]
        length, operation, _, _ = HEADER.unpack(theirs.recv(HEADER.size))
        assert operation == Operation.SEND | QUIET
        theirs.recv(length - HEADER.size)
    assert scene.sent()[HEADER.size :] == struct.pack("<QQQ", 1, 1, NODE)


@pytest.mark.parametrize("what", ["of another node", "of another type", "none", "the end"])
def test_who_waits_for_anything_else_is_told_that_it_was_sent(scene: Scene, what: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        names = (*CALL[:3], "s") if what == "of another type" else CALL
        node = NODE + 4 if what == "of another node" else NODE
        if what == "the end":
            theirs.shutdown(socket.SHUT_WR)
        elif what == "none":
            theirs.send(a_call(scene))
        else:
            theirs.send(scene.message(text(Kind.RETURN, RETURN, [5])))
        assert scene.way.call(ours, ours, scene.tag, 3, node, names, ["a"], scene.failed) is None
        if what == "the end":
            with pytest.raises(BusGone):
                scene.way.post_call(3, NODE, CALL, ["a"], scene.failed)
        else:
            assert scene.way.take(scene.tag) is not None
            assert not scene.way.call(ours, ours, scene.tag + 1, 3, node, names, ["a"], scene.failed)


def test_who_waits_sends_what_is_posted_and_takes_what_comes_with_its_readiness(scene: Scene) -> None:
    ours, theirs = socket.socketpair()
    descriptor, bus = socket.socketpair()
    with ours, theirs, descriptor, bus:
        bus.send(b"12")
        assert scene.way.respond(REPLY, 7, "u", [5], scene.failed)
        theirs.send(scene.message(text(Kind.CALL, CALL, ["a"], serial=7), [REPLY], notes=int(Note.DRAINED)))
        found = scene.way.wait(ours, descriptor, scene.tag)
        assert found == (NODE, CALL[:3], REPLY, 7, ["a"], (1000, 100, 4242), None)
        assert scene.exchange.pending == 0
        assert descriptor.recv(8) == b"2"


def test_who_waits_takes_what_is_there_and_reads_nothing(scene: Scene) -> None:
    scene.arrives(a_call(scene))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert scene.way.respond(REPLY, 7, "u", [5], scene.failed)
        assert scene.way.wait(ours, ours, scene.tag)[0] == NODE
        assert scene.exchange.pending > 0


@pytest.mark.parametrize("what, said", [("a signal", False), ("the end", False), ("an error", None)])
def test_who_waits_for_something_else_is_told_whether_it_was_read(
    scene: Scene, what: str, said: bool | None
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if what == "a signal":
            theirs.send(scene.message(text(Kind.SIGNAL, CALL, ["a"])))
        elif what == "the end":
            theirs.close()
        else:
            ours.setblocking(False)  # EAGAIN
        assert scene.way.wait(ours, ours, scene.tag) is said


@contextmanager
def looped() -> Iterator[tuple[socket.socket, socket.socket, select.epoll]]:
    """A socket and its other end, and the epoll of a loop that reads it."""
    ours, theirs = socket.socketpair()
    with ours, theirs, select.epoll() as epoll:
        ours.setblocking(False)
        epoll.register(ours, select.EPOLLIN)
        yield ours, theirs, epoll


def test_who_waits_with_a_loop_sends_what_is_posted_and_takes_what_comes(scene: Scene) -> None:
    descriptor, bus = socket.socketpair()
    with looped() as (ours, theirs, epoll), descriptor, bus:
        bus.send(b"12")
        assert scene.way.respond(REPLY, 7, "u", [5], scene.failed)
        theirs.send(scene.message(text(Kind.CALL, CALL, ["a"], serial=7), [REPLY], notes=int(Note.DRAINED)))
        found = scene.way.next(ours, descriptor, scene.tag, epoll, 10)
        assert found == (NODE, CALL[:3], REPLY, 7, ["a"], (1000, 100, 4242), None)
        assert scene.exchange.pending == 0
        assert descriptor.recv(8) == b"2"


@pytest.mark.parametrize("what", ["another socket, too", "another socket", "nothing", "the end", "room"])
def test_who_waits_with_a_loop_leaves_what_else_comes_to_it(scene: Scene, what: str) -> None:
    other, others = socket.socketpair()
    with looped() as (ours, theirs, epoll), other, others:
        epoll.register(other, select.EPOLLIN)
        if what.startswith("another"):
            others.send(b"1")
        if what == "the end":
            theirs.close()
        elif what == "room":
            epoll.modify(ours, select.EPOLLIN | select.EPOLLOUT)
        if what in {"another socket, too", "room"}:
            theirs.send(a_call(scene))
        assert scene.way.next(ours, ours, scene.tag, epoll, 0) is None
        assert len(epoll.poll(0)) == {"another socket, too": 2, "nothing": 0}.get(what, 1)
        assert not scene.exchange.has_answer(scene.tag)


def test_who_waits_with_a_loop_is_told_of_what_is_not_everyday(scene: Scene) -> None:
    with looped() as (ours, theirs, epoll):
        theirs.send(scene.message(text(Kind.SIGNAL, CALL, ["a"])))
        assert scene.way.next(ours, ours, scene.tag, epoll, 10) is False
        assert scene.way.next(ours, ours, scene.tag, epoll, 10) is None


def test_who_waits_with_a_loop_takes_what_is_there_and_reads_nothing(scene: Scene) -> None:
    scene.arrives(a_call(scene))
    with looped() as (ours, theirs, epoll):
        theirs.send(a_call(scene))
        assert scene.way.respond(REPLY, 7, "u", [5], scene.failed)
        assert scene.way.next(ours, ours, scene.tag, epoll, 10)[0] == NODE
        assert scene.exchange.pending > 0
        assert len(epoll.poll(0)) == 1


def test_who_cannot_send_with_a_loop_waits_for_nothing(scene: Scene) -> None:
    with looped() as (ours, theirs, epoll):
        with suppress(BlockingIOError):
            while True:
                ours.send(bytes(1 << 16))
        theirs.send(a_call(scene))
        assert scene.way.respond(REPLY, 7, "u", [5], scene.failed)
        assert scene.way.next(ours, ours, scene.tag, epoll, 10) is None
        assert scene.exchange.pending > 0


def test_a_node_that_is_given_up_is_destroyed(scene: Scene) -> None:
    scene.way.give_up(NODE)
    sent = scene.sent()
    assert HEADER.unpack_from(sent)[1] == Operation.DESTROY | QUIET
    assert sent[HEADER.size :] == struct.pack("<QQQ", 1, 1, NODE)
