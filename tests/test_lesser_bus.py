"""A bus that is not root's, and may have few descriptors in flight: the kernel carries no more (unix(7))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from subprocess import Popen

import pytest
from buses import eventually, open_fds, stopped
from daemons import Daemon, lend_daemon, path_of
from dbus_client import Client

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
MOST = 256
"""So many descriptors may the bus have open; as many, and those of one message, may be in flight."""
EACH, CALLS, MORE = 16, 12, 4


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    yield from lend_daemon("bus1-bridge", tmp_path)


@pytest.fixture
def bus(daemon: Daemon) -> Iterator[tuple[Popen[bytes], str]]:
    listen = [f"unix:abstract=bus1-lesser-{os.urandom(8).hex()}"]
    file = daemon.configure("<user>nobody</user>", listen=listen)
    program = ["prlimit", f"--nofile={MOST}:{MOST}"]
    process, address = daemon.serve(f"--config-file={file}", program=program)
    with Client(path_of(address)):
        # it is nobody's by now
        assert os.stat(f"/proc/{process.pid}").st_uid != 0
    yield process, path_of(address)
    assert "Traceback" not in daemon.stop(process)


@pytest.mark.parametrize("size", [0, 20_000])
def test_descriptors_that_the_kernel_refuses_to_carry_wait_and_arrive(
    bus: tuple[Popen[bytes], str], size: int
) -> None:
    process, path = bus
    with ExitStack() as cleanup:
        sender, bystander, *readers = (cleanup.enter_context(Client(path)) for _ in range(4))
        # nobody makes close(2) wait on such a one
        file = cleanup.enter_context(open(os.memfd_create("sent"), "wb"))
        for client in (sender, bystander, *readers):
            client.sync()
        before, fds = open_fds(process.pid), [file.fileno()] * EACH

        def call(times: int) -> None:
            for _ in range(times):
                for reader in readers:
                    sender.call(
                        reader.name, "M", "ay" + "h" * EACH, bytes(size), *range(EACH), fds=fds, flags=1
                    )

        call(CALLS - MORE)
        sender.sync()
        assert open_fds(process.pid) == before, "these are on their way"
        with nullcontext() if size else stopped(process.pid):
            # small ones are there all at once, and written together
            call(MORE)
        # nobody reads, and there is room in the sockets: what the bus keeps is what the kernel has refused
        eventually(lambda: open_fds(process.pid) >= before + EACH, lambda: open_fds(process.pid))
        bystander.sync()
        for _ in range(CALLS):
            for reader in readers:
                got = reader.receive()
                assert len(got.fds) == EACH
                for fd in got.fds:
                    assert os.path.sameopenfile(fd, file.fileno())
                    os.close(fd)
        for client in (sender, bystander, *readers):
            client.sync()
        eventually(lambda: open_fds(process.pid) == before, lambda: (before, open_fds(process.pid)))
