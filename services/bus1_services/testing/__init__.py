"""testing: a private bus per test in milliseconds, fakes, recorders, and mocks made of recordings.

``pytest`` finds the fixtures by itself; everything works without pytest, too. Names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bus import PrivateBus as PrivateBus
    from .dbus import record as record
    from .declaring import declared as declared
    from .fakes import Call as Call
    from .fakes import Fake as Fake
    from .replay import NotRecorded as NotRecorded
    from .signals import Heard as Heard
    from .signals import signals_of as signals_of

_HOME = {
    "Call": "fakes", "Fake": "fakes", "Heard": "signals", "NotRecorded": "replay", "PrivateBus": "bus",
    "declared": "declaring", "record": "dbus", "signals_of": "signals",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
