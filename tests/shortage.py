"""shortage: little room for descriptors, and whether all of them have been given back."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class CountedBus(Protocol):
    """A bus that can be asked what it holds."""

    def n_fds(self) -> int: ...

    def wait_until_idle(self, n_fds: int) -> None: ...


def n_descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def room_for(n: int) -> Iterator[None]:
    """This process may open so many descriptors more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [number for number in range(soft) if not _is_open(number)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[n], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def everything_given_back(bus: CountedBus) -> Iterator[None]:
    """Afterwards the bus, and this process, are as they were before."""
    n_fds, own = bus.n_fds(), n_descriptors()
    yield
    bus.wait_until_idle(n_fds)
    assert n_descriptors() == own


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
