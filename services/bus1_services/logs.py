"""logs: where the lines of a service process go, and what programs can read in them.

Theory. The library writes to Python's ``logging``, under ``bus1.services``, and never configures it. A
process that has no configuration of its own gets this one from ``run``, or by ``configure``: if standard
error is the journal, records go there with their fields, otherwise they are lines of text. Fields are what
``extra=`` gives: ``bus1_member`` becomes BUS1_MEMBER in the journal, and ``member=`` at the end of a line.
The library's own are ``FIELDS``.

Invariants. 1. A log never blocks, raises or recurses into the service. 2. A field cannot pass for another
one, nor for a line.

Not here: what deserves a line (everywhere), the datagrams of the journal (``bus1.journal``).
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator

from bus1.journal import CRITICAL, DEBUG, ERROR, INFORMATION, PRIORITY, WARNING, Journal

FIELDS = (
    "bus1_service", "bus1_object", "bus1_interface", "bus1_member", "bus1_uid", "bus1_pid", "bus1_error",
    "bus1_seconds",
)
"""The title of a service; the class of an object; what was called, by whom; what came of it, and when."""
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_RESERVED = {
    "MESSAGE", "MESSAGE_ID", "PRIORITY", "ERRNO", "INVOCATION_ID", "USER_INVOCATION_ID", "DOCUMENTATION",
    "TID", "SYSLOG_FACILITY", "SYSLOG_IDENTIFIER", "SYSLOG_PID", "SYSLOG_TIMESTAMP", "SYSLOG_RAW",
    "CODE_FILE", "CODE_LINE", "CODE_FUNC", "LOGGER",
}
"""What systemd.journal-fields(7) gives a meaning, and what every record has here."""
_FIELD_MAX = 256
"""Characters of a field."""
_NAME = re.compile("[A-Z][A-Z0-9_]{0,63}")
_PLAIN = re.compile(r"[\w.:/@+-]+")
_PREFIX = "bus1_"
_LEVELS = (
    (logging.CRITICAL, CRITICAL), (logging.ERROR, ERROR), (logging.WARNING, WARNING),
    (logging.INFO, INFORMATION),
)


def configure(level: int = logging.INFO, program: str | None = None) -> None:
    """Send what all loggers of this process write, from this level on, to the journal or to standard error.

    ``program`` is its name, by default that of the script. Called again, it takes the place of the last
    time."""
    name = program or os.path.basename(sys.argv[0] or "") or "python"
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, Lines)]:
        root.removeHandler(handler)
        handler.close()
    root.addHandler(Lines(Journal(name)))
    root.setLevel(level)


class Lines(logging.Handler):
    """Writes records as lines, or as entries of the journal; ``close`` closes that."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal
        self.setFormatter(logging.Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Write it now, if that is possible without waiting."""
        try:
            text = self.format(record)
            if self._journal.has_fields:
                self._journal.write(text, ((PRIORITY, str(_priority(record))), *_entry(record)))
            else:
                self._journal.write(_line(record, text))
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """No more lines."""
        self._journal.close()
        super().close()


def _priority(record: logging.LogRecord) -> int:
    return next((priority for level, priority in _LEVELS if record.levelno >= level), DEBUG)


def _extra(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    for name, value in vars(record).items():
        if name not in _OWN and value is not None:
            yield name, str(value)[:_FIELD_MAX]


def _entry(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    """What the journal keeps beside the text."""
    yield "LOGGER", record.name
    yield "CODE_FILE", record.pathname
    yield "CODE_LINE", str(record.lineno)
    yield "CODE_FUNC", record.funcName
    for name, value in _extra(record):
        if _NAME.fullmatch(field := name.upper()) and field not in _RESERVED:
            yield field, value


def _line(record: logging.LogRecord, text: str) -> str:
    """The text with its level, and its fields behind the first line of it."""
    fields = ", ".join(
        f"{name.removeprefix(_PREFIX)}={value if _PLAIN.fullmatch(value) else repr(value)}"
        for name, value in _extra(record)
    )
    first, newline, rest = text.partition("\n")
    level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
    return f"{level}{first}{f' ({fields})' if fields else ''}{newline}{rest}"
