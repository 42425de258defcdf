"""callers: who has called objects of a program, and waits for an answer.

Theory. The libraries answer a call by its serial, later, or never. Natively an answer goes to the reply node
that came with the call, so calls get serials of this connection's own, and their reply handles are kept
under these. Natively a caller need not have a name; the libraries' programs expect one. It is made of what
the kernel attests, ``:0.UID.PID``. What the kernel attests is also the answer to questions about a sender.

Invariants. 1. A reply handle is released, and a place given back, when its call is answered, or its caller
is gone. 2. At most ``MAX_REFUSED`` calls are being refused; the rest is dropped. 3. At most ``MAX_KNOWN``
senders are remembered.

Not here: what is answered (the library), sending it (``bus``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ..caller import Caller
from ..export import Export
from ..handle import Arrival, Handle

MAX_REFUSED = 256
MAX_KNOWN = 4096
_U32 = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class OpenCall:
    """Where an answer goes: ``serial`` is the caller's own; ``caller`` has a place, unless it is refused."""

    serial: int
    reply: Handle
    export: Export
    caller: Caller | None = None

    def end(self) -> None:
        """Give back its place; nobody needs to be told of its caller's end any more."""
        self.export.connection.forgo(self.reply.id, self.export)
        if self.caller is not None:
            self.export.connection.places.leave(self.caller)


@dataclass(frozen=True, slots=True)
class Sender:
    """The process behind a made-up name."""

    uid: int
    pid: int

    @property
    def name(self) -> str:
        """What its calls come from."""
        return f":0.{self.uid}.{self.pid}"


class Callers:
    """The open calls of one connection, by the serials that the program knows."""

    def __init__(self) -> None:
        self._open: dict[int, OpenCall] = {}
        self._known: OrderedDict[str, Sender] = OrderedDict()
        self._serial = 0

    def sender_of(self, arrival: Arrival) -> str:
        """The name of whoever sent this."""
        sender = Sender(arrival.uid, arrival.pid)
        self._remember(sender.name, sender)
        return sender.name

    def rename(self, made_up: str, name: str) -> None:
        """The caller with a made-up name has another one on the bus."""
        sender = self._known.get(made_up)
        if sender is not None:
            self._remember(name, sender)

    def _remember(self, name: str, sender: Sender) -> None:
        self._known[name] = sender
        self._known.move_to_end(name)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def known(self, name: str) -> Sender | None:
        """The process whose name this is, if it called lately."""
        return self._known.get(name)

    def next_serial(self) -> int:
        """A serial that no open call has."""
        while True:
            self._serial = self._serial % _U32 + 1
            if self._serial not in self._open:
                return self._serial

    def opened(self, serial: int, call: OpenCall) -> None:
        """A call with this serial expects an answer; LimitsExceeded."""
        if call.caller is not None:
            call.export.connection.places.take(call.caller)
        self._open[serial] = call
        call.export.connection.mourn(call.reply.id, call.export)

    def refused(self, serial: int, call: OpenCall) -> bool:
        """A call for which there is no place is to be told so; False if too many are."""
        if sum(call.caller is None for call in self._open.values()) >= MAX_REFUSED:
            return False
        self.opened(serial, call)
        return True

    def expected(self, serial: int) -> OpenCall | None:
        """The call that an answer is for; None if nobody waits for it."""
        return self._open.get(serial)

    def answered(self, serial: int) -> OpenCall | None:
        """The call that an answer is for, open no longer; None if nobody waits for it."""
        call = self._open.pop(serial, None)
        if call is not None:
            call.end()
        return call

    def waiting(self, export: Export) -> bool:
        """A caller waits for an answer of this object."""
        return any(call.export is export for call in self._open.values())

    def bereaved(self, handle: int) -> None:
        """The caller behind a reply handle is gone: nobody waits."""
        self._drop(lambda call: call.reply.id == handle)

    def left(self, export: Export) -> None:
        """An object is gone, and so are its calls."""
        self._drop(lambda call: call.export is export)

    def _drop(self, is_meant: Callable[[OpenCall], bool]) -> None:
        for serial in [serial for serial, call in self._open.items() if is_meant(call)]:
            call = self.answered(serial)
            if call is not None:
                call.reply.release()
