"""What the bus says when it refuses: who, what, which rule or limit, how much; and little of a flood."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator

import pytest
from bus1_bridge import codec
from bus1_bridge.policy import Fields
from bus1_bridge.switch.effects import Refusal
from bus1_bridge.switch.flow import PAIR_MARK, READER_MARK
from bus1_bridge.switch.limits import BusLimits, Excess
from bus1_bridge.switch.refusals import CAUSES, Refusals
from daemons import OPEN, Daemon, path_of
from dbus_client import SIGNAL, CallFailed, Client, Wire
from pure_switch import CALL, ERROR, NO_REPLY_EXPECTED, PureSwitch

from bus1.record import fields

WHO = 'uid=1000 pid=77 comm="program"'
MIB = 1 << 20


@pytest.fixture
def bus() -> Iterator[PureSwitch]:
    bus = PureSwitch()
    bus.tables.command_of = lambda pid: "program"
    yield bus
    bus.end()


def records(bus: PureSwitch) -> list[Refusal]:
    bus.settle()
    return [effect for effect in bus.effects if isinstance(effect, Refusal)]


def array_of(n: int) -> bytes:
    """The body of a message with so many bytes in an array."""
    return struct.pack("<I", n) + bytes(n)


# ---- texts ---------------------------------------------------------------------------------------


def test_a_limit_says_what_whose_and_how_much_to_the_client_and_to_the_log(bus: PureSwitch) -> None:
    bus.router.configure(BusLimits(max_match_rules_per_connection=1), bus.tables.policy)
    client = bus.client()
    client.call("AddMatch", "s", "type='signal'")
    got = client.call("AddMatch", "s", "type='error'")
    text = (
        f'Connection "{client.name}" is not allowed to add more match rules '
        f"(max_match_rules_per_connection=1, in use: 1); no room for \"type='error'\"; "
        f"asked for by {client.name} ({WHO})"
    )
    assert (got.error, got.args) == (ERROR + "LimitsExceeded", (text,))
    limit = "max_match_rules_per_connection"
    assert records(bus) == [Refusal("limit", client.name, "", limit, text, 1)]


def test_a_full_queue_says_which_message_and_both_ends(bus: PureSwitch) -> None:
    sender, stuck = bus.client(), bus.client()
    body = array_of(PAIR_MARK // 2 + MIB)
    sender.ask(stuck.name, "First", "ay", body=body)
    bus.pass_time(1.0)
    sender.ask(stuck.name, "Second", "ay", body=body)
    bus.pass_time(1.0)
    got = sender.take()
    used = bus.core.queued(sender.connection, stuck.connection).bytes
    assert got.args == (
        f"Rejected: too much of the sender waits for the destination already (bytes_per_sender={PAIR_MARK}, "
        f'in use: {used}); type="method_call", sender="{sender.name}" ({WHO}) interface="a.b.C" '
        f'member="Second" error name="(unset)" requested_reply="0" destination="{stuck.name}" ({WHO})',
    )
    (record,) = records(bus)
    assert (record.kind, record.sender, record.receiver, record.times) == ("call", sender.name, stuck.name, 1)
    assert record.text == got.args[0]


def test_a_lost_broadcast_is_told_to_the_log_with_its_reader(bus: PureSwitch) -> None:
    sender, stuck = bus.client(), bus.client()
    stuck.call("AddMatch", "s", "type='signal'")
    for _ in range(10):
        bus.pass_time(1.0)
        sender.emit("Changed", "ay", body=array_of(10 * MIB))
    (record,) = {(r.kind, r.sender, r.receiver, r.cause) for r in records(bus)}
    assert record[:3] == ("broadcast", sender.name, stuck.name)
    assert sum(r.times for r in records(bus)) == 9
    text = records(bus)[0].text
    assert 'type="signal"' in text and 'member="Changed"' in text
    assert f'destination="{stuck.name}" ({WHO})' in text


def test_what_waits_for_a_service_is_limited_in_words(bus: PureSwitch) -> None:
    bus.services["a.b.Sleeper"] = "sleep"
    sender = bus.client()
    for _ in range(2):
        sender.ask("a.b.Sleeper", "Do", "ay", body=array_of(PAIR_MARK // 2 + MIB))
    text = str(sender.take().args[0])
    assert text.startswith(
        "Rejected: too much of the sender waits for the destination already "
        f"(bytes_per_sender={PAIR_MARK}, in use: "
    )
    assert text.endswith(
        f"; no message to a.b.Sleeper is kept until it is started; asked for by {sender.name} ({WHO})"
    )
    assert READER_MARK > PAIR_MARK


def test_every_limit_has_words() -> None:
    bus = PureSwitch()
    client = bus.client()
    party = bus.tables.parties[client.connection]
    named = {name for name in fields(BusLimits) if name.startswith(("max_", "new_"))}
    # these end a connection, or wait
    named -= {"max_message_size", "max_message_unix_fds", "max_incomplete_connections"}
    for limit in named:
        text = bus.delivery.refusals.over(Excess(limit, 7, 8), party, "nothing")
        assert f"({limit}=7, in use: 8); nothing; asked for by {client.name} (" in text
    bus.end()


# ---- floods --------------------------------------------------------------------------------------


def test_the_text_of_a_flood_is_made_once_and_the_causes_are_bounded(bus: PureSwitch) -> None:
    refusals, made = Refusals(bus.tables), []

    def text() -> str:
        made.append(1)
        return "refused"

    client = bus.tables.parties[bus.client().connection]
    for _ in range(50):
        refusals.note("call", client, None, "a rule", text)
    assert len(made) == 1
    for number in range(CAUSES + 10):
        refusals.note("call", client, f":9.{number}", "a rule", text)
    taken = refusals.take()
    assert len(taken) == CAUSES + 1
    assert taken[0] == Refusal("call", client.unique, "", "a rule", "refused", 50)
    assert (taken[-1].text, taken[-1].times) == ("more was refused, of others", 11)
    assert refusals.take() == []


def test_a_message_without_any_field_can_be_put_into_words(bus: PureSwitch) -> None:
    text = Refusals(bus.tables).message(None, None, Fields(9))
    assert text == (
        'type="9", sender="org.freedesktop.DBus" (bus) interface="(unset)" member="(unset)" '
        'error name="(unset)" requested_reply="0" destination="org.freedesktop.DBus" (bus)'
    )


DENY = OPEN + '<policy context="mandatory"><deny send_interface="x.Forbidden"/></policy>'


def counted(said: str, pattern: str) -> int:
    """How many happened, by the counts of the lines."""
    found = re.findall(rf"(?m)^.*{pattern}.*?(?: \((\d+) times\))?$", said)
    return sum(int(times or 1) for times in found)


def test_a_flood_of_refusals_makes_few_lines_with_the_right_counts(bridge: Daemon) -> None:
    process, address = bridge.serve("--config-file", bridge.configure(policy=DENY))
    n = 3000
    with Client(path_of(address)) as sender, Client(path_of(address)) as reader:
        data = b"".join(
            codec.build(
                CALL, serial=1000 + i, path="/x", interface="x.Forbidden", member=f"M{i}",
                destination=reader.name, flags=NO_REPLY_EXPECTED,
            )
            for i in range(100)
        )
        for _ in range(n // 100):
            sender.write(data)
            sender.drain()
        reader.sync()
        assert reader.drain() == []
    said = bridge.stop(process)
    lines = [line for line in said.splitlines() if "Rejected send message" in line]
    assert 1 <= len(lines) < n / 30
    assert counted(said, "Rejected send message") == n
    for line in lines:
        assert f'sender="{sender.name}" (uid={os.getuid()} pid={os.getpid()} comm="' in line
        assert f'destination="{reader.name}" (uid=' in line
        assert re.search(r'decided by <deny send_interface="x.Forbidden"/> \(.*/bus.conf:\d+\)', line)


def test_one_client_that_is_refused_everything_leaves_the_log_to_others(bridge: Daemon) -> None:
    """It has a cause for every destination; what others did still stands there."""
    policy = DENY + '<policy context="mandatory"><deny own_prefix="x.mine"/></policy>'
    process, address = bridge.serve("--config-file", bridge.configure(policy=policy))
    path = path_of(address)
    with Client(path) as flooder, Client(path) as other:
        readers = [bridge.cleanup.enter_context(Client(path)) for _ in range(100)]
        for _ in range(3):
            for reader in readers:
                flooder.send(SIGNAL, path="/x", interface="x.Forbidden", member="M", to=reader.name)
        with pytest.raises(CallFailed):
            other.own("x.mine.Name")
        flooder.sync()
    said = bridge.stop(process)
    assert f'Connection "{other.name}" is not allowed to own the service "x.mine.Name"' in said
    about = [line for line in said.splitlines() if "Rejected send" in line or f"about {flooder.name}" in line]
    assert counted("\n".join(about), "(?:Rejected send|more about)") == 300
    assert len(about) < 100


def test_who_is_put_out_is_named_with_the_reason(bridge: Daemon) -> None:
    process, address = bridge.serve("--config-file", bridge.configure())
    with Client(path_of(address)) as client:
        client.write(b"nonsense nonsense")
        assert client.rest() == b""
    with Wire(path_of(address)) as stranger:
        stranger.write(b"nonsense")
        stranger.rest()
    said = bridge.stop(process)
    who = f'(uid={os.getuid()} pid={os.getpid()} comm="'
    assert f"closed the connection of {client.name} {who}" in said
    assert f"closed the connection of a client without a name {who}" in said
