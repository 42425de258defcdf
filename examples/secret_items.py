"""secret_items: what ``secret_store`` keeps: collections of items, and sessions to pass their secrets in.

Items and sessions are given to clients one by one, as capabilities. ``create_item`` returns an item, and
thereby hands it to its caller; ``get_secret`` takes a session, and is given the object that was opened here,
or something else that its caller holds: so it is looked for among those that were.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from bus1_services import (
    Bool,
    Bytes,
    DBusError,
    Interface,
    ObjectPath,
    Str,
    UInt64,
    VariantDict,
    method,
    prop,
    signal,
)
from bus1_services.errors import InvalidArgs, LimitsExceeded

SECRET = "org.freedesktop.Secret."
NOTHING = ObjectPath("/")
"""No object: there is none, or no prompt is needed."""
ITEMS_MAX = 10_000
"""Of one collection."""
SIZE_MAX = 1 << 16
"""Bytes of one item."""

Attributes = dict[str, str]


class IsLocked(DBusError, name=SECRET + "Error.IsLocked"):
    """The collection has to be unlocked first."""


class NoSession(DBusError, name=SECRET + "Error.NoSession"):
    """This is not a session that was opened here."""


class NoSuchObject(DBusError, name=SECRET + "Error.NoSuchObject"):
    """There is no such item or collection."""


class Keeper(Protocol):
    """The service that has the collections."""

    def check_session(self, session: Session) -> None:
        """NoSession if this was not opened here, or has been closed."""

    async def forget(self, gone: Collection) -> None:
        """Without this collection."""

    async def was_locked(self, collection: Collection) -> None:
        """Tell everybody, also when it was unlocked."""


class Session(Interface, name=SECRET + "Session"):
    """One client's way of passing secrets; ``end`` is told when there is no use for it any more."""

    def __init__(self, end: Callable[[Session], None]) -> None:
        self._end = end

    @method
    def close(self) -> None:
        """The client is done."""
        self._end(self)

    def unreferenced(self) -> None:
        """The client is gone."""
        self._end(self)


@dataclass(frozen=True)
class Secret:
    """A secret as it travels."""

    session: Session
    parameters: Bytes
    """Of the encryption; a plain session has none."""
    value: Bytes
    content_type: Str


class Item(Interface, name=SECRET + "Item"):
    """A secret with a label, and attributes to find it by."""

    def __init__(self, collection: Collection, label: str, attributes: Attributes) -> None:
        self.collection = collection
        self.known_by = attributes
        self._label = label
        self._value, self._content_type = b"", "text/plain"
        self._created = self.changed_at = int(time.time())

    @method
    async def delete(self) -> ObjectPath:
        """Forget it; no prompt is needed."""
        self.collection.check_unlocked()
        await self.collection.forget(self)
        return NOTHING

    @method
    def get_secret(self, session: Session) -> Secret:
        """The secret itself, in a session."""
        return self.told(session)

    @method
    async def set_secret(self, secret: Secret) -> None:
        """Another secret."""
        self.keep(secret)
        await self.collection.item_changed(self)

    @prop(emits="false")
    def locked(self) -> Bool:
        """As its collection is."""
        return self.collection.is_locked

    @prop
    def attributes(self) -> Attributes:
        """What it is found by."""
        return self.known_by

    @attributes.setter
    async def _set_attributes(self, attributes: Attributes) -> None:
        await self._describe(self._label, attributes)

    @prop
    def label(self) -> Str:
        """For people."""
        return self._label

    @label.setter
    async def _set_label(self, label: str) -> None:
        await self._describe(label, self.known_by)

    @prop
    def created(self) -> UInt64:
        """Seconds since 1970."""
        return self._created

    @prop
    def modified(self) -> UInt64:
        """Likewise."""
        return self.changed_at

    def told(self, session: Session) -> Secret:
        """The secret itself; IsLocked, NoSession."""
        self.collection.check_unlocked()
        self.collection.service.check_session(session)
        return Secret(session, b"", self._value, self._content_type)

    def keep(self, secret: Secret) -> None:
        """Take over what came in a session."""
        self.collection.check_unlocked()
        self.collection.service.check_session(secret.session)
        if secret.parameters:
            raise InvalidArgs("a secret of a plain session has no parameters")
        check_size(secret.value, secret.content_type, self._label, *self.known_by, *self.known_by.values())
        self._value, self._content_type = secret.value, secret.content_type
        self.changed_at = int(time.time())

    async def _describe(self, label: str, attributes: Attributes) -> None:
        self.collection.check_unlocked()
        check_size(self._value, self._content_type, label, *attributes, *attributes.values())
        self._label, self.known_by, self.changed_at = label, attributes, int(time.time())
        await self.collection.item_changed(self)


class Collection(Interface, name=SECRET + "Collection"):
    """Items that are locked and unlocked together."""

    def __init__(self, service: Keeper, path: str, label: str) -> None:
        self.service = service
        self.path = ObjectPath(path)
        self.is_locked = False
        self.kept: list[Item] = []
        self._label = label
        self._created = int(time.time())

    @method
    async def delete(self) -> ObjectPath:
        """Forget it with all its items; no prompt is needed."""
        self.check_unlocked()
        await self.service.forget(self)
        return NOTHING

    @method
    def search_items(self, attributes: Attributes) -> list[Item]:
        """The items that have all these attributes."""
        return self.found(attributes)

    @method
    async def create_item(
        self, properties: VariantDict, secret: Secret, replace: Bool
    ) -> tuple[Item, ObjectPath]:
        """A new item, or a new secret for the one with the same attributes; no prompt is needed."""
        attributes: Attributes = told(properties, "Item.Attributes", "a{ss}", {})
        for item in self.kept if replace else ():
            if item.known_by == attributes:
                await item.set_secret(secret)
                return item, NOTHING
        if len(self.kept) >= ITEMS_MAX:
            raise LimitsExceeded(f"{self._label} has {len(self.kept)} items, {ITEMS_MAX} are allowed")
        item = Item(self, told(properties, "Item.Label", "s", ""), attributes)
        item.keep(secret)
        self.kept.append(item)
        await self.item_created(item)
        await self.items.changed()
        return item, NOTHING

    @signal
    def item_created(self, item: Item) -> None:
        """There is one more."""

    @signal
    def item_deleted(self, item: Item) -> None:
        """There is one less."""

    @signal
    def item_changed(self, item: Item) -> None:
        """Another secret, label or attributes."""

    @prop(emits="invalidates")
    def items(self) -> list[Item]:
        """All of them."""
        return self.kept

    @prop
    def label(self) -> Str:
        """For people."""
        return self._label

    @label.setter
    def _set_label(self, label: str) -> None:
        self.check_unlocked()
        check_size(label)
        self._label = label

    @prop
    def locked(self) -> Bool:
        """Secrets can neither be read nor changed."""
        return self.is_locked

    @prop
    def created(self) -> UInt64:
        """Seconds since 1970."""
        return self._created

    @prop
    def modified(self) -> UInt64:
        """Likewise, of the latest item."""
        return max((item.changed_at for item in self.kept), default=self._created)

    def found(self, attributes: Attributes) -> list[Item]:
        """The items that have all these attributes."""
        return [item for item in self.kept if attributes.items() <= item.known_by.items()]

    def check_unlocked(self) -> None:
        """IsLocked if it is not."""
        if self.is_locked:
            raise IsLocked(f"{self._label} is locked")

    async def lock(self, is_locked: bool) -> None:
        """Lock or unlock it, and tell."""
        if self.is_locked is not is_locked:
            self.is_locked = is_locked
            await self.locked.changed()
            await self.service.was_locked(self)

    async def forget(self, item: Item) -> None:
        """Without this item; whoever holds it still finds it empty."""
        if item in self.kept:
            self.kept.remove(item)
            await self.item_deleted(item)
            await self.items.changed()


def told(properties: dict[str, Any], name: str, signature: str, otherwise: Any) -> Any:
    """One of the properties that a new object shall have; InvalidArgs."""
    found = properties.get(SECRET + name)
    if found is None:
        return otherwise
    if found.signature != signature:
        raise InvalidArgs(f"{name} has type {signature!r}, not {found.signature!r}")
    return found.value


def check_size(*parts: str | bytes) -> None:
    """LimitsExceeded if this is too much for one item."""
    size = sum(len(part) if isinstance(part, bytes) else len(part.encode()) for part in parts)
    if size > SIZE_MAX:
        raise LimitsExceeded(f"an item of {size} bytes, {SIZE_MAX} are allowed")
