"""Errors (E): each of the page, with its number, from the commands that give it; and none has an effect."""

from __future__ import annotations

import errno
import mmap
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from core_bus import MIB, BusPeer, CoreBus, FlatMemory, Unchanged
from native_bus import InProcessBus, NativeBus
from plain_client import Client, Failed
from shortage import room_for

from bus1.core.account import Ledger
from bus1.core.api import HANDLE_INVALID, Limits, RecvFlag, ResetFlag, SendFlag
from bus1.core.choice import SealedMemory
from bus1.errors import BY_ERRNO, Busy, InternalError, WouldBlock

PAGE = {
    "EAGAIN": 11, "EBADF": 9, "EDQUOT": 122, "EHOSTUNREACH": 113, "EINVAL": 22, "EMSGSIZE": 90, "ENOMEM": 12,
    "ENOTTY": 25, "ENXIO": 6, "EOPNOTSUPP": 95, "EPERM": 1, "ERANGE": 34, "ESHUTDOWN": 108,
}
"""E-1, without EFAULT, which nothing answers."""
FURTHER = {
    "EBUSY": 16, "ENOTUNIQ": 76, "EREMOTE": 66, "ESTALE": 116, "EXFULL": 54, "EMFILE": 24,
    "ENOTRECOVERABLE": 131,
}
"""E-2."""
NUMBERS = PAGE | FURTHER
BIG = Limits(16384, 65536, 1 << 40, 4096)


class Scene:
    """Peer ``p`` with all kinds of handles; what a test does is done by it."""

    def __init__(self) -> None:
        self.bus = CoreBus(BIG)
        self.memory = FlatMemory()
        self.p, self.q, self.gone = self.bus.peer(), self.bus.peer(), self.bus.peer()
        self.copying = self.bus.peer(memory=self.memory)
        self.to_q, self.to_dead = (self.q.transfer(node, self.p) for node in (0x10, 0x20))
        self.to_copying = self.copying.transfer(0x10, self.p)
        self.orphan = self.gone.transfer(0x10, self.p)
        self.p.transfer(0x100)
        self.p.release(0x100)
        self.p.destroy(0x200)
        self.q.destroy(0x20)
        self.gone.disconnect()
        while self.p.is_readable():
            self.p.recv()


    def limit(self, peer: BusPeer, **maxima: int) -> None:
        peer.reset(**maxima)

    def queue(self, **maxima: int) -> None:
        """A message with a handle is queued at P."""
        self.p.send([0x100], b"payload", [self.to_q])
        self.p.reset(**maxima)

    def drop(self) -> None:
        """A NODE_RELEASE for node 0x100 is pending."""
        self.p.transfer(0x100)
        self.p.release(0x100)

    def fill(self) -> None:
        """Q's pool has no gibibyte left."""
        for _ in range(3):
            self.send_parts([bytes(MIB)] * 1024)

    def shorten(self) -> None:
        """There is no memory for the copying peer's pool."""
        self.memory.is_short = True

    def send_parts(self, parts: list[bytes], fds: Sequence[int] = ()) -> None:
        core, p = self.bus.core, self.p
        core.send(p.number, [self.to_q], parts, fds=fds, credentials=p.credentials)


Act = Callable[[Scene], object]
CASES: list[tuple[str, str, Act, Act | None]] = [
    # (command, error, the command that fails, what was before)
    ("PEER_DISCONNECT", "ESHUTDOWN", lambda s: s.gone.disconnect(), None),
    ("PEER_QUERY", "ESHUTDOWN", lambda s: s.bus.core.peer_query(s.gone.number), None),
    ("PEER_RESET", "ESHUTDOWN", lambda s: s.gone.reset(), None),
    ("PEER_RESET", "EINVAL", lambda s: s.p.reset(4), None),
    ("PEER_RESET", "EINVAL", lambda s: s.p.reset(ResetFlag.FLUSH, 2), None),
    ("PEER_RESET", "EINVAL", lambda s: s.p.reset(max_slices=1 << 31), None),
    ("PEER_RESET", "EINVAL", lambda s: s.p.reset(max_slices=1, max_inflight_fds=1 << 32), None),
    ("HANDLE_RELEASE", "ESHUTDOWN", lambda s: s.gone.release(0x10), None),
    ("HANDLE_RELEASE", "ENXIO", lambda s: s.p.release(0x203), None),
    ("HANDLE_RELEASE", "ENXIO", lambda s: s.p.release(s.to_q), lambda s: s.p.release(s.to_q)),
    ("HANDLE_RELEASE", "EBUSY", lambda s: s.p.release(0x100), None),
    ("HANDLE_RELEASE", "EBUSY", lambda s: s.p.release(0x700), None),
    ("HANDLE_TRANSFER", "ESHUTDOWN", lambda s: s.gone.transfer(0x10), None),
    ("HANDLE_TRANSFER", "ESHUTDOWN", lambda s: s.p.transfer(0x700, s.gone), None),
    ("HANDLE_TRANSFER", "ENXIO", lambda s: s.p.transfer(HANDLE_INVALID, s.q), None),
    ("HANDLE_TRANSFER", "EDQUOT", lambda s: s.p.transfer(0x700, s.q), lambda s: s.limit(s.q, max_handles=1)),
    ("HANDLE_TRANSFER", "EDQUOT", lambda s: s.p.transfer(0x700, s.q), lambda s: s.limit(s.p, max_handles=1)),
    ("NODE_DESTROY", "ESHUTDOWN", lambda s: s.gone.destroy(0x10), None),
    ("NODE_DESTROY", "EINVAL", lambda s: s.p.destroy(0x100, flags=2), None),
    ("NODE_DESTROY", "EINVAL", lambda s: s.p.destroy(*[0x103] * 65537), None),
    ("NODE_DESTROY", "ENXIO", lambda s: s.p.destroy(0x100, 0x700, 0x103), None),
    ("NODE_DESTROY", "ENOTUNIQ", lambda s: s.p.destroy(0x700, 0x100, 0x700), None),
    ("NODE_DESTROY", "EREMOTE", lambda s: s.p.destroy(0x100, s.to_q), None),
    ("NODE_DESTROY", "ESTALE", lambda s: s.p.destroy(0x100, 0x200), lambda s: s.drop()),
    ("NODE_DESTROY", "EDQUOT", lambda s: s.p.destroy(0x100, 0x700), lambda s: s.limit(s.p, max_handles=1)),
    ("SLICE_RELEASE", "ESHUTDOWN", lambda s: s.gone.free(0), None),
    ("SLICE_RELEASE", "ENXIO", lambda s: s.p.free(0), None),
    ("SLICE_RELEASE", "ENXIO", lambda s: s.p.free(0), lambda s: s.queue()),
    ("SEND", "ESHUTDOWN", lambda s: s.gone.send([0x10]), None),
    ("SEND", "EINVAL", lambda s: s.p.send([s.to_q], flags=4), None),
    ("SEND", "EINVAL", lambda s: s.p.send([], flags=SendFlag.SEED | SendFlag.CONTINUE), None),
    ("SEND", "EINVAL", lambda s: s.p.send([s.to_q], flags=SendFlag.SEED), None),
    ("SEND", "EINVAL", lambda s: s.p.send([0x103] * 65537), None),
    ("SEND", "EMSGSIZE", lambda s: s.send_parts([b"x"] * 1025), None),
    ("SEND", "EMSGSIZE", lambda s: s.send_parts([b"x"], range(257)), None),
    ("SEND", "EMSGSIZE", lambda s: s.send_parts([bytes(2 * MIB)] * 1024), None),
    ("SEND", "ENXIO", lambda s: s.p.send([s.to_q, 0x103]), None),
    ("SEND", "ENXIO", lambda s: s.p.send([s.to_q], handles=[0x700, HANDLE_INVALID]), None),
    ("SEND", "ENOTUNIQ", lambda s: s.p.send([s.to_q, 0x700, s.to_q]), None),
    ("SEND", "EHOSTUNREACH", lambda s: s.p.send([s.to_q, 0x700, s.to_dead]), None),
    ("SEND", "EHOSTUNREACH", lambda s: s.p.send([s.to_q, s.orphan], fds=[7]), None),
    ("SEND", "EDQUOT", lambda s: s.p.send([0x100, s.to_q]), lambda s: s.limit(s.q, max_slices=0)),
    ("SEND", "EDQUOT", lambda s: s.p.send([s.to_q], handles=[0x700]), lambda s: s.limit(s.p, max_handles=1)),
    ("SEND", "EXFULL", lambda s: s.send_parts([bytes(MIB)] * 1024), Scene.fill),
    ("SEND", "ENOMEM", lambda s: s.p.send([s.to_q, s.to_copying]), lambda s: s.shorten()),
    ("RECV", "ESHUTDOWN", lambda s: s.gone.recv(), None),
    ("RECV", "EINVAL", lambda s: s.p.recv(8), lambda s: s.queue()),
    ("RECV", "EAGAIN", lambda s: s.p.recv(), None),
    ("RECV", "EAGAIN", lambda s: s.p.recv(RecvFlag.SEED), lambda s: s.queue()),
    ("RECV", "ERANGE", lambda s: s.p.recv(0, 15), lambda s: s.queue()),
    ("RECV", "EDQUOT", lambda s: s.p.recv(RecvFlag.PEEK), lambda s: s.queue(max_handles=1)),
]


@pytest.mark.parametrize(("command", "error", "act", "before"), CASES)
def test_each_error_of_a_command_has_its_number_and_no_effect(
    command: str, error: str, act: Act, before: Act | None
) -> None:
    """E-1, E-2, E-3."""
    scene = Scene()
    if before is not None:
        before(scene)
    scene.bus.core.take_freed_fds()
    with Unchanged(scene.bus, BY_ERRNO[NUMBERS[error]]):
        act(scene)


class World:
    """Two peers of a bus, and descriptors of several kinds."""

    def __init__(self, bus: InProcessBus | NativeBus) -> None:
        self.p, self.q = bus.peer(), bus.peer()
        self.to_q = self.q.transfer(0x10, self.p)
        self.pipe = os.pipe()
        self.sockets = socket.socketpair()
        self.closed = os.dup(self.pipe[0])
        os.close(self.closed)

    def close(self) -> None:
        for peer in (self.p, self.q):
            peer.close()
        for fd in self.pipe:
            os.close(fd)
        for end in self.sockets:
            end.close()

    def recv_in_a_full_table(self) -> None:
        self.p.send([self.to_q], b"m", fds=[self.pipe[0]] * 40)
        with room_for(20):
            self.q.recv()


@pytest.fixture(params=["in-process", "socket"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    bus = InProcessBus() if request.param == "in-process" else NativeBus(tmp_path)
    made = World(bus)
    yield made
    made.close()
    bus.close()


@pytest.mark.parametrize(
    ("error", "act"),
    [
        ("EBADF", lambda w: w.p.send([w.to_q], fds=[w.closed])),
        ("EBADF", lambda w: w.p.transfer(0x100, w.closed)),
        ("EOPNOTSUPP", lambda w: w.p.send([w.to_q], fds=[w.pipe[0], w.sockets[0].fileno()])),
        ("EOPNOTSUPP", lambda w: w.p.send([w.to_q], fds=[w.q.fileno()])),
        ("EOPNOTSUPP", lambda w: w.p.transfer(0x100, w.pipe[0])),
        ("EMFILE", World.recv_in_a_full_table),
    ],
)
def test_errors_about_descriptors_come_from_the_links(
    world: World, error: str, act: Callable[[World], object]
) -> None:
    """E-1, E-2, E-3: the command can be repeated as if nothing had been."""
    with pytest.raises(BY_ERRNO[NUMBERS[error]]) as caught:
        act(world)
    assert caught.value.errno == NUMBERS[error]
    if error == "EMFILE":
        with world.q.recv() as message:
            assert len(message.fds) == 40
    else:
        with pytest.raises(WouldBlock):
            world.q.recv()
        with pytest.raises(Busy):
            world.p.release(0x100)


def test_a_writable_mapping_is_eperm() -> None:
    """E-1, L-5."""
    memory = SealedMemory()
    memory.open_segment(1, 0, 4096)
    segment = memory.segment(1)
    assert segment is not None
    with pytest.raises(PermissionError) as caught:
        mmap.mmap(segment.fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    assert caught.value.errno == NUMBERS["EPERM"]
    memory.close_segment(1)


def test_an_unknown_operation_is_enotty(tmp_path: Path) -> None:
    """E-1, E-3: the peer lives on."""
    bus = NativeBus(tmp_path)
    try:
        client = Client(bus.address)
        with pytest.raises(Failed) as caught:
            client.request(0x777, bytes(8))
        assert caught.value.errno == NUMBERS["ENOTTY"]
        assert client.transfer(0x100) == 0x100
        client.close()
    finally:
        bus.close()


def test_a_broken_invariant_of_the_bus_is_enotrecoverable() -> None:
    """E-2: a charge that is given back twice would be one."""
    account = Ledger(Limits()).open(1, None, 0)
    charge = account.charge(1, 1, 0, 8, 0)
    charge.settle(0)
    with pytest.raises(InternalError) as caught:
        charge.settle(0)
    assert caught.value.errno == NUMBERS["ENOTRECOVERABLE"]


def test_every_error_of_the_page_has_its_class_and_no_other_is_given() -> None:
    """E-1, E-2: beside them only what ends a channel. ENOTSUPP (524) and EFAULT (14) are nobody's."""
    assert {name: getattr(errno, name) for name in NUMBERS} == NUMBERS
    assert BY_ERRNO.keys() == {*NUMBERS.values(), errno.ECONNRESET, errno.EPROTO}
    assert all(kind.errno == number for number, kind in BY_ERRNO.items())
    assert {error for _, error, _, _ in CASES} == NUMBERS.keys() - {
        "EBADF", "EOPNOTSUPP", "EMFILE", "EPERM", "ENOTTY", "ENOTRECOVERABLE",
    }
