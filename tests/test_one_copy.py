"""A native payload lands in its receiver's pool without another copy of it in the bus.

The peak of what the bus process has in memory tells: a buffer for a payload would be in it. What the kernel
copies from file to file is not, as no process has mapped it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from native_bus import NativeBus

from bus1 import acceleration
from bus1.core.api import Limits
from bus1.errors import NoSuchHandle

MIB = 1 << 20
SIZE = 64 * MIB
pytestmark = pytest.mark.skipif(acceleration.native is None, reason="there is no native body")


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[NativeBus]:
    bus = NativeBus(tmp_path, Limits(inflight_bytes=16 * SIZE))
    n_fds = bus.n_fds()
    yield bus
    bus.wait_until_idle(n_fds)
    bus.close()


class Peak:
    """The most memory that a process had since this was made."""

    def __init__(self, pid: int) -> None:
        self._directory = Path(f"/proc/{pid}")
        (self._directory / "clear_refs").write_text("5")
        self._begin = self._highest()

    def _highest(self) -> int:
        found = re.search(r"VmHWM:\s*(\d+) kB", (self._directory / "status").read_text())
        assert found is not None
        return 1024 * int(found[1])

    @property
    def growth(self) -> int:
        return self._highest() - self._begin


def test_a_large_payload_is_never_in_the_memory_of_the_bus(bus: NativeBus) -> None:
    payload = bytes(range(256)) * (SIZE // 256)
    with bus.peer() as p, bus.peer() as q:
        to_q = q.transfer(0x10, p)
        p.send([to_q], bytes(MIB))
        q.recv().release()
        peak = Peak(bus.process.pid)
        p.send([to_q], payload)
        assert peak.growth < SIZE // 4
        with q.recv() as message:
            assert message.payload == payload
        assert peak.growth < SIZE // 4


def test_a_payload_in_a_shared_segment_has_its_pages_there_and_nowhere_else(bus: NativeBus) -> None:
    """Three of them fill the pages of the first segment, which exist once."""
    size = 4 * MIB // 3 & -8
    with bus.peer() as p, bus.peer() as q:
        to_q = q.transfer(0x10, p)
        p.send([to_q], bytes(70_000))
        q.recv().release()
        peak = Peak(bus.process.pid)
        for character in b"abc":
            p.send([to_q], bytes([character]) * size)
        assert peak.growth < 3 * size + size // 2
        for character in b"abc":
            with q.recv() as message:
                assert message.payload == bytes([character]) * size


def test_nothing_is_copied_that_nobody_would_get(bus: NativeBus) -> None:
    with bus.peer() as p:
        p.send([0x10], bytes(SIZE))
        peak = Peak(bus.process.pid)
        with pytest.raises(NoSuchHandle):
            p.send([8 + 3], bytes(SIZE))
        assert peak.growth < SIZE // 4
        p.recv().release()
