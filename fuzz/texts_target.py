"""texts_target: SASL and match rules, fed with whatever the fuzzer invents.

Theory. The first byte chooses one of three experiments. *Sign-in*: lines, of words that mean something and of
any bytes, for the server's side of SASL under chosen rules; once in one piece, once in pieces. *Rule*: one
text, of any characters or of likely pairs, for both bodies of the match index. *Index*: rules of a few owners
come and go in both, then each is asked who gets messages.

Oracles. 1. Nothing is raised but errors of the contract. 2. The cut into pieces makes no difference, no more
is kept than may be, a line has one answer, and nobody is let in whom the rules forbid. 3. Both bodies say the
same, to the word. 4. The normal form of a rule is the same rule. 5. An index finds those whose rules match
one by one.

Without a native module the index in Python has only itself to agree with.

Not here: what a bus makes of a message (twins_target), sockets.
"""

from __future__ import annotations

import hashlib
from typing import Any

from bus1_bridge.match import MatchIndex, MatchInput, MatchRule, parse
from bus1_bridge.sasl import ANONYMOUS, COOKIE, EXTERNAL, MAX_BUFFER, AuthRules, ServerAuth

from bus1 import acceleration
from bus1.errors import Bus1Error, RemoteProtocolError

from .program import Program

GUID = "0123456789abcdef" * 2
OWNER, STRANGER = 1000, 1001
_CHALLENGE, _COOKIE, _OWN = b"c0ffee", b"5ec4e7", b"0add"


class _Ring:
    """Cookies that are the same each time, for the fuzzer can't compute what answers them."""

    uid = OWNER

    def is_owner(self, identity: bytes) -> bool:
        return identity in (b"%d" % OWNER, b"owner")

    def cookie(self) -> tuple[bytes, bytes] | None:
        return b"7", _COOKIE

    def challenge(self) -> bytes:
        return _CHALLENGE


def right_answer(cookie: bytes = _COOKIE) -> bytes:
    """What a client says who knows this cookie."""
    digest = hashlib.sha1(b":".join((_CHALLENGE, _OWN, cookie)), usedforsecurity=False).hexdigest()
    return (_OWN + b" " + digest.encode()).hex().encode()


WORDS = (
    b"\r\n", b"AUTH", b"DATA", b"BEGIN", b"CANCEL", b"ERROR", b"NEGOTIATE_UNIX_FD", b" ", b" EXTERNAL",
    b" ANONYMOUS", b" DBUS_COOKIE_SHA1", b" 31303030", b" 31303031", b" 6f776e6572", b"\0", b"\t", b"\r",
    b"\n", b"AUTH EXTERNAL 31303030\r\n", b"AUTH EXTERNAL\r\nDATA\r\n", b"AUTH ANONYMOUS\r\n",
    b"AUTH DBUS_COOKIE_SHA1 31303030\r\n", b"DATA " + right_answer() + b"\r\n",
    b"DATA " + right_answer(b"other") + b"\r\n", b"NEGOTIATE_UNIX_FD\r\nBEGIN\r\n", b"BEGIN\r\n", b"l\1\0\1",
    b"AUTH\r\n" * 5, b"FOO\r\n" * 20, b"A" * 5000, b"A" * (MAX_BUFFER - 1), b"\xff",
)
"""What is said in a sign-in; a selector behind them stands for bytes that follow."""
MECHANISMS = ((EXTERNAL,), (ANONYMOUS,), (EXTERNAL, COOKIE, ANONYMOUS), (COOKIE,), (EXTERNAL, COOKIE), ())
_MOST_WORDS = 60

KEYS = (
    "type", "sender", "interface", "member", "path", "path_namespace", "destination", "eavesdrop", "arg0",
    "arg0path", "arg0namespace", "arg1", "arg1path", "arg63", "arg00", "arg64", "arg1namespace", "Type",
)
VALUES = (
    "signal", "x.Y", "M", "/a/b", "/a", "/", ":1.1", "a.b", "c.d", "true", "false", "x", "x.y", "/a/", "",
    "error", "method_call", "x.Z", ":1.2", "it\\'s", "\u20ac",
)
_QUOTES = (("='", "',"), ("=", ","), ("='", "'"), (" ='", "' ,"), ("", ","), ("='", ","))
LIKELY = (
    "", "type='signal'", "interface='x.Y'", "member='M'", "path='/a/b'", "path_namespace='/a'",
    "sender=':1.1'", "sender='a.b'", "eavesdrop='true'", "arg0='x'", "arg0namespace='x'", "arg1path='/a/'",
    "arg1='x'", "destination=':1.2'", "path_namespace='/'", "arg0path='/a/b'", "type='error'",
    "destination='a.b'",
)
"""Rules that most messages meet, so that what they have in common is looked at."""
_OWNERS = (1, 2, 3, 4)
_MOST_STEPS = 40


def one_input(data: bytes) -> None:
    """Run one experiment; an AssertionError, or what should not be raised, is a finding."""
    program = Program(data)
    program.one_of((_sign_in, _rule, _index))(program)


# ---- SASL ------------------------------------------------------------------------------------------


def _sign_in(program: Program) -> None:
    flags = program.byte()
    mechanisms, uid = program.one_of(MECHANISMS), program.one_of((OWNER, STRANGER, None))
    rules = AuthRules(mechanisms, bool(flags & 1), _Ring() if flags & 2 else None)
    steps = [1 + program.short() % 6000 for _ in range(1 + program.byte() % 4)]
    said = b"" if flags & 8 else b"\0"
    for _ in range(_MOST_WORDS):
        if program.is_over:
            break
        selector = program.byte()
        said += WORDS[selector] if selector < len(WORDS) else program.take(selector % 16)
    whole, pieces = (ServerAuth(uid, GUID, rules, can_pass_fds=not flags & 4) for _ in range(2))
    at_once = _fed(whole, said, [len(said) or 1])
    stepwise = _fed(pieces, said, steps)
    assert (at_once is None) == (stepwise is None), "the cut decides whether it fails"
    if at_once is None:
        return
    assert at_once == stepwise, f"in one piece: {at_once!r}\nin pieces: {stepwise!r}"
    # of a client that is thrown out, what is left is of no interest
    ignored = {"rest"} if whole.closed else set()
    assert {**vars(whole), **dict.fromkeys(ignored)} == {**vars(pieces), **dict.fromkeys(ignored)}
    _is_let_in_rightly(whole, said, at_once)


def _fed(auth: ServerAuth, said: bytes, steps: list[int]) -> bytes | None:
    """All answers; None if it failed."""
    answers, at, n = b"", 0, 0
    try:
        while at < len(said) and not auth.closed:
            step = steps[n % len(steps)]
            answers += auth.feed(said[at : at + step])
            assert auth.done or auth.closed or len(auth.rest) <= MAX_BUFFER
            at, n = at + step, n + 1
    except RemoteProtocolError:
        return None
    return answers


def _is_let_in_rightly(auth: ServerAuth, said: bytes, answers: bytes) -> None:
    lines = answers.split(b"\r\n")
    assert lines.pop() == b"" and auth.lines - len(lines) in (0, 1)
    assert auth.lines == len(lines) or auth.done or auth.closed
    if not auth.done:
        return
    assert not auth.closed and b"OK " + GUID.encode() in lines and b"BEGIN" in said
    offered, ways = auth.rules.mechanisms, set[int | None]()
    if EXTERNAL in offered and auth.uid is not None:
        ways.add(auth.uid)
    if COOKIE in offered and auth.rules.keyring is not None and b"DATA " + right_answer() in said:
        ways.add(OWNER)
    if ANONYMOUS in offered and auth.rules.allows_anonymous:
        ways.add(None)
    assert auth.identity in ways
    assert auth.takes_fds <= auth.can_pass_fds


# ---- match rules -----------------------------------------------------------------------------------


def _indexes() -> list[Any]:
    """One of each body."""
    native = acceleration.native
    return [MatchIndex(), MatchIndex() if native is None else native.MatchIndex()]


def _outcome(index: Any, rule: Any) -> Any:
    """What the index has then, or the refusal."""
    try:
        index.add(1, parse(rule) if isinstance(index, MatchIndex) else rule)
        return index.rules_of(1)
    except Bus1Error as error:
        return type(error).__name__, str(error)


def _rule(program: Program) -> None:
    if program.byte() & 1:
        text = program.take(1 << 20).decode(errors="replace")
    else:
        text = ""
        while not program.is_over and len(text) < 2000:
            (is_, end), key = program.one_of(_QUOTES), program.one_of(KEYS)
            text += key + is_ + program.one_of(VALUES) + end
    ours, theirs = (_outcome(index, text) for index in _indexes())
    assert ours == theirs, f"native: {theirs}\nPython: {ours}"
    if isinstance(ours, list):
        (rule,) = ours
        # with all its quotes the normal form may be too long for a rule
        if len(str(rule).encode()) <= 1024:
            assert parse(str(rule)) == rule and str(parse(str(rule))) == str(rule)


def _index(program: Program) -> None:
    both = _indexes()
    have: list[tuple[int, MatchRule]] = []
    for _ in range(_MOST_STEPS):
        if program.is_over:
            break
        step, owner = program.byte() % 8, program.one_of(_OWNERS)
        if step == 7:
            _agree(both, have, program)
        elif step == 6:
            for index in both:
                index.drop(owner)
            have = [each for each in have if each[0] != owner]
        elif step == 5:
            # as a peer leaves: rules that name it go, but for those of who may not notice
            for index in both:
                index.forget_name(":1.1", (owner,))
            have = [each for each in have if each[0] == owner or each[1].sender != ":1.1"]
        else:
            text = ",".join(filter(None, [program.one_of(LIKELY) for _ in range(1 + program.byte() % 3)]))
            try:
                rule = parse(text)
            except Bus1Error:
                continue
            if step == 4:
                assert [index.remove(owner, rule) for index in both] == [(owner, rule) in have] * 2
                if (owner, rule) in have:
                    have.remove((owner, rule))
            else:
                for index in both:
                    index.add(owner, rule)
                have.append((owner, rule))
    _agree(both, have, program)


def _agree(both: list[Any], have: list[tuple[int, MatchRule]], program: Program) -> None:
    given = [program.one_of((None, "x", "x.y", "/a/", "/a/b", "")) for _ in range(program.byte() % 3)]
    message = MatchInput(
        program.one_of((4, 3, 1)), ":1.1", program.one_of(((), ("a.b",), ("c.d", "a.b"))),
        path=program.one_of(("/a/b", "/a", "/", "/a/bc")), interface=program.one_of((None, "x.Y", "x.Z")),
        member=program.one_of(("M", "N")), destination=program.one_of((None, ":1.2")),
        destination_names=program.one_of(((), ("a.b",))), arguments=lambda: given,
    )
    found = [index.receivers(message) for index in both]
    assert found[0] == found[1], f"native: {found[1]}\nPython: {found[0]}"
    assert set(found[0]) == {owner for owner, rule in have if _matches(rule, message)}
    assert len(set(found[0])) == len(found[0])
    for owner in _OWNERS:
        rules, others = (index.rules_of(owner) for index in both)
        assert rules == others and sorted(map(str, rules)) == sorted(str(r) for o, r in have if o == owner)
        assert [index.count(owner) for index in both] == [len(rules)] * 2


def _matches(rule: MatchRule, message: MatchInput) -> bool:
    """By itself."""
    index = MatchIndex()
    index.add(1, rule)
    return index.receivers(message) == [1]
