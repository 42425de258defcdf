"""registry: the object ``org.bus1.Registry1``, where native peers find and are found.

Theory. A new native peer holds one handle, that of the registry: a node of the bus peer, called with
ordinary envelopes. Its methods are the table ``_methods``. The bus peer's queue is drained right after
every command, so a call to the registry is answered before anything else happens. ``serve`` takes
one entry of that queue and returns what is to be sent; sending is the gateway's business, because a
reply node may be anybody's. Calls of ``org.bus1.Signals1`` on objects of legacy clients come here, too,
with a ``subject``.

Invariants. 1. A method that fails has changed nothing. 2. Once its queue is empty, the bus peer holds no
handles but those of published nodes, of watchers, of what open endpoints grant, and of calls that are
answered later.

Not here: the mapping of messages (``gateway``), the queues of names (``names``).
"""

from __future__ import annotations

from bus1_services import seed
from bus1_services.types import is_bus_name, is_interface_name, is_member_name

from bus1.core.api import MessageType, NodeRef
from bus1.errors import Overloaded, RemoteProtocolError, TooLarge

from . import hosted, publications, subscriptions
from .busobject import Answer, Call, Failure, Later, Method, Methods, Served, serve
from .entrances import Entrances
from .publications import Publications, is_reserved
from .switch.delivery import Delivery
from .switch.tables import LegacyParty, NativeParty, Party
from .watchers import Watchers
from .wire import DRIVER_NAME

INTERFACE = "org.bus1.Registry1"
SIGNALS_INTERFACE = "org.bus1.Signals1"
NAMES_MAX = 64
"""Names in one call: everybody waits until it is done."""
_REGISTRY_NODE = 4
_NODE_STEP = 4


class Registry:
    """The registry, and all that the bus peer hears."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._tables = delivery.tables
        self._core = delivery.tables.core
        self._bus = delivery.tables.bus_peer
        self.node: NodeRef = (self._bus, _REGISTRY_NODE)
        self.subjects: dict[int, tuple[LegacyParty, str]] = {}
        """Calls on their way to the bus peer about a legacy client's object, by note."""
        self.watchers = Watchers(delivery, INTERFACE, _REGISTRY_NODE)
        self.publications = Publications(self._tables, self._new_node)
        self.entrances = delivery.entrances = Entrances(delivery, self._new_node)
        self._last_subject = 0
        self._last_node = _REGISTRY_NODE
        self._core.send(
            self._bus, (), handles=(_REGISTRY_NODE,), credentials=self._tables.bus_credentials
        )
        self._methods: Methods = {
            #                            in              out    handles
            (INTERFACE, "Publish"): Method(seed.SIGNATURE, "sau", None, self._publish, True),
            (INTERFACE, "Withdraw"): Method("as", "au", 0, self._withdraw),
            (INTERFACE, "Resolve"): Method("s", "s", 0, self._resolve),
            (INTERFACE, "Start"): Method("s", "", 0, self._start),
            (INTERFACE, "Derive"): Method("o", "", 1, self._derive),
            (INTERFACE, "Identify"): Method("", "s", 1, self._identify),
            (INTERFACE, "Credentials"): Method("", "uu", 1, self._credentials),
            (INTERFACE, "List"): Method("", "as", 0, self._list),
            (INTERFACE, "Watch"): Method("s", "", 1, self._watch),
            **self.entrances.methods,
        }
        self._methods_of_objects: Methods = {
            (SIGNALS_INTERFACE, "Subscribe"): Method("ss", "", 1, self._subscribe),
        }

    # ---- for the gateway -------------------------------------------------------------------------

    def grant(self, peer: int) -> int:
        """A handle of the registry for a new peer: the peer's id."""
        return self._core.handle_transfer(self._bus, _REGISTRY_NODE, peer)

    def about(self, party: LegacyParty, path: str) -> int:
        """The note for a call to the bus about an object of a legacy client."""
        self._last_subject += 1
        self.subjects[self._last_subject] = (party, path)
        return self._last_subject

    def announce(self, party: Party) -> None:
        """A legacy client is about to see the party's unique name."""
        if not party.announced:
            self._tables.enter(party)
            self._delivery.announce(party)

    def forget(self, party: NativeParty) -> None:
        """The party is gone, and its names are: drop what the bus peer holds for it."""
        self.publications.withdraw(party)
        if party.emitter is not None:
            self.publications.end_emitter(party.emitter)

    def serve(self) -> Served | None:
        """Take one entry of the bus peer's queue and carry it out; None if nothing is to be done."""
        if self._delivery.late:
            return self._delivery.late.popleft()
        if not self._core.is_readable(self._bus):
            return None
        entries = self._core.ahead(self._bus)
        message = self._core.recv(self._bus)
        if message.type is MessageType.NODE_DESTROY:
            self.watchers.gone(message.destination)
            self.publications.gone(message.destination)
            return Served()
        if message.type is MessageType.NODE_RELEASE:
            if message.destination in self._tables.emitters:
                self.publications.end_emitter(message.destination)
            self.entrances.released(message.destination)
            return Served()
        self._core.slice_release(self._bus, message.offset)
        subject = self.subjects.pop(entries[0].note, None)
        caller = self._tables.parties.get(entries[0].sender)
        if not isinstance(caller, NativeParty):
            return Served(releases=message.handles)
        methods = self._methods if subject is None else self._methods_of_objects
        methods = self.entrances.methods_of(message.destination) or methods
        return serve(methods, caller, b"".join(entries[0].parts), message.handles, subject)

    def _new_node(self) -> int:
        self._last_node += _NODE_STEP
        return self._last_node

    # ---- publishing ------------------------------------------------------------------------------

    def _publish(self, call: Call) -> Answer | Failure:
        party = call.caller
        if call.envelope.endian != "l":
            return Failure("InvalidArgs", "A seed document is little-endian")
        try:
            document = seed.decode(call.body, NAMES_MAX, publications.OBJECTS_MAX)
        except TooLarge as error:
            return Failure("LimitsExceeded", str(error))
        except RemoteProtocolError as error:
            return Failure("InvalidArgs", f"Not a seed document: {error}")
        names = [name for name, _ in document.names]
        failure = (
            self._complaint_of_names(names)
            or self._complaint_of_policy(party, names)
            or self._complaint_of_their_number(party, names)
            or self.publications.complaint(party, document, call.handles)
        )
        if failure is not None:
            return failure
        emitter = self.publications.emitter(party)
        self.publications.replace(party, document, call.handles)
        self.announce(party)
        results = []
        for name, flags in document.names:
            result, changes = self._tables.names.request(party.peer, name, flags)
            self._delivery.name_changes(changes)
            results.append(int(result))
        return Answer((party.unique, results), (emitter,), call.handles)

    def _complaint_of_names(self, names: list[str]) -> Failure | None:
        if len(names) > NAMES_MAX:
            return Failure("LimitsExceeded", f"A call has at most {NAMES_MAX} names")
        for name in names:
            if not is_bus_name(name) or name.startswith(":") or name == DRIVER_NAME:
                return Failure("InvalidArgs", f"The name '{name}' cannot be owned")
        return None

    def _complaint_of_policy(self, party: NativeParty, names: list[str]) -> Failure | None:
        for name in names:
            refusal = self._delivery.guard.refusal_to_own(party, name)
            if refusal is not None:
                return Failure("AccessDenied", refusal)
        return None

    def _complaint_of_their_number(self, party: NativeParty, names: list[str]) -> Failure | None:
        held = self._tables.names.held(party.peer)
        limit = self._delivery.limits_of(party).max_names_per_connection
        if len(set(held) | set(names)) + 1 > limit:
            text = self._delivery.limited(
                party, "max_names_per_connection", len(held) + 1, f"no room for {len(names)} more"
            )
            return Failure("LimitsExceeded", text)
        return None

    def _withdraw(self, call: Call) -> Answer | Failure:
        party, names = call.caller, call.values[0]
        failure = self._complaint_of_names(names)
        if failure is not None:
            return failure
        results = []
        for name in names or self._tables.names.held(party.peer)[::-1]:
            result, changes = self._tables.names.release(party.peer, name)
            self._delivery.name_changes(changes)
            results.append(int(result))
        if not names:
            self.publications.withdraw(party)
        return Answer((results,))

    # ---- looking up ------------------------------------------------------------------------------

    def _resolve(self, call: Call) -> Answer | Failure:
        name = call.values[0]
        party = self._tables.party_of(name)
        if party is None:
            return Failure("NameHasNoOwner", f"Could not get owner of name '{name}': no such name")
        refusal = None
        if party is not call.caller:
            refusal = self._delivery.guard.refusal_to_reach(call.caller, party)
        if refusal is not None:
            return Failure("AccessDenied", refusal)
        if isinstance(party, LegacyParty):
            root = self._core.handle_transfer(party.peer, hosted.ROOT, self._bus)
        elif isinstance(party, NativeParty) and party.root_handle is not None:
            root = self._core.handle_transfer(self._bus, party.root_handle, self._bus)
        else:
            return Failure("UnknownObject", f"The owner of '{name}' has published nothing")
        return Answer((party.unique,), (root,))

    def _start(self, call: Call) -> Answer | Failure | Later:
        if self._delivery.activation is None:
            return Failure("ServiceUnknown", "Nothing is started on this bus")
        return self._delivery.activation.summoning.start(call)

    def _derive(self, call: Call) -> Answer | Failure:
        path = call.values[0]
        node = self._core.node_of(self._bus, call.handles[0])
        party = None if node is None else self._tables.parties.get(node[0])
        if party is None or node != party.root:
            return Failure("InvalidArgs", "The handle is not the root of a party on this bus")
        if isinstance(party, NativeParty) and path in party.objects:
            handle = self._core.handle_transfer(self._bus, party.objects[path].handle, self._bus)
        elif isinstance(party, LegacyParty) and not is_reserved(path):
            derived = hosted.derive(self._core, party, path)
            handle = self._core.handle_transfer(party.peer, derived, self._bus)
        else:
            return Failure("UnknownObject", f"No such object path '{path}'")
        return Answer((), (handle,))

    def _identify(self, call: Call) -> Answer | Failure:
        party = self._owner(call)
        return party if isinstance(party, Failure) else Answer((party.unique,))

    def _credentials(self, call: Call) -> Answer | Failure:
        party = self._owner(call)
        if isinstance(party, Failure):
            return party
        return Answer((party.credentials.uid, party.credentials.pid))

    def _owner(self, call: Call) -> Party | Failure:
        """Whose node the handle of a call leads to, if the caller may know that."""
        node = self._core.node_of(self._bus, call.handles[0])
        party = None if node is None else self._tables.parties.get(node[0])
        if party is None:
            return Failure("InvalidArgs", "The handle is not that of a live node of a party on this bus")
        if not party.announced:
            return Failure("NameHasNoOwner", "The owner of this node goes by no name")
        refusal = None
        if party is not call.caller:
            refusal = self._delivery.guard.refusal_to_reach(call.caller, party)
        return party if refusal is None else Failure("AccessDenied", refusal)

    def _list(self, _call: Call) -> Answer | Failure:
        return Answer(([*self._tables.unique_names(), *self._tables.names.names()],))

    # ---- watching and subscribing ----------------------------------------------------------------

    def _watch(self, call: Call) -> Answer | Failure:
        name, handle = call.values[0], call.handles[0]
        if name and not is_bus_name(name):
            return Failure("InvalidArgs", f"'{name}' is not a bus name")
        node = self._native_node(handle)
        if node is None:
            return Failure("InvalidArgs", "The watcher is not a live node of a native peer")
        return Answer(kept=(handle,) if self.watchers.add(handle, node, name) else ())

    def _subscribe(self, call: Call) -> Answer | Failure:
        assert call.subject is not None
        (party, path), (interface, member), handle = call.subject, call.values, call.handles[0]
        if (interface and not is_interface_name(interface)) or (member and not is_member_name(member)):
            return Failure("InvalidArgs", f"No signal is called '{interface}.{member}'")
        node = self._native_node(handle)
        if node is None:
            return Failure("InvalidArgs", "The subscriber is not a live node of a native peer")
        theirs = self._core.handle_transfer(self._bus, handle, party.peer)
        is_taken = False
        try:
            is_taken = subscriptions.subscribe(party, (path, interface, member), theirs, node)
        except Overloaded as error:
            return Failure("LimitsExceeded", str(error))
        finally:
            if not is_taken:
                self._core.handle_release(party.peer, theirs)
        return Answer()

    def _native_node(self, handle: int) -> NodeRef | None:
        node = self._core.node_of(self._bus, handle)
        if node is None or not isinstance(self._tables.parties.get(node[0]), NativeParty):
            return None
        return node
