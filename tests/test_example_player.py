"""examples/player.py, driven by playerctl as desktops do, by a native client, by a clock of the test's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import anyio
import pytest
from bus1_services import Connection
from bus1_services.errors import InvalidArgs
from bus1_services.testing import PrivateBus, signals_of
from example import Programs, load

SECOND = 1_000_000

player = load("player")


def started(bus: PrivateBus, cleanup: ExitStack) -> Programs:
    """The player as a program."""
    return Programs(bus, cleanup, "player.py", "org.mpris.MediaPlayer2.jukebox is served")


def test_playerctl_drives_the_player(private_bus: PrivateBus) -> None:
    with ExitStack() as cleanup:
        programs = started(private_bus, cleanup)
        ctl = partial(programs.run, "playerctl")
        # it looks on both buses, which are one here
        assert set(ctl("--list-all").splitlines()) == {"jukebox"}
        follower = programs.start("playerctl", "status", "--follow")
        assert programs.line(follower) == "Stopped"
        ctl("play")
        assert programs.line(follower) == "Playing"
        ctl("next")
        shown = ctl("metadata", "--format", "{{artist}} - {{title}} ({{duration(mpris:length)}})")
        assert shown == "The Harmonographs - Lissajous (4:01)"
        ctl("pause")
        assert programs.line(follower) == "Paused"
        ctl("position", "60")
        ctl("position", "5-")
        assert ctl("position") == "55.000000"
        ctl("volume", "0.4")
        assert (ctl("volume"), ctl("status")) == ("0.400000", "Paused")
        ctl("loop", "Track")
        assert ctl("loop") == "Track"
        ctl("previous")
        assert ctl("metadata", "title") == "Note G"
        assert "NotSupported: http://x" in ctl("open", "http://x", status=1)
        ctl("stop")
        assert programs.line(follower) == "Stopped"


def test_a_native_client_uses_the_class_that_serves(private_bus: PrivateBus) -> None:
    with ExitStack() as cleanup:
        programs = started(private_bus, cleanup)
        programs.run("playerctl", "position", "42")
        assert programs.run(*programs.example, "show") == "Stopped: Note G, 42 of 183 s"
        assert programs.run(*programs.example, "toggle").startswith("Playing: Note G, 4")
        assert programs.run("playerctl", "status") == "Playing"
    assert programs.run(*programs.example, "show", status=1).startswith("player.py: ")
    assert "Usage" not in programs.run(*programs.example, "nonsense", status=1)


def test_quit_ends_the_program(private_bus: PrivateBus) -> None:
    with ExitStack() as cleanup:
        programs = started(private_bus, cleanup)
        programs.run(
            "gdbus", "call", "--session", "--dest", player.NAME, "--object-path", player.PATH, "--method",
            "org.mpris.MediaPlayer2.Quit",
        )
        assert programs.served.wait(30) == 0


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def played(test: Callable[[Any, Any, Clock, Connection], Awaitable[None]]) -> None:
    """Run a test with a served player, a proxy for it, and its clock."""

    async def main() -> None:
        clock = Clock()
        served = player.Player(clock=clock)
        objects = {player.PATH: served}
        async with PrivateBus() as bus, bus.serve(player.NAME, objects), bus.connect() as client:
            proxy = await client.registry.proxy(player.Player, player.NAME, player.PATH)
            await test(served, proxy, clock, client)

    anyio.run(main)


async def title(proxy: Any) -> str:
    text: str = (await proxy.metadata)["xesam:title"].value
    return text


def test_time_goes_by_while_it_plays_and_only_then() -> None:
    async def test(served: Any, proxy: Any, clock: Clock, client: Connection) -> None:
        clock.now += 10
        assert await proxy.position == 0
        await proxy.play()
        clock.now += 2.5
        assert await proxy.position == 2.5 * SECOND
        await proxy.pause()
        clock.now += 10
        assert await proxy.position == 2.5 * SECOND
        await proxy.play_pause()
        clock.now += 1
        assert await proxy.position == 3.5 * SECOND

    played(test)


def test_at_the_end_of_a_track_comes_the_next_one_and_at_last_the_end() -> None:
    async def test(served: Any, proxy: Any, clock: Clock, client: Connection) -> None:
        await proxy.play()
        for expected in ("Lissajous", "Bernoulli"):
            await served.catch_up()
            clock.now += 300
            assert await proxy.position == (await proxy.metadata)["mpris:length"].value
            await served.catch_up()
            assert (await title(proxy), await proxy.position) == (expected, 0)
        clock.now += 300
        await served.catch_up()
        assert (await title(proxy), await proxy.playback_status) == ("Note G", "Stopped")

    played(test)


def test_a_task_keeps_the_time() -> None:
    async def test(served: Any, proxy: Any, clock: Clock, client: Connection) -> None:
        async with signals_of(proxy) as signals, anyio.create_task_group() as tasks:
            tasks.start_soon(served.keep_time)
            await proxy.play()
            await signals.wait_for(1)
            clock.now += 300
            # whatever makes it look at the clock: here, a place to go to in the track that has ended
            await proxy.seek(0)
            seen = await signals.wait_for(4)
            assert [heard.member for heard in seen[1:]] == ["Seeked", "PropertiesChanged", "Seeked"]
            tasks.cancel_scope.cancel()
        assert await title(proxy) == "Lissajous"

    played(test)


@pytest.mark.parametrize(("loop", "expected"), [("Track", "Bernoulli"), ("Playlist", "Note G")])
def test_a_loop_goes_on_after_the_end(loop: str, expected: str) -> None:
    async def test(served: Any, proxy: Any, clock: Clock, client: Connection) -> None:
        await proxy.loop_status.set(player.Loop(loop))
        for _ in range(2):
            await proxy.next()
        await proxy.play()
        clock.now += 300
        await served.catch_up()
        assert (await title(proxy), await proxy.playback_status) == (expected, "Playing")

    played(test)


def test_what_desktops_reckon_with_is_told() -> None:
    async def test(served: Any, proxy: Any, clock: Clock, client: Connection) -> None:
        async with signals_of(proxy) as signals:
            await proxy.play()
            await proxy.play()
            await proxy.seek(7 * SECOND)
            await proxy.volume.set(-1.0)
            await proxy.next()
            heard = await signals.all()
        assert [each.args[1] if each.member == "PropertiesChanged" else each.args for each in heard[:3]] == [
            {"PlaybackStatus": player.Variant("s", "Playing")}, (7 * SECOND,),
            {"Volume": player.Variant("d", 0.0)},
        ]
        assert list(heard[3].args[1]) == ["Metadata"] and heard[4].args == (0,)

    played(test)


def test_places_that_are_not_in_the_track() -> None:
    async def test(served: Any, proxy: Any, clock: Clock, client: Connection) -> None:
        first, second = (player.ObjectPath(f"/org/example/jukebox/track/{number}") for number in (0, 1))
        await proxy.set_position(first, 5 * SECOND)
        for track, position in ((second, 9), (first, -1), (first, 184 * SECOND)):
            await proxy.set_position(track, position)
            assert await proxy.position == 5 * SECOND
        await proxy.seek(-(1 << 63))
        assert await proxy.position == 0
        await proxy.seek((1 << 63) - 1)
        assert (await title(proxy), await proxy.position) == ("Lissajous", 0)
        await proxy.previous()
        await proxy.previous()
        assert await title(proxy) == "Note G"

    played(test)


def test_values_that_make_no_sense_are_refused() -> None:
    async def test(served: Any, proxy: Any, clock: Clock, client: Connection) -> None:
        with pytest.raises(InvalidArgs, match="one speed"):
            await proxy.rate.set(2.0)
        with pytest.raises(Exception, match="Album"):
            await proxy.loop_status.set("Album")
        assert (await proxy.rate, await proxy.loop_status) == (1.0, "None")

    played(test)
