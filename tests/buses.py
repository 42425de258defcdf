"""buses: a bus as a process of its own, started for one test, and checked when the test is over."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbus_client import BUS, PATIENCE, Client, Wire
from witness import look

import bus1

BRIDGE = Path(sys.executable).parent / "bus1-bridge"
COMMANDS = {"dbus-daemon": "dbus-daemon", "bus1-bridge": str(BRIDGE)}


def targets_of_fds(pid: int) -> list[str]:
    """What the descriptors of a process lead to, those apart that it closes meanwhile."""
    targets = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            targets.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return targets


def open_fds(pid: int) -> int:
    """How many descriptors a process has open, without that of its watched directories: it comes late."""
    return sum(target != "anon_inode:inotify" for target in targets_of_fds(pid))


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process does nothing meanwhile; that ends its waits of before, too."""

    def is_stopped() -> bool:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    os.kill(pid, signal.SIGSTOP)
    try:
        eventually(is_stopped, lambda: f"{pid} does not stop")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def eventually(claim: Callable[[], bool], what: Callable[[], object]) -> None:
    """Look until ``claim`` holds: for what has no event to wait for, as /proc has none."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not claim():
        assert time.monotonic() < deadline, what()
        pause.wait(0.002)


@dataclass
class Bus:
    """A running bus: reach it by ``connect``, or give ``address`` or ``environment`` to a program."""

    kind: str
    process: subprocess.Popen[bytes]
    address: str
    path: str
    folder: Path
    cleanup: ExitStack = field(default_factory=ExitStack)
    """What the test at hand has opened and started."""

    @property
    def is_reference(self) -> bool:
        """It is dbus-daemon."""
        return self.kind == "dbus-daemon"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def guid(self) -> str:
        """Of the printed address."""
        return self.address.partition("guid=")[2]

    def log(self) -> str:
        """What it wrote to its standard error."""
        return (self.folder / "log").read_text()

    @property
    def environment(self) -> dict[str, str]:
        """For a program that shall find this bus and no other."""
        return {**os.environ, "DBUS_SESSION_BUS_ADDRESS": self.address, "LC_ALL": "C.UTF-8", "NO_COLOR": "1"}

    def connect(self, **options: Any) -> Client:
        """A client with a name; closed with the bus at the latest."""
        return self.cleanup.enter_context(Client(self.path, **options))

    def wire(self) -> Wire:
        """A connection that has not said anything."""
        return self.cleanup.enter_context(Wire(self.path))

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a stock tool against this bus."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE * 2,
            stdin=subprocess.DEVNULL, **options,
        )

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a stock tool against this bus; ended with it."""
        process = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, **options,
        )
        self.cleanup.callback(reap, process)
        return process


def reap(process: subprocess.Popen[Any]) -> None:
    """End a process that this test started, and wait for it."""
    with process:
        if process.poll() is None:
            process.kill()


def start_bus(
    kind: str, folder: Path, cleanup: ExitStack, flags: Sequence[str] = ("--session",)
) -> Bus:
    """Start a bus on a socket in ``folder``, a session's unless ``flags`` say otherwise, and wait for it."""
    path = str(folder / "bus")
    command = [COMMANDS[kind], *flags, f"--address=unix:path={path}", "--print-address=1", "--nofork"]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "XDG_DATA_HOME": str(folder)}
    environment.pop("DBUS_SESSION_BUS_ADDRESS", None)
    log = cleanup.enter_context((folder / "log").open("wb"))
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
    )
    cleanup.callback(reap, process)
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], PATIENCE)
    address = process.stdout.readline().decode().strip() if readable else ""
    assert address.startswith("unix:"), (command, address, (folder / "log").read_text())
    bus = Bus(kind, process, address, path, folder)
    check_who_listens(bus)
    return bus


def check_who_listens(bus: Bus) -> None:
    """The process behind the socket is the one that was started, and of the kind that tests are told."""
    process = look(bus.address)
    command = str(shutil.which("dbus-daemon")) if bus.is_reference else sys.executable
    assert (process.pid, process.uid, process.executable) == (bus.pid, os.getuid(), os.path.realpath(command))
    assert COMMANDS[bus.kind] in process.arguments
    if not bus.is_reference:
        assert has_native_body(bus.pid) == bus1.__accelerated__


def has_native_body(pid: int) -> bool:
    """What a process uses: the body that was meant for the tests, or the other one."""
    return "/bus1/_native." in Path(f"/proc/{pid}/maps").read_text()


def stop_bus(bus: Bus) -> None:
    """SIGTERM ends a bus; ours with status 0."""
    bus.process.send_signal(signal.SIGTERM)
    status = bus.process.wait(PATIENCE)
    assert bus.is_reference or status == 0, (status, bus.log())


def check_nothing_is_left(bus: Bus, fds: int) -> None:
    """All clients gone: no name and no descriptor of theirs is left, and the bus still serves."""
    assert bus.process.poll() is None, bus.log()
    with Client(bus.path) as probe:
        eventually(lambda: probe.ask("ListNames")[0] == [BUS, probe.name], lambda: probe.ask("ListNames"))
    eventually(lambda: open_fds(bus.pid) <= fds, lambda: (fds, os.listdir(f"/proc/{bus.pid}/fd")))
    assert "Traceback" not in bus.log(), bus.log()


def lend(bus: Bus) -> Iterator[Bus]:
    """One test's use of a bus; when it is over, nothing may be left behind."""
    with Client(bus.path):
        fds = open_fds(bus.pid) - 1
    with ExitStack() as bus.cleanup:
        yield bus
    check_nothing_is_left(bus, fds)


def fresh_bus(kind: str, folder: Path, flags: Sequence[str] = ("--session",)) -> Iterator[Bus]:
    """A bus that only one test sees."""
    with ExitStack() as cleanup:
        bus = start_bus(kind, folder, cleanup, flags)
        yield from lend(bus)
        stop_bus(bus)


class Pool:
    """Buses that tests share, one of each kind; one that a test has spoilt is replaced."""

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder
        self._running: dict[str, tuple[Bus, ExitStack]] = {}

    def lend(self, kind: str) -> Iterator[Bus]:
        """A bus for one test."""
        if kind not in self._running:
            cleanup = ExitStack()
            self._running[kind] = (start_bus(kind, self._folder(), cleanup), cleanup)
        try:
            yield from lend(self._running[kind][0])
        except BaseException:
            self._running.pop(kind)[1].close()
            raise

    def close(self) -> None:
        """Stop them all."""
        for bus, cleanup in self._running.values():
            with cleanup:
                stop_bus(bus)
