"""ends: what an object of an interface is tied to: its far end, or the places where it is exported.

Theory. A proxy has one far end, and everything about it happens there. An object of a service has none,
and as many near ends as there are connections that export it; each of them sends what the object tells.

Not here: who they are (``proxy``, ``export``, ``caps``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from .members import MethodSpec, PropertySpec, SignalSpec


class Far(Protocol):
    """The other end of a proxy; members are given with the name of their interface."""

    async def invoke(self, interface: str, spec: MethodSpec, args: tuple[Any, ...]) -> Any:
        """Call a method there."""

    async def get(self, interface: str, spec: PropertySpec) -> Any:
        """Read a property there."""

    async def set(self, interface: str, spec: PropertySpec, value: Any) -> None:
        """Set a property there."""

    def subscribe(self, interface: str, spec: SignalSpec) -> AbstractAsyncContextManager[Any]:
        """Receive a signal from there."""


class Near(Protocol):
    """One place where a service's object is exported."""

    async def emit(self, interface: str, spec: SignalSpec, args: tuple[Any, ...]) -> None:
        """Send a signal of the object."""

    async def changed(self, interface: str, changes: Sequence[tuple[PropertySpec, Any]]) -> None:
        """Tell subscribers that these properties of one interface have new values, all at once."""

    def start(self, function: Callable[[], Awaitable[object]]) -> object:
        """Run a task as long as the connection lasts."""

    def withdraw(self) -> None:
        """End the object's life there."""
