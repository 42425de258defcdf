"""secret_store: a store for ``secret-tool`` and all that uses libsecret; it forgets its secrets when it ends.

    python examples/secret_store.py                            serves: secret-tool store --label=Mail user me
    python examples/secret_store.py lookup ATTRIBUTE VALUE     prints a secret, as a native client

The Secret Service has objects for everything, and who may use them is what matters here. Collections and
prompts are published: everybody finds them by their paths. Items and sessions are not: returning an item
gives it to this caller alone, and nobody else can reach it, not even who knows its path. When a client
goes away, so does its session: ``unreferenced`` is called, and nobody has to watch names.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import count

import anyio
from bus1_services import (
    Bool,
    Connection,
    DBusError,
    Interface,
    ObjectPath,
    Reference,
    Service,
    Str,
    Variant,
    VariantDict,
    connect,
    method,
    prop,
    signal,
)
from bus1_services.errors import LimitsExceeded
from secret_items import (
    NOTHING,
    SECRET,
    Attributes,
    Collection,
    Item,
    NoSession,
    NoSuchObject,
    Secret,
    Session,
    check_size,
    told,
)

from bus1.errors import Bus1Error

TITLE, NAME, PATH = "A store of secrets", "org.freedesktop.secrets", "/org/freedesktop/secrets"
SESSIONS_MAX, COLLECTIONS_MAX, PROMPTS_MAX = 1_000, 16, 16
"""What all clients together may have."""


class Prompt(Interface, name=SECRET + "Prompt"):
    """A question to the user: may these be unlocked?"""

    def __init__(
        self, service: SecretService, asked: list[ObjectPath], collections: Iterable[Collection]
    ) -> None:
        self._service = service
        self._asked, self._collections = asked, list(collections)

    @method
    async def prompt(self, window_id: Str) -> None:
        """Ask. Nobody sits at an example, so the answer is yes; here a real store wants a password."""
        for collection in self._collections:
            await collection.lock(False)
        await self._complete(dismissed=False)

    @method
    async def dismiss(self) -> None:
        """Do not ask any more."""
        await self._complete(dismissed=True)

    @signal
    def completed(self, dismissed: Bool, result: Variant) -> None:
        """What was asked for has been done, or not."""

    async def _complete(self, dismissed: bool) -> None:
        await self.completed(dismissed, Variant("ao", [] if dismissed else self._asked))
        await self._service.forget(self)


class SecretService(Interface, name=SECRET + "Service"):
    """Collections, sessions and prompts."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        """Where what is published changes while it runs."""
        login = Collection(self, f"{PATH}/collection/login", "Login")
        self._collections: dict[str, Collection] = {login.path: login}
        self._aliases: dict[str, ObjectPath] = {"default": login.path}
        self._sessions: set[Session] = set()
        self._prompts: dict[str, Prompt] = {}
        self._numbers = count(1)

    @method
    def open_session(self, algorithm: Str, input: Variant) -> tuple[Variant, Session]:
        """A session in which secrets are passed as they are: the bus shows them to nobody else."""
        if algorithm != "plain":
            text = f"no sessions with {algorithm[:64]}, but plain ones"
            raise DBusError(text, name="org.freedesktop.DBus.Error.NotSupported")
        if len(self._sessions) >= SESSIONS_MAX:
            raise LimitsExceeded(f"{len(self._sessions)} sessions are open, {SESSIONS_MAX} are allowed")
        session = Session(self._sessions.discard)
        self._sessions.add(session)
        return Variant("s", ""), session

    @method
    async def create_collection(self, properties: VariantDict, alias: Str) -> tuple[ObjectPath, ObjectPath]:
        """A new collection, or the one that the alias stands for already; no prompt is needed."""
        if alias in self._aliases:
            return self._aliases[alias], NOTHING
        if len(self._collections) >= COLLECTIONS_MAX:
            raise LimitsExceeded(f"there are {COLLECTIONS_MAX} collections, and no more are allowed")
        label: str = told(properties, "Collection.Label", "s", "")
        check_size(label, alias)
        collection = Collection(self, f"{PATH}/collection/c{next(self._numbers)}", label)
        self._collections[collection.path] = collection
        if alias:
            self._aliases[alias] = collection.path
        await self._publish()
        await self.collection_created(collection.path)
        await self.collections.changed()
        return collection.path, NOTHING

    @method
    def search_items(self, attributes: Attributes) -> tuple[list[Item], list[Item]]:
        """The items that have all these attributes: those that are unlocked, and those that are locked."""
        found = [item for each in self._collections.values() for item in each.found(attributes)]
        return (
            [item for item in found if not item.collection.is_locked],
            [item for item in found if item.collection.is_locked],
        )

    @method
    async def unlock(self, objects: list[ObjectPath]) -> tuple[list[ObjectPath], ObjectPath]:
        """Items and collections: those that are unlocked already, and a prompt for the rest."""
        locked = {path: each for path in objects if (each := self._collection_of(path)).is_locked}
        unlocked = [path for path in objects if path not in locked]
        if not locked:
            return unlocked, NOTHING
        while len(self._prompts) >= PROMPTS_MAX:
            # whoever asked first, and did not go on, has to ask again
            del self._prompts[next(iter(self._prompts))]
        path = ObjectPath(f"{PATH}/prompt/p{next(self._numbers)}")
        self._prompts[path] = Prompt(self, list(locked), locked.values())
        await self._publish()
        return unlocked, path

    @method
    async def lock(self, objects: list[ObjectPath]) -> tuple[list[ObjectPath], ObjectPath]:
        """Lock the collections of these items and collections; no prompt is needed."""
        for collection in [self._collection_of(path) for path in objects]:
            await collection.lock(True)
        return objects, NOTHING

    @method
    def get_secrets(self, items: list[Item], session: Session) -> dict[Item, Secret]:
        """The secrets of those items that are here and unlocked."""
        self.check_session(session)
        mine = [item for item in items if self._has(item)]
        return {item: item.told(session) for item in mine if not item.collection.is_locked}

    @method
    def read_alias(self, name: Str) -> ObjectPath:
        """The collection that an alias stands for, or none."""
        return self._aliases.get(name, NOTHING)

    @method
    async def set_alias(self, name: Str, collection: ObjectPath) -> None:
        """Let an alias stand for a collection, or for none."""
        if collection == NOTHING:
            self._aliases.pop(name, None)
            return
        if name not in self._aliases and len(self._aliases) >= COLLECTIONS_MAX:
            raise LimitsExceeded(f"there are {COLLECTIONS_MAX} aliases, and no more are allowed")
        check_size(name)
        self._aliases[name] = self._collection_of(collection).path
        await self._publish()

    @signal
    def collection_created(self, collection: ObjectPath) -> None:
        """There is one more."""

    @signal
    def collection_deleted(self, collection: ObjectPath) -> None:
        """There is one less."""

    @signal
    def collection_changed(self, collection: ObjectPath) -> None:
        """It was locked, or unlocked."""

    async def was_locked(self, collection: Collection) -> None:
        """Tell everybody, also when it was unlocked."""
        await self.collection_changed(collection.path)

    @prop
    def collections(self) -> list[ObjectPath]:
        """All of them."""
        return [each.path for each in self._collections.values()]

    def objects(self) -> dict[str, Interface]:
        """What is published, by path."""
        default = self._collections.get(self._aliases.get("default", ""))
        alias = {} if default is None else {f"{PATH}/aliases/default": default}
        return {PATH: self, **self._collections, **alias, **self._prompts}

    def check_session(self, session: Session) -> None:
        """NoSession if this was not opened here, or has been closed."""
        if session not in self._sessions:
            raise NoSession("this session was not opened here, or has been closed")

    async def forget(self, gone: Collection | Prompt) -> None:
        """Without this collection or prompt."""
        for known in (self._collections, self._prompts):
            for path in [path for path, each in known.items() if each is gone]:
                del known[path]
        if isinstance(gone, Collection):
            self._aliases = {name: path for name, path in self._aliases.items() if path != gone.path}
            await self.collection_deleted(gone.path)
            await self.collections.changed()
        await self._publish()

    def _collection_of(self, path: ObjectPath) -> Collection:
        """The collection of this path, or of the item that came along with it."""
        if isinstance(path, Reference) and path.handle is not None and self.connection is not None:
            item = self.connection.proxy(Item, path)
            if self._has(item):
                return item.collection
        if (found := self.objects().get(path)) is None or not isinstance(found, Collection):
            raise NoSuchObject(f"there is no item or collection {path[:200]}")
        return found

    def _has(self, item: Item) -> bool:
        """It is one of those that are kept here, not something else that a client holds."""
        return any(item in each.kept for each in self._collections.values())

    async def _publish(self) -> None:
        if self.connection is not None:
            await self.connection.registry.publish(TITLE, {}, self.objects())


async def lookup(attribute: str, value: str) -> str:
    """What a native client does: the classes that serve are those that are called."""
    async with connect() as connection:
        store = await connection.registry.proxy(SecretService, NAME, PATH)
        found, _ = await store.search_items({attribute: value})
        if not found:
            return "no such secret, or it is locked"
        _, session = await store.open_session("plain", Variant("s", ""))
        return (await found[0].get_secret(session)).value.decode(errors="replace")


def serve() -> None:
    """Serve until told to stop."""
    store = SecretService()

    async def attend(connection: Connection) -> None:
        store.connection = connection
        print(f"{NAME} is served", flush=True)
        await connection.ended()

    Service(TITLE, NAME, objects=store.objects()).run(attend)


def main(arguments: list[str]) -> None:
    """The program."""
    match arguments:
        case []:
            serve()
        case ["lookup", attribute, value]:
            try:
                print(anyio.run(lookup, attribute, value))
            except (Bus1Error, DBusError) as error:
                sys.exit(f"secret_store.py: {error}")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
