"""The lane lets pass, leaves out and hands over what the Python verdict of the same policies says.

Theory. Clients with the names that rules are about are on one bus, whose crank the test turns. For each case
they are given other policies, and say something, one after the other: a message that the router gets was
handed over, of any other the lane alone has decided. After each the bus has nothing in hand, so that nothing
but policy keeps a message out of the lane.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from bus1_bridge.policy import OPEN, ClientPolicy, Fields, Names
from bus1_bridge.policyrules import MOST_FDS, RECEIVE, SEND, Rule
from bus1_bridge.switch.api import Shutdown
from bus1_bridge.switch.router import Router
from dbus_client import CALL, ERROR, NO_REPLY, RETURN, SIGNAL, Client, parse
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from policy_scenes import ERRORS, INTERFACES, MEMBERS, NAMES, PATHS, PEER, SPACES, Draw
from policy_texts import ALICE, BOB, named, policy_of
from test_window import Crank

from bus1 import acceleration

pytestmark = pytest.mark.skipif(acceleration.native is None, reason="there is no native body")
HELD: tuple[tuple[str, ...], ...] = (
    (), (), (), ("com.example.A",), ("com.example.A.B", "com.example.C"),
    ("com.example.AB", "com.example.A-B"),
    ("com.example.C",), ("com.example.A.B.C", "com.example.A-B.C", *(f"com.test.N{i}" for i in range(30))),
)  # fmt: skip
"""The names of each client; the second to have one waits for it."""
CLIENTS = range(len(HELD))
NOBODY_WAITS = 1 << 30
"""A serial that no call has."""
FREE = OPEN.of_client(0, ())
N_CASES = max(150, settings().max_examples)


class Said(NamedTuple):
    """One message: who says it, to whom (None: a broadcast), and what it has of what rules look at."""

    sender: int
    reader: int | None
    type: int
    path: str | None
    interface: str | None
    member: str | None
    error: str | None
    answers: bool | None
    """An answer that the reader waits for; one that it doesn't; None: no answer."""
    n_fds: int

    def valid(self) -> Said:
        """With what a message of its type must have, and without what a broadcast cannot have."""
        said = self
        if said.reader is None:
            said = said._replace(type=SIGNAL, n_fds=0)
        if said.type in (CALL, SIGNAL):
            said = said._replace(path=said.path or PATHS[0], member=said.member or MEMBERS[0])
        if said.type == SIGNAL:
            said = said._replace(interface=said.interface or INTERFACES[0])
        if said.type == ERROR:
            said = said._replace(error=said.error or ERRORS[0])
        if said.type in (RETURN, ERROR):
            said = said._replace(answers=bool(said.answers))
        return said


class Floor:
    """The bus, and who speaks on it."""

    def __init__(self, folder: Path, handed_over: set[tuple[int, int]]) -> None:
        self.crank = Crank(folder)
        self.router = self.crank.switch.router
        self.handed_over = handed_over
        """Sender and serial of what the router got."""
        self.cleanup = ExitStack()
        self.fds = os.pipe()
        self.seen: set[str] = set()
        """What has become of messages."""
        self.clients = [self._client(names) for names in HELD]
        self.peers = [self.crank.number(client.name) for client in self.clients]
        self.crank.during(lambda: [client.drain() for client in self.clients])

    def _client(self, names: Sequence[str]) -> Client:
        client: Client = self.cleanup.enter_context(self.crank.during(lambda: Client(self.crank.path)))
        for name in names:
            self.crank.during(partial(client.own, name))
        self.crank.during(lambda: client.match("type='signal'"))
        return client

    def close(self) -> None:
        """Everybody leaves."""
        self.cleanup.close()
        self.crank.switch.apply([Shutdown()])
        for fd in self.fds:
            os.close(fd)

    def names(self, number: int) -> Names:
        """As policy sees the client."""
        return named(*HELD[number], unique=self.clients[number].name)

    def treat(self, number: int, policy: ClientPolicy) -> None:
        """From now on this counts for the client."""
        express = self.crank.switch.express
        assert express is not None
        self.router.party(self.peers[number]).permissions = policy
        express.renew(self.peers[number])

    def judge(self, policies: Sequence[ClientPolicy], talk: Sequence[Said]) -> None:
        """Under these policies, which clients have in turn, all fares as Python's verdicts say."""
        for number in CLIENTS:
            self.treat(number, FREE)
        self.crank.during(self._arrived)  # what a case that failed has left
        serials = [self._asked(said) for said in talk]
        of_clients = [policies[number % len(policies)] for number in CLIENTS]
        for number, policy in enumerate(of_clients):
            self.treat(number, policy)
        expected: list[set[tuple[str, int]]] = [set() for _ in CLIENTS]
        for said, answered in zip(talk, serials, strict=True):
            serial, readers = self._say(said, answered, of_clients)
            for number in readers:
                expected[number].add((self.clients[said.sender].name, serial))
        assert self.crank.during(self._arrived) == expected

    def _asked(self, said: Said) -> int:
        """The serial that it answers; 0 if it answers nothing."""
        if said.answers is None:
            return 0
        if not said.answers or said.reader is None:
            return NOBODY_WAITS
        caller = self.clients[said.reader]
        serial = caller.call(self.clients[said.sender].name, "Ask")
        self._settle(said.reader)
        return serial

    def _settle(self, number: int) -> None:
        """Until all that the client has said is decided, and written."""
        barrier = self.clients[number].call(None, "Ping", path="/", interface=PEER)
        core = self.router.tables.core
        self.crank.turn_until(lambda: (self.peers[number], barrier) in self.handed_over)
        self.crank.turn_until(lambda: not any(core.waiting(peer).messages for peer in self.peers))

    def _say(
        self, said: Said, answered: int, policies: Sequence[ClientPolicy]
    ) -> tuple[int, list[int]]:
        """Say it, and compare who decides; its serial, and whom it is to reach."""
        sender, to = self.peers[said.sender], None if said.reader is None else self.clients[said.reader].name
        message = Fields(
            said.type, said.path, said.interface, said.member, said.error, to, answered, said.n_fds
        )
        readers = CLIENTS if said.reader is None else (said.reader,)
        reached, logged = [], False
        for number in readers:
            requested = said.reader is not None and bool(answered) and self.router.tables.replies.awaits(
                self.peers[number], sender, answered
            )
            sent = policies[said.sender].may_send(message, self.names(number), requested_reply=requested)
            received = policies[number].may_receive(
                message, self.names(said.sender), requested_reply=requested
            )
            logged |= sent.log
            if sent.allowed and received.allowed:
                reached.append(number)
        is_handed_over = logged or (said.reader is not None and not reached)
        serial = self.clients[said.sender].send(
            said.type, path=said.path, interface=said.interface, member=said.member, error=said.error, to=to,
            reply_to=answered or None, fds=self.fds[: said.n_fds], flags=NO_REPLY,
        )
        self._settle(said.sender)
        assert ((sender, serial) in self.handed_over) == is_handed_over, (said, message)
        self.seen.add(
            "logged" if logged else "refused" if is_handed_over
            else "passed" if len(reached) == len(readers) else "left out"
        )
        return serial, reached

    def _arrived(self) -> list[set[tuple[str, int]]]:
        """What each client has got since, but for words of the bus and the calls that were to be answered."""
        arrived = []
        for client in self.clients:
            client.reply(client.call(None, "Ping", path="/", interface=PEER))
            got, client.inbox = client.inbox, []
            for fd in [fd for each in got for fd in each.fds]:
                os.close(fd)
            arrived.append({
                (str(each.sender), each.serial) for each in got
                if str(each.sender).startswith(":") and each.member != "Ask"
            })
        return arrived


@pytest.fixture(scope="module")
def floor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Floor]:
    handed_over: set[tuple[int, int]] = set()
    receive = Router.receive

    def noted(self: Router, connection: int, data: bytes, *rest: Any) -> None:
        if data and self.connection(connection).auth is None:  # type: ignore[union-attr]
            handed_over.add((connection, parse(data).serial))
        receive(self, connection, data, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Router, "receive", noted)
        floor = Floor(tmp_path_factory.mktemp("floor"), handed_over)
        yield floor
        floor.close()


# ---- generated ---------------------------------------------------------------------------------------------


def rule_with(kind: str, allow: bool, name: str | int | None = None, **said: Any) -> tuple[Rule, int | None]:
    """A rule that says this; of one about a client's unique name, the client's number."""
    rule = Rule(kind, allow)
    for key, value in said.items():
        setattr(rule, key, value)
    rule.name = name if isinstance(name, str) else None
    return rule, name if isinstance(name, int) else None


def maybe(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([None] * (2 * len(values)) + list(values))


RULES = st.builds(
    rule_with, st.sampled_from([SEND, RECEIVE]), st.booleans(),
    name=st.none() | st.sampled_from([*NAMES, *SPACES, *CLIENTS, *CLIENTS, ":1", "com.test.N7"]),
    is_prefix=st.booleans(), type=st.sampled_from([0, 0, 0, 1, 2, 3, 4]), interface=maybe(*INTERFACES),
    member=maybe(*MEMBERS), error=maybe(*ERRORS), path=maybe(*PATHS), requested_reply=st.booleans(),
    eavesdrop=st.booleans(), broadcast=st.sampled_from([None, None, True, False]),
    min_fds=st.sampled_from([0, 0, 1]), max_fds=st.sampled_from([MOST_FDS, MOST_FDS, 0, 1]),
    log=st.sampled_from([False, False, True]),
)  # fmt: skip
NUMBERS = st.sampled_from(CLIENTS)
SAID = st.builds(
    Said, NUMBERS, NUMBERS | NUMBERS | st.none(), st.integers(1, 4), maybe(*PATHS, "/c"),
    maybe(*INTERFACES, "com.example.K"), maybe(*MEMBERS, "O"), maybe(*ERRORS),
    st.sampled_from([None, None, True, True, False]), st.sampled_from([0, 0, 1, 2]),
).map(Said.valid)  # fmt: skip


@settings(max_examples=N_CASES, phases=[Phase.explicit, Phase.generate])  # to shorten takes too long
@given(st.lists(st.lists(RULES, min_size=3, max_size=12), min_size=1, max_size=3),
       st.lists(SAID, min_size=6, max_size=14))  # fmt: skip
def whatever_is_said(
    floor: Floor, several: list[list[tuple[Rule, int | None]]], talk: list[Said]
) -> None:
    for rule, number in (each for rules in several for each in rules):
        if number is not None:
            rule.name = floor.clients[number].name
    usual = [Rule(SEND, True), Rule(RECEIVE, True)]
    floor.judge([ClientPolicy([*usual, *(rule for rule, _ in rules)]) for rules in several], talk)


@pytest.mark.timeout(60 if N_CASES <= 1000 else 1800)
def test_whatever_the_rules_are_the_lane_decides_as_python(floor: Floor) -> None:
    floor.seen.clear()
    whatever_is_said(floor)
    assert floor.seen == {"passed", "left out", "refused", "logged"}


@pytest.mark.parametrize("seed", range(40))
def test_policies_as_files_have_them_decide_the_same(floor: Floor, seed: int) -> None:
    draw = Draw(seed)
    elements = f"\n{draw.policy()}".split("\n<policy")[1:]
    policy = policy_of(*(f"<policy{element}" for element in elements), console=[ALICE])
    pick = draw.random
    users = ((ALICE, ()), (BOB, (0,)), (0, (1, 65534)), (1, ()))
    talk = [
        Said(
            pick.choice(CLIENTS), pick.choice((*CLIENTS, None)), pick.randint(1, 4), pick.choice(PATHS),
            pick.choice((*INTERFACES, None)), pick.choice(MEMBERS), pick.choice(ERRORS),
            pick.choice((None, True, False)), pick.choice((0, 0, 1, 2)),
        ).valid()
        for _ in range(40)
    ]  # fmt: skip
    floor.seen.clear()
    floor.judge([policy.of_client(uid, groups) for uid, groups in users], talk)
    assert "passed" in floor.seen and len(floor.seen) > 1
