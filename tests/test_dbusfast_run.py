"""``python -m bus1_services.dbusfast run``, and the match rules that a native connection follows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from bus1_services.dbusfast.rules import Rule
from bus1_services.errors import DBusError
from foreign_ways import NATIVELY

ERRORS = "org.freedesktop.DBus.Error."
PROGRAM = """
import sys
import neighbour
from {package}.aio import MessageBus
from {package}.aio.message_bus import MessageBus as SameBus
from {package}.message_bus import BaseMessageBus
print(__name__, sys.argv[0] == __file__, sys.argv[1:], neighbour.NAME)
print(MessageBus is SameBus, issubclass(MessageBus, BaseMessageBus), MessageBus.__mro__[1].__module__)
sys.exit(3)
"""


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command; there is no bus."""
    command = [sys.executable, *NATIVELY[:2], *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=cwd)


@pytest.mark.parametrize("package", ["dbus_fast", "dbus_next"])
def test_a_script_runs_as_by_itself_but_for_the_bus(tmp_path: Path, package: str) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(package=package))
    (tmp_path / "neighbour.py").write_text("NAME = 'neighbour'")
    found = run("run", str(script), "run", "--flag")
    assert found.stdout.splitlines() == [
        "__main__ True ['run', '--flag'] neighbour", "True True bus1_services.dbusfast.bus"
    ]
    assert (found.returncode, found.stderr) == (3, "")


def test_a_module_runs_as_by_python_m(tmp_path: Path) -> None:
    package = tmp_path / "app"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("import sys\nfrom . import part\nprint(sys.argv[1:], part.NAME)")
    (package / "part.py").write_text("NAME = 'part'")
    found = run("run", "app", "x", cwd=tmp_path)
    assert (found.stdout, found.stderr, found.returncode) == ("['x'] part\n", "", 0)


@pytest.mark.parametrize(("arguments", "status", "words"), [
    ((), 2, "usage: "),
    (("run",), 2, "usage: "),
    (("start", "x"), 2, "usage: "),
    (("run", "./missing.py"), 1, "./missing.py: no such file"),
    (("run", "missing_module"), 1, "No module named missing_module"),
])
def test_a_wrong_use_is_told_in_a_line(arguments: tuple[str, ...], status: int, words: str) -> None:
    found = run(*arguments)
    assert (found.returncode, found.stdout) == (status, "")
    assert words in found.stderr and "Traceback" not in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_a_library_is_loaded_by_those_alone_who_use_it() -> None:
    code = "import sys, bus1_services.dbusfast; print(sorted({'dbus_next'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (found.stdout, found.stderr) == ("[]\n", "")


@pytest.mark.parametrize(("text", "rule"), [
    ("sender='a.b',path='/x'", Rule("a.b", "/x")),
    ("type='signal',sender=:1.7,path=/x", Rule(":1.7", "/x")),
    ("sender='org.freedesktop.DBus',member='NameOwnerChanged'",
     Rule("org.freedesktop.DBus", "/org/freedesktop/DBus", "", "NameOwnerChanged")),
    ("interface='c.d', sender='a.b', path='/x', member='M', arg1='it'\\''s', arg0=','",
     Rule("a.b", "/x", "c.d", "M", ((0, ","), (1, "it's")))),
])
def test_a_rule_that_names_an_object_is_followed(text: str, rule: Rule) -> None:
    assert Rule.read(text) == rule


@pytest.mark.parametrize(("text", "error"), [
    ("", "MatchRuleInvalid"),
    ("nonsense", "MatchRuleInvalid"),
    ("sender='a.b',sender='a.b',path='/x'", "MatchRuleInvalid"),
    ("sender='a.b" + "x" * 5000 + "',path='/x'", "MatchRuleInvalid"),
    ("sender='a.b,path='/x'", "MatchRuleInvalid"),
    ("type='signal'", "NotSupported"),
    ("sender='a.b'", "NotSupported"),
    ("path='/x'", "NotSupported"),
    ("sender='a.b',path_namespace='/x'", "NotSupported"),
    ("sender='a.b',path='/x',arg0namespace='c'", "NotSupported"),
    ("type='method_call',sender='a.b',path='/x'", "NotSupported"),
])
def test_a_rule_that_cannot_be_followed_is_refused(text: str, error: str) -> None:
    with pytest.raises(DBusError) as refusal:
        Rule.read(text)
    assert refusal.value.name == ERRORS + error


@pytest.mark.parametrize(("text", "is_meant"), [
    ("sender='a.b',path='/x'", True),
    ("sender='a.b',path='/y'", False),
    ("sender='a.b',path='/x',interface='c.d',member='M',arg0='one',arg1='two'", True),
    ("sender='a.b',path='/x',interface='c.e'", False),
    ("sender='a.b',path='/x',member='N'", False),
    ("sender='a.b',path='/x',arg0='two'", False),
    ("sender='a.b',path='/x',arg2='three'", False),
])
def test_a_rule_narrows_down_what_is_heard(text: str, is_meant: bool) -> None:
    message = SimpleNamespace(path="/x", interface="c.d", member="M", body=["one", "two"])
    assert Rule.read(text).matches(message) is is_meant
