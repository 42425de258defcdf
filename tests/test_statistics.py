"""Statistics of our own: what waits and who holds it, what was lost, what each user has left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bus1_bridge.tally import Tally
from bus1_bridge.wire import Variant
from hypothesis import given
from hypothesis import strategies as st
from mixed_bus import MixedBus
from pure_switch import DRIVER, NO_REPLY_EXPECTED, UID, Client, PureSwitch

STATS = "org.freedesktop.DBus.Debug.Stats"
OURS = "org.bus1.DBus.Debug.Stats."
LARGE = "x" * 200_000


@pytest.fixture
def switch() -> Iterator[PureSwitch]:
    switch = PureSwitch()
    yield switch
    switch.end()


def stats(client: Client, member: str = "GetStats", *args: str) -> dict[str, Any]:
    """All keys, with plain values."""
    got = client.call(member, "s" * len(args), *args, interface=STATS)
    assert got.error is None, got
    return {key: value.value for key, value in got.args[0].items()}


def of(client: Client, name: str, key: str) -> Any:
    return stats(client, "GetConnectionStats", name)[OURS + key]


def test_what_waits_for_a_reader_is_listed_by_who_holds_it(switch: PureSwitch) -> None:
    reader, first, second = switch.client(), switch.client(), switch.client()
    assert of(first, reader.name, "Waiting") == []
    for _ in range(3):
        first.ask(reader.name, flags=NO_REPLY_EXPECTED)
    second.ask(reader.name, "Do", "h", 0, fds=(40,))
    reader.send(
        1, path="/", interface=DRIVER, member="GetId", destination=DRIVER, flags=NO_REPLY_EXPECTED
    )
    waiting = {name: (messages, fds) for name, messages, _, fds in of(first, reader.name, "Waiting")}
    assert waiting == {first.name: (3, 0), second.name: (1, 1), DRIVER: (1, 0)}
    reader.read()
    assert of(first, reader.name, "Waiting") == []


def test_what_was_lost_is_counted_at_both_ends_and_in_all(switch: PureSwitch) -> None:
    speaker, reader, asker = switch.client(), switch.client(), switch.client()
    reader.call("AddMatch", "s", "member='Changed'")
    while not switch.refused():
        speaker.emit("Changed", "s", LARGE)
        switch.pass_time(1.0)
    (lost,) = switch.refused().values()
    assert of(asker, reader.name, "NotReceived") == {"broadcast": lost}
    assert of(asker, reader.name, "NotDelivered") == {}
    assert of(asker, speaker.name, "NotDelivered") == {"broadcast": lost}
    assert stats(asker)[OURS + "NotDelivered"] == {"broadcast": lost}
    speaker.leave()
    assert stats(asker)[OURS + "NotDelivered"] == {"broadcast": lost}


def test_a_sender_that_has_to_wait_says_for_whom(switch: PureSwitch) -> None:
    speaker, reader, asker = switch.client(), switch.client(), switch.client()
    assert of(asker, speaker.name, "WaitsFor") == ""
    while not switch.delivery.flow.pauses:
        speaker.ask(reader.name, "Do", "s", LARGE, flags=NO_REPLY_EXPECTED)
        switch.turn()
    assert of(asker, speaker.name, "WaitsFor") == reader.name
    waiting = stats(asker, "GetConnectionStats", speaker.name)
    assert waiting["IncomingMessages"] == 1
    assert waiting["IncomingBytes"] > len(LARGE)
    reader.read()
    switch.turns()
    assert of(asker, speaker.name, "WaitsFor") == ""
    assert stats(asker, "GetConnectionStats", speaker.name)["IncomingBytes"] == 0


def test_calls_that_wait_for_their_answers_are_counted_at_both_ends(switch: PureSwitch) -> None:
    caller, callee = switch.client(), switch.client()
    for _ in range(3):
        caller.ask(callee.name)
    assert of(caller, caller.name, "PendingReplies") == of(caller, callee.name, "AwaitedReplies") == 3
    callee.answer(callee.take())
    assert of(caller, caller.name, "PendingReplies") == of(caller, callee.name, "AwaitedReplies") == 2


def test_descriptors_that_came_without_their_message_are_incoming(switch: PureSwitch) -> None:
    client, asker = switch.client(), switch.client()
    client.say(b"l", (60, 61))
    waiting = stats(asker, "GetConnectionStats", client.name)
    assert (waiting["IncomingBytes"], waiting["IncomingFDs"], waiting["PeakIncomingFDs"]) == (1, 2, 2)


def test_each_user_has_what_is_left_and_the_maximum(switch: PureSwitch) -> None:
    client, reader = switch.client(), switch.client()
    ((uid, slots, shares),) = stats(client)[OURS + "UserAccounting"]
    assert (uid, [slot[0] for slot in slots]) == (UID, ["Objects", "Handles", "Bytes", "Fds"])
    assert all(0 < left <= maximum for _, left, maximum in slots)
    client.ask(reader.name, "Do", "h", 0, fds=(40,), flags=NO_REPLY_EXPECTED)
    ((_, slots, shares),) = stats(client)[OURS + "UserAccounting"]
    assert shares[UID]["Fds"] == 1
    assert shares[UID]["Bytes"] > 512
    reader.read()
    ((_, _, shares),) = stats(client)[OURS + "UserAccounting"]
    assert shares.get(UID, {}).get("Fds", 0) == 0


def test_each_peer_has_its_credentials_and_what_it_uses(switch: PureSwitch) -> None:
    client, other = switch.client(), switch.client()
    client.call("RequestName", "su", "a.name", 0)
    client.call("AddMatch", "s", "member='A'")
    client.ask(other.name)
    entries = {
        name: (credentials, counts) for name, credentials, counts in stats(client)[OURS + "PeerAccounting"]
    }
    assert entries.keys() == {client.name, other.name}
    credentials, counts = entries[client.name]
    assert credentials["UnixUserID"] == Variant("u", UID)
    assert credentials["ProcessID"] == Variant("u", 77)
    assert (counts["NameObjects"], counts["Matches"], counts["ReplyObjects"]) == (1, 1, 1)
    assert entries[other.name][1]["OutgoingBytes"] > 0


def test_native_peers_are_counted_and_can_be_asked_about() -> None:
    switch = PureSwitch()
    client = switch.client()
    before = stats(client)["ActiveConnections"]
    peer = switch.core.peer_new(UID)
    switch.gateway.peer_opened(peer, switch.tables.bus_credentials)
    party = switch.tables.parties[peer]
    assert stats(client)["ActiveConnections"] == before
    switch.gateway.registry.announce(party)
    assert stats(client)["ActiveConnections"] == before + 1
    of_native = stats(client, "GetConnectionStats", party.unique)
    assert (of_native["UniqueName"], of_native["BusNames"], of_native["MatchRules"]) == (party.unique, 1, 0)
    switch.gateway.peer_disconnect(peer)
    switch.settle()
    assert stats(client)["BusNames"] == 1
    switch.end()


def test_numbers_that_are_too_large_are_written_as_the_largest(switch: PureSwitch) -> None:
    client = switch.client()
    switch.tables.names.tally.peak = 1 << 40
    assert stats(client)["PeakBusNames"] == 0xFFFF_FFFF


def test_statistics_of_a_bus_with_natives_alone_have_no_stream() -> None:
    bus = MixedBus()
    native = bus.native()
    native.publish("a.name")
    assert bus.tables.names.tally.of(native.peer) == 2
    bus.end()
    assert bus.tables.names.tally.total == 0


# ---- the tally -----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["add", "remove", "forget"])), max_size=60))
def test_a_tally_says_what_a_list_of_all_would(steps: list[tuple[int, str]]) -> None:
    tally, counts, peaks = Tally(), dict.fromkeys(range(4), 0), dict.fromkeys(range(4), 0)
    peak = owner_peak = 0
    for owner, step in steps:
        if step == "add":
            tally.add(owner)
            counts[owner] += 1
        elif step == "forget":
            tally.forget(owner)
            counts[owner] = peaks[owner] = 0
        elif counts[owner]:
            tally.remove(owner)
            counts[owner] -= 1
        peaks[owner] = max(peaks[owner], counts[owner])
        peak, owner_peak = max(peak, sum(counts.values())), max(owner_peak, counts[owner])
        assert {owner: tally.of(owner) for owner in counts} == counts
        assert {owner: tally.peak_of(owner) for owner in counts} == peaks
        assert (tally.total, tally.peak, tally.owner_peak) == (sum(counts.values()), peak, owner_peak)
