"""P-51: a receiver in another user or pid namespace sees the ids that the sender has there."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from namespace_parties import COUNT, FIRST_GID, FIRST_UID, Parties, Party, Role
from native_bus import NativeBus

from bus1.core.api import Credentials
from bus1.core.view import OVERFLOW, View
from bus1.namespaces import pids_of, view_of
from bus1.received import ReceivedMessage

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


# ---- what can be found out --------------------------------------------------------------------------


def test_a_process_in_our_namespaces_needs_no_view() -> None:
    view, pin = view_of(os.getpid())
    assert view is None and len(pin) == 0
    assert pids_of(os.getpid()) == ((os.stat("/proc/self/ns/pid").st_ino, os.getpid()),)


def test_of_a_process_that_is_gone_nothing_is_known() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    view, pin = view_of(child)
    assert view == View() and len(pin) == 0
    assert pids_of(child) == ()
    assert View().of(Credentials(0, 0, 1, 1)) == Credentials(OVERFLOW, OVERFLOW, 0, 0)


def test_whoever_may_not_look_closely_still_sees_the_maps(there: Parties) -> None:
    """A bus that is not root: the links are closed to it, the maps are not."""
    pid = find_pid(there, there.all[0].pid)
    expected = View(((0, FIRST_UID, COUNT),), ((0, FIRST_GID, COUNT),), 0)
    child = os.fork()
    if not child:
        status = 1
        try:
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            assert view_of(pid)[0] == expected
            assert pids_of(pid) == ()
            assert view_of(1)[0] is None  # root's, in our namespaces
            assert [number for _, number in pids_of(1)] == [1]
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(("outside", "inside"), [
    (70_000, 0), (70_999, 999), (71_000, OVERFLOW), (69_999, OVERFLOW), (0, 5000), (1, OVERFLOW),
])
def test_ids_are_mapped_extent_by_extent(outside: int, inside: int) -> None:
    view = View(((0, 70_000, 1000), (5000, 0, 1)), (), 9)
    seen = view.of(Credentials(outside, 1, 44, 45, b"label", ((8, 3), (9, 2))))
    assert (seen.uid, seen.gid, seen.pid, seen.tid, seen.secctx) == (inside, OVERFLOW, 2, 0, b"label")
