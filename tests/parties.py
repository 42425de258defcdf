"""parties: the programs that the main-job tests start, each a process of its own.

``python parties.py ROLE ARGUMENT…``, with the bus in the environment. A party prints ``ready`` when others
may count on it, and then what happens to it, a line each.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import anyio
from bus1_services import Interface, Service, UnixFd, connect, method, seed, signal
from bus1_services import call as envelopes
from bus1_services.hints import UInt32
from bus1_services.proxy import SignalStream
from dbus_client import CALL, SIGNAL, Client

from bus1.core.api import HANDLE_INVALID, MessageType, SendFlag
from bus1.peer import Peer
from bus1.received import ReceivedMessage

PATH = "/org/example/Party"
INTERFACE = "org.example.Party1"


def tell(*words: object) -> None:
    print(*words, flush=True)


class Session(Interface, name="org.example.Session1"):
    """An object for one client."""

    @method
    def ping(self) -> str:
        return "pong"

    def unreferenced(self) -> None:
        tell("session released")


class Party(Interface, name=INTERFACE):
    """What the tests need somebody to do."""

    @method
    async def burst(self, count: UInt32) -> None:
        """Emit ``count`` signals."""
        for number in range(count):
            await self.tick(number)

    @method
    async def hang(self) -> None:
        """Never answer."""
        tell("hanging")
        await anyio.sleep_forever()

    @method
    def open(self) -> Session:
        """A session for the caller."""
        return Session()

    @method
    def pass_on(self, fd: UnixFd) -> UnixFd:
        """Write a word into a pipe, and return the descriptor that was given."""
        os.write(fd.fileno(), b"through")
        return fd

    @signal
    def tick(self, number: UInt32) -> None:
        """One of a burst."""


def native_service(name: str) -> None:
    """Party under ``name``, knowing nothing of D-Bus."""

    async def main(connection: object) -> None:
        tell("ready")
        await anyio.sleep_forever()

    Service("a party of the tests", name, objects={PATH: Party()}).run(main)


def native_echo(name: str) -> None:
    """Answer every call with its own body, byte for byte, from a bare peer."""
    with Peer.connect() as peer:
        registry = peer.granted[0]
        root, node, reply = 0x100, 0x104, 0x108
        document = seed.encode(seed.SeedDocument("echo", ((name, 4),), ((PATH, ""),)))
        peer.send([], [document], [root, node], flags=SendFlag.SEED)
        publish = envelopes.Envelope(
            envelopes.Kind.CALL, 0, "l", 1, "org.bus1.Registry1", "Publish", seed.SIGNATURE, (), len(document)
        )
        peer.send([registry], [envelopes.encode(publish), document], [reply, root, node])
        while True:
            with peer.recv(wait=True) as message:
                if message.type is MessageType.DATA and message.destination == reply:
                    assert envelopes.decode(message.payload)[0].kind == envelopes.Kind.RETURN
                    tell("ready")
                elif message.type is MessageType.DATA:
                    echo(peer, message)


def echo(peer: Peer, message: ReceivedMessage) -> None:
    """The answer to one call."""
    call, start = envelopes.decode(message.payload)
    answer = envelopes.Envelope(
        envelopes.Kind.RETURN, 0, call.endian, call.serial, "", "", call.signature, (), call.body_length
    )
    with message.payload[start : start + call.body_length] as body:
        peer.send([message.handles[0]], [envelopes.encode(answer), body], [], list(message.fds))
    for handle in message.handles:
        if handle != HANDLE_INVALID:
            peer.release(handle)


def native_listener(count: str, *names: str) -> None:
    """Print what several services signal, in the order in which it arrives."""

    async def main() -> None:
        async with connect() as connection, SignalStream(connection, capacity=int(count) * 2) as stream:
            objects = {}
            for name in names:
                owner = await connection.registry.resolve(name)
                objects[name] = await connection.registry.derive(owner.root, PATH)
                await stream.add(objects[name], INTERFACE, "Tick")
            labels = {handle.id: name for name, handle in objects.items()}
            tell("ready")
            for _ in range(int(count)):
                received = await anext(stream)
                source = received.source
                tell(labels[source.id] if source else "?", received.values[0])

    anyio.run(main)


def native_caller(name: str) -> None:
    """Call a service through the registry, with a descriptor, and report what it did with it."""

    async def main() -> None:
        async with connect() as connection:
            party = await connection.registry.proxy(Party, name, PATH)
            reader, writer = os.pipe()
            with UnixFd(writer) as given:
                back = await party.pass_on(given)
            tell("heard", os.read(reader, 100).decode())
            os.write(back.fileno(), b"again")
            tell("heard", os.read(reader, 100).decode())
            back.close()
            os.close(reader)

    anyio.run(main)


def legacy_service(name: str) -> None:
    """The same party on D-Bus, on a socket and bytes."""
    with Client(os.environ["BUS_PATH"]) as client:
        assert client.own(name) == 1
        tell("ready")
        while True:
            call = client.receive()
            if call.type != CALL:
                continue
            match call.member:
                case "Burst":
                    for number in range(call.args[0]):
                        client.emit("Tick", "u", number, path=PATH, interface=INTERFACE)
                    client.answer(call)
                case "PassOn":
                    os.write(call.fds[0], b"through")
                    client.answer(call, "h", 0, fds=call.fds)
                    os.close(call.fds.pop())
                case "Hang":
                    tell("hanging")
                case _:
                    client.answer(call, call.signature, *call.args, endian=call.endian)


def legacy_listener(count: str, *names: str) -> None:
    """As the native listener, on D-Bus."""
    with Client(os.environ["BUS_PATH"]) as client:
        owners = {}
        for name in names:
            client.match(f"type='signal',sender='{name}',interface='{INTERFACE}',member='Tick'")
            owners[client.ask("GetNameOwner", "s", name)[0]] = name
        tell("ready")
        left = int(count)
        while left:
            got = client.receive()
            if got.type == SIGNAL and got.member == "Tick":
                tell(owners[got.sender], got.args[0])
                left -= 1


def legacy_holder(name: str) -> None:
    """Take a capability, show its path, and keep it until killed."""
    with Client(os.environ["BUS_PATH"]) as client:
        path = client.request(name, "Open", path=PATH, interface=INTERFACE).args[0]
        assert client.request(name, "Ping", path=path, interface="org.example.Session1").args == ["pong"]
        tell("ready", path)
        client.receive()


ROLES: dict[str, Callable[..., None]] = {
    role.__name__: role
    for role in (
        native_service, native_echo, native_listener, native_caller,
        legacy_service, legacy_listener, legacy_holder,
    )
}

if __name__ == "__main__":
    ROLES[sys.argv[1]](*sys.argv[2:])
