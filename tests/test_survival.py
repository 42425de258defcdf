"""A bus that runs out of something lives on, and so do its clients: descriptors, memory, room on a disk."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bus1_bridge.switch import headroom
from bus1_bridge.switch.limits import Excess
from buses import Bus, eventually
from daemons import Daemon
from dbus_client import (
    DESTINATION,
    INTERFACE,
    MEMBER,
    PATH,
    SIGNAL,
    SIGNATURE,
    CallFailed,
    Client,
    Wire,
    message,
)
from pure_switch import ERROR, PureSwitch

import bus1

MIB = 1 << 20


# ---- descriptors ---------------------------------------------------------------------------------


@contextmanager
def descriptors_left(bus: Bus, n: int) -> Iterator[None]:
    """The bus may open so many more."""
    before = resource.prlimit(bus.pid, resource.RLIMIT_NOFILE)
    used = {int(fd) for fd in os.listdir(f"/proc/{bus.pid}/fd")}
    free = [number for number in range(before[1]) if number not in used]
    resource.prlimit(bus.pid, resource.RLIMIT_NOFILE, (free[n], before[1]))
    try:
        yield
    finally:
        resource.prlimit(bus.pid, resource.RLIMIT_NOFILE, before)


def test_without_descriptors_new_clients_wait_and_the_others_go_on(new_bus: Bus) -> None:
    one, two = new_bus.connect(), new_bus.connect()
    with descriptors_left(new_bus, 0):
        waiting = [new_bus.wire() for _ in range(3)]
        for wire in waiting:
            wire.write(b"\0AUTH\r\n")
        for _ in range(20):
            serial = one.call(two.name, "M")
            two.answer(two.receive())
            assert one.reply(serial).what == ()
        assert not select.select([wire.socket for wire in waiting], [], [], 0)[0]
    if new_bus.is_reference:
        return  # it looks again when it has closed something
    for wire in waiting:
        assert wire.line().startswith("REJECTED")
    assert "no more connections for a moment: Too many open files (RLIMIT_NOFILE=" in new_bus.log()


def test_connections_leave_room_for_messages_with_descriptors(bus1_bus: Bus) -> None:
    sender, reader = bus1_bus.connect(), bus1_bus.connect()
    with descriptors_left(bus1_bus, 150):
        crowd = []
        for number in range(145):
            crowd.append(bus1_bus.wire())
            crowd[-1].write(b"\0AUTH\r\n")
            if number < 100:
                # no more may be in the backlog at once
                assert crowd[-1].line().startswith("REJECTED")
        eventually(lambda: "no more connections for a moment" in bus1_bus.log(), bus1_bus.log)
        assert not select.select([crowd[-1].socket], [], [], 0)[0]
        # one that is read at once is closed again at once; what is kept is turned away
        with open(os.devnull, "rb") as file, pytest.raises(CallFailed) as caught:
            sender.request(reader.name, "M", "h", 0, fds=[file.fileno()])
        assert caught.value.name == "LimitsExceeded"
        text = caught.value.answer.args[0]
        assert "The bus has too few file descriptors left to keep those of this message (RLIMIT_" in text
        assert f'destination="{reader.name}" (uid={os.getuid()} pid={os.getpid()} comm="' in text
        sender.sync()
    for wire in crowd:
        wire.close()
    with open(os.devnull, "rb") as file:
        sender.emit("M", "h", 0, to=reader.name, fds=[file.fileno()])
        got = reader.receive()
        while not got.fds:
            got = reader.receive()
        reader.fds += got.fds


def test_the_number_of_a_descriptor_tells_how_many_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, first in ((1024, 1024 - headroom.RESERVE), (80, 70), (8, 7)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert headroom.shortage(first - 1) is None
        assert headroom.shortage(first) == Excess("RLIMIT_NOFILE", soft, first)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert headroom.shortage(1 << 30) is None


def test_a_shortage_refuses_what_would_be_kept_and_answers_whoever_waits() -> None:
    bus = PureSwitch()
    bus.tables.shortage = lambda number: Excess("RLIMIT_NOFILE", 64, number) if number >= 50 else None
    caller, callee, listener = bus.client(), bus.client(), bus.client()
    listener.call("AddMatch", "s", "member='Changed'")
    refused = caller.ask(callee.name, "Do", "h", 0, fds=(50,))
    got = caller.take()
    assert (got.error, got.reply_serial) == (ERROR + "LimitsExceeded", refused)
    assert "(RLIMIT_NOFILE=64, in use: 50)" in got.args[0]
    caller.emit("Changed", "h", 0, fds=(51,))
    assert not listener.take_all()
    waiting = caller.ask(callee.name, "Do", "h", 0, fds=(49,))
    callee.answer(callee.take(), "h", 0, fds=(52,))
    got = caller.take()
    assert (got.error, got.reply_serial) == (ERROR + "NoReply", waiting)
    assert sorted(bus.closed_fds) == [49, 50, 51, 52]
    assert {kind for _, _, kind in bus.refused()} == {"call", "broadcast", "reply"}
    bus.services["a.b.Sleeper"] = "sleep"
    caller.ask("a.b.Sleeper", "Do", "h", 0, fds=(53,))
    assert caller.take().error == ERROR + "LimitsExceeded"
    assert bus.closed_fds[-1] == 53
    bus.end()


# ---- memory --------------------------------------------------------------------------------------


def address_space(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")


def test_a_message_that_memory_does_not_suffice_for_costs_its_sender_alone(bus1_bus: Bus) -> None:
    greedy, one, two = (bus1_bus.connect() for _ in range(3))
    before = resource.prlimit(bus1_bus.pid, resource.RLIMIT_AS)
    limit = address_space(bus1_bus.pid) + 24 * MIB
    resource.prlimit(bus1_bus.pid, resource.RLIMIT_AS, (limit, before[1]))
    try:
        greedy.emit("M", "ay", bytes(100 * MIB), to=two.name)
        assert greedy.rest() == b""
        serial = one.call(two.name, "M")
        two.answer(two.receive())
        assert one.reply(serial).what == ()
        assert bus1_bus.connect().name
    finally:
        resource.prlimit(bus1_bus.pid, resource.RLIMIT_AS, before)
    one.emit("M", "ay", bytes(50 * MIB), to=two.name)
    assert len(two.receive().body) == 50 * MIB + 4
    assert f"closed the connection of {greedy.name} (uid=" in bus1_bus.log()
    assert "there is no memory for what it wants" in bus1_bus.log()


def unread(client: Client) -> int:
    """Bytes that the other side has not read yet."""
    return int.from_bytes(fcntl.ioctl(client.socket, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def test_a_message_that_cannot_be_copied_costs_its_sender_at_most(bus1_bus: Bus) -> None:
    """It lies in the bus already when memory runs out, and has to wait for its reader.

    The lane copies it for Python; where there is none, there is nothing to copy."""
    greedy, slow, one, two = (bus1_bus.connect() for _ in range(4))
    greedy.emit("M", "ay", bytes(17 * MIB), to=slow.name)
    greedy.sync()
    # it has said something else when it comes to the end of this one
    frames = [message(SIGNAL, n, [
        (PATH, "o", "/x"), (INTERFACE, "s", "x.Y"), (MEMBER, "s", "M"), (DESTINATION, "s", slow.name),
        (SIGNATURE, "g", "ay"),
    ], size.to_bytes(4, "little") + bytes(size)) for n, size in ((7, 20 * MIB), (8, 1))]
    said = b"".join(frames)
    greedy.write(said[: 20 * MIB])
    eventually(lambda: not unread(greedy), lambda: unread(greedy))
    before = resource.prlimit(bus1_bus.pid, resource.RLIMIT_AS)
    resource.prlimit(bus1_bus.pid, resource.RLIMIT_AS, (address_space(bus1_bus.pid) + 4 * MIB, before[1]))
    try:
        greedy.write(said[20 * MIB :])
        if bus1.__accelerated__:
            assert greedy.rest() == b""
        serial = one.call(two.name, "M")
        two.answer(two.receive())
        assert one.reply(serial).what == ()
    finally:
        resource.prlimit(bus1_bus.pid, resource.RLIMIT_AS, before)
    sizes = (17,) if bus1.__accelerated__ else (17, 20)
    assert [len(slow.receive().body) for _ in sizes] == [size * MIB + 4 for size in sizes]
    assert ("there is no memory for what it wants" in bus1_bus.log()) == bus1.__accelerated__


# ---- a full disk ---------------------------------------------------------------------------------

ON_A_FULL_DISK = """
mount -t tmpfs -o size=64k,nr_inodes={inodes} none "$1" && cp bus.conf "$1" && cd "$1" && {fill}; shift
exec "$@"
"""
FILL = "cat /dev/zero > filler 2> /dev/null"


def on_a_full_disk(daemon: Daemon, *, inodes: int, fill: str) -> tuple[list[str], str]:
    """What runs a daemon in a folder that is a small disk of its own, and that folder."""
    folder = daemon.folder / "disk"
    folder.mkdir()
    script = ON_A_FULL_DISK.format(inodes=inodes, fill=fill)
    return ["unshare", "-m", "sh", "-c", script, "sh", str(folder)], str(folder)


def can_mount() -> bool:
    return os.getuid() == 0 and subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], check=False, capture_output=True
    ).returncode == 0


may_mount = pytest.mark.skipif(not can_mount(), reason="this needs the permission to mount")


@may_mount
def test_a_socket_for_which_there_is_no_room_ends_the_start_in_words(bridge: Daemon) -> None:
    program, folder = on_a_full_disk(bridge, inodes=2, fill="true")
    config = bridge.configure(listen=[f"unix:path={folder}/bus"])
    said = bridge.fails("--config-file", config, "--print-address=1", program=program)
    assert "Failed to start message bus: " in said
    assert "No space left on device" in said and f"{folder}/bus" in said


@may_mount
@pytest.mark.parametrize("forks", ["", "<fork/>"])
def test_a_pid_file_for_which_there_is_no_room_ends_the_start_in_words(bridge: Daemon, forks: str) -> None:
    program, folder = on_a_full_disk(bridge, inodes=100, fill=FILL)
    config = bridge.configure(f"{forks}<pidfile>{folder}/pid</pidfile>")
    said = bridge.fails("--config-file", config, "--print-address=1", program=program)
    assert f'Failed to start message bus: Failed to write to "{folder}/pid": No space left on device' in said
    assert bridge.left == ["bus.conf", "disk"]


@may_mount
def test_a_full_disk_under_log_and_socket_ends_nothing(bridge: Daemon) -> None:
    program, folder = on_a_full_disk(bridge, inodes=100, fill=f"{FILL}; exec 2> log")
    config = bridge.configure()
    process, _ = bridge.serve("--config-file", config, program=program)
    for _ in range(3):
        with Wire(bridge.socket) as wire:
            wire.write(b"not a NUL")
            wire.rest()
    with Client(bridge.socket) as client:
        client.sync()
    assert Path(f"/proc/{process.pid}/root{folder}/log").stat().st_size == 0
    bridge.stop(process)
