"""``bus1-bridge explain`` and ``bus1-bridge who-can``: what they say, and with which exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bus1_bridge.cli import main

CONFIG = """<busconfig>
<type>system</type>
<user>root</user>
<servicedir>services</servicedir>
<policy context="default">
  <allow user="*"/>
  <deny user="nobody"/>
  <deny own="*"/>
  <deny send_type="method_call"/>
  <allow send_type="signal"/>
  <allow send_type="method_return"/>
  <allow receive_type="method_call"/>
  <allow receive_type="method_return"/>
  <allow receive_type="signal"/>
  <allow send_destination="com.example.A" send_interface="com.example.I"/>
  <deny send_destination="com.example.A" send_interface="com.example.I" send_member="Secret"/>
  <deny receive_sender="com.example.Loud"/>
  <deny send_destination_prefix="com.example.Space" send_broadcast="false"/>
</policy>
<policy user="daemon">
  <allow own="com.example.A"/>
  <allow send_destination="com.example.A"/>
  <deny receive_interface="com.example.Unwanted"/>
</policy>
<policy group="games"><allow send_destination="com.example.A" send_member="Play" send_path="/a"/></policy>
</busconfig>
"""
A = "com.example.A"


@pytest.fixture
def conf(tmp_path: Path) -> str:
    path = tmp_path / "bus.conf"
    path.write_text(CONFIG)
    services = tmp_path / "services"
    services.mkdir()
    (services / f"{A}.service").write_text(f"[D-BUS Service]\nName={A}\nExec=/bin/true\nUser=daemon\n")
    return f"--config-file={path}"


Ran = tuple[int, str, str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def it(*line: str) -> Ran:
        try:
            status = main(line)
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return it


def checks(out: str) -> dict[str, tuple[str, bool, str | None]]:
    """Of each check: whose it is, the verdict, and the deciding rule."""
    records = [json.loads(line) for line in out.splitlines()]
    return {
        got["check"]: (got["user"], got["allowed"], got["rules"][0]["text"] if got["rules"] else None)
        for got in records
    }


def test_a_call_that_is_allowed(run: Any, conf: str) -> None:
    status, out, _ = run("explain", conf, "--as=bin", "--json=short", A, "/a", "com.example.I", "M")
    assert checks(out) == {
        "connect": ("bin", True, '<allow user="*"/>'),
        "send": ("bin", True, f'<allow send_destination="{A}" send_interface="com.example.I"/>'),
        "receive": ("daemon", True, '<allow receive_type="method_call"/>'),
    }
    assert status == 0


def test_a_call_that_is_denied_says_by_which_rule_in_which_line(run: Any, conf: str) -> None:
    status, out, _ = run("explain", conf, "--as=bin", A, "/a", "com.example.I", "Secret")
    assert status == 1
    (line,) = [line for line in out.splitlines() if line.startswith("send")]
    assert line.split()[:4] == ["send", "bin", "denied", "3"]
    assert 'send_member="Secret"/>' in line
    assert line.endswith("bus.conf:16")


def test_all_rules_that_match_are_shown_the_last_first(run: Any, conf: str) -> None:
    _, out, _ = run("explain", conf, "--as=bin", "--all", "--no-legend", A, "/a", "com.example.I", "Secret")
    places = [line.rpartition(":")[2] for line in out.splitlines()]
    assert places == ["6", "16", "15", "9", "12"]


@pytest.mark.parametrize("options, sent, received", [
    # who asks, and for what
    ((f"--as=daemon {A} /a x.Y M"), True, True),
    ((f"--as=games {A} /a x.Y Play"), True, True),
    ((f"--as=games {A} /a x.Y Work"), False, True),
    ((f"--as=bin {A} /a - M"), False, False),
    # who receives it
    ((f"--as=daemon {A} /a com.example.Unwanted M"), True, False),
    ((f"--as=daemon --owner=bin {A} /a com.example.Unwanted M"), True, True),
    ((f"--as=daemon --named=com.example.Loud {A} /a x.Y M"), True, False),
    # signals
    ((f"--as=bin --type=signal {A} /a x.Y S"), True, True),
    (("--as=bin --type=signal com.example.Space.B /a x.Y S"), False, True),
    ((f"--as=bin --type=signal --also=com.example.Space {A} /a x.Y S"), False, True),
    (("--as=bin --type=signal --broadcast com.example.Space.B /a x.Y S"), True, True),
    # answers
    ((f"--as=bin --type=method_return {A}"), True, True),
    ((f"--as=bin --type=method_return --unrequested {A}"), False, False),
    ((f"--as=bin --type=error --error=a.E {A}"), False, False),
    # those who listen
    ((f"--as=daemon --eavesdrop {A} /a x.Y M"), True, False),
    # the bus itself receives everything
    (("--as=bin org.freedesktop.DBus /a x.Y M"), False, None),
])
def test_every_kind_of_question(
    run: Any, conf: str, options: str, sent: bool, received: bool | None
) -> None:
    status, out, err = run("explain", conf, "--json=short", *options.split())
    found = checks(out)
    assert found["send"][1] == sent, err
    assert (found["receive"][1] if "receive" in found else None) == received
    assert status == (0 if sent and received is not False else 1)


def test_names_and_connections_are_questions_as_well(run: Any, conf: str) -> None:
    assert run("explain", conf, "--as=daemon", "--own", A)[0] == 0
    status, out, _ = run("explain", conf, "--as=bin", "--own", "--json=short", A)
    assert (status, checks(out)["own"]) == (1, ("bin", False, '<deny own="*"/>'))
    assert run("explain", conf, "--as=bin", "--connect")[0] == 0
    status, out, _ = run("explain", conf, "--as=nobody", "--connect", "--json=short")
    assert (status, checks(out)) == (1, {"connect": ("nobody", False, '<deny user="nobody"/>')})


def test_who_may_not_connect_may_not_call(run: Any, conf: str) -> None:
    status, out, _ = run("explain", conf, "--as=nobody", "--json=short", A, "/a", "com.example.I", "M")
    assert checks(out)["send"][1]
    assert status == 1


def test_a_number_is_a_user_even_without_an_account(run: Any, conf: str) -> None:
    status, out, _ = run("explain", conf, "--as=77777", "--connect", "--json=short")
    assert (status, json.loads(out)["uid"]) == (0, 77777)


@pytest.mark.parametrize("line, text", [
    ("--as=nobody-knows --connect", "there is no user 'nobody-knows'"),
    ("--own", "a SERVICE is needed"),
    ("--own no-dots", "'no-dots' is no bus name"),
    (f"{A} /a", "a method_call has a SERVICE, an OBJECT"),
    (f"--type=method_return {A} /a x.Y M", "an answer has a SERVICE"),
    (f"--type=error {A}", "belong together"),
    (f"--error=a.E {A} /a x.Y M", "belong together"),
    (f"--broadcast {A} /a x.Y M", "only a signal"),
    (f"--fds=-1 {A} /a x.Y M", "descriptors"),
    (f"--named=x {A} /a x.Y M", "'x' is no bus name"),
    (f"--type=nonsense {A}", "invalid choice"),
    ("--config-file=/nonexistent --connect", "not allowed with"),
])
def test_a_question_that_makes_no_sense_is_status_2(run: Any, conf: str, line: str, text: str) -> None:
    status, out, err = run("explain", "--user" if "--config-file" in line else conf, *line.split())
    assert (status, out) == (2, "")
    assert text in err


def test_a_configuration_that_cannot_be_read_is_status_2(run: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad.conf"
    bad.write_text("<busconfig>\n<bees/></busconfig>")
    for verb in ("explain", "who-can"):
        status, _, err = run(verb, f"--config-file={bad}", *(["--connect"] if verb == "explain" else []))
        assert status == 2
        assert "bad.conf:2: Element <bees> not allowed" in err


# ---- who-can -------------------------------------------------------------------------------------


def test_the_table_of_names_and_methods(run: Any, conf: str) -> None:
    status, out, _ = run("who-can", conf, "--json=short")
    records = [json.loads(line) for line in out.splitlines()]
    owners = {got["name"]: [who for who, may in got["allowed"].items() if may]
              for got in records if got["what"] == "own"}
    assert status == 0
    assert records[0] == {"what": "connect", "allowed": {"everybody": True, "root": True, "nobody": False}}
    assert owners == {A: ["daemon"], "com.example.Loud": [], "*": []}
    callers = {
        (got["name"], got["path"], got["interface"], got["member"]):
            [who for who, may in got["allowed"].items() if may]
        for got in records if got["what"] == "call"
    }
    assert callers == {
        (A, "*", "*", "*"): ["daemon"],
        (A, "*", "com.example.I", "*"): ["everybody", "daemon", "group games"],
        (A, "/a", "*", "Play"): ["daemon", "group games"],
        ("com.example.Space.*", "*", "*", "*"): [],
        ("*", "*", "*", "*"): [],
    }


def test_the_table_for_people(run: Any, conf: str) -> None:
    _, out, _ = run("who-can", conf, "--own")
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    assert lines == [
        ["NAME", "WHO MAY OWN IT"], [A, "daemon"], ["com.example.Loud", "nobody"], ["*", "nobody"],
    ]
    _, out, _ = run("who-can", conf, "--call", "--no-legend", A)
    assert [line.split() for line in out.splitlines()] == [
        [A, "*", "*", "*", "daemon"], [A, "*", "com.example.I", "*", "everybody"],
        [A, "/a", "*", "Play", "daemon,", "group", "games"],
    ]


def test_who_is_left_out_of_everybody_is_said(run: Any, tmp_path: Path) -> None:
    conf = tmp_path / "x.conf"
    conf.write_text(
        '<busconfig><policy context="default"><allow own="*"/></policy>'
        '<policy user="daemon"><deny own="a.b"/></policy></busconfig>'
    )
    _, out, _ = run("who-can", f"--config-file={conf}", "--own", "--no-legend", "a.b")
    assert out.split(maxsplit=1) == ["a.b", "everybody but daemon\n"]


def test_lints_are_told_with_file_and_line_and_an_exit_status(run: Any, conf: str) -> None:
    status, out, _ = run("who-can", conf, "--lint", "--json=short")
    records = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert [(got["kind"], got["line"]) for got in records] == [("dead", 17)]
    assert records[0]["text"] == "nobody may own com.example.Loud"


def test_without_anything_wrong_lint_is_status_0(run: Any, tmp_path: Path) -> None:
    conf = tmp_path / "x.conf"
    conf.write_text('<busconfig><policy context="default"><allow own="a.b"/></policy></busconfig>')
    assert run("who-can", f"--config-file={conf}", "--lint") == (0, "nothing\n", "")


def test_the_configurations_of_this_machine_can_be_asked_about(run: Any) -> None:
    assert run("explain", "--user", "a.b", "/a", "a.b", "M")[0] == 0
    assert run("explain", "--system", "--as=nobody", "--own", "a.b")[0] == 1
    assert run("who-can", "--system")[0] == 0
    assert run("who-can", "--user")[0] == 0
