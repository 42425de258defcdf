"""policy_scenes: generated policies and messages, and what arrives of them on a running bus.

Theory. A scene is a configuration and a list of steps. ``play`` plays it on a bus and notes, step by step,
what each client received. Nobody relies on what a policy could forbid: names are counted, not asked for, and
the barrier behind each step is a call without destination, which no policy sees.

Rules are drawn from few names, so that they meet the messages often. dbus-daemon takes a rule without any of
type, path, interface, member, error and peer for one about everything, and forgets the rules before it even
if it has other conditions; here such a rule stands only where nothing is before it.
"""

from __future__ import annotations

import os
import pwd
import random
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from dbus_client import BUS, BUS_PATH, CALL, ERROR, RETURN, SIGNAL, Client, Message

NAMES = ("com.example.A", "com.example.A.B", "com.example.AB", "com.example.C")
SPACES = ("com.example.A", "com.example", "com.example.A.B", "org.freedesktop")
INTERFACES = ("com.example.I", "com.example.J")
MEMBERS = ("M", "N")
PATHS = ("/a", "/b")
ERRORS = ("com.example.E", "com.example.F")
TYPES = {"method_call": CALL, "method_return": RETURN, "error": ERROR, "signal": SIGNAL}
ME = os.getuid()
USERS: dict[str, tuple[int, int]] = {"root": (0, 0), "daemon": (1, 1), "nobody": (65534, 65534)}
"""Users that every Debian has, with their groups, whose clients root can play."""
PLAYED = USERS if ME == 0 else {pwd.getpwuid(ME).pw_name: (ME, os.getgid())}
GROUPS = {0: "root", 1: "daemon", 65534: "nogroup"}
CLIENTS = ("boss", "server", "client")
PEER = "org.freedesktop.DBus.Peer"


@dataclass(frozen=True)
class Step:
    """One thing that one client does."""

    who: str
    what: str
    """``connect``, ``send`` or ``answer`` (the last call that was not answered yet)."""
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """A policy, and what happens under it."""

    policy: str
    users: dict[str, tuple[int, int]]
    steps: tuple[Step, ...]
    attributes: Counter[str]
    """How often each attribute and context stands in the policy."""


Arrivals = list[dict[str, list[tuple[Any, ...]]]]
"""Of each step: what arrived at whom."""


# ---- policies ------------------------------------------------------------------------------------


class Draw:
    """Draws a scene."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.attributes: Counter[str] = Counter()

    def scene(self, n_steps: int) -> Scene:
        pick = self.random
        users = {who: pick.choice(list(PLAYED.values())) for who in CLIENTS} | {"boss": (ME, os.getgid())}
        policy = self.policy()
        steps = [Step(who, "connect") for who in CLIENTS]
        steps += [self._request("server", name) for name in pick.sample(NAMES, 2)]
        # somebody else may wait for one of these names
        steps += [self._request(pick.choice(CLIENTS), pick.choice(NAMES))]
        steps += [
            self._match(who, rule) for who, rule in (
                ("boss", "eavesdrop='true'"), ("server", "type='signal'"), ("client", "type='signal'"),
            ) if pick.random() < 0.8
        ]
        steps += [self._step() for _ in range(n_steps)]
        return Scene(policy, users, tuple(steps), self.attributes)

    def policy(self) -> str:
        """The elements of a configuration, in any order."""
        pick = self.random
        is_open = pick.random() < 0.5
        default = [
            '<allow user="*"/>', *([
                '<allow send_destination="*" eavesdrop="true"/>', '<allow eavesdrop="true"/>',
                '<allow own="*"/>',
            ] if is_open else [
                '<deny own="*"/>', '<deny send_type="method_call"/>', '<allow send_type="signal"/>',
                '<allow send_requested_reply="true" send_type="method_return"/>',
                '<allow send_requested_reply="true" send_type="error"/>',
                *(f'<allow receive_type="{name}"/>' for name in TYPES),
                '<allow own_prefix="com.example"/>',
            ]),
            *self._rules(pick.randint(4, 12), is_open),
        ]
        parts = [("context", "default", default)]
        for key, values in (
            ("user", list(PLAYED)), ("group", list(GROUPS.values())), ("at_console", ["true", "false"]),
        ):
            if pick.random() < 0.7:
                parts.append((key, pick.choice(values), self._rules(pick.randint(1, 3), is_open, True)))
        mandatory = self._rules(pick.randint(0, 2), is_open)
        if pick.random() < 0.5:
            mandatory.append(f'<allow send_destination="{BUS}" send_interface="{BUS}"/>')
            mandatory.append(f'<allow receive_sender="{BUS}"/>')
        parts.append(("context", "mandatory", mandatory))
        pick.shuffle(parts)
        for key, value, _ in parts:
            self.attributes[f"{key}={value}" if key == "context" else key] += 1
        return "\n".join(
            "\n  ".join([f'<policy {key}="{value}">', *rules]) + "\n</policy>" for key, value, rules in parts
        )

    def _rules(self, count: int, is_open: bool, per_client: bool = False) -> list[str]:
        return [self._rule(is_open, per_client) for _ in range(count)]

    def _rule(self, is_open: bool, per_client: bool) -> str:
        pick = self.random
        kind = pick.choices(("send", "receive", "own", "connect"), (45, 40, 10, 0 if per_client else 5))[0]
        given: dict[str, str] = {}
        if kind == "own":
            key = pick.choice(("own", "own_prefix"))
            given[key] = pick.choice(NAMES if key == "own" else SPACES)
        elif kind == "connect":
            key = pick.choice(("user", "group"))
            given[key] = pick.choice(list(USERS) if key == "user" else list(GROUPS.values()))
        else:
            given = self._message_rule(kind)
        self.attributes.update(given.keys())
        tag = "allow" if pick.random() < (0.25 if is_open else 0.6) else "deny"
        return f"<{tag} " + " ".join(f'{key}="{value}"' for key, value in given.items()) + "/>"

    def _message_rule(self, kind: str) -> dict[str, str]:
        pick = self.random
        given: dict[str, str] = {}
        while not given:
            if pick.random() < 0.4:
                given[f"{kind}_interface"] = pick.choice((*INTERFACES, BUS))
            if pick.random() < 0.3:
                given[f"{kind}_path"] = pick.choice((*PATHS, BUS_PATH))
            if given and pick.random() < 0.4:
                given[f"{kind}_member"] = pick.choice((*MEMBERS, "NameHasOwner", "NameOwnerChanged"))
            if pick.random() < 0.35:
                given[f"{kind}_type"] = pick.choice(list(TYPES))
            if not given.keys() & {f"{kind}_interface", f"{kind}_member"} and pick.random() < 0.3:
                given[f"{kind}_error"] = pick.choice(ERRORS)
            if pick.random() < 0.4:
                key = "receive_sender"
                if kind == "send":
                    key = pick.choice(("send_destination", "send_destination_prefix"))
                given[key] = pick.choice(SPACES if key.endswith("prefix") else (*NAMES, BUS, ":1.1"))
        for key, values, odds in (
            (f"{kind}_requested_reply", ("true", "false"), 0.3), ("eavesdrop", ("true", "false"), 0.3),
            ("min_fds", ("1", "2"), 0.1), ("max_fds", ("0", "1"), 0.1), ("log", ("true",), 0.1),
        ):
            if pick.random() < odds and not (kind == "receive" and key == "log"):
                given[key] = pick.choice(values)
        if kind == "send" and pick.random() < 0.25:
            has_name = given.keys() & {"send_destination", "send_destination_prefix"}
            given["send_broadcast"] = "false" if has_name else pick.choice(("true", "false"))
        return given

    # ---- messages --------------------------------------------------------------------------------

    def _request(self, who: str, name: str) -> Step:
        return self._driver(who, "RequestName", "su", (name, 0))

    def _match(self, who: str, rule: str) -> Step:
        return self._driver(who, "AddMatch", "s", (rule,))

    def _driver(self, who: str, member: str, signature: str = "", args: tuple[Any, ...] = ()) -> Step:
        return Step(who, "send", {
            "kind": CALL, "to": BUS, "path": BUS_PATH, "interface": BUS, "member": member,
            "signature": signature, "args": args,
        })

    def _step(self) -> Step:
        pick = self.random
        who = pick.choice(("client", "client", "server", "boss"))
        roll = pick.random()
        if roll < 0.1:
            return self._driver(who, "NameHasOwner", "s", (pick.choice(NAMES),))
        if roll < 0.15:
            return self._request(who, pick.choice((*NAMES, "com.example.D", "com.examples")))
        if roll < 0.35:
            return Step(pick.choice(("server", "client")), "answer", {
                "kind": pick.choice((RETURN, ERROR)), "error": pick.choice(ERRORS), "fds": self._fds(),
            })
        kind = pick.choices((CALL, SIGNAL, RETURN, ERROR), (45, 35, 6, 6))[0]
        fields: dict[str, Any] = {"kind": kind, "fds": self._fds()}
        if kind in (CALL, SIGNAL):
            fields["path"], fields["member"] = pick.choice(PATHS), pick.choice(MEMBERS)
            fields["interface"] = pick.choice(INTERFACES)
            if kind == CALL and pick.random() < 0.2:
                del fields["interface"]
        elif kind == ERROR:
            fields["error"] = pick.choice(ERRORS)
        if kind in (RETURN, ERROR) or (kind == SIGNAL and pick.random() < 0.1):
            # nobody waits for this
            fields["reply_to"] = 77
        if kind != SIGNAL or pick.random() < 0.4:
            fields["to"] = pick.choice((*NAMES, ":1.1", ":1.2"))
        return Step(who, "send", fields)

    def _fds(self) -> int:
        return self.random.choices((0, 1, 2), (80, 10, 10))[0]


# ---- playing -------------------------------------------------------------------------------------


class Actor(Client):
    """A client of any user, which asks nobody for its name."""

    def __init__(self, path: str, user: tuple[int, int]) -> None:
        with acting_as(user):
            super().__init__(path, hello=False)
        self.calls: list[Message] = []
        """Calls that wait for an answer."""

    def hello(self) -> bool:
        """Whether the bus lets this client in."""
        self.send(CALL, to=BUS, path=BUS_PATH, interface=BUS, member="Hello")
        try:
            self.barrier()
        except EOFError:
            return False
        return True

    def barrier(self) -> None:
        """The bus has handled everything that this client sent before."""
        self.reply(self.send(CALL, path="/", interface=PEER, member="Ping"))

    def arrived(self) -> list[tuple[Any, ...]]:
        """What is new, in a form that is the same on both buses."""
        self.barrier()
        waiting, self.inbox = self.inbox, []
        for got in waiting:
            while got.fds:
                os.close(got.fds.pop())
        self.calls += [got for got in waiting if got.type == CALL]
        return [_seen(got) for got in waiting]


def _seen(got: Message) -> tuple[Any, ...]:
    is_text = got.sender == BUS and got.type in (RETURN, ERROR) and got.signature == "s"
    args = ["…"] if is_text else got.args
    return (
        got.type, got.sender, got.destination, got.path, got.interface, got.member, got.error_name,
        got.reply_serial, got.unix_fds, *args,
    )


@contextmanager
def acting_as(user: tuple[int, int]) -> Iterator[None]:
    """Connect as this user, without supplementary groups; only root can be somebody else."""
    if ME != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(user[1], user[1], 0)
    os.setresuid(user[0], user[0], 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


def play(scene: Scene, path: str) -> Arrivals:
    """What arrives at whom, step by step."""
    arrivals: Arrivals = []
    with ExitStack() as cleanup:
        near, far = socket.socketpair()
        cleanup.callback(near.close)
        cleanup.callback(far.close)
        actors: dict[str, Actor] = {}
        for step in scene.steps:
            extra: tuple[Any, ...] = ()
            if step.what == "connect":
                actor = cleanup.enter_context(Actor(path, scene.users[step.who]))
                extra = ("connected", actor.hello())
                if extra[1]:
                    actors[step.who] = actor
            elif step.who in actors:
                _act(actors[step.who], step, near.fileno())
            arrivals.append({who: actor.arrived() for who, actor in actors.items()})
            if extra:
                arrivals[-1].setdefault(step.who, []).append(extra)
    return arrivals


def _act(actor: Actor, step: Step, fd: int) -> None:
    fields = dict(step.fields)
    kind = fields.pop("kind")
    fds: Sequence[int] = (fd,) * fields.pop("fds", 0)
    if step.what == "answer":
        if not actor.calls:
            return
        call = actor.calls.pop()
        fields |= {"to": call.sender, "reply_to": call.serial}
        if kind == RETURN:
            del fields["error"]
    actor.send(kind, fds=fds, **fields)
    actor.barrier()


def count_verdicts(scene: Scene, arrivals: Arrivals) -> Counter[bool]:
    """How many steps that ask for something were allowed, and how many were denied."""
    counts: Counter[bool] = Counter()
    for step, arrived in zip(scene.steps, arrivals, strict=True):
        mine = arrived.get(step.who, [])
        if step.what == "connect":
            counts[("connected", True) in mine] += 1
        elif any(got[0] == ERROR and str(got[6]).endswith("AccessDenied") for got in mine):
            counts[False] += 1
        elif any(arrived.values()):
            counts[True] += 1
    return counts
