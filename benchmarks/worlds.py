"""worlds: two peers among so many other peers, handles, queued messages or unreleased slices.

Theory. A world is made once, and then one operation is repeated in it, which leaves it as it was. The two
peers are of two users; limits are far away. ``CoreWorld`` calls Core; ``LinkWorld`` uses ``Peer``, with the
bus in this process or behind its socket.

Not here: timing (scaling).
"""

from __future__ import annotations

import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from bus1.core.api import Credentials, DestroyFlag, Limits, RecvFlag, SendFlag
from bus1.core.choice import Core, SealedMemory
from bus1.hub import PlainHub
from bus1.inprocess import InProcessLink
from bus1.peer import Peer
from bus1.reactor import Reactor

from .worker import ROOT, read_line

DIMENSIONS = ("peers", "handles", "queued messages", "unreleased slices")
FAR = 1 << 30
PLENTY = Limits(FAR, FAR, FAR, FAR)
MAILBOX, OTHER, FIRST = 0x8, 0x10, 0x1000
"""Nodes: the reader's, one for this and that, the first of many."""
Operation = Callable[[], object]


class World(ABC):
    """Operations by name, in surroundings of a given size."""

    operations: dict[str, Operation]

    def __init__(self) -> None:
        self.stack = ExitStack()

    def grow(self, dimension: str, size: int) -> Self:
        """Add ``size`` things to the surroundings."""
        growers = (self.add_peers, self.add_handles, self.add_queued, self.add_slices)
        growers[DIMENSIONS.index(dimension)](size)
        return self

    @abstractmethod
    def add_peers(self, count: int) -> None:
        """Other peers, each with a node that the sender holds."""

    @abstractmethod
    def add_handles(self, count: int) -> None:
        """Nodes of the reader that the sender holds."""

    @abstractmethod
    def add_queued(self, count: int) -> None:
        """Messages that the reader has not received."""

    @abstractmethod
    def add_slices(self, count: int) -> None:
        """Slices that the reader has not given back, with gaps between them."""

    def close(self) -> None:
        """Everything ends."""
        self.stack.close()


class CoreWorld(World):
    """A Core, and the single operations of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.core = core = Core(PLENTY)
        self.who = Credentials(1, 1, 1)
        self.sender, self.reader = core.peer_new(1), core.peer_new(2, SealedMemory())
        self.mailbox = core.handle_transfer(self.reader, MAILBOX, self.sender)
        self.stack.callback(self.disconnect)
        self.operations = {
            "send, recv, release the slice": self.pass_on,
            "send, peek, recv, release the slice": self.look_first,
            "transfer, release": self.lend,
            "create a node, destroy it": self.create_and_destroy,
            "let a node go that a message waits for": self.let_go,
            "set the seed, take it": self.set_seed,
            "open a peer, disconnect it": lambda: core.peer_disconnect(core.peer_new(3)),
        }

    def send(self, to: int, size: int = 0) -> None:
        """One message; what an edge would drain is dropped."""
        self.core.send(self.sender, (to,), (bytes(size),), credentials=self.who)
        self.core.take_woken()

    def pass_on(self) -> None:
        """One empty message through the reader's queue and pool."""
        self.send(self.mailbox)
        self.core.slice_release(self.reader, self.core.recv(self.reader).offset)

    def look_first(self) -> None:
        """As ``pass_on``, with a look before."""
        self.send(self.mailbox)
        self.core.recv(self.reader, RecvFlag.PEEK)
        self.core.slice_release(self.reader, self.core.recv(self.reader).offset)

    def lend(self) -> None:
        """A reference comes and goes."""
        self.core.handle_release(self.sender, self.core.handle_transfer(self.reader, MAILBOX, self.sender))

    def create_and_destroy(self) -> None:
        """A node of the sender, from nothing to nothing."""
        self.core.node_destroy(self.sender, (OTHER,), DestroyFlag.RELEASE_HANDLES)

    def let_go(self) -> None:
        """H-33: the queued message goes with its node."""
        handle = self.core.handle_transfer(self.reader, OTHER, self.sender)
        self.send(handle)
        self.core.node_destroy(self.reader, (OTHER,), DestroyFlag.RELEASE_HANDLES)
        self.core.recv(self.sender)
        self.core.handle_release(self.sender, handle)

    def set_seed(self) -> None:
        """A seed comes and goes."""
        self.core.send(self.reader, (), (b"seed",), flags=SendFlag.SEED, credentials=self.who)
        self.core.slice_release(self.reader, self.core.recv(self.reader, RecvFlag.SEED).offset)

    def add_peers(self, count: int) -> None:
        for _ in range(count):
            self.core.handle_transfer(self.core.peer_new(3), MAILBOX, self.sender)

    def add_handles(self, count: int) -> None:
        for number in range(count):
            self.core.handle_transfer(self.reader, FIRST + 8 * number, self.sender)

    def add_queued(self, count: int) -> None:
        for _ in range(count):
            self.send(self.mailbox)

    def add_slices(self, count: int) -> None:
        for number in range(2 * count):
            self.send(self.mailbox, 8 * (number % 16))
        offsets = [self.core.recv(self.reader).offset for _ in range(2 * count)]
        for offset in offsets[1::2]:
            self.core.slice_release(self.reader, offset)

    def disconnect(self) -> None:
        """Everybody leaves."""
        for peer in self.core.snapshot()["peers"]:
            self.core.peer_disconnect(peer)


class LinkWorld(World):
    """Two ``Peer`` objects of one bus."""

    def __init__(self, open_peer: Callable[[], Peer]) -> None:
        super().__init__()
        self.open_peer = open_peer
        self.sender, self.reader = self.enter(open_peer()), self.enter(open_peer())
        self.to_reader = self.reader.transfer(MAILBOX, self.sender)
        self.to_sender = self.sender.transfer(MAILBOX, self.reader)

    def enter(self, peer: Peer) -> Peer:
        """The peer ends with this world."""
        return self.stack.enter_context(peer)

    def pass_on(self) -> None:
        """One empty message: send, recv, release."""
        self.sender.send([self.to_reader])
        self.reader.recv().release()

    def round_trip(self) -> None:
        """One empty message there and one back."""
        self.pass_on()
        self.reader.send([self.to_sender])
        self.sender.recv().release()

    def add_peers(self, count: int) -> None:
        for _ in range(count):
            with self.open_peer() as peer:
                peer.transfer(MAILBOX, self.sender)
                self.stack.callback(os.close, os.dup(peer.fileno()))

    def add_handles(self, count: int) -> None:
        for number in range(count):
            self.reader.transfer(FIRST + 8 * number, self.sender)

    def add_queued(self, count: int) -> None:
        for _ in range(count):
            self.sender.send([self.to_reader])

    def add_slices(self, count: int) -> None:
        for number in range(2 * count):
            self.sender.send([self.to_reader], bytes(8 * (number % 16)))
        messages = [self.reader.recv() for _ in range(2 * count)]
        for message in messages[1::2]:
            message.release()


class InProcessWorld(LinkWorld):
    """The bus in this process."""

    def __init__(self) -> None:
        hub = PlainHub(Core(PLENTY))
        reactor = Reactor(hub)
        super().__init__(lambda: Peer(InProcessLink(reactor, hub)))
        self.operations = {"in-process: send, recv, release": self.pass_on}

    def add_peers(self, count: int) -> None:
        for _ in range(count):
            self.enter(self.open_peer()).transfer(MAILBOX, self.sender)


class SocketWorld(LinkWorld):
    """A ``bus1 broker`` of its own."""

    def __init__(self, directory: Path) -> None:
        maxima = [f"--max-{name}={FAR}" for name in ("slices", "handles", "bytes", "fds")]
        command = [sys.executable, "-m", "bus1", "broker", f"--address={directory}/bus", "--print-address",
                   f"--peers-per-user={FAR}", *maxima]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, bufsize=0)
        address = read_line(self.process)
        super().__init__(lambda: Peer.connect(address))
        self.stack.callback(self.stop)
        self.operations = {"socket: there and back": self.round_trip}

    def stop(self) -> None:
        """End the bus."""
        self.process.terminate()
        self.process.communicate()
