"""foreign_player: a program around aionowplaying, which is written for dbus-fast; says what it is told."""

from __future__ import annotations

import asyncio

from aionowplaying import (  # type: ignore[import-untyped]
    LoopStatus,
    NowPlayingInterface,
    PlaybackPropertyName,
    PlaybackStatus,
    PropertyName,
)


class Player(NowPlayingInterface):  # type: ignore[misc]
    """Plays nothing."""

    async def on_play(self) -> None:
        print("play", flush=True)
        self.set_playback_property(PlaybackPropertyName.PlaybackStatus, PlaybackStatus.Playing)
        self.set_playback_property(PlaybackPropertyName.Rate, 2.0)

    async def on_seek(self, offset: int) -> None:
        print("seek", offset, flush=True)

    async def on_loop_status(self, status: LoopStatus) -> None:
        print("loop", status.value, flush=True)

    async def on_quit(self) -> None:
        await self.stop()


async def main() -> None:
    player = Player("Foreign")
    player.set_property(PropertyName.Identity, "A foreign player")
    player.set_property(PropertyName.CanQuit, True)
    for name in ("CanPlay", "CanSeek", "CanControl"):
        player.set_playback_property(PlaybackPropertyName(name), True)
    await player.start()


if __name__ == "__main__":
    asyncio.run(main())
