"""Accepting when the kernel has something against it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from buses import open_fds

from bus1.core.choice import Core
from bus1.hub import PlainHub
from bus1.listener import Listener
from bus1.reactor import Reactor


class Trouble:
    """A listening socket whose ``accept`` first has a few errors."""

    def __init__(self, sock: socket.socket, *codes: int) -> None:
        self._sock = sock
        self.codes = list(codes)
        self.n_accepts = 0

    def accept(self) -> Any:
        self.n_accepts += 1
        if self.codes:
            code = self.codes.pop(0)
            raise OSError(code, errno.errorcode[code])
        return self._sock.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class Bench:
    """A listener on a clock of the test's."""

    def __init__(self, path: str, *codes: int) -> None:
        self.now = 100.0
        self.path = path
        self.reactor = Reactor(PlainHub(Core()), lambda: self.now)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen()
        self.trouble = Trouble(sock, *codes)
        self.accepted: list[socket.socket] = []
        self.said: list[int | None] = []
        listening: Any = self.trouble
        self.listener = Listener(
            self.reactor, listening, self.accepted.append, pause=0.2,
            short=lambda error: self.said.append(error.errno),
        )

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.path)
        self.accepted.append(client)  # closed with the others
        return client

    def turn(self) -> None:
        self.reactor.run_once(self.now)

    @property
    def n_accepted(self) -> int:
        return len(self.accepted) - 1

    def close(self) -> None:
        self.listener.close()
        self.reactor.close()
        for sock in self.accepted:
            sock.close()


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    fds = open_fds(os.getpid())
    bench = Bench(str(tmp_path / "bus"), *getattr(request, "param", ()))
    yield bench
    bench.close()
    assert open_fds(os.getpid()) <= fds


@pytest.mark.parametrize("bench", [(errno.ECONNABORTED,) * 3], indirect=True)
def test_a_client_that_has_left_before_it_was_accepted_is_passed_over(bench: Bench) -> None:
    bench.connect()
    bench.turn()
    assert bench.n_accepted == 1
    assert bench.said == []


@pytest.mark.parametrize(
    "bench", [(code,) for code in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)], indirect=True
)
def test_a_shortage_is_told_and_waited_out_without_spinning(bench: Bench) -> None:
    bench.connect()
    bench.turn()
    assert (bench.n_accepted, len(bench.said), bench.trouble.n_accepts) == (0, 1, 1)
    for _ in range(5):
        bench.turn()
    assert bench.trouble.n_accepts == 1, "nothing is tried during the pause"
    bench.now += 0.2
    bench.turn()
    bench.turn()
    assert bench.n_accepted == 1


@pytest.mark.parametrize("bench", [(errno.EINVAL,)], indirect=True)
def test_what_is_no_shortage_is_a_defect_and_is_not_swallowed(bench: Bench) -> None:
    bench.connect()
    with pytest.raises(OSError, match="EINVAL"):
        bench.turn()


def test_nobody_is_accepted_while_paused(bench: Bench) -> None:
    bench.listener.pause(True)
    bench.connect()
    bench.turn()
    assert bench.trouble.n_accepts == 0
    bench.listener.pause(False)
    bench.turn()
    assert bench.n_accepted == 1
