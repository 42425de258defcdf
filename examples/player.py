"""player: a media player that desktops and ``playerctl`` can drive (MPRIS), without the sound.

    python examples/player.py            plays when told to: try `playerctl play`, `playerctl next`
    python examples/player.py show       tells what is played, as a native client
    python examples/player.py toggle     plays or pauses, likewise

An object may have several interfaces: ``Jukebox`` inherits one that says what kind of player it is, and one
that plays. Desktops learn of changes from signals, so each change is told: ``await self.metadata.changed()``.
Position is the exception: it changes all the time, so clients reckon it, from when they last heard of it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from enum import StrEnum
from signal import SIGTERM, raise_signal
from typing import NamedTuple

import anyio
from bus1_services import (
    Bool,
    Connection,
    DBusError,
    Double,
    Int64,
    Interface,
    ObjectPath,
    Service,
    Str,
    Variant,
    VariantDict,
    connect,
    method,
    prop,
    signal,
)
from bus1_services.errors import InvalidArgs

from bus1.errors import Bus1Error

NAME, PATH = "org.mpris.MediaPlayer2.jukebox", "/org/mpris/MediaPlayer2"
SECOND = 1_000_000
"""MPRIS counts in microseconds."""


class Playback(StrEnum):
    """What the player does; the values are MPRIS's."""

    PLAYING = "Playing"
    PAUSED = "Paused"
    STOPPED = "Stopped"


class Loop(StrEnum):
    """What comes after the end."""

    NONE = "None"
    TRACK = "Track"
    PLAYLIST = "Playlist"


class Track(NamedTuple):
    """Something to play."""

    artist: str
    title: str
    length: int
    """Microseconds."""


PLAYLIST = (
    Track("Ada and the Engines", "Note G", 183 * SECOND),
    Track("The Harmonographs", "Lissajous", 241 * SECOND),
    Track("Ada and the Engines", "Bernoulli", 207 * SECOND),
)


class MediaPlayer(Interface, name="org.mpris.MediaPlayer2"):
    """What kind of player this is."""

    @method(name="Raise")
    def to_front(self) -> None:
        """Show a window; there is none."""

    @method
    def quit(self) -> None:
        """End the program, as if a service manager had said so."""
        raise_signal(SIGTERM)

    @prop(emits="const")
    def can_quit(self) -> Bool:
        """Quit works."""
        return True

    @prop(emits="const")
    def can_raise(self) -> Bool:
        """Raise works."""
        return False

    @prop(emits="const")
    def has_track_list(self) -> Bool:
        """There is an object for the playlist."""
        return False

    @prop(emits="const")
    def identity(self) -> Str:
        """What people call it."""
        return "Jukebox"

    @prop(emits="const")
    def supported_uri_schemes(self) -> list[str]:
        """Of what it can open."""
        return []

    @prop(emits="const")
    def supported_mime_types(self) -> list[str]:
        """Likewise."""
        return []


class Player(Interface, name="org.mpris.MediaPlayer2.Player"):
    """Plays a list of tracks. ``clock`` counts seconds."""

    def __init__(
        self, tracks: tuple[Track, ...] = PLAYLIST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tracks = tracks
        self._clock = clock
        self._current = 0
        self._status = Playback.STOPPED
        self._loop = Loop.NONE
        self._volume = 1.0
        self._from = 0
        """Where in the track it was at ``_since``."""
        self._since = clock()
        self._moved: anyio.Event | None = None
        """What keeps the time waits for it."""

    # ---- what it is told to do -----------------------------------------------------------------------

    @method
    async def play(self) -> None:
        """Go on, or begin."""
        await self._turn(Playback.PLAYING)

    @method
    async def pause(self) -> None:
        """Stay here."""
        if self._status is Playback.PLAYING:
            await self._turn(Playback.PAUSED)

    @method
    async def play_pause(self) -> None:
        """Either."""
        await self._turn(Playback.PAUSED if self._status is Playback.PLAYING else Playback.PLAYING)

    @method
    async def stop(self) -> None:
        """Stop, at the beginning of the track."""
        self._place(0)
        await self._turn(Playback.STOPPED)

    @method
    async def next(self) -> None:
        """The next track; after the last one stop, or begin again."""
        await self._go(self._current + 1)

    @method
    async def previous(self) -> None:
        """The track before; before the first one begin again."""
        await self._go(self._current - 1)

    @method
    async def seek(self, offset: Int64) -> None:
        """Move by so much; beyond the end is the next track."""
        await self._jump(max(0, self._now() + offset))

    @method
    async def set_position(self, track_id: ObjectPath, position: Int64) -> None:
        """Move there, if this is still the track that is meant, and has such a place."""
        if track_id == self._track_id() and 0 <= position <= self._track().length:
            await self._jump(position)

    @method
    def open_uri(self, uri: Str) -> None:
        """Play something from elsewhere: not here."""
        raise DBusError(
            f"{uri}: the playlist is all there is", name="org.freedesktop.DBus.Error.NotSupported"
        )

    # ---- what it tells -------------------------------------------------------------------------------

    @signal
    def seeked(self, position: Int64) -> None:
        """It is at another place than clients reckon."""

    @prop
    def playback_status(self) -> Playback:
        """What it does."""
        return self._status

    @prop
    def loop_status(self) -> Loop:
        """What comes after the end."""
        return self._loop

    @loop_status.setter
    def _set_loop(self, loop: Loop) -> None:
        self._loop = loop

    @prop
    def volume(self) -> Double:
        """From 0."""
        return self._volume

    @volume.setter
    def _set_volume(self, volume: float) -> None:
        self._volume = max(0.0, volume)

    @prop
    def rate(self) -> Double:
        """How fast: there is one speed."""
        return 1.0

    @rate.setter
    def _set_rate(self, rate: float) -> None:
        if rate != 1.0:
            raise InvalidArgs(f"this player has one speed, 1.0, not {rate}")

    @prop
    def minimum_rate(self) -> Double:
        """Likewise."""
        return 1.0

    @prop
    def maximum_rate(self) -> Double:
        """Likewise."""
        return 1.0

    @prop(emits="false")
    def position(self) -> Int64:
        """Microseconds from the beginning of the track."""
        return self._now()

    @prop
    def metadata(self) -> VariantDict:
        """What is played."""
        track = self._track()
        return {
            "mpris:trackid": Variant("o", self._track_id()), "mpris:length": Variant("x", track.length),
            "xesam:artist": Variant("as", [track.artist]), "xesam:title": Variant("s", track.title),
        }

    @prop
    def can_go_next(self) -> Bool:
        """Next works."""
        return True

    @prop
    def can_go_previous(self) -> Bool:
        """Previous works."""
        return True

    @prop
    def can_play(self) -> Bool:
        """Play works."""
        return True

    @prop
    def can_pause(self) -> Bool:
        """Pause works."""
        return True

    @prop
    def can_seek(self) -> Bool:
        """Seek works."""
        return True

    @prop(emits="const")
    def can_control(self) -> Bool:
        """Anything works."""
        return True

    # ---- time ----------------------------------------------------------------------------------------

    async def keep_time(self) -> None:
        """Go to the next track when one ends, for ever."""
        while True:
            moved = self._moved = anyio.Event()
            left = (self._track().length - self._now()) / SECOND
            with anyio.move_on_after(left if self._status is Playback.PLAYING else None):
                await moved.wait()
            await self.catch_up()

    async def catch_up(self) -> None:
        """If the track has ended, do what comes then."""
        if self._status is Playback.PLAYING and self._now() >= self._track().length:
            await self._go(self._current + (self._loop is not Loop.TRACK))

    def _track(self) -> Track:
        return self._tracks[self._current]

    def _track_id(self) -> ObjectPath:
        return ObjectPath(f"/org/example/jukebox/track/{self._current}")

    def _now(self) -> int:
        if self._status is not Playback.PLAYING:
            return self._from
        return min(self._from + int((self._clock() - self._since) * SECOND), self._track().length)

    def _place(self, position: int) -> None:
        self._from, self._since = position, self._clock()
        if self._moved is not None:
            self._moved.set()

    async def _jump(self, position: int) -> None:
        if position > self._track().length:
            await self.next()
        else:
            self._place(position)
            await self.seeked(position)

    async def _turn(self, status: Playback) -> None:
        if status is not self._status:
            # what has been played until now stays played
            self._place(self._now())
            self._status = status
            await self.playback_status.changed()

    async def _go(self, number: int) -> None:
        over = number >= len(self._tracks)
        if over and self._loop is not Loop.PLAYLIST:
            await self.stop()
        self._current = max(0, number) % len(self._tracks)
        self._place(0)
        await self.metadata.changed()
        await self.seeked(0)


class Jukebox(MediaPlayer, Player):
    """The object that is served: both interfaces."""


def serve() -> None:
    """Serve until told to stop; beside answering calls, time goes by."""
    jukebox = Jukebox()

    async def keep_time(connection: Connection) -> None:
        print(f"{NAME} is served", flush=True)
        await jukebox.keep_time()

    Service("A jukebox", NAME, objects={PATH: jukebox}).run(keep_time)


async def control(verb: str) -> None:
    """What a native client does: the class that serves is the one that is called."""
    async with connect() as connection:
        player = await connection.registry.proxy(Player, NAME, PATH)
        if verb == "toggle":
            await player.play_pause()
        metadata = await player.metadata
        place = f"{await player.position // SECOND} of {metadata['mpris:length'].value // SECOND} s"
        print(f"{await player.playback_status}: {metadata['xesam:title'].value}, {place}")


def main(arguments: list[str]) -> None:
    """The program."""
    match arguments:
        case []:
            serve()
        case ["show" | "toggle" as verb]:
            try:
                anyio.run(control, verb)
            except (Bus1Error, DBusError) as error:
                sys.exit(f"player.py: {error}")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
