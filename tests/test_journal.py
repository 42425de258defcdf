"""Where the lines of a bus go: standard error, the system log, the journal; nothing waits for them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from dbus_client import PATIENCE

from bus1.journal import DATAGRAM_MAX, INFORMATION, PRIORITY, Journal
from bus1.log import Fields, Log

ME = os.getpid()


class System:
    """A machine with a system log, and perhaps a journal, in a folder of the test's."""

    def __init__(self, folder: Path) -> None:
        self.opened: list[Journal] = []
        self.system_log, self.journal = str(folder / "log"), str(folder / "journal")

    def listen(self, place: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(place)
        sock.settimeout(PATIENCE)
        return sock

    def open(
        self, *, syslog: bool = True, stderr: bool = False, environment: dict[str, str] | None = None
    ) -> Journal:
        self.opened.append(Journal(
            "bus", "[system] ", syslog=syslog, stderr=stderr, environment=environment or {},
            journal=self.journal, system_log=self.system_log,
        ))
        return self.opened[-1]


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    system = System(tmp_path)
    yield system
    for journal in system.opened:
        journal.close()


@pytest.fixture
def classic(system: System) -> Iterator[socket.socket]:
    with closing(system.listen(system.system_log)) as sock:
        yield sock


@pytest.fixture
def modern(system: System) -> Iterator[socket.socket]:
    with closing(system.listen(system.journal)) as sock:
        yield sock


def fields_of(datagram: bytes) -> dict[str, bytes]:
    """What the journal makes of a datagram (JOURNAL_NATIVE_PROTOCOL)."""
    fields = {}
    while datagram:
        head, _, rest = datagram.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[9 + size :]
        fields[name.decode()] = value
        datagram = rest
    return fields


def test_a_system_log_gets_a_classic_line(system: System, classic: socket.socket) -> None:
    journal = system.open()
    journal.write("hello")
    journal.write("news", ((PRIORITY, str(INFORMATION)), ("BUS1_X", "y")))
    assert classic.recv(100) == f"<28>bus[{ME}]: [system] hello".encode()
    assert classic.recv(100) == f"<30>bus[{ME}]: [system] news".encode()


def test_a_journal_gets_fields_for_programs(
    system: System, classic: socket.socket, modern: socket.socket
) -> None:
    system.open().write("two\nlines", (("BUS1_CLIENT_PID", "17"), ("DBUS_BROKER_SENDER_UNIQUE_NAME", ":1.2")))
    assert fields_of(modern.recv(DATAGRAM_MAX)) == {
        "MESSAGE": b"[system] two\nlines", "PRIORITY": b"4", "SYSLOG_FACILITY": b"3",
        "SYSLOG_IDENTIFIER": b"bus", "BUS1_CLIENT_PID": b"17", "DBUS_BROKER_SENDER_UNIQUE_NAME": b":1.2",
    }


@pytest.mark.parametrize(
    ("syslog", "stderr"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_lines_go_where_they_should_and_nowhere_else(
    system: System, classic: socket.socket, capfd: pytest.CaptureFixture[str], syslog: bool, stderr: bool
) -> None:
    system.open(syslog=syslog, stderr=stderr).write("hello")
    classic.setblocking(False)
    assert has_datagram(classic) is syslog
    assert capfd.readouterr().err == (f"bus[{ME}]: [system] hello\n" if stderr else "")


def has_datagram(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(100))
    except BlockingIOError:
        return False


def test_a_standard_error_that_the_journal_reads_gets_no_second_copy(
    system: System, modern: socket.socket, capfd: pytest.CaptureFixture[str]
) -> None:
    about = os.fstat(2)
    mine = {"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"}
    system.open(syslog=False, stderr=True, environment=mine).write("hello")
    assert fields_of(modern.recv(DATAGRAM_MAX))["MESSAGE"] == b"[system] hello"
    assert capfd.readouterr().err == ""
    other = {"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino + 1}"}
    system.open(syslog=False, stderr=True, environment=other).write("inherited from somebody")
    assert "inherited" in capfd.readouterr().err


def test_a_log_that_nobody_reads_loses_lines_and_says_how_many(
    system: System, classic: socket.socket
) -> None:
    journal = system.open()
    for i in range(10_000):
        journal.write(f"line {i}")
    classic.setblocking(False)
    taken = 0
    while has_datagram(classic):
        taken += 1
    assert 0 < taken < 10_000
    journal.write("the next")
    assert classic.recv(200).endswith(f"the next ({10_000 - taken} lines before this one were lost)".encode())
    journal.write("the last")
    assert classic.recv(200).endswith(b"the last")


def test_a_log_that_is_not_there_yet_is_found_when_it_comes(system: System) -> None:
    journal = system.open()
    journal.write("too early")
    with closing(system.listen(system.system_log)) as sock:
        journal.write("now")
        assert sock.recv(200).endswith(b"now (1 lines before this one were lost)")


@pytest.mark.parametrize("place", ["system_log", "journal"])
def test_no_line_is_larger_than_a_datagram_may_be(system: System, place: str) -> None:
    with closing(system.listen(getattr(system, place))) as sock:
        system.open().write("x" * 100_000 + "\n", (("BUS1_X", "y"),))
        datagram = sock.recv(1 << 20)
    assert DATAGRAM_MAX - 100 < len(datagram) <= DATAGRAM_MAX
    assert place == "system_log" or fields_of(datagram)["BUS1_X"] == b"y"


# ---- floods --------------------------------------------------------------------------------------


def test_equal_lines_are_counted_and_keep_the_fields_of_the_first() -> None:
    written: list[tuple[str, Fields]] = []
    log = Log("bus", lambda text, fields: written.append((text, fields)))
    for i in range(3):
        log.note("again", fields=(("BUS1_I", str(i)),))
    log.note("once", 1)
    log.note("often", 40)
    assert log.deadline == 0.0
    log.write(10.0)
    assert written == [
        ("again (3 times)", (("BUS1_I", "0"),)), ("once", ()), ("often (40 times)", ()),
    ]
    assert log.deadline is None


def test_a_second_passes_between_two_writings() -> None:
    written: list[str] = []
    log = Log("bus", lambda text, fields: written.append(text))
    for now, line in ((10.0, "a"), (10.5, "b"), (10.9, "b"), (11.0, "c")):
        log.note(line)
        log.write(now)
    assert written == ["a", "b (2 times)", "c"]
