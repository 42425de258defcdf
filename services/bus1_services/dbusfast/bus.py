"""bus: ``MessageBus`` of dbus-fast and dbus-next, on a native connection.

Theory. The libraries' ``MessageBus`` is three things: what decides about messages (handlers, exported
interfaces, properties), what programs call, and a socket to a D-Bus bus. Here the first two stay as they
are, and the third is replaced: a class in front of the library's own, which takes messages from nodes and
carries them to nodes. Whatever a program exports is published: a node for each path, and one for each path
above it, because the libraries answer GetManagedObjects there. A publication tells the whole truth at once,
so what changed is published before the next message is sent, and once more at rest.

Invariants. 1. What a program exported before it sent a message can be reached by whoever gets that
message. 2. A path from which a signal is to be sent is published until it is sent. 3. What fails in the
program's own code, or cannot be sent, ends that message alone.

Not here: the order of messages (``outbox``), callers (``callers``), the bus as seen by programs (``driver``).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, ClassVar, Self

from bus1 import addresses
from bus1.errors import (
    Bus1Error,
    BusGone,
    Denied,
    Disconnected,
    InvalidArgument,
    PeerShutdown,
)

from ..connection import Connection, connect
from ..errors import DBusError
from ..handle import Arrival, Handle
from ..letter import forward
from ..registry import Published
from .callers import Callers
from .driver import Driver
from .exported import ForeignExport, ForeignObject
from .incoming import Incoming
from .introducing import Introductions
from .library import Library, library
from .listening import Listening
from .messages import body_of, envelope_of
from .outbox import Outbox, Parcel
from .outgoing import Outgoing
from .rules import DRIVER

_UNUSED_ADDRESS = "unix:path=/"
"""The library reads an address, and never connects to it."""
_SYSTEM_BUS = "unix:path=/var/run/dbus/system_bus_socket"
_LibraryBus: Any = object

log = logging.getLogger("bus1.services")


class _NoSocket:
    """In place of the library's socket: there is nothing to close."""

    def close(self) -> None:
        """Nothing happens."""


class PathObject(ForeignObject):
    """A path at which a program has exported something, or below which."""

    def __init__(self, bus: NativeBus, path: str) -> None:
        super().__init__(path)
        self._bus = bus

    def hall(self, connection: Connection) -> NativeBus:
        """The program's connection, which is the one that published it."""
        return self._bus


class NativeBus(_LibraryBus):  # type: ignore[misc]
    """Stands in front of a library's ``MessageBus``; ``message_bus`` puts the two together."""

    library: ClassVar[Library]

    def __init__(
        self, bus_address: str | None = None, bus_type: Any = None, auth: Any = None,
        negotiate_unix_fd: bool = False, auth_timeout: float | None = None,
    ) -> None:
        """As the library's; the kernel tells the bus who connects, so ``auth`` and its time-out have no part.

        InvalidAddressError if no native socket lies beside the bus that is meant."""
        super().__init__(_UNUSED_ADDRESS, auth=auth, negotiate_unix_fd=negotiate_unix_fd)
        self._address = _native_address(self.library, bus_address, bus_type)
        self._setup_socket()
        self.callers = Callers()
        self._objects: dict[str, PathObject] = {}
        """What is published."""
        self._exports: dict[str, ForeignExport] = {}
        self._emitting: Counter[str] = Counter()
        self._is_stale = False
        self._outbox = Outbox(self._loop, self._carry, self._rest)
        self._incoming = Incoming(self, self.callers)
        self._task: asyncio.Task[None] | None = None
        self._is_alone = False
        """The objects belong to somebody else's service: nothing is published from here."""

    # ---- in place of the socket --------------------------------------------------------------

    def _setup_socket(self) -> None:
        self._sock = self._stream = _NoSocket()
        self._fd = -1

    def _create_unmarshaller(self) -> None:
        """dbus-next asks for one when it is made; nothing is ever read."""

    def _join(self, connection: Connection) -> None:
        self._connection = connection
        fds = self._negotiate_unix_fd
        listening = Listening(self.library, connection, self.process, takes_fds=fds)
        self._introductions = Introductions(connection, self.callers, self.process)
        self._outgoing = Outgoing(self.library, connection, self.process, takes_fds=fds)
        self._driver = Driver(self.library, connection, self, self.callers, listening)

    @classmethod
    def alone(cls, connection: Connection, path: str, interfaces: Sequence[Any]) -> Self:
        """A bus for one object of a service on ``connection``; RuntimeError outside asyncio."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(f"objects of {cls.library.package} need asyncio, and no other loop") from None
        bus = cls(negotiate_unix_fd=True)
        bus._is_alone = True
        bus._join(connection)
        for interface in interfaces:
            bus.export(path, interface)
        connection.start(bus._outbox.run)
        return bus

    async def connect(self) -> Self:
        """Connect to the native bus; OSError if there is none, AuthError if it refuses."""
        opened = self._loop.create_future()
        self._task = self._loop.create_task(self._live(opened))
        try:
            await asyncio.shield(opened)
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        return self

    async def _live(self, opened: asyncio.Future[None]) -> None:
        failure: Exception | None = None
        try:
            async with connect(self._address) as connection:
                self._join(connection)
                self.unique_name = (await self._publish({})).unique
                connection.start(self._outbox.run)
                opened.set_result(None)
                await self._until_closed(connection)
        except Denied as error:
            failure = self.library.refused(str(error))
        except Exception as error:
            failure = error
        finally:
            self._outbox.discard()
            if opened.done():
                self._finalize(failure)
            elif failure is not None:
                opened.set_exception(failure)

    async def _until_closed(self, connection: Connection) -> None:
        """Until the program disconnects, and all is sent; or the bus is gone, which is raised."""
        gone = asyncio.ensure_future(connection.ended())
        empty = asyncio.ensure_future(self._outbox.ended.wait())
        try:
            done, _ = await asyncio.wait({gone, empty}, return_when=asyncio.FIRST_COMPLETED)
            if gone in done:
                gone.result()
        finally:
            gone.cancel()
            empty.cancel()
            await asyncio.gather(gone, empty, return_exceptions=True)

    def disconnect(self) -> None:
        """Send what waits, then leave the bus."""
        self._user_disconnect = True
        self._outbox.close()

    def _finalize(self, err: Exception | None = None) -> None:
        """The end of the connection, as the library ends it, without its socket."""
        super(self.library.message_bus, self)._finalize(err)
        if self._disconnect_future.done():
            return
        if err is None or self._user_disconnect:
            self._disconnect_future.set_result(None)
        else:
            self._disconnect_future.set_exception(err)
            # read, so that nobody is warned where the program does not wait for it
            self._disconnect_future.exception()

    # ---- what the program does ---------------------------------------------------------------

    def export(self, path: str, interface: Any) -> None:
        """As the library's; it can be reached before anything else is sent."""
        super().export(path, interface)
        self._changed()

    def unexport(self, path: str, interface: Any = None) -> None:
        """As the library's."""
        super().unexport(path, interface)
        self._changed()

    def send(self, msg: Any) -> asyncio.Future[None]:
        """As the library's: errors of marshalling are raised, the future is done when it is on the bus.

        BufferError when far too much waits already."""
        if not msg.serial:
            msg.serial = self.next_serial()
        negotiated = self._negotiate_unix_fd
        body = body_of(msg, with_descriptors=negotiated)
        if self._disconnected or (self._outbox.is_idle and not msg.unix_fds and self._is_posted(msg, body)):
            return self._nothing()
        sent = self._outbox.put(msg, body, (msg.unix_fds or ()) if negotiated else ())
        if msg.message_type is self.library.message_type.SIGNAL:
            self._emitting[msg.path] += 1
            self._is_stale |= msg.path not in self._objects
        return sent

    def _nothing(self) -> asyncio.Future[None]:
        done: asyncio.Future[None] = self._loop.create_future()
        done.set_result(None)
        return done

    # ---- publications ------------------------------------------------------------------------

    def _changed(self) -> None:
        self._is_stale = True
        self._outbox.wake()

    async def own(self, name: str, flags: int) -> int:
        """RequestName, together with all objects; DBusError."""
        return (await self._publish({name: int(flags)})).results[0]

    async def _publish(self, names: Mapping[str, int]) -> Published:
        self._is_stale = False
        paths = {*_with_parents(self._path_exports), *self._emitting}
        objects = {path: self._objects.get(path) or PathObject(self, path) for path in sorted(paths)}
        published = await self._connection.registry.publish(_title(), names, objects)
        self._objects = objects
        return published

    async def _rest(self) -> None:
        """Everything is sent: publish what has changed since."""
        if self._is_stale and not self._is_alone:
            try:
                await self._publish({})
            except (DBusError, Bus1Error) as error:
                log.error("what %s exports cannot be published: %s", _title(), error)

    def interfaces_xml(self, path: str) -> str:
        """The ``<interface>`` elements of an object, the library's standard ones included."""
        interfaces = self._introspect_export_path(path).interfaces
        return "".join(ET.tostring(interface.to_xml(), "unicode") for interface in interfaces)

    # ---- messages in -------------------------------------------------------------------------

    def entered(self, export: ForeignExport) -> None:
        """An object has a node now."""
        self._exports[export.path] = export

    def called(self, export: ForeignExport, arrival: Arrival) -> None:
        """A call has arrived for an object; whatever goes wrong with it, others go on."""
        try:
            self._incoming.called(export, arrival)
        except Exception:
            log.exception("a call of %s failed", export.path)
            arrival.discard()

    def bereaved(self, handle: int) -> None:
        """A caller is gone."""
        self.callers.bereaved(handle)

    def left(self, export: ForeignExport) -> None:
        """An object has no node any more."""
        self.callers.left(export)
        if self._exports.get(export.path) is export:
            del self._exports[export.path]
        if self._is_alone:
            self._finalize()
            self._outbox.discard()

    def waiting(self, export: ForeignExport) -> bool:
        """A caller waits for an answer of this object."""
        return self.callers.waiting(export)

    def learn(self, capabilities: Mapping[str, Any]) -> None:
        """Objects that came with a call can be called back."""
        self._outgoing.learn(capabilities)

    def hand_on(self, message: Any, reply: Handle | None) -> None:
        """Hand a call to the library; if the program looks at messages, once its sender is known."""
        if self._introductions.is_busy or self._user_message_handlers:
            self._introductions.add(message, reply)
        else:
            self.process(message)

    def process(self, message: Any) -> None:
        """Hand a message to the library; what its handlers raise is logged."""
        try:
            self._process_message(message)
        except Exception:
            log.exception("%s failed with a message", self.library.package)

    # ---- messages out ------------------------------------------------------------------------

    async def _carry(self, parcel: Parcel) -> None:
        """Bring one message to where it belongs."""
        message, types = parcel.message, self.library.message_type
        await self._rest()
        try:
            if message.message_type in {types.METHOD_RETURN, types.ERROR}:
                await self._answer(parcel)
            elif message.message_type is types.SIGNAL:
                await self._emit(parcel)
            elif message.destination == DRIVER:
                self.process(await self._driver.answer(message))
            else:
                await self._outgoing.call(parcel)
        except (BusGone, PeerShutdown):
            log.debug("a %s is not sent: the bus is gone", message.message_type.name)
        except Exception:
            log.exception("a %s of %s cannot be sent", message.message_type.name, _title())

    def _is_posted(self, message: Any, body: bytes) -> bool:
        """It is an answer that needs no queue, and is on its way, with the reply handle."""
        call = self.callers.expected(message.reply_serial) if message.reply_serial else None
        if call is None:
            return False

        def failed(error: Bus1Error) -> None:
            self._connection.start(self._refuse, call.serial, self._connection.handle(call.reply.id), error)

        try:
            letter = forward(envelope_of(message, body, call.serial), body)
            if not self._connection.post_last(call.reply.id, letter, failed):
                return False
        except Bus1Error:
            return False  # it comes again where it can be told
        self.callers.answered(message.reply_serial)
        call.reply.spent()
        return True

    async def _answer(self, parcel: Parcel) -> None:
        call = self.callers.answered(parcel.message.reply_serial)
        if call is None:
            log.debug("nobody waits for an answer to %s any more", parcel.message.reply_serial)
            return
        envelope = envelope_of(parcel.message, parcel.body, call.serial)
        try:
            await self._connection.forward([call.reply.id], envelope, parcel.body, fds=parcel.fds)
        except Bus1Error as error:
            await self._refuse(call.serial, call.reply, error)
        finally:
            call.reply.release()

    async def _refuse(self, serial: int, reply: Handle, error: Bus1Error) -> None:
        """The answer could not be sent: say so, if somebody waits for it."""
        with reply, suppress(Bus1Error):
            if not isinstance(error, Disconnected):
                refused = self._incoming.error(serial, DBusError(f"the answer cannot be sent: {error}"))
                body = body_of(refused, with_descriptors=False)
                await self._connection.forward([reply.id], envelope_of(refused, body, serial), body)

    async def _emit(self, parcel: Parcel) -> None:
        path = parcel.message.path
        try:
            export = self._exports.get(path)
            if export is not None:
                await export.emit_body(envelope_of(parcel.message, parcel.body), parcel.body, parcel.fds)
        finally:
            self._emitting[path] -= 1
            if not self._emitting[path]:
                del self._emitting[path]
                if path in self._objects and path not in _with_parents(self._path_exports):
                    self._changed()


@lru_cache(maxsize=8)
def message_bus(package: str) -> type[NativeBus]:
    """The native ``MessageBus`` for ``dbus_fast`` or ``dbus_next``; ImportError if it is not installed."""
    found = library(package)
    return type("MessageBus", (NativeBus, found.message_bus), {"library": found})


def _with_parents(paths: Mapping[str, object]) -> set[str]:
    """These paths and all above them."""
    found = set(paths)
    for path in paths:
        while path != "/":
            path = path[: path.rindex("/")] or "/"
            found.add(path)
    return found


def _native_address(library_: Library, bus_address: str | None, bus_type: Any) -> str:
    """The socket for native clients beside the bus that a program means; InvalidAddressError."""
    if bus_address is None and bus_type is library_.bus_type.SYSTEM:
        bus_address = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", _SYSTEM_BUS)
    with suppress(InvalidArgument):
        address = addresses.native_address(bus_address) if bus_address else addresses.default_address()
        if address is not None:
            return address
    raise library_.invalid_address(f"no native socket lies beside {bus_address or 'the session bus'}")


def _title() -> str:
    """What the program is called by those who look at the bus."""
    return os.path.basename(sys.argv[0]).replace("\0", "") or "python"
