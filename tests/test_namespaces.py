"""P-51: a receiver in another user or pid namespace sees the ids that the sender has there."""

from __future__ import annotations

import fcntl
import os
import select
import socket
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from child import Child, ended, forked, in_child
from core_bus import Core
from namespace_parties import (
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    COUNT,
    FIRST_GID,
    FIRST_UID,
    Parties,
    Party,
    Role,
    be_root_alone,
)
from native_bus import NativeBus
from shortage import n_descriptors, room_for

from bus1 import channel, namespaces
from bus1.broker import Broker, BrokerLimits
from bus1.core.api import Credentials
from bus1.core.view import OVERFLOW, Extent, View
from bus1.descriptors import Fds
from bus1.hub import PlainHub
from bus1.namespaces import pidfd_of, pids_of, view_of
from bus1.peer import Peer
from bus1.reactor import Reactor
from bus1.received import ReceivedMessage
from bus1.transport import Arrival, credentials_of

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root may map ids into a new user namespace")
NOBODY = 65534


@pytest.fixture(scope="module")
def bus() -> Iterator[NativeBus]:
    yield from serve("namespaces")


def serve(name: str) -> Iterator[NativeBus]:
    """A bus that whoever has another uid can reach, too."""
    bus = NativeBus(Path(f"@bus1-test-{os.getpid()}-{name}"))
    yield bus
    bus.close()


@pytest.fixture
def empty_bus() -> Iterator[NativeBus]:
    yield from serve("empty")


@pytest.fixture(scope="module")
def there() -> Iterator[Parties]:
    """Two in the same namespaces, and one in a pid namespace below theirs."""
    with Parties(Role(5, 6), Role(7, 8), Role(7, 8, depth=1)) as parties:
        yield parties


@pytest.fixture
def parties(there: Parties) -> list[Party]:
    return there.all


def ids(message: ReceivedMessage) -> tuple[int, int, int, int]:
    return message.uid, message.gid, message.pid, message.tid


def outer_pid(party: Party, bus: NativeBus) -> int:
    """What a receiver in the bus's namespaces is told."""
    with party.open(bus.address) as inner, bus.peer() as outer:
        party.ask(do="send", handle=outer.transfer(0x10, inner))
        with outer.recv() as message:
            assert ids(message) == (FIRST_UID + 5, FIRST_GID + 6, message.pid, 0)
        return message.pid


def test_a_receiver_beside_the_bus_is_told_in_the_bus_s_terms(bus: NativeBus, parties: list[Party]) -> None:
    """P-51."""
    pid = outer_pid(parties[0], bus)
    assert numbers_of(pid) == [pid, parties[0].pid]


@pytest.mark.parametrize("receiver", ["outside", "inside"])
def test_ids_are_those_of_the_receiver_s_namespaces(
    bus: NativeBus, there: Parties, receiver: str
) -> None:
    """P-51: whoever receives for the peer, they are those of its opener."""
    x, y, below = there.all
    with x.open(bus.address) as for_x, y.open(bus.address) as for_y, below.open(bus.address) as for_z:

        def received() -> tuple[int, ...]:
            if receiver == "inside":
                return tuple(x.ask(do="recv"))
            with for_x.recv() as message:
                return ids(message)

        y.ask(do="send", handle=for_x.transfer(0x10, for_y))
        assert received() == (7, 8, y.pid, 0)
        x.ask(do="send", handle=0x10)
        assert received() == (5, 6, x.pid, 0)
        below.ask(do="send", handle=for_x.transfer(0x10, for_z))
        uid, gid, pid, _ = received()
        assert (uid, gid) == (7, 8) and pid not in {0, 1, below.pid, x.pid, y.pid}
        assert find_pid(there, pid, below.pid)  # one process, as seen from the namespace above its own


def find_pid(there: Parties, *numbers: int) -> int:
    """The process with these numbers in the namespaces below ours."""
    user_namespace = os.readlink(f"/proc/{there.process.pid}/ns/user")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # processes come and go, and not all may be looked at
            if os.readlink(f"/proc/{pid}/ns/user") == user_namespace and numbers_of(pid)[1:] == [*numbers]:
                return int(pid)
    raise AssertionError(f"no process {numbers}")


def end(there: Parties, party: Party) -> None:
    """The party leaves, and its process ends."""
    pidfd = os.pidfd_open(find_pid(there, party.pid))
    party.close()
    assert select.select([pidfd], [], [], 20)[0]
    os.close(pidfd)


def numbers_of(pid: int | str) -> list[int]:
    """The numbers of a process, from our pid namespace down."""
    text = Path(f"/proc/{pid}/status").read_text().partition("NSpid:")[2]
    return [int(number) for number in text.split("\n")[0].split()]


def test_ids_that_do_not_exist_there_are_overflow_and_zero(bus: NativeBus, parties: list[Party]) -> None:
    """P-51: neither the machine's root nor a process above is known inside."""
    x, _, below = parties
    with x.open(bus.address) as inner, below.open(bus.address) as deeper, bus.peer() as outer:
        outer.send([inner.transfer(0x10, outer)], b"m")
        with inner.recv() as message:
            assert ids(message) == (OVERFLOW, OVERFLOW, 0, 0)
        x.ask(do="send", handle=deeper.transfer(0x10, inner))
        with deeper.recv() as message:
            assert ids(message) == (5, 6, 0, 0)


def test_a_process_is_known_by_what_it_was_when_it_sent(bus: NativeBus) -> None:
    """P-50, P-51: the sender is gone when its message is received."""
    with Parties(Role(5, 6), Role(7, 8)) as there, there.all[0].open(bus.address) as inner:
        sender = there.all[1].open(bus.address)
        there.all[1].ask(do="send", handle=inner.transfer(0x10, sender))
        sender.close()
        end(there, there.all[1])
        with inner.recv() as message:
            assert ids(message) == (7, 8, there.all[1].pid, 0)


def test_descriptors_of_namespaces_are_given_back(empty_bus: NativeBus) -> None:
    with Parties(Role(5, 6)) as there:
        n_fds = empty_bus.n_fds()
        for _ in range(5):
            there.all[0].open(empty_bus.address).close()
        assert empty_bus.n_fds() > n_fds
        end(there, there.all[0])
        empty_bus.wait_until_idle(n_fds)


# ---- a bus inside ----------------------------------------------------------------------------------

NUMBERS = count()


def pidfds_tell_namespaces() -> bool:
    """Since Linux 6.11; before, only numbers in /proc do."""
    with Fds([os.pidfd_open(os.getpid())]) as pidfd:
        try:
            os.close(fcntl.ioctl(pidfd[0], 0xFF09))
        except OSError:
            return False
    return True


def told(there: Parties, by: Party, receiver: Party | None) -> tuple[int, ...]:
    """What a receiver, or one outside, is told of ``by``; the first party is the bus."""
    address = there.all[0].ask(do="serve", address=f"@bus1-test-{os.getpid()}-inside-{next(NUMBERS)}")
    with by.open(address) as sender, receiver.open(address) if receiver else Peer.connect(address) as peer:
        by.ask(do="send", handle=peer.transfer(0x10, sender))
        with peer.recv(timeout=20) as message:
            return ids(message)


def test_outside_the_bus_s_user_namespace_everybody_is_nobody() -> None:
    """P-51: the machine's ids begin at 1000 there, but 1001 is not the machine's 1; processes are known."""
    with Parties(
        Role(0, 0), Role(1001, 1001), flags=CLONE_NEWUSER, also=((1000, 0, 1), (1001, 63_000, 1))
    ) as there:
        sender = there.all[1]
        assert told(there, sender, None) == (OVERFLOW, OVERFLOW, sender.pid, 0)
        assert told(there, sender, there.all[0]) == (1001, 1001, sender.pid, 0)


@pytest.mark.parametrize("own_proc", [CLONE_NEWNS, 0])
def test_outside_the_bus_s_pid_namespace_users_are_known(own_proc: int) -> None:
    """P-51: but processes are 0, whatever /proc the bus has."""
    roles = Role(0, 0), Role(5, 6), Role(9, 10), Role(7, 8, depth=1)
    with Parties(*roles, flags=CLONE_NEWPID | own_proc) as there:
        _, beside, other, below = there.all
        nobody = (OVERFLOW, OVERFLOW, 0, 0)
        is_known = pidfds_tell_namespaces()
        assert told(there, beside, None) == ((5, 6, 0, 0) if is_known else nobody)
        assert told(there, beside, other) == ((5, 6, beside.pid, 0) if is_known or own_proc else nobody)
        assert told(there, beside, below) == ((5, 6, 0, 0) if is_known or own_proc else nobody)
        uid, gid, pid, _ = told(there, below, other)
        assert (uid, gid) == ((7, 8) if is_known or own_proc else (OVERFLOW, OVERFLOW))
        assert pid != below.pid


@pytest.mark.parametrize("new", [0, CLONE_NEWPID], ids=["its own /proc", "an outer /proc"])
def test_below_the_bus_s_user_namespace_ids_are_translated(new: int) -> None:
    """P-51: once more; with a /proc where others have the numbers of its clients, the bus doesn't try."""
    roles = Role(0, 0), Role(1001, 1001), Role(5, 6), Role(1001, 1001, is_inner=True)
    also = ((1000, 0, 1), (1001, 63_000, 1))
    with Parties(*roles, flags=CLONE_NEWUSER | new, also=also) as there:
        _, same, other, below = there.all
        pid = same.pid if pidfds_tell_namespaces() or not new else 0
        known = (OVERFLOW, OVERFLOW) if new else (0, 0)
        assert told(there, same, below) == (*known, pid, 0)
        assert told(there, other, below)[:2] == (OVERFLOW, OVERFLOW)
        assert told(there, below, other)[:2] == ((1001, 1001) if pid else (OVERFLOW, OVERFLOW))


def test_outside_both_namespaces_nothing_is_known() -> None:
    """P-51."""
    with Parties(Role(0, 0), Role(5, 6)) as there:
        assert told(there, there.all[1], None) == (OVERFLOW, OVERFLOW, 0, 0)


# ---- what can be found out --------------------------------------------------------------------------


def look(pid: int) -> tuple[View | None, tuple[tuple[int, int], ...]]:
    """How a process sees others, and which numbers it has."""
    with Fds([os.pidfd_open(pid)]) as pidfd:
        view, pin = view_of(pid, pidfd)
        pin.close()
        return view, pids_of(pid, pidfd)


def test_a_process_in_our_namespaces_needs_no_view() -> None:
    n_fds = n_descriptors()
    assert look(os.getpid()) == (None, ((os.stat("/proc/self/ns/pid").st_ino, os.getpid()),))
    assert n_descriptors() <= n_fds


def test_of_a_process_that_is_gone_nothing_is_known() -> None:
    pid = forked(lambda: None)
    with Fds([os.pidfd_open(pid)]) as pidfd:
        ended(pid)
        for number in (pid, os.getpid(), 0):  # whoever has its number now
            for known in (pidfd, Fds()):
                view, pin = view_of(number, known)
                assert view == View() and len(pin) == 0
                assert pids_of(number, known) == ()
    assert View().of(Credentials(0, 0, 1, 1)) == Credentials(OVERFLOW, OVERFLOW, 0, 0)


def test_who_connected_is_not_mistaken_for_whoever_has_its_number_now() -> None:
    """A child connects, hands the connection over and ends."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0bus1-test-{os.getpid()}-connected")
        listener.listen()

        def connect(parent: socket.socket) -> None:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(listener.getsockname())
                socket.send_fds(parent, [b"x"], [connection.fileno()])
                parent.recv(1)

        child = Child(connect)
        accepted = listener.accept()[0]
        with accepted, Fds(socket.recv_fds(child.sock, 1, 1)[1]):
            who = credentials_of(accepted)
            assert who.pid == child.pid
            with pidfd_of(accepted, who, who) as pidfd:
                assert pids_of(child.pid, pidfd) == ((os.stat("/proc/self/ns/pid").st_ino, child.pid),)
            assert child.end() == 0
            with pidfd_of(accepted, who, who) as pidfd:
                assert pids_of(os.getpid(), pidfd) == ()


def test_a_namespace_that_is_not_below_ours_is_outside() -> None:
    """P-51: no kernel lets anybody look there; but if one did."""
    with Fds([os.open("/proc/self/ns/user", os.O_RDONLY)]) as outer:

        def look_out() -> None:
            be_root_alone(os.getuid(), os.getgid())
            with Fds([os.pidfd_open(os.getpid())]) as pidfd:
                process = namespaces._Process(os.getpid(), pidfd)
                assert process.maps() == [SAME, SAME]
                process.namespace = lambda kind: Fds([os.dup(outer[0])])  # type: ignore[method-assign]
                assert process.maps() == [(), ()]

        assert in_child(look_out) == 0


HALF = 1 << 31
HALVES = ((0, HALF, HALF), (HALF, 0, HALF - 1))
SAME = ((0, 0, (1 << 32) - 1),)


@pytest.mark.parametrize(("own", "theirs", "seen"), [
    (SAME, SAME, SAME),
    (SAME, HALVES, HALVES),
    (((0, 1000, 1),), ((0, 1000, 1),), SAME),
    (((0, 1000, 1), (1, 100_000, 65_536)), ((0, 1000, 1), (1, 100_000, 65_536)), SAME),
    (((0, 1000, 1),), ((0, 0, 1),), ()),
    (((0, 1, 1), (1, 0, 1)), ((0, 1, 1), (1, 0, 1)), ()),
    ((), (), ()),
], ids=["the machine's", "anybody's", "ours", "ours, in extents", "another", "a permutation", "none"])
def test_a_map_is_believed_only_where_it_must_be_right(
    monkeypatch: pytest.MonkeyPatch, own: tuple[Extent, ...], theirs: tuple[Extent, ...],
    seen: tuple[Extent, ...],
) -> None:
    """P-51: to a bus that may not ask which namespace it is."""
    monkeypatch.setattr(namespaces, "_own", lambda kind: Fds())
    monkeypatch.setattr(namespaces, "_extents", lambda pid, name: own if pid == "self" else theirs)
    assert look(os.getpid())[0] == View(seen, seen, os.stat("/proc/self/ns/pid").st_ino)


def test_without_room_for_descriptors_nothing_is_guessed(there: Parties) -> None:
    """P-51: a shortage is an error, not an unknown process."""
    pid = find_pid(there, there.all[0].pid)
    left, right = socket.socketpair()
    with left, right:
        for number in (os.getpid(), pid):
            known, n_fds = look(number), n_descriptors()
            found = []
            for n in range(8):
                with suppress(OSError), room_for(n):
                    found.append(look(number))
            assert 0 < len(found) < 8 and set(found) == {known}
            assert n_descriptors() <= n_fds
        who = credentials_of(left)
        with pytest.raises(OSError, match="Too many open files"), room_for(0):
            pidfd_of(left, who, who)


def test_a_sender_that_hides_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def unknown(pid: int, pidfd: Fds) -> tuple[()]:
        asked.append(pid)
        return ()

    monkeypatch.setattr(channel, "pids_of", unknown)
    monkeypatch.setattr(Broker, "has_foreign_peers", False)
    hub = PlainHub(Core())
    reactor = Reactor(hub)
    broker = Broker(reactor, hub, BrokerLimits())
    left, right = socket.socketpair()
    with left:
        broker.accept(right)
        (served,) = broker._channels
        arrivals = [Arrival(1, False, os.getpid(), uid, 0) for uid in (0, 0, 1, 1, 0)]

        def arrive() -> None:
            for arrival in arrivals:
                served.credentials = served._sender(arrival)
                assert (served.credentials.pid, served.credentials.uid) == (arrival.pid, arrival.uid)

        arrive()
        assert asked == []
        monkeypatch.setattr(Broker, "has_foreign_peers", True)
        arrive()
        assert asked == [os.getpid()] * 3
        monkeypatch.setattr(Broker, "has_foreign_peers", False)
        arrive()
        monkeypatch.setattr(Broker, "has_foreign_peers", True)
        arrive()
        assert asked == [os.getpid()] * 6
    broker.close()
    reactor.close()


def test_whoever_may_not_look_closely_still_sees_the_maps(there: Parties) -> None:
    """A bus that is not root: the links are closed to it, the maps are not."""
    pid = find_pid(there, there.all[0].pid)
    expected = View(((0, FIRST_UID, COUNT),), ((0, FIRST_GID, COUNT),), 0)

    def be_nobody() -> None:
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        assert look(pid) == (expected, ())
        assert look(1)[0] is None  # root's, in our namespaces
        assert [number for _, number in look(1)[1]] == [1]

    assert in_child(be_nobody) == 0


@pytest.mark.parametrize(("outside", "inside"), [
    (70_000, 0), (70_999, 999), (71_000, OVERFLOW), (59_999, OVERFLOW), (0, 5000), (1, OVERFLOW),
    (OVERFLOW, OVERFLOW),
])
def test_ids_are_mapped_extent_by_extent(outside: int, inside: int) -> None:
    view = View(((0, 70_000, 1000), (5000, 0, 1), (6000, 60_000, 10_000)), (), 9)
    seen = view.of(Credentials(outside, 1, 44, 45, b"label", ((8, 3), (9, 2))))
    assert (seen.uid, seen.gid, seen.pid, seen.tid, seen.secctx) == (inside, OVERFLOW, 2, 0, b"label")
