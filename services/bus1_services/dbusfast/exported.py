"""exported: an object path of a library's program, as a node.

Theory. A ``ForeignObject`` is published, handed out and held like any object. Where it is exported stands
a ``ForeignExport``: a call that arrives there becomes a message of the library, and the library's own
code decides about it, properties, introspection and ObjectManager included. Subscriptions of native
clients alone are answered here.

Not here: messages (``messages``), the connection of the program (``bus``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..call import Envelope, Kind
from ..export import Export
from ..handle import Arrival
from ..interface import Interface
from ..proxy import SIGNALS

if TYPE_CHECKING:
    from ..connection import Connection


class Hall(Protocol):
    """What stands behind the objects of one program."""

    def entered(self, export: ForeignExport) -> None:
        """An object has a node now."""

    def called(self, export: ForeignExport, arrival: Arrival) -> None:
        """A call has arrived for an object."""

    def waiting(self, export: ForeignExport) -> bool:
        """A caller waits for an answer of this object."""

    def bereaved(self, handle: int) -> None:
        """A caller is gone."""

    def left(self, export: ForeignExport) -> None:
        """An object has no node any more."""

    def interfaces_xml(self, path: str) -> str:
        """The ``<interface>`` elements of an object."""


class ForeignExport(Export):
    """One object path of a program on one connection."""

    def __init__(self, connection: Connection, target: ForeignObject) -> None:
        self.path = target.path
        self._hall = target.hall(connection)
        super().__init__(connection, target)
        self._hall.entered(self)

    @property
    def is_quiet(self) -> bool:
        """Nobody waits for an answer of this object."""
        return super().is_quiet and not self._hall.waiting(self)

    def arrived(self, arrival: Arrival) -> None:
        """A call is the library's business, unless it is a subscription."""
        if arrival.envelope.kind is not Kind.CALL:
            arrival.discard()
        elif arrival.envelope.interface == SIGNALS:
            super().arrived(arrival)
        else:
            self._hall.called(self, arrival)

    def bereaved(self, handle: int) -> None:
        """A subscriber, or a caller, is gone."""
        super().bereaved(handle)
        self._hall.bereaved(handle)

    def interfaces_xml(self) -> str:
        """The interfaces of this path, for the seed document."""
        return self._hall.interfaces_xml(self.path)

    async def emit_body(self, envelope: Envelope, body: bytes, fds: Sequence[int]) -> None:
        """Send a signal that the library has marshalled to all who want it."""
        wanting = {s.handle.id for s in self._subscribers if s.wants(envelope.interface, envelope.member)}
        emitter = [] if self.emitter is None else [self.emitter.id]
        if emitter or wanting:
            await self.connection.forward(
                emitter, envelope, body, handles=[self.node], fds=fds, optional=sorted(wanting)
            )

    def _leave(self) -> None:
        super()._leave()
        self._hall.left(self)


class ForeignObject(Interface):
    """An object path of a program: ``hall`` is asked where it is exported for what stands behind it."""

    __exporter__: ClassVar[Any] = ForeignExport

    def __init__(self, path: str) -> None:
        self.path = path

    def hall(self, connection: Connection) -> Hall:
        """Who serves this object on ``connection``."""
        raise NotImplementedError
