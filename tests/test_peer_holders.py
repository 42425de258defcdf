"""A peer is its descriptor: whoever has a copy holds it, and the last one to close ends it."""

from __future__ import annotations

import os
import socket

import pytest
import two_peers
from child import Child
from native_bus import NativeBus
from polls import WRITABLE, with_poll
from two_peers import PATIENCE, drained, only_socket, text

from bus1.core.api import MessageType
from bus1.descriptors import Fds
from bus1.errors import NodeDestroyed, WouldBlock
from bus1.peer import Peer

native_bus, bus, untouched = two_peers.native_bus, two_peers.bus, two_peers.untouched
p, q, to_q = two_peers.p, two_peers.q, two_peers.to_q


def test_every_opening_makes_a_new_peer_that_is_live_at_once(p: Peer, q: Peer) -> None:
    """P-1, P-2: another descriptor, another peer; there is no other step."""
    assert p.fileno() != q.fileno()
    assert [with_poll(peer) for peer in (p, q)] == [WRITABLE, WRITABLE]
    assert p.transfer(0x10, q) != 0x10
    p.send([0x10], b"to itself")
    assert (drained(p), drained(q)) == ([b"to itself"], [])


def taken(bus: NativeBus, sock: socket.socket) -> Peer:
    """The peer whose descriptor comes through a socket."""
    _, (fd,), _, _ = socket.recv_fds(sock, 1, 1)
    with Fds([fd]):
        return Peer.from_descriptor(fd, bus.address)


def answer_all(peer: Peer, to: int, sock: socket.socket) -> None:
    """Answer each message with the pid; after the first, only when told. Until ``over`` comes."""
    is_first = True
    while (content := text(peer.recv(timeout=PATIENCE))) != b"over":
        peer.send([to], b"%d %s" % (os.getpid(), content))
        if is_first:
            assert sock.recv(1)
        is_first = False


@only_socket
def test_a_peer_that_was_inherited_and_passed_works_in_both_processes_at_once(
    bus: NativeBus, untouched: None
) -> None:
    """P-2: by fork and by SCM_RIGHTS; each message is received once, by one of them."""
    to_p = 0xB
    passed = Child(lambda sock: answer_all(taken(bus, sock), to_p, sock))
    with bus.peer() as p, bus.peer() as q:
        assert p.transfer(0x20, q) == to_p
        to_q = q.transfer(0x10, p)
        inherited = Child(lambda sock: answer_all(q, to_p, sock))
        passed.give(q)
        q.close()
        p.send([to_q], b"0")
        p.send([to_q], b"1")
        answers = [text(p.recv(timeout=PATIENCE)).split() for _ in range(2)]
        assert {int(pid) for pid, _ in answers} == {inherited.pid, passed.pid}
        for child in (inherited, passed):
            child.go_on()
        for number in range(2, 200):
            p.send([to_q], b"%d" % number)
        answers += [text(p.recv(timeout=PATIENCE)).split() for _ in range(198)]
        assert sorted(int(number) for _, number in answers) == list(range(200))
        for pid in (inherited.pid, passed.pid):
            own = [int(number) for other, number in answers if int(other) == pid]
            assert own == sorted(own)
        p.send([to_q], b"over")
        p.send([to_q], b"over")
        assert (inherited.end(), passed.end()) == (0, 0)
        with p.recv(timeout=PATIENCE) as message:
            assert (message.type, message.destination) == (MessageType.NODE_DESTROY, to_q)


@only_socket
@pytest.mark.parametrize("last", ["closes", "exits", "is killed"])
def test_the_last_holder_and_no_earlier_one_ends_the_peer(bus: NativeBus, untouched: None, last: str) -> None:
    """P-2, P-16: whatever way the holders go."""
    to_p = 0xB

    def hold(sock: socket.socket, peer: Peer) -> None:
        answer_all(peer, to_p, sock)
        if last == "closes":
            peer.close()
            assert not sock.recv(1)

    passed = Child(lambda sock: hold(sock, taken(bus, sock)))
    with bus.peer() as p, bus.peer() as q:
        p.transfer(0x20, q)
        to_q = q.transfer(0x10, p)
        inherited = Child(lambda sock: answer_all(q, to_p, sock))
        passed.give(q)
        passed.go_on()
        p.send([to_q], b"who?")
        while text(p.recv(timeout=PATIENCE)) != b"%d who?" % passed.pid:
            inherited.go_on()
            p.send([to_q], b"who?")
        inherited.kill()
        q.close()
        for _ in range(3):
            p.send([to_q], b"still there?")
            assert text(p.recv(timeout=PATIENCE)) == b"%d still there?" % passed.pid
        with pytest.raises(WouldBlock):
            p.recv()
        if last == "is killed":
            passed.kill()
        else:
            p.send([to_q], b"over")
        with p.recv(timeout=PATIENCE) as message:
            assert (message.type, message.destination) == (MessageType.NODE_DESTROY, to_q)
        with pytest.raises(NodeDestroyed):
            p.send([to_q])
        if last != "is killed":
            assert passed.end() == 0


@only_socket
def test_a_descriptor_on_its_way_is_a_holder(bus: NativeBus, p: Peer) -> None:
    """P-2, P-16: the only copy lies in a plain socket."""
    left, right = socket.socketpair()
    with left, right:
        with bus.peer() as q:
            to_q = q.transfer(0x10, p)
            socket.send_fds(left, [b"x"], [q.fileno()])
        p.send([to_q], b"while it is on its way")
        with taken(bus, right) as q:
            assert text(q.recv()) == b"while it is on its way"
            socket.send_fds(left, [b"x"], [q.fileno()])
        p.send([to_q])
        with pytest.raises(WouldBlock):
            p.recv()
    assert p.recv(timeout=PATIENCE).type is MessageType.NODE_DESTROY
