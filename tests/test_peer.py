"""Peers in several processes and threads: sharing, forking, dying, waiting."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from child import in_child
from native_bus import InProcessBus, NativeBus
from shortage import everything_given_back
from two_peers import PATIENCE, only_socket
from two_peers import text as text_of

from bus1.addresses import default_address, native_address
from bus1.core.api import Limits, MessageType, RecvFlag
from bus1.descriptors import Fds
from bus1.errors import BusGone, Disconnected, InvalidArgument, NodeDestroyed, NoSuchHandle, WouldBlock
from bus1.peer import Peer

MIB = 1 << 20


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeBus]:
    bus = NativeBus(tmp_path_factory.mktemp("bus"), Limits(inflight_bytes=1 << 30))
    yield bus
    bus.close()


@pytest.fixture
def untouched(bus: NativeBus) -> Iterator[None]:
    """Afterwards the bus, and this process, are as they were before."""
    with everything_given_back(bus):
        yield


@pytest.fixture
def p(bus: NativeBus, untouched: None) -> Iterator[Peer]:
    with bus.peer() as peer:
        yield peer


@pytest.fixture
def q(bus: NativeBus, untouched: None) -> Iterator[Peer]:
    with bus.peer() as peer:
        yield peer


@pytest.fixture
def to_q(p: Peer, q: Peer) -> int:
    return q.transfer(0x10, p)


def used_bytes(bus: NativeBus) -> int:
    return sum(user["used"]["bytes"] for user in bus.snapshot()["users"].values())


# ---- one peer, several holders ---------------------------------------------------------------------


def test_p_2_after_a_fork_child_and_parent_are_the_same_peer(p: Peer, q: Peer, to_q: int) -> None:
    def child() -> None:
        p.send([to_q], b"from the child", [0x300])
        p.send([to_q], bytes(2 * MIB))
        with p.recv(wait=True) as message:
            assert bytes(message.payload) == b"for the child"

    p.send([p.transfer(0x20, p)], b"for the child")
    assert in_child(child) == 0
    with q.recv() as message:
        assert bytes(message.payload) == b"from the child" and message.pid != os.getpid()
    with q.recv() as message:
        assert message.n_bytes == 2 * MIB
    with pytest.raises(WouldBlock):
        p.recv()
    p.send([to_q], b"from the parent")
    with q.recv() as message:
        assert bytes(message.payload) == b"from the parent" and message.pid == os.getpid()


def test_a_child_with_the_number_of_its_parent_has_a_channel_of_its_own(
    bus: NativeBus, p: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P-2: in a new pid namespace it can have it."""
    number = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: number)
    n_fds = bus.n_fds()

    def child() -> None:
        p.query()
        assert bus.n_fds() == n_fds + 1

    assert in_child(child) == 0
    p.query()


def test_p_2_another_process_acts_as_the_peer_whose_descriptor_it_has(
    bus: NativeBus, p: Peer, q: Peer, to_q: int
) -> None:
    code = (
        "import sys; from bus1.peer import Peer\n"
        "with Peer.from_descriptor(int(sys.argv[1]), sys.argv[2]) as peer:\n"
        "    peer.send([int(sys.argv[3])], b'from elsewhere')\n"
    )
    command = [sys.executable, "-c", code, str(p.fileno()), bus.address, str(to_q)]
    subprocess.run(command, pass_fds=[p.fileno()], check=True)
    with q.recv() as message:
        assert bytes(message.payload) == b"from elsewhere"


def test_each_message_goes_to_one_holder(bus: NativeBus, p: Peer, q: Peer, to_q: int) -> None:
    with Peer.from_descriptor(q.fileno(), bus.address) as other:
        p.send([to_q], b"1")
        p.send([to_q], b"2")
        with other.recv() as first, q.recv() as second:
            assert (bytes(first.payload), bytes(second.payload)) == (b"1", b"2")
        with pytest.raises(WouldBlock):
            other.recv()
        poll = select.poll()
        poll.register(q, select.POLLIN)
        assert poll.poll(0) == []


def test_a_large_message_that_two_holders_map_stays_charged_until_both_are_done(
    bus: NativeBus, p: Peer, q: Peer, to_q: int
) -> None:
    with Peer.from_descriptor(q.fileno(), bus.address) as other:
        p.send([to_q], bytes(2 * MIB))
        peeked = other.recv(RecvFlag.PEEK)
        message = q.recv()
        message.release()
        assert used_bytes(bus) >= 2 * MIB
        peeked.release()
        other.query()
        other.query()
        assert used_bytes(bus) == 0


def test_a_retired_shared_segment_is_given_back_with_the_next_request(
    bus: NativeBus, p: Peer, q: Peer, to_q: int
) -> None:
    for _ in range(6):
        p.send([to_q], bytes(900_000))
    messages = [q.recv() for _ in range(6)]
    assert max(message.offset for message in messages) >= 4 * MIB
    for message in messages:
        message.release()
    q.query()
    assert used_bytes(bus) == 0


def test_p_16_the_peer_ends_with_the_last_copy_of_its_descriptor(
    bus: NativeBus, p: Peer, q: Peer, to_q: int
) -> None:
    with Fds([os.dup(q.fileno())]) as copy:
        q.close()
        p.send([to_q], b"still there")
        with Peer.from_descriptor(copy[0], bus.address) as again, again.recv() as message:
            assert bytes(message.payload) == b"still there"
    with p.recv(wait=True) as message:
        assert (message.type, message.destination) == (MessageType.NODE_DESTROY, to_q)


def test_a_killed_process_leaves_what_it_has_sent_and_its_nodes_die(bus: NativeBus, p: Peer) -> None:
    code = (
        "import sys, os, signal; from bus1.peer import Peer\n"
        "peer = Peer.connect(sys.argv[1]); target = Peer.from_descriptor(int(sys.argv[2]), sys.argv[1])\n"
        "handle = target.transfer(0x10, peer)\n"
        "peer.send([handle], b'last words', [0x100])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", code, bus.address, str(p.fileno())]
    assert subprocess.run(command, pass_fds=[p.fileno()]).returncode == -signal.SIGKILL
    with p.recv(wait=True) as message:
        assert bytes(message.payload) == b"last words"
        theirs = message.handles[0]
    kinds = {}
    for _ in range(2):
        with p.recv(wait=True) as message:
            kinds[message.type] = message.destination
    assert kinds == {MessageType.NODE_DESTROY: theirs, MessageType.NODE_RELEASE: 0x10}


def test_p_40_disconnect_hangs_up_for_every_holder(bus: NativeBus, p: Peer, q: Peer, to_q: int) -> None:
    with Peer.from_descriptor(q.fileno(), bus.address) as other:
        q.disconnect()
        poll = select.poll()
        poll.register(other, select.POLLIN)
        assert poll.poll()[0][1] & select.POLLHUP
        with pytest.raises(Disconnected):
            other.query()
    with pytest.raises(NodeDestroyed):
        p.send([to_q])


# ---- waiting ---------------------------------------------------------------------------------------


def test_a_recv_that_waits_is_answered_by_the_delivery(p: Peer, q: Peer, to_q: int) -> None:
    got: list[bytes] = []

    def wait() -> None:
        for _ in range(3):
            with q.recv(wait=True) as message:
                got.append(bytes(message.payload))

    thread = threading.Thread(target=wait)
    thread.start()
    for text in (b"one", b"two", b"three"):
        p.send([to_q], text)
    thread.join()
    assert got == [b"one", b"two", b"three"]
    poll = select.poll()
    poll.register(q, select.POLLIN)
    assert poll.poll(0) == []


def test_several_threads_use_one_peer_at_once(p: Peer, q: Peer, to_q: int) -> None:
    n_threads, n_messages = 6, 30
    failures: list[BaseException] = []

    def sending(number: int) -> None:
        try:
            for count in range(n_messages):
                p.send([to_q], b"%d %d" % (number, count))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=sending, args=(number,)) for number in range(n_threads)]
    for thread in threads:
        thread.start()
    seen: dict[bytes, int] = {}
    for _ in range(n_threads * n_messages):
        with q.recv(wait=True) as message:
            number, count = bytes(message.payload).split()
            assert int(count) == seen.get(number, -1) + 1
            seen[number] = int(count)
    for thread in threads:
        thread.join()
    assert failures == [] and len(seen) == n_threads


def test_other_threads_go_on_while_one_waits(p: Peer, q: Peer, to_q: int) -> None:
    thread = threading.Thread(target=lambda: p.recv(wait=True).release())
    thread.start()
    for _ in range(20):
        p.query()
        p.send([to_q], b"x")
        q.recv().release()
    q.send([p.transfer(0x20, q)], b"enough")
    thread.join()


@only_socket
def test_a_large_call_that_waits_lets_other_threads_send(p: Peer, q: Peer, to_q: int) -> None:
    """P-4, T-47: what is large is sent at once, and only the answer takes its time."""
    answers: list[bytes] = []
    thread = threading.Thread(target=lambda: answers.append(text_of(p.call([to_q], bytes(100_000)))))
    thread.start()
    assert len(text_of(q.recv(timeout=PATIENCE))) == 100_000
    p.send([to_q], bytes(200_000))
    assert len(text_of(q.recv(timeout=PATIENCE))) == 200_000
    q.send([p.transfer(0x20, q)], b"answer")
    thread.join()
    assert answers == [b"answer"]


@only_socket
def test_a_large_reply_is_sent_and_everything_behind_it_done(p: Peer, q: Peer, to_q: int) -> None:
    to_p = p.transfer(0x20, q)
    p.send([to_q], b"request", [0x30])
    request = q.recv(wait=True)
    p.send([to_q], b"next")
    following = q.reply([to_p], bytes(100_000), answered=request, release=request.handles[0])
    assert text_of(following) == b"next"
    assert len(text_of(p.recv())) == 100_000
    assert p.recv().type is MessageType.NODE_RELEASE
    with pytest.raises(NoSuchHandle):
        q.release_slice(request.offset)


def test_an_interrupted_recv_loses_no_message(p: Peer, q: Peer, to_q: int) -> None:
    """R-6: the next one returns it."""

    class Interruption(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interruption

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for delay in (0.01, 0.03):
            signal.setitimer(signal.ITIMER_REAL, delay)
            with pytest.raises(Interruption):
                q.recv(wait=True)
    finally:
        signal.signal(signal.SIGALRM, before)
    p.send([to_q], b"first")
    p.send([to_q], b"second")
    for text in (b"first", b"second"):
        with q.recv(wait=True) as message:
            assert bytes(message.payload) == text


# ---- finding the bus -------------------------------------------------------------------------------


def test_without_a_bus_there_is_no_peer(tmp_path: Path) -> None:
    with pytest.raises(BusGone):
        Peer.connect(str(tmp_path / "nothing"))


def test_a_bus_that_is_gone_is_noticed(tmp_path: Path) -> None:
    bus = NativeBus(tmp_path)
    with bus.peer() as p, bus.peer() as q:
        thread_saw: list[type[BaseException]] = []

        def wait() -> None:
            try:
                q.recv(wait=True)
            except BusGone as error:
                thread_saw.append(type(error))

        thread = threading.Thread(target=wait)
        thread.start()
        bus.process.kill()
        bus.process.wait()
        thread.join()
        assert thread_saw == [BusGone]
        for _ in range(2):
            with pytest.raises(BusGone):
                p.query()
    assert bus.process.stdin and bus.process.stdout
    bus.process.stdin.close()
    bus.process.stdout.close()


def test_a_bus_that_stops_disconnects_everybody(tmp_path: Path) -> None:
    bus = NativeBus(tmp_path)
    with bus.peer() as p:
        bus.close()
        with pytest.raises(Disconnected):
            p.recv(wait=True)


@pytest.mark.parametrize(
    ("dbus", "native"),
    [
        ("unix:path=/run/user/1000/bus", "/run/user/1000/bus1"),
        ("unix:path=/tmp/a%20b,guid=0123456789abcdef0123456789abcdef", "/tmp/a b1"),
        ("unix:guid=00,path=/x/bus;tcp:host=localhost", "/x/bus1"),
        ("unix:abstract=/tmp/dbus-X", "@/tmp/dbus-X1"),
        ("tcp:host=localhost;unix:path=/x", None),
        ("unix:tmpdir=/tmp", None),
        ("", None),
    ],
)
def test_the_native_socket_lies_beside_the_dbus_socket(dbus: str, native: str | None) -> None:
    assert native_address(dbus) == native


def test_the_environment_says_where_the_bus_is() -> None:
    everything = {
        "BUS1_ADDRESS": "@chosen", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/d/bus",
        "XDG_RUNTIME_DIR": "/run/user/7",
    }
    assert default_address(everything) == "@chosen"
    del everything["BUS1_ADDRESS"]
    assert default_address(everything) == "/d/bus1"
    del everything["DBUS_SESSION_BUS_ADDRESS"]
    assert default_address(everything) == "/run/user/7/bus1"
    assert default_address({}) == "/run/bus1/bus"


@pytest.mark.parametrize("address", ["garbage", "tcp:host=localhost", "unix:path=/a%2"])
def test_a_session_without_a_native_socket_is_not_taken_for_the_system(address: str) -> None:
    with pytest.raises(InvalidArgument, match="DBUS_SESSION_BUS_ADDRESS"):
        default_address({"DBUS_SESSION_BUS_ADDRESS": address, "XDG_RUNTIME_DIR": "/run/user/7"})


def test_in_process_a_recv_that_waits_drives_the_bus() -> None:
    bus = InProcessBus()
    with bus.peer() as p, bus.peer() as q:
        handle = q.transfer(0x10, p)

        def later(now: float) -> None:
            p.send([handle], b"in time")

        bus.reactor.call_at(0, "later", later)
        with q.recv(wait=True) as message:
            assert bytes(message.payload) == b"in time"
    bus.close()
