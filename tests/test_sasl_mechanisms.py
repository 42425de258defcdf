"""Mechanisms of authentication as a bus is configured: the scripts of dbus-tests, cookies, and nobody."""

from __future__ import annotations

import hashlib
import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest
from bus1_bridge.keyring import FileKeyring
from bus1_bridge.sasl import MECHANISMS, AuthRules, AuthState, ServerAuth

from bus1.errors import RemoteProtocolError

SCRIPTS = Path("/usr/lib/dbus-1.0/installed-tests/dbus/data/auth")
OF_A_CLIENT = {
    "anonymous-client-successful", "client-out-of-mechanisms", "fallback", "invalid-command-client"
}
GUID = "0123456789abcdef" * 2
UID = os.getuid()
NAME = pwd.getpwuid(UID).pw_name
CHALLENGE = b"5a" * 16
COOKIE = b"c0" * 24


class Cookies:
    """A keyring of one cookie."""

    uid = UID

    def __init__(self, *, has_one: bool = True) -> None:
        self.has_one = has_one

    def is_owner(self, identity: bytes) -> bool:
        return identity in {b"%d" % UID, NAME.encode()}

    def cookie(self) -> tuple[bytes, bytes] | None:
        return (b"17", COOKIE) if self.has_one else None

    def challenge(self) -> bytes:
        return CHALLENGE


EVERYTHING = AuthRules(MECHANISMS, allows_anonymous=True, keyring=Cookies())
"""All mechanisms, as in a configuration without <auth>."""

# ---- the scripts of dbus-tests -------------------------------------------------------------------

PLACES = {
    "USERID_HEX": str(UID), "USERNAME_HEX": NAME,
    "WRONG_USERID_HEX": str(UID + 1), "WRONG_USERNAME_HEX": NAME + "x",
}
CREDENTIALS: dict[str, int | None] = {
    "NO_CREDENTIALS": None, "ROOT_CREDENTIALS": 0, "SILLY_CREDENTIALS": 4312
}


class Script:
    """One script, played against the server's side."""

    def __init__(self) -> None:
        self.auth = ServerAuth(UID, GUID, EVERYTHING)
        self.auth.feed(b"\0")
        self.answers: list[bytes] = []

    def play(self, line: str) -> None:
        verb, _, rest = line.partition(" ")
        text = rest.strip().strip("'")
        if verb in CREDENTIALS:
            self.auth.uid = CREDENTIALS[verb]
        elif verb == "SEND":
            for place, value in PLACES.items():
                words = [value.encode().hex() if word == place else word for word in text.split(" ")]
                text = " ".join(words)
            line_to_send = text.replace("\\r\\n", "\r\n").encode() + b"\r\n"
            self.answers += [answer for answer in self.auth.feed(line_to_send).split(b"\r\n") if answer]
        elif verb == "EXPECT_COMMAND":
            assert self.answers.pop(0).split()[0].decode() == text
        elif verb == "EXPECT_STATE":
            assert self.state == text
        elif verb == "EXPECT_UNUSED":
            assert self.auth.rest == text.replace("\\r\\n", "\r\n").encode()
            self.auth.rest = b""
        elif verb == "EXPECT_HAVE_NO_CREDENTIALS":
            assert self.auth.identity is None
        elif verb == "EXPECT_HAVE_SOME_CREDENTIALS":
            assert self.auth.identity is not None
        else:
            assert verb in {"SERVER", "UNIX_ONLY"}, line

    @property
    def state(self) -> str:
        if self.auth.closed:
            return "NEED_DISCONNECT"
        if self.auth.done:
            return "AUTHENTICATED_WITH_UNUSED_BYTES" if self.auth.rest else "AUTHENTICATED"
        return "WAITING_FOR_INPUT"


def lines_of(script: Path) -> list[str]:
    lines = [line.strip() for line in script.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def scripts() -> dict[str, list[str]]:
    return {path.stem: lines_of(path) for path in sorted(SCRIPTS.glob("*.auth-script"))}


def test_every_script_is_known_and_only_those_of_a_client_are_left_out() -> None:
    assert len(scripts()) >= 19
    assert {name for name, lines in scripts().items() if "CLIENT" in lines} == OF_A_CLIENT


@pytest.mark.parametrize("name", sorted(scripts().keys() - OF_A_CLIENT))
def test_the_server_side_of_every_script_is_played_as_it_stands(name: str) -> None:
    script = Script()
    for line in scripts()[name]:
        script.play(line)
    assert script.answers == []


# ---- what is configured --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mechanisms", [(), ("EXTERNAL",), ("ANONYMOUS", "EXTERNAL"), ("DBUS_COOKIE_SHA1",), MECHANISMS]
)
def test_a_rejection_names_what_is_configured_in_one_order(mechanisms: tuple[str, ...]) -> None:
    auth = ServerAuth(UID, GUID, AuthRules(mechanisms))
    offered = " ".join(name for name in MECHANISMS if name in mechanisms)
    assert auth.feed(b"\0AUTH\r\n").decode() == f"REJECTED {offered}".rstrip() + "\r\n"


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_what_is_not_configured_is_rejected(mechanism: str) -> None:
    rest = tuple(name for name in MECHANISMS if name != mechanism)
    auth = ServerAuth(UID, GUID, AuthRules(rest, allows_anonymous=True, keyring=Cookies()))
    assert auth.feed(f"\0AUTH {mechanism} {NAME.encode().hex()}\r\n".encode()).startswith(b"REJECTED ")
    assert auth.feed(f"AUTH {mechanism} {str(UID).encode().hex()}\r\n".encode()).startswith(b"REJECTED ")


def test_nobody_is_let_in_only_if_that_is_allowed() -> None:
    for allowed in (True, False):
        auth = ServerAuth(UID, GUID, AuthRules(MECHANISMS, allows_anonymous=allowed))
        answer = auth.feed(b"\0AUTH ANONYMOUS " + b"libdbus".hex().encode() + b"\r\nBEGIN\r\n")
        assert auth.done is allowed
        assert answer.startswith(b"OK " if allowed else b"REJECTED ")
        assert auth.identity is None


def test_a_trace_of_nobody_is_text() -> None:
    auth = ServerAuth(UID, GUID, EVERYTHING)
    assert auth.feed(b"\0AUTH ANONYMOUS ff\r\n").startswith(b"REJECTED ")
    assert auth.feed(b"AUTH ANONYMOUS\r\n").startswith(b"OK ")


def test_who_was_nobody_and_thinks_better_of_it_is_somebody() -> None:
    auth = ServerAuth(UID, GUID, EVERYTHING)
    auth.feed(b"\0AUTH ANONYMOUS\r\nCANCEL\r\nAUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
    assert auth.done and auth.identity == UID


def test_who_takes_it_back_is_nobody_again() -> None:
    auth = ServerAuth(UID, GUID, EVERYTHING)
    auth.feed(b"\0AUTH EXTERNAL\r\nDATA\r\n")
    assert auth.identity == UID
    auth.feed(b"CANCEL\r\n")
    assert auth.identity is None


# ---- cookies -------------------------------------------------------------------------------------


def answer_to(data: bytes, cookie: bytes = COOKIE, own: bytes = b"mine") -> bytes:
    """A client's answer to the DATA of the server."""
    context, number, challenge = bytes.fromhex(data.split()[1].decode()).split(b" ")
    assert (context, number) == (b"org_freedesktop_general", b"17")
    digest = hashlib.sha1(b":".join((challenge, own, cookie))).hexdigest().encode()
    return b"DATA " + (own + b" " + digest).hex().encode() + b"\r\n"


def ask(auth: ServerAuth, who: str = str(UID)) -> bytes:
    return auth.feed(f"\0AUTH DBUS_COOKIE_SHA1 {who.encode().hex()}\r\n".encode())


@pytest.mark.parametrize("who", [str(UID), NAME])
def test_who_knows_the_cookie_is_the_user_of_the_bus_without_the_kernel_s_word(who: str) -> None:
    auth = ServerAuth(None, GUID, EVERYTHING, can_pass_fds=False)
    assert auth.feed(answer_to(ask(auth, who)) + b"BEGIN\r\n") == f"OK {GUID}\r\n".encode()
    assert auth.done and auth.identity == UID


WRONG: dict[str, Callable[[bytes], bytes]] = {
    "another cookie": lambda data: answer_to(data, COOKIE[::-1]),
    "no challenge of its own": lambda data: answer_to(data, own=b""),
    "nothing": lambda data: b"DATA\r\n",
    "one word": lambda data: b"DATA " + b"word".hex().encode() + b"\r\n",
    "the server's challenge alone": lambda data: b"DATA " + CHALLENGE.hex().encode() + b"\r\n",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_answer_to_the_challenge_is_rejected(wrong: str) -> None:
    auth = ServerAuth(UID, GUID, EVERYTHING)
    assert auth.feed(WRONG[wrong](ask(auth))).startswith(b"REJECTED ")
    assert auth.state is AuthState.AUTH and auth.identity is None


def test_an_answer_is_good_for_one_challenge() -> None:
    class Changing(Cookies):
        n = 0

        def challenge(self) -> bytes:
            self.n += 1
            return b"%032x" % self.n

    auth = ServerAuth(UID, GUID, AuthRules(MECHANISMS, keyring=Changing()))
    stale = answer_to(ask(auth))
    auth.feed(b"CANCEL\r\n")
    auth.feed(f"AUTH DBUS_COOKIE_SHA1 {str(UID).encode().hex()}\r\n".encode())
    assert auth.feed(stale).startswith(b"REJECTED ")


@pytest.mark.parametrize("who", ["", str(UID + 1), NAME + "x", f"0{UID}", f"{UID} "])
def test_only_the_user_of_the_bus_is_given_a_challenge(who: str) -> None:
    assert ask(ServerAuth(UID, GUID, EVERYTHING), who).startswith(b"REJECTED ")


def test_without_a_cookie_nobody_is_let_in() -> None:
    for keyring in (None, Cookies(has_one=False)):
        auth = ServerAuth(UID, GUID, AuthRules(MECHANISMS, keyring=keyring))
        assert ask(auth).startswith(b"REJECTED ")


def test_no_conversation_about_cookies_makes_it_fail() -> None:
    auth = ServerAuth(UID, GUID, EVERYTHING)
    data = ask(auth)
    try:
        auth.feed(b"DATA zz\r\nDATA \xff\r\nNEGOTIATE_UNIX_FD\r\n" + answer_to(data))
    except RemoteProtocolError:
        pytest.fail("that is an ordinary error")
    assert auth.identity == UID, "errors keep the conversation"


# ---- the file ------------------------------------------------------------------------------------


class Ring:
    """A keyring in a home of the test's, at a time of the test's."""

    def __init__(self, home: Path) -> None:
        self.now = 1_000_000.0
        self.complaints: list[str] = []
        self.folder = home / ".dbus-keyrings"
        self.file = self.folder / "org_freedesktop_general"
        self.lock = self.folder / "org_freedesktop_general.lock"
        self.keyring = FileKeyring(str(home), NAME, self.complaints.append, lambda: self.now)

    def cookie(self) -> bytes | None:
        found = self.keyring.cookie()
        return None if found is None else found[1]

    def refuses(self, reason: str) -> bool:
        return self.cookie() is None and reason in self.complaints.pop()


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path)


def test_the_first_cookie_makes_the_folder_and_the_file_for_this_user_alone(ring: Ring) -> None:
    found = ring.keyring.cookie()
    assert found is not None
    assert (ring.folder.stat().st_mode & 0o777, ring.file.stat().st_mode & 0o777) == (0o700, 0o600)
    number, value = found
    assert ring.file.read_bytes() == number + b" 1000000 " + value + b"\n"
    assert len(bytes.fromhex(value.decode())) == 24
    assert [path.name for path in ring.folder.iterdir()] == [ring.file.name], "no lock is left"


def test_a_cookie_is_offered_for_five_minutes_and_kept_for_two_more(ring: Ring) -> None:
    first = ring.cookie()
    assert first is not None
    ring.now += 299
    assert ring.cookie() == first
    ring.now += 2
    second = ring.cookie()
    assert second is not None and second != first
    assert first in ring.file.read_bytes(), "a client may be about to use it"
    ring.now += 301
    assert ring.cookie() not in (first, second)
    assert first not in ring.file.read_bytes()


def test_cookies_from_the_future_and_lines_that_are_none_are_passed_over(ring: Ring) -> None:
    ring.folder.mkdir(0o700)
    lines = "1 1000400 aa", "2 99 bb", "x 1000000 cc", "3 1000000", "4 1000000 dd ee", "9" * 5000 + " 1 ff"
    ring.file.write_text("\n".join(lines))
    found = ring.cookie()
    assert found is not None and len(found) == 48
    assert ring.file.read_bytes().count(b"\n") == 1


def test_a_file_never_has_more_cookies_than_anybody_needs(ring: Ring) -> None:
    ring.folder.mkdir(0o700)
    ring.file.write_text("".join(f"{n} {1_000_000 - 350} ab\n" for n in range(1000)))
    assert ring.cookie() is not None
    assert ring.file.read_bytes().count(b"\n") == 256


def test_a_locked_file_gives_what_is_still_good_or_nothing(ring: Ring) -> None:
    first = ring.cookie()
    ring.lock.touch()
    os.utime(ring.lock, (ring.now + 400, ring.now + 400))
    ring.now += 400
    assert ring.cookie() == first, "too old to be offered, but nobody waits for a lock"
    ring.now += 30
    os.utime(ring.lock, (ring.now, ring.now))
    assert ring.refuses("is locked")
    assert ring.lock.exists()


def test_a_lock_that_nobody_can_mean_any_more_is_broken(ring: Ring) -> None:
    ring.folder.mkdir(0o700)
    ring.lock.touch()
    os.utime(ring.lock, (ring.now - 11, ring.now - 11))
    assert ring.cookie() is not None
    assert not ring.lock.exists()


def test_a_folder_that_others_may_use_is_not_used(ring: Ring) -> None:
    for mode in (0o755, 0o710, 0o701, 0o770):
        ring.folder.mkdir(exist_ok=True)
        ring.folder.chmod(mode)
        assert ring.refuses(f"with mode {mode:04o}, not to uid {UID} with mode 0700")
        assert list(ring.folder.iterdir()) == []


def test_nothing_is_reached_through_a_symbolic_link(ring: Ring, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(0o700)
    ring.folder.symlink_to(elsewhere)
    assert ring.refuses("Not a directory") or ring.refuses("symbolic links")
    assert list(elsewhere.iterdir()) == []
    ring.folder.unlink()
    ring.folder.mkdir(0o700)
    secret = elsewhere / "secret"
    secret.write_text("17 1000000 abcd\n")
    ring.file.symlink_to(secret)
    assert ring.refuses("symbolic links")
    ring.file.unlink()
    ring.lock.symlink_to(elsewhere / "made")
    os.utime(ring.lock, (ring.now, ring.now), follow_symlinks=False)
    assert ring.refuses("is locked")
    assert {path.name for path in elsewhere.iterdir()} == {"secret"}


def test_what_is_no_file_in_its_place_blocks_nobody(ring: Ring) -> None:
    ring.folder.mkdir(0o700)
    os.mkfifo(ring.file)
    assert ring.refuses("is not a file of uid")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_the_file_of_somebody_else_is_not_used(ring: Ring) -> None:
    ring.folder.mkdir(0o700)
    ring.file.write_text("17 1000000 abcd\n")
    os.chown(ring.file, 65534, -1)
    assert ring.refuses("is not a file of uid 0")
    os.chown(ring.folder, 65534, -1)
    assert ring.refuses("it belongs to uid 65534")


def test_a_home_that_is_not_there_is_said(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "nowhere")
    assert ring.refuses("No such file or directory")
