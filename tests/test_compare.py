"""``bus1 compare``: an old service and a new one are asked the same, and what differs is shown."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compared
import pytest
from bus1_services import Service, Variant
from bus1_services.compare.differences import Difference, changed, neutral, of_descriptions, of_outcomes
from bus1_services.compare.questions import Heard, Outcome, Question, parsed, probes, recorded
from bus1_services.compare.staging import Side, StagingError, side_of
from bus1_services.compare.verb import COMPARE
from bus1_services.migrate.asking import Told
from bus1_services.migrate.reading import read_node
from bus1_services.plain import PlainError
from bus1_services.recording import Message, written
from bus1_services.testing import PrivateBus

from bus1.cli import guarded, parser_of, run_command

SHOP, IFACE = compared.PATH, compared.INTERFACE
Run = Callable[..., tuple[int, str]]


def command(kind: str) -> str:
    return shlex.join([sys.executable, compared.__file__, kind])


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the verb; its exit status and what it printed."""

    def run(*line: str) -> tuple[int, str]:
        def verb() -> int:
            return run_command(parser_of("compare", COMPARE), COMPARE, line)

        capfd.readouterr()
        try:
            status = guarded("bus1", verb)
        except SystemExit as ended:
            status = int(ended.code or 0)
        out, err = capfd.readouterr()
        return status, out + err

    return run


def programs(old: str, new: str) -> list[str]:
    return [compared.NAME, f"--old-exec={command(old)}", f"--new-exec={command(new)}", "--settle=0"]


def found(output: str) -> dict[tuple[str, str], list[str]]:
    """Differences by kind and name: the old and the new."""
    records = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {(each["what"], each["name"].rpartition(".")[2]): [each["old"], each["new"]] for each in records}


# ---- whole runs ------------------------------------------------------------------------------------


def test_a_native_successor_of_a_dbus_fast_service_differs_where_it_should_and_nowhere_else(run: Run) -> None:
    status, output = run(*programs("old", "new"), "--json=short", f"--call={SHOP} {IFACE} Sell si x 2",
                         f"--call={SHOP} {IFACE} Sell si x 2")
    assert status == 1, output
    differences = found(output)
    assert differences.pop(("answer", "Sell")) == ['o "/order/7"', 'o "/order/100"']
    assert differences.pop(("answer", "GetAll")) == [
        'a{sv} 2 "Opened" s "yesterday" "Stock" u 1', 'a{sv} 2 "Stock" u 1 "Opened" s "today"',
    ]
    assert differences.pop(("interface", "ObjectManager")) == ["there", "missing"], "dbus-fast always has it"
    assert set(differences) == {("description", "Stock"), ("description", "Opened")}, "emits differ"
    ignored = ["--ignore=*.Opened", "--ignore=*.Sell", f"--call={SHOP} {IFACE} Sell si x 2"]
    status, output = run(*programs("new", "new"), *ignored)
    assert (status, output) == (0, "2 calls, no difference\n")


def test_a_recording_is_replayed_with_the_paths_that_each_service_gives_today(
    run: Run, tmp_path: Path
) -> None:
    shop: dict[str, Any] = {"sender": ":1.9", "path": SHOP, "interface": IFACE}
    messages = [
        Message("method_call", 1, destination=compared.NAME, member="Sell", signature="si", values=("x", 1),
                **shop),
        Message("method_return", 5, 1, ":1.4", ":1.9", signature="o", values=("/order/41",)),
        # by the unique name that answered before
        Message("method_call", 2, destination=":1.4", member="Cancel", signature="o", values=("/order/41",),
                **shop),
        Message("method_return", 6, 2, ":1.4", ":1.9", signature="s", values=("cancelled",)),
        Message("method_call", 3, destination=":1.5", member="Cancel", signature="o", values=("/x",), **shop),
    ]
    calls = tmp_path / "calls.json"
    calls.write_text("".join(written(message) + "\n" for message in messages))
    quiet = ["--ignore=*.Opened", "--ignore=*.ObjectManager", "--json=short", f"--calls={calls}"]
    status, output = run(*programs("old", "new"), *quiet)
    assert {key for key in found(output) if key[0] != "description"} == set()
    status, output = run(*programs("old", "wrong"), *quiet)
    differences = {key: value for key, value in found(output).items() if key[0] != "description"}
    assert status == 1 and set(differences) == {
        ("signals", "Sell"), ("answer", "Cancel"), ("answer", "GetAll")
    }
    assert differences["signals", "Sell"] == [
        f'{SHOP} {IFACE}.Sold s "x"; {SHOP} {IFACE}.Counted u 2',
        f'{SHOP} {IFACE}.Counted u 1; {SHOP} {IFACE}.Sold s "x"',
    ]


def test_errors_differ_by_name_and_with_strict_by_text(run: Run) -> None:
    call = f"--call={SHOP} {IFACE} Sell si x 99"
    _, output = run(*programs("old", "wrong"), "--json=short", "--ignore=*.Opened", call)
    assert found(output)["answer", "Sell"] == [
        "error org.example.Error.Sold: none left", "error org.freedesktop.DBus.Error.Failed: bug",
    ]
    _, output = run(*programs("old", "new"), "--json=short", call)
    assert ("answer", "Sell") not in found(output)
    _, output = run(*programs("old", "new"), "--json=short", "--strict", call)
    assert found(output)["answer", "Sell"][1] == "error org.example.Error.Sold: 99 of x"


def test_probes_read_everything_and_change_nothing(run: Run) -> None:
    status, output = run(*programs("new", "new"))
    assert (status, output) == (0, "5 calls, no difference\n")
    status, output = run(*programs("old", "new"))
    assert status == 1
    assert f"answer: {SHOP} {IFACE}.Opened ss " in output and '  new: v s "today"' in output


@pytest.mark.anyio
async def test_two_services_on_running_buses_are_compared_by_name_and_address(tmp_path: Path) -> None:
    from bus1_services.compare.comparison import Plan, compare

    with PrivateBus() as bus, PrivateBus() as other:
        shop = {SHOP: compared.Shop()}
        first = Service("a", compared.NAME, objects=shop, address=bus.native_address)
        moved_shop = {"/x": compared.Shop()}
        second = Service("b", "org.example.Other", objects=moved_shop, address=other.native_address)
        async with first.running(), second.running():
            sides = Side(compared.NAME, bus.address), Side("org.example.Other", other.address)
            result = await compare(*sides, Plan([]))
    moved = [each for each in result.differences if each.what == "interface"]
    assert [(each.path, each.old, each.new) for each in moved] == [
        (SHOP, "there", "missing"), ("/x", "missing", "there"),
    ]
    assert all("UnknownObject" in each.new for each in result.differences if each.what == "answer")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(("line", "said"), [
    ([compared.NAME, f"--old-exec={command('dies')}", f"--new-exec={command('new')}"],
     "ended with status 3 before it owned org.example.Shop"),
    ([compared.NAME, "--old-exec=/nowhere/at/all", "--new-exec=x"], "cannot be started: No such file"),
    ([compared.NAME, "--old-exec='", "--new-exec=x"], "No closing quotation"),
    ([compared.NAME, "--old-exec= ", "--new-exec=x"], "an empty command"),
    ([f"{compared.NAME}@unix:path=/x", "--old-exec=x"], "not at an address"),
    (["nonsense", "--new-exec=x"], "'nonsense' is no bus name"),
    (["a.b@unix:path=/nowhere"], "would be compared with itself"),
    (["a.b@unix:path=/nowhere", "a.c"], "unix:path=/nowhere"),
    (["a.b@nonsense", "a.c"], "nonsense"),
    (["a.b", "a.c", "--call=x"], "'x' is not PATH INTERFACE METHOD"),
    (["a.b", "a.c", "--path=x"], "'x' is no object path"),
    (["a.b", "a.c", "--timeout=-1"], "some seconds"),
    (["/nowhere.service", "a.c"], "/nowhere.service: No such file"),
])
def test_what_cannot_be_compared_is_told_and_is_no_difference(run: Run, line: list[str], said: str) -> None:
    status, output = run(*line, "--address=unix:path=/nowhere")
    assert status == 2 and said in output


def test_a_recording_without_a_call_to_the_service_is_refused(run: Run, tmp_path: Path) -> None:
    calls = tmp_path / "calls.json"
    calls.write_text("{}\n")
    status, output = run("a.b", "a.c", f"--calls={calls}", "--address=x")
    assert status == 2 and f"{calls}:1:" in output
    calls.write_text("\n")
    status, output = run("a.b", "a.c", f"--calls={calls}", "--address=x")
    assert status == 2 and "no call to a.b is recorded there" in output


def test_a_service_that_does_not_answer_is_waited_for_so_long_and_no_longer(run: Run) -> None:
    status, output = run(compared.NAME, "--old-exec=sleep 600", "--new-exec=x", "--timeout=0.05")
    assert status == 2 and "does not own org.example.Shop after 0.05 s" in output


# ---- parts -----------------------------------------------------------------------------------------


def test_a_side_is_a_name_an_address_or_an_activation_file(tmp_path: Path) -> None:
    assert side_of("a.b", None, "unix:x") == Side("a.b", "unix:x")
    assert side_of("a.b@unix:path=/y", None, "unix:x") == Side("a.b", "unix:path=/y")
    assert side_of("a.b", "run 'it now'", "") == Side("a.b", command=("run", "it now"))
    file = tmp_path / "a.b.service"
    file.write_text("# Name=no\n[D-BUS Service]\nName=a.b\nExec=/bin/it --now\n")
    assert side_of(str(file), None, "") == Side("a.b", command=("/bin/it", "--now"))
    assert side_of(str(file), "other", "") == Side("a.b", command=("other",))
    file.write_text("[D-BUS Service]\nName=a.b\n")
    with pytest.raises(StagingError, match="no Name= and Exec="):
        side_of(str(file), None, "")
    with pytest.raises(StagingError, match="which bus"):
        side_of("a.b", None, "")


def test_a_call_is_written_as_for_busctl() -> None:
    assert parsed("/a a.b Do sv 'x y' u 7") == Question("/a", "a.b", "Do", "sv", ("x y", Variant("u", 7)))
    for line in ("/a a.b", "a a.b Do", "/a a Do", "/a a.b D-o", "/a a.b Do s", "/a a.b Do '"):
        with pytest.raises(PlainError):
            parsed(line)


def test_the_owner_of_a_name_is_known_by_what_the_recording_says_of_it() -> None:
    bus = "org.freedesktop.DBus"
    call: dict[str, Any] = {"sender": ":1.9", "path": "/", "member": "A"}
    messages = [
        Message("signal", sender=bus, path="/", interface=bus, member="NameOwnerChanged", signature="sss",
                values=("a.b", "", ":1.2")),
        Message("signal", sender=":1.66", path="/", interface=bus, member="NameOwnerChanged",
                signature="sss", values=("a.b", "", ":1.3")),
        Message("method_call", 1, sender=":1.9", destination=bus, path="/", member="GetNameOwner",
                signature="s", values=("a.b",)),
        Message("method_return", 1, 1, bus, ":1.9", signature="s", values=(":1.4",)),
        *(Message("method_call", n, destination=f":1.{n}", **call) for n in range(2, 6)),
    ]
    asked = recorded(messages, "a.b")
    assert len(asked) == 2 and {question.member for question in asked} == {"A"}


def described(inside: str, path: str = "/a") -> Told:
    node = read_node("x", f'<node><interface name="a.b">{inside}</interface></node>'.encode(), path)
    return Told({"a.b": node.interfaces[0]}, {"a.b": [path]}, [])


DESCRIPTIONS: list[tuple[str, str, str | None, bool]] = [
    ('<signal name="A"><arg type="s" name="x"/></signal>',
     '<signal name="A"><arg type="s" name="y"/></signal>',
     None, False),
    ('<signal name="A"><arg type="s" name="x"/></signal>',
     '<signal name="A"><arg type="s" name="y"/></signal>',
     "signal (x:s)", True),
    ('<method name="A"/>', '<method name="A"><arg type="s" direction="out"/></method>', "method () -> ()",
     False),
    ('<method name="A"/>', "", "method () -> ()", False),
    ('<signal name="A"><arg type="s"/></signal>', '<signal name="A"/>', "signal (s)", False),
    ('<property name="A" type="s" access="read"/>', '<property name="A" type="s" access="readwrite"/>',
     "property s read emits=true", False),
    ('<annotation name="org.gtk.GDBus.DocString" value="x"/>', "", None, False),
    ('<annotation name="a.b" value="x"/>', "", "a.b='x'", False),
    ('<method name="A"><annotation name="org.freedesktop.DBus.Method.NoReply" value="true"/></method>',
     '<method name="A"/>', "method () -> () no reply", False),
    ('<signal name="A"><annotation name="org.freedesktop.DBus.Deprecated" value="true"/></signal>',
     '<signal name="A"/>', "signal () deprecated", False),
    ('<signal name="A"/><signal name="B"/>', '<signal name="B"/><signal name="A"/>', None, True),
]


@pytest.mark.parametrize(("old", "new", "told", "strict"), DESCRIPTIONS)
def test_descriptions_are_compared_by_what_clients_can_rely_on(
    old: str, new: str, told: str | None, strict: bool
) -> None:
    differences = of_descriptions(described(old), described(new), strict=strict)
    assert [each.old for each in differences] == ([] if told is None else [told])
    assert not of_descriptions(described(new), described(new), strict=True)


def test_what_is_ignored_may_differ_in_its_values_and_not_in_its_types() -> None:
    question = Question("/a", "a.b", "Now")
    old, new, other = Outcome("s", ("1",)), Outcome("s", ("2",)), Outcome("u", (2,))

    def differences(a: Outcome, b: Outcome, *ignored: str) -> list[Difference]:
        return of_outcomes(question, a, b, strict=False, ignored=ignored)

    assert [(each.old, each.new) for each in differences(old, new)] == [('s "1"', 's "2"')]
    assert not differences(old, new, "a.b.N*")
    assert differences(old, other, "a.b.Now")
    changes = [
        Outcome(signals=(Heard("/a", "org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{sv}as",
                               ("a.b", {"Time": Variant("u", n), "Zone": Variant("s", "x")}, [])),))
        for n in (1, 2)
    ]
    assert differences(changes[0], changes[1]) and differences(changes[0], changes[1], "a.c.Time")
    assert not differences(changes[0], changes[1], "a.b.Time")


def test_own_names_and_paths_that_nobody_can_guess_are_no_difference() -> None:
    question = Question("/a", "a.b", "Who")

    def outcome(name: str, path: Any) -> Outcome:
        values = (name, {"to": Variant("(so)", (name, path))})
        return neutral(Outcome("sa{sv}", values), {name: ":service"})

    secret = outcome(":1.4", f"/org/bus1/cap/{'a' * 32}")
    assert not of_outcomes(question, outcome(":1.7", "/session/1"), secret, strict=True)
    assert not of_outcomes(question, secret, outcome(":1.7", f"/org/bus1/cap/{'b' * 32}"), strict=True)
    assert of_outcomes(question, outcome(":1.7", "/a"), outcome(":1.4", "/b"), strict=True)
    text = neutral(Outcome("s", ("x",)), {})
    path = neutral(Outcome("s", (f"/org/bus1/cap/{'a' * 32}",)), {})
    assert of_outcomes(question, text, path, strict=False), "a path stands for a path, and for nothing else"


def test_signals_in_another_order_are_a_difference() -> None:
    signals = tuple(Heard("/a", "a.b", name, "", ()) for name in ("First", "Second"))
    (found,) = of_outcomes(
        Question("/a", "a.b", "Do"), Outcome(signals=signals), Outcome(signals=signals[::-1]), strict=False
    )
    assert (found.what, found.old, found.new) == (
        "signals", "/a a.b.First; /a a.b.Second", "/a a.b.Second; /a a.b.First",
    )


def test_every_text_of_a_value_can_be_changed() -> None:
    values = (["x"], {"x": Variant("a(sg)", [("x", "s")])}, b"x", 1, "/x")
    after = changed("asa{sv}ayuo", values, lambda code, text: code + text)
    assert after == (["sx"], {"sx": Variant("a(sg)", [("sx", "s")])}, b"x", 1, "o/x")


def test_a_probe_calls_nothing_but_what_is_meant_for_reading() -> None:
    told = described('<method name="Destroy"/><property name="A" type="s" access="readwrite"/>')
    asked = list(probes([(told.interfaces["a.b"], "/a")]))
    assert [question.member for question in asked][:3] == ["GetAll", "Get", "Get"]
    assert not {"Destroy", "Set"} & {question.member for question in asked}
