"""project: the files of a new project: a service that works, its client, tests, and what installs it.

Theory. The texts are templates in which three names differ. What installing needs is not a template: it is
what ``bus1 install`` would write for the service of these texts, below ``root/``, and a test of the project
holds it to that.

Invariants. 1. The tests of a new project pass, and so do ruff and mypy --strict.

Not here: writing files (``files``), which names (``verb``).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType

from ..app import Service
from ..install.places import Places, of_system, of_users
from ..install.texts import Finished, account_for
from ..migrate.naming import Names

_IMPORTED = ("DBusError", "Interface", "Nobody", "Service", "Str", "UInt32")
"""What a class must not be called."""


@dataclass(frozen=True, slots=True)
class Project:
    """The names of a project."""

    name: str
    package: str
    is_of_system: bool = False

    @property
    def title(self) -> str:
        """The last element of the bus name; the class is called like it."""
        return Names(*_IMPORTED).class_(self.name.replace("-", "_"))

    @property
    def interface(self) -> str:
        """The name of the interface, with a version."""
        plain = self.name.replace("-", "_")
        return plain if plain[-1].isdigit() else f"{plain}1"

    @property
    def path(self) -> str:
        """Where its object is."""
        return "/" + self.name.replace("-", "_").replace(".", "/")

    @property
    def places(self) -> Places:
        """Where a package puts what installs it."""
        return of_system("/usr") if self.is_of_system else of_users("/usr")

    def files(self) -> dict[str, str]:
        """All files, by path below the folder of the project."""
        package = self.package
        return {
            "README.md": self._filled(_README),
            "pyproject.toml": self._filled(_PYPROJECT),
            f"{package}/__init__.py": self._filled(_PACKAGE),
            f"{package}/service.py": self._filled(_START + _ERROR + _REST),
            f"{package}/client.py": self._filled(_CLIENT),
            f"{package}/py.typed": "",
            f"tests/test_{package}.py": self._filled(_TEST),
            **{f"root{path}": text for path, text in self._installed().items()},
        }

    def _installed(self) -> dict[str, str]:
        """What tells a machine of the service, whose text is run for that."""
        module = ModuleType(f"{self.package}.service")
        sys.modules[module.__name__] = module
        try:
            # without the error, whose name one class of this process may have
            exec(compile(self._filled(_START + _REST), "service.py", "exec"), module.__dict__)
            service: Service = module.service()
        finally:
            del sys.modules[module.__name__]
        account = account_for(self.name) if self.is_of_system else ""
        source = f"{self.package}.service:service"
        return self.places.files(Finished(source, service, (f"/usr/bin/{self._program}",), account))

    @property
    def _program(self) -> str:
        return self.package.replace("_", "-")

    def _filled(self, template: str) -> str:
        names = {
            "@NAME@": self.name, "@PACKAGE@": self.package, "@PROGRAM@": self._program,
            "@CLASS@": self.title, "@INTERFACE@": self.interface, "@PATH@": self.path,
            "@OF_CLIENT@": _imported("NAME", "PATH", self.title),
            "@OF_TEST@": _imported("NAME", "Nobody", "service", self.title),
            "@FOR@": "--system " if self.is_of_system else "",
            "@PLACES@": "of_system" if self.is_of_system else "of_users",
            "@ACCOUNT@": f', "{account_for(self.name)}"' if self.is_of_system else "",
            "@BUS@": "system" if self.is_of_system else "session",
        }
        for word, meant in names.items():
            template = template.replace(word, meant)
        return template


def _imported(*names: str) -> str:
    """Names as imports are sorted: constants, classes, functions."""
    return ", ".join(sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name)))


_PACKAGE = '''\
"""@NAME@: a service, and a client for it."""
'''

_START = '''\
"""service: what @NAME@ does."""

from __future__ import annotations

from bus1_services import (
    DBusError,
    Interface,
    Service,
    Str,
    UInt32,
    method,
    prop,
    signal,
)

NAME = "@NAME@"
PATH = "@PATH@"
'''

_ERROR = '''

class Nobody(DBusError, name="@INTERFACE@.Error.Nobody"):
    """There is nobody to be greeted."""
'''

_REST = '''

class @CLASS@(Interface, name="@INTERFACE@"):
    """Greets people, and counts them."""

    def __init__(self) -> None:
        self._count = 0

    @method
    async def greet(self, who: Str) -> Str:
        """A greeting; Nobody, if no name is given."""
        if not who:
            raise Nobody("say whom to greet")
        self._count += 1
        await self.count.changed()
        await self.greeted(who)
        return f"Hello, {who}!"

    @prop
    def count(self) -> UInt32:
        """How many have been greeted."""
        return self._count

    @signal
    def greeted(self, who: Str) -> None:
        """Somebody has been greeted."""


def service() -> Service:
    """The service, with its objects."""
    return Service("@CLASS@", NAME, objects={PATH: @CLASS@()})


def main() -> None:
    """Serve until a signal says to stop."""
    service().run()


if __name__ == "__main__":
    main()
'''

_CLIENT = '''\
"""client: a typed proxy for the service.

``python -m @PACKAGE@.client NAME`` greets somebody.
"""

from __future__ import annotations

import sys

import anyio
from bus1_services import Connection, connect

from .service import @OF_CLIENT@


async def proxy(connection: Connection) -> @CLASS@:
    """The object of the service; NameHasNoOwner, UnknownObject."""
    return await connection.registry.proxy(@CLASS@, NAME, PATH)


async def main(who: str) -> None:
    """Greet somebody."""
    async with connect() as connection:
        print(await (await proxy(connection)).greet(who))


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:2] or ("World",))
'''

_TEST = '''\
"""The service, on a private bus, as its clients see it; and what installs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bus1_services.install.places import @PLACES@
from bus1_services.install.texts import Finished
from bus1_services.testing import PrivateBus

from @PACKAGE@.client import proxy
from @PACKAGE@.service import @OF_TEST@

ROOT = Path(__file__).parent.parent / "root"

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def served(
    private_bus: PrivateBus, anyio_backend: str
) -> AsyncIterator[@CLASS@]:
    """A proxy for the object of a service that runs for one test."""
    async with (
        private_bus.serve(NAME, service().objects),
        private_bus.connect() as client,
    ):
        yield await proxy(client)


async def test_people_are_greeted_and_counted(served: @CLASS@) -> None:
    async with served.greeted.subscribe() as greeted:
        assert await served.greet("Ada") == "Hello, Ada!"
        assert await anext(aiter(greeted)) == "Ada"
    assert await served.count == 1


async def test_nobody_is_not_greeted(served: @CLASS@) -> None:
    with pytest.raises(Nobody):
        await served.greet("")


def test_what_is_installed_follows_from_the_service() -> None:
    """``bus1 install`` writes it anew: see README.md."""
    source, program = "@PACKAGE@.service:service", ("/usr/bin/@PROGRAM@",)
    finished = Finished(source, service(), program@ACCOUNT@)
    for path, text in @PLACES@("/usr").files(finished).items():
        assert (ROOT / path.lstrip("/")).read_text() == text, path
'''

_PYPROJECT = '''\
[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"

[project]
name = "@PROGRAM@"
version = "0.1"
description = "@NAME@: a service"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["bus1"]

[project.optional-dependencies]
dev = ["pytest>=8", "mypy>=1.10", "ruff>=0.6"]

[project.scripts]
@PROGRAM@ = "@PACKAGE@.service:main"

[tool.setuptools]
packages = ["@PACKAGE@"]

[tool.setuptools.package-data]
@PACKAGE@ = ["py.typed"]

[tool.mypy]
strict = true

[tool.pytest.ini_options]
pythonpath = ["."]
testpaths = ["tests"]
'''

_README = '''\
# @NAME@

A service of the @BUS@ bus. `@PACKAGE@/service.py` says what it does; `@PACKAGE@/client.py` calls it.

```sh
pip install -e '.[dev]'
pytest                                  # on a private bus
python -m @PACKAGE@.service &           # on the bus of this session
python -m @PACKAGE@.client Ada
busctl --user call @NAME@ @PATH@ @INTERFACE@ Greet s Ada
```

`bus1 install @FOR@@PACKAGE@.service` tells this machine of it: it is started when somebody calls.
`bus1 uninstall @FOR@@PACKAGE@.service` takes that back.

`root/` is what a package puts into the file system beside the program. After a change of the service's names
or interfaces, write it anew:

```sh
bus1 install @FOR@--prefix=/usr --root=root --exec=/usr/bin/@PROGRAM@ @PACKAGE@.service
```
'''
