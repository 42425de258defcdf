"""questions: what the Switch must ask the control plane before it can decide about a message.

Theory. Some messages need an answer that no table has: whether a file makes a name known, whether the new
configuration is good. Whoever plans such a message asks here. Without an answer ``Unanswered`` is raised
before anything has happened: the message stays in front of its connection, which is not read meanwhile, the
question goes out as an effect, and with the answer the message is planned anew. So the order of a
client's messages holds, and nobody else waits.

Invariants. 1. A connection has at most one question open. 2. An answer is used once, and for its own
question: meanwhile it may have become needless, and the next question be another.

Not here: the questions (effects), who answers (the control plane).
"""

from __future__ import annotations

from collections.abc import Callable

from .effects import Effect


class Unanswered(Exception):
    """The message has to wait for the control plane; nothing has happened yet."""


class Questions:
    """Open questions and fresh answers, by the connection that asks."""

    def __init__(self, effects: list[Effect]) -> None:
        self._effects = effects
        self._open: dict[int, Effect] = {}
        self._answers: dict[int, tuple[Effect, object]] = {}

    def ask(self, asker: int, question: Callable[[int], Effect]) -> object:
        """The answer to the ``question`` of this connection; Unanswered."""
        wanted = question(asker)
        answered, answer = self._answers.pop(asker, (None, None))
        if type(answered) is type(wanted) and answered == wanted:
            return answer
        if asker not in self._open:
            self._open[asker] = wanted
            self._effects.append(wanted)
        raise Unanswered

    def answer(self, asker: int, answer: object) -> bool:
        """What the control plane says; False if nobody waits for it."""
        if asker not in self._open:
            return False
        self._answers[asker] = (self._open.pop(asker), answer)
        return True

    def forget(self, asker: int) -> None:
        """The connection is gone."""
        self._open.pop(asker, None)
        self._answers.pop(asker, None)
