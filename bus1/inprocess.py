"""inprocess: a peer inside the bus process.

Theory. The link calls Core and lets the reactor settle; nothing is copied, nothing is scheduled. Readiness is
an eventfd, set while messages are queued, from when somebody first asks for it. The thread that uses the
link drives the bus: a RECV that waits runs turns of the reactor, and ends them when another thread sends
to it. Threads take turns, by the reactor's lock. A fork leaves the bus with the parent: what the child has
is a copy that nobody else is connected to, so there every operation says that the bus is gone.

Where the native body is in use, and the hub adds nothing, the peer is a ``Resident`` as well: what is
everyday of ``send``, ``recv`` and giving back is done by it in one call, with what follows from it. For
all else it answers None, and has done nothing: for whatever has descriptors, flags or a time to wait, and
for what is wrong; that is told here, in the same words. Where somebody who is no resident has to be told of
something, it lets the link settle.

Invariants. 1. From the first ``fileno`` on the eventfd is readable while the peer is, and once it is
disconnected, as an eventfd cannot hang up; never otherwise (after each operation).
2. Descriptors that cannot be duplicated leave the message queued (R-33).

Not here: peers of other processes (links, broker).
"""

from __future__ import annotations

import math
import os
import re
import select
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from threading import RLock
from typing import TYPE_CHECKING, Concatenate, NoReturn, ParamSpec, TypeVar

from . import acceleration
from .core.api import (
    HANDLE_INVALID,
    NO_LIMIT,
    OFFSET_INVALID,
    Buffer,
    Credentials,
    Message,
    PeerState,
    RecvFlag,
)
from .core.choice import HeapMemory
from .descriptors import Fds, duplicate
from .errors import BadDescriptor, BusGone, Disconnected, NoSuchHandle, NotSupported, WouldBlock
from .frames import NO_FDS
from .hub import PlainHub
from .received import ReceivedMessage
from .unfinished import Unfinished

if TYPE_CHECKING:
    from ._native import Resident
    from .hub import Hub
    from .reactor import Reactor

_Asked = ParamSpec("_Asked")
_Answer = TypeVar("_Answer")
_EVENT = re.compile(r"^eventfd-id:\s*(\d+)", re.MULTILINE)


def _event_number(fd: int) -> int | None:
    """The kernel's number of the eventfd behind ``fd``: the same for all its copies."""
    try:
        with open(f"/proc/self/fdinfo/{fd}") as info:
            found = _EVENT.search(info.read())
    except OSError as error:
        raise BadDescriptor(f"{fd} is not an open descriptor") from error
    return int(found[1]) if found else None


def _can_reside(hub: Hub) -> bool:
    """Whether what a peer does goes to a native Core as it is, and nothing else is done with it."""
    native, kind = acceleration.native, type(hub)
    is_plain = kind.send is PlainHub.send and kind.settle is PlainHub.settle
    return native is not None and is_plain and isinstance(hub.core, native.Core)


def _in_turn(
    operation: Callable[Concatenate[InProcessLink, _Asked], _Answer],
) -> Callable[Concatenate[InProcessLink, _Asked], _Answer]:
    """Meanwhile no other thread works on the bus."""

    @wraps(operation)
    def in_turn(link: InProcessLink, /, *args: _Asked.args, **kwargs: _Asked.kwargs) -> _Answer:
        with link._lock:
            return operation(link, *args, **kwargs)

    return in_turn


class InProcessLink:
    """A peer in the process of ``reactor`` and its ``hub``, charged to this process's user."""

    _peers: dict[int, tuple[Hub, int]] = {}  # noqa: RUF012  (by number of the eventfd, for transfer)

    def __init__(self, reactor: Reactor, hub: Hub) -> None:
        self._reactor = reactor
        self._lock = reactor.lock
        self._hub = hub
        self._credentials = Credentials(
            os.getuid(), os.getgid(), os.getpid(), groups=tuple(os.getgroups())
        )
        # a resident finds its payloads without a memory to look into
        self._memory = None if _can_reside(hub) else HeapMemory()
        self._is_shown = False
        self._is_signalled = False
        self._is_live = True
        self._n_waiting = 0
        with self._lock:
            self.peer = hub.core.peer_new(self._credentials.uid, self._memory)
            """The number of the peer in Core."""
            self.granted = hub.peer_opened(self.peer, self._credentials)
            self.event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            """What ``fileno`` gives, for who does not poll it; -1 once it is closed."""
            number = _event_number(self.event)
            assert number is not None
            self._number = number
            self._peers[number] = (hub, self.peer)
            _links.add(self)
            reactor.station(self.peer, self)
            self.resident = self._settle_in()
            """What does the everyday of this peer in one call."""
            reactor.settle()

    def _settle_in(self) -> Resident | None:
        native = acceleration.native
        if native is None or self._memory is not None:
            return None
        resident: Resident = native.Resident(
            self._hub.core, self.peer, self._credentials, self.event, weakref.ref(self),
            ReceivedMessage, NO_FDS,
        )
        return resident

    @_in_turn
    def fileno(self) -> int:
        """An eventfd, readable while messages are queued, and from the disconnect on."""
        if self._is_live and not self._is_shown:
            self._is_shown = True
            self._signal()
        return self.event

    def woken(self) -> None:
        """The peer turned readable."""
        self._signal()

    def retired(self, generation: int) -> None:
        """Heap memory has no segments to unmap."""

    def _signal(self) -> None:
        if not self._is_shown:
            return
        if self.resident is not None:
            self.resident.signal(self._is_live)
            return
        is_readable = not self._is_live or self._hub.core.is_readable(self.peer)
        if is_readable and not self._is_signalled:
            os.eventfd_write(self.event, 1)
        elif self._is_signalled and not is_readable:
            os.eventfd_read(self.event)
        self._is_signalled = is_readable

    @_in_turn
    def _settle(self) -> None:
        if self.resident is None or not self.resident.settle():
            self._reactor.settle()
            self._signal()

    # ---- operations ------------------------------------------------------------------------------

    @_in_turn
    def send(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], *, flags: int, optional: Sequence[int],
    ) -> list[int]:
        """One transaction; the payload is copied, so its buffers may change afterwards."""
        with duplicate(fds) as copies:
            for fd in copies:
                if _event_number(fd) in self._peers:
                    raise NotSupported("a peer's descriptor cannot be sent")
            frozen = [part if isinstance(part, bytes) else bytes(part) for part in parts]
            slots = self._send(destinations, frozen, handles, tuple(copies), flags, optional)
            copies.take_all()
        self._settle()
        return slots

    def _send(
        self, destinations: Sequence[int], parts: Sequence[bytes], handles: Sequence[int],
        fds: Sequence[int], flags: int, optional: Sequence[int],
    ) -> list[int]:
        progress: object = None
        while True:
            try:
                return self._hub.send(
                    self.peer, destinations, parts, handles, fds, flags=flags, optional=optional,
                    credentials=self._credentials, progress=progress,
                )
            except Unfinished as unfinished:
                progress = unfinished.progress

    def recv(self, flags: int, max_offset: int, *, timeout: float) -> ReceivedMessage:
        """The next message, or the seed; runs the bus until there is one, ``timeout`` seconds at most."""
        clock = self._reactor.clock
        deadline = clock() + timeout if timeout else 0.0
        if self.resident is not None and (message := self.resident.recv(flags, max_offset)) is not None:
            return message
        try:
            return self._receive(flags, max_offset)
        except WouldBlock:
            if not timeout:
                raise
        with self._watched():
            while True:
                try:
                    return self._receive(flags, max_offset)
                except WouldBlock:
                    if clock() >= deadline:
                        raise
                self._reactor.run_once(deadline)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Meanwhile what others send to this peer, threads among them, ends a turn of the reactor."""
        self.fileno()  # from here on it follows the queue, so look once more before waiting
        with self._lock:
            self._n_waiting += 1
            if self._n_waiting == 1 and self.event >= 0:
                self._reactor.add(self, select.EPOLLIN)
        try:
            yield
        finally:
            with self._lock:
                self._n_waiting -= 1
                if not self._n_waiting and self.event >= 0:
                    self._reactor.remove(self)

    def ready(self, events: int, now: float) -> None:
        """Who waits for a message looks for it when the turn is over."""

    @_in_turn
    def _receive(self, flags: int, max_offset: int) -> ReceivedMessage:
        core = self._hub.core
        copies = Fds()
        if flags & RecvFlag.INSTALL_FDS:
            seed = core.seed_ahead(self.peer) if flags & RecvFlag.SEED else None
            front = [seed] if seed else core.ahead(self.peer) if not flags & RecvFlag.SEED else []
            copies = duplicate(front[0].fds if front else ())
        with copies:
            message = core.recv(self.peer, flags, max_offset)
            fds = Fds(copies.take_all()) if copies else NO_FDS
        received = self._received(message, fds)
        self._settle()
        return received

    def _received(self, message: Message, fds: Fds) -> ReceivedMessage:
        has_slice = message.offset != OFFSET_INVALID
        parts = self._payload(message.offset) if has_slice else ()
        payload = parts[0] if len(parts) == 1 else b"".join(parts)
        return ReceivedMessage(
            message.type, message.flags, message.destination,
            message.uid, message.gid, message.pid, message.tid,
            message.offset, message.n_bytes, message.handles, fds, message.secctx, message.size,
            memoryview(payload).toreadonly(), self._give_back if has_slice else None, message.serial,
        )

    def _payload(self, offset: int) -> Sequence[Buffer]:
        if self.resident is not None:
            return self.resident.payload(offset)
        assert self._memory is not None
        return self._memory.read(offset)

    def _say(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int],
    ) -> None:
        everyday = None
        if self.resident is not None:
            everyday = self.resident.send(destinations, parts, handles, fds, 0, ())
        if everyday is None:
            self.send(destinations, parts, handles, fds, flags=0, optional=())

    def call(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], *, flags: int,
    ) -> ReceivedMessage:
        """``send``, then ``recv`` that waits."""
        self._say(destinations, parts, handles, fds)
        return self.recv(flags, NO_LIMIT, timeout=math.inf)

    def reply(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], *, answered: ReceivedMessage | None, release: int, flags: int,
    ) -> ReceivedMessage:
        """``send``, give the slice of ``answered`` back, release a handle, then ``recv`` that waits."""
        self._say(destinations, parts, handles, fds)
        if answered is not None:
            answered.release()
        if release != HANDLE_INVALID:
            self.release(release)
        return self.recv(flags, NO_LIMIT, timeout=math.inf)

    @_in_turn
    def transfer(self, handle: int, destination: int | None) -> int:
        """One more reference for the peer behind a descriptor (None: this one); its id there."""
        target = self.peer
        if destination is not None:
            number = _event_number(destination)
            hub, target = self._peers.get(number, (None, 0)) if number is not None else (None, 0)
            if hub is not self._hub:
                raise NotSupported("the descriptor is not that of a peer in this process")
        received = self._hub.core.handle_transfer(self.peer, handle, target)
        self._settle()
        return received

    @_in_turn
    def release(self, handle: int) -> None:
        """Drop one reference."""
        self._hub.core.handle_release(self.peer, handle)
        self._settle()

    @_in_turn
    def destroy(self, nodes: Sequence[int], flags: int) -> None:
        """Destroy own nodes at one instant."""
        self._hub.core.node_destroy(self.peer, nodes, flags)
        self._settle()

    @_in_turn
    def release_slice(self, offset: int) -> None:
        """Give the slice at ``offset`` back."""
        self._hub.core.slice_release(self.peer, offset)
        self._settle()

    @_in_turn
    def _give_back(self, message: ReceivedMessage) -> None:
        serial, _ = message.detach()
        with suppress(NoSuchHandle, Disconnected):
            self._hub.core.slice_release(self.peer, message.offset, serial=serial)
            self._settle()

    @_in_turn
    def reset(
        self, flags: int, peer_flags: int, *, max_slices: int, max_handles: int, max_inflight_bytes: int,
        max_inflight_fds: int,
    ) -> None:
        """P-30 … P-37."""
        self._hub.core.peer_reset(
            self.peer, flags, peer_flags, max_slices=max_slices, max_handles=max_handles,
            max_inflight_bytes=max_inflight_bytes, max_inflight_fds=max_inflight_fds,
        )
        self._settle()

    @_in_turn
    def query(self) -> PeerState:
        """P-20 … P-22."""
        return self._hub.core.peer_query(self.peer)

    @_in_turn
    def disconnect(self) -> None:
        """End the peer."""
        self._hub.peer_disconnect(self.peer)
        self._is_live, self._is_shown = False, True
        self._reactor.station(self.peer, None)
        self._reactor.settle()
        self._signal()

    @_in_turn
    def close(self) -> None:
        """The peer ends."""
        if self._is_live:
            self.disconnect()
        if self.event >= 0:
            del self._peers[self._number]
            self._move_out()
            if self._n_waiting:
                self._reactor.remove(self)
            event, self.event = self.event, -1
            os.close(event)

    def leave_bus(self) -> None:
        """In the child of a fork: the bus stayed with the parent."""
        self._is_live = False
        self._move_out()
        self._lock, self._n_waiting = RLock(), 0  # whoever held it, or waits, is the parent's
        self._hub = _ParentsHub()

    def _move_out(self) -> None:
        if self.resident is not None:
            self.resident.leave()


class _ParentsHub:
    """What a link has in place of its hub in the child of a fork."""

    def __getattr__(self, name: str) -> NoReturn:
        raise BusGone("an in-process peer lives in the process that made it, not in its children")


_links: weakref.WeakSet[InProcessLink] = weakref.WeakSet()


def _leave_buses() -> None:
    for link in list(_links):
        link.leave_bus()


os.register_at_fork(after_in_child=_leave_buses)
