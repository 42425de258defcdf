"""org.bus1.Endpoints1: who may open endpoints, what is held for them, and when they end; without sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bus1_bridge.entrance import Entrance
from bus1_services.call import Kind
from mixed_bus import MixedBus, Native, NativeMessage
from policy_texts import policy_of
from pure_switch import Client, Got, PureSwitch

from bus1.core.api import HANDLE_INVALID
from bus1.errors import InvalidArgument, NodeDestroyed

OPENS, OPENED = "org.bus1.Endpoints1", "org.bus1.Endpoint1"
OPEN = '<allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/><allow user="*"/>'


class Doors:
    """Sockets that are none."""

    def __init__(self) -> None:
        self.open_now: list[Entrance] = []
        self.complaint = ""

    def open(self, entrance: Entrance) -> str:
        if self.complaint:
            raise InvalidArgument(self.complaint)
        self.open_now.append(entrance)
        return f"at {entrance.path}"

    def close(self, entrance: Entrance) -> None:
        self.open_now.remove(entrance)


@pytest.fixture
def bus() -> Iterator[MixedBus]:
    bus = MixedBus()
    bus.delivery.guard.configure(policy_of(OPEN))
    yield bus
    bus.end()


@pytest.fixture
def doors(bus: MixedBus) -> Doors:
    doors = bus.gateway.registry.entrances.doors = Doors()
    return doors


def opened(native: Native, *handles: int) -> tuple[int, Entrance]:
    """A native endpoint: its handle, and the entrance."""
    answer = native.call(
        native.registry, OPENS, "OpenNative", "ssa{ss}", "app", "/socket", {}, handles=handles
    )
    assert answer.values == ("at /socket",)
    (handle,) = answer.handles
    doors = native.bus.gateway.registry.entrances.doors
    assert isinstance(doors, Doors)
    return handle, doors.open_now[-1]


def error_of(answer: NativeMessage) -> str:
    assert answer.envelope and answer.envelope.kind is Kind.ERROR
    return answer.envelope.member.rpartition(".")[2]


def come_in(bus: MixedBus, entrance: Entrance, uid: int = 1000) -> tuple[int, tuple[int, ...]]:
    """A native peer opens there: its number, and what it is granted."""
    peer = bus.core.peer_new(uid)
    return peer, bus.gateway.peer_opened(peer, bus.tables.bus_credentials, entrance)


def test_what_is_granted_is_held_as_long_as_the_endpoint_is_open(bus: MixedBus, doors: Doors) -> None:
    opener = bus.native()
    handle, entrance = opened(opener, 8, 12)
    assert not opener.receive(), "somebody holds both"
    peer, granted = come_in(bus, entrance)
    assert [bus.core.node_of(peer, each) for each in granted] == [(opener.peer, 8), (opener.peer, 12)]
    bus.gateway.peer_disconnect(peer)
    opener.release(handle)
    assert not doors.open_now
    assert sorted(message.node for message in opener.receive()) == [8, 12], "nobody holds them any more"


def test_a_dead_grant_lets_nobody_in(bus: MixedBus, doors: Doors) -> None:
    opener = bus.native()
    handle, entrance = opened(opener, 8, 12)
    opener.destroy(12)
    with pytest.raises(NodeDestroyed, match='the endpoint "app" grants is gone'):
        come_in(bus, entrance)
    opener.release(handle)


def test_closing_ends_it_once(bus: MixedBus, doors: Doors) -> None:
    opener = bus.native()
    handle, _ = opened(opener, 8)
    answer = opener.call(handle, OPENED, "Close")
    assert answer.envelope and answer.envelope.kind is Kind.RETURN
    assert not doors.open_now
    with pytest.raises(NodeDestroyed):
        opener.start_call(handle, OPENED, "Close")
    opener.receive()


def test_an_endpoint_answers_nothing_but_its_own_interface(bus: MixedBus, doors: Doors) -> None:
    opener = bus.native()
    handle, _ = opened(opener)
    for interface, member in ((OPENS, "OpenDBus"), ("org.bus1.Registry1", "List"), (OPENED, "Open")):
        assert error_of(opener.call(handle, interface, member)) == "UnknownMethod"
    assert error_of(opener.call(opener.registry, OPENED, "Close")) == "UnknownMethod"
    assert error_of(opener.call(handle, OPENED, "Close", "s", "now")) == "InvalidArgs"
    assert len(doors.open_now) == 1
    opener.release(handle)


def test_it_ends_with_the_last_of_its_holders(bus: MixedBus, doors: Doors) -> None:
    opener, friend = bus.native(), bus.native()
    handle, _ = opened(opener)
    theirs = bus.core.handle_transfer(opener.peer, handle, friend.peer)
    bus.gateway.peer_disconnect(opener.peer)
    bus.settle()
    assert len(doors.open_now) == 1
    friend.release(theirs)
    assert not doors.open_now


@pytest.mark.parametrize(("method", "signature", "values"), [
    ("OpenNative", "ssa{ss}", ("app", "/socket", {})), ("OpenDBus", "ssasa{ss}", ("app", "/socket", [], {})),
])
def test_other_users_and_those_behind_an_endpoint_may_not_open_any(
    bus: MixedBus, doors: Doors, method: str, signature: str, values: tuple[object, ...]
) -> None:
    other, root, inside = bus.native(uid=2000), bus.native(uid=0), bus.native()
    inside.party.entrance = Entrance("app", {}, 1000)
    for stranger in (other, inside):
        handles = (8,) if method == "OpenNative" else ()
        answer = stranger.call(stranger.registry, OPENS, method, signature, *values, handles=handles)
        assert error_of(answer) == "AccessDenied"
        assert "for root and the user of the bus" in answer.values[0]
    assert not doors.open_now
    answer = root.call(root.registry, OPENS, method, signature, *values)
    root.release(*answer.handles)
    other.receive()
    inside.receive()


def test_the_policy_may_forbid_it(bus: MixedBus, doors: Doors) -> None:
    bus.delivery.guard.configure(policy_of(OPEN, f'<deny send_interface="{OPENS}"/>'))
    opener = bus.native()
    answer = opener.call(opener.registry, OPENS, "OpenDBus", "ssasa{ss}", "app", "/socket", [], {})
    assert error_of(answer) == "AccessDenied" and f'<deny send_interface="{OPENS}"/>' in answer.values[0]
    assert not doors.open_now


def test_a_failure_to_listen_holds_nothing(bus: MixedBus, doors: Doors) -> None:
    opener = bus.native()
    before = bus.core.snapshot()["peers"][bus.tables.bus_peer]
    doors.complaint = "Failed to bind"
    answer = opener.call(
        opener.registry, OPENS, "OpenNative", "ssa{ss}", "app", "/socket", {}, handles=(8,)
    )
    assert error_of(answer) == "InvalidArgs" and answer.values == ("Failed to bind",)
    assert bus.core.snapshot()["peers"][bus.tables.bus_peer]["handles"] == before["handles"]


def test_a_dead_capability_cannot_be_granted(bus: MixedBus, doors: Doors) -> None:
    opener, friend = bus.native(), bus.native()
    theirs = bus.core.handle_transfer(friend.peer, 8, opener.peer)
    friend.destroy(8)
    answer = opener.call(
        opener.registry, OPENS, "OpenNative", "ssa{ss}", "app", "/socket", {}, handles=(theirs,)
    )
    assert error_of(answer) == "InvalidArgs" and not doors.open_now
    assert HANDLE_INVALID not in answer.handles
    opener.receive()
    opener.release(theirs)


# ---- by D-Bus --------------------------------------------------------------------------------------


@pytest.fixture
def switch() -> Iterator[PureSwitch]:
    switch = PureSwitch()
    switch.gateway.registry.entrances.doors = Doors()
    yield switch
    switch.end()


def doors_of(switch: PureSwitch) -> Doors:
    doors = switch.gateway.registry.entrances.doors
    assert isinstance(doors, Doors)
    return doors


def open_by_dbus(client: Client, path: str = "/socket", rules: tuple[str, ...] = ("see=a.b",)) -> Got:
    return client.call("OpenDBus", "ssasa{ss}", "app", path, list(rules), {"a": "b"}, interface=OPENS)


def test_what_a_dbus_client_opens_ends_when_it_says_so_or_leaves(switch: PureSwitch) -> None:
    client, other, doors = switch.client(), switch.client(), doors_of(switch)
    for path in ("/one", "/two"):
        assert open_by_dbus(client, path).args == (f"at {path}",)
    assert open_by_dbus(other, "/three").args == ("at /three",)
    assert other.fault("Close", "s", "at /one", interface=OPENS) == "UnknownObject"
    assert client.call("Close", "s", "at /one", interface=OPENS).args == ()
    assert client.fault("Close", "s", "at /one", interface=OPENS) == "UnknownObject"
    assert [entrance.path for entrance in doors.open_now] == ["/two", "/three"]
    assert doors.open_now[0].metadata == {"a": "b"}
    client.leave()
    assert [entrance.path for entrance in doors.open_now] == ["/three"]
    other.leave()
    assert not doors.open_now


def test_a_dbus_client_is_told_why_it_may_not_open(switch: PureSwitch) -> None:
    client, doors = switch.client(), doors_of(switch)
    refused = open_by_dbus(client, rules=("see=a",))
    assert refused.error and refused.error.endswith("InvalidArgs") and "see=a" in refused.args[0]
    doors.complaint = "Failed to bind"
    assert open_by_dbus(client).args == ("Failed to bind",)
    doors.complaint = ""
    inside = switch.tables.parties[client.connection]
    inside.entrance = Entrance("app", {}, 1000)
    assert "for root and the user of the bus" in open_by_dbus(client).args[0]
    inside.entrance = None
    assert not doors.open_now


def test_a_bus_without_sockets_opens_none(bus: MixedBus) -> None:
    opener = bus.native()
    answer = opener.call(opener.registry, OPENS, "OpenDBus", "ssasa{ss}", "app", "/socket", [], {})
    assert error_of(answer) == "NotSupported"
