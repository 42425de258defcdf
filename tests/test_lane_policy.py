"""What the lane of D-Bus clients decides by policy itself, and what it leaves to Python's words.

Theory. The test turns the crank of the bus that the daemon runs, and notes which messages get to the router.
What the two bodies do is compared elsewhere (test_twin_policies, test_twin_buses): here it counts who
does it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bus1_bridge.arrival import come_in
from bus1_bridge.entrance import Entrance
from bus1_bridge.policy import Policy
from bus1_bridge.switch.api import Shutdown
from bus1_bridge.switch.refusals import Refusals
from bus1_bridge.switch.router import Router
from bus1_bridge.view import View
from dbus_client import BUS, CALL, ERROR, RETURN, SIGNAL, Client, Message, parse
from policy_texts import policy_of
from test_window import Crank

from bus1 import acceleration

pytestmark = pytest.mark.skipif(acceleration.native is None, reason="there is no native body")
DEBIAN = f"""
<allow user="*"/> <deny own="*"/> <deny send_type="method_call"/> <allow send_type="signal"/>
<allow send_requested_reply="true" send_type="method_return"/>
<allow send_requested_reply="true" send_type="error"/>
<allow receive_type="method_call"/> <allow receive_type="method_return"/>
<allow receive_type="error"/> <allow receive_type="signal"/>
<allow send_destination="{BUS}" send_interface="{BUS}"/>
<allow own_prefix="t"/>
"""
SERVICE = """
<deny send_destination="t.Login"/>
<allow send_destination="t.Login" send_interface="t.Login.Manager" send_member="List"/>
<allow send_destination="t.Login" send_interface="t.Login.Manager" send_member="Watched" log="true"/>
"""
MANAGER: dict[str, Any] = {"path": "/t", "interface": "t.Login.Manager"}
OPEN = '<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>'


class Scene:
    """A bus with a policy, and what of its messages came to Python."""

    def __init__(self, folder: Path, told: list[str]) -> None:
        self.crank = Crank(folder)
        self.router = self.crank.switch.router
        self.told = told
        """Members, or types, of messages that the router got, and what was written down as refused."""
        self.cleanup = ExitStack()

    def follow(self, *rules: str, console: tuple[int, ...] = ()) -> None:
        """From now on these rules count."""
        self.reload(policy_of(*rules, console=console))

    def reload(self, policy: Policy) -> None:
        """The same."""
        self.router.configure(self.router.limits, policy)

    def treat(self, client: Client, policy: Policy | None) -> None:
        """As one whom another policy is about, as of another user; None changes nothing."""
        express, peer = self.crank.switch.express, self.crank.number(client.name)
        if policy is not None and express is not None:
            party = self.router.party(peer)
            permissions = policy.of_client(0, ())
            party.permissions = permissions if party.sight is None else permissions.narrowed()
            express.renew(peer)

    def during(self, action: Callable[[], Any]) -> Any:
        """The bus runs while a client does something."""
        return self.crank.during(action)

    def client(self, *names: str, rule: str = "") -> Client:
        """One that is in the lane, owns these names, and has read everything."""
        client: Client = self.cleanup.enter_context(self.during(lambda: Client(self.crank.path)))
        for name in names:
            self.during(partial(client.own, name))
        if rule:
            self.during(lambda: client.match(rule))
        self.during(client.drain)
        return client

    def next(self, client: Client) -> Message:
        """What comes to it next."""
        got: Message = self.during(client.receive)
        return got

    def passed(self, client: Client) -> Message:
        """The same, of which Python has known nothing."""
        got = self.next(client)
        assert self.told == []
        return got

    def refused(self, client: Client) -> str:
        """The text of the refusal that comes to it next."""
        got = self.next(client)
        assert got.error_name == f"{BUS}.Error.AccessDenied"
        return str(got.args[0])

    def allows(self, caller: Client, to: str, member: str = "List", **more: Any) -> bool:
        """Whether a call arrives: then by the lane alone."""
        self.told.clear()
        serial = caller.call(to, member, **{**MANAGER, **more})
        errors = [got for got in self.during(caller.drain) if got.reply_serial == serial]
        assert (not self.told) == (not errors)
        return not errors


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    told: list[str] = []
    receive = Router.receive

    def noted(self: Router, connection: int, data: bytes, *rest: Any) -> None:
        if data and self.connection(connection).auth is None:  # type: ignore[union-attr]
            told.append(str(parse(data).member or parse(data).type))
        receive(self, connection, data, *rest)

    note = Refusals.note

    def written(self: Refusals, complaint: str, *rest: Any) -> None:
        told.append(complaint)
        note(self, complaint, *rest)

    monkeypatch.setattr(Router, "receive", noted)
    monkeypatch.setattr(Refusals, "note", written)
    scene = Scene(tmp_path, told)
    scene.follow(DEBIAN, SERVICE)
    yield scene
    scene.cleanup.close()
    scene.crank.switch.apply([Shutdown()])
    gc.collect()


def test_what_a_system_s_policy_permits_needs_no_python(scene: Scene) -> None:
    service, client = scene.client("t.Login"), scene.client(rule="interface='t.Login.Manager'")
    scene.told.clear()
    for error in (None, "t.Failed"):
        serial = client.call("t.Login", "List", **MANAGER)
        call = scene.passed(service)
        assert (call.type, call.sender) == (CALL, client.name)
        service.send(ERROR if error else RETURN, to=client.name, reply_to=serial, error=error)
        assert scene.passed(client).reply_serial == serial
    service.emit("Changed", **MANAGER)
    assert scene.passed(client).member == "Changed"
    service.send(SIGNAL, to=client.name, member="Told", **MANAGER)
    assert scene.passed(client).member == "Told"
    assert len(scene.during(lambda: client.ask("GetId"))[0]) == 32
    assert scene.told == []


def test_what_it_does_not_permit_is_refused_in_python_s_words(scene: Scene) -> None:
    service, client = scene.client("t.Login"), scene.client()
    scene.told.clear()
    client.call("t.Login", "Reboot", **MANAGER)
    assert 'decided by <deny send_destination="t.Login"/>' in scene.refused(client)
    assert scene.told == ["Reboot", "Rejected send"]
    assert not scene.allows(client, service.name, "List", interface="t.Other")
    assert scene.during(service.drain) == []


def test_an_answer_that_nobody_waits_for_is_left_to_python(scene: Scene) -> None:
    service, client = scene.client("t.Login"), scene.client()
    scene.told.clear()
    serial = client.call("t.Login", "List", **MANAGER)
    scene.passed(service)
    service.send(RETURN, to=client.name, reply_to=serial)
    scene.passed(client)
    for reply_to in (serial, 77):
        service.send(RETURN, to=client.name, reply_to=reply_to)
        scene.refused(service)
    serial = client.call("t.Login", "List", **MANAGER, flags=1)
    scene.next(service)
    service.send(RETURN, to=client.name, reply_to=serial)
    scene.refused(service)
    assert scene.told == [str(RETURN), "Rejected send"] * 3
    assert scene.during(client.drain) == []


def test_a_signal_that_pretends_to_answer_needs_a_waiting_call_when_it_is_addressed(scene: Scene) -> None:
    service, client = scene.client("t.Login"), scene.client()
    serial = client.call("t.Login", "List", **MANAGER)
    scene.next(service)
    scene.told.clear()
    service.send(SIGNAL, to=client.name, member="S", reply_to=serial, **MANAGER)
    assert scene.passed(client).member == "S"
    service.send(SIGNAL, to=client.name, member="S", reply_to=serial + 1, **MANAGER)
    scene.refused(service)


def test_what_a_rule_wants_logged_is_python_s_and_arrives(scene: Scene) -> None:
    service, client = scene.client("t.Login"), scene.client()
    scene.told.clear()
    client.call("t.Login", "Watched", **MANAGER)
    assert scene.next(service).member == "Watched"
    assert scene.told == ["Watched", "Would reject"]


def test_of_a_broadcast_those_who_may_not_have_it_are_left_out_in_silence(scene: Scene) -> None:
    scene.follow(
        DEBIAN, '<deny send_destination="t.Quiet" send_interface="t.Noise"/>',
        '<deny receive_sender="t.Gossip" receive_interface="t.Noise"/>',
    )
    quiet, waiting = scene.client("t.Quiet", rule="path='/n'"), scene.client("t.Quiet", rule="path='/n'")
    other, gossip = scene.client(rule="path='/n'"), scene.client("t.Gossip")
    scene.told.clear()
    for emitter in (other, gossip):
        for interface in ("t.Noise", "t.Music"):
            emitter.emit(f"From{interface[2:]}", path="/n", interface=interface)
        scene.during(emitter.sync)
    heard = [[got.member for got in scene.during(client.drain)] for client in (quiet, waiting, other)]
    assert heard == [["FromMusic"] * 2, ["FromMusic"] * 2, ["FromNoise", "FromMusic", "FromMusic"]]
    assert scene.told == []


def test_receivers_of_a_broadcast_are_told_apart_by_their_own_policies(scene: Scene) -> None:
    readers = [scene.client(rule="path='/n'") for _ in range(6)]
    deaf = policy_of(DEBIAN, '<deny receive_interface="t.Noise"/>')
    for reader, policy in zip(readers, (deaf, None, policy_of(OPEN), deaf, deaf, None), strict=True):
        scene.treat(reader, policy)
    scene.told.clear()
    emitter = readers[1]
    emitter.emit("Bang", path="/n", interface="t.Noise")
    scene.during(emitter.sync)
    assert [len(scene.during(reader.drain)) for reader in readers] == [0, 1, 1, 0, 0, 1]
    assert scene.told == []


def test_a_rule_about_one_unique_name_keeps_a_broadcast_from_it_alone(scene: Scene) -> None:
    readers = [scene.client(rule="path='/n'") for _ in range(3)]
    scene.follow(DEBIAN, f'<deny send_destination="{readers[1].name}"/>')
    scene.told.clear()
    readers[0].emit("Bang", path="/n", interface="t.Noise")
    scene.during(readers[0].sync)
    assert [len(scene.during(reader.drain)) for reader in readers] == [1, 0, 1]
    assert scene.told == []


def test_who_sends_and_hears_everything_among_those_who_do_not_is_asked_nothing(scene: Scene) -> None:
    free, bound = scene.client(rule="path='/n'"), scene.client(rule="path='/n'")
    scene.treat(free, policy_of(OPEN))
    scene.treat(bound, policy_of(DEBIAN, '<deny receive_interface="t.Noise"/>'))
    scene.told.clear()
    free.emit("Bang", path="/n", interface="t.Noise")
    scene.during(free.sync)
    assert [len(scene.during(reader.drain)) for reader in (free, bound)] == [1, 0]
    assert scene.allows(free, bound.name)
    assert not scene.allows(free, bound.name, interface="t.Noise")
    scene.treat(bound, policy_of(OPEN))
    assert scene.allows(free, bound.name, interface="t.Noise")


def test_of_who_sees_a_part_of_the_bus_everything_is_python_s(scene: Scene) -> None:
    scene.follow(OPEN)
    narrow, other = scene.client(rule="path='/n'"), scene.client()
    party = scene.router.party(scene.crank.number(narrow.name))
    entrance = Entrance("app", {}, 0, View.of(("talk=t.Login",)))
    come_in(scene.router.delivery, party, entrance)
    scene.treat(narrow, policy_of(OPEN))
    scene.told.clear()
    other.emit("Bang", path="/n", interface="t.Noise")
    narrow.call(other.name, "List", **MANAGER)
    assert "ServiceUnknown" in str(scene.next(narrow).error_name)
    scene.during(narrow.sync)
    assert scene.during(other.drain) == []
    assert {"Bang", "List", "GetId"} <= set(scene.told)


def test_a_broadcast_that_is_to_be_logged_is_python_s(scene: Scene) -> None:
    scene.follow(DEBIAN, '<allow send_type="signal" send_interface="t.Noise" log="true"/>')
    emitter, reader = scene.client(), scene.client()
    scene.told.clear()
    emitter.emit("Unheard", path="/n", interface="t.Noise")
    scene.during(emitter.sync)
    assert scene.told == []
    scene.during(lambda: reader.match("path='/n'"))
    scene.told.clear()
    emitter.emit("Bang", path="/n", interface="t.Noise")
    assert scene.next(reader).member == "Bang"
    assert scene.told == ["Bang", "Would reject"]


def test_rules_about_a_name_follow_it_from_one_client_to_another(scene: Scene) -> None:
    first, second, client = scene.client("t.Login"), scene.client(), scene.client()
    assert not scene.allows(client, second.name)
    # who waits for a name is meant, too
    assert scene.during(lambda: second.own("t.Login")) == 2
    assert all(scene.allows(client, name) for name in (first.name, second.name, "t.Login"))
    assert scene.during(lambda: second.ask("ReleaseName", "s", "t.Login")) == [1]
    assert not scene.allows(client, second.name)
    assert scene.during(lambda: second.own("t.Login")) == 2
    assert scene.during(lambda: first.ask("ReleaseName", "s", "t.Login")) == [1]
    assert not scene.allows(client, first.name)
    assert scene.allows(client, "t.Login")
    assert scene.during(lambda: second.ask("ReleaseName", "s", "t.Login")) == [1]
    assert not scene.allows(client, second.name)


def test_a_name_that_is_replaced_takes_its_rules_along(scene: Scene) -> None:
    first, second, client = scene.client(), scene.client(), scene.client()
    assert scene.during(lambda: first.own("t.Login", 1 | 4)) == 1
    assert scene.during(lambda: second.own("t.Login", 2)) == 1
    assert not scene.allows(client, first.name)
    assert scene.allows(client, second.name)


def test_rules_for_all_names_of_a_space_count(scene: Scene) -> None:
    spaces = ('<allow send_destination_prefix="t.a"/>', '<deny send_destination_prefix="t.a.b"/>')
    scene.follow(DEBIAN, *spaces)
    peers = [scene.client(*names) for names in (["t.a.x"], ["t.a"], ["t.a.b.c"], ["t.ab"], ["t.a-b.c"])]
    client = scene.client()
    assert [scene.allows(client, peer.name) for peer in peers] == [True, True, False, False, False]
    # in the order of letters this name stands between a space and what is in it
    scene.during(lambda: peers[4].own("t.a.x2"))
    assert scene.allows(client, peers[4].name)


def test_another_policy_counts_for_what_has_come_and_is_not_carried_out(scene: Scene) -> None:
    service, client = scene.client("t.Login"), scene.client()
    assert scene.allows(client, "t.Login")
    scene.next(service)
    client.call("t.Login", "List", **MANAGER)
    scene.follow(DEBIAN, SERVICE, '<deny send_destination="t.Login" send_member="List" send_path="/t"/>')
    scene.refused(client)
    scene.told.clear()
    client.call("t.Login", "Reboot", **MANAGER)
    scene.follow(OPEN)
    assert scene.passed(service).member == "Reboot"
    scene.follow(DEBIAN, SERVICE)
    assert not scene.allows(client, "t.Login", "Reboot")


def test_who_sits_at_the_machine_may_do_more(scene: Scene) -> None:
    rules = (
        DEBIAN, '<policy at_console="true"><allow send_interface="t.Power"/></policy>',
        '<policy at_console="false"><deny send_interface="t.Power"/></policy>',
    )
    service, client = scene.client("t.Login"), scene.client()
    scene.follow(*rules, console=(os.getuid(),))
    assert scene.allows(client, service.name, "Off", interface="t.Power")
    scene.follow(*rules)
    assert not scene.allows(client, service.name, "Off", interface="t.Power")


@pytest.mark.parametrize(("rule", "is_answered"), [
    (f'<deny send_destination="{BUS}" send_member="GetId" send_interface="{BUS}"/>', True),
    (f'<allow send_destination="{BUS}" send_interface="{BUS}" send_member="GetId" log="true"/>', True),
    (f'<deny receive_sender="{BUS}" receive_type="method_return" receive_requested_reply="true"/>', False),
])  # fmt: skip
def test_the_question_for_the_id_is_python_s_where_a_rule_is_about_it(
    scene: Scene, rule: str, is_answered: bool
) -> None:
    client = scene.client()
    scene.follow(DEBIAN, rule)
    scene.told.clear()
    asked = client.call(BUS, "GetId", path="/org/freedesktop/DBus", interface=BUS)
    refused = client.call(client.name, "Barrier", **MANAGER)
    answered = [scene.next(client).reply_serial]
    if is_answered:
        answered.append(scene.next(client).reply_serial)
    assert answered == ([asked, refused] if is_answered else [refused])
    assert [each for each in scene.told if "ject" not in each] == ["GetId", "Barrier"]


def test_clients_with_the_same_rules_share_one_native_policy(scene: Scene) -> None:
    clients = [scene.client() for _ in range(5)]
    express = scene.crank.switch.express
    assert express is not None
    (before,) = express._policies.values()
    for _ in range(20):
        scene.follow(DEBIAN, SERVICE)
    gc.collect()
    (after,) = express._policies.values()
    assert after is not before
    assert not scene.allows(clients[0], clients[1].name)
    scene.follow(OPEN)
    gc.collect()
    assert not list(express._policies)


def test_a_client_that_joins_brings_all_its_names_along(scene: Scene) -> None:
    first, second, client = scene.client("t.Login"), scene.client("t.Login"), scene.client()
    express = scene.crank.switch.express
    assert express is not None
    scene.crank.switch._endpoints[scene.crank.number(second.name)]._leave(express)
    # it is Python's now, and joins again when it has been heard
    scene.during(second.sync)
    assert scene.allows(client, second.name)
    assert scene.next(second).member == "List"
    assert scene.during(first.drain) == []
