"""twin_natives: the native peers of a script, on one of the two buses.

Steps: ``native("n")`` opens one; ``publish("n", names, paths)``; ``withdraw("n", names)``; ``subscribe("n",
to, path)``; ``ncall("n", to, path, member, signature, args, fds=, flags=)``; ``nanswer("n", i, signature,
args)`` and ``nfail("n", i)`` the i-th latest call; ``drop("n", i)`` its reply handle; ``nsignal("n", path,
member, signature, args)``; ``leave("n")``.

Theory. Requests of a peer are answered when they have happened, so nothing needs to be waited for. What a
peer gets is kept as it came: type, node, handles, files, bytes.

Not here: the order of things (twin_stage).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bus1_bridge import wire
from bus1_services import call, seed
from bus1_services.call import Envelope, Kind
from bus1_services.seed import SeedDocument
from twin_script import Term

from bus1.core.api import HANDLE_INVALID, MessageType
from bus1.errors import Bus1Error, RemoteProtocolError, WouldBlock
from bus1.peer import Peer
from bus1.received import ReceivedMessage

REGISTRY = "org.bus1.Registry1"
SIGNALS = "org.bus1.Signals1"
_FIRST_NODE = 1 << 20


@dataclass
class Native:
    """One peer, and what it knows."""

    peer: Peer
    got: list[Any]
    folder: str
    """What is left out of the texts of errors: it is the bus's own."""
    unique: str = ""
    emitter: int = HANDLE_INVALID
    nodes: dict[str, int] = field(default_factory=dict)
    """Its objects by path."""
    calls: list[tuple[Envelope, int]] = field(default_factory=list)
    """Calls that have come, each with its reply handle, the latest last."""
    last_node: int = _FIRST_NODE

    def new_node(self) -> int:
        """An id that was not used."""
        self.last_node += 4
        return self.last_node

    def attempt(self, action: Callable[[], Any]) -> Any:
        """What comes of it, or None; an error of the contract is something that it gets."""
        try:
            result = action()
        except Bus1Error as error:
            self._note(error)
            return None
        self.got.append(result)
        return result

    def say(
        self, handles: Sequence[int], envelope: Envelope, body: bytes, with_handles: Sequence[int] = (),
        fds: Sequence[int] = (),
    ) -> None:
        """One message."""
        payload = call.encode(envelope) + body
        self.attempt(lambda: self.peer.send(handles, payload, with_handles, fds))

    def read(self) -> ReceivedMessage | None:
        """The next message, noted."""
        try:
            message = self.peer.recv()
        except WouldBlock:
            return None
        except Bus1Error as error:
            self._note(error)
            return None
        data, files = bytes(message.payload), tuple(os.fstat(fd).st_ino for fd in message.fds)
        self.got.append((message.type, message.destination, message.handles, files, data))
        if message.type is MessageType.DATA:
            self._learn(message, data)
        return message

    def _note(self, error: Bus1Error) -> None:
        self.got.append((type(error).__name__, str(error).replace(self.folder, "")))

    def _learn(self, message: ReceivedMessage, data: bytes) -> None:
        try:
            envelope, _ = call.decode(data)
        except RemoteProtocolError:
            return
        if envelope.expects_reply and message.handles:
            self.calls.append((envelope, message.handles[0]))

    def ask(self, handle: int, interface: str, member: str, signature: str, body: bytes,
            handles: Sequence[int] = ()) -> tuple[tuple[Any, ...], tuple[int, ...]] | None:
        """A call that the bus answers at once: values and handles of the answer, None for an error."""
        reply = self.new_node()
        envelope = Envelope(Kind.CALL, 0, "l", 0, interface, member, signature, (), len(body))
        self.say((handle,), envelope, body, (reply, *handles))
        while (message := self.read()) is not None:
            if message.type is MessageType.DATA and message.destination == reply:
                answer, offset = call.decode(self.got[-1][4])
                message.release()
                self.attempt(lambda: self.peer.destroy([reply]))
                if answer.kind is not Kind.RETURN:
                    return None
                body_of = self.got[-2][4][offset:]
                return wire.unmarshal(answer.signature, body_of, answer.endian), message.handles
            message.release()
        return None


class Natives:
    """All of them."""

    def __init__(
        self, address: str, file: Callable[[int], int], name_of: Callable[[str], str]
    ) -> None:
        self._address = address
        self._file = file
        self._name_of = name_of
        self._peers: dict[str, Native] = {}
        self.got: dict[str, list[Any]] = {}
        """What each has got, and what came of what it did."""
        self._names: dict[str, str] = {}

    def begin(self) -> None:
        """Nobody is there."""
        self.end()
        self.got, self._names = {}, {}

    def end(self) -> None:
        """Everybody leaves."""
        for name in list(self._peers):
            self._leave(name)

    def abandon(self) -> None:
        """Everybody closes, whether or not the bus is there."""
        for native in self._peers.values():
            native.peer.close()
        self._peers.clear()

    def name_of(self, name: str) -> str:
        """The unique name, once it has published something; of those who are gone, too."""
        return self._names.get(name, "")

    def read(self) -> None:
        """Everybody reads all there is."""
        for native in self._peers.values():
            while (message := native.read()) is not None:
                message.release()

    def play(self, step: Term) -> None:
        """One step."""
        if step.word == "native":
            self._native(*step.values)
        elif step.values[0] in self._peers:
            action: dict[str, Callable[..., None]] = {
                "publish": self._publish, "withdraw": self._withdraw, "subscribe": self._subscribe,
                "ncall": self._ncall, "nanswer": self._nanswer, "nfail": self._nfail, "drop": self._drop,
                "nsignal": self._nsignal, "leave": self._leave,
            }
            action[step.word](*step.values, **step.named)

    # ---- steps -----------------------------------------------------------------------------------

    def _native(self, name: str) -> None:
        if name not in self._peers:
            peer, folder = Peer.connect(self._address), os.path.dirname(self._address)
            self._peers[name] = Native(peer, self.got.setdefault(name, []), folder)

    def _leave(self, name: str) -> None:
        peer = self._peers.pop(name).peer
        peer.disconnect()
        peer.close()

    def _publish(self, name: str, names: Sequence[str], paths: Sequence[str]) -> None:
        native = self._peers[name]
        native.nodes = {path: native.nodes.get(path) or native.new_node() for path in paths}
        wanted, objects = tuple((each, 0) for each in names), tuple((path, "") for path in paths)
        body = seed.encode(SeedDocument("t", wanted, objects))
        answer = native.ask(
            native.peer.granted[0], REGISTRY, "Publish", seed.SIGNATURE, body, (0, *native.nodes.values())
        )
        if answer is not None:
            self._names[name] = native.unique = str(answer[0][0])
            native.emitter = answer[1][0]

    def _withdraw(self, name: str, names: Sequence[str]) -> None:
        native = self._peers[name]
        native.ask(native.peer.granted[0], REGISTRY, "Withdraw", "as", wire.marshal("as", list(names)))

    def _object(self, native: Native, to: str, path: str) -> int | None:
        """A handle to somebody's object."""
        to = self._name_of(to[1:]) or ":1.999999" if to.startswith("@") else to
        registry = native.peer.granted[0]
        found = native.ask(registry, REGISTRY, "Resolve", "s", wire.marshal("s", to))
        if found is None or not found[1]:
            return None
        derived = native.ask(registry, REGISTRY, "Derive", "o", wire.marshal("o", path), found[1][:1])
        native.attempt(lambda: native.peer.release(found[1][0]))
        return None if derived is None else derived[1][0]

    def _subscribe(self, name: str, to: str, path: str) -> None:
        native = self._peers[name]
        handle = self._object(native, to, path)
        if handle is not None:
            native.ask(handle, SIGNALS, "Subscribe", "ss", wire.marshal("ss", "", ""), (native.new_node(),))

    def _ncall(
        self, name: str, to: str, path: str, member: str, signature: str = "", args: Sequence[Any] = (),
        fds: Sequence[int] = (), flags: int = 0,
    ) -> None:
        native = self._peers[name]
        handle = self._object(native, to, path)
        if handle is None:
            return
        body = wire.marshal(signature, *args)
        envelope = Envelope(Kind.CALL, flags, "l", 7, "t.I", member, signature, (), len(body))
        native.say(
            (handle,), envelope, body, () if flags & 1 else (native.new_node(),), [self._file(n) for n in fds]
        )
        native.attempt(lambda: native.peer.release(handle))

    def _reply(self, name: str, n: int) -> tuple[Native, Envelope, int] | None:
        native = self._peers[name]
        if not native.calls:
            return None
        return native, *native.calls.pop(-1 - n % len(native.calls))

    def _nanswer(self, name: str, n: int, signature: str = "", args: Sequence[Any] = ()) -> None:
        self._finish(name, n, Kind.RETURN, "", signature, args)

    def _nfail(self, name: str, n: int) -> None:
        self._finish(name, n, Kind.ERROR, "t.Error", "", ())

    def _finish(
        self, name: str, n: int, kind: Kind, error: str, signature: str, args: Sequence[Any]
    ) -> None:
        if (found := self._reply(name, n)) is not None:
            native, asked, handle = found
            body = wire.marshal(signature, *args)
            envelope = Envelope(kind, 0, "l", asked.serial, "", error, signature, (), len(body))
            native.say((handle,), envelope, body)
            native.attempt(lambda: native.peer.release(handle))

    def _drop(self, name: str, n: int) -> None:
        if (found := self._reply(name, n)) is not None:
            found[0].attempt(lambda: found[0].peer.release(found[2]))

    def _nsignal(
        self, name: str, path: str, member: str, signature: str = "", args: Sequence[Any] = ()
    ) -> None:
        native = self._peers[name]
        body = wire.marshal(signature, *args)
        envelope = Envelope(Kind.SIGNAL, 0, "l", 0, "t.I", member, signature, (), len(body))
        node = native.nodes.get(path, 0)
        native.say((native.emitter,), envelope, body, (node,))
