"""witness: stands in for a bus daemon, becomes it, and leaves word of who really listens.

Theory. A foreign test suite starts its own buses, dozens of them, each for a moment. It is given this program
as the daemon: ``witness.py RECORD DAEMON... -- FLAGS``. The process that the suite has started becomes the
daemon, so that its pid, its signals and its end are the daemon's. What the daemon prints goes through another
process, which connects to the printed address before the suite can know it, asks the kernel who is at the
other end (SO_PEERCRED, then /proc), and appends the answer to RECORD. So no bus serves a suite unseen.

Not here: what is expected (suites).
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from typing import NamedTuple
from urllib.parse import unquote

_PRINTS = "--print-address"


def main() -> None:
    """Become the daemon."""
    record = sys.argv[1]
    at = sys.argv.index("--")
    command, flags = sys.argv[2:at], sys.argv[at + 1 :]
    if (printed := printing_descriptor(flags)) is not None:
        _interpose(record, printed)
    os.execvp(command[0], command + flags)


def printing_descriptor(flags: list[str]) -> int | None:
    """Where the daemon will print its address; None if nowhere."""
    for i, flag in enumerate(flags):
        name, equals, value = flag.partition("=")
        if name == _PRINTS:
            if not equals and flags[i + 1 :] and not flags[i + 1].startswith("-"):
                value = flags[i + 1]
            return int(value or 1)
    return None


def _interpose(record: str, printed: int) -> None:
    suite = os.dup(printed)
    reading, writing = os.pipe()
    if os.fork() == 0:
        # a grandchild: the daemon must not find a child that it has not started
        if os.fork() == 0:
            os.close(writing)
            os.close(printed)
            _watch(record, reading, suite)
        os._exit(0)
    os.wait()
    os.close(suite)
    os.dup2(writing, printed)


def _watch(record: str, reading: int, suite: int) -> None:
    """Hand on what the daemon prints, an address only after a look at who is behind it."""
    with open(reading) as lines, open(suite, "w") as out:
        for line in lines:
            if line.startswith("unix:"):
                with open(record, "a") as file:
                    file.write(json.dumps(look(line.strip())) + "\n")
            out.write(line)
            out.flush()


class Process(NamedTuple):
    """One that listens."""

    pid: int
    uid: int
    executable: str
    arguments: list[str]


def look(address: str) -> Process:
    """The process that listens at an address of D-Bus."""
    key, _, value = address.partition(";")[0].partition(",guid=")[0].removeprefix("unix:").partition("=")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect({"path": "", "abstract": "\0"}[key] + unquote(value))
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, _ = struct.unpack("3i", credentials)
        # the suite shall find a bus that has no connection
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1):
            pass
    with open(f"/proc/{pid}/cmdline") as file:
        arguments = file.read().split("\0")
    return Process(pid, uid, os.readlink(f"/proc/{pid}/exe"), arguments)


if __name__ == "__main__":
    main()
