"""``bus1 migrate SERVICE``: what a running service says of itself, and what a hostile one gets out of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from bus1_services.migrate.asking import BYTES_MAX, DEPTH_MAX, OBJECTS_MAX, AskingError, Told, tell
from bus1_services.migrate.reading import SOURCE_MAX
from bus1_services.migrate.verb import MIGRATE
from buses import Bus
from dbus_client import Client
from migrated import load

from bus1.cli import guarded, parser_of, run_command

INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
LAMP = "<interface name='org.example.Lamp1'><method name='Blink'><arg type='u'/></method></interface>"
OTHER = "<interface name='org.example.Lamp1'><method name='Blink'/></interface>"
STANDARD = f"<interface name='{INTROSPECTABLE}'><method name='Introspect'/></interface>"
TREE = {
    "/": f"<node name='/liar'>{STANDARD}<node name='lamps'/><node name='/lamps'/></node>",
    "/lamps": "<node><node name='a'/><node name='b'/></node>",
    "/lamps/a": f"<node>{STANDARD}{LAMP}</node>",
    "/lamps/b": f"<node>{LAMP}<interface name='org.example.Dim1'/></node>",
}


def told(tree: Callable[[str], str], path: str = "/") -> Told:
    """What is heard from objects that answer with ``tree``."""
    async def introspect(at: str) -> str:
        await anyio.lowlevel.checkpoint()
        try:
            return tree(at)
        except KeyError:
            raise AskingError(f"org.example.Lamp {at}: no such object") from None

    return anyio.run(tell, introspect, "org.example.Lamp", path)


def test_objects_are_asked_down_to_the_last_and_each_interface_is_told_once() -> None:
    heard = told(TREE.__getitem__)
    assert heard.paths == {
        "org.example.Lamp1": ["/lamps/a", "/lamps/b"], "org.example.Dim1": ["/lamps/b"]
    }
    assert heard.interfaces["org.example.Lamp1"].path == "/lamps/a"
    assert heard.complaints == []
    assert list(told(TREE.__getitem__, "/lamps/b").paths) == ["org.example.Lamp1", "org.example.Dim1"]


def test_an_interface_that_is_not_the_same_everywhere_is_told_with_its_members() -> None:
    heard = told({**TREE, "/lamps/b": f"<node>{OTHER}</node>"}.__getitem__)
    assert heard.complaints == [
        "org.example.Lamp1 at /lamps/b is not as at /lamps/a, which is written: Blink"
    ]


def test_an_object_that_does_not_answer_sensibly_is_left_out_and_told_unless_it_is_the_first() -> None:
    heard = told({**TREE, "/lamps/a": "<node>", "/lamps/b": "x" * (SOURCE_MAX + 1)}.__getitem__)
    assert not heard.interfaces
    assert heard.complaints == [
        "left out: org.example.Lamp /lamps/a:1: no element found",
        f"left out: org.example.Lamp /lamps/b: larger than {SOURCE_MAX} bytes",
    ]
    with pytest.raises(AskingError, match=r"org\.example\.Lamp /no: no such object"):
        told(TREE.__getitem__, "/no")


def test_a_tree_without_end_is_cut_in_depth_in_width_and_in_size() -> None:
    asked: list[str] = []

    def deep(at: str) -> str:
        asked.append(at)
        return f"<node><node name='n'/>{LAMP}</node>"

    assert any("are left out" in words for words in told(deep).complaints)
    assert len(asked) == DEPTH_MAX + 1
    asked.clear()

    def wide(at: str) -> str:
        asked.append(at)
        return f"<node>{''.join(f'<node name={chr(39)}n{n}{chr(39)}/>' for n in range(40))}</node>"

    assert any("are left out" in words for words in told(wide).complaints)
    assert len(asked) == OBJECTS_MAX
    size = BYTES_MAX // 10

    def large(at: str) -> str:
        return deep(at) + " " * size

    asked.clear()
    assert [words for words in told(large).complaints if f"{BYTES_MAX} bytes" in words]
    assert len(asked) <= 10


# ---- on a bus --------------------------------------------------------------------------------------


@pytest.fixture
def migrate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)
    parser = parser_of("migrate", MIGRATE)
    return lambda *line: guarded("bus1", lambda: run_command(parser, MIGRATE, line))


def answer_introspection(service: Client, tree: dict[str, str]) -> None:
    """Serve ``tree`` until every object has been asked."""
    left = set(tree)
    while left:
        call = service.receive()
        if call.member == "Introspect":
            left.discard(call.path)
            service.answer(call, "s", tree[call.path])


def test_a_running_service_becomes_a_package_on_bus(
    bus: Bus, migrate: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    import threading

    service = bus.connect()
    service.own("org.example.Lamp")
    thread = threading.Thread(target=answer_introspection, args=(service, TREE))
    thread.start()
    status = migrate("org.example.Lamp", f"--address={bus.address}", "--package=lamp", "--json")
    thread.join()
    report = json.loads(capfd.readouterr().out)
    assert status == 0
    assert report["output"][0] == "lamp/__init__.py"
    assert report["findings"] == []
    text = Path("lamp/service.py").read_text()
    assert 'NAME = "org.example.Lamp"\n' in text and '"/lamps/a": Lamp1(),' in text
    assert '"/lamps/b": together(Lamp1(), Dim1())' in text
    assert sorted(cls.__interface__ for cls in load(text)) == ["org.example.Dim1", "org.example.Lamp1"]


@pytest.mark.parametrize(("line", "complaint"), [
    (["org.example.Nobody"], "org.example.Nobody /: org.freedesktop.DBus.Error.ServiceUnknown: "),
    (["org.example.Nobody", "--address=unix:path=/nowhere"], "unix:path=/nowhere: "),
    (["org.example.Nobody", "--address=nonsense"], "nonsense: "),
])
def test_a_service_or_a_bus_that_is_not_there_is_told_in_words(
    bus1_bus: Bus, migrate: Callable[..., int], capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, line: list[str], complaint: str,
) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus1_bus.address)
    assert migrate(*line) == 1
    assert capfd.readouterr().err.startswith(f"bus1: {complaint}")
    assert not os.path.exists("org_example_nobody")


def test_a_service_that_never_answers_costs_no_more_than_the_patience_for_it(
    bus1_bus: Bus, migrate: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    bus1_bus.connect().own("org.example.Lamp")
    assert migrate("org.example.Lamp", f"--address={bus1_bus.address}", "--timeout=0.1") == 1
    assert capfd.readouterr().err == "bus1: org.example.Lamp /: no answer to Introspect within 0.1 s\n"


@pytest.mark.parametrize("line", [
    ["org.example.Lamp", "lamps"], ["lamp.xml", "/lamps"], ["lamp.xml", "--system"],
    ["org.example.Lamp", "--timeout=0"], ["org.example.Lamp", "--user", "--system"],
])
def test_a_line_that_makes_no_sense_is_a_usage_error(migrate: Callable[..., int], line: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        migrate(*line)
    assert caught.value.code == 2
