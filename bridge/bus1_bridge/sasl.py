"""sasl: the server's side of D-Bus authentication, as a table.

Theory. A client sends one NUL, then lines; each line gets one line back. What a command does depends
on the state, and the table below is the whole protocol. Lines that come together are handled together;
what follows BEGIN are messages, and is kept in ``rest``.

Which mechanisms there are is configuration. EXTERNAL: the client may claim a user id, and what counts is
the one that the kernel gave. DBUS_COOKIE_SHA1: the client shows that it can read a file of the user of the
bus, and is that user. ANONYMOUS: the client is nobody.

Invariants. 1. ``done`` only after OK and BEGIN; ``identity`` is then the kernel's uid, that of the user of
the bus, or None for nobody, and nobody is let in only if that is allowed.
2. ``feed`` raises nothing but RemoteProtocolError, and never holds more than ``MAX_BUFFER`` bytes
without a line.
3. After ``MAX_REJECTED`` rejections the last answer is REJECTED, and ``closed`` is set; it is set after
``MAX_LINES`` lines, too, unless the last of them is BEGIN.

Not here: whether that user may connect (the router), cookies and their file (keyring), time limits, sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import NamedTuple, Protocol

from bus1.errors import RemoteProtocolError

MAX_BUFFER = 16384
MAX_REJECTED = 6
MAX_LINES = 64
"""What an authentication may take; a client that wants in needs about four."""
EXTERNAL, COOKIE, ANONYMOUS = "EXTERNAL", "DBUS_COOKIE_SHA1", "ANONYMOUS"
MECHANISMS = (EXTERNAL, COOKIE, ANONYMOUS)
"""All that there are, in the order in which they are offered."""


class Keyring(Protocol):
    """The cookies of the user of the bus."""

    uid: int

    def is_owner(self, identity: bytes) -> bool:
        """Whether this decimal uid or login name is the user of the bus."""

    def cookie(self) -> tuple[bytes, bytes] | None:
        """Number and value of a cookie that is good for now; None if there is no safe one."""

    def challenge(self) -> bytes:
        """Some bytes in hexadecimal that nobody can foresee."""


class AuthRules(NamedTuple):
    """How clients of one bus may show who they are."""

    mechanisms: tuple[str, ...] = (EXTERNAL,)
    allows_anonymous: bool = False
    keyring: Keyring | None = None
    """For DBUS_COOKIE_SHA1; None refuses everybody who tries it."""


EXTERNAL_ONLY = AuthRules()
"""What the usual configuration files say."""


class AuthState(Enum):
    """What the server waits for."""

    AUTH = "the mechanism"
    DATA = "the identity"
    BEGIN = "the end"
    DONE = "nothing more"


_CONTEXT = b"org_freedesktop_general"
_BEGINNING = b"\0AUTH EXTERNAL"


class ServerAuth:
    """One client's authentication; RemoteProtocolError from ``feed`` closes the connection."""

    def __init__(
        self, uid: int | None, guid: str, rules: AuthRules = EXTERNAL_ONLY, *, can_pass_fds: bool = True
    ) -> None:
        self.uid = uid
        """As the kernel gave it; None if it gave none."""
        self.guid = guid
        self.rules = rules
        self.can_pass_fds = can_pass_fds
        self.state = AuthState.AUTH
        self.identity: int | None = None
        """Who the client is once OK was said: None before, and for nobody."""
        self.takes_fds = False
        """The client asked for descriptors and got them."""
        self.closed = False
        """BEGIN without OK, too many rejections or lines: send what ``feed`` returned, then close."""
        self.rejected = 0
        self.lines = 0
        """How many have been handled."""
        self.has_begun = False
        """The NUL has come."""
        self.rest = b""
        """Not yet handled; once ``done``, the first messages."""
        self._mechanism = b""
        self._expected: tuple[bytes, bytes] | None = None
        """Challenge and cookie that the client's answer is to be made of."""

    @property
    def done(self) -> bool:
        """BEGIN has come: ``rest`` and all that follows are messages."""
        return self.state is AuthState.DONE

    def feed(self, data: bytes) -> bytes:
        """Handle the lines that are complete; returns what to send. RemoteProtocolError."""
        if self.done:
            self.rest += data
        if self.done or self.closed:
            return b""
        data = self.rest + data
        at = 0
        if not self.has_begun and data.startswith(_BEGINNING) and self.uid is not None:
            at_once = self._take_at_once(data, self.uid)
            if at_once is not None:
                return at_once
        if data and not self.has_begun:
            if data[0]:
                raise RemoteProtocolError("the first byte is not NUL")
            self.has_begun = True
            at = 1
        answers: list[bytes] = []
        while not self.done and not self.closed:
            end = data.find(b"\r\n", at)
            if (end + 2 if end >= 0 else len(data)) - at > MAX_BUFFER:
                raise RemoteProtocolError(f"more than {MAX_BUFFER} bytes without the end of a line")
            if end < 0:
                break
            answer = self._line(data[at:end])
            at = end + 2
            self.lines += 1
            if self.lines >= MAX_LINES and not self.done:
                self.closed = True
            if answer:
                answers.append(answer + b"\r\n")
        self.rest = data[at:]
        return b"".join(answers)

    def _take_at_once(self, data: bytes, uid: int) -> bytes | None:
        """What most clients say in one piece: the answers, as of line after line; None if it is not that."""
        if not self.can_pass_fds or EXTERNAL not in self.rules.mechanisms:
            return None
        for lines, number, challenge in _usual(uid):
            if data.startswith(lines):
                self.has_begun, self.lines, self._mechanism = True, number, b"EXTERNAL"
                self.state, self.identity, self.takes_fds = AuthState.DONE, uid, True
                self.rest = data[len(lines) :]
                return challenge + b"OK " + self.guid.encode() + b"\r\nAGREE_UNIX_FD\r\n"
        return None

    def _line(self, line: bytes) -> bytes:
        if not line.isascii() or 0 in line:
            return b'ERROR "Not ASCII"'
        command, argument = _cut(line)
        return _TABLE[self.state].get(command, _UNKNOWN)(self, argument)

    # ---- what the cells of the table do --------------------------------------------------------

    def _start(self, argument: bytes) -> bytes:
        mechanism, response = _cut(argument)
        if mechanism.decode() not in self.rules.mechanisms or mechanism not in _RESPONSES:
            return self._reject()
        self._mechanism, self._expected = mechanism, None
        if mechanism == b"EXTERNAL" and not response:
            self.state = AuthState.DATA
            return b"DATA"
        return self._respond(response)

    def _respond(self, response: bytes) -> bytes:
        try:
            content = bytes.fromhex(response.decode()) if response.isalnum() else b""
        except ValueError:
            content = b""
        if response and not content:
            return b'ERROR "Invalid hex encoding"'
        return _RESPONSES[self._mechanism](self, content)

    def _external(self, identity: bytes) -> bytes:
        if self.uid is None or (identity and identity != b"%d" % self.uid):
            return self._reject()
        return self._accept(self.uid)

    def _anonymous(self, trace: bytes) -> bytes:
        try:
            trace.decode()
        except UnicodeDecodeError:
            return self._reject()
        return self._accept(None) if self.rules.allows_anonymous else self._reject()

    def _cookie(self, response: bytes) -> bytes:
        keyring = self.rules.keyring
        if keyring is None:
            return self._reject()
        if self._expected is not None:
            return self._accept(keyring.uid) if self._knows_cookie(response) else self._reject()
        if not keyring.is_owner(response) or (cookie := keyring.cookie()) is None:
            return self._reject()
        number, value = cookie
        self._expected = keyring.challenge(), value
        self.state = AuthState.DATA
        return b"DATA " + b" ".join((_CONTEXT, number, self._expected[0])).hex().encode()

    def _knows_cookie(self, response: bytes) -> bool:
        # rarely needed, and dear to import
        import hashlib
        import hmac

        assert self._expected is not None
        challenge, cookie = self._expected
        own, blank, digest = response.partition(b" ")
        if not (own and blank):
            return False
        expected = hashlib.sha1(b":".join((challenge, own, cookie)), usedforsecurity=False)
        return hmac.compare_digest(expected.hexdigest().encode(), digest)

    def _accept(self, identity: int | None) -> bytes:
        self.state = AuthState.BEGIN
        self.identity = identity
        return b"OK " + self.guid.encode()

    def _reject(self, argument: bytes = b"") -> bytes:
        self.state = AuthState.AUTH
        self.takes_fds = False
        self.identity = None
        self.rejected += 1
        self.closed = self.rejected >= MAX_REJECTED
        return offer(self.rules)

    def _negotiate(self, argument: bytes) -> bytes:
        if not self.can_pass_fds:
            return b'ERROR "This transport cannot pass descriptors"'
        self.takes_fds = True
        return b"AGREE_UNIX_FD"

    def _begin(self, argument: bytes) -> bytes:
        self.state = AuthState.DONE
        return b""

    def _too_early(self, argument: bytes) -> bytes:
        # what was answered before is still to be sent
        self.closed = True
        return b""


def offer(rules: AuthRules) -> bytes:
    """The answer to who is rejected: the mechanisms that there are."""
    return " ".join(["REJECTED", *(name for name in MECHANISMS if name in rules.mechanisms)]).encode()


@lru_cache(maxsize=64)
def _usual(uid: int) -> tuple[tuple[bytes, int, bytes], ...]:
    """What libraries say that wait for no answer: the lines, how many, and what is answered before OK."""
    end = b"\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n"
    identity = str(uid).encode().hex().encode()
    return (_BEGINNING + b" " + identity + end, 3, b""), (_BEGINNING + b"\r\nDATA" + end, 4, b"DATA\r\n")


def _cut(line: bytes) -> tuple[bytes, bytes]:
    """The first word, and what follows the blanks behind it."""
    word = line.replace(b"\t", b" ").partition(b" ")[0]
    return word, line[len(word) :].lstrip(b" \t")


_Answer = Callable[[ServerAuth, bytes], bytes]

_RESPONSES: dict[bytes, _Answer] = {
    b"EXTERNAL": ServerAuth._external,
    b"DBUS_COOKIE_SHA1": ServerAuth._cookie,
    b"ANONYMOUS": ServerAuth._anonymous,
}
"""What a client's response does, initial or not."""


def _error(text: str) -> _Answer:
    return lambda auth, argument: f'ERROR "{text}"'.encode()


_IDLE = _error("Not currently in an auth conversation")
_EARLY = _error("Need to authenticate first")
_UNKNOWN = _error("Unknown command")

_TABLE: dict[AuthState, dict[bytes, _Answer]] = {
    AuthState.AUTH: {
        b"AUTH": ServerAuth._start,
        b"DATA": _IDLE,
        b"CANCEL": _IDLE,
        b"ERROR": ServerAuth._reject,
        b"NEGOTIATE_UNIX_FD": _EARLY,
        b"BEGIN": ServerAuth._too_early,
    },
    AuthState.DATA: {
        b"AUTH": _error("Sent AUTH while another AUTH in progress"),
        b"DATA": ServerAuth._respond,
        b"CANCEL": ServerAuth._reject,
        b"ERROR": ServerAuth._reject,
        b"NEGOTIATE_UNIX_FD": _EARLY,
        b"BEGIN": ServerAuth._too_early,
    },
    AuthState.BEGIN: {
        b"AUTH": _error("Sent AUTH while expecting BEGIN"),
        b"DATA": _error("Sent DATA while expecting BEGIN"),
        b"CANCEL": ServerAuth._reject,
        b"ERROR": ServerAuth._reject,
        b"NEGOTIATE_UNIX_FD": ServerAuth._negotiate,
        b"BEGIN": ServerAuth._begin,
    },
}
"""What each command does in each state; any other command is an error that changes nothing."""
