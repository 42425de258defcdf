"""conftest: the buses that tests talk to, and hypothesis' profiles."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from buses import COMMANDS, Bus, Pool, fresh_bus
from daemons import Daemon, lend_daemon
from hypothesis import settings

settings.register_profile("default", deadline=None, database=None, derandomize=True)
settings.register_profile("deep", deadline=None, database=None, max_examples=2000)
settings.load_profile("default")

# A run in the background, or under nohup, is told to ignore these, and programs inherit that.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture
def reference_bus(tmp_path: Path) -> Iterator[Bus]:
    """The real dbus-daemon, started for this test."""
    yield from fresh_bus("dbus-daemon", tmp_path)


@pytest.fixture
def bus1_bus(tmp_path: Path) -> Iterator[Bus]:
    """The installed bus1-bridge, started for this test."""
    yield from fresh_bus("bus1-bridge", tmp_path)


@pytest.fixture(params=list(COMMANDS))
def new_bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bus]:
    """Each of the two in turn, started for this test."""
    yield from fresh_bus(request.param, tmp_path)


@pytest.fixture(scope="session")
def shared_buses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """The buses behind ``bus``."""
    pool = Pool(lambda: tmp_path_factory.mktemp("bus"))
    yield pool
    pool.close()


@pytest.fixture(params=list(COMMANDS))
def bus(request: pytest.FixtureRequest, shared_buses: Pool) -> Iterator[Bus]:
    """Each of the two in turn: shared by tests, each of which must leave it as it was."""
    yield from shared_buses.lend(request.param)


@pytest.fixture(params=list(COMMANDS))
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    """Each of the two in turn, to be started by the test as it likes."""
    yield from lend_daemon(request.param, tmp_path)


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Daemon]:
    """The installed bus1-bridge, to be started by the test as it likes."""
    yield from lend_daemon("bus1-bridge", tmp_path)
