"""powerbox: a service that shows a folder to programs that have no access to files, and takes it back.

    python examples/powerbox.py serve FOLDER   serves org.example.Powerbox until it is told to stop
    python examples/powerbox.py visit          uses what it gets, tries to get more, and is shut out
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
from bus1_services import (
    NOBODY,
    Bytes,
    Caller,
    Connection,
    DBusError,
    Double,
    Interface,
    Service,
    Str,
    connect,
    method,
    prop,
)
from bus1_services.caps import Audit, Membrane, attenuate, expiring
from bus1_services.errors import InvalidArgs

from bus1.errors import Bus1Error

NAME, PATH = "org.example.Powerbox", "/org/example/Powerbox"


class File(Interface, name="org.example.File1"):
    """A file, to be read and written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @method
    def read(self) -> Bytes:
        """All of it."""
        return self._path.read_bytes()

    @method
    def write(self, data: Bytes) -> None:
        """Replace all of it."""
        self._path.write_bytes(data)

    @prop(emits="const")
    def title(self) -> Str:
        """Its name in the folder."""
        return self._path.name


class Folder(Interface, name="org.example.Folder1"):
    """The files of one folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @method
    def names(self) -> list[Str]:
        """Which files there are."""
        return sorted(path.name for path in self._path.iterdir() if path.is_file())

    @method
    def open(self, name: Str) -> File:
        """One of them."""
        if name not in [path.name for path in self._path.iterdir() if path.is_file()]:
            raise InvalidArgs(f"there is no file {name!r}")
        return File(self._path / name)


class Powerbox(Interface, name="org.example.Powerbox1"):
    """Hands out less than it has."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._lent = Membrane()
        self._audit = Audit()

    @method
    async def show(self, name: Str, seconds: Double, caller: Caller = NOBODY) -> File:
        """One file, to be read, for some time: an attenuated view, which expires."""
        if not 0 < seconds <= 3600:
            raise InvalidArgs("files are shown for an hour at most")
        file = await self._folder.open(name)
        view = expiring(attenuate(file, File.read, File.title), seconds)
        return self._audit.hand(view, f"process {caller.pid}")

    @method
    def lend(self, caller: Caller = NOBODY) -> Folder:
        """The whole folder, and through it every file, until it is taken back: a membrane."""
        return self._audit.hand(self._lent.wrap(self._folder), f"process {caller.pid}")

    @method
    def take_back(self) -> None:
        """End all that was lent, and all that was got through it."""
        self._lent.revoke()
        self._lent = Membrane()

    @method
    def given(self) -> list[Str]:
        """What is held, by whom it was got, and by how many processes it was used: an audit."""
        return [
            f"{held.to} got a {held.what}, used by {len(held.uses)}, "
            f"{sum(use.refused for use in held.uses)} refused"
            for held in self._audit.holdings() if held.nodes
        ]


async def visit() -> None:
    """What a client does."""
    async with connect() as connection:
        powerbox = await connection.registry.proxy(Powerbox, NAME, PATH)
        folder = await powerbox.lend()
        first = (await folder.names())[0]
        lent = await folder.open(first)
        shown = await powerbox.show(first, 60.0)
        print(f"shown {await shown.title}: {len(await shown.read())} bytes")
        try:
            await shown.write(b"mine")
        except DBusError as error:
            print(f"written what was only shown: {error.name}")
        await lent.write(b"ours")
        print(f"written what was lent: {len(await shown.read())} bytes")
        for line in await powerbox.given():
            print(line)
        await powerbox.take_back()
        try:
            await lent.read()
        except (Bus1Error, DBusError):
            print("read what was taken back: nobody is there")


async def serve(connection: Connection) -> None:
    """What the service does beside answering calls."""
    print(f"{NAME} is served", flush=True)
    await connection.ended()


match sys.argv[1:]:
    case ["visit"]:
        try:
            anyio.run(visit)
        except (Bus1Error, DBusError) as error:
            sys.exit(f"powerbox.py: {error}")
    case ["serve", folder]:
        Service("A powerbox", NAME, objects={PATH: Powerbox(Folder(Path(folder)))}).run(serve)
    case _:
        sys.exit("usage: powerbox.py serve FOLDER | powerbox.py visit")
