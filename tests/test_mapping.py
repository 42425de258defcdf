"""A pool as one of its processes maps it."""

from __future__ import annotations

import os

from bus1.descriptors import Fds
from bus1.mapping import MappedPool


def segment() -> Fds:
    fds = Fds([os.memfd_create("segment")])
    os.ftruncate(fds[0], 8192)
    return fds


def test_a_segment_that_comes_twice_keeps_its_readers_in_mind() -> None:
    """As two threads can ask for it: it is not said to be unmapped while one of them reads it."""
    pool = MappedPool()
    pool.map(1, 0, 8192, segment())
    view = pool.view(1, 0, 8)
    second = segment()
    pool.map(1, 0, 8192, second)
    assert not second
    pool.retire(1)
    assert pool.take_unmapped() == []
    view.release()
    pool.drop(1, 0, 8)
    assert pool.take_unmapped() == [1]
