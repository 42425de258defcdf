"""straight: one message to a peer that waits for it: sent, received and its slice released in one step.

Theory. Most messages find their receiver waiting, with nothing in its queue and its pool as it usually is.
What ``send`` charges, allocates and queues of such a message, ``recv`` and ``slice_release`` take back at
once. What is left of the three is done here: a stamp is drawn, a handle passed on, the serial of a slice used
up. An answer gives its reply handle back as well, and the NODE_RELEASE that this causes is received with it.

Invariants. 1. The effects are those of these commands, one after the other, to the last counter. 2. Whatever
is not everyday is found out before there is any effect: None says that nothing has happened, and the commands
themselves know what is wrong, if anything is.

Not here: who waits for a message (``bus1.straight``).
"""

from __future__ import annotations

from struct import pack

from .account import HANDLES, Account
from .api import Credentials, Message, MessageFlag, MessageType
from .ids import may_name_node
from .objects import NEVER, Node, Peer
from .transaction import WANT_SECCTX

_DATA, _NO_FLAGS, _HAS_SECCTX = MessageType.DATA, MessageFlag(0), MessageFlag.HAS_SECCTX
HandedOver = tuple[Message, bytes, bool]
"""The message, what lies in its slice, and whether NODE_RELEASE followed."""


def hand_over(
    sender: Peer, number: int, payload: bytes, handles: tuple[int, ...], credentials: Credentials,
    max_offset: int, max_size: int, *, is_answer: bool,
) -> HandedOver | None:
    """A message to the node ``number``, with one handle at most; None: not in this way.

    ``is_answer``: the sender gives its handle of the node back."""
    handle = sender.ids.handles.get(number)
    if handle is None or (is_answer and handle.references != 1):
        return None
    node = handle.node
    reader = node.owner
    if node.died != NEVER or reader is sender:
        return None
    if reader.queue.entries or reader.view is not None:
        return None
    room = 0 if credentials.secctx is None else len(credentials.secctx) + 7 & -8
    start = len(payload) + 7 & -8
    size = start + 8 * len(handles) + room or 8
    offset = reader.pool.would_pass(size)
    if offset < 0 or size > max_size or offset + size > max_offset:
        return None
    if not reader.account.would_pass(sender.account.user.uid, len(handles), size):
        return None
    carried = _carried(sender, handles[0], reader) if handles else None
    if handles and carried is None:
        return None
    sender.sequencer.draw()
    serial = reader.pool.pass_by()
    ids = () if carried is None else (_hand_on(sender, handles[0], carried, reader),)
    secctx = credentials.secctx if reader.flags & WANT_SECCTX else None
    message = Message(
        _DATA, _NO_FLAGS if secctx is None else _HAS_SECCTX, reader.ids.ids[node], credentials.uid,
        credentials.gid, credentials.pid, credentials.tid, offset, len(payload), ids, (), secctx, size,
        serial,
    )
    contents = payload.ljust(start, b"\0") + (pack("<Q", *ids) if ids else b"") + (secctx or b"")
    return message, contents.ljust(size, b"\0"), is_answer and _let_go(sender, node)


def _carried(sender: Peer, number: int, reader: Peer) -> Node | None:
    """The live node that the sender hands on, a new one if need be; None if it is not everyday."""
    known = sender.ids.handles.get(number)
    if known is None:
        return Node(sender) if may_name_node(number) and _has_room(sender.account) else None
    node = known.node
    return node if node.died == NEVER and node.owner is not reader else None


def _has_room(account: Account) -> bool:
    """For the sender's new handle and for the receiver's, should they be of one user."""
    user = account.user
    return (
        account.used[HANDLES] + 2 <= account.limits[HANDLES]
        and user.used[HANDLES] + 2 <= user.limits[HANDLES]
    )


def _hand_on(sender: Peer, number: int, node: Node, reader: Peer) -> int:
    """The receiver has a reference more; its id there."""
    if not node.holders:
        sender.account.take(HANDLES, 1)
        sender.own(node, number)
    node.rise()
    reader.sequencer.effort += 1
    reader.account.take(HANDLES, 1)
    return reader.hold(node)


def _let_go(sender: Peer, node: Node) -> bool:
    """The sender's only reference goes; whether NODE_RELEASE follows, which is received with the message."""
    sender.account.give(HANDLES, 1)
    del node.holders[sender]
    sender.ids.forget(node)
    node.uses -= 1
    if node.uses != 1:
        return False
    sender.sequencer.draw()
    return True
