"""twin_scripts: hypothesis strategies for scripts of several clients.

Theory. A script begins with a few clients that are there, own names and have rules, as nothing happens
among strangers; then anything follows. Most of what is said makes sense, for what doesn't ends the
connection that said it. Sizes and numbers are such that nothing depends on time: what waits for somebody
who doesn't read is too large for its socket, or far from every limit.

Not here: what becomes of it (twin_stage).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from dbus_client import BUS
from hypothesis import strategies as st
from twin_script import Script, Term, made, term

CLIENTS = ("a", "b", "c", "d")
NATIVES = ("n", "o")
NAMES = ("t.N0", "t.N1", "t.N2.a")
PATHS = ("/x", "/x/y", "/", "/org/freedesktop/DBus")
INTERFACES = ("t.I", "t.J.K", BUS)
MEMBERS = ("M", "S", "NameOwnerChanged")
RULES = (
    "", "type='signal'", "type='signal',interface='t.I'", "interface='t.J.K'", "member='S'", "path='/x'",
    "path_namespace='/x'", "path_namespace='/'", "sender='@a'", "sender='t.N0'", "destination='@b'",
    "arg0='hello'", "arg1='hello'", "arg0path='/x/'", "arg1path='/x/y'", "arg0namespace='t.N2'",
    "eavesdrop='true'", "type='method_call',eavesdrop='true'", "type='error',eavesdrop=true",
    "type='method_return',eavesdrop='false'", "type='signal',eavesdrop='true',sender='t.N0'",
    f"sender='{BUS}'", "arg0='t.N1'", "arg63='x'", "arg64='x'", "not a rule", "type='wrong'",
    "path='/x',path_namespace='/x'", "interface='t.I',member='S',path='/x',arg0='hello',arg2='u'",
)
BODIES: tuple[tuple[str, list[Any]], ...] = (
    ("", []), ("s", ["hello"]), ("ss", ["hello", "hello"]), ("o", ["/x/y"]), ("so", ["/x/", "/x/y"]),
    ("s", ["t.N2.a"]), ("u", [7]), ("ay", [b"\0\1\2"]), ("v", [("s", "hello")]), ("as", [["x", "y", ""]]),
    ("a{sv}", [{"k": ("v", ("u", 1)), "l": ("(so)", ("a", "/x"))}]),
    ("(ybnqiuxtd)", [(1, True, -2, 3, -4, 5, -6, 7, 0.5)]),
    ("aas", [[[], ["a"], []]]), ("v", [("av", [("i", -1), ("ai", [1, 2])])]), ("g", ["a{sv}"]),
    ("sus", ["hello", 1, "x"]),
    ("s", ["\u20ac\U0001f600"]), ("at", [[]]), ("s", ["x" * 300]),
)
DESTINATIONS = (
    *("@a", "@b", "@c", "@d") * 5, *("t.N0",) * 6, *("t.N1",) * 3, "t.N2.a", "@n", "@n", "@o", "t.Nobody",
    ":1.999999", BUS,
)
WRONG: tuple[dict[str, Any], ...] = (
    {"to": "t"}, {"to": ":"}, {"to": "t..N"}, {"path": "x"}, {"path": "/x/"}, {"member": "M.M"},
    {"interface": "t"}, {"version": 2}, {"version": 0}, {"serial": 0}, {"member": None}, {"path": None},
    {"extra": [(1, "s", "/x")]},
    {"extra": [(3, "s", "Twice")]}, {"extra": [(8, "s", "s")]}, {"extra": [(0, "s", "zero")]}, {"n_fds": 3},
    {"signature": "s", "args": [b"\xff\xfe"]}, {"signature": "o", "args": ["not a path"]},
    {"signature": "b", "args": [7]}, {"interface": "org.freedesktop.DBus.Local"},
    {"path": "/org/freedesktop/DBus/Local"}, {"signature": "s", "args": [b"a\0b"]},
)
"""Fields for which a client is disconnected, mostly."""

STRICT = (
    '<deny send_type="method_call"/>', '<allow send_type="signal"/>',
    '<allow send_requested_reply="true" send_type="method_return"/>',
    '<allow send_requested_reply="true" send_type="error"/>', '<allow receive_type="method_call"/>',
    '<allow receive_type="method_return"/>', '<allow receive_type="error"/>',
    '<allow receive_type="signal"/>', '<allow send_destination="t.N0"/>',
    '<allow send_destination_prefix="t.N2"/>',
)

_clients = st.sampled_from(CLIENTS)
_natives = st.sampled_from(NATIVES)
_names = st.sampled_from(NAMES)
_to = st.sampled_from(DESTINATIONS)
_bodies = st.sampled_from(BODIES)
_no_reply = st.sampled_from((0, 0, 1))


def _maybe(draw: st.DrawFn, chances: int, strategy: st.SearchStrategy[Any]) -> Any:
    """Mostly nothing."""
    return draw(strategy) if draw(st.integers(0, chances)) == chances else None


@st.composite
def _oddities(draw: st.DrawFn) -> dict[str, Any]:
    """What a message may have besides what it needs."""
    return {
        "flags": _maybe(draw, 3, st.sampled_from((1, 1, 2, 4, 3, 0x80))),
        "endian": _maybe(draw, 6, st.just("B")),
        "turn": _maybe(draw, 6, st.integers(1, 5)),
        "serial": _maybe(draw, 10, st.sampled_from((1, 2, 3, 0xFFFF_FFFF))),
        "sender": _maybe(draw, 10, st.sampled_from(("@b", ":1.5", "x.y", BUS))),
        "extra": _maybe(draw, 12, st.sampled_from((
            [(42, "s", "x")], [(10, "u", 5)], [(255, "v", ("as", ["x"]))],
            [(42, "ay", b"\0"), (43, "(sv)", ("", ("s", "")))],
        ))),
    }


@st.composite
def messages(draw: st.DrawFn, sizes: Sequence[int]) -> Term:
    """Any message that doesn't end its connection."""
    word = draw(st.sampled_from((
        *("call",) * 8, *("signal",) * 5, *("answer",) * 6, "fail", "fail", "ret", "error", "other",
        *("ask",) * 5,
    )))
    if word == "ask":
        return draw(requests())
    signature, args = draw(_bodies)
    more = draw(_oddities()) | {"signature": signature or None, "args": args or None}
    values: list[Any] = []
    if word in ("answer", "fail"):
        values = [_maybe(draw, 3, st.integers(0, 3)) or 0]
        more["to"] = _maybe(draw, 12, _to)
    elif word == "signal":
        more["to"] = _maybe(draw, 2, _to)
    else:
        more["to"] = draw(_to)
        more["reply_to"] = draw(st.integers(1, 5)) if word in ("ret", "error") else None
        more["type"] = draw(st.sampled_from((5, 9, 255))) if word == "other" else None
    if word in ("call", "signal"):
        more["path"] = _maybe(draw, 4, st.sampled_from(PATHS))
        more["interface"] = _maybe(draw, 4, st.sampled_from(INTERFACES))
        more["member"] = _maybe(draw, 4, st.sampled_from(MEMBERS))
    if _maybe(draw, 7, st.just(True)) and more["to"] != BUS:
        more |= {"size": draw(st.sampled_from(sizes)), "signature": None, "args": None}
    elif fds := _maybe(draw, 8, st.lists(st.integers(0, 2), min_size=1, max_size=3)):
        more |= {"fds": fds, "signature": "h", "args": [0]}
    return made(word, values, more)


@st.composite
def requests(draw: st.DrawFn) -> Term:
    """Calls of the driver."""
    name = draw(st.sampled_from((*NAMES * 3, "t.Nobody", "bad", ":1.0", BUS)))
    someone = draw(st.sampled_from((*NAMES, "@a", "@b", "@c", "@n", "t.Nobody", ":1.999999", "bad", "")))
    rule = draw(st.sampled_from(RULES))
    member, signature, args = draw(st.sampled_from((
        *(("RequestName", "su", [name, draw(st.integers(0, 7))]),) * 4, *(("ReleaseName", "s", [name]),) * 2,
        *(("AddMatch", "s", [rule]),) * 5, *(("RemoveMatch", "s", [rule]),) * 2, ("Nothing", "", []),
        ("NameHasOwner", "s", [someone]), ("NameHasOwner", "s", [name]), ("ListNames", "", []),
        ("ListQueuedOwners", "s", [name]),
        ("GetConnectionUnixUser", "s", [someone]), ("StartServiceByName", "su", [name, 0]), ("Hello", "", []),
        ("GetNameOwner", "s", [someone]), ("GetNameOwner", "s", [name]), ("GetNameOwner", "as", [[name]]),
        ("GetConnectionUnixUser", "s", [BUS]), ("GetConnectionUnixProcessID", "s", [someone]),
        ("Ping", "", []),
        ("AddMatch", "u", [1]), ("ListActivatableNames", "", []), ("GetId", "", []), ("Introspect", "", []),
        ("GetConnectionCredentials", "s", [someone]),
    )))
    more = {
        "flags": _maybe(draw, 6, st.sampled_from((1, 2))), "endian": _maybe(draw, 8, st.just("B")),
        "path": _maybe(draw, 8, st.just("/x")),
        "interface": _maybe(draw, 8, st.sampled_from(("t.I", None, "org.freedesktop.DBus.Introspectable"))),
    }
    if member == "Ping" and draw(st.booleans()):
        more["interface"] = "org.freedesktop.DBus.Peer"
    return made("ask", [member, signature, args], more)


@st.composite
def sends(draw: st.DrawFn, sizes: Sequence[int]) -> Term:
    """One client says something."""
    several = draw(st.sampled_from((1, 1, 1, 2, 4, 8)))
    said = draw(st.lists(messages(sizes), min_size=1, max_size=several))
    cuts = _maybe(draw, 3, st.lists(st.integers(0, 600), min_size=1, max_size=4))
    return term("send", draw(_clients), *said, cuts=cuts, keep=_maybe(draw, 9, st.integers(1, 200)))


@st.composite
def nonsense(draw: st.DrawFn) -> list[Term]:
    """Something for which a client may be disconnected."""
    who = draw(_clients)
    before = draw(st.lists(messages((10,)), max_size=2))
    if draw(st.booleans()):
        word, about = draw(st.sampled_from(("call", "signal"))), {"to": draw(_to)}
        wrong = made(word, [], about | draw(st.sampled_from(WRONG)))
        return [term("send", who, *before, wrong, *draw(st.lists(messages((10,)), max_size=1)))]
    damage = draw(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=2))
    said = draw(messages((10,)))
    damaged = Term(said.word, said.values, (*said.more, ("damage", damage)))
    return [term("send", who, *before, damaged), term("shut", who)]


@st.composite
def stuffing(draw: st.DrawFn) -> list[Term]:
    """Somebody doesn't read, and gets more and more."""
    reader, writer = draw(_clients), draw(_clients)
    to = draw(st.sampled_from((f"@{reader}", f"@{reader}", None)))
    word = "signal" if to is None else draw(st.sampled_from(("call", "signal")))
    flags = draw(st.sampled_from((None, 1)))
    large = [made(word, [], {"to": to, "size": 300_000, "flags": flags})] * draw(st.integers(1, 4))
    between = draw(st.lists(sends((10,)), max_size=2))
    return [
        term("deafen", reader), *(term("send", writer, each) for each in large), *between,
        term("stats", "a"), term(draw(st.sampled_from(("listen", "shut", "close"))), reader),
    ]


@st.composite
def native_steps(draw: st.DrawFn) -> Term:
    """What native peers do."""
    who = draw(_natives)
    signature, args = draw(st.sampled_from([body for body in BODIES if not {"v", "{"} & set(body[0])]))
    path = draw(st.sampled_from(PATHS[:3]))
    return draw(st.sampled_from((
        term("native", who), term("publish", who, [draw(_names)], ["/x", "/x/y"]),
        term("publish", who, [], ["/x"]),
        term("withdraw", who, [draw(_names)]), term("subscribe", who, draw(_to), path),
        *(term("ncall", who, draw(_to), path, "M", signature, args, flags=draw(_no_reply)),) * 3,
        *(term("nanswer", who, draw(st.integers(0, 2)), signature, args),) * 3, term("nfail", who, 0),
        term("drop", who, 0), *(term("nsignal", who, path, "S", signature, args),) * 2, term("leave", who),
    )))


USUAL = (
    "\0AUTH EXTERNAL {uid}\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n{hello}",
    "\0AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n{hello}{id}",
    "\0AUTH\r\nAUTH EXTERNAL\r\nDATA {uid}\r\nBEGIN\r\n{hello}{list}",
    "\0AUTH EXTERNAL {uid}\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n{hello}{match}{owner}"
    "{listen}{credentials}{unmatch}",
)
"""How libraries connect."""
ODD = (
    "\0", "AUTH\r\n", "AUTH EXTERNAL 39\r\n", "AUTH ANONYMOUS 61\r\n", "AUTH DBUS_COOKIE_SHA1 30\r\n",
    "CANCEL\r\n", "ERROR\r\n", "BEGIN\r\n", "\r\n", "\n", " ", "DATA\r\n", "NEGOTIATE_UNIX_FD\r\n", "x" * 300,
    "\xff\r\n", "{id}", "{hello}", "{match}", "{unmatch}", "l\1\0\1",
    "AUTH EXTERNAL {uid}\r\n", "AUTH  EXTERNAL {uid}\r\n",
)


@st.composite
def knocks(draw: st.DrawFn) -> Term:
    """A stranger: mostly one that does what is usual up to some point."""
    words = draw(st.sampled_from(USUAL)).replace("{", "|{").replace("}", "}|").split("|")
    letters = [letter for word in words for letter in ([word] if word.startswith("{") else word)]
    for odd in draw(st.one_of(st.just([]), st.lists(st.sampled_from(ODD), max_size=2))):
        ends = [0, *(n + 1 for n, letter in enumerate(letters) if letter == "\n"), len(letters)]
        letters.insert(draw(st.sampled_from(ends)), odd)
    del letters[draw(st.one_of(st.just(len(letters)), st.integers(0, len(letters)))) :]
    cuts = draw(st.one_of(st.just([]), st.lists(st.integers(1, 80), max_size=4, unique=True)))
    edges = [0, *(cut for cut in sorted(cuts) if cut < len(letters)), len(letters)]
    pieces = ("".join(letters[start:end]) for start, end in pairwise(edges))
    then = draw(st.sampled_from(("close", "close", "run", "shut", "stay")))
    return term("knock", *filter(None, pieces), fds=_maybe(draw, 9, st.integers(1, 3)), then=then)


@st.composite
def visits(draw: st.DrawFn) -> Script:
    """Strangers, and clients that hear of them."""
    steps = [
        term("connect", "a"), term("connect", "b"),
        term("send", "a", term("ask", "AddMatch", "s", [f"type='signal',sender='{BUS}'"])),
        term("send", "b", term("ask", "AddMatch", "s", ["arg0namespace=':1'"])),
    ]
    steps.insert(draw(st.integers(0, 4)), _maybe(draw, 2, policies()) or term("rest", "a"))
    steps += draw(st.lists(st.one_of(*[knocks()] * 5, sends((0, 10))), min_size=2, max_size=12))
    return [*steps, term("stats", "a"), term("close", "b"), draw(knocks())]


@st.composite
def scenes(draw: st.DrawFn, sizes: Sequence[int]) -> list[Term]:
    """Some steps that belong together, mostly one."""
    kind = draw(st.integers(0, 32))
    who = draw(_clients)
    if kind < 18:
        return [draw(sends(sizes))]
    if kind < 22:
        return [draw(native_steps())]
    match kind:
        case 22:
            return [term("rest", who)]
        case 23:
            return draw(nonsense())
        case 24:
            return draw(stuffing())
        case 25:
            return [term(draw(st.sampled_from(("close", "shut"))), who)]
        case 26:
            rules = draw(st.lists(st.sampled_from(RULES[:6]), max_size=2))
            return [term("connect", "m"), term("monitor", "m", *rules)]
        case 27:
            return [term("stats", who)]
        case 28:
            return [term(draw(st.sampled_from(("close", "shut"))), "m")]
        case 29 | 30 | 31:
            return [draw(knocks())]
    return [term("connect", who, fds=_maybe(draw, 2, st.just(False)), hello=_maybe(draw, 3, st.just(False)))]


def _prelude(with_natives: bool) -> list[Term]:
    there = [
        term("connect", "a"), term("connect", "b"), term("connect", "c", fds=False), term("connect", "d"),
        term("send", "a", term("ask", "RequestName", "su", ["t.N0", 0])),
        term("send", "b", term("ask", "AddMatch", "s", ["type='signal',interface='t.I'"])),
        term("send", "c", term("ask", "AddMatch", "s", ["type='signal'"])),
    ]
    natives = [term("native", "n"), term("publish", "n", ["t.N1"], ["/x"])]
    return there + natives * with_natives


@st.composite
def scripts(draw: st.DrawFn, sizes: Sequence[int] = (0, 10, 5000, 70_000, 300_000, 1_200_000)) -> Script:
    """Up to some dozens of steps."""
    prelude = _prelude(draw(st.integers(0, 2)) == 2)
    least = draw(st.sampled_from((0, 6, 16)))  # a list by itself is short
    steps = draw(st.lists(scenes(sizes), min_size=least, max_size=24))
    return [*prelude, *(step for scene in steps for step in scene)]


@st.composite
def _elements(draw: st.DrawFn) -> str:
    """One rule about messages."""
    kind = draw(st.sampled_from(("send", "send", "receive")))
    given: dict[str, str | None] = {
        "interface": _maybe(draw, 1, st.sampled_from(INTERFACES[:2])),
        "path": _maybe(draw, 2, st.sampled_from(PATHS[:3])),
        "type": draw(st.sampled_from(("*", "*", "method_call", "method_return", "error", "signal"))),
        "requested_reply": _maybe(draw, 2, st.sampled_from(("true", "false"))),
    }
    if given["interface"] or given["path"]:
        given["member"] = _maybe(draw, 2, st.sampled_from(MEMBERS[:2]))
    elif given["type"] == "error":
        given["error"] = _maybe(draw, 1, st.just("t.Error"))
    if draw(st.booleans()):
        about = draw(st.sampled_from(("destination", "destination_prefix"))) if kind == "send" else "sender"
        given[about] = draw(st.sampled_from(("t", "t.N2", "t.N") if about.endswith("prefix") else NAMES))
    elif kind == "send":
        given["broadcast"] = _maybe(draw, 3, st.sampled_from(("true", "false")))
    words = [f'{kind}_{key}="{value}"' for key, value in given.items() if value]
    for key, value in (("eavesdrop", "true"), ("max_fds", "0"), ("min_fds", "1"), ("log", "true")):
        if _maybe(draw, 5, st.just(True)) and (key != "log" or kind == "send"):
            words.append(f'{key}="{value}"')
    return f"<{draw(st.sampled_from(('allow', 'deny')))} {' '.join(words)}/>"


@st.composite
def policies(draw: st.DrawFn) -> Term:
    """Rules of which some forbid much, as a system's, and some little."""
    return term("policy", *draw(st.sampled_from(((), (), STRICT))), *draw(st.lists(_elements(), max_size=6)))


@st.composite
def governed(draw: st.DrawFn) -> Script:
    """Everything that clients do, under one policy and then another."""
    steps = list(draw(st.one_of(everyday(), scripts(sizes=(0, 10, 5000)))))
    for _ in range(draw(st.integers(1, 3))):
        steps.insert(draw(st.integers(4, len(steps))), draw(policies()))
    return steps


@st.composite
def _ordinary(draw: st.DrawFn) -> Term:
    """What clients say to each other all day."""
    word = draw(st.sampled_from((*("call",) * 5, *("answer",) * 4, "fail", *("signal",) * 4, "emit", "ask")))
    if word == "ask":
        return term("ask", *draw(_everyday_questions), flags=_maybe(draw, 5, st.just(1)))
    signature, args = draw(_bodies)
    more = {
        "signature": signature or None, "args": args or None, "flags": _maybe(draw, 3, st.just(1)),
        "endian": _maybe(draw, 15, st.just("B")),
        "path": _maybe(draw, 3, st.sampled_from(PATHS[:3])),
    }
    if word in ("call", "emit"):
        more["to"] = draw(st.sampled_from(("@a", "@b", "@c", "@d", "t.N0", "t.N1")))
    if _maybe(draw, 9, st.just(True)):
        more |= {"size": draw(st.sampled_from((0, 500, 3000, 20_000))), "signature": None, "args": None}
    if word in ("answer", "fail"):
        return made(word, [draw(st.integers(0, 3))], more | {"path": None})
    return made("signal" if word == "emit" else word, [], more)


@st.composite
def everyday(draw: st.DrawFn) -> Script:
    """Many ordinary messages in large and small pieces, and at once; somebody comes or goes now and then."""
    steps: list[Term] = [
        *_prelude(with_natives=False),
        term("send", "b", term("ask", "RequestName", "su", ["t.N1", 0])),
        term("send", "d", *(term("ask", "AddMatch", "s", [rule]) for rule in draw(_everyday_rules))),
    ]
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.integers(0, 11))
        several = st.lists(_ordinary(), min_size=1, max_size=draw(st.sampled_from((2, 10, 40))))
        if kind < 6:
            cuts = _maybe(draw, 2, st.lists(st.integers(0, 3000), min_size=1, max_size=5))
            steps.append(term("send", draw(_clients), *draw(several), cuts=cuts))
        elif kind < 9:
            steps.append(term("storm", *(term("of", who, *draw(several)) for who in draw(_crowds))))
        elif kind < 11:
            steps.append(draw(knocks()))
        else:
            who = draw(_clients)
            steps += [term(draw(st.sampled_from(("close", "shut"))), who), term("connect", who)]
    return [*steps, term("stats", "a")]


_everyday_questions = st.sampled_from((
    *(("NameHasOwner", "s", [name]) for name in ("t.N0", "t.Nobody", "@b", BUS)), ("GetId", "", []),
    *(("GetNameOwner", "s", [name]) for name in ("t.N0", "t.N1", "@c")),
    ("GetConnectionCredentials", "s", ["@b"]), ("GetConnectionUnixUser", "s", ["t.N0"]),
    ("GetConnectionUnixProcessID", "s", ["t.N1"]),
    *((member, "s", [rule]) for member in ("AddMatch", "RemoveMatch") for rule in RULES[:16:2]),
))
_everyday_rules = st.lists(st.sampled_from(RULES[:16]), max_size=5)
_crowds = st.lists(_clients, min_size=2, max_size=4, unique=True)
