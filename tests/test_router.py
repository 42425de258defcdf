"""The router: connections, budgets, plans and output, through the bytes of D-Bus clients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from bus1_bridge.sasl import MAX_BUFFER, MAX_LINES
from bus1_bridge.switch.connection import AUTH_CHUNK, CHUNK
from bus1_bridge.switch.flow import BUS_MARK, PATIENCE
from bus1_bridge.switch.limits import BusLimits
from bus1_bridge.switch.router import WORK_PER_TURN
from pure_switch import (
    CALL,
    DRIVER,
    DRIVER_PATH,
    ERROR,
    FAULT,
    NO_AUTO_START,
    NO_REPLY_EXPECTED,
    RETURN,
    SIGN_IN,
    SIGNAL,
    UID,
    Client,
    PureSwitch,
    message,
)

from bus1.core.api import Parcel
from bus1.errors import QuotaExceeded

HELLO = message(CALL, 1, path=DRIVER_PATH, interface=DRIVER, member="Hello", destination=DRIVER)


@pytest.fixture
def bus() -> Iterator[PureSwitch]:
    switch = PureSwitch()
    yield switch
    switch.end()


# ---- connecting ----------------------------------------------------------------------------------


def test_everything_may_come_in_one_piece_and_in_pieces_of_one_byte(bus: PureSwitch) -> None:
    for pieces in ([SIGN_IN + HELLO], [bytes((byte,)) for byte in SIGN_IN + HELLO]):
        client = Client(bus, bus.connect())
        for piece in pieces:
            client.say(piece)
        answers = client.raw()
        assert answers.startswith(b"OK ")
        assert b"AGREE_UNIX_FD\r\nl\2" in answers
        assert b"NameAcquired" in answers


def test_answers_and_first_messages_go_together_and_in_pieces_of_any_size(bus: PureSwitch) -> None:
    streams: list[bytes] = []
    for size in (1, 7, 60, 1 << 20):
        client = Client(bus, bus.connect())
        client.say(SIGN_IN + HELLO)
        written = b""
        while items := bus.router.outgoing(client.connection, 1 << 20):
            waiting = b"".join(bytes(part) for parts, _ in items for part in parts)
            assert written or b"NameAcquired" in waiting
            written += waiting[:size]
            bus.router.sent(client.connection, len(waiting[:size]), bus.now)
        streams.append(written.replace(f":1.{len(streams)}".encode(), b":1.0"))
    assert len(set(streams)) == 1
    assert streams[0].startswith(b"OK ")


def test_times_to_look_at_connections_are_not_kept_for_those_that_have_a_name(bus: PureSwitch) -> None:
    silent = bus.connect()
    for _ in range(200):
        bus.client()
        bus.router.disconnect(bus.connect(), bus.now)
    assert len(bus.router._deadlines._heap) < 100
    bus.pass_time(bus.limits.auth_timeout)
    assert bus.close_reason(silent) == "no Hello in time (auth_timeout=240000ms)"


def test_unique_names_are_counted_at_hello(bus: PureSwitch) -> None:
    first, second = bus.client(hello=False), bus.client(hello=False)
    assert second.call("Hello").args == (":1.0",)
    assert first.call("Hello").args == (":1.1",)


def test_other_users_are_turned_away_without_a_word(bus: PureSwitch) -> None:
    connection = bus.connect(uid=UID + 1)
    client = Client(bus, connection)
    theirs, ours = (str(uid).encode().hex().encode() for uid in (UID + 1, UID))
    client.say(SIGN_IN.replace(ours, theirs) + HELLO)
    assert client.raw().startswith(b"OK "), "what was said before"
    assert client.raw() == b""
    assert bus.close_reason(connection) == f"user {UID + 1} may not connect: no rule allows it"
    root = Client(bus, bus.connect(uid=0))
    root.say(b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n")
    assert root.raw().startswith(b"OK ")
    assert bus.close_reason(root.connection) is not None


def test_nothing_that_a_refused_client_has_sent_is_done_whatever_becomes_of_it(bus: PureSwitch) -> None:
    theirs, ours = (str(uid).encode().hex().encode() for uid in (UID + 1, UID))
    for leave in (bus.router.end_of_input, bus.router.hang_up):
        connection = bus.connect(uid=UID + 1)
        Client(bus, connection).say(SIGN_IN.replace(ours, theirs) + HELLO)
        leave(connection, bus.now)
        bus.turns()
        assert bus.tables.unique == {}
        assert not bus.router.wants_input(connection)


def test_a_connection_without_hello_ends_after_auth_timeout(bus: PureSwitch) -> None:
    signed_in, silent, named = bus.client(hello=False), bus.connect(), bus.client()
    assert bus.router.next_deadline() == bus.limits.auth_timeout
    bus.pass_time(bus.limits.auth_timeout - 0.5)
    assert bus.close_reason(silent) is None
    bus.pass_time(0.5)
    late = "no Hello in time (auth_timeout=240000ms)"
    assert bus.close_reason(silent) == bus.close_reason(signed_in.connection) == late
    assert named.call("GetId").type == RETURN


def test_no_more_are_accepted_while_too_many_have_no_name() -> None:
    bus = PureSwitch(BusLimits(max_incomplete_connections=2))
    first = bus.client(hello=False)
    assert bus.router.accepts()
    second = bus.connect()
    assert not bus.router.accepts()
    first.call("Hello")
    assert bus.router.accepts()
    bus.router.disconnect(second, bus.now)
    bus.end()


def test_the_last_rejection_is_sent_before_the_end(bus: PureSwitch) -> None:
    client = Client(bus, bus.connect())
    client.say(b"\0" + b"AUTH\r\n" * 7)
    assert not bus.router.wants_input(client.connection)
    assert bus.close_reason(client.connection) is None
    assert client.raw() == b"REJECTED EXTERNAL\r\n" * 6
    assert bus.close_reason(client.connection) == "authentication failed"


def test_who_does_not_read_the_answers_to_its_authentication_is_read_no_further_and_closed_in_time(
    bus: PureSwitch,
) -> None:
    client = Client(bus, bus.connect())
    client.say(b"\0" + b"\r\n" * MAX_LINES)
    assert not bus.router.wants_input(client.connection)
    assert bus.close_reason(client.connection) is None
    bus.pass_time(bus.limits.auth_timeout)
    assert bus.close_reason(client.connection) == "no Hello in time (auth_timeout=240000ms)"


def test_little_is_read_in_one_go_before_begin_and_much_afterwards(bus: PureSwitch) -> None:
    client = Client(bus, bus.connect())
    assert bus.router.wanted(client.connection) == AUTH_CHUNK
    client.say(SIGN_IN)
    assert bus.router.wanted(client.connection) == CHUNK


def test_more_than_an_authentication_can_need_in_one_arrival_closes(bus: PureSwitch) -> None:
    client = Client(bus, bus.connect())
    client.say(b"\0" + b"x" * 1000)
    client.say(b"\r\n" + b"y" * (MAX_BUFFER - 1001))
    assert bus.close_reason(client.connection) is not None


def test_malformed_bytes_end_their_connection_alone(bus: PureSwitch) -> None:
    offender, other = bus.client(), bus.client()
    other.call("AddMatch", "s", "type='signal'")
    offender.say(b"x" * 16)
    assert bus.close_reason(offender.connection)
    assert [(got.member, got.args) for got in other.take_all()] == [
        ("NameOwnerChanged", (offender.name, offender.name, ""))
    ]


# ---- budgets -------------------------------------------------------------------------------------


PINGS = WORK_PER_TURN // 2
"""Each is a message, and has an answer."""


def test_a_turn_handles_a_bounded_number_of_messages_per_connection(bus: PureSwitch) -> None:
    busy, other = bus.client(), bus.client()
    ping = [message(
        CALL, 100 + i, path="/", interface="org.freedesktop.DBus.Peer", member="Ping", destination=DRIVER,
    ) for i in range(3 * PINGS)]
    busy.say(b"".join(ping))
    assert not bus.router.wants_input(busy.connection)
    assert bus.router.next_deadline() == bus.now
    assert other.call("GetId").type == RETURN
    assert len(busy.take_all()) == PINGS
    bus.turns()
    rest = range(100 + PINGS, 100 + len(ping))
    assert [got.reply_serial for got in busy.take_all()] == list(rest)
    assert bus.router.wants_input(busy.connection)


def test_a_long_body_is_checked_in_many_turns_while_others_go_on(bus: PureSwitch) -> None:
    busy, other = bus.client(), bus.client()
    busy.ask(other.name, "Long", "as", ["text"] * 100_000)
    turns = 0
    while not bus.core.is_readable(other.connection):
        assert not bus.router.wants_input(busy.connection)
        bus.turn()
        turns += 1
    assert turns > 2
    assert other.take().member == "Long"


def test_thousands_of_requests_are_served_before_their_answers_are_read(bus: PureSwitch) -> None:
    client = bus.client()
    for i in range(3000):
        client.ask(DRIVER, "RequestName", "su", f"org.example.Name{i}", 0, path=DRIVER_PATH, interface=DRIVER)
        assert bus.router.wants_input(client.connection)
    assert sum(got.type == RETURN for got in client.take_all()) == 3000


def test_who_does_not_read_its_answers_is_not_read(bus: PureSwitch) -> None:
    client = bus.client()
    n = 0
    while bus.router.wants_input(client.connection):
        client.ask(DRIVER, "Introspect", path=DRIVER_PATH, interface="org.freedesktop.DBus.Introspectable")
        n += 1
        assert n < BUS_MARK // 2048
    assert bus.core.waiting(client.connection).bytes > BUS_MARK
    assert len(client.take_all()) == n
    bus.turns()
    assert bus.router.wants_input(client.connection)


def test_who_never_reads_its_answers_and_goes_has_its_messages_carried_out(bus: PureSwitch) -> None:
    client, other = bus.client(), bus.client()
    introspect = message(
        CALL, 9, path=DRIVER_PATH, interface="org.freedesktop.DBus.Introspectable", member="Introspect",
        destination=DRIVER,
    )
    last = message(
        CALL, 10, path="/", member="Last", destination=other.name, flags=NO_REPLY_EXPECTED,
    )
    client.say(introspect * (BUS_MARK // 2048) + last)
    bus.turns()
    bus.router.end_of_input(client.connection, bus.now)
    assert other.take_all() == []
    bus.router.hang_up(client.connection, bus.now)
    bus.turns()
    assert [got.member for got in other.take_all()] == ["Last"]
    assert bus.close_reason(client.connection) == ""


# ---- output --------------------------------------------------------------------------------------


def test_a_message_waits_in_core_until_its_last_byte_is_written(bus: PureSwitch) -> None:
    sender, reader = bus.client(), bus.client()
    sender.emit("One", "s", "x" * 100, destination=reader.name)
    sender.emit("Two", destination=reader.name)
    queue = bus.core.snapshot()["peers"][reader.connection]["queue"]
    assert [entry["sender"] for entry in queue] == [sender.connection] * 2
    assert bus.core.queued(sender.connection, reader.connection).bytes > 0
    items = bus.router.outgoing(reader.connection, 1 << 20)
    first, second = (b"".join(map(bytes, parts)) for parts, _ in items)
    written = b""
    for size in (1, 50, len(first) - 52):
        bus.router.sent(reader.connection, size, bus.now)
        written += first[len(written) : len(written) + size]
        assert bus.core.waiting(reader.connection).messages == 2
        rest = b"".join(map(bytes, bus.router.outgoing(reader.connection, 1 << 20)[0][0]))
        assert written + rest == first
    bus.router.sent(reader.connection, 1, bus.now)
    assert bus.core.waiting(reader.connection).messages == 1
    bus.router.sent(reader.connection, len(second), bus.now)
    assert bus.core.waiting(reader.connection).messages == 0
    assert bus.core.waiting(reader.connection).bytes == 0


def test_outgoing_gives_about_as_much_as_was_asked_for_and_one_message_at_least(bus: PureSwitch) -> None:
    sender, reader = bus.client(), bus.client()
    for _ in range(10):
        sender.emit("Big", "ay", bytes(1000), destination=reader.name)
    assert len(bus.router.outgoing(reader.connection, 1)) == 1
    assert len(bus.router.outgoing(reader.connection, 3000)) == 3
    assert len(bus.router.outgoing(reader.connection, 1 << 20)) == 10


def test_small_bodies_go_in_one_buffer_with_their_header_and_large_ones_are_shared(bus: PureSwitch) -> None:
    sender, readers = bus.client(), [bus.client() for _ in range(3)]
    for reader in readers:
        reader.call("AddMatch", "s", "type='signal'")
    sender.emit("Small", "s", "x")
    sender.emit("Large", "ay", bytes(100_000))
    outputs = [bus.router.outgoing(reader.connection, 1 << 20) for reader in readers]
    assert all(len(small[0]) == 1 and len(large[0]) == 2 for small, large in outputs)
    bodies = {id(getattr(large[0][1], "obj", None)) for _, large in outputs}
    assert len(bodies) == 1


# ---- ends ----------------------------------------------------------------------------------------


def test_after_eof_what_is_complete_is_executed_and_the_output_is_drained(bus: PureSwitch) -> None:
    client = bus.client()
    for i in range(2 * PINGS):
        client.say(message(CALL, 50 + i, path="/", member="GetId", interface=DRIVER, destination=DRIVER))
    client.say(b"l\1\0\1")
    bus.router.end_of_input(client.connection, bus.now)
    bus.turns()
    assert bus.close_reason(client.connection) is None
    assert len(client.take_all()) == 2 * PINGS
    assert bus.close_reason(client.connection) == ""


def test_a_client_that_is_gone_still_has_its_last_words_heard(bus: PureSwitch) -> None:
    client, other = bus.client(), bus.client()
    client.ask(other.name, "LastWords", flags=NO_REPLY_EXPECTED)
    bus.router.hang_up(client.connection, bus.now)
    assert bus.router.outgoing(client.connection, 1 << 20) == []
    client.ask(other.name, "VeryLast", flags=NO_REPLY_EXPECTED)
    bus.router.end_of_input(client.connection, bus.now)
    bus.settle()
    assert [got.member for got in other.take_all()] == ["LastWords", "VeryLast"]
    assert bus.close_reason(client.connection) == ""


def test_what_a_client_that_reads_no_more_causes_is_dropped_and_its_requests_still_count(
    bus: PureSwitch,
) -> None:
    """It may go on asking for ever: neither its answers nor what others send it pile up."""
    client, other = bus.client(), bus.client()
    at_rest = bus.charges()
    other.ask(client.name, "Unread", "ay", bytes(3000), flags=NO_REPLY_EXPECTED)
    bus.router.hang_up(client.connection, bus.now)
    assert bus.charges() == at_rest
    for _ in range(100):
        client.ask(DRIVER, "Introspect", path=DRIVER_PATH, interface="org.freedesktop.DBus.Introspectable")
        other.ask(client.name, "Unread", "ay", bytes(3000), flags=NO_REPLY_EXPECTED)
        assert bus.core.waiting(client.connection).bytes < 20_000
    client.ask(other.name, "Last", flags=NO_REPLY_EXPECTED)
    assert other.take().member == "Last"
    bus.turn()
    assert bus.charges() == at_rest
    bus.router.end_of_input(client.connection, bus.now)
    bus.turns()
    assert bus.close_reason(client.connection) == ""


def test_much_that_waits_for_a_client_that_reads_no_more_is_dropped_turn_by_turn(bus: PureSwitch) -> None:
    client, other = bus.client(), bus.client()
    for _ in range(5000):
        other.ask(client.name, "Unread", flags=NO_REPLY_EXPECTED)
    bus.router.hang_up(client.connection, bus.now)
    assert 0 < bus.core.waiting(client.connection).messages < 5000
    assert not bus.router.wants_input(client.connection)
    bus.turns()
    assert not bus.core.waiting(client.connection).messages
    assert bus.router.wants_input(client.connection)


def test_a_sender_that_waits_for_a_client_goes_on_when_that_reads_no_more(bus: PureSwitch) -> None:
    client, other = bus.client(), bus.client()
    while bus.router.wants_input(other.connection):
        other.ask(client.name, "Unread", "ay", bytes(1 << 20), flags=NO_REPLY_EXPECTED)
        bus.turns()
    assert bus.delivery.flow.pauses
    bus.router.hang_up(client.connection, bus.now)
    bus.turns()
    assert bus.router.wants_input(other.connection)
    assert other.take_all() == []


def test_a_callee_s_end_is_told_in_the_reference_s_order(bus: PureSwitch) -> None:
    caller, callee = bus.client(), bus.client()
    for name in ("a.first", "a.second"):
        callee.call("RequestName", "su", name, 0)
    caller.call("AddMatch", "s", "type='signal',member='NameOwnerChanged'")
    serial = caller.ask(callee.name)
    callee.leave()
    got = caller.take_all()
    assert [g.args[0] for g in got[:3]] == ["a.second", "a.first", callee.name]
    assert (got[3].error, got[3].reply_serial, got[3].sender) == (ERROR + "NoReply", serial, DRIVER)
    assert len(got) == 4


def test_what_a_sender_left_behind_still_arrives(bus: PureSwitch) -> None:
    sender, reader = bus.client(), bus.client()
    sender.ask(reader.name, "Letter")
    sender.leave()
    assert reader.take().member == "Letter"
    assert reader.ask(sender.name) and reader.take().error == ERROR + "ServiceUnknown"


# ---- what Core refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [NO_REPLY_EXPECTED, 0])
def test_a_refused_message_closes_no_slot_but_its_own(bus: PureSwitch, flags: int) -> None:
    caller, callee = bus.client(), bus.client()
    first = caller.ask(callee.name, "First")
    bus.core.peer_reset(callee.connection, max_slices=1)
    caller.ask(callee.name, "Second", flags=flags, serial=first if flags else 0)
    assert caller.take().error == ERROR + "LimitsExceeded"
    assert bus.tables.replies.outstanding(caller.connection) == 1
    callee.answer(callee.take())
    assert caller.take().reply_serial == first
    assert bus.tables.replies.outstanding(caller.connection) == 0


@pytest.mark.parametrize("mandatory", [True, False])
def test_what_core_refuses_is_no_progress_of_its_reader(bus: PureSwitch, mandatory: bool) -> None:
    sender, reader = bus.client(), bus.client()
    sender.ask(reader.name, "First")
    bus.core.peer_reset(reader.connection, max_slices=1)
    flow = bus.delivery.flow
    flow.look_at_native(reader.connection, bus.now)
    bus.delivery.now = 10.0
    lost = message(SIGNAL, 9, path="/", interface="a.b", member="Lost")
    parcel = Parcel((reader.connection, 0), (lost,), mandatory=mandatory)
    with suppress(QuotaExceeded):
        bus.delivery.transmit(None, [parcel])
    flow.look_at_native(reader.connection, 20.0)
    assert not flow.makes_progress(reader.connection, 20.0)


# ---- descriptors ---------------------------------------------------------------------------------


def test_descriptors_go_with_the_first_byte_and_are_freed_with_the_last(bus: PureSwitch) -> None:
    sender, reader = bus.client(), bus.client()
    sender.ask(reader.name, "Take", "hh", 0, 1, fds=(1001, 1002))
    [(parts, fds)] = bus.router.outgoing(reader.connection, 1 << 20)
    assert fds == (1001, 1002)
    bus.router.sent(reader.connection, 1, bus.now)
    assert bus.router.outgoing(reader.connection, 1 << 20)[0][1] == ()
    assert bus.closed_fds == []
    bus.router.sent(reader.connection, sum(map(len, parts)) - 1, bus.now)
    bus.settle()
    assert sorted(bus.closed_fds) == [1001, 1002]


def test_descriptors_of_a_message_that_goes_nowhere_are_closed(bus: PureSwitch) -> None:
    sender, deaf = bus.client(), bus.client(hello=False)
    for i, to in enumerate(("a.b", ":1.77", DRIVER, None)):
        sender.send(
            SIGNAL, "h", 0, path="/x", interface="a.b", member="M", destination=to, fds=(1000 + i,),
        )
    assert sorted(bus.closed_fds) == [1000, 1001, 1002, 1003]
    deaf.leave()


def test_descriptors_of_a_message_that_ends_the_connection_are_closed(bus: PureSwitch) -> None:
    other, early = bus.client(), bus.client(hello=False)
    early.ask(other.name, "TooEarly", fds=[41, 42])
    assert bus.close_reason(early.connection) == "a message to others before Hello"
    assert sorted(bus.closed_fds) == [41, 42]


def test_a_unicast_with_descriptors_is_refused_to_a_client_that_cannot_take_them(bus: PureSwitch) -> None:
    sender, reader = bus.client(), bus.client()
    bus.tables.parties[reader.connection].takes_fds = False  # type: ignore[attr-defined]
    serial = sender.ask(reader.name, "Take", "h", 0, fds=(1001,))
    assert sender.take().error == ERROR + "NotSupported"
    assert bus.closed_fds == [1001]
    # the call's slot is not left behind
    sender.ask(reader.name, "Take", serial=serial)
    assert reader.take().member == "Take"
    # a broadcast passes it by
    reader.call("AddMatch", "s", "type='signal'")
    sender.emit("With", "h", 0, fds=(1002,))
    assert reader.take_all() == []
    assert bus.closed_fds == [1001, 1002]


def test_descriptors_without_their_message_end_the_connection_in_time(bus: PureSwitch) -> None:
    half, other = bus.client(), bus.client()
    whole = message(
        CALL, 9, "h", 0, path="/", interface="a.b", member="M", destination=other.name, unix_fds=1,
        flags=NO_REPLY_EXPECTED,
    )
    bus.now = 10.0
    half.say(whole[:20], (1001,))
    bus.pass_time(bus.limits.pending_fd_timeout - 1)
    half.say(whole[20:] + whole[:20], (1002,))
    assert other.take().fds == (1001,)
    bus.pass_time(bus.limits.pending_fd_timeout - 1)
    assert bus.close_reason(half.connection) is None
    bus.pass_time(2)
    late = "descriptors without their message (pending_fd_timeout=150000ms)"
    assert bus.close_reason(half.connection) == late
    assert sorted(bus.closed_fds) == [1001, 1002]


@pytest.mark.parametrize("n", [16, 17])
def test_sixteen_descriptors_may_be_pending(bus: PureSwitch, n: int) -> None:
    client = bus.client()
    client.say(b"l", tuple(range(1000, 1000 + n)))
    assert (bus.close_reason(client.connection) is None) == (n == 16)
    client.leave()
    assert sorted(bus.closed_fds) == list(range(1000, 1000 + n))


def test_descriptors_without_negotiation_end_the_connection(bus: PureSwitch) -> None:
    client = Client(bus, bus.connect())
    client.say(SIGN_IN.replace(b"NEGOTIATE_UNIX_FD\r\n", b"") + b"l", (1001,))
    assert bus.close_reason(client.connection) == "descriptors came without negotiation"
    assert bus.closed_fds == [1001]


# ---- plans ---------------------------------------------------------------------------------------


def test_a_call_s_slot_is_used_once(bus: PureSwitch) -> None:
    caller, callee = bus.client(), bus.client()
    serial = caller.ask(callee.name)
    again = caller.ask(callee.name, serial=serial)
    assert again == serial
    assert caller.take().error == ERROR + "AccessDenied"
    [got] = callee.take_all()
    callee.answer(got)
    assert caller.take().reply_serial == serial
    caller.ask(callee.name, serial=serial)
    assert len(callee.take_all()) == 1


def test_replies_that_nobody_waits_for_are_delivered_on_a_session_bus(bus: PureSwitch) -> None:
    one, other = bus.client(), bus.client()
    one.send(RETURN, destination=other.name, reply_serial=99)
    assert (other.take().reply_serial, one.take_all()) == (99, [])


def test_max_replies_per_connection_is_told_to_the_caller() -> None:
    bus = PureSwitch(BusLimits(max_replies_per_connection=2))
    caller, callee = bus.client(), bus.client()
    for _ in range(3):
        caller.ask(callee.name)
    assert caller.take().error == ERROR + "LimitsExceeded"
    assert len(callee.take_all()) == 2
    caller.ask(callee.name, flags=NO_REPLY_EXPECTED)
    assert len(callee.take_all()) == 1
    bus.end()


@pytest.mark.parametrize(
    ("to", "flags", "error"),
    [
        ("a.b", 0, "ServiceUnknown"),
        (":1.99", 0, "ServiceUnknown"),
        ("a.b", NO_AUTO_START, "NameHasNoOwner"),
        ("a.b", NO_REPLY_EXPECTED, "ServiceUnknown"),
    ],
)
def test_an_unknown_destination_is_told_to_the_sender(
    bus: PureSwitch, to: str, flags: int, error: str
) -> None:
    client = bus.client()
    client.ask(to, flags=flags)
    got = client.take()
    assert got.error == ERROR + error
    assert to in got.args[0]


def test_eavesdroppers_get_copies_of_what_is_addressed_to_others(bus: PureSwitch) -> None:
    spy, one, other = bus.client(), bus.client(), bus.client()
    spy.call("AddMatch", "s", "eavesdrop='true'")
    spy.take_all()
    one.ask(other.name, "Secret")
    assert [(got.member, got.destination) for got in spy.take_all()] == [("Secret", other.name)]
    one.call("GetId")
    assert [got.member for got in spy.take_all()] == ["GetId"]
    assert [got.member for got in other.take_all()] == ["Secret"]


@pytest.mark.parametrize("type", [CALL, SIGNAL])
def test_a_path_that_only_looks_like_a_capability_waits_no_longer_than_others(
    bus: PureSwitch, type: int
) -> None:
    """docs/design.md §7: at most 100 ms for a reader that stands still."""
    sender, reader = bus.client(), bus.client()
    large = (8 << 20).to_bytes(4, "little") + bytes(8 << 20)
    for _ in range(2):
        sender.send(
            type, "ay", body=large, destination=reader.name, path="/org/bus1/cap/x", interface="a.b.C",
            member="Do",
        )
    assert not bus.router.wants_input(sender.connection)
    bus.pass_time(PATIENCE)
    bus.turns()
    assert bus.router.wants_input(sender.connection)
    assert [got.error for got in sender.take_all()] == [ERROR + "LimitsExceeded"]


def test_an_eavesdropper_that_is_addressed_gets_one_copy(bus: PureSwitch) -> None:
    one, other = bus.client(), bus.client()
    other.call("AddMatch", "s", "eavesdrop='true'")
    other.take_all()
    one.ask(other.name, "Secret")
    assert [got.member for got in other.take_all()] == ["Secret"]


def test_a_type_that_nobody_knows_is_refused_and_never_delivered(bus: PureSwitch) -> None:
    one, other = bus.client(), bus.client()
    one.send(7, path="/x", interface="a.b", member="M", destination=other.name)
    assert one.take().error == ERROR + "AccessDenied"
    assert other.take_all() == []
    one.send(7, path="/x", interface="a.b", member="M")
    assert one.take_all() == []


def test_fault_and_return_without_destination_go_nowhere(bus: PureSwitch) -> None:
    client = bus.client()
    client.send(RETURN, reply_serial=1)
    client.send(FAULT, reply_serial=1, error_name="a.b")
    assert client.take_all() == []
    assert client.call("GetId").type == RETURN
