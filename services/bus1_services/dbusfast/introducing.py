"""introducing: calls that wait until it is known what their callers are called.

Theory. Only handlers for all messages see who sent one. For a program that has such a handler the registry is
asked whose the reply node of a call is: a D-Bus client then goes by its unique name, which can be
watched and called back. Who has no name on the bus keeps the one that was made up.

Invariants. 1. Calls are handed on in the order in which they came. 2. Of calls that expect no answer at most
``MAX_WAITING`` wait; others are dropped, as such calls may be. The rest have places.

Not here: made-up names (``callers``).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any

from bus1.errors import Bus1Error

from ..connection import Connection
from ..errors import DBusError
from ..handle import Handle
from .callers import Callers

MAX_WAITING = 4096


class Introductions:
    """The calls of one program that wait."""

    def __init__(self, connection: Connection, callers: Callers, hand_on: Callable[[Any], None]) -> None:
        self._connection = connection
        self._callers = callers
        self._hand_on = hand_on
        self._waiting: deque[tuple[Any, Handle | None]] = deque()
        self.is_busy = False
        """Some calls wait."""

    def add(self, message: Any, reply: Handle | None) -> None:
        """Hand this call on when its caller is known, and all before it are handed on."""
        if reply is None and len(self._waiting) >= MAX_WAITING:
            for fd in message.unix_fds:
                os.close(fd)
            return
        self._waiting.append((message, reply))
        if not self.is_busy:
            self.is_busy = True
            self._connection.start(self._introduce)

    async def _introduce(self) -> None:
        try:
            while self._waiting:
                message, reply = self._waiting[0]
                if reply is not None:
                    await self._name(message, reply)
                self._waiting.popleft()
                self._hand_on(message)
        finally:
            self.is_busy = False

    async def _name(self, message: Any, reply: Handle) -> None:
        try:
            name = await self._connection.registry.identify(reply)
        except (DBusError, Bus1Error):
            return  # it goes by no name, or is gone already
        self._callers.rename(message.sender, name)
        message.sender = name
