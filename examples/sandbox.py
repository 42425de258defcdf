"""sandbox: a stock D-Bus program that sees a part of the bus, with no proxy between the two.

    dbus-run-session --dbus-daemon=bus1-bridge -- python examples/sandbox.py [--bwrap]

A service manager opens an endpoint whose clients see one name, and runs busctl(1) behind it, for which there
is nothing else. Two services are on the bus: the program may greet the one, and does not see the other.
The one that is greeted is told by the bus where the greeting came from.
"""

from __future__ import annotations

import os
import subprocess
import sys

import anyio
from bus1_services import (
    NOBODY,
    Caller,
    DBusError,
    Endpoint,
    Interface,
    Service,
    Str,
    connect,
    method,
    open_dbus_endpoint,
)

from bus1.errors import Bus1Error

GREETER, SECRETS = "org.example.Greeter", "org.example.Secrets"


class Greeter(Interface, name="org.example.Greeter1"):
    """Says hello to everybody, and knows who is in a sandbox."""

    @method
    def greet(self, name: Str, caller: Caller = NOBODY) -> Str:
        """A greeting that says where the name came from."""
        return f"Hello {name}, from {caller.endpoint or 'nowhere in particular'}!"


class Secrets(Interface, name="org.example.Secrets1"):
    """Not for programs in sandboxes."""

    @method
    def reveal(self) -> Str:
        """What nobody in a sandbox shall know."""
        return "the cake is a lie"


def inside(endpoint: Endpoint, *command: str) -> str:
    """What a program prints that finds its bus at the endpoint; with --bwrap, it finds no other socket."""
    confined = list(command)
    if "--bwrap" in sys.argv:
        socket = endpoint.address.partition("=")[2]
        confined = ["bwrap", "--ro-bind", "/", "/", "--tmpfs", "/run", "--tmpfs", "/tmp", "--bind", socket,
                    socket, "--unshare-all", *command]
    done = subprocess.run(
        confined, env={**os.environ, **endpoint.environment, "LC_ALL": "C"}, capture_output=True, text=True,
        check=False,
    )
    return (done.stdout or done.stderr).strip()


async def main() -> None:
    """Two services, and a program that may see one of them."""
    services = (
        Service("A greeter", GREETER, objects={"/greeter": Greeter()}),
        Service("A safe", SECRETS, objects={"/secrets": Secrets()}),
    )
    call = ("busctl", "--user", "call")
    async with (
        services[0].running(), services[1].running(), connect() as manager,
        open_dbus_endpoint(manager, "org.example.App", talk=[GREETER]) as endpoint,
    ):
        for title, command in (
            ("Who is there?", ("busctl", "--user", "--no-legend", "--no-pager", "--acquired", "list")),
            ("What can it do?", ("busctl", "--user", "tree", "--list", GREETER)),
            ("Greet me.", (*call, GREETER, "/greeter", "org.example.Greeter1", "Greet", "s", "sandbox")),
            ("Secrets, please.", (*call, SECRETS, "/secrets", "org.example.Secrets1", "Reveal")),
            ("Is there such a name?", (*call, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                                       "org.freedesktop.DBus", "NameHasOwner", "s", SECRETS)),
        ):
            print(f"{title}\n    {await anyio.to_thread.run_sync(inside, endpoint, *command)}")


if __name__ == "__main__":
    try:
        anyio.run(main)
    except (Bus1Error, DBusError) as error:
        sys.exit(f"sandbox.py: {error}")
