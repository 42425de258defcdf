"""Services of dbus-fast and dbus-next: what D-Bus clients get natively is what they get from dbus-daemon."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from buses import Bus, Pool
from dbus_client import CallFailed, Client
from foreign_ways import WAYS, kitchen

NAME, PATH, KITCHEN = "org.example.Kitchen", "/org/example/Kitchen", "org.example.Kitchen1"
PROPERTIES, MANAGER = "org.freedesktop.DBus.Properties", "org.freedesktop.DBus.ObjectManager"
BASIC = "ybnqiuxtdsog"
CONTAINERS = "asa{sv}(i(sv))aya(uas)v"
VALUES = (
    ["a", "b"], {"k": ("as", ["v"]), "d": ("a{uv}", {1: ("b", True)})}, (3, ("s", ("y", 4))), b"\x00\xff",
    [(1, ["x"]), (2, [])], ("v", ("(ii)", (5, 6))),
)

LIBRARIES = ["dbus_fast", "dbus_next"]


@pytest.fixture
def ways(shared_buses: Pool) -> Iterator[dict[str, Bus]]:
    """A bus for each way to serve."""
    with ExitStack() as lent:
        kinds = dict.fromkeys(kind for kind, _ in WAYS.values())
        buses = {kind: lent.enter_context(contextmanager(shared_buses.lend)(kind)) for kind in kinds}
        yield {way: buses[kind] for way, (kind, _) in WAYS.items()}


class Visitor:
    """A D-Bus client of the kitchen; each answer is a value that can be compared."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def call(self, member: str, signature: str = "", *args: Any, **more: Any) -> Any:
        """Signature and values of an answer, or name and text of an error."""
        address = {"path": PATH, "interface": KITCHEN, **more}
        try:
            answer = self.client.request(NAME, member, signature, *args, **address)
        except CallFailed as failure:
            (text,) = failure.answer.args
            # dbus-next tells the world its stack, which is not the same below it
            return failure.answer.error_name, text.partition(".\n[")[0]
        return answer.signature, answer.args

    def prop(self, member: str, signature: str, *args: Any, path: str = PATH) -> Any:
        return self.call(member, signature, *args, path=path, interface=PROPERTIES)

    def signals(self) -> list[Any]:
        """What was heard by now, but for the bus's own, and what is told of the kitchen as it starts."""
        heard = [
            (got.path, got.interface, got.member, got.signature, got.args)
            for got in self.client.drain() if got.sender != "org.freedesktop.DBus"
        ]
        return [one for one in heard if one[0] != PATH or one[2] != "InterfacesAdded"]

    def introspect(self, path: str) -> Any:
        """Interfaces with their members, and children, in a comparable form."""
        _, (xml,) = self.call("Introspect", path=path, interface="org.freedesktop.DBus.Introspectable")
        node = ET.fromstring(xml)
        interfaces = sorted(_shape(element) for element in node.findall("interface"))
        return interfaces, sorted(str(child.get("name")) for child in node.findall("node"))


def _shape(element: ET.Element) -> Any:
    return element.tag, sorted(element.items()), [_shape(inside) for inside in element]


def ask_everything(visitor: Visitor) -> Iterator[Any]:
    """All kinds of methods."""
    yield visitor.call("Knock")
    yield visitor.call("Knock", interface="org.example.Drawer1")
    yield visitor.call(
        "Echo", BASIC, 1, True, -2, 3, -4, 5, -6, 7, 0.5, "s", "/o", "a{sv}"
    )
    yield visitor.call("Contain", CONTAINERS, *VALUES)
    yield visitor.call("Look", CONTAINERS + "ao", *VALUES, ["/", "/a/b"])
    yield visitor.call("LookLater", "v", ("a{s(iv)}", {"k": (1, ("ay", b"x"))}))
    yield visitor.call("Nothing")
    yield visitor.call("Struct")
    yield visitor.call("Refuse", "s", "no")
    yield visitor.call("RefuseLater", "s", "no")
    yield visitor.call("Break")
    yield visitor.call("BreakLater")
    yield visitor.call("WrongType")
    yield visitor.call("WrongCount")
    yield visitor.call("Hidden")
    yield visitor.call("Missing")
    yield visitor.call("Knock", "s", "too much")
    yield visitor.call("Knock", interface="org.example.Missing1")
    yield visitor.call("Refuse", "s", "not named", interface=None)
    yield visitor.call("Ping", interface="org.freedesktop.DBus.Peer")
    yield visitor.call("GetMachineId", interface="org.freedesktop.DBus.Peer")


def use_properties(visitor: Visitor) -> Iterator[Any]:
    """Get, Set and GetAll, and what they refuse."""
    visitor.client.match(f"sender='{NAME}'")
    for name in ("Heat", "Light", "Window", "Secret", "Cellar", "Missing"):
        yield visitor.prop("Get", "ss", KITCHEN, name)
    yield visitor.prop("GetAll", "s", KITCHEN)
    yield visitor.prop("Set", "ssv", KITCHEN, "Heat", ("i", 40))
    yield visitor.prop("Set", "ssv", KITCHEN, "Heat", ("i", 140))
    yield visitor.prop("Set", "ssv", KITCHEN, "Heat", ("s", "much"))
    yield visitor.prop("Set", "ssv", KITCHEN, "Light", ("b", False))
    yield visitor.prop("Get", "ss", KITCHEN, "Light")
    yield visitor.prop("Set", "ssv", KITCHEN, "Window", ("(sv)", ("wood", ("u", 1))))
    yield visitor.prop("Set", "ssv", KITCHEN, "Secret", ("s", "hush"))
    yield visitor.prop("Set", "ssv", KITCHEN, "Missing", ("s", ""))
    yield visitor.prop("Get", "ss", "org.example.Missing1", "Heat")
    yield visitor.prop("Get", "ss", "", "Heat")
    yield visitor.prop("GetAll", "s", "org.freedesktop.DBus.Peer")
    yield visitor.prop("Steal", "ss", KITCHEN, "Heat")
    for name in ("Fine", "Wrong", "Failing"):
        yield visitor.prop("Get", "ss", "org.example.Broken1", name, path=f"{PATH}/broken")
    yield visitor.prop("GetAll", "s", "org.example.Broken1", path=f"{PATH}/broken")
    yield visitor.signals()


def hear_signals(visitor: Visitor) -> Iterator[Any]:
    """Signals, before the answer of what emitted them."""
    visitor.client.match(f"sender='{NAME}'")
    yield visitor.call("Emit")
    yield visitor.signals()
    yield visitor.call("EmitSilent")
    yield visitor.signals()


def change_the_tree(visitor: Visitor) -> Iterator[Any]:
    """Objects come and go, are told of, listed, and described."""
    yield visitor.introspect(PATH)
    visitor.client.match(f"sender='{NAME}'")
    yield visitor.call("Add", "s", "left")
    yield visitor.call("Knock", path=f"{PATH}/left", interface="org.example.Drawer1")
    yield visitor.prop("Get", "ss", "org.example.Drawer1", "Label", path=f"{PATH}/left")
    yield visitor.introspect(PATH)
    yield visitor.introspect(f"{PATH}/left")
    for path in (PATH, "/org", "/", f"{PATH}/left"):
        yield visitor.call("GetManagedObjects", path=path, interface=MANAGER)
    yield visitor.call("Remove", "s", "left")
    yield visitor.signals()
    yield visitor.introspect(PATH)


def pass_descriptors(visitor: Visitor) -> Iterator[Any]:
    """Both directions."""
    reading, writing = os.pipe()
    os.write(writing, b"written here")
    os.close(writing)
    yield visitor.call("Read", "h", 0, fds=(reading,))
    os.close(reading)
    answer = visitor.client.request(NAME, "Open", "s", "written there", path=PATH, interface=KITCHEN)
    (fd,) = answer.fds
    answer.fds.clear()
    with os.fdopen(fd, "rb") as file:
        yield answer.signature, answer.args, file.read()


def change_names(visitor: Visitor) -> Iterator[Any]:
    """One name for another."""
    yield visitor.call("Rename", "ss", NAME, f"{NAME}2")
    yield visitor.client.ask("NameHasOwner", "s", NAME), visitor.client.ask("NameHasOwner", "s", f"{NAME}2")


def transcripts(
    ways: dict[str, Bus], library: str, script: Callable[[Visitor], Iterator[Any]]
) -> dict[str, list[Any]]:
    """What a client experiences, by the way the service is served."""
    found = {}
    for way, bus in ways.items():
        service = kitchen(bus, way, library)
        client = bus.connect()
        found[way] = list(script(Visitor(client)))
        service.terminate()
        service.wait()
        client.close()
    return found


SCRIPTS = [
    ask_everything, use_properties, hear_signals, change_the_tree, pass_descriptors, change_names,
]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: str(script.__name__))
def test_a_client_gets_the_same_whichever_way_it_is_served(
    ways: dict[str, Bus], library: str, script: Callable[[Visitor], Iterator[Any]]
) -> None:
    found = transcripts(ways, library, script)
    assert found["bus1-bridge"] == found["dbus-daemon"]
    assert found["native"] == found["dbus-daemon"]
