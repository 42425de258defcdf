"""incoming: calls to the objects of a program, made into messages of its library.

Theory. Whatever arrives gets an answer: the library's, or the refusal of what the library is not asked about:
bodies that cannot be read, descriptors that the program did not ask for, calls beyond the limit.

Invariants. 1. Descriptors are the program's own once a handler has been given them; those that no handler
takes are closed.

Not here: where answers go (``callers``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

from bus1.errors import RemoteProtocolError

from ..caller import Caller
from ..errors import DBusError, InvalidArgs, LimitsExceeded
from ..handle import Arrival, Handle
from ..proxy import PROPERTIES
from .callers import Callers, OpenCall
from .exported import ForeignExport
from .library import Library
from .messages import Route, received

_UNSUPPORTED = "org.freedesktop.DBus.Error.NotSupported"


class Program(Protocol):
    """What calls are handed to."""

    library: Library
    _negotiate_unix_fd: bool
    _user_message_handlers: list[Any]
    _path_exports: dict[str, Any]

    def hand_on(self, message: Any, reply: Handle | None) -> None:
        """Hand a call to the library; ``reply`` is where its caller waits."""

    def send(self, msg: Any) -> Any:
        """Send a message."""

    def learn(self, capabilities: Mapping[str, Handle]) -> None:
        """Objects that came with a call can be called back."""


class Incoming:
    """The calls of one program's objects."""

    def __init__(self, program: Program, callers: Callers) -> None:
        self._program = program
        self._callers = callers

    def called(self, export: ForeignExport, arrival: Arrival) -> None:
        """A call has arrived."""
        envelope = arrival.envelope
        reply = arrival.handles[0] if envelope.expects_reply and arrival.handles else None
        if envelope.expects_reply and reply is None:
            arrival.discard()
            return
        serial = self._callers.next_serial()
        try:
            if reply is not None:
                caller = Caller(arrival.uid, arrival.gid, arrival.pid)
                self._callers.opened(serial, OpenCall(envelope.serial, reply, export, caller))
            message, capabilities = self._message(
                arrival, Route(serial, self._callers.sender_of(arrival), export.path)
            )
        except LimitsExceeded as error:
            for fd in arrival.fds:
                fd.close()
            if reply and self._callers.refused(serial, OpenCall(envelope.serial, reply, export)):
                self._program.send(self.error(serial, error))
            else:
                arrival.discard()
        except DBusError as error:
            for fd in arrival.fds:
                fd.close()
            if reply is not None:
                self._program.send(self.error(serial, error))
        else:
            self._program.learn(capabilities)
            if message.unix_fds and not self._is_taken(message):
                for number in message.unix_fds:
                    os.close(number)
                message.unix_fds = []
            self._program.hand_on(message, reply)

    def error(self, serial: int, error: DBusError) -> Any:
        """The message that answers with ``error``."""
        library = self._program.library
        return library.message(
            message_type=library.message_type.ERROR, reply_serial=serial, error_name=error.name,
            signature="s", body=[error.text],
        )

    def _message(self, arrival: Arrival, route: Route) -> tuple[Any, Mapping[str, Handle]]:
        if arrival.fds and not self._program._negotiate_unix_fd:
            raise DBusError("the program takes no file descriptors", name=_UNSUPPORTED)
        try:
            return received(self._program.library, arrival, route)
        except RemoteProtocolError as error:
            raise InvalidArgs(f"the arguments cannot be read: {error}") from error

    def _is_taken(self, message: Any) -> bool:
        """Some handler of the program will be given the values of this call."""
        if self._program._user_message_handlers:
            return True
        exported = self._program._path_exports.get(message.path, ())
        interfaces = exported.values() if isinstance(exported, dict) else exported
        if message.interface == PROPERTIES:
            return any(_is_set(interface, message) for interface in interfaces)
        return any(_is_called(interface, message) for interface in interfaces)


def _is_called(interface: Any, message: Any) -> bool:
    """A method of this interface is meant."""
    return message.interface in {None, interface.name} and any(
        (method.name, method.in_signature) == (message.member, message.signature) and not method.disabled
        for method in interface._get_methods(interface)
    )


def _is_set(interface: Any, message: Any) -> bool:
    """A property of this interface is meant, and takes the value."""
    if (message.member, message.signature) != ("Set", "ssv") or message.body[0] != interface.name:
        return False
    _, name, value = message.body
    return any(
        (prop.name, prop.signature) == (name, value.signature)
        and prop.access.writable() and not prop.disabled
        for prop in interface._get_properties(interface)
    )
