"""inspect: ``bus1 peers``, ``bus1 tree`` and ``bus1 quota``: who is on a bus, and who holds what.

Theory. Each asks the bus for one document (SNAPSHOT), which only its own user and root are given, and shows a
part of it. The bus may be ``bus1 broker`` or the native socket of bus1-bridge. No peer is opened, so looking
changes nothing.

Not here: what is in the document (inspection), how it is turned around (records).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .output import Branch, Style, add_output_arguments, printable, show, table
from .output import tree as drawn
from .verb import Command, Failure, add_bus_arguments, address_of

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

    from ..client import Client, Request
    from .records import Document

PATIENCE = 25.0
"""Seconds to wait for a bus that does not answer."""


def fetch(address: str) -> Document:
    """The document of the bus at ``address``."""
    import json

    from ..client import Client
    from ..frames import SNAPSHOT_FORMAT
    from .records import Document

    text = _converse(address, Client.hello, Client.snapshot)
    try:
        data = json.loads(text)
    except ValueError as error:
        raise Failure(f"the bus at {address} sent no JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != SNAPSHOT_FORMAT:
        raise Failure(f"the bus at {address} sent a document of another format")
    return Document(data)


def greet(address: str, patience: float) -> None:
    """Say hello to the bus at ``address``: Failure or Bus1Error if it does not answer so."""
    from ..client import Client

    _converse(address, Client.hello, patience=patience)


def _converse(
    address: str, *operations: Callable[[Client], Request[Any]], patience: float | None = None
) -> Any:
    import socket

    from ..addresses import socket_name
    from ..client import Client
    from ..errors import BusGone

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE if patience is None else patience)
        try:
            sock.connect(socket_name(address))
        except (OSError, ValueError) as error:
            raise BusGone(f"no bus at {address}: {getattr(error, 'strerror', None) or error}") from error
        client, answer = Client(lambda message: None), None
        try:
            for operation in operations:
                answer = _ask(sock, client, operation(client))
        except TimeoutError as error:
            raise Failure(f"the bus at {address} does not answer") from error
        finally:
            client.close()
    return answer


def _ask(sock: Any, client: Client, request: Request[Any]) -> Any:
    import select
    from contextlib import suppress

    exchange, tag = client.exchange, client.start(request)
    # what the bus said before it closed is still to be read
    with suppress(BrokenPipeError, ConnectionResetError):
        exchange.transmit(sock)
    while (answer := exchange.take(tag)) is None:
        if not select.select([sock], [], [], PATIENCE)[0]:
            raise TimeoutError
        try:
            size = exchange.receive(sock)
        except ConnectionResetError:
            size = 0
        if not size:
            exchange.fail()
        exchange.process()
    return client.finish(request, answer)


def _add_arguments(parser: ArgumentParser) -> None:
    add_bus_arguments(parser)
    add_output_arguments(parser)


# ---- peers -----------------------------------------------------------------------------------------

_COLUMNS = (
    "peer", "user", "pid", "command", "nodes", "handles", "queued", "slices", "bytes", "fds", "names",
)


def _peers(arguments: Namespace) -> int:
    from .records import peers

    records = peers(fetch(address_of(arguments)))
    rows = [[*(record[name] for name in _COLUMNS[:-1]), " ".join(record["names"])] for record in records]
    show(arguments, records, lambda style: table([name.upper() for name in _COLUMNS], rows, style))
    return 0


PEERS = Command(
    "list the peers of a bus",
    "The peers of a bus: who opened each, how many nodes it owns, how many handles to nodes of others it\n"
    "has, how many messages wait for it, how many slices it has not given back, and what its account is\n"
    "charged with in bytes and descriptors.",
    _add_arguments,
    _peers,
    (
        ("bus1 peers", "on the bus of this session"),
        ("bus1 peers --json=short", "a JSON object for each"),
    ),
)


# ---- tree ------------------------------------------------------------------------------------------


def _add_tree_arguments(parser: ArgumentParser) -> None:
    _add_arguments(parser)
    parser.add_argument("peer", metavar="PEER", nargs="?", help="only this one: its number, or a name it has")


def _tree(arguments: Namespace) -> int:
    from .records import tree

    records, chosen = tree(fetch(address_of(arguments))), arguments.peer
    if chosen is not None:
        records = [r for r in records if str(r["peer"]) == chosen or chosen in r.get("names", ())]
        if not records:
            raise Failure(f"there is no peer {chosen} on this bus")
    show(arguments, records, lambda style: drawn([_peer_branch(r, style) for r in records], style))
    return 0


def _peer_branch(record: dict[str, Any], style: Style) -> Branch:
    below = [_node_branch(node, style) for node in record["nodes"]]
    for held in record["holds"]:
        what = f"{_id(held['node'])} of peer {held['owner']}"
        below.append((f"holds {_id(held['handle'])}: node {what}{_held(held, style)}", []))
    return f"peer {record['peer']} ({_who(record)})", below


def _who(record: dict[str, Any]) -> str:
    if "gone" in record:
        return "gone"
    pid = "" if record["pid"] is None else f"pid {record['pid']} {printable(record['command'])}"
    parts = (printable(record["user"]), pid, *map(printable, record["names"]))
    return ", ".join(part for part in parts if part)


def _node_branch(node: dict[str, Any], style: Style) -> Branch:
    below = [f"peer {h['peer']} holds it as {_id(h['handle'])}{_held(h, style)}" for h in node["holders"]]
    for carrier in node["in_flight"]:
        count = carrier["messages"]
        below.append(f"on its way to peer {carrier['peer']}, in {count} message{'s' * (count != 1)}")
    below += [f"in the seed of peer {number}" for number in node["seeds"]]
    return f"node {_id(node['node'])}{_dead(node, style)}", [(text, []) for text in below]


def _held(record: dict[str, Any], style: Style) -> str:
    count = record["references"]
    return f", {count} reference{'s' * (count != 1)}{_dead(record, style)}"


def _dead(record: dict[str, Any], style: Style) -> str:
    return f", {style.alarming('destroyed')}" if record.get("dead") else ""


def _id(number: int | None) -> str:
    return "without id" if number is None else hex(number)


TREE = Command(
    "show who holds what",
    "Below each peer its nodes, below each node who holds it: as a handle, in a message on its way, in a\n"
    "seed. Then what the peer itself holds of others. A node without id has been let go by its owner, or\n"
    "its owner is gone, but others still hold it.",
    _add_tree_arguments,
    _tree,
    (
        ("bus1 tree", "everybody"),
        ("bus1 tree 7", "peer 7 alone"),
        ("bus1 tree org.example.Clock", "the owner of a name, on bus1-bridge"),
    ),
)


# ---- quota -----------------------------------------------------------------------------------------


def _add_quota_arguments(parser: ArgumentParser) -> None:
    _add_arguments(parser)
    parser.add_argument("user", metavar="USER", nargs="?", help="only this one: a name, or a uid")


def _quota(arguments: Namespace) -> int:
    from .records import quota

    uid = None if arguments.user is None else _uid_of(arguments.user)
    records = quota(fetch(address_of(arguments)), uid)
    rows = [
        [
            record["user"], record["peer"], record["resource"], record["used"], record["limit"],
            ", ".join(f"{share['user']} {share['used']}" for share in record["shares"]),
        ]
        for record in records
    ]
    heads = ("USER", "PEER", "RESOURCE", "USED", "LIMIT", "SHARES")
    show(arguments, records, lambda style: table(heads, rows, style))
    return 0


def _uid_of(text: str) -> int:
    import pwd

    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise Failure(f"there is no user {text}") from None


QUOTA = Command(
    "show what users use of their limits",
    "For each user and resource: how much is used, how much there may be, and who has sent what of it lies\n"
    "there undelivered. Below, the same for each peer of that user.",
    _add_quota_arguments,
    _quota,
    (
        ("bus1 quota", "everybody who has peers"),
        ("bus1 quota alice", "one user, with or without peers"),
    ),
)
