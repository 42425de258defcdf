"""A peer that several threads use, and the children of their process."""

from __future__ import annotations

import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable

import pytest
import two_peers
from child import Child
from native_bus import NativeBus
from two_peers import PATIENCE, drained, only_socket, text

from bus1.errors import TooLarge, WouldBlock
from bus1.peer import Peer

native_bus, bus, untouched = two_peers.native_bus, two_peers.bus, two_peers.untouched
p, q, to_q = two_peers.p, two_peers.q, two_peers.to_q


def at_once(*acts: Callable[[], object]) -> None:
    """Every act in a thread of its own; the first error is raised."""
    failures: list[BaseException] = []
    start = threading.Barrier(len(acts))

    def run(act: Callable[[], None]) -> None:
        try:
            start.wait()
            act()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in failures:
        raise error


N_ROUNDS = 40


@only_socket
def test_a_request_that_fills_the_socket_is_sent_while_another_thread_reads(p: Peer) -> None:
    """P-4: the thread that reads does not know of it."""
    thread = threading.Thread(target=lambda: p.recv(wait=True).release())
    thread.start()
    for _ in range(20):
        p.query()
    with pytest.raises(TooLarge):
        p.destroy([8 * number for number in range(100_000)])
    p.send([0x10], b"enough")
    thread.join()


@only_socket
def test_threads_may_do_everything_at_once_with_one_peer(p: Peer, q: Peer, to_q: int) -> None:
    """P-4: each command takes effect once, each message goes to one thread."""
    got: list[bytes] = []
    handles: list[int] = []

    def receive() -> None:
        for _ in range(N_ROUNDS):
            got.append(text(q.recv(timeout=PATIENCE)))

    def send(letter: bytes) -> Callable[[], None]:
        def act() -> None:
            for number in range(N_ROUNDS):
                p.send([to_q], letter + b"%d" % number if number % 8 else letter + b"%07d" % number * 20_000)
        return act

    def pass_handles() -> None:
        for number in range(N_ROUNDS):
            handle = p.transfer(0x1000 + 16 * number, q)
            handles.append(handle)
            p.send([p.transfer(0x10)], b"to myself")
            p.query()

    def die() -> None:
        for number in range(N_ROUNDS):
            p.transfer(0x8000 + 16 * number)
            p.destroy([0x8000 + 16 * number])
            p.release(0x8000 + 16 * number)
            p.release(0x8000 + 16 * number)

    at_once(receive, receive, receive, send(b"a"), send(b"b"), send(b"c"), pass_handles, die)
    counted = Counter(content[:1] for content in got)
    assert counted == {b"a": N_ROUNDS, b"b": N_ROUNDS, b"c": N_ROUNDS} and len(set(got)) == 3 * N_ROUNDS
    assert len(set(handles)) == N_ROUNDS
    for handle in handles:
        q.release(handle)
    assert drained(p).count(b"to myself") == N_ROUNDS


@only_socket
def test_a_child_uses_the_peer_while_the_parents_threads_do(p: Peer, q: Peer, to_q: int) -> None:
    """P-2, P-4: forked in the middle of their requests."""
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            p.query()
            p.send([], b"to nobody")

    def wait() -> None:
        while not is_over.is_set():
            with pytest.raises(WouldBlock):
                p.recv(timeout=0.01)

    def child(number: int) -> Callable[[socket.socket], None]:
        def act(sock: socket.socket) -> None:
            for count in range(5):
                p.send([to_q], b"%d %d" % (number, count))
            q.query()
        return act

    threads = [threading.Thread(target=act) for act in (ask, ask, wait)]
    for thread in threads:
        thread.start()
    try:
        assert [Child(child(number)).end() for number in range(8)] == [0] * 8
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert drained(q) == [b"%d %d" % (number, count) for number in range(8) for count in range(5)]


@only_socket
def test_threads_of_a_child_may_be_the_first_to_use_a_peer(
    bus: NativeBus, p: Peer, q: Peer, to_q: int
) -> None:
    """P-2, P-4: several threads of a child, all at once."""

    def act(sock: socket.socket) -> None:
        signal.alarm(20)
        at_once(*[p.query] * 8)
        p.send([to_q], b"child")

    assert [Child(act).end() for _ in range(5)] == [0] * 5
    assert drained(q) == [b"child"] * 5


@only_socket
def test_a_child_gives_back_what_its_parent_received(bus: NativeBus, p: Peer, q: Peer, to_q: int) -> None:
    """P-2, P-4: a thread of the parent is in the middle of a request when the child is forked."""
    p.send([to_q], bytes(100_000))
    message = q.recv()
    is_held, is_over = threading.Event(), threading.Event()

    def be_in_a_request() -> None:
        with q._link._state:  # type: ignore[attr-defined]  # no request takes long enough to fork in it
            is_held.set()
            is_over.wait()

    thread = threading.Thread(target=be_in_a_request)
    thread.start()
    is_held.wait()

    def act(sock: socket.socket) -> None:
        signal.alarm(20)
        message.release()
        q.query()

    child = Child(act)
    is_over.set()
    thread.join()
    assert child.end() == 0
    assert drained(q) == []
    message.release()
