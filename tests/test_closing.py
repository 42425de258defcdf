"""Descriptors whose close(2) waits for somebody: the bus does not."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from native_bus import NativeBus, RawChannel

from bus1.closing import closes_at_once
from bus1.errors import QuotaExceeded
from bus1.frames import REQUESTS, Operation, encode
from bus1.peer import Peer

N_DESCRIPTORS = 200
AN_HOUR = struct.pack("ii", 1, 3600)


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[NativeBus]:
    bus = NativeBus(tmp_path, n_descriptors=N_DESCRIPTORS)
    yield bus
    bus.close()


@dataclass
class Stubborn:
    """A socket that lingers, with data under way that ``reader`` does not read."""

    sock: socket.socket
    reader: socket.socket

    def close(self) -> None:
        self.reader.close()
        self.sock.close()


@pytest.fixture
def stubborn() -> Iterator[list[Stubborn]]:
    """As many as are asked for."""
    made: list[Stubborn] = []
    yield made
    for each in made:
        each.close()


def make_stubborn() -> Stubborn:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        reader, _ = server.accept()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AN_HOUR)
    sock.setblocking(False)
    try:
        while True:
            sock.send(bytes(1 << 16))
    except BlockingIOError:
        return Stubborn(sock, reader)


def leave_with_bus(peer: Peer, each: Stubborn) -> None:
    """The bus has the last copy, and lets go of it."""
    peer.send([0x10], b"", fds=[each.sock.fileno()])
    each.sock.close()
    peer.recv(flags=0).release()


def test_a_socket_that_lingers_holds_nobody_up(bus: NativeBus, stubborn: list[Stubborn]) -> None:
    with Peer.connect(bus.address) as peer, Peer.connect(bus.address) as other:
        for _ in range(3):
            stubborn.append(make_stubborn())
            leave_with_bus(peer, stubborn[-1])
        other.query()


@pytest.mark.parametrize("is_complete", [True, False])
def test_a_socket_that_lingers_holds_nobody_up_if_its_request_fails(
    bus: NativeBus, stubborn: list[Stubborn], is_complete: bool
) -> None:
    each = make_stubborn()
    stubborn.append(each)
    fixed = REQUESTS[Operation.SEND].pack(0, 1, 0, 0, 0, 0, 0)
    frame = encode(Operation.SEND, 3, fixed + struct.pack("<Q", 0x13), 1)
    with RawChannel(bus.address).open() as channel, Peer.connect(bus.address) as other:
        socket.send_fds(channel.sock, [frame[:1]], [each.sock.fileno()])
        each.sock.close()
        if is_complete:
            channel.sock.sendall(frame[1:])
            assert channel.frame().tag == 3
        else:
            channel.close()
        other.query()


def test_what_waits_to_be_closed_counts_for_its_user(bus: NativeBus, stubborn: list[Stubborn]) -> None:
    with Peer.connect(bus.address) as peer:
        with pytest.raises(QuotaExceeded, match="descriptors on this bus"):
            for _ in range(N_DESCRIPTORS):
                stubborn.append(make_stubborn())
                leave_with_bus(peer, stubborn[-1])
        for each in stubborn:
            each.reader.close()
        with open(os.devnull) as null:
            while True:  # until the bus has got rid of them
                try:
                    peer.send([0x10], b"", fds=[null.fileno()] * (len(stubborn) // 2))
                    break
                except QuotaExceeded:
                    select.select([], [], [], 0.01)


def test_only_what_nobody_can_delay_is_closed_at_once() -> None:
    ends = os.pipe()
    left, right = socket.socketpair()
    internet, memory = socket.socket(), os.memfd_create("closing")
    null, path = os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_PATH)
    try:
        assert all(map(closes_at_once, (*ends, left.fileno(), memory, path)))
        assert not any(map(closes_at_once, (internet.fileno(), null)))
    finally:
        for each in (left, right, internet):
            each.close()
        for fd in (*ends, memory, null, path):
            os.close(fd)
