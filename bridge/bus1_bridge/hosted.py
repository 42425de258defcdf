"""hosted: the nodes of a D-Bus connection's peer, and the handles it holds.

Theory. A native peer can reach a legacy client only through nodes of the client's hosted peer. There
are three kinds: the root (id 0), which takes every finished D-Bus message; a ``Derived`` node per object
path in use; a ``Reply`` node per unanswered call to a native peer. In turn the hosted peer holds handles:
reply nodes of native callers, granted capabilities, subscribers. ``LegacyParty.held`` knows what each
handle is for and how often, so that a node's end finds its uses without a search.

Invariants. 1. ``held`` counts exactly the user references of the hosted peer in Core, its own nodes
apart. 2. Each Reply node stands in ``open_replies`` and is destroyed by its first answer, or by
NODE_RELEASE. 3. A serial that the bus chose for a native call is not 0 and not outstanding.

Not here: messages (``outbound``, ``gateway``).
"""

from __future__ import annotations

from bus1.core.api import CoreApi, DestroyFlag
from bus1.errors import QuotaExceeded
from bus1.record import owned

from .switch.tables import Derived, LegacyParty, NativeCall, Reply, Use

ROOT = 0
DERIVED_MAX = 4096
"""Object paths of one legacy client that are in use by native peers at the same time."""
_NODE_STEP = 4
_U32 = 0xFFFF_FFFF


# ---- nodes ---------------------------------------------------------------------------------------


def next_node(party: LegacyParty) -> int:
    """The id for a new node: never used before."""
    node = party.next_node
    party.next_node += _NODE_STEP
    return node


def derive(core: CoreApi, party: LegacyParty, path: str) -> int:
    """The node id for an object path, a new node if need be; QuotaExceeded at ``DERIVED_MAX``.

    If nobody gets a handle of it, Core says NODE_RELEASE, which ends it."""
    node = party.derived.get(path)
    if node is None:
        if len(party.derived) >= DERIVED_MAX:
            raise QuotaExceeded(f"{DERIVED_MAX} objects of {party.unique} are in use")
        node = next_node(party)
        touch(core, party, node)
        party.derived, party.nodes = owned(party.derived), owned(party.nodes)
        party.derived[path] = node
        party.nodes[node] = Derived(path)
    return node


def underive(core: CoreApi, party: LegacyParty, path: str) -> None:
    """Nobody uses the path any more: its node ends."""
    node = party.derived.pop(path)
    del party.nodes[node]
    core.node_destroy(party.peer, [node], DestroyFlag.RELEASE_HANDLES)


def touch(core: CoreApi, party: LegacyParty, node: int) -> None:
    """Have Core say NODE_RELEASE again if nobody holds the node (N-15)."""
    core.handle_transfer(party.peer, node, party.peer)
    core.handle_release(party.peer, node)


def open_reply(party: LegacyParty, node: int, reply: Reply) -> None:
    """The call was sent with the new node ``node`` for its answer."""
    party.nodes, party.open_replies = owned(party.nodes), owned(party.open_replies)
    party.nodes[node] = reply
    party.open_replies[reply.callee, reply.serial] = node


def close_reply(core: CoreApi, party: LegacyParty, node: int) -> Reply:
    """The call is answered, or will never be: the node ends, whoever holds it."""
    reply = party.nodes.pop(node)
    assert isinstance(reply, Reply)
    del party.open_replies[reply.callee, reply.serial]
    core.node_destroy(party.peer, [node], DestroyFlag.RELEASE_HANDLES)
    return reply


def retire(core: CoreApi, party: LegacyParty) -> None:
    """The client uses nothing of all this any more: its nodes end, its handles are released.

    What is still on its way to it is to be retired when it has arrived."""
    if party.nodes:
        core.node_destroy(party.peer, list(party.nodes), DestroyFlag.RELEASE_HANDLES)
    for table in (party.nodes, party.derived, party.open_replies, party.grants, party.subscriptions):
        if table:
            table.clear()
    for handle in list(party.held):
        for use, count in forget_handle(core, party, handle).items():
            if isinstance(use, int):
                del party.native_calls[use]
            elif isinstance(use, str):
                party.granted -= count


# ---- calls of native peers -----------------------------------------------------------------------


def following(serial: int) -> int:
    """The serial after this one; never 0."""
    return serial % _U32 + 1


def next_serial(party: LegacyParty) -> int:
    """The bus's number for a message to this client: not that of an unanswered native call."""
    serial = _draw_serial(party)
    while serial in party.native_calls:
        serial = _draw_serial(party)
    return serial


def _draw_serial(party: LegacyParty) -> int:
    serial: int
    if party.express is not None:
        serial = party.express.lane.draw_serial(party.peer)
        return serial
    serial = party.next_serial
    party.next_serial = serial % _U32 + 1
    return serial


def reserve_call(party: LegacyParty, serial: int, callers_own: int) -> None:
    """A native call with this serial is on its way, and wants an answer."""
    party.native_calls = owned(party.native_calls)
    party.native_calls[serial] = NativeCall(0, callers_own)
    if party.express is not None:
        party.express.lane.set_reserved(party.peer)


# ---- handles -------------------------------------------------------------------------------------


def hold(party: LegacyParty, handle: int, use: Use) -> None:
    """One reference came in, for this use."""
    party.held = owned(party.held)
    uses = party.held.setdefault(handle, {})
    uses[use] = uses.get(use, 0) + 1


def let_go(core: CoreApi, party: LegacyParty, handle: int, use: Use) -> int:
    """Release one reference of this use; returns how many the use still has."""
    uses = party.held[handle]
    uses[use] -= 1
    left = uses[use]
    if not left:
        del uses[use]
        if not uses:
            del party.held[handle]
    core.handle_release(party.peer, handle)
    return left


def forget_handle(core: CoreApi, party: LegacyParty, handle: int) -> dict[Use, int]:
    """The node behind ``handle`` is gone: release all references, and say what they were for."""
    uses = party.held.pop(handle) if handle in party.held else {}
    for _ in range(sum(uses.values())):
        core.handle_release(party.peer, handle)
    return uses
