"""Who opens a peer is who pays for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from child import ended, forked
from native_bus import NativeBus

from bus1.peer import Peer

ALICE, CAROL = 61_001, 61_003

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root may become several users")


@pytest.fixture
def bus() -> Iterator[NativeBus]:
    bus = NativeBus(Path(f"@bus1-test-{os.getpid()}-opener"))
    yield bus
    bus.close()


@pytest.mark.parametrize("effective", [0, ALICE, CAROL])
def test_a_peer_is_accounted_to_the_real_user_of_its_opener(bus: NativeBus, effective: int) -> None:
    """P-7: as it was when the peer was opened, whoever it is later."""
    opened, over = os.pipe(), os.pipe()

    def open_a_peer() -> None:
        os.close(over[1])
        os.setresuid(ALICE, effective, 0)
        with Peer.connect(bus.address):
            os.setresuid(0, 0, 0)
            os.setresuid(CAROL, CAROL, CAROL)
            os.write(opened[1], b"1")
            os.read(over[0], 1)

    child = forked(open_a_peer)
    os.close(opened[1])
    os.close(over[0])
    assert os.read(opened[0], 1) == b"1"
    accounts = [peer["account"]["uid"] for peer in bus.snapshot()["peers"].values()]
    os.close(over[1])
    os.close(opened[0])
    assert ended(child) == 0
    assert accounts == [ALICE]
