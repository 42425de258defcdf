"""batch: several properties that change together, told together.

    async with changing(player):
        await player.title.set("Blue in Green")
        await player.position.set(0)

Theory. Within the block, what ``set`` and ``changed`` would tell is gathered; at its end there is one
PropertiesChanged for each interface, with the values of then. Blocks may lie within each other, and in
several tasks: the last one tells. If a block ends with an error, what changed before is told all the same.

Not here: what is told of which property (``export``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any

from .interface import BoundProperty, Interface, tell


@asynccontextmanager
async def changing(target: Interface) -> AsyncIterator[None]:
    """Tell of the properties of a service's object that change within the block at its end, all at once.

    TypeError for a proxy. What a property raises when it is read at the end."""
    if target.__far__ is not None:
        raise TypeError("properties change at their service, not at a proxy or a view")
    state = vars(target)
    gathered: dict[tuple[str, str], BoundProperty[Any]] = state.setdefault("__gathered__", {})
    state["__blocks__"] = state.get("__blocks__", 0) + 1
    try:
        yield
    finally:
        state["__blocks__"] -= 1
        if not state["__blocks__"]:
            del state["__blocks__"], state["__gathered__"]
            for interface, keys in groupby(sorted(gathered), lambda key: key[0]):
                await tell(target, interface, [gathered[key] for key in keys])
