"""Whose turn is next on asyncio's loop: the same as if no callback went on by itself."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import pytest

from bus1 import loops
from bus1.turns import Pause, Turns

SOME = 20
NAME: contextvars.ContextVar[str] = contextvars.ContextVar("name")


class Endless:
    """Reads a socket that always has something; after ``SOME`` times something else happens."""

    def __init__(self, happens: Callable[[], object], *, is_short: bool) -> None:
        self.sock, self.other_end = socket.socketpair()
        self.happens = happens
        self.is_short = is_short
        self.turns = Turns()
        self.n_read = 0
        self.waited: list[int] = []
        """How often it had been read before each wait."""
        self.tasks: set[object] = set()
        self.sock.setblocking(False)
        self.other_end.send(b"1")

    def close(self) -> None:
        self.sock.close()
        self.other_end.close()

    async def run(self) -> None:
        await loops.Watch(self.sock, self, self.turns).run()

    def look(self) -> bool:
        return False

    def read(self) -> bool:
        self.other_end.send(self.sock.recv(8))
        self.n_read += 1
        self.tasks.add(asyncio.current_task())
        if self.n_read == SOME:
            self.happens()
        return False

    def rest(self) -> bool:
        return False

    def is_urgent(self) -> bool:
        return True

    def wait(self, seconds: float) -> Any:
        self.waited.append(self.n_read)
        if not self.is_short or self.turns.epoll is None:
            return None
        events = self.turns.epoll.poll(seconds, 2)
        return "input" if [number for number, _ in events] == [self.sock.fileno()] else None

    def deal(self, found: Any) -> bool:
        assert found == "input"
        return self.read()

    def put_back(self) -> None:
        raise AssertionError("it was dealt with")


@pytest.fixture(params=[False, True], ids=["usual way", "short way"])
def is_short(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether all goes the short way; a callback that may go on does so for ever."""
    monkeypatch.setattr(loops, "LONGEST", 1e6)
    found: bool = request.param
    return found


def happens_meanwhile(
    begin: Callable[[anyio.Event], object], *, is_short: bool,
    wait: Callable[[], Awaitable[object]] | None = None,
) -> Endless:
    """Returns when what ``begin`` begins has set its event, or ``wait`` has ended."""

    async def main() -> Endless:
        event = anyio.Event()
        endless = Endless(lambda: begin(event), is_short=is_short)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(endless.run)
            await (event.wait() if wait is None else wait())
            tasks.cancel_scope.cancel()
        endless.close()
        return endless

    endless = anyio.run(main)
    assert len(endless.tasks) == 1
    return endless


def test_what_a_callback_makes_ready_has_its_turn(is_short: bool) -> None:
    def begin(event: anyio.Event) -> None:
        asyncio.get_running_loop().call_soon(event.set)

    assert happens_meanwhile(begin, is_short=is_short).n_read >= SOME


def test_what_another_thread_makes_ready_has_its_turn(is_short: bool) -> None:
    def begin(event: anyio.Event) -> None:
        threading.Thread(target=asyncio.get_running_loop().call_soon_threadsafe, args=[event.set]).start()

    assert happens_meanwhile(begin, is_short=is_short).n_read >= SOME


def test_another_socket_has_its_turn(is_short: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        endless = happens_meanwhile(
            lambda event: theirs.send(b"1"), is_short=is_short, wait=lambda: anyio.wait_readable(ours)
        )
    assert endless.n_read >= SOME


def test_timers_have_their_turn(is_short: bool) -> None:
    endless = happens_meanwhile(lambda event: None, is_short=is_short, wait=lambda: anyio.sleep(0.01))
    assert endless.n_read > 1


def test_a_loop_that_is_stopped_stops(is_short: bool) -> None:
    loop, begun = asyncio.SelectorEventLoop(), []

    async def main() -> None:
        begun.append(Endless(loop.stop, is_short=is_short))
        await begun[0].run()

    task = loop.create_task(main())
    loop.run_forever()
    assert begun[0].n_read == SOME
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))
    begun[0].close()
    loop.close()


class Batch(Endless):
    """Of what one read has brought, the short way takes one message, with which something else is ready."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__(happens, is_short=True)
        self.left = 0

    def look(self) -> bool:
        self.n_read, self.left = self.n_read + self.left, 0
        return self.n_read >= SOME

    def read(self) -> bool:
        self.n_read += len(self.sock.recv(8))
        if self.n_read < 2:
            self.other_end.send(b"1")
        return False

    def wait(self, seconds: float) -> Any:
        self.left = SOME
        return "input"

    def deal(self, found: Any) -> bool:
        self.left -= 1
        self.n_read += 1
        self.happens()
        return False


def test_what_one_read_has_brought_is_looked_at_though_something_is_ready() -> None:
    async def main() -> int:
        batch = Batch(lambda: asyncio.get_running_loop().call_soon(int))
        await batch.run()
        batch.close()
        return batch.n_read

    assert anyio.run(main) == SOME + 2


def test_who_is_called_for_the_first_time_waits_for_nothing(is_short: bool) -> None:
    assert happens_meanwhile(lambda event: event.set(), is_short=is_short).waited[0] == 2


def test_who_is_called_now_and_then_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "LONGEST", 0)
    assert happens_meanwhile(lambda event: event.set(), is_short=True).waited == []


# ---- pauses ----------------------------------------------------------------------------------------


class Scene:
    """Tasks that wait for pauses, and what they do, in order."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.log: list[str] = []

    def waits(self, name: str, then: Callable[[], object] = lambda: None) -> Pause:
        """A task that waits for the pause."""
        pause = self.turns.pause()

        async def wait() -> None:
            NAME.set(name)
            try:
                await pause
            except asyncio.CancelledError:
                self.log.append(f"{name} cancelled")
                raise
            assert NAME.get() == name
            self.log.append(name)
            then()

        self.task = asyncio.get_running_loop().create_task(wait())
        return pause

    @contextmanager
    def reading(self) -> Any:
        """What a callback does that reads."""
        self.turns.is_reading = True
        yield
        self.turns.is_reading = False
        self.turns.go_on()
        self.log.append("read")

    async def in_callback(self, function: Callable[[], None]) -> None:
        """Run it while nothing else is ready; then all that it has made ready."""
        loop, called = asyncio.get_running_loop(), anyio.Event()

        def call() -> None:
            loop.call_later(0, called.set)
            function()

        loop.call_later(0, call)
        await called.wait()
        await settled()


async def settled() -> None:
    """Everything that is ready has run."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_tasks_that_are_woken_run_at_once_in_their_order() -> None:
    async def main() -> list[str]:
        scene = Scene()
        one, other = scene.waits("one"), scene.waits("other")
        await settled()

        def read() -> None:
            with scene.reading():
                other.end()
                one.end()
                one.end()

        await scene.in_callback(read)
        return scene.log

    assert anyio.run(main) == ["other", "one", "read"]


def test_nobody_overtakes_what_is_ready_already() -> None:
    async def main() -> list[str]:
        scene = Scene()
        loop, one, other = asyncio.get_running_loop(), scene.waits("one"), scene.waits("other")
        await settled()

        def read() -> None:
            with scene.reading():
                one.end()
                loop.call_soon(scene.log.append, "ready")
                other.end()

        await scene.in_callback(read)
        return scene.log

    assert anyio.run(main) == ["one", "read", "ready", "other"]


def test_a_task_that_is_cancelled_while_it_waits_hears_of_it_once() -> None:
    async def main() -> list[str]:
        scene = Scene()
        pause = scene.waits("one")
        await settled()
        scene.task.cancel()

        def read() -> None:
            with scene.reading():
                pause.end()

        read()
        await settled()
        return scene.log

    assert anyio.run(main) == ["read", "one cancelled"]


def test_a_scope_that_is_cancelled_does_not_take_away_what_has_come() -> None:
    """The one task has its turn between the end of the other's pause and that one's turn."""
    async def main() -> list[str]:
        scene, log = Scene(), []
        scope = anyio.CancelScope()
        pauses = [scene.turns.pause(), scene.turns.pause()]

        async def first() -> None:
            await pauses[0]
            scope.cancel()

        async def second() -> None:
            with scope:
                await pauses[1]
                log.append("it has come")
                await anyio.sleep(0)
                log.append("not cancelled")

        def read() -> None:
            with scene.reading():
                for pause in pauses:
                    pause.end()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first)
            tasks.start_soon(second)
            await settled()
            await scene.in_callback(read)
        return log

    assert anyio.run(main) == ["it has come"]


def test_what_a_task_raises_that_ends_the_program_keeps_no_other_waiting() -> None:
    async def main() -> None:
        scene, given = Scene(), []
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)

        def leave() -> None:
            raise SystemExit(3)

        one, one_task = scene.waits("one", leave), scene.task
        other = scene.waits("other")
        await settled()

        def read() -> None:
            with pytest.raises(SystemExit), scene.reading():
                one.end()
                other.end()
            given.append(list(scene.turns.woken))

        await scene.in_callback(read)
        assert given == [[]]
        assert scene.log == ["one", "other"]
        assert isinstance(one_task.exception(), SystemExit)

    asyncio.run(main())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_pause_that_is_over_is_not_waited_for(backend: str) -> None:
    async def main() -> None:
        pause = Turns().pause()
        pause.end()
        pause.end()
        await pause

    anyio.run(main, backend=backend)


def test_a_loop_that_is_not_asyncios_own_is_left_to_itself() -> None:
    class Loop(asyncio.SelectorEventLoop):
        """Whose insides nobody knows."""

    async def main() -> None:
        await settled()
        turns = Turns()
        assert turns.loop is loop
        assert turns.is_crowded
        assert turns.patience(1e9) == 0

    loop = Loop()
    loop.run_until_complete(main())
    loop.close()


@pytest.mark.parametrize("raised", [None, ValueError("too much")])
def test_a_reader_that_ends_its_own_task_may_say_or_raise_what_it_likes(raised: Exception | None) -> None:
    async def main() -> list[dict[str, Any]]:
        errors: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))

        class Last(Endless):
            def read(self) -> bool:
                task.cancel()
                if raised is not None:
                    raise raised
                return True

        last = Last(int, is_short=False)
        task = asyncio.get_running_loop().create_task(last.run())
        await asyncio.wait([task])
        assert task.cancelled()
        last.close()
        return errors

    assert anyio.run(main) == []


def test_what_was_found_while_the_task_was_cancelled_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal handler may do it, between any two steps."""
    monkeypatch.setattr(loops, "LONGEST", 1e6)

    class Ended(Endless):
        task: asyncio.Task[None]
        n_put_back = 0

        def wait(self, seconds: float) -> Any:
            found = super().wait(seconds)
            if found:
                self.task.cancel()
            return found

        def put_back(self) -> None:
            self.n_put_back += 1

    async def main() -> Ended:
        reader = Ended(lambda: None, is_short=True)
        reader.task = asyncio.create_task(reader.run())
        with suppress(asyncio.CancelledError):
            await reader.task
        reader.close()
        return reader

    reader = asyncio.run(main())
    assert reader.n_put_back == 1
    assert reader.waited[-1] == reader.n_read
