"""What the bus is asked all day is answered without Python, and everything else about the bus by it alone.

Theory. As in test_lane_policy the test turns the crank, and notes which messages get to the router. That both
bodies answer the same is compared elsewhere (test_twin_buses): here it counts who does it.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dbus_client import BUS, BUS_PATH, Client, Message
from test_lane_policy import DEBIAN, OPEN, Scene, scene

from bus1 import acceleration
from bus1.record import replace

__all__ = ["scene"]  # the fixture
pytestmark = pytest.mark.skipif(acceleration.native is None, reason="there is no native body")
PEER = "org.freedesktop.DBus.Peer"
STATISTICS = f"{BUS}.Debug.Stats"
RULE = "type='signal',interface='t.I'"


def asked(scene: Scene, client: Client, member: str, *args: str, **more: Any) -> Message:
    """The answer; ``told`` are the messages that Python has had to do with since."""
    scene.told.clear()
    fields = {"path": BUS_PATH, "interface": BUS, **more}
    answer: Message = scene.during(
        lambda: client.reply(client.call(BUS, member, "s" * len(args), *args, **fields))
    )
    return answer


def ask(scene: Scene, client: Client, member: str, *args: str, **more: Any) -> list[Any] | str:
    """What is answered, or the name of the error."""
    answer = asked(scene, client, member, *args, **more)
    return answer.error_name or answer.args


def test_what_clients_ask_all_day_needs_no_python(scene: Scene) -> None:
    scene.follow(OPEN)
    owner, client = scene.client("t.Owner"), scene.client()
    for member, args, answer in (
        ("GetId", (), ["1" * 32]), ("AddMatch", (RULE,), []), ("AddMatch", (RULE,), []),
        ("RemoveMatch", ("interface=t.I,type=signal",), []), ("NameHasOwner", ("t.Owner",), [True]),
        ("NameHasOwner", ("t.Nobody",), [False]), ("NameHasOwner", (owner.name,), [True]),
        ("NameHasOwner", ("no name",), [False]), ("NameHasOwner", (BUS,), [True]),
        ("GetNameOwner", ("t.Owner",), [owner.name]), ("GetNameOwner", (client.name,), [client.name]),
        ("GetNameOwner", (BUS,), [BUS]), ("GetConnectionUnixUser", ("t.Owner",), [os.getuid()]),
        ("GetConnectionUnixUser", (BUS,), [os.getuid()]),
        ("GetConnectionUnixProcessID", (owner.name,), [os.getpid()]),
    ):
        for interface in (BUS, None):
            for path in (BUS_PATH, "/x"):
                assert (ask(scene, client, member, *args, interface=interface, path=path), scene.told) == (
                    answer, [],
                ), member
    for interface in (PEER, None):
        assert (ask(scene, client, "Ping", interface=interface), scene.told) == ([], [])


@pytest.mark.parametrize(("member", "args", "error"), [
    ("GetNameOwner", ("t.Nobody",), "NameHasNoOwner"), ("GetNameOwner", (":1.77",), "NameHasNoOwner"),
    ("GetNameOwner", (), "InvalidArgs"), ("GetNameOwner", ("t.Owner", "t.Owner"), "InvalidArgs"),
    ("GetConnectionUnixUser", ("t.Nobody",), "NameHasNoOwner"),
    ("GetConnectionUnixProcessID", ("",), "NameHasNoOwner"),
    ("GetConnectionCredentials", ("t.Nobody",), "NameHasNoOwner"),
    ("AddMatch", ("no rule",), "MatchRuleInvalid"), ("AddMatch", ("x" * 5000,), "LimitsExceeded"),
    ("RemoveMatch", (RULE,), "MatchRuleNotFound"), ("Hello", (), "Failed"), ("GetWell", (), "UnknownMethod"),
])
def test_errors_are_python_s(scene: Scene, member: str, args: tuple[str, ...], error: str) -> None:
    scene.client("t.Owner")
    client = scene.client()
    assert ask(scene, client, member, *args) == f"{BUS}.Error.{error}"
    assert scene.told == [member]


def test_what_is_known_of_a_client_comes_with_its_process_to_who_takes_descriptors(scene: Scene) -> None:
    scene.client("t.Owner")
    client = scene.client()
    plain = scene.cleanup.enter_context(scene.during(lambda: Client(scene.crank.path, takes_fds=False)))
    for asker in (client, plain):
        got = asked(scene, asker, "GetConnectionCredentials", "t.Owner")
        known = values(got)
        assert scene.told == [] and (known["UnixUserID"], known["ProcessID"]) == (os.getuid(), os.getpid())
        assert known["UnixGroupIDs"] == sorted({os.getgid(), *os.getgroups()})
        expected = int(asker is client and knows_processes(client))
        assert (len(got.fds), list(known).count("ProcessFD")) == (expected, expected)
        for process in got.fds:
            assert f"Pid:\t{os.getpid()}\n" in Path(f"/proc/self/fdinfo/{process}").read_text()
            os.close(process)
    known = values(asked(scene, client, "GetConnectionCredentials", BUS))
    assert scene.told == [] and "UnixGroupIDs" not in known and known["ProcessID"] == os.getpid()


def values(answer: Message) -> dict[str, Any]:
    """What is in a dictionary of variants."""
    return {key: value for key, (_, value) in answer.args[0].items()}


def knows_processes(client: Client) -> bool:
    """The kernel gives a descriptor of who has connected."""
    with suppress(OSError):
        os.close(client.socket.getsockopt(socket.SOL_SOCKET, 77))
        return True
    return False


def test_who_may_not_have_descriptors_of_the_bus_is_python_s(scene: Scene) -> None:
    client = scene.client()
    about = 'receive_type="method_return" receive_requested_reply="true" min_fds="1"'
    scene.follow(DEBIAN, f'<deny receive_sender="{BUS}" {about}/>')
    assert (ask(scene, client, "GetConnectionUnixUser", client.name), scene.told) == ([os.getuid()], [])
    asked_for = client.call(BUS, "GetConnectionCredentials", "s", client.name, interface=BUS)
    client.call(BUS, "GetId", interface=BUS)
    is_refused = scene.next(client).reply_serial != asked_for
    assert is_refused == knows_processes(client) == ("GetConnectionCredentials" in scene.told)


def test_rules_that_were_added_here_count_and_are_known(scene: Scene) -> None:
    scene.follow(OPEN)
    emitter, client = scene.client(), scene.client()
    assert ask(scene, client, "AddMatch", RULE) == [] and scene.told == []
    emitter.emit("S", interface="t.I")
    assert scene.passed(client).member == "S"
    rules = asked(scene, client, "GetAllMatchRules", interface=STATISTICS).args[0]
    assert rules[client.name] == [RULE]
    assert ask(scene, client, "RemoveMatch", RULE) == [] and scene.told == []
    emitter.emit("S", interface="t.I")
    assert ask(scene, client, "GetId") == ["1" * 32]
    assert ask(scene, client, "RemoveMatch", RULE) == f"{BUS}.Error.MatchRuleNotFound"


def test_one_rule_more_than_a_client_may_have_is_python_s(scene: Scene) -> None:
    client = scene.client()
    limits = replace(scene.router.limits, max_match_rules_per_connection=2)
    scene.router.configure(limits, scene.router.tables.policy)
    for _ in range(2):
        assert ask(scene, client, "AddMatch", RULE) == [] and scene.told == []
    assert ask(scene, client, "AddMatch", RULE) == f"{BUS}.Error.LimitsExceeded"
    assert scene.told[0] == "AddMatch"
    assert ask(scene, client, "RemoveMatch", RULE) == [] and scene.told == []
    assert ask(scene, client, "AddMatch", RULE) == [] and scene.told == []


def test_who_eavesdrops_or_did_is_told_by_python(scene: Scene) -> None:
    client = scene.client()
    for member in ("AddMatch", "RemoveMatch"):
        assert ask(scene, client, member, "eavesdrop='true'") == []
        assert scene.told == [member]
    assert not scene.router.delivery.eavesdroppers


def test_a_call_that_wants_no_answer_has_its_effect_alone(scene: Scene) -> None:
    scene.follow(OPEN)
    client = scene.client()
    scene.told.clear()
    for member, interface, args in (("AddMatch", BUS, [RULE]), ("Ping", PEER, []), ("GetId", BUS, [])):
        client.call(BUS, member, "s" * len(args), *args, interface=interface, flags=1)
    # values are sent whether anybody wants them or not
    assert scene.next(client).args == ["1" * 32]
    assert ask(scene, client, "RemoveMatch", RULE) == [] and scene.told == []


def test_names_are_known_from_one_owner_to_the_next(scene: Scene) -> None:
    one, two, client = scene.client("t.Name"), scene.client(), scene.client()
    scene.during(lambda: two.own("t.Name"))
    for owner in (one, two):
        assert (ask(scene, client, "GetNameOwner", "t.Name"), scene.told) == ([owner.name], [])
        scene.during(partial(owner.ask, "ReleaseName", "s", "t.Name"))
    assert (ask(scene, client, "NameHasOwner", "t.Name"), scene.told) == ([False], [])
