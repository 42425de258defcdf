"""revocation: a view that its grantor can take back.

Theory. A bus cannot take a handle back, but who owns a node can destroy it. So what is given away is a node
that forwards, and its destruction ends the access of all who hold it, however it came to them: natively
they see ``NodeDestroyed``, D-Bus clients ``UnknownObject``. A call that is running then runs to its end,
and its caller gets ``Revoked`` in place of the result; one that is still queued is dropped (``NoReply``).

    view, revoke = revocable(clock)
    revoke()

What passed *through* the view while it stood is not taken back: objects that its methods returned,
descriptors, knowledge. For objects, that is what a ``Membrane`` is for.

Not here: forwarding (``gate``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..interface import Interface
from .gate import Gate

I = TypeVar("I", bound=Interface)  # noqa: E741


def revocable(target: I) -> tuple[I, Callable[[], None]]:
    """A view of ``target``, and what ends it: at once, for good, and for views of the view."""
    gate = Gate(target)
    return gate.view, gate.end
