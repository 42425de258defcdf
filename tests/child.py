"""child: forked processes of a test, which end without its clean-up."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

from bus1.peer import Peer


def forked(act: Callable[[], object]) -> int:
    """The pid of a child that calls ``act`` and exits: 0 if nothing was raised, else 1."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    return pid


def ended(pid: int) -> int:
    """Wait for a child; its exit status, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_child(act: Callable[[], object]) -> int:
    """The exit status of a child that calls ``act``."""
    return ended(forked(act))


class Child:
    """A forked process with one end of a plain socket pair."""

    def __init__(self, act: Callable[[socket.socket], object]) -> None:
        self.sock, theirs = socket.socketpair()

        def run() -> None:
            self.sock.close()
            act(theirs)

        self.pid = forked(run)
        theirs.close()

    def give(self, peer: Peer) -> None:
        """The peer's descriptor, by SCM_RIGHTS."""
        socket.send_fds(self.sock, [b"x"], [peer.fileno()])

    def go_on(self) -> None:
        """Whatever it waits for."""
        self.sock.send(b"x")

    def end(self) -> int:
        """It has nobody to wait for any more; its exit status."""
        self.sock.close()
        return ended(self.pid)

    def kill(self) -> None:
        """It ends at once."""
        os.kill(self.pid, signal.SIGKILL)
        assert self.end() == -signal.SIGKILL
