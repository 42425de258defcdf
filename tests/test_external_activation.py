"""Programs that others wrote start services through either bus: dbus-python, GSettings and dconf.

That the right bus serves them is seen to by ``buses``.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from buses import Bus
from dbus_client import Client
from test_external_programs import DBUS_PYTHON_CLIENT, DBUS_PYTHON_SERVICE, PYTHON_DBUS, SAID_BY_DBUS_PYTHON


def add_service(bus: Bus, name: str, command: str) -> None:
    """Make a name activatable."""
    folder = bus.folder / "dbus-1" / "services"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.service").write_text(f"[D-BUS Service]\nName={name}\nExec={command}\n")
    with Client(bus.path) as client:
        client.ask("ReloadConfig")


def test_dbus_python_activates_a_service_of_dbus_python(new_bus: Bus) -> None:
    script = new_bus.folder / "thing.py"
    script.write_text(DBUS_PYTHON_SERVICE)
    add_service(new_bus, "t.Thing", f"{PYTHON_DBUS} {script}")
    done = new_bus.run(PYTHON_DBUS, "-c", DBUS_PYTHON_CLIENT)
    assert (done.stdout, done.returncode) == (SAID_BY_DBUS_PYTHON, 0), done.stderr


# ---- dbus-update-activation-environment, dconf and GSettings --------------------------------------

SCHEMA = """<schemalist>
  <schema id="t.bus" path="/t/bus/">
    <key name="word" type="s"><default>"unset"</default></key>
    <key name="numbers" type="ai"><default>[]</default></key>
  </schema>
</schemalist>
"""
DCONF = "ca.desrt.dconf"


@dataclass
class Settings:
    """GSettings on a bus, in a folder of their own; the service that writes them is not running yet."""

    bus: Bus

    def __post_init__(self) -> None:
        (self.bus.folder / "t.gschema.xml").write_text(SCHEMA)
        self.run("glib-compile-schemas", "--strict", str(self.bus.folder))

    @property
    def config(self) -> str:
        """Where the service keeps its files."""
        return str(self.bus.folder / "config")

    @property
    def prefix(self) -> list[str]:
        """In front of a command that reads or writes settings."""
        variables = {
            "XDG_CONFIG_HOME": self.config, "XDG_RUNTIME_DIR": self.bus.folder,
            "GSETTINGS_SCHEMA_DIR": self.bus.folder, "GIO_USE_VFS": "local",
        }
        return ["env", *(f"{name}={value}" for name, value in variables.items())]

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command that goes on."""
        return self.bus.start(*self.prefix, *command)

    def run(self, *command: str) -> str:
        """What a command prints; that it fails is an error."""
        done = self.bus.run(*self.prefix, *command)
        assert (done.returncode, done.stderr) == (0, ""), (command, done.stderr)
        return done.stdout

    def service(self) -> int:
        """The process that owns dconf's name; 0 if there is none."""
        with Client(self.bus.path) as client:
            if DCONF not in client.ask("ListNames")[0]:
                return 0
            return int(client.ask("GetConnectionUnixProcessID", "s", DCONF)[0])


@pytest.fixture
def settings(new_bus: Bus) -> Iterator[Settings]:
    """The service gets its folder through the bus, and is ended."""
    settings = Settings(new_bus)
    settings.run("dbus-update-activation-environment", f"XDG_CONFIG_HOME={settings.config}", "GIO_USE_VFS")
    yield settings
    if pid := settings.service():
        os.kill(pid, signal.SIGTERM)


def test_gsettings_writes_through_activation_and_reads(settings: Settings) -> None:
    assert settings.service() == 0
    settings.run("gsettings", "set", "t.bus", "word", "written")
    assert settings.service() != 0
    settings.run("gsettings", "set", "t.bus", "numbers", "[1, 2]")
    assert settings.run("gsettings", "get", "t.bus", "word") == "'written'\n"
    assert settings.run("dconf", "dump", "/t/bus/") == "[/]\nnumbers=[1, 2]\nword='written'\n"
    assert (Path(settings.config) / "dconf" / "user").stat().st_size


def test_gsettings_monitor_sees_what_dconf_writes(settings: Settings) -> None:
    # not at a terminal, it would keep its lines to itself
    monitor = settings.start("stdbuf", "-oL", "gsettings", "monitor", "t.bus")
    assert monitor.stdout is not None
    n = 0
    while not select.select([monitor.stdout], [], [], 0.05)[0]:
        # it does not say when it has begun to listen
        settings.run("dconf", "write", "/t/bus/word", f"'{(n := n + 1)}'")
    assert re.fullmatch(r"word: '\d+'\n", monitor.stdout.readline())


@pytest.mark.parametrize("argument", ["--all", "T_NAME", "T_NAME=from here"])
def test_an_activated_service_gets_the_environment_that_was_given(new_bus: Bus, argument: str) -> None:
    script = new_bus.folder / "show.sh"
    script.write_text(f'printf "%s" "$T_NAME" >{new_bus.folder}/shown\nexit 1\n')
    add_service(new_bus, "t.Shows", f"/bin/sh {script}")
    done = new_bus.run("env", "T_NAME=from here", "dbus-update-activation-environment", argument)
    assert (done.returncode, done.stderr) == (0, "")
    client = new_bus.connect()
    assert client.fault("StartServiceByName", "su", "t.Shows", 0).startswith("Spawn.")
    assert (new_bus.folder / "shown").read_text() == "from here"
