"""sandboxes: a filtered socket of either bus: xdg-dbus-proxy before dbus-daemon, an endpoint of ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Any

from anyio.from_thread import start_blocking_portal
from bus1_services import connect
from bus1_services.endpoint import Endpoint, open_dbus_endpoint
from buses import Bus, reap
from dbus_client import Client

NAME = "org.example.App"


def open_view(bus: Bus, rules: Sequence[str]) -> str:
    """The path of a socket behind which a client sees what these rules say; gone with the test."""
    return _proxy(bus, rules) if bus.is_reference else path_of(open_endpoint(bus, rules))


def open_endpoint(bus: Bus, rules: Sequence[str], **options: Any) -> Endpoint:
    """An endpoint of ours; closed with the test."""
    given: dict[str, Any] = {}
    for rule in rules:
        verb, _, rest = rule.partition("=")
        given.setdefault(verb, []).append(rest)
    portal = bus.cleanup.enter_context(start_blocking_portal())
    connection = bus.cleanup.enter_context(
        portal.wrap_async_context_manager(connect(bus.path + "1"))
    )
    return bus.cleanup.enter_context(
        portal.wrap_async_context_manager(open_dbus_endpoint(connection, NAME, **given, **options))
    )


def path_of(endpoint: Endpoint) -> str:
    """Of its socket."""
    return endpoint.address.partition("=")[2]


def behind(bus: Bus, *rules: str, **options: Any) -> Client:
    """A client that sees what these rules say."""
    return bus.cleanup.enter_context(Client(open_view(bus, rules), **options))


def _proxy(bus: Bus, rules: Sequence[str]) -> str:
    path = f"{bus.folder}/proxy-{len(os.listdir(bus.folder))}"
    reading, writing = os.pipe()
    command = ["xdg-dbus-proxy", f"--fd={writing}", bus.address, path, "--filter", *(f"--{r}" for r in rules)]
    process = subprocess.Popen(command, pass_fds=[writing])
    bus.cleanup.callback(reap, process)
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    bus.cleanup.callback(os.close, reading)
    return path
