"""gone: the other end of a proxy whose object ended while it was on its way.

Theory. A capability that arrives dead is told like one that died just after it came: whoever uses it sees
NodeDestroyed. So a result that promises an object is one, and nobody has to ask first.

Not here: capabilities that a service is given (``export``): a dead one is refused there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from bus1.errors import NodeDestroyed

from .interface import Interface
from .members import MethodSpec, PropertySpec, SignalSpec

I = TypeVar("I", bound=Interface)  # noqa: E741


class Gone:
    """Nobody; every use is a NodeDestroyed."""

    async def invoke(self, interface: str, spec: MethodSpec, args: tuple[Any, ...]) -> Any:
        """There is nothing to call."""
        raise _error()

    async def get(self, interface: str, spec: PropertySpec) -> Any:
        """There is nothing to read."""
        raise _error()

    async def set(self, interface: str, spec: PropertySpec, value: Any) -> None:
        """There is nothing to set."""
        raise _error()

    @asynccontextmanager
    async def subscribe(self, interface: str, spec: SignalSpec) -> AsyncIterator[Any]:
        """There is nothing to hear."""
        raise _error()
        yield


def gone(interface: type[I]) -> I:
    """An object of ``interface`` that has ended."""
    proxy = object.__new__(interface)
    proxy.__far__ = Gone()
    return proxy


def _error() -> NodeDestroyed:
    return NodeDestroyed("the object had ended before its capability arrived")
