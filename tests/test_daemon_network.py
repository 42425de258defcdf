"""Either daemon with other transports and mechanisms than a unix socket and the kernel's word.

The yardstick is spec/dbus-bus.md §1, §2 and §4.1."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from buses import targets_of_fds
from daemons import Daemon, NetworkWire, path_of, serves, values_of
from dbus_client import (
    BUS,
    BUS_PATH,
    CALL,
    DESTINATION,
    INTERFACE,
    MEMBER,
    PATH,
    CallFailed,
    Client,
    Message,
    Wire,
    message,
    parse,
)

UID = os.getuid()
MY_ID = str(UID).encode().hex()
NETWORK = "tcp:host=127.0.0.1"
ALL = "EXTERNAL DBUS_COOKIE_SHA1 ANONYMOUS"


@contextmanager
def wire_to(entry: str) -> Iterator[Wire]:
    """A connection to one entry of an address that has sent its NUL."""
    wire = NetworkWire(entry) if entry.startswith("tcp:") else Wire(path_of(entry))
    with wire:
        wire.write(b"\0")
        yield wire


def start(daemon: Daemon, content: str = "", *, flags: tuple[str, ...] = ()) -> tuple[str, str]:
    """The addresses of a bus on a unix socket and on the network; cookies lie in its folder."""
    config = daemon.configure(content, listen=[f"unix:path={daemon.socket}", NETWORK])
    _, printed = daemon.serve("--config-file", config, *flags, environment={"HOME": str(daemon.folder)})
    network, unix = printed.split(";")
    return unix, network


def cookie_of(daemon: Daemon, number: str) -> str:
    """What a client of the same user finds under this number."""
    for line in (daemon.folder / ".dbus-keyrings" / "org_freedesktop_general").read_text().splitlines():
        if line.split()[0] == number:
            return line.split()[2]
    raise AssertionError(number)


def answer_with_cookie(daemon: Daemon, wire: Wire, who: str = MY_ID) -> str:
    """What the server says to a client that can read the cookies."""
    data = wire.say(f"AUTH DBUS_COOKIE_SHA1 {who}")
    assert data.startswith("DATA "), data
    context, number, challenge = bytes.fromhex(data.removeprefix("DATA ")).decode().split(" ")
    assert context == "org_freedesktop_general"
    own = os.urandom(16).hex()
    digest = hashlib.sha1(f"{challenge}:{own}:{cookie_of(daemon, number)}".encode()).hexdigest()
    return wire.say("DATA " + f"{own} {digest}".encode().hex())


def hello(wire: Wire) -> str:
    """BEGIN and Hello; the unique name."""
    fields = [(PATH, "o", BUS_PATH), (INTERFACE, "s", BUS), (MEMBER, "s", "Hello"), (DESTINATION, "s", BUS)]
    wire.write(b"BEGIN\r\n" + message(CALL, 1, fields))
    return str(next_message(wire).args[0])


def next_message(wire: Wire) -> Message:
    start_of_it = wire.take(16)
    fields = int.from_bytes(start_of_it[12:16], "little")
    return parse(
        start_of_it + wire.take(fields + -fields % 8 + int.from_bytes(start_of_it[4:8], "little"))
    )


def fault(client: Client, member: str, name: str) -> str:
    try:
        client.ask(member, "s", name)
    except CallFailed as failed:
        return str(failed.name)
    return ""


# ---- mechanisms ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "offered"),
    [
        ("", ALL),
        ("<auth>EXTERNAL</auth>", "EXTERNAL"),
        ("<auth>DBUS_COOKIE_SHA1</auth><auth>EXTERNAL</auth>", "EXTERNAL DBUS_COOKIE_SHA1"),
        ("<auth>ANONYMOUS</auth>", "ANONYMOUS"),
    ],
)
def test_what_is_offered_is_what_the_file_lists_or_everything(
    daemon: Daemon, content: str, offered: str
) -> None:
    for entry in start(daemon, content):
        with wire_to(entry) as wire:
            assert wire.say("AUTH") == f"REJECTED {offered}"


def test_a_mechanism_that_nobody_knows_ends_the_start(daemon: Daemon) -> None:
    said = daemon.fails("--config-file", daemon.configure("<auth>KERBEROS</auth>"), "--print-address=1")
    assert "Failed to start message bus" in said


def test_who_can_read_the_cookies_is_the_user_of_the_bus_on_either_transport(daemon: Daemon) -> None:
    unix, network = start(daemon)
    with ExitStack() as stack:
        client = stack.enter_context(Client(path_of(unix)))
        for entry in (unix, network):
            wire = stack.enter_context(wire_to(entry))
            assert answer_with_cookie(daemon, wire).startswith("OK ")
            name = hello(wire)
            assert client.ask("GetConnectionUnixUser", "s", name) == [UID]
    keyrings = Path(daemon.folder, ".dbus-keyrings")
    assert keyrings.stat().st_mode & 0o777 == 0o700


def test_a_wrong_answer_and_another_user_are_rejected(daemon: Daemon) -> None:
    _, network = start(daemon)
    with wire_to(network) as wire:
        assert wire.say(f"AUTH DBUS_COOKIE_SHA1 {MY_ID}").startswith("DATA ")
        assert wire.say("DATA " + b"mine 0123456789".hex()) == f"REJECTED {ALL}"
        assert wire.say("AUTH DBUS_COOKIE_SHA1 " + b"nobody".hex()) == f"REJECTED {ALL}"
        assert answer_with_cookie(daemon, wire).startswith("OK ")


def test_cookies_are_not_taken_from_a_folder_that_others_may_write(daemon: Daemon) -> None:
    keyrings = Path(daemon.folder, ".dbus-keyrings")
    keyrings.mkdir()
    keyrings.chmod(0o777)
    _, network = start(daemon)
    with wire_to(network) as wire:
        assert wire.say(f"AUTH DBUS_COOKIE_SHA1 {MY_ID}").startswith("REJECTED ")
    assert list(keyrings.iterdir()) == []


def test_nobody_is_let_in_without_allow_anonymous(daemon: Daemon) -> None:
    for entry in start(daemon):
        with wire_to(entry) as wire:
            wire.write(b"AUTH ANONYMOUS 30\r\nBEGIN\r\n")
            # the reference says OK, and hangs up nevertheless
            with suppress(AssertionError):
                assert wire.line().startswith(("REJECTED ", "OK "))
            assert wire.rest() == b""


def test_with_allow_anonymous_nobody_is_let_in_and_has_no_uid(daemon: Daemon) -> None:
    unix, network = start(daemon, "<allow_anonymous/>")
    with Client(path_of(unix)) as client, wire_to(network) as far, wire_to(unix) as near:
        for wire in (far, near):
            assert wire.say("AUTH ANONYMOUS " + b"a trace".hex()).startswith("OK ")
            name = hello(wire)
            assert fault(client, "GetConnectionUnixUser", name) == "Failed"
            known = client.ask("GetConnectionCredentials", "s", name)[0]
            assert "UnixUserID" not in known and "UnixGroupIDs" not in known
            # the reference calls the process of nobody knows whom 0
            assert known.get("ProcessID", ("u", 0)) == ("u", os.getpid() if wire is near else 0)
            assert daemon.is_reference or ("ProcessID" in known) is (wire is near)
            if wire is near:
                assert client.ask("GetConnectionUnixProcessID", "s", name) == [os.getpid()]
            elif not daemon.is_reference:
                assert fault(client, "GetConnectionUnixProcessID", name) == "UnixProcessIdUnknown"
            assert client.ask("GetNameOwner", "s", name) == [name]


# ---- the network ---------------------------------------------------------------------------------


def test_the_kernel_knows_nobody_behind_a_network_socket(daemon: Daemon) -> None:
    _, network = start(daemon)
    with wire_to(network) as wire:
        assert wire.say(f"AUTH EXTERNAL {MY_ID}").startswith("REJECTED ")
        assert wire.say("AUTH EXTERNAL") == "DATA"
        assert wire.say("DATA").startswith(("REJECTED ", "OK "))


def test_the_network_passes_no_descriptors(daemon: Daemon) -> None:
    _, network = start(daemon)
    with wire_to(network) as wire:
        assert answer_with_cookie(daemon, wire).startswith("OK ")
        assert wire.say("NEGOTIATE_UNIX_FD").startswith("ERROR ")
        assert hello(wire).startswith(":1.")


def test_a_network_client_is_called_and_answers_like_any_other(daemon: Daemon) -> None:
    unix, network = start(daemon)
    with Client(path_of(unix)) as client, wire_to(network) as wire:
        assert answer_with_cookie(daemon, wire).startswith("OK ")
        name = hello(wire)
        assert next_message(wire).member == "NameAcquired"
        client.call(name, "Greet", "s", "x" * 100_000)
        call = next_message(wire)
        assert (call.member, call.sender, call.args) == ("Greet", client.name, ["x" * 100_000])
        client.call(name, "Open", "h", 0, fds=[0])
        assert client.receive().error_name == "org.freedesktop.DBus.Error.NotSupported"


@pytest.mark.parametrize(
    "values",
    ["host=127.0.0.1", "host=127.0.0.1,port=0,family=ipv4", "host=nowhere,bind=*",
     "host=localhost,bind=127.0.0.1"],
)
def test_a_network_address_is_printed_with_the_port_that_was_found(daemon: Daemon, values: str) -> None:
    _, printed = daemon.serve("--config-file", daemon.configure(), f"--address=tcp:{values}")
    told = values_of(printed)
    assert told["host"] == values.partition("=")[2].partition(",")[0]
    assert 0 < int(told["port"]) < 65536
    with socket.create_connection(("127.0.0.1", int(told["port"]))) as probe:
        probe.sendall(b"\0AUTH\r\n")
        assert probe.recv(100).startswith(b"REJECTED ")


def test_a_port_that_is_taken_is_said(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = daemon.fails("--config-file", daemon.configure(), f"--address={NETWORK},port={port}")
        assert f'Failed to bind socket "127.0.0.1" port {port}: Address already in use' in said


def test_all_network_addresses_of_a_name_are_served_at_one_port(bridge: Daemon) -> None:
    _, printed = bridge.serve("--config-file", bridge.configure(), "--address=tcp:host=there,bind=*")
    port = int(values_of(printed)["port"])
    for where in ("127.0.0.1", "::1"):
        try:
            probe = socket.create_connection((where, port))
        except OSError:
            assert where == "::1" and not Path("/proc/net/if_inet6").read_text(), "a machine without IPv6"
            continue
        with probe:
            probe.sendall(b"\0AUTH\r\n")
            assert probe.recv(100).startswith(b"REJECTED ")


def test_a_network_address_on_which_nobody_can_sign_in_is_said(bridge: Daemon) -> None:
    process, _ = bridge.serve(
        "--config-file", bridge.configure("<auth>EXTERNAL</auth>"), f"--address={NETWORK}"
    )
    assert f"[session uid={UID} pid={process.pid}] nobody can sign in over tcp" in bridge.stop(process)


def test_nothing_listens_on_the_network_unless_it_was_asked_for(bridge: Daemon) -> None:
    process, address = bridge.serve("--config-file", bridge.configure())
    assert serves(address)
    inodes = set(targets_of_fds(process.pid))
    table = Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]
    assert not inodes & {f"socket:[{entry.split()[9]}]" for entry in table}
