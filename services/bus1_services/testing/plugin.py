"""plugin: the fixtures for pytest; nothing is loaded before a test asks for one.

Theory. ``private_bus`` is a bus for one test. The others start it, too: ``session_bus`` is the same bus, and
the one that programs find by default, in this process and in its children. Connections are for tests that
anyio's plugin runs: those marked ``anyio``.

Not here: what they are (``bus``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dbus_fast.aio import MessageBus

    from ..connection import Connection
    from .bus import PrivateBus


@pytest.fixture
def private_bus() -> Iterator[PrivateBus]:
    """A bus that only this test sees."""
    from .bus import PrivateBus

    with PrivateBus() as bus:
        yield bus


@pytest.fixture
def session_bus(private_bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> PrivateBus:
    """The private bus; the environment names it as session and as system bus."""
    for name, value in private_bus.variables.items():
        monkeypatch.setenv(name, value)
    return private_bus


@pytest.fixture
async def native_connection(private_bus: PrivateBus, anyio_backend: object) -> AsyncIterator[Connection]:
    """A native client of the private bus."""
    async with private_bus.connect() as connection:
        yield connection


@pytest.fixture
async def dbus_connection(private_bus: PrivateBus, anyio_backend: object) -> AsyncIterator[MessageBus]:
    """A D-Bus client of the private bus: a MessageBus of dbus-fast, connected; on asyncio alone."""
    async with private_bus.dbus() as bus:
        yield bus
