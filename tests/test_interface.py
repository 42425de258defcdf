"""Interfaces: one declaration, read into a table, for both sides."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Annotated, Any

import anyio
import pytest
from bus1_services import (
    NOBODY,
    Caller,
    Double,
    Int32,
    Interface,
    Named,
    ObjectPath,
    Signature,
    Str,
    UInt32,
    UnixFd,
    Variant,
    interfaces_of,
    method,
    prop,
    signal,
)
from bus1_services.hints import signature_of
from bus1_services.introspection import interfaces_xml, node_xml
from bus1_services.members import MethodSpec, PropertySpec, SignalSpec, camel_case
from dbus_fast.introspection import Node


class Lamp(Interface, name="org.example.Lamp1"):
    """A lamp."""

    def __init__(self) -> None:
        self._level = 3

    @method
    def set_color(self, name: Str, alpha: Double, caller: Caller = NOBODY) -> UInt32:
        """Paint it."""
        return caller.uid if caller is not NOBODY else 7

    @method
    async def measure(self) -> tuple[Int32, Str]:
        return self._level, "lux"

    @method(name="URL", takes="a{sv}", gives="(ss)", deprecated=True)
    def url(self, options: Any) -> Any:
        return "a", "b"

    @method(no_reply=True)
    def blink(self) -> None:
        self._level += 1

    @method
    def twin(self, other: Lamp) -> Lamp:
        return other

    @prop
    def level(self) -> Int32:
        """How bright."""
        return self._level

    @level.setter
    def _set_level(self, level: int) -> None:
        self._level = level

    @prop(emits="const", gives="s")
    def serial(self) -> str:
        return "x1"

    @signal
    def burnt(self, where: ObjectPath, reason: Str) -> None: ...


def test_the_spec_is_a_table_of_members_in_order() -> None:
    (spec,) = interfaces_of(Lamp)
    assert spec.name == "org.example.Lamp1" and spec.doc == "A lamp."
    assert list(spec.members) == ["SetColor", "Measure", "URL", "Blink", "Twin", "Level", "Serial", "Burnt"]
    color, measure, url = (spec.members[name] for name in ("SetColor", "Measure", "URL"))
    assert isinstance(color, MethodSpec) and isinstance(url, MethodSpec)
    assert (color.signature, color.result, color.caller) == ("sd", "u", "caller")
    assert isinstance(measure, MethodSpec) and (measure.signature, measure.result) == ("", "is")
    assert (url.signature, url.result, url.deprecated) == ("a{sv}", "(ss)", True)


class Drawer(Interface, name="org.example.Drawer1", annotations={"org.example.Room": "kitchen"}):
    @method(name="open", annotations={"org.example.Note": "a\nb"})
    def open_one(self, number: UInt32) -> Annotated[Str, Named("in", {"org.example.Kind": "<text>"})]:
        return f"number {number}"

    @method(name="open")
    def open_named(self, from_: Annotated[Str, Named("from")]) -> tuple[Annotated[Str, Named("in")], Str]:
        return from_, "by name"

    @signal(name="open")
    def opened(self) -> None: ...

    @prop(name="key-code", readable=False)
    def key_code(self) -> Str:
        raise AssertionError("it was read")

    @key_code.setter
    def _set_key_code(self, value: str) -> None: ...


def test_members_of_one_name_are_told_apart_by_kind_and_signature() -> None:
    (spec,) = interfaces_of(Drawer)
    for signature, attribute in (("u", "open_one"), ("s", "open_named"), ("b", "open_one")):
        found = spec.method("open", signature)
        assert found is not None and found.attribute == attribute
    assert spec.method("key-code", "") is None and spec.method("shut", "") is None


def test_names_and_annotations_that_python_cannot_have_are_in_the_xml() -> None:
    interface = ElementTree.fromstring(node_xml(interfaces_of(Drawer))).find("interface")
    assert interface is not None
    one, named, opened, code = (interface.findall("*")[at] for at in (1, 2, 3, 4))
    assert [dict(note.attrib) for note in interface.findall("annotation")] == [
        {"name": "org.example.Room", "value": "kitchen"}
    ]
    assert [arg.get("name") for arg in one.findall("arg")] == ["number", "in"]
    assert [arg.get("name") for arg in named.findall("arg")] == ["from", "in", None]
    assert [note.get("value") for note in one.iter("annotation")] == ["<text>", "a\nb"]
    assert opened.tag == "signal"
    assert dict(code.attrib) == {"name": "key-code", "type": "s", "access": "write"}


async def _told(drawer: Drawer) -> None:
    await drawer.key_code.set("1234")


def test_nobody_is_told_of_a_property_that_cannot_be_read() -> None:
    anyio.run(_told, Drawer())


def test_properties_and_signals_say_their_types() -> None:
    (spec,) = interfaces_of(Lamp)
    level, serial, burnt = (spec.members[name] for name in ("Level", "Serial", "Burnt"))
    assert isinstance(level, PropertySpec) and level.is_writable and level.signature == "i"
    assert isinstance(serial, PropertySpec) and not serial.is_writable and serial.emits == "const"
    assert isinstance(burnt, SignalSpec) and burnt.signature == "os"


def test_a_class_with_an_interface_is_a_capability() -> None:
    twin = interfaces_of(Lamp)[0].members["Twin"]
    assert isinstance(twin, MethodSpec)
    assert (twin.signature, twin.result) == ("o", "o")
    asked: list[tuple[type, object]] = []
    twin.takes.read([ObjectPath("/a")], lambda interface, value: asked.append((interface, value)))
    twin.gathered([ObjectPath("/b")], lambda interface, value: asked.append((interface, value)))
    assert asked == [(Lamp, "/a"), (Lamp, "/b")]


@pytest.mark.parametrize(("hint", "signature"), [
    (str, "s"), (int, "i"), (bool, "b"), (float, "d"), (bytes, "ay"), (list[str], "as"), (Variant, "v"),
    (dict[str, Variant], "a{sv}"), (tuple[int, Str], "(is)"), (list[UInt32], "au"), (UnixFd, "h"),
    (ObjectPath, "o"), (Annotated[Any, Signature("a(yv)")], "a(yv)"), (Annotated[str, "a note"], "s"),
    (Lamp, "o"), (dict[str, list[tuple[UInt32, bytes]]], "a{sa(uay)}"),
])
def test_hints_give_signatures(hint: Any, signature: str) -> None:
    assert signature_of(hint) == signature


@pytest.mark.parametrize("hint", [
    object, Any, None, set[str], tuple[()], Annotated[str, Signature("ss")], dict[Variant, str],
    int | str, int | str | None, list[Any],
])
def test_a_hint_without_a_dbus_type_is_a_mistake(hint: Any) -> None:
    with pytest.raises(TypeError):
        signature_of(hint)


def test_names_are_camel_case_on_the_wire() -> None:
    assert camel_case("get_machine_id") == "GetMachineId"
    assert camel_case("ping") == "Ping"


def test_members_work_the_same_without_a_bus() -> None:
    async def main() -> None:
        lamp = Lamp()
        assert await lamp.measure() == (3, "lux")
        assert await lamp.set_color("red", 0.5) == 7
        await lamp.blink()
        assert await lamp.level == 4
        await lamp.level.set(9)
        assert await lamp.level.get() == 9
        await lamp.burnt(ObjectPath("/"), "age")
        with pytest.raises(AttributeError):
            await lamp.serial.set("x2")
        with pytest.raises(TypeError):
            await lamp.burnt(ObjectPath("/"))  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            lamp.burnt.subscribe()

    anyio.run(main)


class BrightLamp(Lamp):
    """Serves Lamp's interface with other bodies."""

    @method
    async def measure(self) -> tuple[Int32, Str]:
        return 100, "lux"

    async def blink(self) -> None:
        self._level += 10

    @prop
    def level(self) -> Int32:
        return self._level * 2


def test_a_subclass_overrides_members_and_keeps_the_interface() -> None:
    async def main() -> None:
        lamp = BrightLamp()
        assert await lamp.measure() == (100, "lux")
        await lamp.blink()
        assert await lamp.level == 26
        await lamp.level.set(1)
        assert await lamp.level == 2

    assert interfaces_of(BrightLamp) == interfaces_of(Lamp)
    anyio.run(main)


def test_one_object_may_have_several_interfaces() -> None:
    class Switch(Interface, name="org.example.Switch1"):
        @method
        def flip(self) -> None: ...

    class LampSwitch(Lamp, Switch, name="org.example.LampSwitch1"):
        @method
        def both(self) -> None: ...

    assert [spec.name for spec in interfaces_of(LampSwitch)] == [
        "org.example.LampSwitch1", "org.example.Lamp1", "org.example.Switch1",
    ]


def _no_hint() -> type[Interface]:
    class Wrong(Interface, name="org.example.Wrong1"):
        @method
        def do(self, what) -> None: ...  # type: ignore[no-untyped-def]

    return Wrong


def _count() -> type[Interface]:
    class Wrong(Interface, name="org.example.Wrong1"):
        @method(takes="ss")
        def do(self, what: str) -> None: ...

    return Wrong


def _twice() -> type[Interface]:
    class Wrong(Interface, name="org.example.Wrong1"):
        @method
        def do(self) -> None: ...

        @method(name="Do")
        def done(self) -> None: ...

    return Wrong


def _reply() -> type[Interface]:
    class Wrong(Interface, name="org.example.Wrong1"):
        @method(no_reply=True)
        def do(self) -> Str:
            return ""

    return Wrong


def _keyword() -> type[Interface]:
    class Wrong(Interface, name="org.example.Wrong1"):
        @method
        def do(self, *, what: Str) -> None: ...

    return Wrong


@pytest.mark.parametrize("declare", [_no_hint, _count, _twice, _reply, _keyword])
def test_a_mistake_in_a_declaration_is_a_type_error(declare: Callable[[], type[Interface]]) -> None:
    with pytest.raises(TypeError):
        interfaces_of(declare())


def test_names_are_checked_where_they_are_given() -> None:
    with pytest.raises(TypeError):
        type("Wrong", (Interface,), {}, name="nodot")
    with pytest.raises(TypeError, match="names no interface"):
        class Wrong(Interface):
            @method
            def do(self) -> None: ...


def test_introspection_is_xml_that_other_libraries_read() -> None:
    node = Node.parse(node_xml(interfaces_of(Lamp)))
    (interface,) = node.interfaces
    assert [(m.name, m.in_signature, m.out_signature) for m in interface.methods] == [
        ("SetColor", "sd", "u"), ("Measure", "", "is"), ("URL", "a{sv}", "(ss)"), ("Blink", "", ""),
        ("Twin", "o", "o"),
    ]
    assert [(p.name, p.signature, p.access.value) for p in interface.properties] == [
        ("Level", "i", "readwrite"), ("Serial", "s", "read"),
    ]
    assert [(s.name, s.signature) for s in interface.signals] == [("Burnt", "os")]


def test_introspection_carries_docs_and_notes() -> None:
    root = ElementTree.fromstring(f"<node>{interfaces_xml(interfaces_of(Lamp))}</node>")
    notes = {
        (element.get("name"), note.get("name")): note.get("value")
        for element in root.iter() for note in element.findall("annotation")
    }
    assert notes["org.example.Lamp1", "org.gtk.GDBus.DocString"] == "A lamp."
    assert notes["SetColor", "org.gtk.GDBus.DocString"] == "Paint it."
    assert notes["URL", "org.freedesktop.DBus.Deprecated"] == "true"
    assert notes["Blink", "org.freedesktop.DBus.Method.NoReply"] == "true"
    assert notes["Serial", "org.freedesktop.DBus.Property.EmitsChangedSignal"] == "const"
    assert ("Level", "org.freedesktop.DBus.Property.EmitsChangedSignal") not in notes


def test_a_member_that_takes_the_place_of_something_else_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="something else above"):
        type("Wrong", (Lamp,), {"level": method(lambda self: None)})
    with pytest.raises(TypeError, match="needs unreferenced"):
        type("Wrong", (Interface,), {"unreferenced": method(lambda self: None)}, name="org.example.Wrong1")


def test_an_interface_that_is_declared_twice_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="one interface"):
        class More(Lamp, name="org.example.Lamp1"):
            @method
            def break_(self) -> None: ...


def test_bases_whose_members_have_one_python_name_are_a_mistake() -> None:
    class Bell(Interface, name="org.example.Bell1"):
        @prop
        def level(self) -> Str:
            return "loud"

    with pytest.raises(TypeError, match=r"Lamp and .*Bell have level"):
        type("Both", (Lamp, Bell), {})
    dimmed = type("Dimmed", (Lamp,), {"level": prop(lambda self: 1)})
    bright = type("Bright", (Lamp,), {})
    assert interfaces_of(type("Diamond", (dimmed, bright), {})) == interfaces_of(Lamp)
