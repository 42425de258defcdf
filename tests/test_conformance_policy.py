"""Policy on both daemons: what a refusal looks like, what it keeps from happening, and how rules change."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from buses import COMMANDS, Bus, eventually, fresh_bus
from dbus_client import BUS, BUS_PATH, ERROR, FAULT, RETURN, CallFailed, Client

OPEN = '<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>'
CLOSED = (
    '<deny own="*"/><deny send_type="method_call"/><allow send_type="signal"/>'
    '<allow send_requested_reply="true" send_type="method_return"/>'
    '<allow send_requested_reply="true" send_type="error"/>'
    '<allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/>'
    f'<allow receive_type="signal"/><allow send_destination="{BUS}" send_interface="{BUS}"/>'
)
"""What a system bus starts from."""
NAME = "com.example.A"


class Configured:
    """A bus whose configuration a test may change."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.path = folder / "bus.conf"
        self.services = folder / "services"
        self.services.mkdir()
        self.bus: Bus
        self.write(OPEN)

    def write(self, rules: str) -> None:
        self.path.write_text(
            f"<busconfig><type>session</type><listen>unix:path={self.folder}/bus</listen>"
            f"<servicedir>{self.services}</servicedir>"
            f'<policy context="default">{rules}</policy></busconfig>'
        )

    def change(self, rules: str) -> None:
        """Other rules, which hold when this returns."""
        self.write(rules)
        with Client(self.bus.path) as somebody:
            somebody.ask("ReloadConfig")


@pytest.fixture(params=list(COMMANDS))
def configured(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Configured]:
    config = Configured(request.param, tmp_path)
    for bus in fresh_bus(request.param, tmp_path, (f"--config-file={config.path}",)):
        config.bus = bus
        yield config


def refusal(call: Callable[[], object]) -> str:
    """The text with which a call is denied."""
    with pytest.raises(CallFailed) as caught:
        call()
    assert caught.value.name == "AccessDenied"
    return str(caught.value.answer.args[0])


def commonly(text: str, kind: str) -> str:
    """What both daemons say; we add the rule."""
    said, ours, rule = text.partition("; decided by ")
    assert bool(ours) == (kind == "bus1-bridge")
    assert not ours or "/> (" in rule
    return said


def test_a_refusal_names_both_ends_and_the_message(configured: Configured) -> None:
    sender, reader = configured.bus.connect(), configured.bus.connect()
    reader.own(NAME)
    configured.change(OPEN + '<deny send_interface="com.example.No"/>')
    text = refusal(lambda: sender.request(NAME, "M", path="/a", interface="com.example.No"))
    with open("/proc/self/cmdline", "rb") as file:
        command = file.read(50).replace(b"\0", b" ").strip().decode()
    label = text.partition('" label="')[2].partition('"')[0]
    who = f'uid={os.getuid()} pid={os.getpid()} comm="{command}"'
    who += f' label="{label}"' if label else ""
    assert commonly(text, configured.kind) == (
        f'Rejected send message, 2 matched rules; type="method_call", sender="{sender.name}" ({who}) '
        'interface="com.example.No" member="M" error name="(unset)" requested_reply="0" '
        f'destination="{NAME}" ({who})'
    )
    text = refusal(lambda: sender.request(BUS, "M", path=BUS_PATH, interface="com.example.No"))
    assert f'destination="{BUS}" (bus)' in text


def test_a_name_that_may_not_be_owned(configured: Configured) -> None:
    client = configured.bus.connect()
    configured.change(OPEN + f'<deny own="{NAME}"/>')
    assert commonly(refusal(lambda: client.own(NAME)), configured.kind) == (
        f'Connection "{client.name}" is not allowed to own the service "{NAME}" due to security policies in '
        "the configuration file"
    )
    assert client.ask("NameHasOwner", "s", NAME) == [False]


def test_what_may_not_be_called_is_not_started(configured: Configured) -> None:
    marker = configured.folder / "started"
    (configured.services / f"{NAME}.service").write_text(
        f"[D-BUS Service]\nName={NAME}\nExec=/usr/bin/touch {marker}\n"
    )
    configured.change(OPEN + f'<deny send_destination="{NAME}" send_interface="com.example.No"/>')
    client = configured.bus.connect()
    for serial in (
        client.call(NAME, "M", interface="com.example.No"),
        client.emit("S", to=NAME, interface="com.example.No"),
    ):
        assert client.reply(serial).error_name == FAULT + "AccessDenied"
    client.sync()
    assert not marker.exists()
    client.call(NAME, "M", interface="com.example.Yes")
    eventually(marker.exists, lambda: list(configured.folder.iterdir()))


def test_other_rules_hold_for_connections_that_exist(configured: Configured) -> None:
    sender, reader = configured.bus.connect(), configured.bus.connect()
    sender.emit("One", to=reader.name)
    configured.change(OPEN + '<deny send_member="Two" send_interface="x.Y"/>')
    sender.emit("Two", to=reader.name)
    configured.change(OPEN)
    sender.emit("Three", to=reader.name)
    sender.sync()
    assert [what[0] for what in reader.heard()] == ["One", "Three"]


def test_rules_that_cannot_be_read_change_nothing(configured: Configured) -> None:
    sender, reader = configured.bus.connect(), configured.bus.connect()
    configured.change(OPEN + '<deny send_path="/x"/>')
    configured.write("<bees/>")
    assert sender.fault("ReloadConfig") == "Failed"
    refusal(lambda: sender.request(reader.name, "M"))


def test_a_signal_of_the_system_reads_the_rules_again(configured: Configured) -> None:
    sender, reader = configured.bus.connect(), configured.bus.connect()
    configured.write(OPEN + '<deny send_interface="x.Y"/>')
    configured.bus.process.send_signal(signal.SIGHUP)

    def is_denied() -> bool:
        serial = sender.emit("S", to=reader.name)
        sender.sync()
        return any(got.type == ERROR and got.reply_serial == serial for got in sender.drain())

    eventually(is_denied, configured.bus.log)


def test_an_answer_passes_once_and_an_unasked_one_is_denied_to_who_gives_it(configured: Configured) -> None:
    sender, reader = configured.bus.connect(), configured.bus.connect()
    reader.own(NAME)
    reader.drain()
    configured.change(CLOSED + f'<allow send_destination="{NAME}"/>')
    serial = sender.call(NAME, "M")
    call = reader.receive()
    reader.answer(call)
    assert sender.reply(serial).type == RETURN
    again = reader.answer(call)
    denied = reader.reply(again)
    assert denied.error_name == FAULT + "AccessDenied"
    assert 'requested_reply="0"' in denied.args[0]
    assert sender.heard() == []


def test_refusals_are_logged_if_the_receiver_was_addressed(configured: Configured) -> None:
    sender, reader = configured.bus.connect(), configured.bus.connect()
    reader.match("type='signal'")
    configured.change(OPEN + '<deny send_path="/x"/><allow send_path="/y" log="true"/>')
    sender.emit("Broadcast")
    sender.emit("Unicast", to=reader.name)
    sender.emit("Reported", to=reader.name, path="/y")
    sender.sync()

    def lines() -> list[str]:
        return [line for line in configured.bus.log().splitlines() if "matched rules" in line]

    eventually(lambda: len(lines()) == 2, configured.bus.log)
    assert "Rejected send message" in lines()[0]
    assert 'member="Unicast"' in lines()[0]
    assert "Would reject message" in lines()[1]
    assert 'member="Reported"' in lines()[1]


def test_dbus_send_shows_the_refusal(configured: Configured) -> None:
    configured.change(OPEN + f'<deny send_destination="{BUS}" send_interface="{BUS}" send_member="GetId"/>')
    ran = subprocess.run(
        ["dbus-send", "--session", "--print-reply", f"--dest={BUS}", BUS_PATH, f"{BUS}.GetId"],
        env=configured.bus.environment, capture_output=True, text=True, timeout=20,
    )
    assert ran.returncode == 1
    assert "org.freedesktop.DBus.Error.AccessDenied: Rejected send message" in ran.stderr
