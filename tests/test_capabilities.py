"""Objects that a native service hands to one D-Bus client: granted paths, over Core and the gateway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bus1_bridge import capabilities, wire
from bus1_services.call import Kind
from mixed_bus import ERROR, Legacy, LegacyMessage, MixedBus, Native, pack

from bus1.core.api import HANDLE_INVALID, MessageType
from bus1.errors import InvalidArgument, NotUnique, QuotaExceeded

NAME = "org.example.Service"
IFACE = "org.example.Thing"
PATH = "/org/bus1/cap/" + "0123456789abcdef" * 2
OTHER = "/org/bus1/cap/" + "f" * 32
NODE = 64


@pytest.fixture
def bus() -> Iterator[MixedBus]:
    bus = MixedBus()
    yield bus
    bus.end()


@pytest.fixture
def service(bus: MixedBus) -> Native:
    native = bus.native()
    native.publish(NAME)
    return native


@pytest.fixture
def holder(bus: MixedBus) -> Legacy:
    return bus.legacy()


def hand_out(service: Native, client: Legacy, path: str = PATH, node: int = NODE) -> None:
    """The client asks, and the service answers with an object made for it."""
    client.call(NAME, "/obj", IFACE, "Open")
    (call,) = [message for message in service.receive() if message.type is MessageType.DATA]
    service.answer(call, "so", "here", path, handles=(node,), caps=((0, 0),))
    (answer,) = client.receive()
    assert answer.values == ("here", path)


def outcome(message: LegacyMessage) -> tuple[object, ...]:
    """All that a client can tell answers by, but the serials."""
    header = message.header
    return (header.type, header.error_name, header.sender, header.flags, header.signature, message.values)


def test_a_granted_object_answers_its_holder_and_does_not_exist_for_anybody_else(
    bus: MixedBus, service: Native, holder: Legacy
) -> None:
    stranger = bus.legacy()
    hand_out(service, holder)
    holder.call(NAME, PATH, IFACE, "Frob", "s", "x")
    (call,) = service.receive()
    assert (call.node, call.values) == (NODE, ("x",))
    service.answer(call, "s", "yes")
    assert [answer.values for answer in holder.receive()] == [("yes",)]

    for interface, member in (
        (IFACE, "Frob"), (None, "Introspect"), ("org.freedesktop.DBus.Peer", "Ping"),
        ("org.bus1.Capability1", "Release"), ("org.freedesktop.DBus.Properties", "GetAll"),
    ):
        stranger.call(NAME, PATH, interface, member)
        (refused,) = stranger.receive()
        stranger.call(NAME, OTHER, interface, member)
        (never_existed,) = stranger.receive()
        assert refused.header.error_name == ERROR + "UnknownObject"
        assert outcome(refused)[:5] == outcome(never_existed)[:5]
        assert refused.values[0].replace(PATH, OTHER) == never_existed.values[0]
    assert service.receive() == []


def test_a_destroyed_object_looks_as_if_it_never_existed(
    bus: MixedBus, service: Native, holder: Legacy
) -> None:
    stranger = bus.legacy()
    hand_out(service, holder)
    service.destroy(NODE)
    for client in (holder, stranger):
        client.call(NAME, PATH, IFACE, "Frob")
    (before_notice,), (strangers,) = holder.receive(), stranger.receive()
    holder.call(NAME, PATH, IFACE, "Frob")
    (after_notice,) = holder.receive()
    assert outcome(before_notice) == outcome(after_notice) == outcome(strangers)
    assert not holder.party.grants and not holder.party.held and holder.party.granted == 0
    assert bus.core.snapshot()["peers"][holder.peer]["handles"].keys() == {0}


def test_the_path_works_whatever_name_is_called(bus: MixedBus, service: Native, holder: Legacy) -> None:
    hand_out(service, holder)
    bus.legacy().own("org.example.Unrelated")
    for name in (service.unique, "org.example.Unrelated", "org.example.Nobody", holder.unique):
        holder.call(name, PATH, IFACE, "Frob", flags=1)
        (call,) = service.receive()
        assert call.node == NODE
    stranger = bus.legacy()
    for name in ("org.example.Unrelated", "org.example.Nobody"):
        stranger.call(name, PATH, IFACE, "Frob")
        assert [answer.header.error_name for answer in stranger.receive()] == [ERROR + "UnknownObject"]


def test_telling_the_path_gives_nothing(bus: MixedBus, service: Native, holder: Legacy) -> None:
    stranger = bus.legacy()
    stranger.match(f"interface='{IFACE}'")
    hand_out(service, holder)
    holder.signal("/x", IFACE, "Look", "o", PATH)
    emitter = service.publish(NAME)
    service.send((emitter,), pack(Kind.SIGNAL, IFACE, "Look", "o", PATH, caps=((0, 1),)), (4, NODE))
    assert [signal.values for signal in stranger.receive()] == [(PATH,), (PATH,)]
    assert not stranger.party.grants
    stranger.call(NAME, PATH, IFACE, "Frob")
    assert [answer.header.error_name for answer in stranger.receive()] == [ERROR + "UnknownObject"]


def test_the_capability_is_the_clients_once_the_message_is_written(
    bus: MixedBus, service: Native, holder: Legacy
) -> None:
    holder.call(NAME, "/obj", IFACE, "Open")
    (call,) = service.receive()
    service.answer(call, "o", PATH, handles=(NODE,), caps=((0, 0),))
    holder.call(NAME, PATH, IFACE, "Guess")
    assert not holder.party.grants and holder.party.granted == 1
    answers = holder.receive()
    assert [answer.header.type for answer in answers] == [wire.RETURN, wire.ERROR]
    assert list(holder.party.grants) == [PATH]


def test_a_granted_path_in_a_call_to_a_native_service_is_its_handle_again(
    bus: MixedBus, service: Native, holder: Legacy
) -> None:
    other = bus.native()
    other.publish("org.example.Other")
    hand_out(service, holder)
    holder.call("org.example.Other", "/obj", IFACE, "Take", "oaov", "/plain", [PATH, OTHER, PATH],
                wire.Variant("o", PATH))
    (call,) = other.receive()
    assert call.envelope is not None
    assert call.envelope.caps == ((1, 1), (3, 1), (4, 1))
    assert len(call.handles) == 2
    assert bus.core.node_of(other.peer, call.handles[1]) == (service.peer, NODE)
    other.answer(call)
    holder.call(NAME, "/obj", IFACE, "Take", "o", PATH, flags=1)
    (back,) = service.receive()
    assert back.envelope and back.envelope.caps == ((0, 0),)
    assert back.handles == (NODE,)  # T-27: the owner sees its own id
    service.release(NODE)


def test_a_granted_path_in_an_answer_to_a_native_caller_is_its_handle_again(
    bus: MixedBus, service: Native, holder: Legacy
) -> None:
    caller = bus.native()
    hand_out(service, holder)
    caller.start_call(caller.derive(holder.unique, "/p"), IFACE, "Give")
    (call,) = holder.receive()
    holder.answer(call, "o", PATH)
    answer = caller.receive()[0]
    assert answer.envelope and answer.envelope.caps == ((0, 0),)
    assert bus.core.node_of(caller.peer, answer.handles[0]) == (service.peer, NODE)


def test_a_call_and_a_unicast_signal_grant_too(bus: MixedBus, service: Native, holder: Legacy) -> None:
    handle = service.derive(holder.unique, "/p")
    service.start_call(handle, IFACE, "Take", "o", PATH, handles=(NODE,), caps=((0, 1),))
    service.send((handle,), pack(Kind.SIGNAL, IFACE, "Look", "o", OTHER, caps=((0, 1),)), (4, NODE + 4))
    call, _ = holder.receive()
    assert list(holder.party.grants) == [PATH, OTHER]
    holder.answer(call)
    holder.call(NAME, OTHER, IFACE, "Frob", flags=1)
    assert service.receive()[-1].node == NODE + 4


def test_release_gives_the_grant_back_and_the_owner_sees_node_release(
    service: Native, holder: Legacy
) -> None:
    hand_out(service, holder)
    hand_out(service, holder)
    for left in (1, 0):
        holder.call(NAME, PATH, "org.bus1.Capability1", "Release")
        (answer,) = holder.receive()
        assert answer.header.type == wire.RETURN
        assert holder.party.granted == left
        released = [m.node for m in service.receive() if m.type is MessageType.NODE_RELEASE]
        assert released == [NODE] * (1 - left)
    holder.call(NAME, PATH, "org.bus1.Capability1", "Release")
    assert [answer.header.error_name for answer in holder.receive()] == [ERROR + "UnknownObject"]


def test_release_takes_no_arguments(service: Native, holder: Legacy) -> None:
    hand_out(service, holder)
    holder.call(NAME, PATH, "org.bus1.Capability1", "Release", "s", "x")
    assert [answer.header.error_name for answer in holder.receive()] == [ERROR + "InvalidArgs"]
    assert holder.party.granted == 1


@pytest.mark.parametrize("is_read", [True, False])
def test_the_death_of_the_holder_releases_its_capabilities(
    service: Native, holder: Legacy, is_read: bool
) -> None:
    holder.call(NAME, "/obj", IFACE, "Open")
    (call,) = service.receive()
    service.answer(call, "o", PATH, handles=(NODE,), caps=((0, 0),))
    if is_read:
        holder.receive()
    holder.kill()
    assert [(m.type, m.node) for m in service.receive()] == [(MessageType.NODE_RELEASE, NODE)]


def grant(sender: Native, to: Legacy, path: str, handle: int) -> None:
    """A call to the client that carries a capability."""
    root = sender.derive(to.unique, "/p")
    try:
        sender.send((root,), pack(Kind.CALL, IFACE, "Take", "o", path, flags=1, caps=((0, 0),)), (handle,))
    finally:
        sender.release(root)


def called(holder: Legacy, path: str, *natives: Native) -> list[tuple[str, int]]:
    """Where a call to the path goes: unique name and node of each native peer that sees it."""
    holder.call("org.example.Nobody", path, IFACE, "Frob", flags=1)
    return [
        (native.unique, message.node)
        for native in natives for message in native.receive() if message.type is MessageType.DATA
    ]


def test_a_path_stands_for_one_object_on_the_whole_bus(
    bus: MixedBus, service: Native, holder: Legacy
) -> None:
    rogue, victim = bus.native(), bus.legacy()
    hand_out(service, holder)
    for client in (holder, victim):
        root = rogue.derive(client.unique, "/p")
        before = bus.core.snapshot()
        with pytest.raises(InvalidArgument):
            rogue.send(
                (root,), pack(Kind.CALL, IFACE, "Take", "o", PATH, flags=1, caps=((0, 0),)), (NODE,)
            )
        assert bus.core.snapshot() == before
    grant(service, victim, PATH, NODE)
    victim.receive()
    assert called(victim, PATH, service, rogue) == [(service.unique, NODE)]
    assert (holder.party.granted, victim.party.granted) == (1, 1)


def test_a_path_stays_taken_while_the_object_lives_though_nobody_holds_a_grant(
    bus: MixedBus, service: Native, holder: Legacy
) -> None:
    rogue = bus.native()
    hand_out(service, holder)
    holder.call(NAME, PATH, capabilities.INTERFACE, "Release")
    holder.receive()
    with pytest.raises(InvalidArgument):
        grant(rogue, holder, PATH, NODE)
    service.destroy(NODE)
    grant(rogue, holder, PATH, NODE)
    holder.receive()
    assert called(holder, PATH, service, rogue) == [(rogue.unique, NODE)]
    rogue.kill()
    grant(service, holder, PATH, NODE + 4)
    assert len(bus.tables.bindings) == 1


def test_a_holder_passes_a_bound_path_on_but_invents_none(
    bus: MixedBus, service: Native, holder: Legacy
) -> None:
    friend = bus.native()
    friend.publish("org.example.Friend")
    hand_out(service, holder)
    holder.call("org.example.Friend", "/obj", IFACE, "Take", "o", PATH, flags=1)
    (call,) = friend.receive()
    other = bus.legacy()
    grant(friend, other, PATH, call.handles[0])
    other.receive()
    assert called(other, PATH, service, friend) == [(service.unique, NODE)]
    with pytest.raises(InvalidArgument):
        grant(friend, other, OTHER, call.handles[0])
    grant(service, other, OTHER, NODE)  # its owner may
    other.receive()
    assert called(other, OTHER, service, friend) == [(service.unique, NODE)]


def test_a_holder_binds_the_first_path_of_an_object_that_no_client_has_seen(
    bus: MixedBus, service: Native, holder: Legacy
) -> None:
    friend = bus.native()
    reply = friend.start_call(friend.derive(NAME, "/obj"), IFACE, "Open")
    (call,) = service.receive()
    service.answer(call, "o", PATH, handles=(NODE,), caps=((0, 0),))
    (answer, *_) = friend.receive()
    assert answer.node == reply
    with pytest.raises(InvalidArgument):  # both at once, of which the second would be invented
        handle = friend.derive(holder.unique, "/p")
        friend.send(
            (handle,), pack(Kind.CALL, IFACE, "Take", "oo", PATH, OTHER, flags=1, caps=((0, 0), (1, 0))),
            (answer.handles[0],),
        )
    grant(friend, holder, PATH, answer.handles[0])
    holder.receive()
    assert called(holder, PATH, service, friend) == [(service.unique, NODE)]


def test_a_message_that_is_not_queued_binds_nothing(
    bus: MixedBus, service: Native, holder: Legacy
) -> None:
    gone = service.derive(bus.legacy().unique, "/q")
    handle = service.derive(holder.unique, "/p")
    payload = pack(Kind.CALL, IFACE, "Take", "o", PATH, flags=1, caps=((0, 0),))
    with pytest.raises(NotUnique):
        service.send((handle, gone, handle), payload, (NODE,))
    assert len(bus.tables.bindings) == 0


def test_one_path_for_two_objects_in_one_message_is_refused(
    bus: MixedBus, service: Native, holder: Legacy
) -> None:
    handle = service.derive(holder.unique, "/p")
    payload = pack(Kind.CALL, IFACE, "Take", "oo", PATH, PATH, flags=1, caps=((0, 0), (1, 1)))
    with pytest.raises(InvalidArgument):
        service.send((handle,), payload, (NODE, NODE + 4))
    assert service.send((handle,), payload, (NODE, NODE)) == [0]


def test_the_paths_of_one_owner_are_limited_and_dead_objects_make_room(
    bus: MixedBus, service: Native, holder: Legacy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bus1_bridge.bindings.BINDINGS_MAX", 3)
    paths = [f"/org/bus1/cap/{n:032x}" for n in range(4)]
    for number, path in enumerate(paths[:3]):
        grant(service, holder, path, NODE + 4 * number)
    with pytest.raises(QuotaExceeded):
        grant(service, holder, paths[3], NODE + 12)
    service.destroy(NODE)
    grant(service, holder, paths[3], NODE + 12)
    assert len(bus.tables.bindings) == 3


def test_paths_of_dead_objects_do_not_pile_up(bus: MixedBus, service: Native, holder: Legacy) -> None:
    for number in range(1000):
        grant(service, holder, f"/org/bus1/cap/{number:032x}", NODE + 4 * number)
        service.destroy(NODE + 4 * number)
        holder.receive()
    assert len(bus.tables.bindings) <= 64


def test_only_paths_of_the_reserved_form_are_granted(bus: MixedBus, service: Native, holder: Legacy) -> None:
    handle = service.derive(holder.unique, "/p")
    for path in ("/plain", PATH[:-1], PATH + "0", PATH.upper(), PATH + "/x"):
        service.send(
            (handle,), pack(Kind.CALL, IFACE, "Take", "o", path, flags=1, caps=((0, 0),)), (NODE,)
        )
    holder.receive()
    assert not holder.party.grants and holder.party.granted == 0


def test_caps_entries_that_point_nowhere_fail_the_send(
    bus: MixedBus, service: Native, holder: Legacy
) -> None:
    handle, other = service.derive(holder.unique, "/p"), service.derive(holder.unique, "/q")
    before = bus.core.snapshot()
    for caps, handles in ((((1, 0),), (NODE,)), (((0, 1),), (NODE,)), (((0, 0),), ()), (((0, 0),), (other,))):
        with pytest.raises(InvalidArgument):
            service.send((handle,), pack(Kind.CALL, IFACE, "Take", "o", PATH, flags=1, caps=caps), handles)
    assert bus.core.snapshot() == before
    assert holder.party.granted == 0 and not holder.party.notes


def test_a_node_that_dies_on_the_way_grants_nothing(bus: MixedBus, service: Native, holder: Legacy) -> None:
    handle = service.derive(holder.unique, "/p")
    service.send((handle,), pack(Kind.CALL, IFACE, "Take", "o", PATH, flags=1, caps=((0, 0),)), (NODE,))
    service.destroy(NODE)
    assert len(holder.receive()) == 1
    assert not holder.party.grants and holder.party.granted == 0
    assert HANDLE_INVALID not in holder.party.held


def test_the_number_of_grants_is_limited(
    bus: MixedBus, service: Native, holder: Legacy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert capabilities.GRANTS_MAX >= 4096
    monkeypatch.setattr("bus1_bridge.capabilities.GRANTS_MAX", 2)
    handle = service.derive(holder.unique, "/p")
    payload = pack(Kind.CALL, IFACE, "Take", "o", PATH, flags=1, caps=((0, 0),))
    service.send((handle,), payload, (NODE,))
    service.send((handle,), payload, (NODE,))
    with pytest.raises(QuotaExceeded):
        service.send((handle,), payload, (NODE,))
    holder.receive()
    holder.call(NAME, PATH, "org.bus1.Capability1", "Release")
    holder.receive()
    assert service.send((handle,), payload, (NODE,)) == [0]


def test_a_client_cannot_flood_a_service_with_capabilities_in_one_message(
    service: Native, holder: Legacy
) -> None:
    hand_out(service, holder)
    holder.call(NAME, "/obj", IFACE, "Take", "ao", [PATH] * (capabilities.ARGUMENTS_MAX + 1))
    assert [answer.header.error_name for answer in holder.receive()] == [ERROR + "LimitsExceeded"]
    assert service.receive() == []
    assert not holder.party.nodes
