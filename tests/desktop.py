"""desktop: Xfce on a bus of either kind: an X server, the bus, the session, and nothing else of the machine.

Theory. A session is all that is started with its environment, so every process of it is found by the marker
there. The folder is home, runtime directory and temporary directory; of a system bus there is none. What the
bus, what it activates and what the session print goes to one log, a line at a time.

Not here: what a person does with it (desktop_user); whether that went well (desktop_session).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from buses import COMMANDS, reap
from daemons import line
from dbus_client import BUS, CallFailed, Client
from desktop_screen import Screen, start_screen
from witness import look

PATIENCE = 90
"""Seconds until anything must have happened: several desktops may start at once."""
_MARKER = "BUS1_DESKTOP"
_DAEMONS = {"dbus-daemon", "dbus-broker", "dbus-broker-launch", "bus1-bridge"}


def wait_for(claim: Callable[[], bool], what: str) -> None:
    """Look until ``claim`` holds: for what has no event to wait for, as pictures have none."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not claim():
        assert time.monotonic() < deadline, f"in vain: {what}"
        pause.wait(0.2)


@dataclass(frozen=True)
class Desktop:
    """A session that runs."""

    kind: str
    folder: Path
    screen: Screen
    bus: subprocess.Popen[bytes]
    address: str
    session: subprocess.Popen[bytes]
    environment: dict[str, str]

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def log(self) -> str:
        """What bus, services and session have written."""
        return (self.folder / "log").read_text(errors="replace")

    def run(self, *command: str) -> str:
        """Run a program in the session, as from a terminal; what it prints."""
        done = self.attempt(*command)
        assert done.returncode == 0, (command, done.returncode, done.stdout)
        return done.stdout

    def attempt(self, *command: str) -> subprocess.CompletedProcess[str]:
        """The same, of a program that may fail."""
        return subprocess.run(
            command, env=self.environment, cwd=self.home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=PATIENCE,
        )

    @contextmanager
    def start(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """Start a program in the session whose output is read."""
        process = subprocess.Popen(
            command, env=self.environment, cwd=self.home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )
        try:
            yield process
        finally:
            reap(process)

    def processes(self) -> dict[int, dict[str, str]]:
        """The environment of each process of the session, the bus and what it is about to start apart."""
        bus = _arguments(self.bus.pid)
        return {pid: found for pid, found in _marked(str(self.folder)) if _arguments(pid) != bus}

    def end_the_bus(self) -> int:
        """Its exit status; it is told to end as at the end of a session, and whoever is on it ends, too."""
        clients = set(self._owners().values())
        self.bus.send_signal(signal.SIGTERM)
        status = self.bus.wait(PATIENCE)
        wait_for(lambda: not clients & self.processes().keys(), "services end with their bus")
        return status

    def check_who_serves(self) -> list[str]:
        """The bus is of its kind, and the only one that the session knows; who has a name on it."""
        process = look(self.address)
        reference = self.kind == "dbus-daemon"
        executable = str(shutil.which("dbus-daemon")) if reference else sys.executable
        assert (process.pid, process.uid) == (self.bus.pid, os.getuid())
        assert process.executable == os.path.realpath(executable)
        assert COMMANDS[self.kind] in process.arguments
        owners = self._owners()
        processes = self.processes()
        strangers = [pid for pid in owners.values() if pid not in processes and _arguments(pid)]
        assert not strangers, (strangers, self.log())
        for pid, environment in processes.items():
            assert environment.get("DBUS_SESSION_BUS_ADDRESS") == self.address, (pid, _arguments(pid))
            # that of assistive technologies is a bus of its own, whatever serves the session
            words = _arguments(pid)
            is_daemon = bool({os.path.basename(word) for word in words[:2]} & _DAEMONS)
            assert not is_daemon or any("accessibility.conf" in word for word in words), words
        return sorted(name for name in owners if not name.startswith(":"))

    def _owners(self) -> dict[str, int]:
        """The process of each name, unique ones included."""
        owners = {}
        with Client(f"{self.folder}/run/bus") as client:
            for name in client.ask("ListNames")[0]:
                if name not in {BUS, client.name}:
                    # it may have gone meanwhile
                    with suppress(CallFailed):
                        owners[name] = int(client.ask("GetConnectionUnixProcessID", "s", name)[0])
        return owners


def _marked(value: str) -> Iterator[tuple[int, dict[str, str]]]:
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            words = Path(f"/proc/{name}/environ").read_bytes().decode(errors="replace").split("\0")
            environment = dict(word.split("=", 1) for word in words if "=" in word)
            if environment.get(_MARKER) == value:
                yield int(name), environment


def _arguments(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


@contextmanager
def run_desktop(kind: str, folder: Path) -> Iterator[Desktop]:
    """Start a session; when it is over, nothing of it is left."""
    for name in ("home/Desktop", "run", "tmp"):
        (folder / name).mkdir(parents=True, mode=0o700)
    with ExitStack() as cleanup:
        screen = start_screen(folder, cleanup)
        environment = _environment(folder, screen)
        cleanup.callback(_end_all, str(folder))
        log = cleanup.enter_context((folder / "log").open("ab"))
        address = f"unix:path={folder}/run/bus"
        bus = subprocess.Popen(
            [COMMANDS[kind], "--session", "--nofork", "--print-address=1", f"--address={address}"],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
        )
        cleanup.callback(reap, bus)
        environment["DBUS_SESSION_BUS_ADDRESS"] = line(bus.stdout)
        session = subprocess.Popen(
            ["xfce4-session"], env=environment, cwd=folder / "home", stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, start_new_session=True,
        )
        cleanup.callback(reap, session)
        address = environment["DBUS_SESSION_BUS_ADDRESS"]
        yield Desktop(kind, folder, screen, bus, address, session, environment)


def _environment(folder: Path, screen: Screen) -> dict[str, str]:
    home = f"{folder}/home"
    names = ("PATH", "USER", "LOGNAME", "BUS1_ACCEL")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return kept | {
        _MARKER: str(folder), "DISPLAY": screen.display, "HOME": home, "LC_ALL": "C.UTF-8", "TZ": "UTC",
        "XDG_CONFIG_HOME": f"{home}/.config", "XDG_CACHE_HOME": f"{home}/.cache",
        "XDG_DATA_HOME": f"{home}/.local/share", "XDG_STATE_HOME": f"{home}/.local/state",
        "XDG_RUNTIME_DIR": f"{folder}/run", "XDG_CURRENT_DESKTOP": "XFCE", "XDG_SESSION_TYPE": "x11",
        "TMPDIR": f"{folder}/tmp", "ICEAUTHORITY": f"{folder}/run/ice", "XAUTHORITY": f"{folder}/run/x",
        "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={folder}/run/no-system-bus",
    }


def _end_all(marker: str) -> None:
    """End what has outlived its session and its bus, as agents do."""
    for pid, _ in _marked(marker):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
