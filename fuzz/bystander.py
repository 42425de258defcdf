"""bystander: a well-behaved client of the bus under test, without blocking.

Theory. It is the real client without its link: ``Client`` makes requests and reads answers, this file carries
the bytes and lets the bus have its turns in between. Whatever the others do, it gets what it asks for.

Not here: the others (hostile_client).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from bus1.client import Client, Request
from bus1.core.api import HANDLE_INVALID, NO_LIMIT, RecvFlag
from bus1.errors import NoSuchHandle
from bus1.exchange import Answer
from bus1.received import ReceivedMessage

T = TypeVar("T")


class Bystander:
    """One peer that minds its own business."""

    def __init__(self, sock: socket.socket, rest: Callable[[], None]) -> None:
        """``rest`` lets the bus work until nothing is left to do."""
        self._sock = sock
        self._rest = rest
        self._client = Client(self._give_back)
        sock.setblocking(False)
        self.ask(self._client.hello())
        self.descriptor, _ = self.ask(self._client.open())

    def ask(self, request: Request[T]) -> T:
        """Make a request; the answer has to be there once the bus rests."""
        exchange = self._client.exchange
        tag = self._client.start(request)
        for _ in range(8):
            exchange.transmit(self._sock, socket.MSG_DONTWAIT)
            self._rest()
            with suppress(BlockingIOError):
                while exchange.receive(self._sock, socket.MSG_DONTWAIT):
                    pass
            exchange.process()
            if (answer := exchange.take(tag)) is not None:
                return self._client.finish(request, answer)
        raise AssertionError("the bus does not answer a bystander")

    def transfer(self, node: int, descriptor: int) -> int:
        """A handle to an own node, for the peer behind ``descriptor``."""
        return self.ask(self._client.transfer(node, descriptor))

    def send(self, handle: int, text: bytes) -> None:
        """One message to one destination."""
        self.ask(self._client.send([handle], [text], [], [], flags=0, optional=[]))

    def recv(self) -> bytes:
        """The payload of the next message, given back at once; WouldBlock if there is none."""
        answer: Answer = self.ask(self._client.recv(RecvFlag.INSTALL_FDS, NO_LIMIT, 0))
        if (missing := self._client.missing_segment(answer)) is not None:
            self.ask(missing)
        with self._client.message(answer) as message:
            text = bytes(message.payload)
            handles = message.handles
        for handle in handles:
            if handle != HANDLE_INVALID:
                self.ask(self._client.release(handle))
        return text

    def _give_back(self, message: ReceivedMessage) -> None:
        with suppress(NoSuchHandle):
            self.ask(self._client.slice_release(*self._client.slice_of(message)))

    def close(self) -> None:
        """Go, with everything."""
        self._client.close()
        self._sock.close()
        os.close(self.descriptor)
