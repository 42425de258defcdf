"""api: the Core waist, the one interface to the bus1 state machine.

Theory. ``Core`` is the bus1(7) page as a synchronous state machine of integers and bytes. It has no
socket, no clock, no randomness, no logging. Every method is one command: a first half that may
fail resolves, validates, charges and allocates; a second half that cannot fail applies. Since each
command is applied completely before the next, the total order of events (G-1 … G-10) is the order
of the calls (G-34).

Peers are named by positive integers that are never reused (P-5); they are not part of the page's
API and never leave the bus process. Nodes are named ``(owner peer, node id)``. Handle ids are the
page's 64-bit peer-local ids (H-10 … H-16).

Payload is a sequence of buffers, its concatenation is the message. Where it lands is the business
of the receiving peer's ``Memory``: heap (buffers kept by reference and shared by a multicast, so
they must not change any more) or a sealed memfd (copied once).

Descriptors are numbers of the bus process. A *successful* ``send``/``route`` takes ownership of the
numbers in ``fds``; a failed one leaves them with the caller. Core never closes one: when the last
message that carries a descriptor is gone, its number appears in ``take_freed_fds()``, and the edge
closes it. A number may be attached once only (the edge dups first).

After a command the edge drains three lists: ``take_woken()`` (peers that turned readable),
``take_freed_fds()``, and ``take_retired()`` (segments to unmap).

Invariants. 1. A method that raises has changed nothing that ``snapshot()`` shows (E-3).
2. When every peer is gone all charges are zero and every descriptor has been handed out as freed.
3. ``snapshot()`` is plain data (dict, list, int, str, bytes, bool, None) and covers the whole state
apart from the descriptors themselves.

What crosses the waist once per message is a NamedTuple: immutable, and made in half the time of a
frozen dataclass.

Not here: readiness descriptors, frames, credentials look-up, T-30's check of socket descriptors
(rules of the native link).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..record import record

if TYPE_CHECKING:
    from .view import View

Buffer = bytes | bytearray | memoryview
NodeRef = tuple[int, int]
"""A node: (owner peer, node id)."""

HANDLE_INVALID = 0xFFFF_FFFF_FFFF_FFFF
OFFSET_INVALID = 0xFFFF_FFFF_FFFF_FFFF
KEEP = 0xFFFF_FFFF_FFFF_FFFF
"""In ``peer_reset``: leave this parameter as it is (P-31, P-32)."""
MANAGED = 1
REMOTE = 2
FD_MAX = 256
VEC_MAX = 1024
NO_LIMIT = 0xFFFF_FFFF_FFFF_FFFF


class PeerFlag(IntFlag):
    """``peer_flags`` of a peer."""

    WANT_SECCTX = 1


class ResetFlag(IntFlag):
    """``flags`` of ``peer_reset``."""

    FLUSH = 1
    FLUSH_SEED = 2


class DestroyFlag(IntFlag):
    """``flags`` of ``node_destroy`` (H-66, an extension)."""

    RELEASE_HANDLES = 1


class SendFlag(IntFlag):
    """``flags`` of ``send``."""

    CONTINUE = 1
    SEED = 2


class RecvFlag(IntFlag):
    """``flags`` of ``recv``."""

    PEEK = 1
    SEED = 2
    INSTALL_FDS = 4


class MessageType(IntEnum):
    """``msg.type``."""

    NONE = 0
    DATA = 1
    NODE_DESTROY = 2
    NODE_RELEASE = 3


class MessageFlag(IntFlag):
    """``msg.flags``."""

    HAS_SECCTX = 1
    CONTINUE = 2


@record(frozen=True)
class Limits:
    """The four maxima of a user or a peer: counts, and bytes of slices (Q-2, P-22)."""

    slices: int = 16384
    handles: int = 65536
    inflight_bytes: int = 16777216
    inflight_fds: int = 4096


@record(frozen=True)
class PeerState:
    """What ``peer_query`` answers (P-20 … P-22)."""

    peer_flags: int
    limits: Limits


@record(frozen=True)
class Credentials:
    """Who sends: real ids of the sending task, and its label if there is one (P-50 … P-53)."""

    uid: int
    gid: int
    pid: int
    tid: int = 0
    secctx: bytes | None = None
    pids: tuple[tuple[int, int], ...] = ()
    """(pid namespace, pid there) for receivers in other namespaces than the bus; () if nobody asked."""
    groups: tuple[int, ...] = ()
    """Supplementary groups; known only of who connected."""


class Message(NamedTuple):
    """What ``recv`` returns, for data and notifications alike (R-7 … R-9, N-2).

    ``handles`` are ids of the receiver, HANDLE_INVALID for dead nodes (R-45). ``fds`` are numbers of
    the bus process, valid until the edge next calls ``take_freed_fds()``; empty without INSTALL_FDS
    (R-31). ``size`` is the slice's size in bytes; ``serial`` tells it from others that lie at its offset
    before and after it (0: no slice).
    """

    type: MessageType
    flags: MessageFlag
    destination: int
    uid: int
    gid: int
    pid: int
    tid: int
    offset: int
    n_bytes: int
    handles: tuple[int, ...]
    fds: tuple[int, ...]
    secctx: bytes | None
    size: int
    serial: int = 0


class Ahead(NamedTuple):
    """A look at a deliverable queue entry that changes nothing (privileged).

    ``parts`` are the payload's buffers as they lie in a heap pool (empty for other memories).
    ``n_handles`` counts dead nodes too. ``sender`` is the sending peer, 0 for notifications.
    ``note`` is the parcel's. ``stamp`` is that of its transaction, which no other ever has.
    """

    type: MessageType
    destination: int
    sender: int
    offset: int
    n_bytes: int
    size: int
    n_handles: int
    fds: tuple[int, ...]
    parts: tuple[Buffer, ...]
    note: int = 0
    stamp: int = 0


class Parcel(NamedTuple):
    """One destination of ``route``, with its own payload.

    ``handles`` are ids of the *sender*, created on demand as in ``send``. ``with_fds`` says whether
    the transaction's descriptors go along. A mandatory parcel that fails fails the transaction.
    ``note`` is the Switch's own number for this delivery; ``ahead`` shows it again.
    """

    node: NodeRef
    parts: tuple[Buffer, ...] = ()
    handles: tuple[int, ...] = ()
    with_fds: bool = False
    mandatory: bool = True
    note: int = 0


class Usage(NamedTuple):
    """What is queued (undelivered) at one reader: allocated bytes, messages, descriptors."""

    bytes: int = 0
    messages: int = 0
    fds: int = 0


class UserUsage(NamedTuple):
    """What a user's peers use, the maxima, and what of it is booked for each sending user.

    Each is slices, handles, bytes, descriptors."""

    used: tuple[int, ...]
    limits: tuple[int, ...]
    shares: dict[int, tuple[int, ...]]


class Memory(Protocol):
    """The backing of one pool; belongs to the edge, called by Core only.

    Core decides offsets; a segment is a contiguous piece of the pool's 32-bit address space with a
    generation number that is never reused within a pool.
    """

    shares_buffers: bool
    """True if ``write`` keeps references instead of copying."""

    def open_segment(self, generation: int, base: int, size: int) -> None:
        """Make a segment; raises OutOfMemory."""

    def close_segment(self, generation: int) -> None:
        """Give a segment back; never raises."""

    def reserve(self, generation: int, offset: int, size: int) -> None:
        """Make sure that writing [offset, offset+size) cannot fail; raises OutOfMemory.

        ``offset`` counts from the pool's start, as everywhere."""

    def write(self, generation: int, offset: int, parts: Sequence[Buffer]) -> None:
        """Put the concatenation of ``parts`` at ``offset``; never raises after ``reserve``."""

    def read(self, offset: int) -> tuple[Buffer, ...]:
        """The payload buffers of the slice at ``offset`` (heap), or () where only the peer reads."""

    def release(self, generation: int, offset: int, size: int) -> None:
        """The slice is free; forget its contents."""


class CoreApi(Protocol):
    """The Core waist. Every method but the look-ups is one command of the total order.

    All raise ``PeerShutdown`` for a peer that is gone; further errors are those of semantics §11.
    """

    # ---- the page's operations -------------------------------------------------------------------

    def peer_new(
        self, uid: int, memory: Memory | None = None, *, limits: Limits | None = None, overhead: int = 0,
        view: View | None = None,
    ) -> int:
        """A new peer accounted to ``uid`` (P-1, P-7); ``None`` gives it heap memory.

        ``overhead`` bytes are charged with every message beyond its slice (hosted peers). ``view`` is how
        the peer sees the ids of others; None: as the bus does (P-51)."""

    def peer_disconnect(self, peer: int) -> None:
        """All of P-10 … P-17: nodes die at one instant, handles go, queue and pool are emptied.

        Its number is not used again; descriptors in its queue are freed."""

    def peer_query(self, peer: int) -> PeerState:
        """Flags and limits (P-20 … P-22)."""

    def peer_reset(
        self, peer: int, flags: int = 0, peer_flags: int = KEEP, *, max_slices: int = KEEP,
        max_handles: int = KEEP, max_inflight_bytes: int = KEEP, max_inflight_fds: int = KEEP,
    ) -> None:
        """Set flags and limits, then flush (P-30 … P-37); InvalidArgument."""

    def handle_transfer(self, source: int, handle: int, destination: int) -> int:
        """One more reference for ``destination``; returns its id there (H-50 … H-58).

        HANDLE_INVALID for a dead node. NoSuchHandle, QuotaExceeded; PeerShutdown for either peer."""

    def handle_release(self, peer: int, handle: int) -> None:
        """Drop one reference (H-40 … H-45); NoSuchHandle, Busy."""

    def node_destroy(self, peer: int, nodes: Sequence[int], flags: int = 0) -> None:
        """Destroy a set of own nodes at one instant (H-60 … H-68).

        In the order of the list NoSuchHandle, NotUnique, ForeignNode, AlreadyDestroyed (H-61), then
        QuotaExceeded; InvalidArgument for flags, and for more nodes than the user's handles."""

    def slice_release(self, peer: int, offset: int, *, serial: int = 0, unmapped: bool = True) -> None:
        """Give a received slice back (L-7 … L-10); NoSuchHandle unless a published one begins at ``offset``.

        ``serial`` is that of the message; 0 means whichever is published there.
        ``unmapped=False`` says that the slice's own segment may still be mapped: it is retired, and
        stays charged until ``segment_unmapped``."""

    def segment_unmapped(self, peer: int, generation: int) -> None:
        """The peer has unmapped a retired segment: its charge returns. NoSuchHandle otherwise."""

    def send(
        self, peer: int, destinations: Sequence[int], parts: Sequence[Buffer] = (),
        handles: Sequence[int] = (), fds: Sequence[int] = (), *, flags: int = 0,
        optional: Sequence[int] = (), credentials: Credentials,
    ) -> list[int]:
        """One transaction (§4). Returns a slot per destination, optional ones last: 0 or -errno.

        ``destinations`` are mandatory, with CONTINUE unless their error is of T-55; ``optional`` never fail
        the call. With SEED the message becomes the peer's seed (§7). Takes ``fds`` if it succeeds.
        InvalidArgument, TooLarge, NoSuchHandle, NotUnique, NodeDestroyed, QuotaExceeded, PoolFull,
        OutOfMemory."""

    def recv(self, peer: int, flags: int = 0, max_offset: int = NO_LIMIT) -> Message:
        """The next message, or the seed (§5): WouldBlock if there is none.

        InvalidArgument; OutOfRange (R-4) and QuotaExceeded (PEEK, R-12) leave it queued."""

    def snapshot(self) -> dict[str, Any]:
        """The whole state as plain data; descriptors by number."""

    # ---- the privileged verb of the Switch -------------------------------------------------------

    def route(
        self, sender: int, parcels: Sequence[Parcel], fds: Sequence[int] = (), *, credentials: Credentials
    ) -> list[int]:
        """One transaction to nodes, no handle needed, each with its own payload; the sender's user
        and the pair (sender, reader) are charged. Returns a slot per parcel: 0 or -errno. Several
        parcels for one peer are allowed, also to one node; they are queued in the given order.
        A node that does not exist any more is NodeDestroyed."""

    # ---- look-ups: no effect, privileged ---------------------------------------------------------

    def ahead(self, peer: int, limit: int = 1) -> list[Ahead]:
        """Up to ``limit`` deliverable entries from the front of the queue, in order."""

    def seed_ahead(self, peer: int) -> Ahead | None:
        """A look at the peer's seed that changes nothing; None if there is none."""

    def rehearse(
        self, peer: int, destinations: Sequence[int], n_bytes: int, handles: Sequence[int] = (),
        fds: Sequence[int] = (), *, flags: int = 0, optional: Sequence[int] = (), credentials: Credentials,
    ) -> bool:
        """Whether anybody would get a message with ``n_bytes`` of payload; raises what ``send`` would.

        For payloads that are dear to come by. The next command may change the answer."""

    def is_readable(self, peer: int) -> bool:
        """Something is queued (P-41, P-42)."""

    def node_of(self, peer: int, handle: int) -> NodeRef | None:
        """The live node behind a handle of ``peer``; None if it is dead or unknown."""

    def queued(self, sender: int, reader: int) -> Usage:
        """What ``sender`` has queued, undelivered, at ``reader``."""

    def waiting(self, reader: int) -> Usage:
        """What everybody has queued, undelivered, at ``reader``."""

    def users(self) -> dict[int, UserUsage]:
        """Every user that has peers."""

    def effort(self) -> int:
        """How many handles and queue entries commands have touched so far, those named in a request not
        counted. What it grows by says how long everybody has waited; it is no part of the snapshot."""

    def set_user_limits(self, uid: int, limits: Limits) -> None:
        """Replace the maxima of a user; current use is untouched (P-33 in spirit)."""

    # ---- effects, drained by the edge after each command -----------------------------------------

    def has_effects(self) -> bool:
        """One of the three lists below is not empty."""

    def take_woken(self) -> list[int]:
        """Peers that turned from not readable to readable (P-43), each once, in order."""

    def take_freed_fds(self) -> list[int]:
        """Descriptors that no message carries any more: the edge closes them."""

    def take_retired(self) -> list[tuple[int, int]]:
        """(peer, generation) of segments that the peer is asked to unmap."""
