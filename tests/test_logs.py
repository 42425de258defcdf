"""Where the lines of a service process go: the journal with fields, or text."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from bus1_services.logs import Lines

from bus1.journal import DATAGRAM_MAX, Journal


def record(text: str = "tea is late", level: int = logging.WARNING, **extra: Any) -> logging.LogRecord:
    log = logging.getLogger("tea")
    return log.makeRecord("tea", level, "/tea.py", 7, text, (), None, "brew", extra)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[tuple[Lines, socket.socket]]:
    """A handler whose standard error is the journal, and the journal."""
    about = os.fstat(2)
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
        sock.bind(str(tmp_path / "journal"))
        sock.settimeout(20)
        lines = Lines(Journal(
            "desk", journal=str(tmp_path / "journal"),
            environment={"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"},
        ))
        yield lines, sock
        lines.close()


def entry(datagram: bytes) -> dict[str, bytes]:
    """The fields of a datagram, read as journald does."""
    fields = {}
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, has_text, value = line.partition(b"=")
        if not has_text:
            size = int.from_bytes(datagram[:8], "little")
            value, datagram = datagram[8 : 8 + size], datagram[9 + size :]
        assert name.decode() not in fields
        fields[name.decode()] = value
    return fields


def test_the_journal_gets_the_fields_of_a_record(journal: tuple[Lines, socket.socket]) -> None:
    lines, sock = journal
    lines.handle(record(bus1_member="Brew", bus1_uid=1000, bus1_error=None, cups=3))
    fields = entry(sock.recv(DATAGRAM_MAX))
    assert fields == {
        "MESSAGE": b"tea is late", "PRIORITY": b"4", "SYSLOG_IDENTIFIER": b"desk", "SYSLOG_FACILITY": b"3",
        "LOGGER": b"tea", "CODE_FILE": b"/tea.py", "CODE_LINE": b"7", "CODE_FUNC": b"brew",
        "BUS1_MEMBER": b"Brew", "BUS1_UID": b"1000", "CUPS": b"3",
    }


def test_levels_are_the_priorities_of_syslog(journal: tuple[Lines, socket.socket]) -> None:
    lines, sock = journal
    told = []
    for level in (logging.DEBUG, 15, logging.INFO, 25, logging.WARNING, logging.ERROR, logging.CRITICAL, 99):
        lines.handle(record(level=level))
        told.append(int(entry(sock.recv(DATAGRAM_MAX))["PRIORITY"]))
    assert told == [7, 7, 6, 6, 4, 3, 2, 2]


def test_a_field_cannot_forge_another(journal: tuple[Lines, socket.socket]) -> None:
    lines, sock = journal
    extra: dict[str, Any] = {
        "bus1_error": "late\nPRIORITY=0", "priority": "0", "_pid": "1", "a=b": "c", "x\ny": "z",
        "bus1_object": "o" * 100_000, "message_id": "1" * 32,
    }
    lines.handle(record("a\nMESSAGE=b", **extra))
    fields = entry(sock.recv(DATAGRAM_MAX))
    assert fields["MESSAGE"] == b"a\nMESSAGE=b"
    assert fields["BUS1_ERROR"] == b"late\nPRIORITY=0"
    assert fields["PRIORITY"] == b"4"
    assert fields["BUS1_OBJECT"] == b"o" * 256
    assert not {"_PID", "A=B", "X", "Y", "MESSAGE_ID"} & set(fields)


def test_a_traceback_is_part_of_the_message(journal: tuple[Lines, socket.socket]) -> None:
    lines, sock = journal
    try:
        raise LookupError("no tea")
    except LookupError:
        failed = record()
        failed.exc_info = sys.exc_info()
    lines.handle(failed)
    message = entry(sock.recv(DATAGRAM_MAX))["MESSAGE"]
    assert message.startswith(b"tea is late\nTraceback") and message.endswith(b"LookupError: no tea")


def test_what_cannot_be_written_is_the_concern_of_logging_alone(
    journal: tuple[Lines, socket.socket], capsys: pytest.CaptureFixture[str]
) -> None:
    class Unspeakable:
        def __str__(self) -> str:
            raise LookupError("no words")

    lines, _ = journal
    lines.handle(record(bus1_error=Unspeakable()))
    assert "no words" in capsys.readouterr().err


PROGRAM = """
import logging, sys
from bus1_services.logs import configure
log = logging.getLogger("tea")
log.info("before")
configure(program="desk")
configure(logging.DEBUG, program="desk")
log.info("ready")
log.debug("steeping", extra={"bus1_member": "Brew", "bus1_error": "too\\nlate", "bus1_uid": 7, "cups": None})
try:
    raise LookupError("no tea")
except LookupError:
    log.exception("%s failed", "Brew", extra={"bus1_object": "Pot"})
"""


def test_elsewhere_fields_stand_at_the_end_of_the_line() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
    who = f"desk[{process.pid}]: "
    assert lines[:4] == [
        f"{who}ready",
        f"{who}debug: steeping (member=Brew, error='too\\nlate', uid=7)",
        f"{who}error: Brew failed (object=Pot)",
        "Traceback (most recent call last):",
    ]
    assert lines[-1] == "LookupError: no tea"
