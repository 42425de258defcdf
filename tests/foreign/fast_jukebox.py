#!/usr/bin/env python3
"""A jukebox on the session bus, written with dbus-fast."""

import asyncio
import logging
import os
from typing import Annotated

from dbus_fast import DBusError, ErrorType, PropertyAccess, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusDict, DBusSignature, DBusStr, DBusUInt32
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property, dbus_signal

log = logging.getLogger("jukebox")

NAME = "org.example.Jukebox"
PATH = "/org/example/Jukebox"
MAX_VOLUME = 11  # one louder

# what everybody gets to hear at first
SONGS = {"1": "Blue Moon", "2": "Satisfaction"}


class NotFound(DBusError):
    def __init__(self, key):
        super().__init__("org.example.Jukebox.NotFound", f"no song {key!r}")


def titles(songs):
    """All titles in order."""
    return sorted(songs.values())


class Jukebox(ServiceInterface):
    def __init__(self, songs):
        super().__init__("org.example.Jukebox1")
        self._songs = dict(songs)
        self._volume = 5
        self._queue = []
        self._playing = ""
        self._label = os.environ.get("JUKEBOX_LABEL", "front room")

    # -- methods -----------------------------------------------------

    @dbus_method()
    def List(self) -> Annotated[list[str], DBusSignature("as")]:
        return titles(self._songs)

    @dbus_method()
    def Play(self, key: DBusStr) -> DBusUInt32:
        """Put a song into the queue."""
        if key not in self._songs:
            raise NotFound(key)
        self._queue.append(key)  # at the end, of course
        if not self._playing:
            self._next()
        return len(self._queue)

    @dbus_method()
    async def Skip(self):
        await asyncio.sleep(0)
        if not self._playing:
            raise DBusError(ErrorType.FAILED, "nothing is playing")
        self._next()

    @dbus_method(name="Describe")
    def describe(self, key: "s", options: "a{sv}") -> "sa{sv}":
        shout = options.get("shout")
        title = self._songs.get(key, "")
        if shout is not None and shout.value:
            title = title.upper()
        return [title, {"length": Variant("u", len(title)), "tags": Variant("as", ["old"])}]

    @dbus_method()
    def Add(self, key: "s", title: "s"):
        try:
            self.check(key)
        except DBusError as error:
            log.info("refused: %s", error.type)
            raise
        self._songs[key] = title
        self.SongAdded(key, title)

    @dbus_method()
    def Move(self, where: "(ii)") -> "(ii)":
        x, y = where
        return [y, x]

    @dbus_method(disabled=True)
    def Explode(self):
        raise RuntimeError("never")

    def check(self, key):
        if key in self._songs:
            raise DBusError("org.example.Jukebox.Exists", "there already")

    def _next(self):
        self._playing = self._songs[self._queue.pop(0)] if self._queue else ""
        self.emit_properties_changed({"Playing": self._playing})
        self.Changed()

    # -- properties --------------------------------------------------

    @dbus_property(access=PropertyAccess.READ)
    def Playing(self) -> "s":
        return self._playing

    @dbus_property(access=PropertyAccess.READ, name="Label")
    def label(self) -> DBusStr:
        return self._label

    @dbus_property()
    def Volume(self) -> "y":
        return self._volume

    @Volume.setter
    def Volume(self, volume: "y"):
        if volume > MAX_VOLUME:
            raise DBusError("org.example.Jukebox.TooLoud", f"{volume} is more than {MAX_VOLUME}")
        if self._volume == volume:
            return
        self._volume = volume
        self.emit_properties_changed({"Volume": self._volume})

    @dbus_method()
    def Louder(self) -> "y":
        self.Volume += 1
        return self.Volume

    # -- signals -----------------------------------------------------

    @dbus_signal()
    def SongAdded(self, key, title) -> "ss":
        return [key, title]

    @dbus_signal()
    def Changed(self) -> "sa{sv}":
        return [self._playing, {"queued": Variant("u", len(self._queue))}]


class About(ServiceInterface):
    """What this is."""

    @dbus_property(access=PropertyAccess.READ)
    def Info(self) -> DBusDict:
        return {"version": Variant("s", "1.2")}


async def main():
    logging.basicConfig(level=logging.WARNING)
    songs = dict(SONGS)
    bus = await MessageBus().connect()
    jukebox = Jukebox(songs)
    bus.export(PATH, jukebox)
    bus.export(f"{PATH}/about", About("org.example.Jukebox.About"))
    await bus.request_name(NAME)
    await bus.wait_for_disconnect()


if __name__ == "__main__":
    asyncio.run(main())
