"""Random commands of hostile peers of both kinds: nothing but contract errors, and nothing is left behind."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from bus1_bridge import codec, wire
from bus1_bridge.switch.tables import LegacyParty, NativeParty
from bus1_services import seed
from bus1_services.call import Kind
from bus1_services.seed import SeedDocument
from mixed_bus import Legacy, MixedBus, Native, pack

from bus1.core.api import HANDLE_INVALID, MessageType
from bus1.errors import Bus1Error, InternalError

NAMES = ("org.example.A", "org.example.B")
PATHS = ("/a", "/a/b", "/org/bus1/cap/" + "1" * 32, "/org/bus1/cap/" + "2" * 32)
IFACE = "org.example.Thing"


class Actor:
    """One peer that does whatever the dice say, with whatever it has got hold of."""

    def __init__(self, dice: random.Random, bus: MixedBus, peer: Native | Legacy) -> None:
        self.dice = dice
        self.bus = bus
        self.peer = peer
        self.handles: list[int] = [peer.registry] if isinstance(peer, Native) else []
        self.seen: list[Any] = []
        """Calls that a legacy client has read."""

    def act(self, everybody: list[Actor]) -> None:
        if isinstance(self.peer, Native):
            action = self.dice.choice((
                self.send, self.send, self.send, self.receive, self.receive, self.publish, self.registry,
                self.release, self.destroy,
            ))
            action()
        elif self.dice.random() < 0.4:
            self.seen += [m for m in self.peer.receive() if m.header.type == wire.CALL]
        else:
            self.speak(everybody)

    # ---- native ----------------------------------------------------------------------------------

    def some(self, most: int) -> list[int]:
        pool = [*self.handles, 0, 4, 8, 64, 0xF3, HANDLE_INVALID]
        return [self.dice.choice(pool) for _ in range(self.dice.randint(0, most))]

    def payload(self) -> bytes:
        kind = self.dice.choice(list(Kind))
        named = kind in (Kind.CALL, Kind.SIGNAL)
        interface = self.dice.choice((IFACE, "org.bus1.Signals1", "org.bus1.Registry1")) if named else ""
        member = {
            Kind.RETURN: "", Kind.ERROR: "a.b", Kind.SIGNAL: "Tick",
            Kind.CALL: self.dice.choice(("Frob", "Subscribe", "List", "Resolve")),
        }[kind]
        signature, values, caps = self.dice.choice((
            ("", (), ()), ("ss", ("", ""), ()),
            ("o", (self.dice.choice(PATHS),), ((0, self.dice.randint(0, 2)),)),
            ("ao", (list(PATHS),), ((2, 0), (3, 1))), ("s", (self.dice.choice(NAMES),), ()),
        ))
        return pack(
            kind, interface, member, signature, *values, flags=self.dice.randint(0, 1),
            serial=self.dice.randint(0, 3), caps=caps,
        )

    def send(self) -> None:
        assert isinstance(self.peer, Native)
        payload = self.dice.choice((self.payload(), self.payload(), self.payload(), b"", b"\xb1\1"))
        self.peer.send(
            self.some(2), payload, self.some(3), flags=self.dice.choice((0, 0, 0, 1, 2)),
            optional=self.some(2),
        )

    def receive(self) -> None:
        assert isinstance(self.peer, Native)
        for message in self.peer.receive():
            self.handles += [handle for handle in message.handles if handle != HANDLE_INVALID]
            if message.type is MessageType.NODE_DESTROY:
                self.handles = [handle for handle in self.handles if handle != message.node]

    def publish(self) -> None:
        assert isinstance(self.peer, Native)
        objects = tuple((path, "") for path in PATHS[: self.dice.randint(0, 3)])
        document = SeedDocument("t", tuple((name, self.dice.randint(0, 7)) for name in NAMES), objects)
        nodes = (0, *(self.dice.choice((4, 8)) for _ in objects))
        self.peer.start_call(
            self.peer.registry, "", "Publish", seed.SIGNATURE, body=seed.encode(document), handles=nodes
        )

    def registry(self) -> None:
        assert isinstance(self.peer, Native)
        unique = self.dice.choice([*self.bus.tables.unique, *NAMES])
        member, signature, value = self.dice.choice((
            ("Resolve", "s", unique), ("Derive", "o", self.dice.choice(PATHS)), ("Watch", "s", ""),
            ("Withdraw", "as", list(NAMES)), ("Withdraw", "as", []),
        ))
        self.peer.start_call(self.peer.registry, "", member, signature, value, handles=self.some(1))

    def release(self) -> None:
        assert isinstance(self.peer, Native)
        if len(self.handles) > 1:
            handle = self.handles.pop(self.dice.randrange(1, len(self.handles)))
            self.peer.release(handle)

    def destroy(self) -> None:
        assert isinstance(self.peer, Native)
        self.peer.destroy(self.dice.choice((0, 4, 8, 64)))

    # ---- legacy ----------------------------------------------------------------------------------

    def speak(self, everybody: list[Actor]) -> None:
        assert isinstance(self.peer, Legacy)
        natives = [actor.peer.unique for actor in everybody if isinstance(actor.peer, Native)]
        names = [n for n in natives if n in self.bus.tables.unique] + [
            name for name in NAMES if self.bus.tables.names.owner(name) is not None
        ]
        path = self.dice.choice(PATHS)
        if self.seen and self.dice.random() < 0.5:
            call = self.seen.pop()
            if call.header.sender in names:
                self.peer.answer(call, "o", path)
        elif self.dice.random() < 0.3:
            self.peer.signal(path, IFACE, "Tick", "s", "x")
        elif names:
            member = self.dice.choice(("Frob", "Introspect", "Ping", "Release"))
            interface = "org.bus1.Capability1" if member == "Release" else None
            self.peer.call(
                self.dice.choice(names), path, interface, member, "" if member != "Frob" else "ao",
                *([list(PATHS)] if member == "Frob" else []), flags=self.dice.randint(0, 1),
            )


@pytest.mark.parametrize("seed_", range(6))
def test_random_commands_raise_contract_errors_alone_and_leave_nothing_behind(seed_: int) -> None:
    dice = random.Random(seed_)
    bus = MixedBus()
    actors = [Actor(dice, bus, bus.native() if n % 2 else bus.legacy()) for n in range(6)]
    for actor in actors:
        if isinstance(actor.peer, Legacy):
            actor.peer.match("type='signal'")
    refused = done = 0
    for _ in range(500):
        actor = dice.choice(actors)
        before = bus.core.snapshot() if dice.random() < 0.1 else None
        try:
            actor.act(actors)
            done += 1
        except InternalError:
            raise
        except Bus1Error:
            refused += 1
            assert before is None or bus.core.snapshot() == before
        if dice.random() < 0.01:
            actors.remove(actor)
            actor.peer.kill()
            actors.append(Actor(dice, bus, bus.native() if isinstance(actor.peer, Native) else bus.legacy()))
        check(bus)
    assert done > 50 and refused > 10
    bus.end()


def check(bus: MixedBus) -> None:
    """What holds between any two commands."""
    snapshot = bus.core.snapshot()
    kept = Counter(list(bus.tables.watchers))
    for native in bus.tables.parties.values():
        if isinstance(native, NativeParty):
            kept.update(entry.handle for entry in native.objects.values())
            kept.update(() if native.root_handle is None else (native.root_handle,))
    held_by_bus = snapshot["peers"][bus.tables.bus_peer]["handles"]
    bus_nodes = dict.fromkeys((bus.gateway.registry.node[1], *bus.tables.emitters), 1)
    assert {handle: count for handle, (_, count) in held_by_bus.items()} == dict(kept) | bus_nodes
    for party in bus.tables.parties.values():
        peer = snapshot["peers"][party.peer]
        if not isinstance(party, LegacyParty):
            assert not any(entry["type"] == "DATA" and entry["sender"] == 0 for entry in peer["queue"])
            continue
        assert set(party.open_replies.values()) == {
            node for node, what in party.nodes.items() if not hasattr(what, "path")
        }
        # in the queue of a D-Bus client there are finished D-Bus messages for its root, and notifications
        for entry in bus.core.ahead(party.peer, 1000):
            if entry.type is MessageType.DATA:
                data = b"".join(entry.parts)
                header = codec.parse(data)
                assert entry.destination == 0 and codec.frame_length(data) == len(data)
                assert header.serial and (header.destination in (None, party.unique))
        bus.check_references(party)
        pending = sum(len(note.grants) for note in party.notes.values())
        uses = [use for uses in party.held.values() for use in uses.items()]
        held = sum(count for use, count in uses if isinstance(use, str))
        assert party.granted == pending + held
