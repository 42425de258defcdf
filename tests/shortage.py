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


def descriptors() -> set[int]:
    """What this process has open."""
    return {number for number in map(int, os.listdir("/proc/self/fd")) if _is_open(number)}


def n_descriptors() -> int:
    """How many those are."""
    return len(descriptors())


@contextmanager
def room_for(n: int) -> Iterator[None]:
    """This process may open so many descriptors more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = descriptors()
    free = [number for number in range(soft) if number not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[n], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def everything_given_back(bus: CountedBus) -> Iterator[None]:
    """Afterwards the bus is as it was before, and this process has no descriptor that it had not before.

    Older ones may go: garbage that earlier tests have left."""
    n_fds, own = bus.n_fds(), descriptors()
    yield
    bus.wait_until_idle(n_fds)
    assert descriptors() <= own, "descriptors of this process"


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
