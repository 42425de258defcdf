"""idle: when nobody needs a service.

Theory. An object is in use while a call of it runs, while somebody listens to its signals, and while it
exists for those alone who hold it. Timers that each call would reset cost each call something. Here the calls
are only counted, and somebody looks from time to time: what has not been used between two looks was not used
so long.

Not here: leaving (``stopping``).
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from .connection import Connection


async def idle(connections: Sequence[Connection], seconds: float) -> None:
    """Wait until all of these have not been used for ``seconds``, at least; a bus that is gone uses none."""
    while True:
        before = [connection.places.n_given for connection in connections]
        await anyio.sleep(seconds)
        used = next((connection for connection in connections if connection.is_used), None)
        if used is not None:
            await used.eased()
        elif before == [connection.places.n_given for connection in connections]:
            return
