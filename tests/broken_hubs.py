"""broken_hubs: buses that break a rule on purpose, so that tests can see that it is noticed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

from bus1.core.api import Buffer, CoreApi, Credentials
from bus1.errors import Bus1Error
from bus1.hub import PlainHub


class LenientHub(PlainHub):
    """Lets unix sockets travel, as towards a hosted peer."""

    def send(
        self, peer: int, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], *, flags: int, optional: Sequence[int], credentials: Credentials,
        progress: object = None,
    ) -> list[int]:
        return self.core.send(
            peer, destinations, parts, handles, fds, flags=flags, optional=optional, credentials=credentials
        )


class _Instead:
    """Core, with other commands in place of some."""

    def __init__(self, core: CoreApi, **commands: Callable[..., object]) -> None:
        self._core = core
        vars(self).update(commands)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)


class UnorderedHub(PlainHub):
    """Breaks the order of events on purpose: what it holds back happens some turns later."""

    TURNS = 24

    def __init__(self, core: CoreApi) -> None:
        super().__init__(core)
        self._turn = 0
        self._held: deque[tuple[int, Callable[[], object]]] = deque()
        self.late = self._held

    def settle(self) -> None:
        self._turn += 1
        while self._held and self._held[0][0] <= self._turn:
            with suppress(Bus1Error):
                self._held.popleft()[1]()

    def hold(self, act: Callable[[], object]) -> None:
        self._held.append((self._turn + self.TURNS, act))


class TornHub(UnorderedHub):
    """Serves the last destination of some multicasts later; nodes destroyed together die one by one."""

    def __init__(self, core: CoreApi) -> None:
        super().__init__(core)
        self.core = cast(CoreApi, _Instead(core, node_destroy=partial(self._destroy, core.node_destroy)))
        self._n = 0

    def _destroy(
        self, destroy: Callable[..., None], peer: int, nodes: Sequence[int], flags: int = 0
    ) -> None:
        destroy(peer, nodes[:1], flags)
        for node in nodes[1:]:
            self.hold(partial(destroy, peer, [node], flags))

    def send(
        self, peer: int, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], *, flags: int, optional: Sequence[int], credentials: Credentials,
        progress: object = None,
    ) -> list[int]:
        send = partial(super().send, peer, parts=parts, handles=handles, fds=fds, flags=flags)
        self._n += 1
        if len(optional) < 2 or self._n % 2:
            return send(destinations, optional=optional, credentials=credentials)
        self.hold(partial(send, (), optional=optional[-1:], credentials=credentials))
        return [*send(destinations, optional=optional[:-1], credentials=credentials), 0]


class LateHub(UnorderedHub):
    """Answers some requests before it carries them out: sends to one destination, destructions, releases."""

    def __init__(self, core: CoreApi) -> None:
        super().__init__(core)
        later = {
            name: partial(self._later, getattr(core, name)) for name in ("handle_release", "node_destroy")
        }
        self.core = cast(CoreApi, _Instead(core, **later))
        self._n = 0

    def _later(self, command: Callable[..., object], *arguments: object) -> None:
        self.hold(partial(command, *arguments))

    def send(
        self, peer: int, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], *, flags: int, optional: Sequence[int], credentials: Credentials,
        progress: object = None,
    ) -> list[int]:
        send = partial(
            super().send, peer, destinations, parts, handles, fds, flags=flags, optional=optional,
            credentials=credentials,
        )
        self._n += 1
        if len(optional) != 1 or self._n % 2:
            return send()
        self.hold(send)
        return [0]
