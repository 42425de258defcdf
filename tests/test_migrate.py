"""``bus1 migrate``: what it reads, what it writes, and that the bus sees no difference."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from bus1_services import DBusError
from bus1_services.interface import interfaces_of, spec_of
from bus1_services.introspection import node_xml
from bus1_services.migrate.description import Argument, Described, Method, Property, Signal
from bus1_services.migrate.naming import NAME_MAX, Names
from bus1_services.migrate.reading import (
    DEPTH_MAX,
    ENTITIES_MAX,
    ENTITY_MAX,
    INTERFACES_MAX,
    MEMBERS_MAX,
    SOURCE_MAX,
    SourceError,
    read,
)
from bus1_services.migrate.verb import MIGRATE
from bus1_services.migrate.writing import package
from core_peer import CoreBus, connections, introduce
from hypothesis import given
from hypothesis import strategies as st
from migrated import check, load

from bus1.cli import guarded, parser_of, run_command

LAMP = """<?xml version="1.0"?>
<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd" [ <!ENTITY room "kitchen"> ]>
<node name="/org/example/Lamp" xmlns:doc="http://www.example.org/doc">
 <interface name="org.freedesktop.DBus.Peer"><method name="Ping"/></interface>
 <interface name="org.example.Lamp1">
  <doc:doc>In the &room; <interface name="hidden"/></doc:doc>
  <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="invalidates"/>
  <annotation name="org.example.Room" value="&room;"/>
  <method name="Import"><arg name="from" type="s"/><arg name="from" type="a{sv}"/>
   <arg type="(ii)" name="self" direction="out"/></method>
  <method name="List"><arg type="as" direction="out"/><arg type="g" direction="out"/></method>
  <method name="open"><arg name="not a name" type="u" direction="in"/></method>
  <method name="open"><arg name="b" type="s">
   <annotation name="org.example.Note" value="two&#10;lines"/></arg></method>
  <method name="Where"><arg type="(dd)" direction="out"/></method>
  <method name="Blink"><annotation name="org.freedesktop.DBus.Method.NoReply" value="true"/></method>
  <method name="HTTPGet2"><annotation name="org.gtk.GDBus.DocString" value="Ask.&#10;&#10;Twice."/></method>
  <method name="http_get2"><annotation name="org.freedesktop.DBus.Deprecated" value="true"/></method>
  <property name="Level" type="i" access="readwrite"/>
  <property name="power-save" type="ay" access="read">
   <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="true"/></property>
  <property name="Secret" type="s" access="write"/>
  <signal name="Level"><arg name="level" type="i" direction="in"/></signal>
  <signal name="Everything"><arg name="e" type="a(sa{sa(oayh)}a{s(ybnqiuxtdv)})"/></signal>
 </interface>
 <node name="Switch"><interface name="org.example.Method1"/></node>
</node>
"""


def described(inside: str = "", *, name: str = "org.example.A1") -> bytes:
    return f'<node><interface name="{name}">{inside}</interface></node>'.encode()


def called(arguments: str) -> bytes:
    return described(f'<method name="A">{arguments}</method>')


def given_back(interfaces: tuple[Described, ...]) -> tuple[Described, ...]:
    """What the service says about itself that was written from these."""
    classes = load(package("lamp", "org.example.Lamp", interfaces)["service.py"])
    return read("back", node_xml(map(spec_of, classes)).encode())


# ---- reading ---------------------------------------------------------------------------------------


def test_what_the_xml_says_is_read_and_what_others_say_in_it_is_not() -> None:
    lamp, switch = read("lamp.xml", LAMP.encode())
    assert (lamp.name, lamp.path, switch.name, switch.path) == (
        "org.example.Lamp1", "/org/example/Lamp", "org.example.Method1", "/org/example/Lamp/Switch"
    )
    assert lamp.annotations == {"org.example.Room": "kitchen"}
    assert [member.name for member in lamp.members] == [
        "Import", "List", "open", "open", "Where", "Blink", "HTTPGet2", "http_get2", "Level", "power-save",
        "Secret", "Level", "Everything",
    ]
    imported, _, _, named, _, blink, _, old, level, saving, secret, changed, _ = lamp.members
    assert imported == Method(
        "Import", (Argument("from", "s"), Argument("from", "a{sv}")), (Argument("self", "(ii)"),)
    )
    assert named == Method("open", (Argument("b", "s", {"org.example.Note": "two\nlines"}),), ())
    assert isinstance(blink, Method) and blink.no_reply and isinstance(old, Method) and old.deprecated
    assert level == Property("Level", "i", True, True, "invalidates")
    assert saving == Property("power-save", "ay", True, False, "true")
    assert secret == Property("Secret", "s", False, True, "invalidates")
    assert changed == Signal("Level", (Argument("level", "i"),))


BAD: dict[str, tuple[bytes, str]] = {
    "no XML": (b"\0\1", "not well-formed"),
    "nothing": (b"", "no element found"),
    "cut": (described()[:-3], "unclosed"),
    "another root": (b"<interface name='a.b'/>", "<interface> in place of <node>"),
    "no interface": (b"<node/>", "no interface is described"),
    "only standard ones": (described(name="org.freedesktop.DBus.Properties"), "no interface is described"),
    "interface name": (described(name="A"), "'A' is no interface name"),
    "no name": (described("<method/>"), "<method> without name"),
    "code for a name": (described('<method name="A(): import os #"/>'), "is no name of a method"),
    "hyphen in a method": (described('<method name="a-b"/>'), "is no name of a method"),
    "no type": (described('<method name="A"><arg/></method>'), "<arg> without type"),
    "bad type": (described('<method name="A"><arg type="Qt::Key"/></method>'), "no type at position 0"),
    "two types": (described('<property name="A" type="ss" access="read"/>'), "not one complete type"),
    "access": (described('<property name="A" type="s" access="all"/>'), "access 'all'"),
    "direction": (described('<method name="A"><arg type="s" direction="up"/></method>'), "direction 'up'"),
    "place": (described("<node/>"), "<node> in <interface>"),
    "twice": (described('<method name="A"/><method name="A"/>'), "has the method A twice"),
    "path": (b'<node name="/a//b"/>', "is no object path"),
    "emits": (
        described('<annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="maybe"/>'),
        "'maybe'",
    ),
    "flag": (
        described('<method name="A"><annotation name="org.freedesktop.DBus.Deprecated" value="1"/></method>'),
        "neither true nor false",
    ),
    "no reply but a result": (
        described('<method name="A"><arg type="s" direction="out"/>'
                  '<annotation name="org.freedesktop.DBus.Method.NoReply" value="true"/></method>'),
        "nobody expects a reply",
    ),
    "two of a name": (
        b"<node><interface name='a.b'/><interface name='a.b'><method name='A'/></interface></node>",
        "described twice",
    ),
    "size": (b" " * (SOURCE_MAX + 1), f"larger than {SOURCE_MAX} bytes"),
    "depth": (b"<node>" * (DEPTH_MAX + 1), f"more than {DEPTH_MAX} elements"),
    "foreign depth": (b"<node>" + b"<x>" * DEPTH_MAX, f"more than {DEPTH_MAX} elements"),
    "many interfaces": (
        b"<node>%s</node>" % b"".join(b"<interface name='a.b%d'/>" % n for n in range(INTERFACES_MAX + 1)),
        f"more than {INTERFACES_MAX} interfaces",
    ),
    "many members": (
        described("".join(f'<signal name="A{n}"/>' for n in range(MEMBERS_MAX + 1))),
        f"more than {MEMBERS_MAX} members",
    ),
    "many arguments": (called("<arg type='y'/>" * 256), "more than 255 arguments"),
    "long signature": (called("<arg type='ai'/>" * 200), "has more than 255 characters"),
    "file": (b'<!DOCTYPE node [<!ENTITY a SYSTEM "file:///etc/passwd">]><node>&a;</node>', "not plain text"),
    "parameter entity": (b'<!DOCTYPE node [<!ENTITY % a "b">]><node/>', "not plain text"),
    "laughs": (b'<!DOCTYPE node [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><node/>', "not plain text"),
    "large entity": (
        b'<!DOCTYPE node [<!ENTITY a "%s">]><node/>' % (b"a" * (ENTITY_MAX + 1)), "not plain text"
    ),
    "entities": (
        b"<!DOCTYPE node [%s]><node/>" % b"".join(b'<!ENTITY a%d "">' % n for n in range(ENTITIES_MAX + 1)),
        f"more than {ENTITIES_MAX} entities",
    ),
    "default": (b'<!DOCTYPE node [<!ATTLIST node name CDATA "/a">]><node/>', "a default for name"),
    "encoding": (b'<?xml version="1.0" encoding="klingon"?><node/>', "encoding"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_understood_is_told_with_its_place(case: str) -> None:
    content, complaint = BAD[case]
    with pytest.raises(SourceError) as caught:
        read("a.xml", content)
    assert str(caught.value).startswith("a.xml:") and complaint in str(caught.value)


@given(st.integers(0, len(LAMP) - 1), st.binary(max_size=12))
def test_a_damaged_source_is_refused_or_is_another_one(at: int, damage: bytes) -> None:
    content = LAMP.encode()
    try:
        interfaces = read("a.xml", content[:at] + damage + content[at + len(damage) :])
    except SourceError:
        return
    assert given_back(interfaces) == interfaces


# ---- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "python"), [
    ("GetAll", "get_all"), ("HTTPGet2", "http_get2"), ("isOpen", "is_open"), ("Import", "import_"),
    ("List", "list_"), ("snake_case", "snake_case"), ("__Init__", "init"), ("_", "member"), ("_4", "n4"),
    ("power-saver-enabled", "power_saver_enabled"), ("A" * 255, "a" * NAME_MAX),
    ("Unreferenced", "unreferenced_"),
])
def test_a_member_is_called_as_python_likes_it(name: str, python: str) -> None:
    assert Names().member(name) == python


def test_names_that_meet_are_numbered() -> None:
    names = Names("self")
    given_names = [names.argument(name) for name in ("a", "a", "self", "from", "from", "a b", "a-b", "", "1")]
    assert given_names == ["a", "a_2", "self_2", "from_", "from_2", "a_b", "a_b_2", "argument", "n1"]


# ---- what is written -------------------------------------------------------------------------------


def test_the_service_gives_back_the_xml_that_it_was_written_from() -> None:
    interfaces = read("lamp.xml", LAMP.encode())
    assert given_back(interfaces) == interfaces


_TEXT = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Cn"), include_characters="\n\t\r\"'\\{}"), max_size=120
)
_NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,60}", fullmatch=True)
_NOTES = st.dictionaries(_TEXT.map("x.{}".format), _TEXT, max_size=2)
_DOCUMENTED = st.builds(lambda notes, doc: notes | {"org.gtk.GDBus.DocString": doc}, _NOTES, _TEXT) | _NOTES
_BASIC = st.sampled_from("ybnqiuxtdsogh")
_TYPE = st.recursive(
    _BASIC | st.just("v"),
    lambda inner: st.one_of(
        inner.map("a{}".format),
        st.lists(inner, min_size=1, max_size=4).map(lambda all_: f"({''.join(all_)})"),
        st.tuples(_BASIC, inner).map(lambda pair: f"a{{{pair[0]}{pair[1]}}}"),
    ),
    max_leaves=8,
).filter(lambda signature: len(signature) < 60)
_ARGUMENTS = st.lists(st.builds(Argument, _TEXT, _TYPE, _NOTES), max_size=4).map(tuple)
_MEMBER = st.one_of(
    st.builds(Method, _NAME, _ARGUMENTS, _ARGUMENTS, st.just(False), st.booleans(), _DOCUMENTED),
    st.builds(Method, _NAME, _ARGUMENTS, st.just(()), st.just(True), st.booleans(), _DOCUMENTED),
    st.builds(Signal, _NAME, _ARGUMENTS, st.booleans(), _DOCUMENTED),
    st.sampled_from([(True, False), (False, True), (True, True)]).flatmap(
        lambda access: st.builds(
            Property, _NAME, _TYPE, st.just(access[0]), st.just(access[1]),
            st.sampled_from(["true", "false", "const", "invalidates"]), st.booleans(), _DOCUMENTED,
        )
    ),
)
_INTERFACE = st.builds(
    Described, _NAME.map("org.example.{}".format),
    st.lists(_MEMBER, max_size=4, unique_by=lambda member: member.name).map(tuple), _DOCUMENTED,
)


@given(st.lists(_INTERFACE, min_size=1, max_size=2, unique_by=lambda interface: interface.name).map(tuple))
def test_any_interface_comes_back_as_it_was_in_lines_of_a_bounded_length(
    interfaces: tuple[Described, ...]
) -> None:
    assert given_back(interfaces) == interfaces
    for text in package("lamp", interfaces[0].name, interfaces).values():
        assert text.isascii() and max(map(len, text.splitlines())) <= 110


def test_interfaces_of_one_object_are_served_by_one_whatever_their_members_are_called() -> None:
    tree = b"""<node name='/a'><interface name='org.example.A'><method name='Go'/></interface>
     <interface name='org.example.B'><method name='Stop'/></interface>
     <interface name='org.example.C'><method name='go'/><property name='Go' type='s' access='readwrite'/>
     </interface></node>"""
    module = package("a", "org.example.A", read("a.xml", tree))["service.py"]
    assert '{"/a": together(A(), B(), C())}' in module.replace("\n    ", "")
    a, b, c = load(module)
    served = sys.modules[a.__module__].service().objects
    assert list(served) == ["/a"]
    assert interfaces_of(type(served["/a"])) == (spec_of(a), spec_of(b), spec_of(c))
    assert [spec.attribute for spec in spec_of(c).members.values()] == ["go_2", "go_3"]


def test_an_interface_of_several_objects_is_served_at_each_of_them() -> None:
    sized = (Property("Size", "t", True, False),)
    disk, part = Described("org.example.Disk", sized), Described("org.example.Part", sized)
    paths = {"org.example.Disk": ["/a", "/b"], "org.example.Part": ["/b", "/c"]}
    module = package("disks", "org.example.Disks", (disk, part), paths)["service.py"]
    served = sys.modules[load(module)[0].__module__].service().objects
    assert {path: [spec.name for spec in interfaces_of(type(one))] for path, one in served.items()} == {
        "/a": ["org.example.Disk"], "/b": ["org.example.Disk", "org.example.Part"],
        "/c": ["org.example.Part"],
    }


def test_a_client_reaches_what_was_written_and_is_told_what_was_not() -> None:
    (lamp, _) = load(package("lamp", "org.example.Lamp", read("lamp.xml", LAMP.encode()))["service.py"])

    class Lit(lamp):  # type: ignore[misc, valid-type]
        def import_(self, from_: str, from_2: object) -> tuple[int, int]:
            return len(from_), 7

    async def main() -> None:
        async with connections(CoreBus(), 2) as (service, client):
            proxy = client.proxy(lamp, await introduce(service, client, Lit()))
            assert tuple(await proxy.import_("four", {})) == (4, 7)  # type: ignore[attr-defined]
            with pytest.raises(DBusError) as caught:
                await proxy.open_2("door")  # type: ignore[attr-defined]
            assert caught.value.name == "org.freedesktop.DBus.Error.NotSupported"
            assert caught.value.text == "open is not written yet"

    anyio.run(main)


@pytest.mark.timeout(300)
def test_linters_and_the_tests_that_were_written_are_content(tmp_path: Path, migrate: Migrate) -> None:
    assert migrate("lamp.xml") == 0
    check(tmp_path, "lamp")


# ---- the verb --------------------------------------------------------------------------------------

Migrate = Callable[..., int]


@pytest.fixture
def migrate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Migrate:
    """The verb, in a folder that has ``lamp.xml``; gives the exit status."""
    monkeypatch.chdir(tmp_path)
    Path("lamp.xml").write_text(LAMP)
    parser = parser_of("migrate", MIGRATE)
    return lambda *line: guarded("bus1", lambda: run_command(parser, MIGRATE, line))


FILES = ["lamp/__init__.py", "lamp/service.py", "lamp/client.py", "lamp/test_lamp.py"]


def test_it_writes_a_package_and_says_where(migrate: Migrate, capfd: pytest.CaptureFixture[str]) -> None:
    assert migrate("lamp.xml", "--name=org.example.Lamp") == 0
    assert capfd.readouterr().out.splitlines() == FILES
    assert 'NAME = "org.example.Lamp"\n' in Path("lamp/service.py").read_text()
    assert migrate("lamp.xml", "--output=elsewhere", "--package=torch") == 0
    written = sorted(os.listdir("elsewhere/torch"))
    assert written == ["__init__.py", "client.py", "service.py", "test_torch.py"]


def test_it_replaces_nothing_unless_told(migrate: Migrate, capfd: pytest.CaptureFixture[str]) -> None:
    Path("lamp").mkdir()
    Path("lamp/client.py").write_text("mine")
    Path("precious").write_text("precious")
    Path("lamp/service.py").symlink_to("../precious")
    assert migrate("lamp.xml") == 1
    assert capfd.readouterr().err == (
        "bus1: lamp/service.py, lamp/client.py: there already; --force replaces, --dry-run shows how\n"
    )
    assert sorted(os.listdir("lamp")) == ["client.py", "service.py"]
    assert Path("lamp/client.py").read_text() == "mine"
    assert migrate("lamp.xml", "--force") == 0
    assert sorted(os.listdir("lamp")) == sorted(Path(file).name for file in FILES)
    assert Path("lamp/client.py").read_text().startswith('"""client: ')
    assert Path("precious").read_text() == "precious" and not Path("lamp/service.py").is_symlink()


def test_a_dry_run_shows_a_diff_and_writes_nothing(
    migrate: Migrate, capfd: pytest.CaptureFixture[str]
) -> None:
    assert migrate("lamp.xml", "--dry-run") == 0
    assert not Path("lamp").exists()
    assert "--- /dev/null\n+++ lamp/service.py\n" in capfd.readouterr().out
    assert migrate("lamp.xml") == 0
    capfd.readouterr()
    assert migrate("lamp.xml", "--dry-run") == 0
    assert capfd.readouterr().out == ""
    with Path("lamp/client.py").open("a") as file:
        file.write("mine\n")
    assert migrate("lamp.xml", "--dry-run") == 0
    diff = capfd.readouterr().out
    assert diff.startswith("--- lamp/client.py\n+++ lamp/client.py\n") and "\n-mine\n" in diff


@pytest.mark.parametrize(("line", "complaint"), [
    (["nowhere.xml"], "nowhere.xml: No such file or directory"),
    (["."], ".: Is a directory"),
    (["bad.xml"], "bad.xml:2: mismatched tag"),
    (["lamp.xml", "--output=lamp.xml"], "lamp.xml/lamp: Not a directory"),
])
def test_what_fails_is_told_in_words(
    migrate: Migrate, capfd: pytest.CaptureFixture[str], line: list[str], complaint: str
) -> None:
    Path("bad.xml").write_text("<node>\n</interface>")
    assert migrate(*line) == 1
    assert capfd.readouterr().err == f"bus1: {complaint}\n"


@pytest.mark.parametrize("line", [
    [], ["lamp.xml", "--package=../up"], ["lamp.xml", "--package=import"], ["lamp.xml", "--name=:1.2"],
    ["lamp.xml", "--name=x"], ["lamp.xml", "--force", "--dry-run"],
])
def test_a_line_that_makes_no_sense_is_a_usage_error(migrate: Migrate, line: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        migrate(*line)
    assert caught.value.code == 2
