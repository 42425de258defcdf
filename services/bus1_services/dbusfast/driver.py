"""driver: what a program asks the bus, answered from the registry.

Theory. There is no ``org.freedesktop.DBus`` natively; what programs ask of it is a few methods, a table here.
Names are published and resolved at the registry, match rules are followed by ``listening``, and questions
about a sender are answered from what the kernel attested with its calls. Everything else is
UnknownMethod, as it would be at a small bus.

Not here: which objects are published with a name (``bus``).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias

from bus1.errors import Bus1Error

from ..connection import Connection
from ..errors import DBusError, NameHasNoOwner
from ..standard import Peer
from .callers import Callers, Sender
from .library import Library
from .listening import Listening
from .rules import DRIVER

_UNKNOWN = "org.freedesktop.DBus.Error.UnknownMethod"

Answer: TypeAlias = Callable[..., Awaitable[Any]]


class Publisher(Protocol):
    """What the driver asks of the program's connection."""

    unique_name: str | None

    async def own(self, name: str, flags: int) -> int:
        """RequestName, together with all objects; DBusError."""


class Driver:
    """The bus, as one program sees it."""

    def __init__(
        self, library: Library, connection: Connection, publisher: Publisher, callers: Callers,
        listening: Listening,
    ) -> None:
        self._library = library
        self._connection = connection
        self._publisher = publisher
        self._callers = callers
        self._methods: Mapping[tuple[str, str], tuple[str, Answer]] = {
            #  method, takes                            gives
            ("RequestName", "su"): ("u", publisher.own),
            ("ReleaseName", "s"): ("u", self._release_name),
            ("ListNames", ""): ("as", self._list_names),
            ("NameHasOwner", "s"): ("b", self._name_has_owner),
            ("GetNameOwner", "s"): ("s", self._get_name_owner),
            ("AddMatch", "s"): ("", listening.add),
            ("RemoveMatch", "s"): ("", listening.remove),
            ("GetConnectionUnixUser", "s"): ("u", self._get_user),
            ("GetConnectionUnixProcessID", "s"): ("u", self._get_process),
            ("GetConnectionCredentials", "s"): ("a{sv}", self._get_credentials),
            ("GetMachineId", ""): ("s", Peer().get_machine_id),
            ("Ping", ""): ("", Peer().ping),
        }

    async def answer(self, message: Any) -> Any:
        """The answer to a call, as the library's message."""
        types = self._library.message_type
        method = self._methods.get((message.member, message.signature))
        try:
            if method is None:
                raise DBusError(
                    f"a native connection has no {message.member}({message.signature}) of the bus",
                    name=_UNKNOWN,
                )
            result = await method[1](*message.body)
        except DBusError as error:
            return self._library.message(
                message_type=types.ERROR, reply_serial=message.serial, sender=DRIVER,
                error_name=error.name, signature="s", body=[error.text],
            )
        except Bus1Error as error:
            return self._library.message(
                message_type=types.ERROR, reply_serial=message.serial, sender=DRIVER,
                error_name=DBusError.default_name, signature="s", body=[str(error)],
            )
        return self._library.message(
            message_type=types.METHOD_RETURN, reply_serial=message.serial, sender=DRIVER,
            signature=method[0], body=[result] if method[0] else [],
        )

    async def _release_name(self, name: str) -> int:
        return (await self._connection.registry.withdraw(name))[0]

    async def _list_names(self) -> list[str]:
        return [DRIVER, *await self._connection.registry.names()]

    async def _name_has_owner(self, name: str) -> bool:
        try:
            await self._get_name_owner(name)
        except NameHasNoOwner:
            return False
        return True

    async def _get_name_owner(self, name: str) -> str:
        if name == DRIVER:
            return DRIVER
        return (await self._connection.registry.resolve(name)).unique

    async def _get_user(self, name: str) -> int:
        return self._sender(name).uid

    async def _get_process(self, name: str) -> int:
        return self._sender(name).pid

    async def _get_credentials(self, name: str) -> dict[str, Any]:
        sender, variant = self._sender(name), self._library.variant
        return {"UnixUserID": variant("u", sender.uid), "ProcessID": variant("u", sender.pid)}

    def _sender(self, name: str) -> Sender:
        if name == self._publisher.unique_name:
            return Sender(os.getuid(), os.getpid())
        sender = self._callers.known(name)
        if sender is None:
            raise NameHasNoOwner(f"{name} has not called lately: a native connection knows its callers alone")
        return sender
