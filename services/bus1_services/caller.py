"""caller: who called a method, and by which capability, for methods that ask.

Theory. A method with a parameter annotated ``Caller`` is given one; the parameter is not part of the
D-Bus signature, and should have the default ``NOBODY``, which local calls and proxies leave alone. The ids,
the label and the endpoint are what the kernel and the bus attested when the message was sent (P-50, P-52):
information, not permission. Permission is that the caller holds the capability; ``capability`` says which, as
an object may be handed out as many views, each to somebody else.

    def write(self, data: Bytes, caller: Caller = NOBODY) -> None:
        if caller.capability is self._read_only: ...

Not here: who goes by which name (``registry``); a native caller that published nothing has none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import NameHasNoOwner

if TYPE_CHECKING:
    from .connection import Connection
    from .handle import Handle
    from .interface import Interface


@dataclass(frozen=True, slots=True)
class Caller:
    """Account and process of a caller; ``handles`` came beside the arguments, None for dead ones."""

    uid: int
    gid: int
    pid: int
    """0, if it is not visible from here (P-51)."""
    flags: int = 0
    handles: tuple[Any, ...] = ()
    label: str = ""
    """What a security module of the kernel calls the caller; empty without one."""
    endpoint: str = ""
    """The name of the endpoint that the caller is behind; empty for the bus's own sockets."""
    capability: Interface | None = None
    """The object that was called: of several views on each other, the one that the caller holds."""
    reply: Handle | None = field(default=None, repr=False, compare=False)
    """Where the answer goes, until it is sent."""
    connection: Connection | None = field(default=None, repr=False, compare=False)
    """On which the call came."""

    async def name(self) -> str:
        """The caller's unique name on D-Bus, while the method runs.

        NameHasNoOwner for who has none, or expects no answer. For services that keep lists of senders; an
        object for each client needs no list, and ends with it."""
        if self.reply is None or self.connection is None:
            raise NameHasNoOwner("nobody waits for the answer of this call")
        return await self.connection.registry.identify(self.reply)


NOBODY = Caller(0xFFFF_FFFF, 0xFFFF_FFFF, 0)
"""The caller of a call that did not come over the bus."""
