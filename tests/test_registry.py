"""The registry object: publishing, looking up, watching, over the pure Core and the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import pytest
from bus1_bridge import wire
from bus1_bridge.switch.limits import BusLimits
from bus1_bridge.switch.tables import PublishedObject
from bus1_services import seed
from bus1_services.call import Kind
from bus1_services.seed import SeedDocument
from mixed_bus import DRIVER, ERROR, UID, MixedBus, Native, NativeMessage, pack

from bus1.core.api import MessageType

NAME = "org.example.Service"


@pytest.fixture
def bus() -> Iterator[MixedBus]:
    bus = MixedBus()
    yield bus
    bus.end()


def error_of(message: NativeMessage) -> str:
    assert message.envelope is not None and message.envelope.kind is Kind.ERROR
    return message.envelope.member.removeprefix(ERROR)


def publish(native: Native, document: SeedDocument, handles: tuple[int, ...]) -> NativeMessage:
    return native.ask("Publish", seed.SIGNATURE, body=seed.encode(document), handles=handles)


def test_a_new_peer_starts_with_the_registry_and_nothing_else(bus: MixedBus) -> None:
    native = bus.native()
    assert native.registry == 0xB  # H-11
    assert native.receive() == []


def test_publish_answers_the_unique_name_a_result_per_name_and_the_emitter(bus: MixedBus) -> None:
    first, second = bus.native(), bus.native()
    document = SeedDocument("t", ((NAME, 0), ("org.example.More", 4)), (("/a", ""),))
    answer = publish(first, document, (0, 4))
    assert answer.values == (":1.0", [1, 1])
    assert len(answer.handles) == 1
    assert publish(second, document, (0, 4)).values == (":1.1", [2, 3])
    assert publish(first, document, (0, 4)).values == (":1.0", [4, 4])
    assert bus.tables.names.queue(NAME) == [first.peer, second.peer]


def test_publishing_again_replaces_the_objects_and_keeps_the_names(bus: MixedBus) -> None:
    native, client = bus.native(), bus.legacy()
    native.publish(NAME, objects={"/a": 4, "/b": 8})
    native.publish("org.example.More", objects={"/c": 12})
    client.call(NAME, "/a", "a.b", "Frob")
    client.call(NAME, "/c", "a.b", "Frob", flags=1)
    assert [m.header.error_name for m in client.receive()] == [ERROR + "UnknownObject"]
    assert [(m.type, m.node) for m in native.receive()] == [(MessageType.DATA, 12)]
    assert bus.tables.names.held(native.peer) == [NAME, "org.example.More"]
    assert native.party.paths == {(native.peer, 12): "/c"}


def test_the_owner_of_a_node_may_destroy_it_while_it_is_published(bus: MixedBus) -> None:
    native = bus.native()
    native.publish(NAME, objects={"/a": 4, "/also": 4, "/b": 8})
    native.destroy(4)
    assert list(native.party.objects) == ["/b"]
    assert native.party.paths == {(native.peer, 8): "/b"}
    native.destroy(0)
    assert error_of(native.ask("Resolve", "s", NAME)) == "UnknownObject"


class Unread(dict[str, PublishedObject]):
    """Objects of which each may be looked up, and nobody goes through all."""

    def items(self) -> NoReturn:
        raise AssertionError("all objects are looked at")


def test_the_end_of_one_object_costs_nothing_for_the_others(bus: MixedBus) -> None:
    native = bus.native()
    native.publish(NAME, objects={"/gone": 12})
    native.publish(NAME, objects={"/a": 4, "/also": 4, "/b": 8})
    native.party.objects = Unread(native.party.objects)
    native.destroy(12)
    native.destroy(4)
    assert "/b" in native.party.objects and len(native.party.objects) == 1
    assert native.party.paths == {(native.peer, 8): "/b"}


@pytest.mark.parametrize(("document", "handles", "error"), [
    (SeedDocument("t", ((NAME, 0),), (("/a", ""),)), (0,), "InvalidArgs"),
    (SeedDocument("t", ((NAME, 0),), (("/a", ""),)), (0, 4, 8), "InvalidArgs"),
    (SeedDocument("t", ((NAME, 0),)), (), "InvalidArgs"),
    (SeedDocument("t", ((NAME, 0),), (("/org/bus1/cap/" + "0" * 32, ""),)), (0, 4), "InvalidArgs"),
    (SeedDocument("t", ((NAME, 0),), (("/org/freedesktop/DBus/Local", ""),)), (0, 4), "InvalidArgs"),
    (SeedDocument("t", ((DRIVER, 0),)), (0,), "InvalidArgs"),
    (SeedDocument("t", tuple((f"a.b{n}", 0) for n in range(10))), (0,), "LimitsExceeded"),
])
def test_a_publish_that_fails_has_changed_nothing(
    document: SeedDocument, handles: tuple[int, ...], error: str
) -> None:
    bus = MixedBus(BusLimits(
        max_names_per_connection=10, max_completed_connections=100, max_incomplete_connections=0
    ))
    native = bus.native()
    native.publish("org.example.Before", objects={"/before": 1 << 30})
    for handle in handles:
        bus.core.handle_transfer(native.peer, handle, native.peer)  # the nodes exist before
    before = bus.core.snapshot()["peers"][bus.tables.bus_peer]["handles"]
    assert error_of(publish(native, document, handles)) == error
    assert bus.core.snapshot()["peers"][bus.tables.bus_peer]["handles"] == before
    assert list(native.party.objects) == ["/before"]
    assert bus.tables.names.names() == ["org.example.Before"]


def test_only_own_live_nodes_can_be_published(bus: MixedBus) -> None:
    native, other = bus.native(), bus.native()
    other.publish(NAME)
    foreign = native.derive(NAME, "/obj")
    document = SeedDocument("t", (), (("/a", ""),))
    assert error_of(publish(native, document, (0, foreign))) == "InvalidArgs"
    assert error_of(publish(native, document, (0, native.registry))) == "InvalidArgs"


def test_a_hostile_document_is_an_error_and_no_more(bus: MixedBus) -> None:
    native = bus.native()
    good = seed.encode(SeedDocument("t", ((NAME, 0),)))
    twice = wire.marshal(seed.SIGNATURE, "t", [(NAME, 0), (NAME, 0)], [])
    assert error_of(native.ask("Publish", seed.SIGNATURE, body=twice, handles=(0,))) == "InvalidArgs"
    cut = native.ask("Publish", seed.SIGNATURE, body=good[:-1], handles=(0,))
    assert error_of(cut) == "InvalidArgs"
    assert not bus.tables.names.names() and native.party.root is None


def test_a_body_that_is_not_valid_gets_no_answer_and_its_handles_are_released(bus: MixedBus) -> None:
    native = bus.native()
    reply = native.start_call(
        native.registry, "org.bus1.Registry1", "Derive", "o", body=b"\1\0\0\0x\0", handles=(4,)
    )
    released = [(m.type, m.node) for m in native.receive()]
    assert released == [(MessageType.NODE_RELEASE, reply), (MessageType.NODE_RELEASE, 4)]


def test_a_body_is_checked_where_a_method_takes_it_and_only_once(
    bus: MixedBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong signature is refused unread, and Publish reads its document by itself."""
    walked: list[str] = []
    monkeypatch.setattr(
        "bus1_bridge.codec.check_body", lambda signature, *_: walked.append(signature)
    )
    native = bus.native()
    assert error_of(native.ask("Resolve", "as", ["x"] * 1000)) == "InvalidArgs"
    native.publish(NAME)
    assert walked == []
    native.ask("Resolve", "s", NAME)
    assert walked == ["s"]


def test_an_error_text_repeats_a_bounded_part_of_what_the_caller_said(bus: MixedBus) -> None:
    (text,) = bus.native().ask("Resolve", "s", "é" * 100_000).values
    assert 500 < len(text.encode()) <= wire.ERROR_TEXT_MAX


def test_messages_that_are_no_calls_do_nothing(bus: MixedBus) -> None:
    native = bus.native()
    for payload in (b"", b"\xb1", b"l\1\0\1", pack(Kind.RETURN), pack(Kind.ERROR, "", "a.b"),
                    pack(Kind.SIGNAL, "a.b", "C"), pack(Kind.CALL, "", "List")):
        native.send((native.registry,), payload)
    native.send((native.registry,), pack(Kind.RETURN), (native.registry, 4, 4))
    assert [m.type for m in native.receive()] == [MessageType.NODE_RELEASE]
    assert not bus.core.is_readable(bus.tables.bus_peer)


def test_a_reply_node_that_is_no_place_for_answers_is_the_callers_own_trouble(bus: MixedBus) -> None:
    native, legacy = bus.native(), bus.legacy()
    handle = native.derive(legacy.unique, "/p")
    emitter = native.publish(NAME)
    for reply in (handle, emitter, native.registry):
        native.send((native.registry,), pack(Kind.CALL, "", "List"), (reply,))
    assert native.receive() == [] and legacy.receive() == []


def test_an_answer_of_the_registry_may_go_to_a_legacy_clients_reply_node(bus: MixedBus) -> None:
    """A service forwards a question of a D-Bus client to the registry."""
    native, legacy = bus.native(), bus.legacy()
    native.publish(NAME)
    serial = legacy.call(NAME, "/obj", "a.b", "WhoIsThere")
    (call,) = native.receive()
    native.send((native.registry,), pack(Kind.CALL, "", "List"), (call.handles[0],))
    (answer,) = legacy.receive()
    assert (answer.header.reply_serial, answer.header.sender) == (serial, native.unique)
    assert NAME in answer.values[0]


@pytest.mark.parametrize(("member", "signature", "values", "n_handles", "error"), [
    ("Nothing", "", (), 0, "UnknownMethod"), ("List", "s", ("x",), 0, "InvalidArgs"),
    ("List", "", (), 1, "InvalidArgs"), ("Derive", "o", ("/a",), 0, "InvalidArgs"),
    ("Resolve", "s", ("org.example.Nobody",), 0, "NameHasNoOwner"),
    ("Resolve", "s", ("no name",), 0, "NameHasNoOwner"),
    ("Resolve", "s", (DRIVER,), 0, "NameHasNoOwner"), ("Derive", "o", ("/a",), 1, "InvalidArgs"),
    ("Watch", "s", ("no name",), 1, "InvalidArgs"), ("Withdraw", "as", ([DRIVER],), 0, "InvalidArgs"),
    ("Withdraw", "as", ([":1.0"],), 0, "InvalidArgs"),
])
def test_wrong_calls_are_answered_in_dbus_terms(
    bus: MixedBus, member: str, signature: str, values: tuple[object, ...], n_handles: int, error: str
) -> None:
    native = bus.native()
    answer = native.ask(member, signature, *values, handles=tuple(4 + 4 * n for n in range(n_handles)))
    assert error_of(answer) == error
    assert len(answer.values[0]) > 10


def test_the_answer_repeats_the_callers_serial(bus: MixedBus) -> None:
    answer = bus.native().ask("List", serial=77)
    assert answer.envelope and answer.envelope.serial == 77


def test_withdraw_releases_names_and_with_an_empty_list_everything(bus: MixedBus) -> None:
    native, other, client = bus.native(), bus.native(), bus.legacy()
    native.publish("org.example.A", "org.example.B", "org.example.C")
    other.publish("org.example.Other")
    assert native.ask("Withdraw", "as", ["org.example.A", "org.example.A", "org.example.Other"]).values == (
        [1, 2, 3],
    )
    client.match(f"sender='{DRIVER}'")
    assert native.ask("Withdraw", "as", []).values == ([1, 1],)
    assert [m.values[0] for m in client.receive()] == ["org.example.C", "org.example.B"]
    assert not native.party.objects and native.party.root is None
    assert bus.tables.names.names() == ["org.example.Other"]


def test_resolve_and_derive_lead_to_published_nodes(bus: MixedBus) -> None:
    service, client = bus.native(), bus.native()
    service.publish(NAME, objects={"/a": 4})
    answer = client.ask("Resolve", "s", NAME)
    assert answer.values == (service.unique,)
    (root,) = answer.handles
    assert bus.core.node_of(client.peer, root) == (service.peer, 0)
    (node,) = client.ask("Derive", "o", "/a", handles=(root,)).handles
    assert bus.core.node_of(client.peer, node) == (service.peer, 4)
    assert error_of(client.ask("Derive", "o", "/b", handles=(root,))) == "UnknownObject"
    assert error_of(client.ask("Derive", "o", "/a", handles=(node,))) == "InvalidArgs"


def test_identify_tells_whose_node_it_is_if_its_owner_goes_by_a_name(bus: MixedBus) -> None:
    """A reply node of a D-Bus client, a published node, and one of a native peer that nobody knows of."""
    native, quiet, legacy = bus.native(), bus.native(), bus.legacy()
    native.publish(NAME, objects={"/a": 4})
    legacy.call(NAME, "/a", "a.b", "Frob")
    (call,) = native.receive()
    assert native.ask("Identify", handles=(call.handles[0],)).values == (legacy.unique,)
    assert native.ask("Identify", handles=(4,)).values == (native.party.unique,)
    assert error_of(quiet.ask("Identify", handles=(8,))) == "NameHasNoOwner"
    assert error_of(native.ask("Identify", handles=(native.registry,))) == "InvalidArgs"
    assert error_of(native.ask("Identify")) == "InvalidArgs"
    assert native.ask("Credentials", handles=(call.handles[0],)).values == (UID, 200)
    assert native.ask("Credentials", handles=(4,)).values == (UID, 100)
    assert error_of(quiet.ask("Credentials", handles=(8,))) == "NameHasNoOwner"
    assert error_of(native.ask("Credentials")) == "InvalidArgs"
    legacy.kill()
    bus.settle()
    assert error_of(native.ask("Identify", handles=(call.handles[0],))) == "InvalidArgs"


def test_reserved_paths_of_legacy_clients_cannot_be_derived(bus: MixedBus) -> None:
    native, legacy = bus.native(), bus.legacy()
    (root,) = native.ask("Resolve", "s", legacy.unique).handles
    for path in ("/org/bus1/cap/" + "0" * 32, "/org/freedesktop/DBus/Local"):
        assert error_of(native.ask("Derive", "o", path, handles=(root,))) == "UnknownObject"
    assert not legacy.party.derived


def test_the_number_of_derived_nodes_is_limited(bus: MixedBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus1_bridge.hosted.DERIVED_MAX", 2)
    native, legacy = bus.native(), bus.legacy()
    handle = native.derive(legacy.unique, "/a")
    native.derive(legacy.unique, "/b")
    (root,) = native.ask("Resolve", "s", legacy.unique).handles
    assert error_of(native.ask("Derive", "o", "/c", handles=(root,))) == "LimitsExceeded"
    native.release(handle)
    legacy.receive()
    native.derive(legacy.unique, "/c")


def test_list_names_announced_parties_and_owned_names(bus: MixedBus) -> None:
    quiet, loud, legacy = bus.native(), bus.native(), bus.legacy()
    loud.publish(NAME)
    assert quiet.ask("List").values == ([loud.unique, legacy.unique, NAME],), "by their numbers"


def test_the_driver_is_not_there_for_native_peers(bus: MixedBus) -> None:
    """It answers D-Bus clients alone; what List gives can be resolved."""
    native = bus.native()
    bus.legacy()
    native.publish(NAME)
    assert error_of(native.ask("Resolve", "s", DRIVER)) == "NameHasNoOwner"
    for name in native.ask("List").values[0]:
        assert len(native.ask("Resolve", "s", name).handles) == 1


def test_a_watcher_follows_one_name_until_it_is_destroyed(bus: MixedBus) -> None:
    watcher, service = bus.native(), bus.native()
    node = watcher.new_node()
    assert watcher.ask("Watch", "s", NAME, handles=(node,)).values == ()
    service.publish("org.example.Other", NAME)
    (signal,) = watcher.receive()
    assert signal.envelope is not None
    assert (signal.node, signal.envelope.interface, signal.envelope.member) == (
        node, "org.bus1.Registry1", "NameOwnerChanged"
    )
    assert signal.values == (NAME, "", service.unique)
    assert signal.handles == (watcher.registry,)
    watcher.release(watcher.registry)
    watcher.ask("Watch", "s", service.unique, handles=(node,))
    service.ask("Withdraw", "as", [NAME])
    assert watcher.receive() == []
    service.kill()
    assert [m.values for m in watcher.receive()] == [(":1.1", ":1.1", "")]
    watcher.destroy(node)
    assert not bus.tables.watchers


def test_a_watcher_that_watches_again_follows_another_name_instead(bus: MixedBus) -> None:
    native, other = bus.native(), bus.legacy()
    node = native.new_node()
    for name in ("org.example.One", "org.example.Two"):
        native.ask("Watch", "s", name, handles=(node,))
    other.own("org.example.One")
    assert native.receive() == []
    other.own("org.example.Two")
    assert [m.values[0] for m in native.receive()] == ["org.example.Two"]


def test_watchers_of_a_dead_peer_are_gone(bus: MixedBus) -> None:
    watcher = bus.native()
    for _ in range(3):
        watcher.ask("Watch", "s", "", handles=(watcher.new_node(),))
    assert len(bus.tables.watchers) == 3
    watcher.kill()
    assert not bus.tables.watchers


def test_the_number_of_watchers_is_limited(bus: MixedBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus1_bridge.watchers.WATCHERS_MAX", 1)
    native = bus.native()
    node = native.new_node()
    native.ask("Watch", "s", "", handles=(node,))
    assert error_of(native.ask("Watch", "s", "", handles=(native.new_node(),))) == "LimitsExceeded"
    native.destroy(node)
    assert native.ask("Watch", "s", "", handles=(native.new_node(),)).values == ()


def test_the_number_of_objects_is_limited(bus: MixedBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus1_bridge.publications.OBJECTS_MAX", 1)
    native = bus.native()
    document = SeedDocument("t", (), (("/a", ""), ("/b", "")))
    assert error_of(publish(native, document, (0, 4, 8))) == "LimitsExceeded"


def test_one_call_publishes_or_withdraws_a_bounded_number_of_names(bus: MixedBus) -> None:
    """Everybody waits for a command; more names come with more calls."""
    native = bus.native()
    names = [f"org.example.N{n}" for n in range(65)]
    document = SeedDocument("t", tuple((name, 0) for name in names))
    assert error_of(publish(native, document, (0,))) == "LimitsExceeded"
    assert bus.tables.names.names() == []
    native.publish(*names[:64])
    native.publish(names[64])
    assert bus.tables.names.held(native.peer) == names
    assert error_of(native.ask("Withdraw", "as", names)) == "LimitsExceeded"
    assert bus.tables.names.held(native.peer) == names
    assert native.ask("Withdraw", "as", names[:64]).values == ([1] * 64,)


def test_one_call_publishes_a_bounded_number_of_objects(bus: MixedBus) -> None:
    native = bus.native()
    for n, answer in ((1025, Kind.ERROR), (1024, Kind.RETURN)):
        document = SeedDocument("t", (), tuple((f"/a{i}", "") for i in range(n)))
        envelope = publish(native, document, tuple(range(0, 4 * n + 4, 4))).envelope
        assert envelope is not None and envelope.kind is answer


def test_a_body_of_a_call_to_the_bus_is_limited(bus: MixedBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus1_bridge.busobject.BODY_MAX", 64)
    native = bus.native()
    assert error_of(native.ask("Resolve", "s", "a" * 64)) == "LimitsExceeded"
    assert error_of(native.ask("Resolve", "s", "a" * 48)) == "NameHasNoOwner"


def test_a_caller_that_cannot_take_the_answer_sees_its_reply_node_released(bus: MixedBus) -> None:
    native = bus.native()
    bus.core.peer_reset(native.peer, max_slices=0)
    native.start_call(native.registry, "", "List")
    assert [m.type for m in native.receive()] == [MessageType.NODE_RELEASE]
