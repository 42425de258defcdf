"""sight: what one client behind a view sees of the bus, and whom it may speak to and hear.

Theory. A view speaks of well-known names; messages go between connections. So a ``Sight`` keeps, for one
client, what it may do with each party that it could know of: all that the view gives to the names which the
party owns, or has owned since the client could see them; and who has sent it something is seen from then on.
A call to a name is judged by that name, one to a unique name by what its party is worth.

What is not seen is as if it were not there, and is answered by the same routine as what never was.
An object that was granted as a capability may be called by whoever holds it: that is a permission of its own.

Invariants. 1. To ask changes nothing that can be observed. 2. Of a party that has left nothing is kept.
3. A bus without such clients asks nobody.

Not here: the rules (``view``), the policy of the configuration (``guard``), which messages come here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from ..capabilities import is_capability
from ..policy import Message
from ..view import EVERYTHING, NOTHING, SEEN, Grant, Level
from ..wire import CALL, DRIVER_NAME

if TYPE_CHECKING:
    from ..entrance import Entrance
    from ..view import View
    from .tables import Party


class Sight:
    """What a client sees through the view of its entrance."""

    def __init__(
        self, client: Party, entrance: Entrance, view: View,
        names_of: Callable[[str], Collection[str] | None],
    ) -> None:
        """``names_of``: which names the party with this unique name owns; None if there is no such party."""
        self.entrance = entrance
        self._client = client
        self._view = view
        self._names_of = names_of
        self._parties: dict[str, Grant] = {}
        """What parties are worth, by unique name: of those that are there, and that it was asked about."""

    # ---- what happens on the bus -----------------------------------------------------------------

    def owned(self, name: str, unique: str) -> None:
        """This party owns the name, or did until now."""
        self._add(unique, self._view.grant(name))

    def met(self, unique: str) -> None:
        """This party has sent the client something."""
        self._add(unique, SEEN)

    def left(self, unique: str) -> None:
        """This party is gone, and its unique name never returns."""
        self._parties.pop(unique, None)

    def _add(self, unique: str, grant: Grant) -> None:
        if grant.level:
            self._parties[unique] = self._worth(unique) | grant

    def _worth(self, unique: str) -> Grant:
        grant = self._parties.get(unique)
        if grant is None:
            names = self._names_of(unique)
            if names is None:
                return NOTHING
            grant = NOTHING
            for name in names:
                grant |= self._view.grant(name)
            self._parties[unique] = grant
        return grant

    # ---- questions -------------------------------------------------------------------------------

    def grant(self, name: str) -> Grant:
        """What the client may do with a name, or with the party of a unique name."""
        if name in (self._client.unique, DRIVER_NAME):
            return EVERYTHING
        return self._worth(name) if name.startswith(":") else self._view.grant(name)

    def sees(self, name: str) -> bool:
        """The name exists, as far as the client can tell; so does its party, if it has one."""
        return self.grant(name).level >= Level.SEE

    def owns(self, name: str) -> bool:
        """The client may own the name; its unique one is its own."""
        return name != DRIVER_NAME and self.grant(name).level >= Level.OWN

    def may_send(self, message: Message, requested: bool) -> bool:
        """Whether this message may go to whom it is addressed; ``requested``: it is an awaited answer."""
        if message.reply_serial:
            return requested
        if message.destination is None:
            return True
        if message.type == CALL:
            # calls of capabilities come here only if the client holds them
            return is_capability(message.path or "") or self.grant(message.destination).may_call(message)
        return self.grant(message.destination).level >= Level.TALK

    def may_hear(self, message: Message, sender: str) -> bool:
        """Whether this broadcast of a party, or of the bus, reaches the client."""
        return self.grant(sender).may_hear(message)
