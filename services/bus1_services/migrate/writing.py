"""writing: a native package out of descriptions.

Theory. Three modules: ``service`` declares each interface as a class, with methods that say they are not
written yet, and serves an object of each; ``client`` makes typed proxies of the same classes; a test holds
the service to what was described. The classes give back the XML that they were made from: what does not
follow from a Python name, or has no place in Python, stands in ``name=``, ``Named`` and ``annotations=``.

Invariants. 1. The modules are ASCII, and Python. 2. Nothing of a source gets into them but as a name that
was checked or as a literal.

Not here: files (``verb``).
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from ..members import camel_case
from .description import Argument, Described, Method, Property, Signal, joined
from .hinting import Hints, notes_of
from .layout import Group, Item, Pair, lay_out, literal
from .naming import Names
from .placing import Placed, Places, find_places

_DOC_STRING = "org.gtk.GDBus.DocString"
_DOC_WIDTH = 80
_PUBLIC = (
    "Bool", "Byte", "Bytes", "DBusError", "Double", "Int16", "Int32", "Int64", "Interface", "Named",
    "ObjectPath", "Service", "Signature", "Str", "UInt16", "UInt32", "UInt64", "UnixFd", "Variant",
    "VariantDict", "method", "prop", "signal", "together",
)
"""What a service may import, in the order of imports."""
_UNWRITTEN = '''\
def unwritten(member: str) -> DBusError:
    """The answer of a member that nobody has written yet."""
    return DBusError(
        f"{member} is not written yet", name="org.freedesktop.DBus.Error.NotSupported"
    )
'''


def package(
    name: str, bus_name: str, interfaces: Sequence[Described],
    paths: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> dict[str, str]:
    """The modules of a package ``name``, by file name, for a service that owns ``bus_name``.

    ``paths``, by interface, say where there were objects of it, if that is more than it says itself."""
    places = find_places(interfaces, ("Annotated", "Any", *_PUBLIC), paths)
    modules = {
        "__init__.py": '"""A service, and a client for it."""\n',
        "service.py": _service(bus_name, places),
        "client.py": client_module(places.placed),
        f"test_{name}.py": test_module(places.placed, list(places.objects)),
    }
    for text in modules.values():
        ast.parse(text)
    return modules


# ---- the service -----------------------------------------------------------------------------------


def _service(bus_name: str, places: Places) -> str:
    hints, placed = Hints(), places.placed
    classes = [_class(each, hints) for each in placed]
    used = hints.used | {"DBusError", "Interface", "Service"}
    for kind, decorator in ((Method, "method"), (Signal, "signal"), (Property, "prop")):
        if any(isinstance(member, kind) for place in placed for member in place.described.members):
            used.add(decorator)
    if any(len(classes) > 1 for classes in places.objects.values()):
        used.add("together")
    typing = [name for name in ("Annotated", "Any") if name in used]
    parts = [
        '"""service: the interfaces, with members that are to be written, and an object of each."""\n',
        "from __future__ import annotations\n",
        _import("typing", typing) if typing else "",
        _import("bus1_services", [name for name in _PUBLIC if name in used]),
        f"NAME = {lay_out(literal(bus_name), 0)}\n\n\n{_UNWRITTEN}\n",
    ]
    objects = Group("", tuple(_served(path, there) for path, there in places.objects.items()), "{}")
    made = Group("Service", (literal(bus_name), "NAME", Pair("objects=", objects)))
    end = (
        'def service() -> Service:\n    """An object of each interface, where it was described."""\n'
        f"{lay_out(made, 1, 'return ')}\n\n\n"
        'if __name__ == "__main__":\n    service().run()\n'
    )
    return "\n".join(part for part in parts if part) + "\n" + "\n\n".join([*classes, end])


def _served(path: str, classes: Sequence[str]) -> Item:
    made: Item = f"{classes[0]}()"
    if len(classes) > 1:
        made = Group("together", tuple(f"{class_}()" for class_ in classes))
    key = literal(path)
    if isinstance(key, Group):
        return Group(key.head, key.items, key.brackets, Pair(": ", made), key.separator)
    return Pair(f"{key}: ", made)


def _import(module: str, names: Sequence[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= 88:
        return f"{line}\n"
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")\n"


def _class(place: Placed, hints: Hints) -> str:
    described = place.described
    doc, notes = documented(described.annotations)
    heads: list[Item] = ["Interface", Pair("name=", literal(described.name))]
    if notes:
        heads.append(Pair("annotations=", notes_of(notes)))
    head = lay_out(Group(f"class {place.class_}", tuple(heads)), 0, after=":")
    named = zip(described.members, place.attributes, strict=True)
    members = [_member(member, attribute, hints) for member, attribute in named]
    body = [*([_doc(doc, 1)] if doc else []), *members]
    return f"{head}\n" + "\n".join(body or ["    pass\n"])


def _member(member: Method | Signal | Property, attribute: str, hints: Hints) -> str:
    doc, notes = documented(member.annotations)
    options: list[Item] = []
    if camel_case(attribute) != member.name:
        options.append(Pair("name=", literal(member.name)))
    match member:
        case Method():
            kind, options = "method", [*options, *(["no_reply=True"] if member.no_reply else [])]
        case Signal():
            kind = "signal"
        case Property():
            kind = "prop"
            if member.emits != "true":
                options.append(f'emits="{member.emits}"')
            if not member.readable:
                options.append("readable=False")
    if member.deprecated:
        options.append("deprecated=True")
    if notes:
        options.append(Pair("annotations=", notes_of(notes)))
    decorator = lay_out(Group(f"@{kind}", tuple(options)) if options else f"@{kind}", 1)
    return f"{decorator}\n{_function(member, attribute, doc, hints)}"


def _function(member: Method | Signal | Property, attribute: str, doc: str, hints: Hints) -> str:
    refusal = lay_out(Group("raise unwritten", (literal(member.name),)), 2)
    words = _doc(doc, 2) if doc else ""
    match member:
        case Method():
            head = _head(attribute, member.inputs, hints, hints.results(member.outputs))
            return f"{head}\n{words}{refusal}\n"
        case Signal():
            head = _head(attribute, member.arguments, hints, "None")
            return f"{head}\n{words or '        ...' + chr(10)}"
    text = f"{_head(attribute, (), hints, hints.of(member.signature))}\n{words}{refusal}\n"
    if member.writable:
        value = Argument("value", member.signature)
        setter = _head(f"_set_{attribute}", (value,), hints, "None")
        text += f"\n    @{attribute}.setter\n{setter}\n{refusal}\n"
    return text


def _head(function: str, arguments: Iterable[Argument], hints: Hints, result: Item) -> str:
    names = Names("self")
    parameters: list[Item] = ["self"]
    for argument in arguments:
        name = names.argument(argument.name)
        parameters.append(Pair(f"{name}: ", hints.argument(argument, name)))
    return lay_out(Group(f"def {function}", tuple(parameters), "()", Pair(" -> ", result)), 1, after=":")


def documented(annotations: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The documentation, if it can be a docstring, and the other annotations."""
    notes = dict(annotations)
    doc = notes.get(_DOC_STRING, "")
    lines = doc.split("\n")
    is_plain = doc.isascii() and all(line.isprintable() and line == line.rstrip() for line in lines)
    if not doc or not is_plain or '"' in doc or "\\" in doc or max(map(len, lines)) > _DOC_WIDTH:
        return "", notes
    if inspect.cleandoc(doc) != doc:
        return "", notes
    del notes[_DOC_STRING]
    return doc, notes


def _doc(doc: str, indent: int) -> str:
    lines = f'"""{doc}"""'.split("\n")
    return "\n".join("    " * indent + line if line else "" for line in lines) + "\n"


# ---- the client ------------------------------------------------------------------------------------


def client_module(placed: Sequence[Placed], constant: str = "NAME") -> str:
    """A function for each class that makes a typed proxy; ``constant`` of the service is the bus name."""
    names = Names("service", "connection", "name", "path", "str", "proxy")
    proxies = []
    for place in placed:
        path = literal(place.path)
        parameters: tuple[Item, ...] = (
            "connection: Connection", Pair("path: str = ", path), f"name: str = service.{constant}"
        )
        result = Pair(" -> ", f"service.{place.class_}")
        head = Group(f"async def {names.member(place.class_)}", parameters, "()", result)
        call = Group(
            "await connection.registry.proxy", (f"service.{place.class_}", "name", "path")
        )
        doc = _doc("A proxy for the object at ``path``; NameHasNoOwner, UnknownObject.", 1)
        proxies.append(f"{lay_out(head, 0, after=':')}\n{doc}{lay_out(call, 1, 'return ')}\n")
    start = (
        '"""client: typed proxies for the objects of the service."""\n\n'
        "from __future__ import annotations\n\n"
        "from bus1_services import Connection\n\nfrom . import service\n\n\n"
    )
    return start + "\n\n".join(proxies)


# ---- the test --------------------------------------------------------------------------------------


def test_module(placed: Sequence[Placed], paths: Sequence[str], constant: str = "NAME") -> str:
    """What clients rely on: members, types, and the paths of all objects."""
    rows = []
    for place in placed:
        lines = sorted(map(_outlined, place.described.members))
        members: Item = Group("", tuple(map(literal, lines)), "[]")
        rows.append(Group("", (f"service.{place.class_}", members)))
    table = lay_out(Group("", tuple(rows), "[]"), 0, "MEMBERS: list[tuple[type[Interface], list[str]]] = ")
    paths = lay_out(Group("", tuple(map(literal, paths)), "[]"), 0, "PATHS: list[str] = ")
    return (
        '"""Tests of the service: what its clients rely on."""\n\n'
        "from __future__ import annotations\n\n"
        "import pytest\nfrom bus1_services import Interface\nfrom bus1_services.outline import outline\n\n"
        f"from . import service\n\n{table}\n{paths}\n\n\n"
        '@pytest.mark.parametrize(("interface", "members"), MEMBERS)\n'
        "def test_an_interface_has_the_members_that_clients_know(\n"
        "    interface: type[Interface], members: list[str]\n) -> None:\n"
        "    assert outline(interface) == members\n\n\n"
        "def test_the_objects_are_where_clients_look_for_them() -> None:\n"
        "    served = service.service()\n"
        f"    assert served.names[0] == service.{constant}\n"
        "    assert list(served.objects) == PATHS\n"
    )


def _outlined(member: Method | Signal | Property) -> str:
    match member:
        case Method():
            return f"method {member.name}({joined(member.inputs)}) -> ({joined(member.outputs)})"
        case Signal():
            return f"signal {member.name}({joined(member.arguments)})"
        case Property():
            access = ("read" if member.readable else "") + ("write" if member.writable else "")
            return f"property {member.name}: {member.signature} {access} {member.emits}"
