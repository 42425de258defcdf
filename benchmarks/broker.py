"""broker: dbus-broker without systemd, steered by a controller of our own.

Theory. dbus-broker opens nothing itself: a parent process hands it a listening socket and a policy over
a socket pair (``org.bus1.DBus.Broker.AddListener(ohv)``, see dbus-broker(1)). That connection is
authenticated like a client's, but there is no Hello. The policy is a session bus's, where everybody
may connect, own, send and receive everything, or like a system's. Its type is not promised to be stable; it
is that of release 33.
"""

from __future__ import annotations

import socket

from . import messages, system
from .buses import Bus
from .connection import AUTHENTICATION, Connection

BATCH = "bta(btbs)a(btssssuutt)a(btssssuutt)"
POLICY = f"(a(u({BATCH}))a(buu({BATCH}))a(ss)bs)"
EVERYBODY = 0xFFFF_FFFF
LIMITS = ("--max-bytes=1073741824", "--max-fds=16384", "--max-matches=1048576", "--max-objects=1048576")
STOCK = ("--max-bytes=536870912", "--max-fds=4096", "--max-matches=131072")
"""What its launcher gives it for the system's bus; the session's has no limits to speak of."""


def system_policy() -> object:
    """A policy value that permits what a system's bus permits."""
    everybody, users = system.batches()
    return ([(EVERYBODY, everybody), *users], [], [], False, "system")


def open_policy() -> object:
    """A policy value that permits everything to everybody."""
    transfer = [(True, 1, "", "", "", "", 0, 0, 0, system.ANY_COUNT)]
    batch = (True, 1, [(True, 1, True, "")], transfer, transfer)
    return ([(EVERYBODY, batch)], [], [], False, "user")


class DbusBroker(Bus):
    """Debian's dbus-broker behind a controller in this process."""

    name = "dbus-broker"
    program = "dbus-broker"
    controller: Connection | None = None

    def start(self) -> None:
        """Spawn, hand over the listener, wait for the answer; there is no address to print."""
        self.address = f"unix:path={self.socket}"
        ours, theirs = socket.socketpair()
        self.controller = Connection(ours)
        with theirs, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.socket))
            listener.listen(128)
            listener.setblocking(False)  # the broker accepts until EAGAIN
            control = f"--controller={theirs.fileno()}"
            limits = STOCK if self.stock else LIMITS
            self.spawn(control, f"--machine-id={'b1' * 16}", *limits, pass_fds=(theirs.fileno(),))
            fields = {
                messages.PATH: "/org/bus1/DBus/Broker", messages.INTERFACE: "org.bus1.DBus.Broker",
                messages.MEMBER: "AddListener", messages.UNIX_FDS: 1,
            }
            policy = system_policy() if self.system else open_policy()
            request = messages.build(
                messages.CALL, 1, fields, "ohv", "/org/bus1/DBus/Listener/0", 0, (POLICY, policy),
            )
            socket.send_fds(ours, [AUTHENTICATION + request], [listener.fileno()])
        self.controller.skip_lines(2)
        self.controller.take_reply()

    def stop(self) -> None:
        """End the broker and close its controller."""
        if self.controller is not None:
            self.controller.close()
        super().stop()
