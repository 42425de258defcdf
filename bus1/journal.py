"""journal: where the lines of a bus, or of a service, go.

Theory. Standard error, the system log, or both. If there is a journal it gets its own kind of datagram, with
fields for programs: those of dbus-broker where they exist, ``BUS1_…`` otherwise. Any other system log gets
the classic datagram. A service whose standard error is the journal anyway speaks to it directly.

Invariants. 1. Nothing waits: what the system log doesn't take at once is counted, and the count is told with
the next line that it takes. 2. A datagram is at most ``DATAGRAM_MAX`` bytes.

Not here: what deserves a line, floods (``log``).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from .log import Fields, write_line

JOURNAL = "/run/systemd/journal/socket"
SYSTEM_LOG = "/dev/log"
DATAGRAM_MAX = 8192
CRITICAL, ERROR, WARNING, INFORMATION, DEBUG = 2, 3, 4, 6, 7
"""What syslog calls priorities."""
PRIORITY = "PRIORITY"
_DAEMON = 3 << 3
"""The facility."""


class Journal:
    """Takes the lines of one process."""

    def __init__(
        self, program: str, prefix: str = "", *, syslog: bool = False, stderr: bool = True,
        environment: Mapping[str, str] = os.environ, journal: str = JOURNAL, system_log: str = SYSTEM_LOG,
    ) -> None:
        """``prefix`` goes before every text; ``syslog`` and ``stderr`` say where lines go."""
        self._program = program
        self._prefix = prefix
        self._has_journal = os.path.exists(journal)
        self._place = journal if self._has_journal else system_log
        is_read_by_journal = stderr and self._has_journal and _is_journal(environment.get("JOURNAL_STREAM"))
        self._stderr = stderr and not is_read_by_journal
        self._socket: socket.socket | None = None
        if syslog or is_read_by_journal:
            self._socket = socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            )
        self._lost = 0

    @property
    def has_fields(self) -> bool:
        """Lines go to the journal alone, which keeps their fields."""
        return self._socket is not None and self._has_journal and not self._stderr

    def write(self, text: str, fields: Fields = ()) -> None:
        """One line, now."""
        text = self._prefix + text
        if self._stderr:
            write_line(self._program, text)
        if self._socket is None:
            return
        if self._lost:
            text += f" ({self._lost} lines before this one were lost)"
        form = self._journal_datagram if self._has_journal else self._classic_datagram
        try:
            self._socket.sendto(form(text, fields)[:DATAGRAM_MAX], self._place)
        except OSError:
            self._lost += 1
        else:
            self._lost = 0

    def close(self) -> None:
        """No more lines for the system log."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _classic_datagram(self, text: str, fields: Fields) -> bytes:
        priority = _DAEMON | int(dict(fields).get(PRIORITY, WARNING))
        return f"<{priority}>{self._program}[{os.getpid()}]: {text}".encode(errors="backslashreplace")

    def _journal_datagram(self, text: str, fields: Fields) -> bytes:
        # the text comes last: if something has to be cut off, it is its end
        all_fields = {
            PRIORITY: str(WARNING), "SYSLOG_FACILITY": str(_DAEMON >> 3), "SYSLOG_IDENTIFIER": self._program
        } | dict(fields)
        out = b"".join(_field(name, value) for name, value in all_fields.items())
        room = max(0, DATAGRAM_MAX - len(out) - len("MESSAGE\n\n") - 8)
        return out + _field("MESSAGE", text.encode(errors="backslashreplace")[:room])


def _field(name: str, value: str | bytes) -> bytes:
    content = value.encode(errors="backslashreplace") if isinstance(value, str) else value
    if b"\n" in content:
        return name.encode() + b"\n" + len(content).to_bytes(8, "little") + content + b"\n"
    return name.encode() + b"=" + content + b"\n"


def _is_journal(stream: str | None) -> bool:
    """Whether this is standard error: what JOURNAL_STREAM says of it."""
    if not stream:
        return False
    try:
        about = os.fstat(2)
    except OSError:
        return False
    return stream == f"{about.st_dev}:{about.st_ino}"
