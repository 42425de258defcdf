"""``bus1 migrate FILE.py``: what is told, what is lost and how that shows, and what hostile sources get."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import anyio
import pytest
from bus1_services import DBusError, Interface, UnixFd, Variant, interfaces_of
from bus1_services.migrate.carrying import carry
from bus1_services.migrate.program import DEPTH_MAX, PROGRAM_MAX
from bus1_services.migrate.reading import SourceError
from bus1_services.migrate.report import Finding, Kind
from bus1_services.migrate.segments import Segments
from bus1_services.migrate.verb import MIGRATE
from bus1_services.outline import outline
from bus1_services.variants import bare, pairs, unpaired
from core_peer import CoreBus, connections, introduce
from hypothesis import given, settings
from hypothesis import strategies as st
from migrated import check

from bus1.cli import guarded, parser_of, run_command

FOREIGN = Path(__file__).parent / "foreign"
FILES = sorted(path.stem for path in FOREIGN.glob("*.py"))


def carried(source: str, name: str | None = None) -> tuple[str, list[Finding]]:
    """The service that becomes of a source, and what is told about it."""
    texts, findings = carry("a.py", dedent(source).encode(), "a", name)
    return texts["service.py"], findings


def loaded(source: str) -> ModuleType:
    """The service as a module."""
    module = ModuleType("carried_service")
    sys.modules[module.__name__] = module
    exec(compile(carried(source)[0], "service.py", "exec"), module.__dict__)
    return module


def told(findings: list[Finding], kind: Kind) -> list[tuple[int, str]]:
    return [(finding.line, finding.what) for finding in findings if finding.kind is kind]


@pytest.mark.timeout(300)
def test_linters_and_the_tests_that_are_written_are_content(tmp_path: Path) -> None:
    for file in FILES:
        line = [str(FOREIGN / f"{file}.py"), f"--output={tmp_path}"]
        assert run_command(parser_of("migrate", MIGRATE), MIGRATE, line) == 0
    check(tmp_path, ".")


@pytest.mark.parametrize("file", FILES)
def test_what_is_not_of_the_library_stays_as_it_was_written(file: str) -> None:
    source = (FOREIGN / f"{file}.py").read_text()
    texts, _ = carry(file, source.encode(), "a", None)
    lines = texts["service.py"].splitlines()
    comments = [line.strip() for line in source.splitlines() if line.strip().startswith("# ")]
    bus = ("# Create", "# Publish", "# Register the", "# Start")
    assert [c for c in comments if c not in map(str.strip, lines) and not c.startswith(bus)] == []


# ---- what code takes from its surroundings ---------------------------------------------------------


def test_what_code_takes_from_its_surroundings_is_told_with_its_line() -> None:
    _, findings = carried("""\
        import os
        import subprocess as sub
        from pathlib import Path
        from dbus_fast.service import ServiceInterface, dbus_method
        from dbus_fast.aio import MessageBus
        count = 0
        class A(ServiceInterface):
            def __init__(self):
                super().__init__("org.example.A")
            @dbus_method()
            def Run(self, what: "s") -> "s":
                global count
                with open(what) as file:
                    file.read()
                try:
                    sub.run([what], stdin=sub.DEVNULL)
                except sub.SubprocessError:
                    return os.environ["HOME"]
                return Path(what).read_text()
            async def ask(self):
                bus = await MessageBus().connect()
                await bus.introspect("org.freedesktop.PolicyKit1", "/")
        """)
    assert told(findings, Kind.AUTHORITY) == [
        (12, "global count"), (13, "open()"), (16, "subprocess.run"), (18, "os.environ"),
        (19, ".read_text()"), (21, "MessageBus"), (22, "org.freedesktop.PolicyKit1"),
    ]
    assert told(findings, Kind.LOST) == [(21, "MessageBus")]


def test_a_name_of_ones_own_is_no_authority() -> None:
    _, findings = carried("""\
        from dbus_fast.service import ServiceInterface, dbus_method
        def open(what):
            return what
        class A(ServiceInterface):
            def __init__(self):
                super().__init__("org.example.A")
            @dbus_method()
            def Open(self, what: "s") -> "s":
                os = {}
                return open(what)
        """)
    assert told(findings, Kind.AUTHORITY) == []


# ---- what is lost ----------------------------------------------------------------------------------

LOSING = """\
    import asyncio
    from dbus_fast.validators import assert_bus_name_valid
    from dbus_fast.service import ServiceInterface, dbus_method, dbus_signal
    from dbus_fast.aio import MessageBus
    class Player(ServiceInterface):
        def __init__(self):
            super().__init__("org.example.Player1")
        @dbus_method()
        def Load(self, what: "a{sv}") -> "s":
            return assert_bus_name_valid(what)["title"]
        @dbus_method()
        def Odd(self, what: "nonsense"):
            pass
        @dbus_method()
        def Fine(self) -> "s":
            return "fine"
        async def tick(self):
            pass
    async def main():
        bus = await MessageBus().connect()
        player = Player()
        bus.export("/player", player)
        await bus.request_name("org.example.Player")
        asyncio.create_task(player.tick())
        bus.add_message_handler(print)
        await bus.wait_for_disconnect()
    asyncio.run(main())
    """


def test_what_is_lost_is_told_and_is_an_error_where_it_is_used() -> None:
    assert told(carried(LOSING)[1], Kind.LOST) == [
        (10, "assert_bus_name_valid"), (12, "Odd"), (25, "bus.add_message_handler(print)"),
    ]
    module = loaded(LOSING)
    assert outline(module.Player) == ["method Fine() -> (s)", "method Load(a{sv}) -> (s)"]

    async def main() -> None:
        async with connections(CoreBus(), 2) as (service, client):
            proxy = client.proxy(module.Player, await introduce(service, client, module.Player()))
            assert await proxy.fine() == "fine"
            with pytest.raises(DBusError, match=r"not carried over: a\.py:10: assert_bus_name_valid"):
                await proxy.load({})
        with pytest.raises(NotImplementedError, match=r"a\.py:25: bus\.add_message_handler"):
            await module.main(service)

    anyio.run(main)


def test_what_is_done_beside_serving_is_done_when_the_objects_are_on_the_bus() -> None:
    module = loaded("""\
        import asyncio
        from dbus_next.service import ServiceInterface, method
        from dbus_next.aio import MessageBus
        class Counter(ServiceInterface):
            count = 0
            @method()
            def Count(self) -> "i":
                return self.count
            async def run(self):
                self.count += 1
        async def warm(counter):
            counter.count += 10
        async def serve():
            counter = Counter("org.example.Counter1")
            await warm(counter)
            bus = await MessageBus().connect()
            bus.export("/counter", counter)
            await bus.request_name("org.example.Counter")
            loop.create_task(counter.run())
        loop = asyncio.get_event_loop()
        loop.run_until_complete(serve())
        loop.run_forever()
        """)

    class Ended:
        async def ended(self) -> None:
            await asyncio.sleep(0)

    counter = module.service().objects["/counter"]
    asyncio.run(module.main(Ended()))
    assert counter.count == 11


def test_tasks_that_the_module_itself_starts_are_started() -> None:
    text, findings = carried("""\
        from asyncio import new_event_loop, sleep
        from sdbus import DbusInterfaceCommonAsync, dbus_signal_async, request_default_bus_name_async
        import asyncio
        class Example(DbusInterfaceCommonAsync, interface_name="org.example.test"):
            @dbus_signal_async(signal_signature="i")
            def clock(self) -> int:
                raise NotImplementedError
        loop = asyncio.new_event_loop()
        export_object = Example()
        async def clock() -> None:
            while True:
                await sleep(5)
                export_object.clock.emit(1)
        async def startup() -> None:
            await request_default_bus_name_async("org.example.test")
            export_object.export_to_dbus("/")
        loop.run_until_complete(startup())
        task_clock = loop.create_task(clock())
        loop.run_forever()
        """)
    assert told(findings, Kind.LOST) == []
    assert "await export_object.clock(1)" in text
    assert "    task_clock = asyncio.get_running_loop().create_task(clock())\n" in text
    assert '"/": export_object' in text


def test_a_signal_that_is_handed_on_as_a_callback_is_emitted_soon_and_other_uses_are_lost() -> None:
    text, findings = carried("""\
        from dasbus.server.interface import dbus_interface, dbus_signal
        from dasbus.typing import Int
        @dbus_interface("org.example.A")
        class A:
            def __init__(self, source):
                source.connect(self.Ticked)
                self.Ticked.connect(print)
            @dbus_signal
            def Ticked(self, count: Int):
                pass
        """)
    assert "source.connect(lambda *values: soon(self.ticked(*values)))" in text
    assert told(findings, Kind.LOST)[-1] == (7, "self.Ticked")


def test_what_runs_beside_those_that_serve_is_told() -> None:
    _, findings = carried("""\
        import asyncio
        from dbus_next.service import ServiceInterface, method
        from dbus_next.aio import MessageBus
        class A(ServiceInterface):
            @method()
            def B(self): pass
        async def other(): pass
        async def serve():
            bus = await MessageBus().connect()
            bus.export("/a", A("org.example.A"))
        async def main():
            await asyncio.gather(serve(), other())
        asyncio.run(main())
        """)
    assert told(findings, Kind.LOST) == [(12, "await asyncio.gather(serve(), other())")]


def test_an_export_by_an_object_is_lost_and_told() -> None:
    text, findings = carried("""\
        from dbus_next.service import ServiceInterface, method
        class Room(ServiceInterface):
            def __init__(self, bus, number):
                super().__init__("org.example.Room1")
                bus.export(f"/rooms/{number}", self)
            @method()
            def Enter(self):
                pass
        """)
    assert told(findings, Kind.LOST)[-1] == (5, "bus.export()")
    assert 'not_carried_over(\'a.py:5: bus.export()\')' in text


def test_an_interface_whose_name_comes_from_elsewhere_is_told_and_the_rest_is_carried() -> None:
    text, findings = carried("""\
        from dbus_next.service import ServiceInterface, method
        from .names import NAME
        class Room(ServiceInterface):
            def __init__(self):
                super().__init__(NAME)
            @method()
            def Enter(self):
                pass
        """)
    assert told(findings, Kind.LOST) == [(2, "from .names import NAME"), (3, "class Room")]
    assert 'class Room(Interface, name="org.example.Room"):' in text


# ---- who waits -------------------------------------------------------------------------------------


def test_functions_that_emit_wait_and_callbacks_let_it_happen_soon() -> None:
    text, _ = carried("""\
        from dbus_fast.service import ServiceInterface, dbus_method, dbus_signal
        class A(ServiceInterface):
            def __init__(self, loop):
                super().__init__("org.example.A")
                loop.call_later(1, self.later)
                self.start()
            @dbus_method()
            def Go(self) -> "i":
                return self.step() + 1
            def step(self):
                self.deep()
                return 1
            def deep(self):
                self.Gone()
            def later(self):
                self.Gone()
            def start(self):
                self.Gone()
            @dbus_signal()
            def Gone(self):
                pass
        """)
    tree = {node.name: node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}
    waiting = {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.AsyncFunctionDef)}
    assert waiting == {"go", "step", "deep"}
    assert "return (await self.step()) + 1" in text and "await self.deep()" in text
    assert "soon(self.gone())" in ast.unparse(tree["later"])
    assert "soon(self.gone())" in ast.unparse(tree["start"])


def test_a_callback_lets_a_change_of_a_property_be_told_soon() -> None:
    text, _ = carried("""\
        from dbus_fast.service import ServiceInterface, dbus_property, PropertyAccess
        class A(ServiceInterface):
            def __init__(self, loop):
                super().__init__("org.example.A")
                loop.call_later(1, self.grow)
            def grow(self):
                self.emit_properties_changed({"Size": 2})
            @dbus_property(PropertyAccess.READ)
            def Size(self) -> "i":
                return 2
        """)
    assert "    def grow(self):\n        soon(self.size.changed())\n" in text


INVALIDATED = """\
    from dbus_fast.service import ServiceInterface, dbus_property, dbus_method, PropertyAccess
    class A(ServiceInterface):
        @dbus_method()
        def Turn(self):
            self.emit_properties_changed({"Size": 2}, ["Log"])
            self.emit_properties_changed({"State": 2}, invalidated_properties=["Picture", "Size"])
        @dbus_method()
        def Guess(self, names: "as"):
            self.emit_properties_changed({}, names)
        @dbus_property(PropertyAccess.READ)
        def Log(self) -> "s":
            return "x"
        @dbus_property(PropertyAccess.READ)
        def Picture(self) -> "ay":
            return b""
        @dbus_property(PropertyAccess.READ)
        def Size(self) -> "i":
            return 2
        @dbus_property(PropertyAccess.READ)
        def State(self) -> "i":
            return 2
    """


def test_what_is_told_to_be_invalid_is_told_without_its_value() -> None:
    service = loaded(INVALIDATED)
    assert [line for line in outline(service.A) if line.startswith("property")] == [
        "property Log: s read invalidates", "property Picture: ay read invalidates",
        "property Size: i read true", "property State: i read true",
    ]
    _, findings = carried(INVALIDATED, "org.example.A")
    assert {(6, "Size"), (9, "names")} < set(told(findings, Kind.CHANGED))


def test_a_source_is_read_in_the_encoding_that_it_names_and_becomes_utf_8() -> None:
    source = dedent("""\
        #!/usr/bin/python3
        # -*- coding: latin-1 -*-
        from dbus_fast.service import ServiceInterface, dbus_method
        class A(ServiceInterface):
            # \u00e4 stands for itself: coding: latin-1
            @dbus_method()
            def Greet(self) -> 's':
                return 'Gr\u00fc\u00df dich'
        """)
    texts, _ = carry("a.py", source.encode("latin-1"), "a", "org.example.A")
    written = texts["service.py"].encode()
    assert "return 'Gr\u00fc\u00df dich'" in written.decode()
    assert "coding: latin-1 -*-" not in texts["service.py"]
    assert "# \u00e4 stands for itself: coding: latin-1" in texts["service.py"]
    compile(written, "service.py", "exec")
    same, _ = carry("a.py", source.replace("latin-1 -*-", "utf-8 -*-").encode(), "a", "org.example.A")
    assert same["service.py"] == texts["service.py"]


@pytest.mark.parametrize(("file", "members"), [
    ("sdbus_notebook", [
        "method AddNote(s) -> (u)", "method Details(a{sv}) -> (a{sv})", "method GetNote(u) -> (s)",
        "method ListAll() -> (a(us))", "method RemoveNote(u) -> ()", "method Swap(si) -> (is)",
        "property Anything: v read false", "property Count: u read true", "property Owner: s readwrite true",
        "signal NoteAdded(us)", "signal NoteRemoved(u)",
    ]),
    ("dasbus_register", [
        "method AddUser(sa{sv}) -> (i)", "method Close() -> ()", "method Count() -> (u)",
        "method GetUser(s) -> (a{sv})", "method Greet(s) -> (sb)", "method Place((id)) -> ((di))",
        "method Twice(v) -> (v)", "property Greeting: s readwrite true", "property Open: b read true",
        "property Users: as read true", "signal Closed()", "signal UserAdded(s)",
    ]),
])
def test_members_have_the_types_and_the_notification_that_the_library_gave_them(
    file: str, members: list[str]
) -> None:
    module = loaded((FOREIGN / f"{file}.py").read_text())
    (cls,) = [value for value in vars(module).values()
              if isinstance(value, type) and issubclass(value, Interface) and value is not Interface]
    assert outline(cls) == members


def test_a_function_that_waits_now_and_that_only_other_files_call_is_told() -> None:
    _, findings = carried("""\
        from dbus_fast.service import ServiceInterface, dbus_method, dbus_signal
        class A(ServiceInterface):
            def __init__(self):
                super().__init__("org.example.A")
            def announce(self):
                self.Gone()
            @dbus_method()
            def Go(self):
                self.Gone()
            @dbus_signal()
            def Gone(self):
                pass
        """)
    assert (5, "announce()") in told(findings, Kind.CHANGED)
    assert not [line for line, _ in told(findings, Kind.CHANGED) if line > 5]


def test_members_of_bases_stay_where_they_were_and_overrides_need_no_mark() -> None:
    source = """\
        from sdbus import (
            DbusInterfaceCommonAsync, dbus_method_async, dbus_method_async_override, dbus_property_async,
        )
        class A(DbusInterfaceCommonAsync, interface_name="org.example.A"):
            @dbus_method_async("s", "s")
            async def upper(self, text: str) -> str:
                raise NotImplementedError
            @dbus_property_async("i")
            def size(self) -> int:
                return 1
        class B(A, interface_name="org.example.B"):
            @dbus_method_async("", "i")
            async def count(self) -> int:
                return await self.size
        class C(B):
            @dbus_method_async_override()
            async def upper(self, text: str) -> str:
                return text.upper()
        """
    assert told(carried(source)[1], Kind.LOST) == []
    module = loaded(source)
    assert [spec.name for spec in interfaces_of(module.C)] == ["org.example.B", "org.example.A"]

    async def main() -> None:
        async with connections(CoreBus(), 2) as (service, client):
            proxy = client.proxy(module.B, await introduce(service, client, module.C()))
            assert (await proxy.upper("a"), await proxy.count(), await proxy.size) == ("A", 1, 1)

    anyio.run(main)
    text, findings = carried("""\
        from dbus_next.service import ServiceInterface, method
        class A(ServiceInterface):
            @method()
            def One(self): pass
        class B(A):
            @method()
            def Two(self): pass
        objects = A("org.example.A"), B("org.example.B")
        """)
    assert told(findings, Kind.LOST) == [(5, "class B")]
    assert 'class B(A, name="org.example.B"):' in text


def test_that_setting_a_property_is_told_natively_is_told() -> None:
    _, findings = carried((FOREIGN / "pydbus_player.py").read_text())
    assert [(f.what, f.why.partition(";")[0]) for f in findings if f.kind is Kind.CHANGED] == [
        ("Fullscreen", "nobody told that it was set"), ("Rate", "its setter told that it was set"),
    ]


def test_what_is_let_happen_soon_happens() -> None:
    module = loaded("""\
        from dbus_fast.service import ServiceInterface, dbus_method, dbus_signal
        class A(ServiceInterface):
            def __init__(self):
                super().__init__("org.example.A")
            @dbus_method()
            def Go(self):
                list(map(self.go, [1, 2]))
            def go(self, number):
                self.Gone(number)
            @dbus_signal()
            def Gone(self, number) -> "i":
                return number
        """)

    async def main() -> None:
        async with connections(CoreBus(), 2) as (service, client):
            proxy = client.proxy(module.A, await introduce(service, client, module.A()))
            async with proxy.gone.subscribe() as gone:
                await proxy.go_2()
                assert [await anext(gone), await anext(gone)] == [1, 2]

    anyio.run(main)


def test_properties_whose_names_are_known_late_are_told_late() -> None:
    module = loaded("""\
        from dbus_fast.service import ServiceInterface, dbus_method, dbus_property, PropertyAccess
        class A(ServiceInterface):
            def __init__(self):
                super().__init__("org.example.A")
                self.values = {"Size": 1}
            @dbus_method()
            def Update(self, name: "s", value: "i"):
                self.values[name] = value
                self.emit_properties_changed({name: value})
            @dbus_property(PropertyAccess.READ)
            def Size(self) -> "i":
                return self.values["Size"]
        """)
    from bus1_services.standard import Properties

    async def main() -> None:
        async with connections(CoreBus(), 2) as (service, client):
            handle = await introduce(service, client, module.A())
            proxy, properties = client.proxy(module.A, handle), client.proxy(Properties, handle)
            async with properties.properties_changed.subscribe() as changes:
                await proxy.update("Size", 3)
                assert await anext(changes) == ("org.example.A", {"Size": Variant("i", 3)}, [])

    anyio.run(main)


def test_descriptors_arrive_as_the_numbers_that_bodies_expect() -> None:
    module = loaded("""\
        import os
        from dbus_next.service import ServiceInterface, method
        class A(ServiceInterface):
            def __init__(self):
                super().__init__("org.example.A")
            @method()
            def Write(self, fd: "h", text: "s"):
                "Write it."
                with open(fd, "w") as file:
                    file.write(text)
            @method()
            def Close(self, fd: "h"): os.close(fd)
        """)
    read, write = os.pipe()
    other = os.dup(read)

    async def main() -> None:
        async with connections(CoreBus(), 2) as (service, client):
            proxy = client.proxy(module.A, await introduce(service, client, module.A()))
            with UnixFd(write) as sent:
                await proxy.write(sent, "hello")
            with UnixFd(other) as sent:
                await proxy.close(sent)

    anyio.run(main)
    with open(read) as file:
        assert file.read() == "hello"


def test_several_objects_at_one_path_become_one() -> None:
    text, findings = carried("""\
        import asyncio
        from dbus_next.aio import MessageBus
        from dbus_next.service import ServiceInterface, method
        class Root(ServiceInterface):
            @method()
            def Quit(self):
                pass
        class Player(ServiceInterface):
            @method()
            def Play(self):
                pass
        async def main():
            bus = await MessageBus().connect()
            bus.export("/org/mpris/MediaPlayer2", Root("org.mpris.MediaPlayer2"))
            bus.export("/org/mpris/MediaPlayer2", Player("org.mpris.MediaPlayer2.Player"))
            await bus.request_name("org.mpris.MediaPlayer2.x")
        asyncio.run(main())
        """)
    assert told(findings, Kind.LOST) == []
    assert '"/org/mpris/MediaPlayer2": together(Root(), Player())' in text


@pytest.mark.parametrize("check", [
    "assert reply == RequestNameReply.PRIMARY_OWNER",
    "if reply is not RequestNameReply.PRIMARY_OWNER: raise SystemExit('taken')",
    "if not reply: print('taken'); return",
    "if reply not in (RequestNameReply.PRIMARY_OWNER, RequestNameReply.ALREADY_OWNER): print(1); sys.exit(1)",
])
def test_giving_up_without_the_name_is_left_to_the_native_start(check: str) -> None:
    source = """\
        import asyncio
        import sys
        from dbus_fast import RequestNameReply
        from dbus_fast.aio import MessageBus
        from dbus_fast.service import ServiceInterface, dbus_method
        class Lamp(ServiceInterface):
            @dbus_method()
            def Lit(self) -> "b":
                return True
        async def main():
            bus = await MessageBus().connect()
            bus.export("/lamp", Lamp("org.example.Lamp"))
            reply = await bus.request_name("org.example.Lamp")
            CHECK
            await bus.wait_for_disconnect()
        asyncio.run(main())
        """
    text, findings = carried(source.replace("CHECK", check))
    assert told(findings, Kind.LOST) == []
    assert "reply" not in text and "print" not in text and "async def main" not in text
    other = "if reply == RequestNameReply.IN_QUEUE: print('later')"
    assert [what for _, what in told(carried(source.replace("CHECK", other))[1], Kind.LOST)] == [other]


def test_properties_that_wait_go_on_waiting() -> None:
    module = loaded("""\
        from dbus_fast import PropertyAccess
        from dbus_fast.service import ServiceInterface, dbus_property
        class Player(ServiceInterface):
            def __init__(self):
                super().__init__("org.example.Player")
                self._seconds = 3
            async def ask(self):
                return self._seconds
            @dbus_property()
            async def Position(self) -> "x":
                return await self.ask()
            @Position.setter
            async def Position(self, value: "x"):
                self._seconds = value + await self.ask()
            @dbus_property(access=PropertyAccess.READ)
            async def Used(self) -> "x":
                return await self.ask()
            async def twice(self):
                return 2 * await self.Used
        """)

    async def main() -> tuple[int, int, int]:
        player = module.Player()
        await player.position.set(4)
        return await player.position, await player.used, await player.twice()

    assert anyio.run(main) == (7, 7, 14)


def test_a_program_whose_property_is_lost_can_still_be_loaded() -> None:
    source = """\
        from elsewhere import NAME
        from dbus_fast.service import ServiceInterface, dbus_method, dbus_property
        class Player(ServiceInterface):
            def __init__(self):
                super().__init__("org.example.Player")
                self._volume = 3
            @dbus_property(name=NAME)
            def volume(self) -> "x":
                return self._volume
            @volume.setter
            def volume(self, value: "x"):
                self._volume = value
            @dbus_method()
            def Louder(self):
                self.volume += 1
        """
    assert told(carried(source)[1], Kind.LOST) == [(8, "volume")]
    player = loaded(source.replace("from elsewhere import NAME", "NAME = str(1)")).Player()
    anyio.run(player.louder)
    assert player.volume == 4


def test_what_only_looks_like_python_is_not_written() -> None:
    with pytest.raises(SourceError, match="cannot be carried over"):
        carried("""\
            from dbus_fast.service import ServiceInterface, dbus_method
            class Player(ServiceInterface):
                @dbus_method()
                def Play(self):
                    await self.stop()
            """)


NAMESAKES = """\
    import asyncio
    from dbus_fast.aio import MessageBus
    from dbus_fast.service import ServiceInterface, dbus_method, dbus_property
    class Disk(ServiceInterface):
        @dbus_property()
        def Size(self) -> "t":
            return 10
        @Size.setter
        def Size(self, size: "t"):
            pass
    class Part(ServiceInterface):
        @dbus_property()
        def Size(self) -> "t":
            return self._size
        @Size.setter
        def Size(self, size: "t"):
            self._size = size
            self.emit_properties_changed({"Size": size})
        @dbus_method()
        def Grow(self, by: "t"):
            self._size += by
            self.emit_properties_changed({"Size": self._size})
    class Lid(ServiceInterface):
        @dbus_method()
        def Size(self) -> "t":
            return 3
    async def main():
        bus = await MessageBus().connect()
        bus.export("/a", Disk("org.example.Disk"))
        part = Part("org.example.Part")
        bus.export("/a", part)
        bus.export("/b", Lid("org.example.Lid"))
        await bus.request_name("org.example.Disks")
    asyncio.run(main())
    """


def test_members_of_one_name_in_objects_at_one_path_get_names_of_their_own() -> None:
    text, findings = carried(NAMESAKES)
    assert told(findings, Kind.LOST) == []
    assert "await self.size_2.changed()" in text
    module = loaded(NAMESAKES)
    disk, lid = module.service().objects.values()
    assert outline(type(disk)) == [
        "method Grow(t) -> ()", "property Size: t readwrite true", "property Size: t readwrite true",
    ]
    assert [module.Part.size_2.spec().name, outline(type(lid))] == ["Size", ["method Size() -> (t)"]]

    async def main() -> tuple[int, int]:
        await disk.size_2.set(7)
        await disk.grow(4)
        return await disk.size, await disk.size_2

    assert anyio.run(main) == (10, 11)


def test_namesakes_whose_library_gives_them_their_names_are_told() -> None:
    _, findings = carried("""\
        import asyncio
        from sdbus import DbusInterfaceCommonAsync, dbus_method_async, request_default_bus_name_async
        class Disk(DbusInterfaceCommonAsync, interface_name="org.example.Disk"):
            @dbus_method_async("", "t")
            async def size(self) -> int:
                return 10
        class Part(DbusInterfaceCommonAsync, interface_name="org.example.Part"):
            @dbus_method_async("", "t")
            async def size(self) -> int:
                return 7
        async def main():
            await request_default_bus_name_async("org.example.Disks")
            disk = Disk()
            part = Part()
            disk.export_to_dbus("/a")
            part.export_to_dbus("/a")
            await asyncio.Future()
        asyncio.run(main())
        """)
    assert told(findings, Kind.LOST) == [(7, "class Part")]


def test_names_that_are_taken_in_the_program_are_given_way_to() -> None:
    module = loaded("""\
        import signal
        from dbus_fast.service import ServiceInterface, dbus_method, dbus_signal
        NAME = "mine"
        class Variant:
            pass
        class Service(ServiceInterface):
            list = None
            def __init__(self, count=1):
                super().__init__("org.example.Service1")
                self.level = count
            @dbus_method()
            def Level(self) -> "i":
                return self.level
            @dbus_method()
            def Import(self, values: "a{sv}") -> "v":
                return values["a"]
            @dbus_signal()
            def Gone(self): pass
        """)
    assert (module.NAME, module.NAME_, module.signal.SIGTERM) == ("mine", "org.example.Service1", 15)
    assert issubclass(module.Service, Interface)
    assert outline(module.Service) == [
        "method Import(a{sv}) -> (v)", "method Level() -> (i)", "signal Gone()",
    ]


# ---- reports ---------------------------------------------------------------------------------------


@pytest.fixture
def migrate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)
    Path("losing.py").write_text(dedent(LOSING))
    parser = parser_of("migrate", MIGRATE)
    return lambda *line: guarded("bus1", lambda: run_command(parser, MIGRATE, line))


def test_a_report_has_place_kind_reason_and_advice_and_status_1_says_that_something_is_lost(
    migrate: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert migrate("losing.py") == 1
    out, err = capfd.readouterr()
    assert out.splitlines()[1] == "losing/service.py"
    *lines, summary = err.splitlines()
    assert lines[0] == (
        "losing.py:10: lost: assert_bus_name_valid: it belongs to dbus_fast, "
        "and has no counterpart; write it anew"
    )
    assert summary == "3 not carried over, 1 taken from the surroundings"
    assert migrate("losing.py", "--json", "--force") == 1
    report = json.loads(capfd.readouterr().out)
    assert report["output"][1] == "losing/service.py"
    assert report["findings"][0] == {
        "file": "losing.py", "line": 10, "kind": "lost", "what": "assert_bus_name_valid",
        "why": "it belongs to dbus_fast, and has no counterpart", "advice": "write it anew",
    }


def test_a_dry_run_writes_nothing_and_reports_all_the_same(
    migrate: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert migrate("losing.py", "--dry-run") == 1
    out, err = capfd.readouterr()
    assert "+++ losing/service.py" in out and "losing.py:10: lost" in err
    assert not Path("losing").exists()


def test_what_is_read_is_neither_imported_nor_run(migrate: Callable[..., int]) -> None:
    Path("trap.py").write_text(
        "from dbus_fast.service import ServiceInterface, dbus_method\n"
        "open('sprung', 'w')\n"
        "class A(ServiceInterface):\n"
        "    open('sprung', 'w')\n"
        "    def __init__(self, x=open('sprung', 'w')):\n"
        "        super().__init__('org.example.A')\n"
        "    @dbus_method()\n"
        "    def B(self, x: f's{open(chr(120))}') -> 's':\n"
        "        return x\n"
    )
    before = set(sys.modules)
    assert migrate("trap.py") == 1
    assert not Path("sprung").exists()
    assert "trap" not in set(sys.modules) - before


# ---- hostile sources -------------------------------------------------------------------------------

HOSTILE: dict[str, tuple[bytes, str]] = {
    "size": (b"#" * (PROGRAM_MAX + 1), f"a.py: larger than {PROGRAM_MAX} bytes"),
    "no Python": (b"class A(:\n", "a.py:1: "),
    "Python 2": (b"print 'a'\n", "a.py:1: "),
    "zeros": (b"a = 1\0", "a.py"),
    "encoding": (b"# coding: utf-16\n\xff\xfe", "a.py: no Python that can be read"),
    "an unknown encoding": (b"# coding: klingon\n", "a.py:0: unknown encoding"),
    "no encoding of text": (b"# coding: hex\n6162", "a.py: no Python that can be read"),
    "bytes that are no text": (b"# coding: ascii\n# \xe4\n", "a.py"),
    "depth": (b"a = " + b"-" * (DEPTH_MAX + 5) + b"1", f"a.py:1: more than {DEPTH_MAX} expressions"),
    "great depth": (b"(" * 5000, "a.py"),
    "no service": (b"import dbus_fast\n", "a.py: no interface of a service is declared"),
    "a client": (b"from dbus_next.aio import MessageBus\nbus = MessageBus()\n", "a.py: no interface"),
    "XML": (b'class A:\n    """<node><interface name="x"/></node>"""\n', "a.py:2: class A: its XML:1: 'x'"),
    "line ends": (b"from dbus_fast import Variant\x0ba = 1\r", "a.py"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_carried_over_is_told_with_its_place(case: str) -> None:
    content, complaint = HOSTILE[case]
    with pytest.raises(SourceError) as caught:
        carry("a.py", content, "a", None)
    assert str(caught.value).startswith(complaint)


@settings(deadline=None)
@given(st.sampled_from(FILES), st.data())
def test_a_damaged_source_is_refused_or_becomes_python(file: str, data: st.DataObject) -> None:
    lines = (FOREIGN / f"{file}.py").read_text().split("\n")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        what = data.draw(st.sampled_from(["drop", "twice", "other", "self", "star", "text"]))
        other = data.draw(st.integers(0, len(lines) - 1))
        lines[at : at + 1] = {
            "drop": [], "twice": [lines[at]] * 2, "other": [lines[other], lines[at]],
            "self": [lines[at].replace("self", "this", 1)], "star": [lines[at].replace("self, ", "*", 1)],
            "text": [lines[at].replace("'s'", "'a{'", 1)],
        }[what]
        lines = lines or [""]
    try:
        texts, _ = carry("a.py", "\n".join(lines).encode(), "a", None)
    except SourceError:
        return
    for text in texts.values():
        ast.parse(text)


# ---- pieces ----------------------------------------------------------------------------------------


def test_changes_of_a_source_are_where_the_tree_says_whatever_the_characters() -> None:
    source = "x = 'ß€𝄞' + f(1)  # ä\n"
    segments = Segments(source)
    assert segments.text() == source
    call = next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    segments.surround(call, "(await ", ")")
    assert segments.text() == "x = 'ß€𝄞' + (await f(1))  # ä\n"
    segments.replace_node(call.args[0], "22")
    assert segments.text() == "x = 'ß€𝄞' + (await f(22))  # ä\n"


_PLAIN = st.one_of(st.integers(0, 9), st.text(max_size=3))
_VALUE: st.SearchStrategy[Any] = st.recursive(
    st.text(max_size=3).map(lambda text: Variant("s", text)),
    lambda inner: st.one_of(
        inner.map(lambda value: Variant("v", value)),
        st.lists(inner, max_size=3).map(lambda values: Variant("av", values)),
        st.dictionaries(st.text(max_size=2), inner, max_size=3).map(lambda values: Variant("a{sv}", values)),
        st.tuples(inner, _PLAIN.map(str)).map(lambda values: Variant("(vs)", values)),
    ),
    max_leaves=6,
)


@given(_VALUE)
def test_variants_come_back_from_pairs(value: Variant) -> None:
    assert unpaired("v", pairs(value)) == value
    assert unpaired("v", value) == value
    assert "Variant" not in repr(bare(value)) + repr(pairs(value))
