"""bugs: what a caller is told of an exception that is nobody's answer.

Theory. A method answers with a result, or with a DBusError. Whatever else it raises is a bug of its own: the
caller learns class and text of it, the log has the traceback, and nothing else ends. So is a DBusError whose
name or text can't be sent.

Invariants. 1. What ``words`` gives fits into an ERROR, whatever the exception does.

Not here: answering and logging (``calls``, ``production``).
"""

from __future__ import annotations

import asyncio

import anyio

from bus1.turns import asyncio_loop

from .errors import DBusError
from .types import is_error_name

MAX_TEXT = 1024
"""Characters about a bug that its caller is told."""


def can_travel(error: DBusError) -> bool:
    """Name and text are what an ERROR can carry; a subclass may have left them out."""
    name, text = getattr(error, "name", None), getattr(error, "text", None)
    if not isinstance(name, str) or not isinstance(text, str) or not is_error_name(name):
        return False
    return text == _plain(text)


def is_bug(error: BaseException) -> bool:
    """It is the fault of the code that raised it, and ends no more than that.

    So is asyncio's cancellation that this task was not asked for: of a future, by whoever else has it."""
    if not isinstance(error, asyncio.CancelledError):
        return isinstance(error, Exception)
    return asyncio_loop() is None or not anyio.get_current_task().has_pending_cancellation()


def words(error: BaseException) -> str:
    """Class and text of any exception, short enough and clean enough for a D-Bus string."""
    kind = type(error).__name__
    try:
        return _plain(f"{kind}: {error}"[:MAX_TEXT])
    except Exception:
        # The text is code of the exception, which may fail, too; the log has its traceback.
        return _plain(kind[:MAX_TEXT])


def _plain(text: str) -> str:
    return text.replace("\0", "?").encode("utf-8", "replace").decode()
