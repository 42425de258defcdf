"""unfinished: how a hub says that a send goes on in the next turn.

Theory. A hub may have to look at all of a payload before it can send it, and a large one must not stop the
bus. It then raises ``Unfinished`` instead of going on, with what it has found out so far. Whoever sends
for a client keeps that beside the request, lets everybody else have a turn, and calls again with the
same arguments and the progress. What is kept belongs to the request, so it goes when the request goes.

Not here: contract errors (errors). This is control flow between a hub and its callers: a client never
sees it.
"""

from __future__ import annotations


class Unfinished(Exception):
    """Nothing has happened yet: call again in the next turn, with the same arguments and ``progress``."""

    def __init__(self, progress: object) -> None:
        super().__init__("call again in the next turn")
        self.progress = progress
