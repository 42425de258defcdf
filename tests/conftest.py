"""conftest: the buses that tests talk to, and hypothesis' profiles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from buses import COMMANDS, Bus, running_bus
from hypothesis import settings

settings.register_profile("default", deadline=None, database=None, derandomize=True)
settings.register_profile("deep", deadline=None, database=None, max_examples=2000)
settings.load_profile("default")


@pytest.fixture
def reference_bus(tmp_path: Path) -> Iterator[Bus]:
    """The real dbus-daemon."""
    yield from running_bus("dbus-daemon", tmp_path)


@pytest.fixture
def bus1_bus(tmp_path: Path) -> Iterator[Bus]:
    """The installed bus1-bridge."""
    yield from running_bus("bus1-bridge", tmp_path)


@pytest.fixture(params=list(COMMANDS))
def bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bus]:
    """Each of the two in turn."""
    yield from running_bus(request.param, tmp_path)
