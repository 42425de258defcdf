"""RECV that waits for a while, over each link; and what a fork leaves of an in-process peer."""

from __future__ import annotations

import math
import os
import select
import signal
import struct
import threading
from collections.abc import Callable
from time import monotonic

import pytest
import two_peers
from child import in_child
from native_bus import InProcessBus, NativeBus

from bus1.core.api import RecvFlag
from bus1.errors import BusGone, InvalidArgument, PeerShutdown, WouldBlock
from bus1.frames import REQUESTS, Operation, encode
from bus1.peer import Peer

SHORT = 0.02


native_bus, bus, p, q = two_peers.native_bus, two_peers.bus, two_peers.p, two_peers.q
untouched = two_peers.untouched


def is_readable(peer: Peer) -> bool:
    poll = select.poll()
    poll.register(peer, select.POLLIN)
    return bool(poll.poll(0))


def test_without_a_message_recv_says_so_when_the_time_is_up(q: Peer) -> None:
    start = monotonic()
    with pytest.raises(WouldBlock):
        q.recv(timeout=SHORT)
    assert monotonic() - start >= SHORT


def test_a_message_that_is_there_is_returned_whatever_the_timeout(p: Peer, q: Peer) -> None:
    to_q = q.transfer(0x10, p)
    for timeout in (0.0, SHORT, 1e9, math.inf):
        p.send([to_q], b"m")
        with q.recv(timeout=timeout) as message:
            assert bytes(message.payload) == b"m"


def test_without_waiting_recv_asks_once(q: Peer) -> None:
    with pytest.raises(WouldBlock):
        q.recv(timeout=0)


def test_what_comes_after_the_timeout_is_shown_and_received(p: Peer, q: Peer) -> None:
    """P-41, P-43: a RECV whose time is up takes nothing along."""
    to_q = q.transfer(0x10, p)
    with pytest.raises(WouldBlock):
        q.recv(timeout=SHORT)
    assert not is_readable(q)
    p.send([to_q], b"late")
    assert is_readable(q)
    with q.recv() as message:
        assert bytes(message.payload) == b"late"
    assert not is_readable(q)


@pytest.mark.parametrize("timeout", [-1, -0.001, -math.inf, math.nan])
def test_a_timeout_is_a_time(q: Peer, timeout: float) -> None:
    with pytest.raises(InvalidArgument, match="timeout"):
        q.recv(timeout=timeout)


@pytest.mark.parametrize("waiting", [{"wait": True}, {"timeout": SHORT}, {"wait": True, "timeout": SHORT}])
def test_nobody_waits_for_a_seed(q: Peer, waiting: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument, match="seed"):
        q.recv(RecvFlag.SEED, **waiting)  # type: ignore[arg-type]
    with pytest.raises(WouldBlock):
        q.recv(RecvFlag.SEED, wait=True, timeout=0)


def test_a_peer_that_ends_is_noticed_while_waiting(native_bus: NativeBus) -> None:
    """P-10."""
    with native_bus.peer() as p:
        timer = threading.Timer(SHORT, p.disconnect)
        timer.start()
        with pytest.raises(PeerShutdown):
            p.recv(timeout=30)
        timer.join()


def test_a_message_that_was_faster_than_the_end_of_waiting_is_returned(native_bus: NativeBus) -> None:
    """The bus is stopped: it finds the message, then the RECV and that its time is up."""
    with native_bus.channel() as sender, native_bus.peer() as q:
        sender.open()
        to_q = q.transfer(0x10, sender.descriptor)
        send = REQUESTS[Operation.SEND].pack(0, 1, 0, 0, 1, 0, 0) + struct.pack("<Q", to_q) + b"m"
        native_bus.n_fds()  # it looks at its sockets anew: what is written first is found first
        os.kill(native_bus.process.pid, signal.SIGSTOP)
        timer = threading.Timer(10 * SHORT, os.kill, (native_bus.process.pid, signal.SIGCONT))
        sender.write(encode(Operation.SEND, 3, send))
        timer.start()
        with q.recv(timeout=SHORT) as message:
            assert bytes(message.payload) == b"m"
        timer.join()
        assert not is_readable(q)


def test_nothing_is_lost_or_doubled_however_timeouts_and_messages_meet(native_bus: NativeBus) -> None:
    n_messages = 400
    with native_bus.peer() as p, native_bus.peer() as q:
        to_q = q.transfer(0x10, p)

        def send() -> None:
            for number in range(n_messages):
                p.send([to_q], b"%d" % number)

        thread = threading.Thread(target=send)
        thread.start()
        seen: list[int] = []
        n_timeouts = 0
        while len(seen) < n_messages:
            try:
                with q.recv(timeout=1e-6 * (n_timeouts % 400)) as message:
                    seen.append(int(bytes(message.payload)))
            except WouldBlock:
                n_timeouts += 1
        thread.join()
        assert seen == list(range(n_messages))
        assert not is_readable(q)
        with pytest.raises(WouldBlock):
            q.recv()


def test_threads_that_wait_for_different_times_do_not_hold_each_other_up(native_bus: NativeBus) -> None:
    """P-4."""
    with native_bus.peer() as p, native_bus.peer() as q:
        to_q = q.transfer(0x10, p)
        outcomes: list[str] = []

        def wait(timeout: float) -> Callable[[], None]:
            def run() -> None:
                try:
                    with q.recv(timeout=timeout) as message:
                        outcomes.append(bytes(message.payload).decode())
                except WouldBlock:
                    outcomes.append("time is up")

            return run

        short = [threading.Thread(target=wait(SHORT)) for _ in range(3)]
        long = [threading.Thread(target=wait(50)) for _ in range(3)]
        for thread in short + long:
            thread.start()
        for thread in short:
            thread.join()
        assert outcomes == ["time is up"] * 3
        q.query()
        for _ in long:
            p.send([to_q], b"m")
        for thread in long:
            thread.join()
        assert outcomes[3:] == ["m"] * 3


def test_in_process_waiting_drives_the_bus(native_bus: NativeBus) -> None:
    bus = InProcessBus()
    with bus.peer() as p, bus.peer() as q:
        to_q = q.transfer(0x10, p)

        def later(now: float) -> None:
            p.send([to_q], b"in time")

        bus.reactor.call_at(0, "later", later)
        with q.recv(timeout=50) as message:
            assert bytes(message.payload) == b"in time"
    bus.close()


def test_in_the_child_of_a_fork_the_bus_of_an_in_process_peer_is_gone() -> None:
    """P-2 cannot hold for a peer without a kernel or a process in between: it says so."""
    bus = InProcessBus()
    with bus.peer() as p, bus.peer() as q:
        to_q = q.transfer(0x10, p)
        operations: list[Callable[[], object]] = [
            lambda: p.send([to_q]), lambda: p.transfer(1), q.recv, q.query, q.disconnect,
        ]

        def use_it() -> None:
            for operation in operations:
                with pytest.raises(BusGone, match="process"):
                    operation()
            p.close()

        assert in_child(use_it) == 0
        p.send([to_q], b"still here")
        assert is_readable(q)
        with q.recv() as message:
            assert bytes(message.payload) == b"still here"
    bus.close()
