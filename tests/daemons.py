"""daemons: either daemon, started as programs start one: with flags and a configuration of the test's."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buses import COMMANDS, reap
from dbus_client import PATIENCE, Client, Wire

Popen: Any = subprocess.Popen
"""Untyped: which overload is meant shows only in the options."""

OPEN = """<policy context="default">
  <allow send_destination="*" eavesdrop="true"/> <allow eavesdrop="true"/> <allow own="*"/> <allow user="*"/>
</policy>"""
"""Everybody may do everything."""


def line(stream: Any) -> str:
    """The next line that a process prints."""
    readable, _, _ = select.select([stream], [], [], PATIENCE)
    assert readable
    text: str = stream.readline().decode()
    assert text.endswith("\n"), text
    return text.rstrip("\n")


def path_of(address: str) -> str:
    """What to connect to for the first entry of a D-Bus address."""
    kind, _, rest = address.partition(",guid=")[0].partition("=")
    return ("\0" if kind == "unix:abstract" else "") + rest


def values_of(entry: str) -> dict[str, str]:
    """Keys and values of one entry of an address; the transport under the empty key."""
    transport, _, rest = entry.partition(":")
    return {"": transport} | dict(pair.split("=", 1) for pair in rest.split(","))


def serves(address: str) -> bool:
    """Somebody can say Hello there."""
    with Client(path_of(address)) as client:
        return bool(client.name.startswith(":1."))


class NetworkWire(Wire):
    """A stream over tcp that has not said a word."""

    def __init__(self, entry: str) -> None:
        values = values_of(entry)
        assert values[""] == "tcp"
        self.socket = socket.create_connection((values["host"], int(values["port"])), PATIENCE)
        self.buffer = bytearray()
        self.fds = []


@dataclass
class Daemon:
    """One kind of daemon, and a folder for whatever it needs; ends what it has started."""

    kind: str
    folder: Path
    cleanup: ExitStack = field(default_factory=ExitStack)

    @property
    def is_reference(self) -> bool:
        """It is dbus-daemon."""
        return self.kind == "dbus-daemon"

    @property
    def socket(self) -> str:
        """Where ``configure`` lets it listen unless told otherwise."""
        return f"{self.folder}/bus"

    @property
    def left(self) -> list[str]:
        """What lies in the folder; without that of transient services, which every bus makes and leaves."""
        return sorted(path.name for path in self.folder.iterdir() if path.name != "dbus-1")

    def configure(self, content: str = "", *, listen: Sequence[str] = (), policy: str = OPEN) -> str:
        """A configuration file of a session bus with something more in it; its name."""
        where = "".join(f"<listen>{address}</listen>" for address in listen or [f"unix:path={self.socket}"])
        path = self.folder / "bus.conf"
        path.write_text(f"<busconfig><type>session</type>{where}{content}{policy}</busconfig>")
        return str(path)

    def start(self, *flags: str, program: Sequence[str] = (), **options: Any) -> subprocess.Popen[bytes]:
        """A process with these flags; its output and errors are pipes unless told otherwise."""
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(self.folder)} | options.pop("environment", {})
        pipe = subprocess.PIPE
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe}
        process: subprocess.Popen[bytes] = Popen(
            [*program, COMMANDS[self.kind], *flags], env=environment, cwd=self.folder, **streams | options
        )
        self.cleanup.callback(reap, process)
        return process

    def serve(self, *flags: str, **options: Any) -> tuple[subprocess.Popen[bytes], str]:
        """A daemon that listens in the foreground, and what it prints as its address."""
        process = self.start("--nofork", "--print-address=1", *flags, **options)
        return process, line(process.stdout)

    def fails(self, *flags: str, **options: Any) -> str:
        """What it says; it must end with status 1 and print nothing else."""
        output, complaint = (process := self.start(*flags, **options)).communicate(timeout=PATIENCE)
        assert (process.returncode, output) == (1, b""), complaint
        return complaint.decode()

    def stop(self, process: subprocess.Popen[bytes]) -> str:
        """End it with SIGTERM; what it has said."""
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, said
        return said.decode()


def lend_daemon(kind: str, folder: Path) -> Iterator[Daemon]:
    """One test's use of a kind of daemon; what it has started is ended with it."""
    daemon = Daemon(kind, folder)
    with daemon.cleanup:
        yield daemon
