"""``bus1 migrate FILE.py``: services of five libraries, before and after, as their D-Bus clients see them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bus1_services.migrate.verb import MIGRATE
from buses import Bus, eventually, fresh_bus, reap
from dbus_client import ERROR, PATIENCE, Client

from bus1.cli import parser_of, run_command

FOREIGN = Path(__file__).parent / "foreign"
SYSTEM_PYTHON = "/usr/bin/python3"
"""The one for which Debian packages dasbus, pydbus and what they need of GLib."""
PROPERTIES = "org.freedesktop.DBus.Properties"

Step = tuple[Any, ...]


class Service:
    """A service before and after: what runs it, its name, and what clients do with it."""

    def __init__(self, file: str, python: str, interface: str, steps: list[Step]) -> None:
        self.file, self.python, self.interface, self.steps = file, python, interface, steps
        self.name = interface.removesuffix("1")
        self.path = "/" + self.name.replace(".", "/")


def call(member: str, signature: str = "", *args: Any, **more: Any) -> Step:
    return (member, signature, args, more)


def get(interface: str, name: str, **more: Any) -> Step:
    return ("Get", "ss", (interface, name), {"interface": PROPERTIES, **more})


def put(interface: str, name: str, value: tuple[str, Any], **more: Any) -> Step:
    return ("Set", "ssv", (interface, name, value), {"interface": PROPERTIES, **more})


JUKEBOX = "org.example.Jukebox1"
THERMOSTAT = "org.example.Thermostat1"
NOTEBOOK = "org.example.Notebook1"
REGISTER = "org.example.Register"
HEATER = "org.example.Heater1"
CHAT = "org.example.Chat1"
MEDIA = "org.example.Media"
SERVICES = [
    Service("fast_jukebox", sys.executable, JUKEBOX, [
        call("List"), call("Play", "s", "1"), call("Play", "s", "2"), call("Play", "s", "9"), call("Skip"),
        call("Skip"), call("Skip"), call("Describe", "sa{sv}", "1", {"shout": ("b", True)}),
        call("Describe", "sa{sv}", "8", {}), call("Add", "ss", "3", "Peggy Sue"),
        call("Add", "ss", "3", "again"),
        call("Move", "(ii)", (1, -2)), call("Explode"), call("Louder"), call("List", "s", "too much"),
        get(JUKEBOX, "Volume"), put(JUKEBOX, "Volume", ("y", 9)), put(JUKEBOX, "Volume", ("y", 12)),
        put(JUKEBOX, "Playing", ("s", "me")), get(JUKEBOX, "Label"), get(JUKEBOX, "Nothing"),
        ("GetAll", "s", (JUKEBOX,), {"interface": PROPERTIES}),
        get("org.example.Jukebox.About", "Info", path="/org/example/Jukebox/about"),
    ]),
    Service("next_thermostat", sys.executable, THERMOSTAT, [
        call("GetRooms"), call("Measure", "sd", "hall", 18.5), call("Measure", "sd", "hall", 18.5),
        call("Measure", "sd", "attic", 1.0), call("IsCold", "s", "hall"), call("IsCold", "s", "bath"),
        call("Import", "a{sd}b", {"attic": 3.5, "bath": 24.0}, True), call("Snapshot"),
        put(THERMOSTAT, "Target", ("d", 20.0)), put(THERMOSTAT, "Target", ("d", 99.0)), call("Reset"),
        get(THERMOSTAT, "Target"), get(THERMOSTAT, "Mode"), get(THERMOSTAT, "Rooms"),
        call("Import", "a{sd}b", {"cellar": 9.0}, False), get(THERMOSTAT, "Rooms"),
    ]),
    Service("sdbus_notebook", sys.executable, NOTEBOOK, [
        call("AddNote", "s", "milk"), call("AddNote", "s", "bread"), call("GetNote", "u", 2),
        call("GetNote", "u", 7), call("ListAll"), call("RemoveNote", "u", 1), call("RemoveNote", "u", 1),
        call("Details", "a{sv}", {"limit": ("u", 5), "echo": ("as", ["a", "b"])}),
        call("Details", "a{sv}", {}),
        call("Swap", "si", "a", 5), get(NOTEBOOK, "Count"), put(NOTEBOOK, "Count", ("u", 7)),
        get(NOTEBOOK, "Owner"), put(NOTEBOOK, "Owner", ("s", "me")), get(NOTEBOOK, "Owner"),
        get(NOTEBOOK, "Anything"),
    ]),
    Service("dasbus_register", SYSTEM_PYTHON, REGISTER, [
        call("AddUser", "sa{sv}", "Ann", {"age": ("i", 30)}), call("AddUser", "sa{sv}", "Ann", {}),
        call("AddUser", "sa{sv}", "Bob", {}), call("GetUser", "s", "Ann"), call("GetUser", "s", "Eve"),
        call("Greet", "s", "Bob"), put(REGISTER, "Greeting", ("s", "Hi")), call("Greet", "s", "Bob"),
        call("Place", "(id)", (3, 1.5)), call("Twice", "v", ("i", 21)), call("Count"), get(REGISTER, "Users"),
        get(REGISTER, "Open"), call("Close"), get(REGISTER, "Open"),
    ]),
    Service("dasbus_chat", SYSTEM_PYTHON, CHAT, [
        call("Say", "ss", "Ann", "hello"), get(CHAT, "Lines"), call("SetTopic", "s", "tea"),
        get(CHAT, "Topic"),
        put(CHAT, "Topic", ("s", "me")),
    ]),
    Service("pydbus_player", SYSTEM_PYTHON, MEDIA, [
        call("Play", interface=f"{MEDIA}.Player"), call("Raise"), call("Play", interface=f"{MEDIA}.Player"),
        call("SetPosition", "ox", "/track/2", 5, interface=f"{MEDIA}.Player"), get(MEDIA, "Identity"),
        get(MEDIA, "Fullscreen"), get(f"{MEDIA}.Player", "Rate"),
        put(f"{MEDIA}.Player", "Rate", ("d", 2.0)), get(f"{MEDIA}.Player", "Metadata"),
        ("GetAll", "s", (f"{MEDIA}.Player",), {"interface": PROPERTIES}),
    ]),
    Service("pydbus_heater", SYSTEM_PYTHON, HEATER, [
        call("Heat", "i", 20), call("Heat", "i", 60), call("Report"), call("Save"),
        call("Configure", "a{sv}", {"eco": ("b", True), "hours": ("ai", [1, 2]), "deep": ("v", ("s", "x"))}),
        get(HEATER, "Temperature"), get(HEATER, "Name"), put(HEATER, "Name", ("s", "attic")),
        get(HEATER, "Name"),
        get(HEATER, "Model"), call("Heat", "i", 1, path="/org/example/Heater/spare"),
        get(HEATER, "Name", path="/org/example/Heater/spare"), get(HEATER, "Temperature"),
    ]),
]


@contextmanager
def running(bus: Bus, name: str, *command: str, **options: Any) -> Iterator[None]:
    """A service, from when it owns its name to its end."""
    process = subprocess.Popen(command, env=bus.environment | options.pop("environment", {}), **options)
    try:
        with Client(bus.path) as client:
            def owned() -> bool:
                assert process.poll() is None, f"{command} has ended"
                return bool(client.ask("NameHasOwner", "s", name)[0])

            eventually(owned, lambda: client.ask("ListNames"))
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)
        reap(process)


def conversation(bus: Bus, service: Service) -> list[tuple[Step, Any, list[Any]]]:
    """What a client hears for each thing it does: the answer, and the signals."""
    heard = []
    with Client(bus.path) as client:
        client.match(f"sender='{service.name}'")
        for step in service.steps:
            member, signature, args, more = step
            to = {"path": service.path, "interface": service.interface, **more}
            answer = client.reply(client.call(service.name, member, signature, *args, **to))
            # what the service does soon, it has done when it answers again
            client.request(service.name, "Ping", path=to["path"], interface="org.freedesktop.DBus.Peer")
            signals = [
                (message.path, message.interface, message.member, message.signature, message.args)
                for message in client.drain() if message.member not in {"NameOwnerChanged", "NameAcquired"}
            ]
            what = answer.error_name if answer.type == ERROR else answer.signature
            heard.append((step, (what, answer.args), sorted(signals, key=repr)))
    return heard


def carry(service: Service, folder: Path) -> None:
    """Migrate; nothing is lost."""
    line = [str(FOREIGN / f"{service.file}.py"), f"--output={folder}", "--package=carried"]
    assert run_command(parser_of("migrate", MIGRATE), MIGRATE, line) == 0


def is_standard(answer: Any) -> bool:
    """An error that a library gives, in words of its own."""
    what, _ = answer
    return isinstance(what, str) and what.startswith("org.freedesktop.DBus.Error.")


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.file)
def test_clients_hear_the_same_before_and_after(
    service: Service, reference_bus: Bus, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    with running(reference_bus, service.name, service.python, str(FOREIGN / f"{service.file}.py")):
        before = conversation(reference_bus, service)
    folder = tmp_path_factory.mktemp("written")
    carry(service, folder)
    buses = fresh_bus("bus1-bridge", tmp_path_factory.mktemp("ours"))
    ours = next(buses)
    environment = {"PYTHONDONTWRITEBYTECODE": "1"}
    with running(
        ours, service.name, sys.executable, "-m", "carried.service", cwd=folder, environment=environment
    ):
        after = conversation(ours, service)
    next(buses, None)
    assert len(before) == len(service.steps)
    for (step, was, signals_before), (_, is_, signals_after) in zip(before, after, strict=True):
        if is_standard(was):
            assert is_standard(is_) or step[0] == "Explode", (step, was, is_)
        else:
            assert is_ == was, step
        assert signals_after == signals_before, step
