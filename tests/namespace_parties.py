"""namespace_parties: processes in namespaces of their own, each of which opens a peer or serves a bus.

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
import threading
import unittest
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

import party
from core_bus import Core

from bus1.addresses import socket_name
from bus1.broker import Broker, BrokerLimits
from bus1.hub import PlainHub
from bus1.peer import Peer
from bus1.reactor import Reactor

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x2_0000, 0x1000_0000, 0x2000_0000
MS_REC, MS_PRIVATE = 0x4000, 0x4_0000
PR_SET_DUMPABLE = 4
FIRST_UID, FIRST_GID, COUNT = 61_000, 62_000, 1000
"""Ids of the machine that are 0 and up in the namespaces."""


@dataclass(frozen=True)
class Role:
    """Who a party is in its namespaces, and how many pid namespaces below the first it lives.

    An ``inner`` one is root in a user namespace of its own, and nobody else is there."""

    uid: int
    gid: int
    depth: int = 0
    is_inner: bool = False


class Party(party.Party):
    """The test's side of a process in the namespaces."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.pid = self.ask(do="pid")
        """In its own innermost namespace."""

    def open(self, address: str) -> Peer:
        """It opens a peer; the test holds it, too."""
        self.tell(do="open", address=address)
        return self.taken(address)


class Parties:
    """Processes in one new user namespace and new pid namespaces."""

    def __init__(
        self, *roles: Role, flags: int = CLONE_NEWUSER | CLONE_NEWPID,
        also: tuple[tuple[int, int, int], ...] = (),
    ) -> None:
        """``flags`` say which namespaces are new, a mount namespace has its own /proc; ``also`` are more
        extents of the maps. SkipTest says why there cannot be any."""
        pairs = [socket.socketpair() for _ in roles]
        theirs = [pair[1].fileno() for pair in pairs]
        options = json.dumps([asdict(role) | {"socket": fd} for role, fd in zip(roles, theirs, strict=True)])
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(flags), options], pass_fds=theirs, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )
        for _, their in pairs:
            their.close()
        try:
            self._make(also if flags & CLONE_NEWUSER else None)
        except OSError as error:
            for own, _ in pairs:
                own.close()
            self._wait()
            raise unittest.SkipTest(f"no new namespaces for this user: {error.strerror}") from error
        self.all = [Party(pair[0]) for pair in pairs]

    def _make(self, also: tuple[tuple[int, int, int], ...] | None) -> None:
        assert self.process.stdout is not None and self.process.stdin is not None
        if number := int(self.process.stdout.readline()):
            raise OSError(number, os.strerror(number))
        if also is not None:
            for name, first in (("uid_map", FIRST_UID), ("gid_map", FIRST_GID)):
                lines = [f"{there} {here} {count}\n" for there, here, count in ((0, first, COUNT), *also)]
                with open(f"/proc/{self.process.pid}/{name}", "w") as file:
                    file.write("".join(lines))
        self.process.stdin.write("mapped\n")
        self.process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for one in self.all:
            one.close()
        self._wait()

    def _wait(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


def unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def be_root_alone(uid: int, gid: int) -> None:
    """In a new user namespace, as the user who has these ids may."""
    unshare(CLONE_NEWUSER)
    for name, line in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def mount_proc() -> None:
    """A /proc of this pid namespace, for this mount namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    for what in ((None, b"/", None, MS_REC | MS_PRIVATE, None), (b"proc", b"/proc", b"proc", 0, None)):
        if libc.mount(*what):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def serve(address: str) -> str:
    """A bus of native peers in this process, as long as it lives."""
    hub = PlainHub(Core())
    reactor = Reactor(hub)
    broker = Broker(reactor, hub, BrokerLimits())
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(socket_name(address))
    listener.listen()
    broker.listen(listener)

    def run() -> None:
        while True:
            reactor.run_once(None)

    threading.Thread(target=run, daemon=True).start()
    return address


def play(role: dict[str, Any]) -> None:
    """Serve one party's commands until its socket is closed."""
    os.setgroups([])
    os.setresgid(role["gid"], role["gid"], role["gid"])
    os.setresuid(role["uid"], role["uid"], role["uid"])
    # As if it had been started as this user: the others may look at it.
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    if role["is_inner"]:
        be_root_alone(role["uid"], role["gid"])
    sock = socket.socket(fileno=role["socket"])
    peer: Peer | None = None
    for line in sock.makefile("r"):
        match json.loads(line):
            case {"do": "pid"}:
                answer: Any = os.getpid()
            case {"do": "serve", "address": address}:
                answer = serve(address)
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


def main(flags: int, options: str) -> None:
    roles = json.loads(options)
    try:
        unshare(flags)
    except OSError as error:
        print(error.errno, flush=True)
        return
    print(0, flush=True)
    if not sys.stdin.readline():
        return
    # The first child is the new namespace's init: with it, the others would go.
    if (init := os.fork()) != 0:
        for role in roles:
            os.close(role["socket"])
        sys.stdin.read()
        os.kill(init, signal.SIGKILL)
        os.waitpid(init, 0)
        return
    if flags & CLONE_NEWNS:
        mount_proc()
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
    main(int(sys.argv[1]), sys.argv[2])
