"""label: what people may know of a peer beyond its number.

Theory. Core knows peers by numbers, the broker knows who opened the native ones. A hub that hosts peers, or
gives them names, says so with a ``Label`` for each.

Not here: how labels are shown (inspection).
"""

from __future__ import annotations

from typing import NamedTuple

from .core.api import Credentials


class Label(NamedTuple):
    """The names of a peer, the unique one first, and who is behind it."""

    names: tuple[str, ...]
    credentials: Credentials
