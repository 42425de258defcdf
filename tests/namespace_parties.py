"""namespace_parties: processes in user and pid namespaces of their own, each of which opens a peer.

``Parties`` starts them. Run as a script this file makes the namespaces and becomes their first process: the
roles tell which ids each party takes there, and how many pid namespaces deeper it lives. A party is told what
to do by lines of JSON on its socket, and answers in kind.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

from bus1.descriptors import Fds
from bus1.peer import Peer

CLONE_NEWUSER, CLONE_NEWPID = 0x1000_0000, 0x2000_0000
FIRST_UID, FIRST_GID, COUNT = 61_000, 62_000, 1000
"""Ids of the machine that are 0 and up in the namespaces."""


@dataclass(frozen=True)
class Role:
    """Who a party is in its namespaces, and how many pid namespaces below the first it lives."""

    uid: int
    gid: int
    depth: int = 0


class Party:
    """The test's side of a process in the namespaces."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lines = sock.makefile("r")
        self.pid = self.ask(do="pid")
        """In its own innermost namespace."""

    def ask(self, **what: Any) -> Any:
        self._sock.sendall(json.dumps(what).encode() + b"\n")
        return json.loads(self._lines.readline())

    def open(self, address: str) -> Peer:
        """It opens a peer; the test holds it, too."""
        self._sock.sendall(json.dumps({"do": "open", "address": address}).encode() + b"\n")
        _, fds, _, _ = socket.recv_fds(self._sock, 1, 1)
        with Fds(fds) as received:
            return Peer.from_descriptor(received[0], address)

    def close(self) -> None:
        self._lines.close()
        self._sock.close()


class Parties:
    """Processes in one new user namespace and new pid namespaces."""

    def __init__(self, *roles: Role) -> None:
        pairs = [socket.socketpair() for _ in roles]
        theirs = [pair[1].fileno() for pair in pairs]
        options = json.dumps([asdict(role) | {"socket": fd} for role, fd in zip(roles, theirs, strict=True)])
        self.process = subprocess.Popen(
            [sys.executable, __file__, options], pass_fds=theirs, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )
        assert self.process.stdout is not None and self.process.stdin is not None
        assert self.process.stdout.readline() == "unshared\n"
        for name, first in (("uid_map", FIRST_UID), ("gid_map", FIRST_GID)):
            with open(f"/proc/{self.process.pid}/{name}", "w") as file:
                file.write(f"0 {first} {COUNT}\n")
        self.process.stdin.write("mapped\n")
        self.process.stdin.flush()
        for _, their in pairs:
            their.close()
        self.all = [Party(pair[0]) for pair in pairs]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        for party in self.all:
            party.close()
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


def unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def play(role: dict[str, Any]) -> None:
    """Serve one party's commands until its socket is closed."""
    os.setgroups([])
    os.setresgid(role["gid"], role["gid"], role["gid"])
    os.setresuid(role["uid"], role["uid"], role["uid"])
    sock = socket.socket(fileno=role["socket"])
    peer: Peer | None = None
    for line in sock.makefile("r"):
        match json.loads(line):
            case {"do": "pid"}:
                answer: Any = os.getpid()
            case {"do": "open", "address": address}:
                if peer is not None:
                    peer.close()
                peer = Peer.connect(address)
                socket.send_fds(sock, [b"."], [peer.fileno()])
                continue
            case {"do": "send", "handle": handle}:
                assert peer is not None
                answer = peer.send([handle], b"m")
            case {"do": "recv"}:
                assert peer is not None
                with peer.recv(wait=True) as message:
                    answer = [message.uid, message.gid, message.pid, message.tid]
        sock.sendall(json.dumps(answer).encode() + b"\n")


def descend(role: dict[str, Any], roles: list[dict[str, Any]]) -> None:
    """Become the party of ``role``, in a process of its own."""
    for other in roles:
        if other is not role:
            os.close(other["socket"])
    for _ in range(role["depth"]):
        unshare(CLONE_NEWPID)
        if (child := os.fork()) != 0:
            os.close(role["socket"])
            os.waitpid(child, 0)
            return
    play(role)


def main(options: str) -> None:
    roles = json.loads(options)
    unshare(CLONE_NEWUSER | CLONE_NEWPID)
    print("unshared", flush=True)
    assert sys.stdin.readline() == "mapped\n"
    # The first child is the new namespace's init: with it, the others would go.
    if (init := os.fork()) != 0:
        for role in roles:
            os.close(role["socket"])
        sys.stdin.read()
        os.kill(init, signal.SIGKILL)
        os.waitpid(init, 0)
        return
    for role in roles:
        if os.fork() == 0:
            descend(role, roles)
            return
    for role in roles:
        os.close(role["socket"])
    with suppress(ChildProcessError):
        while True:
            os.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
