"""registry: the client of the registry, where names lead to nodes.

Theory. The registry is an ordinary object with ordinary methods, ``org.bus1.Registry1``; its handle is what
the default endpoint grants. It is called by hand instead of through an interface class, because handles
travel beside the bodies of its methods, not in them.

Not here: the registry itself (the bridge has it).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from bus1.core.api import ResetFlag, SendFlag
from bus1.errors import Bus1Error, RemoteProtocolError

from . import seed
from .errors import DBusError, InvalidArgs, NameHasNoOwner, UnknownObject
from .handle import Handle
from .interface import Interface
from .managed import Managed
from .objectmanager import ObjectManager, with_managed
from .proxy import Answer, Remote, SignalStream

if TYPE_CHECKING:
    from .connection import Connection
    from .export import Export

INTERFACE = "org.bus1.Registry1"
_SERVICE_UNKNOWN = "org.freedesktop.DBus.Error.ServiceUnknown"
_OWNERS = 32
"""So many owners of a name may leave before an object of theirs is found."""
I = TypeVar("I", bound=Interface)  # noqa: E741


@dataclass(frozen=True, slots=True)
class Published:
    """What Publish answers: the own unique name, a RequestName result per name, the emitter."""

    unique: str
    results: tuple[int, ...]
    emitter: Handle


@dataclass(frozen=True, slots=True)
class Publication:
    """What a connection has published: a title, names with flags, objects by path."""

    title: str
    names: Mapping[str, int]
    objects: Mapping[str, Interface]


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns a name: its unique name, and its root node."""

    unique: str
    root: Handle


@dataclass(frozen=True, slots=True)
class NameOwnerChanged:
    """A name went from one unique name to another; empty for nobody."""

    name: str
    old: str
    new: str


class Registry:
    """The registry behind a granted handle. Errors are DBusError, with D-Bus's names."""

    def __init__(self, connection: Connection, handle: Handle) -> None:
        self._connection = connection
        self._remote = Remote(connection, handle)

    async def publish(
        self, title: str, names: Mapping[str, int], objects: Mapping[str, Interface]
    ) -> Published:
        """Pin the seed document (names with RequestName flags, objects by path), and publish it.

        What a ``Manager`` among the objects manages is published with it. An error leaves the publication
        before; a cancelled call may have had its effect."""
        async with self._connection.publishing:
            return await self._publish(Publication(title, dict(names), with_managed(objects)), names)

    async def extend(self, objects: Mapping[str, Interface], without: Collection[str] = ()) -> None:
        """Publish these as well, and those at the paths ``without`` no more. Errors as of ``publish``.

        RuntimeError, if nothing has been published."""
        connection = self._connection
        async with connection.publishing:
            current = connection.publication
            if current is None:
                raise RuntimeError("nothing has been published on this connection yet")
            kept = {path: target for path, target in current.objects.items() if path not in without}
            await self._publish(replace(current, objects=kept | with_managed(objects)), {})

    async def _publish(self, wanted: Publication, names: Mapping[str, int]) -> Published:
        """Publish, and ask for these names."""
        connection = self._connection
        exports = {path: connection.export(target) for path, target in wanted.objects.items()}
        earlier, pinned = tuple(connection.published), connection.pinned
        # Until the outcome is known, the objects of both publications must live.
        former = set(earlier)
        connection.published.extend(export for export in exports.values() if export not in former)
        for export in exports.values():
            export.is_published = True
        try:
            document = seed.SeedDocument(
                wanted.title, tuple(wanted.names.items()),
                tuple((path, e.interfaces_xml()) for path, e in exports.items()),
            )
            nodes = (connection.root.node, *(export.node for export in exports.values()))
            await self._pin((seed.encode(document), nodes))
            answer = await self._call(
                "Publish", "sau", seed.SIGNATURE, (wanted.title, tuple(names.items()), document.objects),
                handles=nodes,
            )
            emitter = _handle(answer)
        except Exception:
            with suppress(Bus1Error):
                await self._pin(pinned)
            self._keep(earlier)
            raise
        self._keep(tuple(exports.values()))
        connection.publication = wanted
        for export in exports.values():
            export.emitter = emitter
        return Published(answer.values[0], tuple(answer.values[1]), emitter)

    async def withdraw(self, *names: str) -> list[int]:
        """Give up names, with a ReleaseName result each; without names, give up all, objects included."""
        results: list[int] = (await self._call("Withdraw", "au", "as", (list(names),))).values[0]
        if not names:
            await self._pin(None)
            self._keep(())
            self._connection.publication = None
        return results

    async def resolve(self, name: str) -> Owner:
        """The owner of a name; NameHasNoOwner."""
        answer = await self._call("Resolve", "s", "s", (name,))
        return Owner(answer.values[0], _handle(answer))

    async def derive(self, root: Handle, path: str) -> Handle:
        """The node of an object of the owner whose root this is; UnknownObject."""
        return _handle(await self._call("Derive", "", "o", (path,), handles=[self._id(root)]))

    async def identify(self, handle: Handle) -> str:
        """The unique name of the node's owner; NameHasNoOwner, AccessDenied, InvalidArgs if it is gone."""
        name: str = (await self._call("Identify", "s", handles=[self._id(handle)])).values[0]
        return name

    async def credentials(self, handle: Handle) -> tuple[int, int]:
        """Uid and pid (0: unknown) of the node's owner, as the bus sees them; errors as of ``identify``."""
        uid, pid = (await self._call("Credentials", "uu", handles=[self._id(handle)])).values
        return uid, pid

    async def names(self) -> list[str]:
        """All names on the bus, unique ones too."""
        found: list[str] = (await self._call("List", "as")).values[0]
        return found

    async def start(self, name: str) -> None:
        """Have the service started that owns ``name``, and wait for that; DBusError: ServiceUnknown, …"""
        await self._call("Start", "", "s", (name,))

    async def proxy(
        self, interface: type[I], name: str, path: str, timeout: float | None = None, *, start: bool = True
    ) -> I:
        """A proxy for an object of the owner of ``name``, which is started if it is not there.

        NameHasNoOwner, UnknownObject; other errors are those of the start.
        Its calls are given up after ``timeout`` seconds, if any, with the error Timeout."""
        handle = await self._find(name, path, start)
        return self._connection.proxy(interface, handle, timeout)

    async def _find(self, name: str, path: str, start: bool) -> Handle:
        """The node of an object; an owner may leave while one looks for it, and another one come."""
        former = ""
        for _ in range(_OWNERS):
            try:
                owner = await self.resolve(name)
            except NameHasNoOwner:
                if not start or not await self._is_started(name):
                    raise
                continue
            with owner.root:
                try:
                    return await self.derive(owner.root, path)
                except (UnknownObject, InvalidArgs):
                    if owner.unique == former:
                        raise
            former = owner.unique
        raise NameHasNoOwner(f"nobody keeps the name {name} long enough: {_OWNERS} came and went")

    async def _is_started(self, name: str) -> bool:
        """False if it is no service that can be started."""
        try:
            await self.start(name)
        except DBusError as error:
            if error.name == _SERVICE_UNKNOWN:
                return False
            raise
        return True

    @asynccontextmanager
    async def managed(self, interface: type[I], name: str, path: str) -> AsyncIterator[Managed[I]]:
        """The objects of this interface that the ObjectManager at ``path`` of a name's owner manages.

        Mapping by path, and an iterator of what changes. NameHasNoOwner, UnknownObject, DBusError."""
        owner = await self.resolve(name)
        with owner.root:
            manager = self._connection.proxy(ObjectManager, await self.derive(owner.root, path))

            async def derive(object_path: str) -> I:
                return self._connection.proxy(interface, await self.derive(owner.root, object_path))

            async with SignalStream(self._connection) as stream:
                managed = Managed(interface, stream, derive)
                await managed.begin(manager)
                yield managed

    @asynccontextmanager
    async def watch(self, name: str = "") -> AsyncIterator[AsyncIterator[NameOwnerChanged]]:
        """Changes of the owner of ``name`` (empty: of all names), from now on."""
        async with SignalStream(self._connection) as stream:
            await self._call("Watch", "", "s", (name,), handles=[stream.share()])
            async with aclosing(_changes(stream)) as changes:
                yield changes

    async def _pin(self, wanted: tuple[bytes, tuple[int, ...]] | None) -> None:
        """Set the seed to this document and nodes, or drop the one that was set here."""
        peer, pinned = self._connection.peer, self._connection.pinned
        if wanted is None and pinned is None:
            return
        self._connection.pinned = wanted
        try:
            if wanted is None:
                await peer.reset(ResetFlag.FLUSH_SEED)
            else:
                await peer.send([], wanted[0], wanted[1], flags=SendFlag.SEED)
        except Bus1Error:
            self._connection.pinned = pinned
            raise

    def _keep(self, exports: Sequence[Export]) -> None:
        """These are published; the others that were end, unless somebody holds them."""
        kept = set(exports)
        for export in self._connection.published:
            if export not in kept:
                export.emitter = None
                export.is_published = False
                # its NODE_RELEASE may have come before the answer that ended its publication
                self._connection.doubt(export.node)
        self._connection.published[:] = exports

    def _id(self, handle: Handle) -> int:
        return handle.at(self._connection.release).id

    async def _call(
        self, member: str, result: str, signature: str = "", values: Sequence[object] = (), *,
        handles: Sequence[int] = (),
    ) -> Answer:
        answer = await self._remote.call(INTERFACE, member, signature, values, handles=handles)
        if answer.signature != result:
            raise RemoteProtocolError(f"{member} of the registry answers {answer.signature!r}")
        return answer


def _handle(answer: Answer) -> Handle:
    if not answer.handles or answer.handles[0] is None:
        raise RemoteProtocolError("the registry answered without the handle")
    return answer.handles[0]


async def _changes(stream: SignalStream) -> AsyncGenerator[NameOwnerChanged, None]:
    async for received in stream:
        if received.interface == INTERFACE and received.signature == "sss":
            yield NameOwnerChanged(*received.values)
