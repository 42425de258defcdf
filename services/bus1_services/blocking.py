"""blocking: calling and serving without an event loop, for scripts, for code that has threads, for speed.

::

    with blocking.connect() as bus:
        clock = bus.proxy(Clock, "org.example.Clock", "/org/example/Clock")
        print(clock.format("%H:%M"))

Theory. The connection is that of all services; where its tasks would be suspended, this one waits for the
socket itself, and hands over what comes meanwhile. So a call is one write and one read, and between waits
nothing runs. Calls that arrive while a method runs, which waits for something itself, have their turn when
it has ended. What is given up leaves with the next wait.

Invariants. 1. Calls of a connection run one after the other, in the order of the queue. 2. What waits for
anything but this connection is told so: RuntimeError.

Not here: the socket (``bus1.blocklink``), what messages mean (``connection``, ``export``, ``proxy``).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from bus1.aio import Peer
from bus1.blocklink import BlockLink, Late, drive
from bus1.core.api import HANDLE_INVALID, PeerFlag
from bus1.errors import Bus1Error, BusGone, TooManyDescriptors
from bus1.received import ReceivedMessage
from bus1.turns import Pause

from .connection import MAX_CALLS, Connection
from .interface import BoundProperty, BoundSignal, Interface, Method, Prop, Signal, spec_of
from .members import MethodSpec
from .proxy import PendingCall, Remote, SignalStream
from .registry import Published
from .short import Names

NO_RESULT = object()
I = TypeVar("I", bound=Interface)  # noqa: E741
T = TypeVar("T")


@contextmanager
def connect(address: str | None = None) -> Iterator[Bus]:
    """A new peer on the bus at ``address``, closed at the end; for the thread that made it.

    Errors as of ``bus1_services.connect``: BusGone, if there is no bus."""
    peer = Peer.open_blocking(address)
    try:
        drive(peer.reset(peer_flags=PeerFlag.WANT_SECCTX))
        connection = _Connection(peer)
        try:
            yield Bus(connection)
        finally:
            connection.end(BusGone("this connection has been closed"))
    finally:
        peer.close()


class Bus:
    """The bus as one thread sees it. Errors are those of the connection; BusGone when it is gone."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        """For what is not here: ``result`` runs its coroutines."""

    def proxy(self, interface: type[Interface], name: str, path: str, timeout: float | None = None) -> Any:
        """An object of the owner of ``name``, which is started if it is not there; see ``Blocking``.

        Errors are those of ``Registry.proxy``."""
        return blocking(drive(self.connection.registry.proxy(interface, name, path, timeout)))

    def publish(
        self, title: str, names: Mapping[str, int], objects: Mapping[str, Interface]
    ) -> Published:
        """Publish objects by path under names with their flags, to be served; as ``Registry.publish``."""
        return drive(self.connection.registry.publish(title, names, objects))

    def serve(self, until: Callable[[], bool] | None = None) -> None:
        """Answer calls until the bus is gone: BusGone; or until this is true after one.

        Coroutines are run as far as they get without an event loop; one that waits for it has failed."""
        connection = cast(_Connection, self.connection)
        while until is None or not until():
            connection.turn()

    def result(self, awaitable: Awaitable[T]) -> T:
        """What this coroutine of the framework gives; RuntimeError if it waits for anything but the bus."""
        return drive(_awaiting(awaitable))


class Blocking:
    """A proxy without ``await``: methods return results, properties are read and set as attributes.

    ``with clock.ticked() as ticks`` is for signals: iterate it. Made by ``Bus.proxy``, and by ``blocking`` of
    a proxy that came as a result."""

    __slots__ = ("__dict__", "proxy")

    def __init__(self, proxy: Interface) -> None:
        object.__setattr__(self, "proxy", proxy)

    def __getattr__(self, name: str) -> Any:
        member = getattr(type(self.proxy), name)
        if isinstance(member, Method):
            call = self.__dict__[name] = _caller(self.proxy, member)
            return call
        bound = getattr(self.proxy, name)
        if isinstance(member, Prop):
            return drive(cast(BoundProperty[Any], bound).get())
        return (lambda: Signals(bound)) if isinstance(member, Signal) else bound

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a property; AttributeError for what is none."""
        if not isinstance(getattr(type(self.proxy), name, None), Prop):
            raise AttributeError(f"{name} is no property")
        drive(getattr(self.proxy, name).set(value))

    def __repr__(self) -> str:
        return f"blocking({self.proxy!r})"


class Signals:
    """The arguments of one signal: the value of one, a tuple of several."""

    def __init__(self, signal: BoundSignal[*tuple[Any, ...]]) -> None:
        self._subscription = signal.subscribe()
        self._stream: Any = None

    def __enter__(self) -> Self:
        self._stream = drive(_awaiting(self._subscription.__aenter__()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        drive(_awaiting(self._subscription.__aexit__(kind, error, trace)))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            return drive(_awaiting(anext(self._stream)))
        except StopAsyncIteration:
            raise StopIteration from None


def blocking(proxy: Interface) -> Any:
    """This proxy without ``await``; TypeError for what is none of a blocking connection."""
    if not isinstance(getattr(proxy.__far__, "connection", None), _Connection):
        raise TypeError(f"{proxy!r} is no proxy of a connection that blocks")
    return Blocking(proxy)


def _caller(proxy: Interface, member: Method[..., Any]) -> Callable[..., Any]:
    far, spec, interface = proxy.__far__, member.spec(), spec_of(member.interface).name
    assert isinstance(far, Remote)
    assert isinstance(spec, MethodSpec)
    connection = cast(_Connection, far.connection)
    names = interface, spec.name, spec.signature, spec.result
    may_be_short = far.timeout is None and not spec.no_reply and not spec.takes.is_written
    n_values = len(spec.inputs)

    def call(*args: Any, **kwargs: Any) -> Any:
        values = args if not kwargs and len(args) == n_values else spec.bind(args, kwargs)
        result = connection.call(far, spec, names, values) if may_be_short else NO_RESULT
        return drive(far.invoke(interface, spec, values)) if result is NO_RESULT else result

    call.__name__, call.__doc__ = member.attribute, member.__doc__
    return call


async def _awaiting(awaitable: Awaitable[T]) -> T:
    return await awaitable


class _Wait(Pause):
    """Who waits takes messages meanwhile."""

    __slots__ = ("_connection", "_is_over")

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._is_over = False

    def end(self) -> None:
        self._is_over = True

    def __await__(self) -> Generator[Any, Any, None]:
        while not self._is_over:
            self._connection.turn()
        return
        yield


class _Within:
    """A scope whose deadline is that of the socket."""

    def __init__(self, link: BlockLink, seconds: float | None) -> None:
        self.cancelled_caught = False
        self._link = link
        self._seconds = math.inf if seconds is None else seconds
        self._before = self._deadline = math.inf

    def cancel(self) -> None:
        """Nothing can end what does not let anything else run."""

    def __enter__(self) -> Self:
        self._before = self._link.deadline
        self._deadline = monotonic() + self._seconds
        self._link.deadline = min(self._before, self._deadline)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._link.deadline = self._before
        self.cancelled_caught = isinstance(error, Late) and self._deadline <= monotonic()
        return self.cancelled_caught


class _Connection(Connection):
    """A connection whose tasks are run to their end at once, and that is pumped by who waits."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer, lambda function, *args: drive(function(*args)))
        self.publishing: Any = nullcontext()  # nobody else can publish meanwhile
        self._link = peer.blocking_link
        self.pause = partial(_Wait, self)
        swift = None if self.short is None else self._swift
        if self.short is not None:
            self.short.keep_posted()
        self._attendance = peer.attendance(self._hear, lambda: None, swift=swift)
        self._deferred: deque[ReceivedMessage] = deque()
        self._is_busy = False
        self._n_heard = 0
        self._spare: PendingCall | None = None
        """For the next call."""

    def within(self, seconds: float | None) -> Any:
        """A scope that ends after so many seconds, if it waits for this connection then."""
        return _Within(self._link, seconds)

    def turn(self) -> None:
        """Wait until something has come, and hand messages over; raises why nothing can come."""
        if self._error is not None:
            raise self._error
        if self._deferred and not self._is_busy:
            self._act(self._deferred.popleft())
            return
        before = self._n_heard
        try:
            has_read = self._hears_swiftly()
            if has_read is None:
                return
            if not self._attendance.renew():
                drive(self._attendance.begin())
            if not self._attendance.look() and self._n_heard == before and not has_read:
                self._give_back()
                self._link.read()
                self._attendance.look()
        except TooManyDescriptors:
            # As the pump does it.
            self._hear(drive(self.peer.recv(install_fds=False)))
        except Bus1Error as error:
            self._end(error)

    def call(self, remote: Remote, spec: MethodSpec, names: Names, values: tuple[Any, ...]) -> Any:
        """Call a declared method by the short way, and wait for its result; NO_RESULT: nothing happened."""
        link, attendance, short = self._link, self._attendance, self.short
        if short is None or self._error or link.deadline != math.inf or attendance.missing is not None:
            return NO_RESULT
        if self._sweeper.has_work:
            self._give_back()
        # One whose outcome has come another way is as new; if another call is made meanwhile, it has its own.
        pending, self._spare = self._spare or PendingCall(self), None
        node = self.node(pending)
        try:
            while True:
                tag = attendance.tag
                found = short.call(
                    link.sock, link.descriptor, tag, remote.handle.id, node, names, values, pending.failed
                )
                if found is not False or not attendance.renew() or attendance.tag == tag:
                    break
            if found is None:
                answer = drive(pending.outcome())
        except BaseException:
            self.retire(node)
            raise
        if found is False:
            self.forget(node)
            return NO_RESULT
        if found is None:
            self.retire(node)
            return remote.result(spec, answer)
        del self._receivers[node]
        self._spare = pending
        return spec.gathered(found, remote.adopt)

    def _hears_swiftly(self) -> bool | None:
        """Wait, and deal with what comes by the short way: None; else whether something was read."""
        link, short = self._link, self.short
        attendance = self._attendance
        if short is None or self._is_busy or link.deadline != math.inf or attendance.missing is not None:
            return False
        if self._sweeper.has_work:
            self._give_back()
        found = short.wait(link.sock, link.descriptor, attendance.tag)
        if not found:
            return found is False
        self._is_busy = True
        try:
            has_woken = short.deal(found)
        finally:
            self._is_busy = False
        if has_woken is None:
            return False
        self._n_heard += 1
        return None

    def _swift(self, tag: int) -> bool | None:
        """As ``Short.take``, unless a method is running."""
        if self._is_busy or self.short is None:
            return None
        self._is_busy = True
        try:
            has_woken = self.short.take(tag)
        finally:
            self._is_busy = False
        self._n_heard += has_woken is not None
        return has_woken

    def _hear(self, message: ReceivedMessage) -> bool:
        self._n_heard += 1
        receiver = self._receivers.get(message.destination)
        if not self._is_busy or isinstance(receiver, (PendingCall, SignalStream)):
            self._act(message)
        elif len(self._deferred) < MAX_CALLS:
            self._deferred.append(message)
        else:
            with message:
                for handle in message.handles:
                    if handle != HANDLE_INVALID:
                        self.release(handle)
        return False

    def _act(self, message: ReceivedMessage) -> None:
        is_busy, self._is_busy = self._is_busy, True
        try:
            self._take(message)
        finally:
            self._is_busy = is_busy

    def _give_back(self) -> None:
        if self._sweeper.has_work:
            self._sweeper.collect()
            drive(self._sweeper.settle())
