"""A bus without sockets, processes or a clock: the router on Core, and D-Bus clients as plain bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bus1_bridge import codec, wire
from bus1_bridge.gateway import Gateway
from bus1_bridge.names import NameTable
from bus1_bridge.switch.api import Answer
from bus1_bridge.switch.choice import MatchIndex, ReplyTable
from bus1_bridge.switch.delivery import Delivery
from bus1_bridge.switch.effects import (
    Close,
    CloseDescriptors,
    Effect,
    Found,
    ListServices,
    LookUp,
    Question,
    Refusal,
    Reload,
)
from bus1_bridge.switch.flow import user_limits
from bus1_bridge.switch.limits import BusLimits
from bus1_bridge.switch.router import Router
from bus1_bridge.switch.tables import Tables
from core_bus import Core

from bus1.core.api import Buffer, Credentials

UID = 1000
GUID = "0123456789abcdef" * 2
DRIVER = "org.freedesktop.DBus"
DRIVER_PATH = "/org/freedesktop/DBus"
ERROR = "org.freedesktop.DBus.Error."
CALL, RETURN, FAULT, SIGNAL = 1, 2, 3, 4
NO_REPLY_EXPECTED, NO_AUTO_START = 1, 2
_QUEUED = {"broadcast", "call", "signal", "reply", "copy", "bus"}
SIGN_IN = b"\0AUTH EXTERNAL " + str(UID).encode().hex().encode() + b"\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n"


def message(
    type: int, serial: int, signature: str = "", *values: Any, body: bytes | None = None, **fields: Any
) -> bytes:
    """One whole message; ``body`` instead of values is taken as it is."""
    content = wire.marshal(signature, *values) if body is None else body
    return codec.build(type, serial=serial, signature=signature, body_length=len(content), **fields) + content


@dataclass(slots=True)
class Got:
    """One message as a client sees it."""

    type: int
    serial: int
    sender: str | None
    destination: str | None
    path: str | None
    interface: str | None
    member: str | None
    error: str | None
    reply_serial: int
    flags: int
    signature: str
    size: int
    fds: tuple[int, ...]
    endian: str
    body: bytes

    @property
    def args(self) -> tuple[Any, ...]:
        return wire.unmarshal(self.signature, self.body, self.endian)


def read_message(data: Buffer, fds: tuple[int, ...] = ()) -> Got:
    header = codec.parse(data)
    return Got(
        header.type, header.serial, header.sender, header.destination, header.path, header.interface,
        header.member, header.error_name, header.reply_serial, header.flags, header.signature, len(data), fds,
        header.endian, bytes(data[header.header_length :]) if len(data) <= 1 << 16 else b"",
    )


def resume(router: Router, now: float) -> None:
    """One turn, in which everybody is served that can go on."""
    router.tend(now)
    for connection in router.busy():
        router.go_on(connection, now)


class PureSwitch:
    """One session bus; time is ``now``, and passes when the test says so."""

    def __init__(self, limits: BusLimits | None = None) -> None:
        self.limits = limits or BusLimits()
        self.core = Core()
        self.core.set_user_limits(UID, user_limits(self.limits))
        self.tables = Tables(
            self.core, self.core.peer_new(UID), GUID, "b" * 32, Credentials(UID, UID, 1), NameTable(),
            MatchIndex(), ReplyTable(), machine_id="c" * 32,
        )
        self.delivery = Delivery(self.tables, self.limits)
        self.gateway = Gateway(self.delivery, lambda fds: None)
        self.router = Router(self.delivery, self.gateway)
        self.now = 0.0
        self.effects: list[Effect] = []
        self.services: dict[str, str] = {}
        """Names that can be started, and their commands."""
        self.units: dict[str, str] = {}
        """What systemd knows some of them as."""
        self.complaint: str | None = None
        """What is wrong with the configuration when it is read again."""
        self.is_asleep = False
        """The control plane answers no question by itself."""
        self.closed_fds: list[int] = []
        self.settle()
        self._at_first = self.charges()

    def connect(self, uid: int = UID, **about: Any) -> int:
        """A connection that has said nothing yet."""
        return self.router.connect(Credentials(uid, uid, 77), self.now, **about)

    def client(self, *, hello: bool = True) -> Client:
        """A client that is signed in; with its name unless ``hello`` is false."""
        client = Client(self, self.connect())
        client.say(SIGN_IN)
        assert client.raw().startswith(b"OK ")
        if hello:
            client.name = client.call("Hello").args[0]
            assert client.take().member == "NameAcquired"
        return client

    def pass_time(self, seconds: float) -> None:
        """Time passes, then the bus has a turn."""
        self.now += seconds
        self.turn()

    def turn(self) -> None:
        """One turn of the bus."""
        resume(self.router, self.now)
        self.settle()

    def turns(self) -> None:
        """Turns until nothing is left to do at once."""
        self.turn()
        while (due := self.router.next_deadline()) is not None and due <= self.now:
            self.turn()

    def settle(self) -> None:
        """What the edge does after each command."""
        self.gateway.settle()
        self.core.take_woken()
        self.core.take_retired()
        self.closed_fds += self.core.take_freed_fds()
        for effect in self.router.take_effects():
            if isinstance(effect, CloseDescriptors):
                self.closed_fds += effect.fds
            elif isinstance(effect, (LookUp, ListServices, Reload)) and not self.is_asleep:
                self.answer(effect)
            else:
                self.effects.append(effect)

    def answer(self, question: Question) -> None:
        """What the control plane does with a question: at once, unless it is asleep."""
        answer: object = self.complaint
        if isinstance(question, LookUp):
            command = self.services.get(question.name)
            answer = None if command is None else Found(command, self.units.get(question.name))
        elif isinstance(question, ListServices):
            answer = tuple(self.services)
        self.router.activation.carry_out(Answer(question.asker, answer))
        self.turn()

    def close_reason(self, connection: int) -> str | None:
        """Why the bus closed the connection; None if it is open."""
        reasons = [e.reason for e in self.effects if isinstance(e, Close) and e.connection == connection]
        return reasons[0] if reasons else None

    def refused(self) -> dict[tuple[str, str, str], int]:
        """Messages that were not delivered: (sender, reader, kind) -> how many."""
        counts: dict[tuple[str, str, str], int] = {}
        for effect in self.effects:
            if isinstance(effect, Refusal) and effect.kind in _QUEUED:
                key = (effect.sender or DRIVER, effect.receiver, effect.kind)
                counts[key] = counts.get(key, 0) + effect.times
        return counts

    def charges(self) -> dict[str, int]:
        """What Core has charged to the one user."""
        return dict(self.core.snapshot()["users"][UID]["used"])

    def end(self) -> None:
        """Everybody goes: nothing may be left."""
        for connection in list(self.tables.parties):
            self.router.disconnect(connection, self.now)
        self.settle()
        assert self.charges() == self._at_first
        assert not self.tables.parties
        assert not self.tables.unique
        due = self.router.next_deadline()
        assert due is None or due > self.now
        assert not self.delivery.flow.pauses


@dataclass(slots=True, eq=False)
class Client:
    """One D-Bus client that speaks in bytes."""

    bus: PureSwitch
    connection: int
    name: str = ""
    serial: int = 0
    inbox: list[Got] = field(default_factory=list)

    def next_serial(self) -> int:
        self.serial += 1
        return self.serial

    def say(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Bytes of one recvmsg."""
        self.bus.router.receive(self.connection, data, fds, self.bus.now)
        self.bus.settle()

    def send(
        self, type: int, signature: str = "", *values: Any, fds: Sequence[int] = (), **fields: Any
    ) -> int:
        """One message; returns its serial."""
        serial = fields.pop("serial", 0) or self.next_serial()
        self.say(message(type, serial, signature, *values, unix_fds=len(fds), **fields), fds)
        return serial

    def ask(
        self, to: str, member: str = "Do", signature: str = "", *values: Any, flags: int = 0, **fields: Any
    ) -> int:
        """A call to another client."""
        fields = {"path": "/x", "interface": "a.b.C"} | fields
        return self.send(CALL, signature, *values, destination=to, member=member, flags=flags, **fields)

    def answer(self, got: Got, signature: str = "", *values: Any, **fields: Any) -> int:
        """The reply to a call."""
        return self.send(
            RETURN, signature, *values, destination=got.sender, reply_serial=got.serial, **fields
        )

    def emit(self, member: str = "Changed", signature: str = "", *values: Any, **fields: Any) -> int:
        """A signal."""
        fields = {"path": "/x", "interface": "a.b.C"} | fields
        return self.send(SIGNAL, signature, *values, member=member, **fields)

    def call(self, member: str, signature: str = "", *values: Any, **fields: Any) -> Got:
        """A call to the driver and its answer, which must be the next reply."""
        fields = {"path": DRIVER_PATH, "interface": DRIVER, "destination": DRIVER} | fields
        serial = self.send(CALL, signature, *values, member=member, **fields)
        self.read()
        for i, got in enumerate(self.inbox):
            if got.reply_serial == serial:
                return self.inbox.pop(i)
        raise AssertionError(f"no answer to {member}: {self.inbox}")

    def fault(self, member: str, signature: str = "", *values: Any, **fields: Any) -> str:
        """The error of a call to the driver, without the usual beginning."""
        got = self.call(member, signature, *values, **fields)
        assert got.type == FAULT, got
        assert got.error is not None
        return got.error.removeprefix(ERROR)

    def raw(self) -> bytes:
        """All bytes that the bus has for this client."""
        out = b""
        while items := self.bus.router.outgoing(self.connection, 1 << 20):
            data = b"".join(bytes(part) for parts, _ in items for part in parts)
            out += data
            self.bus.router.sent(self.connection, len(data), self.bus.now)
            self.bus.settle()
        return out

    def read(self, limit: int = 1 << 62, *, keep: Callable[[Got], bool] | None = None) -> int:
        """Read whole messages of about ``limit`` bytes into the inbox; returns how many."""
        count = 0
        while limit > 0 and (items := self.bus.router.outgoing(self.connection, min(limit, 1 << 20))):
            size = 0
            for parts, fds in items:
                got = read_message(parts[0] if len(parts) == 1 else _joined(parts), fds)
                got.size = sum(map(len, parts))
                size += got.size
                count += 1
                if keep is None or keep(got):
                    self.inbox.append(got)
            self.bus.router.sent(self.connection, size, self.bus.now)
            self.bus.settle()
            limit -= size
        return count

    def take(self) -> Got:
        """The next message; there must be one."""
        if not self.inbox:
            self.read()
        return self.inbox.pop(0)

    def take_all(self) -> list[Got]:
        """Everything that is there."""
        self.read()
        inbox, self.inbox = self.inbox, []
        return inbox

    def leave(self) -> None:
        """The client's socket is gone."""
        self.bus.router.disconnect(self.connection, self.bus.now)
        self.bus.settle()


def _joined(parts: Sequence[Buffer]) -> Buffer:
    # a large body stays where it is: the header is enough to read the message by
    return parts[0] if len(parts[1]) > 1 << 16 else b"".join(parts)
