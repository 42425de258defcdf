"""relay: signals of an object elsewhere, for those who hold a view of it here.

Theory. While a view with signals, or with properties that tell of changes, is exported, a stream receives all
that the object emits, and hands it to the gate as if the object were here. Who hears nothing any more must
learn it: if the stream ends, because the object is gone or its signals came too fast, so does the view.
An object that has no signals to subscribe to has a view without them.

Not here: which of them pass (``gate``).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anyio

from bus1.errors import Bus1Error

from ..body import Variant
from ..errors import DBusError, InvalidArgs, UnknownInterface, UnknownMethod
from ..members import PropertySpec, SignalSpec
from ..proxy import PROPERTIES, ReceivedSignal, Remote, SignalStream

if TYPE_CHECKING:
    from .gate import Gate

log = logging.getLogger("bus1.services")


class Relay:
    """One stream for one gate, from ``start`` to ``stop``."""

    def __init__(self, gate: Gate[Any], remote: Remote) -> None:
        self._gate = gate
        self._remote = remote
        self._scope = anyio.CancelScope()
        specs = [(table.name, spec) for table in gate.specs for spec in table.members.values()]
        self._signals = {
            (of, spec.name, spec.signature): spec for of, spec in specs if isinstance(spec, SignalSpec)
        }
        self._properties = {(of, spec.name): spec for of, spec in specs if isinstance(spec, PropertySpec)}

    def start(self) -> None:
        """Receive, as a task of the connection that holds the object."""
        self._remote.connection.start(self._run)

    def stop(self) -> None:
        """Receive no more."""
        self._scope.cancel()

    async def _run(self) -> None:
        with self._scope:
            try:
                async with SignalStream(self._remote.connection) as stream:
                    await stream.add(self._remote.handle)
                    async for received in stream:
                        await self._pass(received)
            except (UnknownInterface, UnknownMethod) as error:
                log.debug("an object that is viewed has no signals: %s", error)
            except (Bus1Error, DBusError) as error:
                log.info("a view ends with its signals: %s", error)
                self._gate.end()

    async def _pass(self, received: ReceivedSignal) -> None:
        if received.interface == PROPERTIES:
            if received.member == "PropertiesChanged" and received.signature == "sa{sv}as":
                await self._changed(*received.values)
            return
        spec = self._signals.get((received.interface, received.member, received.signature))
        if spec is not None:
            try:
                values = tuple(spec.row.read(received.values, self._remote.adopt))
            except InvalidArgs as error:
                log.warning("a view keeps back %s: %s", spec.name, error)
                return
            await self._gate.emit(received.interface, spec, values)

    async def _changed(self, interface: str, changed: dict[str, Variant], invalidated: list[str]) -> None:
        changes: list[tuple[PropertySpec, Any]] = []
        for name in dict.fromkeys((*changed, *invalidated)):
            spec = self._properties.get((interface, name))
            if spec is None:
                continue
            value = None
            if spec.emits == "true":
                told = changed.get(name) or await self._asked(interface, name)
                if told is None or told.signature != spec.signature:
                    continue
                try:
                    value = spec.read(told.value, self._remote.adopt)
                except InvalidArgs as error:
                    log.warning("a view keeps back a change of %s: %s", name, error)
                    continue
            changes.append((spec, value))
        if changes:
            await self._gate.changed(interface, changes)

    async def _asked(self, interface: str, name: str) -> Variant | None:
        """The value of a property of which the object only said that it changed."""
        try:
            answer = await self._remote.call(PROPERTIES, "Get", "ss", (interface, name))
        except DBusError as error:
            log.debug("a change of %s is not told on: %s", name, error)
            return None
        value = answer.values[0] if answer.signature == "v" else None
        return value if isinstance(value, Variant) else None
