"""outgoing: calls of a program to others, by name and path.

Theory. The registry leads from a name to its owner's root, and from there to an object; handles of objects
are kept, because a unique name never comes back. A path that came as a capability leads to that object,
whatever name is called. The answer goes to a reply node, and is the library's message again.

Invariants. 1. Every call that expects an answer gets one: NoReply, if nobody can give it any more. 2. At most
``MAX_OBJECTS`` handles are kept, and as many capabilities; the least used are dropped.

Not here: calls to the bus itself (``driver``).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from bus1.errors import (
    Bus1Error,
    BusGone,
    Disconnected,
    NodeDestroyed,
    PeerShutdown,
    RemoteProtocolError,
)

from ..call import CallFlag, Kind
from ..connection import Connection
from ..errors import DBusError, NameHasNoOwner, NoReply
from ..handle import Arrival, Handle
from .library import Library
from .messages import Route, envelope_of, received
from .outbox import Parcel
from .rules import DRIVER

MAX_OBJECTS = 1024
_UNKNOWN_NAME = "org.freedesktop.DBus.Error.ServiceUnknown"
_UNSUPPORTED = "org.freedesktop.DBus.Error.NotSupported"

log = logging.getLogger("bus1.services")


class Reply:
    """The receiver of one reply node."""

    def __init__(self, outgoing: Outgoing, serial: int, sender: str) -> None:
        self._outgoing = outgoing
        self._route = Route(0, sender, reply_serial=serial)
        self.node = 0
        self._is_over = False

    def arrived(self, arrival: Arrival) -> None:
        """The answer."""
        if self._is_over or arrival.envelope.kind not in {Kind.RETURN, Kind.ERROR}:
            arrival.discard()
            return
        self._end()
        if arrival.fds and not self._outgoing.takes_fds:
            arrival.discard()
            self._outgoing.failed(self._route.reply_serial, DBusError(
                "the answer has file descriptors, and the program takes none", name=_UNSUPPORTED
            ))
            return
        try:
            message, capabilities = received(self._outgoing.library, arrival, self._route)
        except RemoteProtocolError as error:
            arrival.discard()
            self._outgoing.failed(self._route.reply_serial, DBusError(f"the answer cannot be read: {error}"))
            return
        self._outgoing.learn(capabilities)
        self._outgoing.hand_on(message)

    def released(self) -> None:
        """Nobody can answer any more."""
        if not self._is_over:
            self._end()
            error = NoReply("the callee is gone, or dropped the call")
            self._outgoing.failed(self._route.reply_serial, error)

    def lost(self, error: Bus1Error) -> None:
        """The bus is gone: the connection tells all that wait."""
        self._is_over = True

    def _end(self) -> None:
        self._is_over = True
        self._outgoing.connection.retire(self.node)


class Outgoing:
    """The calls of one program."""

    def __init__(
        self, library: Library, connection: Connection, hand_on: Callable[[Any], None], *, takes_fds: bool
    ) -> None:
        self.takes_fds = takes_fds
        self.library = library
        self.connection = connection
        self.hand_on = hand_on
        self._objects: OrderedDict[tuple[str, str], Handle] = OrderedDict()
        self._capabilities: OrderedDict[str, Handle] = OrderedDict()

    def learn(self, capabilities: Mapping[str, Handle]) -> None:
        """Objects that came as capabilities can be called by their paths."""
        for path, handle in capabilities.items():
            _keep(self._capabilities, path, handle)

    async def call(self, parcel: Parcel) -> None:
        """Send a call; what goes wrong is its answer."""
        message = parcel.message
        try:
            await self._deliver(parcel)
        except (BusGone, PeerShutdown):
            log.debug("%s.%s is not called: the bus is gone", message.interface, message.member)
        except NameHasNoOwner as error:
            self.failed(message.serial, DBusError(error.text, name=_UNKNOWN_NAME))
        except DBusError as error:
            self.failed(message.serial, error)
        except Disconnected:
            self.failed(message.serial, NoReply(f"{message.path} of {message.destination} is gone"))
        except Bus1Error as error:
            self.failed(message.serial, DBusError(f"the call cannot be sent: {error}"))

    def failed(self, serial: int, error: DBusError) -> None:
        """The call with this serial is answered with an error."""
        self.hand_on(self.library.message(
            message_type=self.library.message_type.ERROR, reply_serial=serial, sender=DRIVER,
            error_name=error.name, signature="s", body=[error.text],
        ))

    async def _deliver(self, parcel: Parcel) -> None:
        """Send it; a second time, if the object that was known is gone, and there is another."""
        name, path = parcel.message.destination, parcel.message.path
        unique, handle = await self._object(name, path)
        try:
            await self._send(parcel, unique, handle)
        except NodeDestroyed:
            self._objects.pop((unique, path), None)
            self._capabilities.pop(path, None)
            await self._send(parcel, *await self._object(name, path))

    async def _object(self, name: str, path: str) -> tuple[str, Handle]:
        """The owner's unique name, and the handle of its object; DBusError."""
        if path in self._capabilities:
            self._capabilities.move_to_end(path)
            return name, self._capabilities[path]
        owner = await self.connection.registry.resolve(name)
        key = owner.unique, path
        if key not in self._objects:
            _keep(self._objects, key, await self.connection.registry.derive(owner.root, path))
        self._objects.move_to_end(key)
        return owner.unique, self._objects[key]

    async def _send(self, parcel: Parcel, unique: str, handle: Handle) -> None:
        message = parcel.message
        envelope = envelope_of(message, parcel.body)
        reply: Reply | None = None
        if not envelope.flags & CallFlag.NO_REPLY_EXPECTED:
            reply = Reply(self, message.serial, unique)
            reply.node = self.connection.node(reply)
        try:
            await self.connection.forward(
                [handle.id], envelope, parcel.body, reply=None if reply is None else reply.node,
                fds=parcel.fds,
            )
        except Exception:
            if reply is not None:
                self.connection.forget(reply.node)
            raise


def _keep(table: OrderedDict[Any, Handle], key: Any, handle: Handle) -> None:
    table[key] = handle
    table.move_to_end(key)
    if len(table) > MAX_OBJECTS:
        table.popitem(last=False)
