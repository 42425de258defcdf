"""endpoint: open a socket of the bus that grants less than the bus's own.

Theory. The object that the default endpoint grants has the interface ``org.bus1.Endpoints1``; this is its
client. What it opens lives as long as somebody holds its handle: the block that opened it ends it, and so
does the end of the program. Without a path, the socket lies in a fresh directory that only this user enters.

Not here: what an endpoint grants and shows (the bridge).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio

from bus1.errors import Disconnected, InvalidArgument, NotSupported, RemoteProtocolError

from .handle import Handle
from .proxy import Remote

if TYPE_CHECKING:
    from .connection import Connection

_OPENS = "org.bus1.Endpoints1"
_OPENED = "org.bus1.Endpoint1"
_SOCKET = "bus"


class Endpoint:
    """An endpoint that this program has opened."""

    def __init__(self, remote: Remote, name: str, address: str, variable: str) -> None:
        self.name = name
        """What everybody is told who receives something from behind it."""
        self.address = address
        """What clients connect to."""
        self.environment = {variable: address}
        """What a program's environment needs, so that it connects there."""
        self.handle = remote.handle
        """The capability of it: whoever holds it keeps it open, and may close it."""
        self._remote = remote

    async def close(self) -> None:
        """End it, and cut off all who came in by it. NodeDestroyed if it is closed already."""
        await self._remote.call(_OPENED, "Close")


@asynccontextmanager
async def open_native_endpoint(
    connection: Connection, name: str, *grants: object, path: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> AsyncIterator[Endpoint]:
    """An endpoint for native programs: what they connect with is granted ``grants`` and nothing else.

    Grants are objects, proxies or handles, and arrive as ``Connection.granted``, in this order. Closed at the
    end, as by ``Endpoint.close``. InvalidArgument for what cannot be granted, NotSupported by a bus without
    names; DBusError: AccessDenied, InvalidArgs (the name, the path), LimitsExceeded."""
    handles: list[int] = []
    for value in grants:
        held = connection.grant(value)
        if held is None:
            raise InvalidArgument(f"{value!r} is nothing that can be granted: no object and no handle")
        handles.append(held[1])
    signature, values = "ssa{ss}", (dict(metadata or {}),)
    async with _opened(connection, name, path, "OpenNative", signature, values, handles) as endpoint:
        yield endpoint


@asynccontextmanager
async def open_dbus_endpoint(
    connection: Connection, name: str, *, see: Sequence[str] = (), talk: Sequence[str] = (),
    own: Sequence[str] = (), call: Sequence[str] = (), broadcast: Sequence[str] = (),
    path: str | None = None, metadata: Mapping[str, str] | None = None,
) -> AsyncIterator[Endpoint]:
    """An endpoint for D-Bus programs, which see what the rules name and nothing else.

    ``see``, ``talk`` and ``own`` are names, also with ``.*`` behind them; ``call`` and ``broadcast`` are
    ``NAME=RULE`` with ``[METHOD][@PATH]``, as flatpak writes them. Closed at the end, as by
    ``Endpoint.close``. TypeError for a single text in place of several; NotSupported by a bus without names;
    DBusError: AccessDenied, InvalidArgs (a rule, the name, the path), LimitsExceeded."""
    given = {"see": see, "talk": talk, "own": own, "call": call, "broadcast": broadcast}
    for verb, named in given.items():
        if isinstance(named, str):
            raise TypeError(f"{verb} is a list, not a text: {verb}=[{named!r}]")
    rules = [f"{verb}={rule}" for verb, named in given.items() for rule in named]
    signature, values = "ssasa{ss}", (rules, dict(metadata or {}))
    async with _opened(connection, name, path, "OpenDBus", signature, values) as endpoint:
        yield endpoint


@asynccontextmanager
async def _opened(
    connection: Connection, name: str, path: str | None, method: str, signature: str,
    values: tuple[object, ...], handles: Sequence[int] = (),
) -> AsyncIterator[Endpoint]:
    if path is None:
        with tempfile.TemporaryDirectory(prefix="bus1-", dir=os.environ.get("XDG_RUNTIME_DIR")) as folder:
            at = os.path.join(folder, _SOCKET)
            async with _opened(connection, name, at, method, signature, values, handles) as endpoint:
                yield endpoint
        return
    if not connection.granted:
        raise NotSupported("this bus grants nothing that opens endpoints")
    opener = Remote(connection, connection.granted[0])
    answer = await opener.call(_OPENS, method, signature, (name, path, *values), handles=handles)
    if answer.signature != "s" or not answer.handles or answer.handles[0] is None:
        raise RemoteProtocolError(f"{method} answers {answer.signature!r} and {len(answer.handles)} handles")
    handle: Handle = answer.handles[0]
    variable = "BUS1_ADDRESS" if method == "OpenNative" else "DBUS_SESSION_BUS_ADDRESS"
    try:
        yield Endpoint(Remote(connection, handle), name, answer.values[0], variable)
    finally:
        with anyio.CancelScope(shield=True), suppress(Disconnected):
            # the address must lead nowhere when the block is over; who has closed it is told NodeDestroyed
            await Remote(connection, handle).call(_OPENED, "Close")
        handle.release()
