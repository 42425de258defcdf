"""The command ``bus1``: its grammar, and what ``peers``, ``tree`` and ``quota`` tell of a known state."""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
from bus1_command import BUS1, Record, Shell, line
from buses import Bus
from core_bus import CoreBus, FlatMemory
from dbus_client import PATIENCE
from docutils.core import publish_string
from hypothesis import given
from hypothesis import strategies as st

from bus1 import __version__, cli
from bus1.addresses import native_address
from bus1.core.api import Limits
from bus1.errors import Denied
from bus1.frames import Operation, answer, refusal
from bus1.peer import Peer
from bus1.verbs import inspect, records
from bus1.verbs.output import Style, printable, table, wants_colour
from bus1.verbs.output import tree as drawn
from bus1.verbs.records import Document, quota
from bus1.verbs.verb import GROUP, Failure

PAGE = Path(__file__).parent.parent / "docs" / "bus1.1.rst"
VERBS = [
    "broker", "compare", "doctor", "install", "migrate", "new", "peers", "quota", "sandbox", "tree",
    "uninstall",
]
LOOKING = ["peers", "quota", "tree"]
ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    with shell.cleanup:
        yield shell


# ---- the grammar -----------------------------------------------------------------------------------


def test_help_lists_the_verbs_and_each_explains_itself_with_examples(shell: Shell) -> None:
    text = shell.says("--help")
    assert text == shell.says("-h")
    listed = re.findall(r"^  ([a-z]+) {2,}(.+)$", text.partition("verbs:\n")[2], re.M)
    assert [name for name, _ in listed] == VERBS
    assert "\nexamples:\n  bus1 " in text
    for name, summary in listed:
        assert summary == cli._load(_entry(name)).summary
        explained = shell.says(name, "--help")
        assert explained.startswith(f"usage: bus1 {name} ") and f"\nexamples:\n  bus1 {name}" in explained


def _entry(name: str) -> EntryPoint:
    (entry,) = entry_points(group=GROUP, name=name)
    return entry


def test_the_version_is_told(shell: Shell) -> None:
    assert shell.says("--version") == f"bus1 {__version__}\n"


def test_python_m_does_the_same(shell: Shell) -> None:
    shell.serve("--address=bus")
    for arguments in (["--help"], ["quota", "--json=short"]):
        done = shell.run(*arguments, program=[sys.executable, "-m", "bus1"])
        assert (done.returncode, done.stderr, done.stdout) == (0, "", shell.says(*arguments))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "bus1: error: a verb is needed"),
        (["--user"], "bus1: error: a verb is needed"),
        (["broke"], "bus1: error: unknown verb 'broke'"),
        (["--bogus", "peers"], "bus1: error: unrecognized arguments: --bogus"),
        (["peers", "--bogus"], "bus1 peers: error: unrecognized arguments: --bogus"),
        (["peers", "stray"], "bus1 peers: error: unrecognized arguments: stray"),
        (["peers", "--add=x"], "bus1 peers: error: unrecognized arguments: --add=x"),
        (["peers", "--json=long"], "argument --json: invalid choice: 'long'"),
        (["peers", "--json"], "argument --json: expected one argument"),
        (["peers", "--user", "--system"], "argument --system: not allowed with argument --user"),
        (["--user", "peers", "--address=x"], "argument --address: not allowed with argument --user"),
        (["tree", "1", "2"], "bus1 tree: error: unrecognized arguments: 2"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(shell: Shell, arguments: list[str], complaint: str) -> None:
    done = shell.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: bus1 ") and complaint in done.stderr


def test_options_may_stand_on_either_side_of_the_verb(shell: Shell) -> None:
    shell.serve("--address=bus")
    shell.peer()
    behind = shell.says("peers", "--json=short", "--address=bus")
    assert json.loads(behind)["peer"] == 1
    assert shell.says("--json=short", "--address=bus", "peers") == behind
    assert shell.says("--address", "bus", "peers", "--json", "short", BUS1_ADDRESS="nowhere") == behind
    assert shell.says("-j", "peers") == behind


def test_the_bus_is_found_as_clients_find_it(shell: Shell) -> None:
    shell.serve(f"--address={shell.folder}/bus1")
    shell.peer()
    beside = {"BUS1_ADDRESS": "", "DBUS_SESSION_BUS_ADDRESS": f"unix:path={shell.folder}/bus,guid=0"}
    found = shell.says("peers")
    for changes in ({"BUS1_ADDRESS": ""}, beside):
        assert shell.says("peers", **changes) == shell.says("peers", "--user", **changes) == found


def test_only_the_module_of_the_verb_is_loaded_and_none_that_serves() -> None:
    code = (
        "import sys; from bus1.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    for arguments, unwanted in (
        (["--help"], set()), (["peers", "--help"], {"bus1.verbs.broker"}),
        (["broker", "--help"], {"bus1.verbs.inspect"}), (["--version"], {"bus1.verbs.inspect"}),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.stdout
        serving = {"bus1.broker", "bus1.core.bus", "bus1.reactor", "sortedcontainers"}
        asynchronous = {"asyncio", "anyio", "dbus_fast", "logging"}
        assert not set(done.stderr.split()) & (serving | asynchronous | unwanted)


def test_a_verb_that_cannot_be_loaded_is_a_failure_in_words(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = EntryPoint("broken", "bus1.no_such_module:COMMAND", GROUP)
    monkeypatch.setattr(cli, "entry_points", lambda group: [broken, _entry("peers")])
    assert cli.main(["broken"]) == 1
    assert "bus1: the verb broken cannot be loaded: " in capfd.readouterr().err
    assert cli.main(["--help"]) == 0
    output = capfd.readouterr().out
    assert "(the verb broken cannot be loaded" in output and "list the peers of a bus" in output


# ---- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", LOOKING)
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nowhere", "No such file or directory"), ("@bus1-nobody-listens", "Connection refused"),
        ("x" * 108, "AF_UNIX path too long"), (".", "Connection refused"),
    ],
)
def test_a_bus_that_is_not_there_is_a_failure_in_words(
    shell: Shell, verb: str, address: str, reason: str
) -> None:
    assert shell.fails(verb, f"--address={address}") == f"no bus at {address}: {reason}"


def test_what_is_in_the_environment_may_be_wrong_too(shell: Shell) -> None:
    said = shell.fails("peers", DBUS_SESSION_BUS_ADDRESS="tcp:host=localhost")
    assert said == "no native socket lies beside DBUS_SESSION_BUS_ADDRESS='tcp:host=localhost'"


class Impostor:
    """Answers the first connection with bytes of its own."""

    def __init__(self, said: bytes) -> None:
        self.address = f"@bus1-impostor-{os.getpid()}"
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind("\0" + self.address[1:])
        self.sock.listen()
        self.said = said

    def __enter__(self) -> Impostor:
        code = (
            "import socket, sys; c, _ = socket.socket(fileno=int(sys.argv[1])).accept()\n"
            "c.sendall(bytes.fromhex(sys.argv[2])); c.shutdown(1)\nwhile c.recv(4096): pass"
        )
        number = self.sock.fileno()
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(number), self.said.hex()], pass_fds=[number]
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()
        self.process.kill()
        self.process.wait()


WELCOME = answer(Operation.HELLO, 1, bytes(4) + bytes(36))
GREETED = answer(Operation.HELLO, 1, b"\1\0\0\0" + bytes(36))


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (b"", "the bus has closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a frame of 1347703880 bytes with 12590 descriptors"),
        (WELCOME, "the bus answers with version 0"),
        (GREETED, "the bus has closed the connection"),
        (refusal(Denied("go \x1b[2J away")), r"go \x1b[2J away"),
    ],
)
def test_what_is_no_bus_is_a_failure_in_words(shell: Shell, said: bytes, complaint: str) -> None:
    with Impostor(said) as impostor:
        assert shell.fails("peers", f"--address={impostor.address}") == complaint


def test_a_bus_that_does_not_answer_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(inspect, "PATIENCE", 0.01)
    with closing(socket.socket(socket.AF_UNIX)) as silent:
        silent.bind(str(tmp_path / "bus"))
        silent.listen()
        with pytest.raises(Failure, match="does not answer"):
            inspect.fetch(str(tmp_path / "bus"))


@pytest.mark.parametrize("document", [b"{}", b"[]", b"nonsense", b'{"format": 2}', b"\xff"])
def test_a_document_of_another_kind_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, shell: Shell, document: bytes
) -> None:
    shell.serve("--address=bus")
    asked = inspect._ask

    def changed(sock: Any, client: Any, request: Any) -> Any:
        result = asked(sock, client, request)
        return document if request.operation == Operation.SNAPSHOT else result

    monkeypatch.setattr(inspect, "_ask", changed)
    with pytest.raises(Failure, match="sent"):
        inspect.fetch(shell.address)


@pytest.mark.parametrize("command", [["peers"], ["--help"], ["tree", "--json=short"], ["peers", "--help"]])
def test_a_reader_that_has_seen_enough_is_no_failure_to_talk_of(shell: Shell, command: list[str]) -> None:
    shell.serve("--address=bus")
    shell.peer()
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as nobody:
        process = shell.start(*command, stdout=nobody)
        _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (1, b"")


def test_output_that_cannot_be_written_is_a_failure_in_words(shell: Shell) -> None:
    shell.serve("--address=bus")
    for command in (["quota"], ["--help"]):
        with open("/dev/full", "wb") as full:
            process = shell.start(*command, stdout=full)
            _, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, errors) == (1, b"bus1: No space left on device\n")


# ---- a bus whose state is known --------------------------------------------------------------------


class Scene:
    """Three peers of this process, numbered 1 to 3 in this order, and what is left of a fourth."""

    def __init__(self, shell: Shell) -> None:
        shell.serve("--address=bus")
        self.ann, self.bob, self.cat = ann, bob, cat = [shell.peer() for _ in range(3)]
        with Peer.connect(shell.address) as dan:
            self.orphan = dan.transfer(0x40, ann)
            dan.disconnect()
        with ann.recv() as message:
            assert message.type.name == "NODE_DESTROY"
        self.to_bob = bob.transfer(0x10, ann)
        self.to_cat = cat.transfer(0x20, ann)
        for _ in range(2):
            cat.transfer(0x20, ann)
        # bob: one message has been received and not given back, two more wait, with a node and a descriptor
        ann.send([self.to_bob], b"r" * 100)
        self.kept = bob.recv()
        ann.send([self.to_bob], b"q" * 50, [0x100], [0])
        ann.send([self.to_bob], b"", [0x100, self.to_cat])
        # cat holds a node that is dead, and one that its owner has let go
        self.dead = ann.transfer(0x200, cat)
        self.let_go = ann.transfer(0x300, cat)
        ann.destroy([0x200, 0x300])
        ann.release(0x300)
        ann.recv()
        for _ in range(2):
            cat.recv()
        cat.set_seed(b"seed", [0x500])


def test_peers_says_what_each_has_and_uses(shell: Shell) -> None:
    scene = Scene(shell)
    records = shell.records("peers")
    command = Path("/proc/self/comm").read_text().rstrip("\n")
    for number, record in enumerate(records, 1):
        who = {"peer": number, "uid": os.getuid(), "user": ME, "pid": os.getpid(), "command": command}
        assert record == record | who | {"names": [], "channels": [os.getpid()]}
    assert [_counts(record) for record in records] == [
        # ann: 0x100; handles to dan's, bob's and cat's nodes
        {"nodes": 1, "handles": 3, "queued": 0, "slices": 0, "fds": 0},
        {"nodes": 1, "handles": 0, "queued": 2, "slices": 1, "fds": 1},
        {"nodes": 2, "handles": 2, "queued": 0, "slices": 0, "fds": 0},
    ]
    assert records[1]["bytes"] >= 150 and records[0]["bytes"] == 0
    scene.kept.release()
    scene.bob.recv().release()
    (bob,) = [record for record in shell.records("peers") if record["peer"] == 2]
    assert _counts(bob) == {"nodes": 1, "handles": 1, "queued": 1, "slices": 0, "fds": 0}


def _counts(record: Record) -> Record:
    return {name: record[name] for name in ("nodes", "handles", "queued", "slices", "fds")}


def test_the_table_says_the_same_as_the_records(shell: Shell) -> None:
    Scene(shell)
    records = shell.records("peers")
    head, *rows = shell.says("peers").splitlines()
    names = [name.lower() for name in head.split()]
    assert set(names) == records[0].keys() - {"uid", "channels"} and names[-1] == "names"
    for row, record in zip(rows, records, strict=True):
        assert row.split() == [str(record[name]) for name in names[:-1]]
    without_heads = shell.says("peers", "--no-legend").splitlines()
    assert [row.split() for row in without_heads] == [row.split() for row in rows]
    assert json.loads(shell.says("peers", "--json=pretty")) == records
    assert shell.says("peers", "--json=off") == shell.says("peers")


def test_an_empty_bus_has_nobody(shell: Shell) -> None:
    shell.serve("--address=bus")
    assert shell.says("peers").split() == [name.upper() for name in inspect._COLUMNS]
    assert shell.says("peers", "--no-legend") == shell.says("tree") == shell.says("quota", "-j") == ""
    assert json.loads(shell.says("tree", "--json=pretty")) == []


def test_tree_says_who_holds_what(shell: Shell) -> None:
    scene = Scene(shell)
    ann, bob, cat, dan = shell.records("tree")
    assert (ann["peer"], ann["pid"], dan["peer"], dan["gone"]) == (1, os.getpid(), 4, True)
    assert ann["nodes"] == [
        _node(0x100, in_flight=[{"peer": 2, "messages": 2}]),
        _node(0x200, dead=True, holders=[{"peer": 3, "handle": scene.dead, "references": 1}]),
        _node(None, dead=True, holders=[{"peer": 3, "handle": scene.let_go, "references": 1}]),
    ]
    assert bob["nodes"] == [_node(0x10, holders=[{"peer": 1, "handle": scene.to_bob, "references": 1}])]
    held_by_ann = {"peer": 1, "handle": scene.to_cat, "references": 3}
    assert cat["nodes"] == [
        _node(0x20, holders=[held_by_ann], in_flight=[{"peer": 2, "messages": 1}]), _node(0x500, seeds=[3]),
    ]
    assert dan["nodes"] == [
        _node(None, dead=True, holders=[{"peer": 1, "handle": scene.orphan, "references": 1}])
    ]
    by_handle = {held["handle"]: held for held in ann["holds"]}
    assert by_handle == {
        scene.orphan: _held(scene.orphan, 4, None, dead=True), scene.to_bob: _held(scene.to_bob, 2, 0x10),
        scene.to_cat: _held(scene.to_cat, 3, 0x20, references=3),
    }
    assert (bob["holds"], dan["holds"]) == ([], [])
    assert cat["holds"] == [
        _held(scene.dead, 1, 0x200, dead=True), _held(scene.let_go, 1, None, dead=True)
    ]


def _node(
    number: int | None, *, dead: bool = False, holders: Any = (), in_flight: Any = (), seeds: Any = ()
) -> Record:
    return {
        "node": number, "dead": dead, "holders": list(holders), "in_flight": list(in_flight),
        "seeds": list(seeds),
    }


def _held(
    handle: int, owner: int, node: int | None, *, references: int = 1, dead: bool = False
) -> Record:
    return {"handle": handle, "owner": owner, "node": node, "references": references, "dead": dead}


def test_the_tree_is_drawn(shell: Shell) -> None:
    scene = Scene(shell)
    comm = Path("/proc/self/comm").read_text().rstrip("\n")
    who = f"({ME}, pid {os.getpid()} {comm})"
    expected = f"""\
peer 1 {who}
├─ node 0x100
│  └─ on its way to peer 2, in 2 messages
├─ node 0x200, destroyed
│  └─ peer 3 holds it as {scene.dead:#x}, 1 reference
├─ node without id, destroyed
│  └─ peer 3 holds it as {scene.let_go:#x}, 1 reference
"""
    drawn_for_ann = shell.says("tree", "1")
    assert drawn_for_ann.startswith(expected)
    assert drawn_for_ann.splitlines()[-1] == (
        f"└─ holds {scene.to_cat:#x}: node 0x20 of peer 3, 3 references"
    )
    whole = shell.says("tree")
    assert whole.startswith(drawn_for_ann)
    assert f"peer 3 {who}\n├─ node 0x20\n" in whole
    assert "├─ node 0x500\n│  └─ in the seed of peer 3\n" in whole
    assert whole.endswith(
        "peer 4 (gone)\n└─ node without id, destroyed\n"
        f"   └─ peer 1 holds it as {scene.orphan:#x}, 1 reference\n"
    )


def test_tree_shows_one_peer_alone(shell: Shell) -> None:
    Scene(shell)
    assert [record["peer"] for record in shell.records("tree", "2")] == [2]
    assert [record["peer"] for record in shell.records("tree", "4")] == [4]
    for nobody in ("5", "0", "org.example.Name"):
        assert shell.fails("tree", nobody) == f"there is no peer {nobody} on this bus"


def test_quota_says_who_uses_how_much(shell: Shell) -> None:
    """Q-1, Q-16: what is on its way, and what has been received and not given back, is the receiver's."""
    Scene(shell)
    mine = os.getuid()
    rows = {(record["peer"], record["resource"]): record for record in shell.records("quota")}
    assert {peer for peer, _ in rows} == {None, 1, 2, 3}
    assert {record["user"] for record in rows.values()} == {ME}
    bobs = {resource: rows[2, resource] for resource in ("slices", "handles", "bytes", "fds")}
    assert (bobs["slices"]["used"], bobs["fds"]["used"]) == (3, 1)
    assert bobs["handles"]["used"] == 1 + 3  # the pinned one, and three on their way
    assert {name: bobs[name]["limit"] for name in bobs} == {
        "slices": Limits().slices, "handles": Limits().handles, "bytes": Limits().inflight_bytes,
        "fds": Limits().inflight_fds,
    }
    # a share is what has not been received: one slice less
    assert bobs["slices"]["shares"] == [{"uid": mine, "user": ME, "used": 2}]
    assert bobs["fds"]["shares"] == [{"uid": mine, "user": ME, "used": 1}]
    for resource in bobs:
        used = [record["used"] for (peer, name), record in rows.items() if peer and name == resource]
        assert rows[None, resource]["used"] == sum(used)


def test_the_quota_table_says_the_same_as_the_records(shell: Shell) -> None:
    Scene(shell)
    head, *rows = shell.says("quota").splitlines()
    assert head.split() == ["USER", "PEER", "RESOURCE", "USED", "LIMIT", "SHARES"]
    for row, record in zip(rows, shell.records("quota"), strict=True):
        shares = [f"{share['user']} {share['used']}" for share in record["shares"]]
        peer = "-" if record["peer"] is None else str(record["peer"])
        expected = [record["user"], peer, record["resource"], str(record["used"]), str(record["limit"])]
        assert row.split(maxsplit=5) == [*expected, *shares]


def test_quota_of_one_user_by_name_or_number(shell: Shell) -> None:
    shell.serve("--address=bus", "--max-slices=77")
    shell.peer()
    by_number = shell.says("quota", str(os.getuid()))
    assert by_number == shell.says("quota", ME) == shell.says("quota")
    idle = shell.records("quota", "4000000000")
    assert {(record["peer"], record["used"]) for record in idle} == {(None, 0)}
    assert {record["user"] for record in idle} == {"4000000000"}
    assert idle[0]["limit"] == 77
    assert shell.fails("quota", "no-such-user") == "there is no user no-such-user"


def document_of(bus: CoreBus) -> Document:
    return Document(json.loads(json.dumps({"core": bus.snapshot(), "peers": {}})))


def test_quota_tells_the_shares_of_other_users() -> None:
    """Q-4, Q-8: what each sending user has undelivered, at the user and at each of its peers."""
    bus = CoreBus()
    victim, second = bus.peer(1001, FlatMemory()), bus.peer(1001, FlatMemory())
    for uid, count in ((1002, 3), (1003, 1)):
        sender = bus.peer(uid)
        handle = victim.transfer(0x10, sender)
        for _ in range(count):
            sender.send([handle], b"x" * 8)
    sender.send([second.transfer(0x20, sender)], b"x" * 8)
    records = [record for record in quota(document_of(bus), 1001) if record["resource"] == "slices"]
    told = [
        (record["peer"], record["used"], {share["uid"]: share["used"] for share in record["shares"]})
        for record in records
    ]
    assert told == [(None, 5, {1002: 3, 1003: 2}), (1, 4, {1002: 3, 1003: 1}), (2, 1, {1003: 1})]
    assert {record["uid"] for record in quota(document_of(bus))} == {1001, 1002, 1003}


def test_a_user_whose_limits_were_set_has_those_also_without_peers() -> None:
    bus = CoreBus()
    bus.core.set_user_limits(1001, Limits(slices=5))
    limits = {record["uid"]: record["limit"] for uid in (1001, 1002)
              for record in quota(document_of(bus), uid) if record["resource"] == "slices"}
    assert limits == {1001: 5, 1002: Limits().slices}


def test_peers_that_nobody_knows_more_of_are_shown_with_their_user() -> None:
    bus = CoreBus()
    bus.peer(1001)
    (record,) = records.peers(document_of(bus))
    assert (record["uid"], record["pid"], record["command"], record["channels"]) == (1001, None, None, None)


# ---- on bus1-bridge --------------------------------------------------------------------------------


def test_d_bus_connections_are_peers_with_names(bus1_bus: Bus, shell: Shell) -> None:
    client = bus1_bus.connect()
    assert client.ask("RequestName", "su", "org.example.Clock", 0) == [1]
    shell.address = native_address(bus1_bus.address) or ""
    native = shell.peer()
    records = shell.records("peers")
    (driver,) = [record for record in records if record["names"] == ["org.freedesktop.DBus"]]
    assert (driver["pid"], driver["channels"]) == (bus1_bus.pid, None)
    (clock,) = [record for record in records if client.name in record["names"]]
    assert clock["names"] == [client.name, "org.example.Clock"]
    assert (clock["pid"], clock["user"], clock["channels"]) == (os.getpid(), ME, None)
    (mine,) = [record for record in records if record["channels"] == [os.getpid()]]
    assert mine["names"][0].startswith(":1.")
    # what the endpoint granted to the native peer is the registry, a node of the bus
    (shown,) = shell.records("tree", mine["names"][0])
    assert [(held["handle"], held["owner"]) for held in shown["holds"]] == [
        (native.granted[0], driver["peer"])
    ]
    for name in ("org.example.Clock", client.name):
        assert [record["peer"] for record in shell.records("tree", name)] == [clock["peer"]]
    assert f"{client.name} org.example.Clock" in shell.says("peers")
    shown_first = f"peer {clock['peer']} ({ME}, pid {os.getpid()} "
    assert shell.says("tree", "org.example.Clock").startswith(shown_first)
    assert shell.records("quota", ME)


# ---- text from elsewhere, terminals ----------------------------------------------------------------


def named(shell: Shell, name: str) -> None:
    """A process that has a peer, and this name."""
    code = (
        "import sys; from bus1.peer import Peer; p = Peer.connect(sys.argv[1])\n"
        "open('/proc/self/comm', 'wb').write(bytes.fromhex(sys.argv[2]))\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    arguments = (code, shell.address, name.encode().hex())
    process = shell.start("-c", *arguments, program=[sys.executable], stdin=subprocess.PIPE)
    assert line(process.stdout) == "ready"


def test_the_name_of_a_process_cannot_control_the_terminal(shell: Shell) -> None:
    shell.serve("--address=bus")
    named(shell, "\x1b[2J\x07\r\x9b\\")
    name = "\x1b[2J\x07\r\x9b\\"
    assert [record["command"] for record in shell.records("peers")] == [name]
    escaped = r"\x1b[2J\x07\r\x9b\\"
    for verb in ("peers", "tree"):
        for text in (shell.says(verb), shell.on_terminal(verb, "--no-pager", NO_COLOR="1")):
            assert escaped in text
            assert all(char.isprintable() or char == "\n" for char in text)
    assert all(char.isprintable() or char == "\n" for char in shell.says("peers", "--json=pretty"))


@given(st.text(st.characters(codec=None, exclude_categories=[]), max_size=8), st.text(max_size=8))
def test_whatever_is_printed_is_printable_and_stays_apart(one: str, other: str) -> None:
    assert printable(one).isprintable()
    assert (printable(one) == printable(other)) == (one == other)


def test_what_the_encoding_does_not_have_is_escaped(shell: Shell) -> None:
    shell.serve("--address=bus")
    shell.peer().transfer(0x10)
    named(shell, "é")
    text = shell.says("tree", PYTHONIOENCODING="ascii")
    assert text.isascii() and "`- node 0x10" in text and " \\xe9)" in text
    assert "└─ node 0x10" in (text := shell.says("tree")) and " é)" in text


def test_json_is_pretty_on_a_terminal_and_short_elsewhere(shell: Shell) -> None:
    shell.serve("--address=bus")
    shell.peer()
    shown = shell.on_terminal("peers", "-j")
    assert shown == shell.says("peers", "--json=pretty") and shown.count("\n") > 5
    assert shell.says("peers", "-j") == shell.says("peers", "--json=short")
    assert shell.says("peers", "-j").count("\n") == 1


def test_text_is_paged_on_a_terminal_unless_that_is_unwanted(shell: Shell) -> None:
    shell.serve("--address=bus")
    shell.peer()
    pager = "sed s/^/PAGED:/"
    plain = shell.says("peers", PAGER=pager)
    paged = "".join(f"PAGED:{row}\n" for row in plain.splitlines())
    no_colour = {"NO_COLOR": "1"}
    assert shell.on_terminal("peers", PAGER=pager, **no_colour) == paged
    assert shell.on_terminal("peers", SYSTEMD_PAGER=pager, PAGER="false", **no_colour) == paged
    for changes in ({"SYSTEMD_PAGER": "", "PAGER": pager}, {"PAGER": ""}, {"PAGER": "/nonexistent/pager"}):
        assert shell.on_terminal("peers", **changes, **no_colour) == plain
    assert shell.on_terminal("peers", "--no-pager", PAGER=pager, **no_colour) == plain
    assert shell.on_terminal("peers", "--json=short", PAGER=pager) == shell.says("peers", "--json=short")


def test_colour_is_for_terminals_and_nobody_who_objects(shell: Shell) -> None:
    shell.serve("--address=bus")
    coloured = shell.on_terminal("peers", "--no-pager")
    assert coloured.startswith("\x1b[4mPEER")
    assert "\x1b" not in shell.says("peers")
    assert "\x1b" not in shell.on_terminal("peers", "--no-pager", NO_COLOR="1")
    assert shell.says("peers", SYSTEMD_COLORS="1").startswith("\x1b[4mPEER")
    for environment, is_terminal, expected in (
        ({}, True, True), ({}, False, False), ({"NO_COLOR": ""}, True, True), ({"TERM": "dumb"}, True, False),
        ({"SYSTEMD_COLORS": "false"}, True, False), ({"SYSTEMD_COLORS": "256", "NO_COLOR": "1"}, False, True),
    ):
        assert wants_colour(environment, is_terminal) is expected


def test_columns_are_as_wide_as_what_stands_in_them() -> None:
    rows = [["a", 1, None], ["long", 1000, "x\ty"]]
    assert table(["NAME", "N", "REST"], rows, Style()) == (
        "NAME    N REST\n"
        "a       1 -\n"
        "long 1000 x\\ty\n"
    )
    assert table(["A", "B"], [], Style()) == "A B\n"
    assert table(["A"], [], Style(has_legend=False)) == ""


def test_branches_hang_where_they_belong() -> None:
    text = drawn([("a", [("b", [("c", [])]), ("d", [("e", [])])]), ("f", [])], Style(has_lines=False))
    assert text == "a\n|- b\n|  `- c\n`- d\n   `- e\nf\n"


# ---- the manual page -------------------------------------------------------------------------------


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {flag for action in parser._actions for flag in action.option_strings}


def test_every_option_and_every_verb_is_in_the_page(shell: Shell) -> None:
    page = PAGE.read_text()
    described = set(re.findall(r"^(--?[a-z][\w-]*(?:, --?[a-z][\w-]*)*)", page, re.M))
    told = {flag for flags in described for flag in flags.split(", ")}
    expected = set(re.findall(r"^  (?:(-\w), )?(--[\w-]+|-\w)", shell.says("--help"), re.M))
    known = {flag for pair in expected for flag in pair if flag}
    for verb in VERBS:
        assert f"\n{verb}\n{'-' * len(verb)}\n" in page
        known |= options_of(cli.parser_of(verb, cli._load(_entry(verb))))
    assert told == known


def test_the_page_tells_the_environment_and_the_defaults() -> None:
    page = PAGE.read_text()
    limits = Limits()
    for number in (limits.slices, limits.handles, limits.inflight_bytes, limits.inflight_fds):
        assert f" {number} unless given." in page
    told = page.partition("ENVIRONMENT\n")[2]
    for name in ("BUS1_ADDRESS", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "LISTEN_FDS", "LISTEN_PID",
                 "NOTIFY_SOCKET", "SYSTEMD_PAGER", "PAGER", "NO_COLOR", "SYSTEMD_COLORS"):
        assert f"``{name}``" in told


def test_the_page_builds_without_a_warning() -> None:
    settings: Record = {"report_level": 1, "halt_level": 1, "syntax_highlight": "none"}
    page = publish_string(
        PAGE.read_text(), source_path=str(PAGE), writer="manpage", settings_overrides=settings
    )
    text = page.decode() if isinstance(page, bytes) else str(page)
    assert re.search(r'^\.TH "BUS1" "1"', text, re.M | re.I)


def test_the_commands_of_the_pages_examples_run(shell: Shell) -> None:
    lines = re.findall(r"^    \$ (.+)$", PAGE.read_text(), re.M)
    script = "\n".join(lines[:4]).replace("/tmp/bus", f"{shell.folder}/bus").replace(
        " &", " & until [ -S bus ]; do :; done"
    ).replace("bus1 ", f"{BUS1} ")
    done = shell.run("-c", f"{script}\nkill $!; wait $!", program=["/bin/sh"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("PEER USER")


def test_a_refused_channel_is_told_why(shell: Shell) -> None:
    """What the bus says before it closes is what the user reads."""
    shell.serve("--address=bus", "--channels-per-user=1")
    shell.peer()
    for verb in LOOKING:
        assert shell.fails(verb) == f"user {os.getuid()} has too many channels: at most 1"
