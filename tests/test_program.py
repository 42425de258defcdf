"""Services as a process: signals, what the service manager is told, and how it all ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from bus1_services import Connection, NameTaken, Service, connect
from bus1_services.errors import NoReply
from bus1_services.program import Program, Unserved
from buses import Bus
from desk import NAME, PATH, Desk, both_loops, desk_service, has_no_owner, native, until

SERVE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from desk import NAME, PATH, Desk
from bus1_services import Service, connect
service = Service("A desk", NAME, objects={{PATH: Desk()}}, address=sys.argv[1])
"""


class Manager:
    """A service manager's ear."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(path)
        self.heard: list[str] = []

    async def hears(self, line: str) -> None:
        """Wait until it is told this line."""
        while True:
            await anyio.wait_readable(self.socket)
            lines = self.socket.recv(4096).decode().split("\n")
            self.heard += lines
            if line in lines:
                return


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    with closing(manager.socket):
        monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
        yield manager


def send(number: int) -> None:
    os.kill(os.getpid(), number)


async def start(program: Program, failures: list[Exception], ended: anyio.Event) -> None:
    """Run it to its end."""
    try:
        await program.run()
    except Exception as error:
        failures.append(error)
    ended.set()


class Running:
    """A program in this process."""

    def __init__(self, tasks: anyio.abc.TaskGroup, *services: Service, idle: float | None = None) -> None:
        self.failures: list[Exception] = []
        self.ended = anyio.Event()
        tasks.start_soon(start, Program(services, Connection.ended, idle), self.failures, self.ended)


@both_loops
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_manager_hears_when_all_are_published_and_when_they_stop(
    bus1_bus: Bus, manager: Manager, backend: str, number: int
) -> None:
    async def main() -> None:
        other = Service("Some\ndesk", "org.example.Other", objects={"/o": Desk()}, address=native(bus1_bus))
        async with anyio.create_task_group() as tasks, connect(native(bus1_bus)) as client:
            program = Running(tasks, desk_service(bus1_bus), other)
            await manager.hears("READY=1")
            assert {NAME, "org.example.Other"} <= set(await client.registry.names())
            send(number)
            await manager.hears("STOPPING=1")
            await program.ended.wait()
            assert not {NAME, "org.example.Other"} & set(await client.registry.names())
        assert program.failures == []
        assert manager.heard == [
            "STATUS=Waiting for the bus", "READY=1", "STATUS=Serving: A desk, Some desk",
            "STOPPING=1", "STATUS=Stopping",
        ]

    anyio.run(main, backend=backend)


@both_loops
def test_the_first_signal_waits_for_calls_and_the_second_does_not(
    bus1_bus: Bus, manager: Manager, backend: str
) -> None:
    async def main() -> None:
        served = Desk()
        outcomes: list[type[Exception]] = []

        async def call() -> None:
            try:
                await desk.wait()
            except Exception as error:
                outcomes.append(type(error))

        async with anyio.create_task_group() as tasks, connect(native(bus1_bus)) as client:
            program = Running(tasks, desk_service(bus1_bus, served, grace=1e6))
            await manager.hears("READY=1")
            desk = await client.registry.proxy(Desk, NAME, PATH)
            tasks.start_soon(call)
            await served.entered.wait()
            send(signal.SIGTERM)
            await has_no_owner(client)
            assert not program.ended.is_set() and outcomes == []
            send(signal.SIGTERM)
            await program.ended.wait()
            await until(lambda: bool(outcomes))
        assert (program.failures, outcomes) == ([], [NoReply])

    anyio.run(main, backend=backend)


@both_loops
def test_a_hangup_reloads_one_after_the_other_and_a_failure_leaves_all_as_it_was(
    bus1_bus: Bus, manager: Manager, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        events: list[str] = []
        may_end = anyio.Event()

        async def reload() -> None:
            events.append("begin")
            await may_end.wait()
            events.append("end")
            raise LookupError("no such file")

        def reload_at_once() -> None:
            events.append("at once")

        other = Service("Other", objects={"/o": Desk()}, address=native(bus1_bus), reload=reload_at_once)
        async with anyio.create_task_group() as tasks:
            program = Running(tasks, desk_service(bus1_bus, reload=reload), other)
            await manager.hears("READY=1")
            manager.heard.clear()
            send(signal.SIGHUP)
            await manager.hears("RELOADING=1")
            await until(lambda: bool(events))
            assert events == ["begin"]
            send(signal.SIGHUP)
            may_end.set()
            await manager.hears("READY=1")
            await manager.hears("READY=1")
            send(signal.SIGTERM)
            await program.ended.wait()
        assert events == ["begin", "end", "at once"] * 2
        told = [line.partition("=")[0] for line in manager.heard]
        assert told == ["RELOADING", "MONOTONIC_USEC", "READY"] * 2
        assert program.failures == []
        assert "A desk could not reload" in caplog.text and "no such file" in caplog.text

    anyio.run(main, backend=backend)


def test_the_watchdog_is_fed_if_it_is_this_process_that_it_watches(
    bus1_bus: Bus, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(is_fed: bool) -> None:
        async with anyio.create_task_group() as tasks:
            program = Running(tasks, desk_service(bus1_bus))
            await manager.hears("READY=1")
            for _ in range(3 * is_fed):
                await manager.hears("WATCHDOG=1")
            send(signal.SIGTERM)
            await program.ended.wait()
            await manager.hears("STOPPING=1")
        assert ("WATCHDOG=1" in manager.heard) is is_fed

    monkeypatch.setenv("WATCHDOG_USEC", "2000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    anyio.run(main, False)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    anyio.run(main, True)


@both_loops
def test_one_service_that_fails_stops_the_others_in_order(
    bus1_bus: Bus, manager: Manager, backend: str
) -> None:
    async def main() -> None:
        may_fail = anyio.Event()

        async def fail(connection: Connection) -> None:
            await may_fail.wait()
            raise LookupError("no tea")

        served, answers = Desk(), []

        async def call() -> None:
            answers.append(await desk.wait())

        other = Service("Other", objects={"/o": Desk()}, address=native(bus1_bus), tasks=[fail])
        async with anyio.create_task_group() as tasks, connect(native(bus1_bus)) as client:
            program = Running(tasks, desk_service(bus1_bus, served), other)
            await manager.hears("READY=1")
            desk = await client.registry.proxy(Desk, NAME, PATH)
            tasks.start_soon(call)
            await served.entered.wait()
            may_fail.set()
            await has_no_owner(client)
            served.opened.set()
            await program.ended.wait()
        (failure,) = program.failures
        assert isinstance(failure, LookupError)
        assert answers == ["served"]
        await manager.hears("STOPPING=1")

    anyio.run(main, backend=backend)


def test_a_program_that_cannot_serve_says_so_in_a_line(bus1_bus: Bus) -> None:
    async def main(service: Service) -> None:
        await Program((service,), Connection.ended, None).run()

    legacy = bus1_bus.connect()
    legacy.own(NAME)
    with pytest.raises(Unserved, match=f"^A desk: .*NameTaken: {NAME} is owned by {legacy.name}"):
        anyio.run(main, desk_service(bus1_bus))
    nowhere = Service("A desk", objects={PATH: Desk()}, address=f"{bus1_bus.folder}/none")
    with pytest.raises(Unserved, match=r"^A desk: no bus at .*/none: No such file"):
        anyio.run(main, nowhere)
    reserved = Service("A desk", objects={"/org/bus1/cap/x": Desk()}, address=native(bus1_bus))
    with pytest.raises(Unserved, match=r"^A desk: .*InvalidArgs: .*reserved"):
        anyio.run(main, reserved)


def test_an_error_of_main_is_not_mistaken_for_one_of_the_start(bus1_bus: Bus) -> None:
    async def main(connection: Connection) -> None:
        await connection.registry.resolve("org.example.Nobody")

    with pytest.raises(Exception, match="NameHasNoOwner") as failure:
        desk_service(bus1_bus).run(main)
    assert not isinstance(failure.value, Unserved | SystemExit)


def serve(bus: Bus, call: str) -> subprocess.CompletedProcess[str]:
    return bus.run(sys.executable, "-c", SERVE + call, native(bus))


def test_the_exit_status_is_zero_after_main_and_one_after_a_complaint(bus1_bus: Bus) -> None:
    call = """
async def main(connection):
    print((await connection.registry.resolve(NAME)).unique.startswith(":1."))
service.run(main)
print("over")
"""
    done = serve(bus1_bus, call)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\nover\n", "")
    legacy = bus1_bus.connect()
    legacy.own(NAME)
    done = serve(bus1_bus, call)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("A desk: ") and done.stderr.count("\n") == 1
    assert NameTaken.default_name in done.stderr


def test_a_bug_in_main_has_a_traceback(bus1_bus: Bus) -> None:
    done = serve(bus1_bus, """
async def main(connection):
    raise LookupError("no tea")
service.run(main, backend="trio")
""")
    assert done.returncode == 1
    assert "LookupError: no tea" in done.stderr and ', in main\n' in done.stderr
    assert "ExceptionGroup" not in done.stderr


ARGUED = """
async def main(connection):
    async with connect(service.address) as client:
        await (await client.registry.proxy(Desk, NAME, PATH)).ask()
    print("served", service.flags, flush=True)
    await connection.ended()
service = Service("A desk", NAME, objects={PATH: Desk()}, address="/nowhere")
service.run(main, arguments=sys.argv[2:])
"""


def argued(bus: Bus, *arguments: str) -> subprocess.Popen[str]:
    """A desk that is started with these arguments."""
    return bus.start(sys.executable, "-c", SERVE + ARGUED, "", *arguments)


def test_the_command_line_says_where_to_serve_and_how(bus1_bus: Bus) -> None:
    first = argued(bus1_bus, f"--address={native(bus1_bus)}", "--replace", "--verbose")
    assert first.stdout is not None
    first_lines = [first.stdout.readline() for _ in range(2)]
    assert sorted(line.partition("[")[0].split()[0] for line in first_lines) == ["-c", "served"]
    assert any("debug: Ask of Desk is done (" in line and "member=Ask" in line for line in first_lines)
    second = argued(bus1_bus, f"--address={native(bus1_bus)}", "--replace")
    assert second.stdout is not None and second.stdout.readline().startswith("served")
    assert first.wait(20) == 1
    assert "A desk: org.bus1.Error.NameLost" in first.stdout.read()
    third = argued(bus1_bus, f"--address={native(bus1_bus)}")
    assert third.wait(20) == 1
    second.send_signal(signal.SIGTERM)
    assert second.wait(20) == 0
    unneeded = SERVE + 'service.run(arguments=[f"--address={sys.argv[1]}", "--exit-on-idle=0"])'
    assert bus1_bus.run(sys.executable, "-c", unneeded, native(bus1_bus)).returncode == 0


@pytest.mark.parametrize(
    "nonsense", ["--exit-on-idle=soon", "--exit-on-idle=-1", "--exit-on-idle=nan", "--tea", "x"]
)
def test_a_command_line_that_makes_no_sense_has_status_two(
    nonsense: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Service("A desk", NAME, objects={PATH: Desk()}, address="/nowhere")
    with pytest.raises(SystemExit) as failure:
        service.run(arguments=[nonsense])
    assert failure.value.code == 2
    assert nonsense.partition("=")[2] in capsys.readouterr().err


def test_help_names_the_service_and_what_it_owns(capsys: pytest.CaptureFixture[str]) -> None:
    service = Service("A desk", NAME, objects={PATH: Desk()})
    with pytest.raises(SystemExit) as failure:
        service.run(arguments=["--help"])
    assert failure.value.code == 0
    text = capsys.readouterr().out
    assert "Serves A desk." in text and NAME in text and "--exit-on-idle SECONDS" in text


def test_the_page_shows_services_that_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/services.md, up to the point where it would become this process."""
    page = (Path(__file__).parent.parent / "docs" / "services.md").read_text()
    section = page.partition("## The life of a service")[2]
    first, own = (text.partition("```python\n")[2].partition("```\n")[0] for text in (page, section))
    ran: list[Any] = []
    monkeypatch.setattr(Service, "run", lambda service: ran.append(service.title))
    imports = "import sys\nfrom bus1_services import *\n"
    stub = "run = lambda *services, **options: ran.append((services, options))\n"
    exec(imports + stub + first + own, {"ran": ran, "__name__": "__main__"})
    (title, (services, options)) = ran
    assert title == "A clock"
    assert [service.title for service in services] == ["A clock", "Chimes"]
    assert options["exit_on_idle"] == 60
