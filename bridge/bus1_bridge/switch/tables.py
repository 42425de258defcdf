"""tables: the one state that router, driver, gateway and registry share.

Theory. Everybody with a unique name is a ``Party``. A ``LegacyParty`` is a D-Bus connection: a peer
hosted in the bus process, with heap memory, whose queue in Core holds finished D-Bus messages and
notifications. A ``NativeParty`` is a bus1 client. The bus itself is a hosted peer, too
(``Tables.bus_peer``): the registry and the emitters are its nodes, and its own messages are sent by
it. The router changes parties, names and matches; the gateway changes what is marked as its own.

Not here: any decision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from bus1.core.api import CoreApi, Credentials, NodeRef, Usage
from bus1.label import Label
from bus1.record import EMPTY, field, record, replace

from ..bindings import Bindings
from ..match import MatchIndex
from ..names import NameTable
from ..policy import NOTHING, OPEN, ClientPolicy
from ..sasl import EXTERNAL_ONLY
from .census import NOBODY, Guests
from .limits import BYTES_PER_TURN, Excess
from .replies import ReplyTable

if TYPE_CHECKING:
    from ..entrance import Entrance
    from .express import Express
    from .sight import Sight

NOTHING_YET = Usage()
UNKNOWN_ID = 0xFFFF_FFFF
"""The uid and gid of a client of whom the kernel knows none."""


@record(eq=False)
class Party:
    """A participant of the bus: one Core peer, one unique name."""

    peer: int
    credentials: Credentials
    """As the kernel gave them at accept, groups and label included."""
    unique: str = ""
    """``:1.N``; empty before Hello."""
    root: NodeRef | None = None
    """The node that ``resolve`` hands out."""
    announced: bool = False
    """NameOwnerChanged for the unique name has been sent."""
    not_received: dict[str, int] = EMPTY
    """How many messages of each kind it did not get."""
    not_delivered: dict[str, int] = EMPTY
    """How many of its messages of each kind somebody did not get."""
    permissions: ClientPolicy = NOTHING
    """What the current policy says about it."""
    command: str | None = None
    """Its command line, once somebody had to know."""
    entrance: Entrance | None = None
    """Where it came in, if that is not a socket of the bus's own."""
    sight: Sight | None = None
    """What it sees, if that is not everything."""

    @property
    def uid(self) -> int | None:
        """Whose it is; None if nobody knows: the client of another machine, or an anonymous one."""
        return None if self.credentials.uid == UNKNOWN_ID else self.credentials.uid

    @property
    def pid(self) -> int | None:
        """Its process; None if nobody knows."""
        return self.credentials.pid or None


class Stream(Protocol):
    """What a client has sent, as far as statistics look at it."""

    peak: Usage
    """The most that ever waited."""

    def unhandled(self) -> Usage:
        """What has come and is not handled yet."""


class Derived(NamedTuple):
    """A hosted node that stands for an object path of a legacy connection."""

    path: str


class Reply(NamedTuple):
    """A hosted one-shot node for the answer to one call of a legacy connection."""

    serial: int
    callee: str
    """Unique name of the party that was called: the SENDER of the answer."""
    opened: float = 0.0
    """When the call was sent."""


class NativeCall(NamedTuple):
    """A call of a native peer that a legacy client has not answered yet."""

    handle: int
    """The reply node; 0 until the message has entered the socket."""
    serial: int
    """The caller's own number, repeated in the answer."""


Use = int | str | tuple[str, str, str]
"""What a hosted peer holds a handle for: a native call (serial), a grant (path), a subscription (path,
interface, member)."""


class Note(NamedTuple):
    """What to remember once a message has entered a legacy client's socket (gateway's own).

    ``handles`` of the message are matched by position: first the reply handle if ``serial`` is not
    0, then one per entry of ``grants``.
    """

    serial: int = 0
    grants: tuple[str, ...] = ()


@record(eq=False)
class LegacyParty(Party):
    """A D-Bus connection. What stands behind ``is_monitor`` is the gateway's own.

    Most never meet a native peer: each of its tables is made when something is put there (``owned``)."""

    takes_fds: bool = False
    """UNIX_FD passing was negotiated."""
    stream: Stream | None = None
    """What comes from it."""
    peak: Usage = NOTHING_YET
    """The most that ever waited for it when it took something."""
    express: Express | None = None
    """The lane that its everyday messages pass on."""
    is_monitor: bool = False
    """It sees everything, has no name any more, and says nothing."""
    nodes: dict[int, Derived | Reply] = EMPTY
    """By node id; the root is node 0 and is not listed."""
    derived: dict[str, int] = EMPTY
    """Node id of each object path in use by a native peer."""
    next_node: int = 4
    """Node ids are multiples of 4 (MANAGED and REMOTE clear)."""
    grants: dict[str, int] = EMPTY
    """Handle of each capability path that this client may use."""
    granted: int = 0
    """References in ``grants`` and those on their way: bounded."""
    native_calls: dict[int, NativeCall] = EMPTY
    """By the serial that the bus chose for a native caller's message."""
    open_replies: dict[tuple[str, int], int] = EMPTY
    """Reply node of each unanswered call of this client: (unique name of the callee, serial) -> node id."""
    subscriptions: dict[tuple[str, str, str], dict[int, NodeRef]] = EMPTY
    """Native subscribers to this client's signals: (path, interface, member) -> handle -> node; "" is any."""
    held: dict[int, dict[Use, int]] = EMPTY
    """Every handle of this hosted peer, what for, and how often."""
    notes: dict[int, Note] = EMPTY
    next_note: int = 1
    next_serial: int = 1
    """For messages that the bus sends to this client on behalf of native peers, and its own."""

    def identify(self, uid: int | None) -> None:
        """Who it is, as it has shown; None for nobody. Then what the kernel knows of a uid holds no more."""
        if uid != self.uid:
            uid = UNKNOWN_ID if uid is None else uid
            self.credentials = replace(self.credentials, uid=uid, gid=UNKNOWN_ID, groups=())

    def note_waiting(self, waiting: Usage) -> None:
        """So much waits now, and something of it is about to be taken: a peak is seen then."""
        peak = self.peak
        if waiting.bytes > peak.bytes or waiting.fds > peak.fds:
            larger = waiting if waiting > peak else peak
            fds = max(waiting.fds, peak.fds)
            self.peak = larger if larger.fds == fds else larger._replace(fds=fds)


class PublishedObject(NamedTuple):
    """An object of a native service: its node, the bus peer's handle, the interface elements."""

    node: NodeRef
    handle: int
    xml: str


@record(eq=False)
class NativeParty(Party):
    """A bus1 client; gateway's own apart from the fields of Party."""

    title: str = ""
    objects: dict[str, PublishedObject] = field(default_factory=dict)
    paths: dict[NodeRef, str] = field(default_factory=dict)
    """The published path of a node: the first one in the seed document."""
    root_handle: int | None = None
    """The bus peer's handle of ``root``."""
    emitter: int | None = None
    """Node id on the bus peer that stands for "everybody whose match rules fit"."""
    next_serial: int = 1
    """For signals on its behalf."""
    unchecked: int = BYTES_PER_TURN
    """Bytes of its bodies that may still be checked before its turn ends."""


def number_of(unique: str) -> tuple[int, str]:
    """What puts unique names into the order of their numbers."""
    return len(unique), unique


class Tables:
    """Everything there is."""

    def __init__(
        self, core: CoreApi, bus_peer: int, guid: str, bus_id: str, bus_credentials: Credentials,
        names: NameTable, matches: MatchIndex, replies: ReplyTable, *, machine_id: str = "",
    ) -> None:
        self.core = core
        self.bus_peer = bus_peer
        self.guid = guid
        """32 hex digits, of the authentication and of the printed address."""
        self.bus_id = bus_id
        """What GetId answers."""
        self.bus_credentials = bus_credentials
        self.names = names
        self.matches = matches
        self.replies = replies
        self.parties: dict[int, Party] = {}
        """By Core peer."""
        self.unique: dict[str, Party] = {}
        """By unique name; only parties that have one."""
        self.guests: Guests = NOBODY
        """Who else is there: ``parties`` and ``unique`` are as if they were known, too."""
        self.next_unique = 0
        self.watchers: dict[int, str] = {}
        """Registry watchers: handle of the bus peer -> watched name, empty for all (registry's own)."""
        self.emitters: dict[int, int] = {}
        """Node id on the bus peer -> Core peer of the native party (gateway's own)."""
        self.machine_id = machine_id
        self.auth = EXTERNAL_ONLY
        """How clients may show who they are."""
        self.policy = OPEN
        """Who may do what: the current generation."""
        self.open_pidfd: Callable[[int, int], int | None] = lambda peer, reader: None
        """A new descriptor of the process of a D-Bus client, for another to read; None: it gets none."""
        self.command_of: Callable[[int], str] = lambda pid: ""
        """Looks up the command line of a process, for people to read."""
        self.monitors = type(matches)(matches.tally)
        """The rules of monitors, which match whoever a message is addressed to."""
        self.shortage: Callable[[int], Excess | None] = lambda number: None
        """Why a descriptor that got this number can't be kept for long; None if it can."""
        self.sights: dict[int, Sight] = {}
        """Those of all who do not see everything, by Core peer."""
        self.bindings = Bindings(core)
        """What each capability path stands for (gateway's own)."""

    def enter(self, party: Party) -> None:
        """The party is known by its unique name from now on."""
        self.unique[party.unique] = party
        self.names.tally.add(party.peer)

    def unique_names(self, asker: Party | None = None) -> list[str]:
        """The unique names that have been announced, and the asker's own, in the order of their numbers."""
        known = (name for name, party in dict.items(self.unique) if party.announced or party is asker)
        # as by ``number_of``, and faster
        return sorted(sorted([*known, *self.guests.names()]), key=len)

    def n_named_of(self, uid: int) -> int:
        """How many of a user's clients have unique names."""
        known = sum(party.credentials.uid == uid for party in dict.values(self.unique))
        return known + self.guests.of_user(uid)

    def party_of(self, name: str) -> Party | None:
        """The party behind a unique name, or the primary owner of a well-known one."""
        if name.startswith(":"):
            return self.unique.get(name)
        owner = self.names.owner(name)
        return None if owner is None else self.parties[owner]

    def party_for(self, asker: Party, name: str) -> Party | None:
        """As ``party_of``, as far as the asker sees: what it does not see is not there."""
        is_seen = asker.sight is None or asker.sight.sees(name)
        return self.party_of(name) if is_seen else None

    def trusts(self, party: Party) -> bool:
        """It is root, or the user of the bus, and came in by a socket of the bus's own."""
        return party.entrance is None and party.uid in {0, self.bus_credentials.uid}

    def labels(self, bus_name: str) -> dict[int, Label]:
        """The names of everybody, the bus itself included, and who is behind them."""
        return {self.bus_peer: Label((bus_name,), self.bus_credentials)} | {
            peer: Label((*filter(None, [party.unique]), *self.names.primary(peer)), party.credentials)
            for peer, party in self.parties.items()
        }
