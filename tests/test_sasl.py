"""The server's side of SASL: every command in every state, on the reference too (dbus-bus §2)."""

from __future__ import annotations

import os
import re

import pytest
from bus1_bridge.sasl import MAX_BUFFER, MAX_LINES, AuthRules, ServerAuth
from buses import Bus
from hypothesis import given
from hypothesis import strategies as st

from bus1.errors import RemoteProtocolError

GUID = "0123456789abcdef" * 2
UID = os.getuid()
ME = str(UID).encode().hex().encode()
OTHER = str(UID + 1).encode().hex().encode()
SIGNED_IN = b"AUTH EXTERNAL " + ME + b"\r\n"

TRANSCRIPTS: dict[str, bytes] = {
    "the mechanisms are asked for": b"AUTH",
    "no initial response": b"AUTH EXTERNAL",
    "an empty response": b"AUTH EXTERNAL\r\nDATA",
    "a response with the uid": b"AUTH EXTERNAL\r\nDATA " + ME,
    "a response with another uid": b"AUTH EXTERNAL\r\nDATA " + OTHER,
    "a response that is not hex": b"AUTH EXTERNAL\r\nDATA zz\r\nDATA",
    "an initial response": SIGNED_IN,
    "the uid of somebody else": b"AUTH EXTERNAL " + OTHER,
    "a login name": b"AUTH EXTERNAL " + b"root".hex().encode(),
    "not hex": b"AUTH EXTERNAL xyz",
    "hex with a blank": b"AUTH EXTERNAL 3 0",
    "hex with a blank at its end": b"AUTH EXTERNAL " + ME + b" ",
    "a uid with a NUL": b"AUTH EXTERNAL " + ME + b"00",
    "a uid with a blank behind": b"AUTH EXTERNAL " + ME + b"20",
    "not hex, then DATA": b"AUTH EXTERNAL xyz\r\nDATA",
    "blanks in abundance": b"AUTH  EXTERNAL \t" + ME,
    "a blank at the end": b"AUTH EXTERNAL ",
    "a blank in front": b" AUTH EXTERNAL",
    "small letters": b"auth EXTERNAL",
    "a mechanism in small letters": b"AUTH external",
    "anonymous": b"AUTH ANONYMOUS",
    "cookies": b"AUTH DBUS_COOKIE_SHA1 " + ME,
    "an unknown mechanism": b"AUTH KERBEROS",
    "an unknown command": b"FOO\r\nAUTH EXTERNAL",
    "an empty line": b"",
    "a client's view of commands": b"OK 12\r\nREJECTED\r\nAGREE_UNIX_FD",
    "DATA first": b"DATA " + ME,
    "CANCEL first": b"CANCEL",
    "ERROR first": b"ERROR nonsense",
    "descriptors first": b"NEGOTIATE_UNIX_FD",
    "BEGIN first": b"BEGIN",
    "BEGIN in the middle": b"AUTH EXTERNAL\r\nBEGIN",
    "BEGIN after a rejection": b"AUTH EXTERNAL " + OTHER + b"\r\nBEGIN",
    "AUTH in the middle": b"AUTH EXTERNAL\r\nAUTH EXTERNAL",
    "CANCEL in the middle": b"AUTH EXTERNAL\r\nCANCEL\r\nDATA",
    "ERROR in the middle": b"AUTH EXTERNAL\r\nERROR",
    "unknown in the middle": b"AUTH EXTERNAL\r\nFOO\r\nDATA",
    "descriptors in the middle": b"AUTH EXTERNAL\r\nNEGOTIATE_UNIX_FD",
    "descriptors twice": SIGNED_IN + b"NEGOTIATE_UNIX_FD\r\nNEGOTIATE_UNIX_FD",
    "AUTH at the end": SIGNED_IN + b"AUTH EXTERNAL",
    "DATA at the end": SIGNED_IN + b"DATA",
    "CANCEL at the end": SIGNED_IN + b"CANCEL\r\nDATA",
    "ERROR at the end": SIGNED_IN + b"ERROR nonsense",
    "unknown at the end": SIGNED_IN + b"FOO",
    "once more after CANCEL": SIGNED_IN + b"NEGOTIATE_UNIX_FD\r\nCANCEL\r\n" + SIGNED_IN.strip(),
    "not ASCII": b"F\xff\r\nAUTH",
    "a NUL in a line": b"F\0O\r\nAUTH",
    "a NUL in an argument": SIGNED_IN + b"CANCEL \0\r\nDATA",
    "line feeds alone": b"AUTH\nAUTH",
    "five rejections": b"AUTH\r\n" * 4 + b"AUTH",
    "six rejections": b"AUTH\r\n" * 5 + b"AUTH",
    "six rejections among other lines": b"FOO\r\nAUTH\r\n" * 5 + b"FOO\r\nAUTH",
    "six withdrawals": (SIGNED_IN + b"CANCEL\r\n") * 5 + SIGNED_IN + b"CANCEL",
    "a long line": b"A" * 16000,
    "a line that is too long": b"A" * MAX_BUFFER,
}


def talk(said: bytes) -> tuple[bytes, bool]:
    """What our side answers, and whether it closes."""
    auth = ServerAuth(UID, GUID)
    try:
        return auth.feed(b"\0" + said + b"\r\n"), auth.closed
    except RemoteProtocolError:  # a line that is too long
        return b"", True


def keywords(answers: bytes) -> list[bytes]:
    """Answers without their free texts."""
    return [line.split(b' "')[0] for line in re.sub(rb"OK [0-9a-f]{32}", b"OK", answers).split(b"\r\n")]


def test_a_bus_gives_every_answer_that_we_give(bus: Bus) -> None:
    differing = []
    for name, said in TRANSCRIPTS.items():
        ours, closes = talk(said)
        wire = bus.wire()
        wire.write(b"\0" + said + b"\r\n")
        if closes:
            theirs = wire.rest()  # ends only if the reference closes, too
        else:
            # an answer to one more line shows that all lines before were answered, and nobody closed
            wire.write(b"LAST\r\n")
            ours += b'ERROR "Unknown command"\r\n'
            theirs = b"".join(wire.line().encode() + b"\r\n" for _ in range(ours.count(b"\r\n")))
            wire.write(b"LAST\r\n")
            assert wire.line() == 'ERROR "Unknown command"', name
        if keywords(ours) != keywords(theirs):
            differing.append((name, ours, theirs))
    assert differing == []


@pytest.mark.parametrize("text", ["00", " 0", "+0", "-0", "0x0", "0_0", "٠"])
def test_a_uid_is_written_in_one_way_only(text: str) -> None:
    auth = ServerAuth(0, GUID)
    assert auth.feed(b"\0AUTH EXTERNAL " + text.encode().hex().encode() + b"\r\n") == b"REJECTED EXTERNAL\r\n"


def test_sd_bus_says_everything_at_once_and_no_byte_behind_begin_is_lost() -> None:
    auth = ServerAuth(UID, GUID)
    answer = auth.feed(b"\0AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\nl\1\0\1\r\n")
    assert answer == f"DATA\r\nOK {GUID}\r\nAGREE_UNIX_FD\r\n".encode()
    assert auth.done and auth.takes_fds and auth.rest == b"l\1\0\1\r\n"
    assert auth.feed(b"more") == b"" and auth.rest == b"l\1\0\1\r\nmore"


def test_much_may_follow_begin_in_the_same_write() -> None:
    auth = ServerAuth(UID, GUID)
    auth.feed(b"\0" + SIGNED_IN + b"BEGIN\r\n" + b"x" * (4 * MAX_BUFFER))
    assert auth.done and len(auth.rest) == 4 * MAX_BUFFER


@pytest.mark.parametrize("mechanisms", [("EXTERNAL",), ("ANONYMOUS",), ("EXTERNAL", "ANONYMOUS")])
@pytest.mark.parametrize("can_pass_fds", [True, False])
@pytest.mark.parametrize("uid", [UID, UID + 1, 0, 4242, None])
@pytest.mark.parametrize(
    "first", [b"AUTH EXTERNAL " + ME, b"AUTH EXTERNAL\r\nDATA", b"AUTH EXTERNAL 34323432"]
)
def test_what_clients_say_in_one_piece_is_what_they_say_line_by_line(
    first: bytes, uid: int | None, can_pass_fds: bool, mechanisms: tuple[str, ...]
) -> None:
    said = b"\0" + first + b"\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\nl\1rest\r\n"
    once, stepwise = (
        ServerAuth(uid, GUID, AuthRules(mechanisms), can_pass_fds=can_pass_fds) for _ in range(2)
    )
    answers = b"".join(stepwise.feed(bytes((byte,))) for byte in said)
    assert once.feed(said) == answers
    assert (once.done, once.closed, once.state) == (stepwise.done, stepwise.closed, stepwise.state)
    if once.done:
        assert vars(once) == vars(stepwise)
        assert once.rest == b"l\1rest\r\n"


@given(st.sampled_from(sorted(TRANSCRIPTS.values(), key=len)[:-2]), st.data())
def test_the_cut_into_pieces_makes_no_difference(said: bytes, data: st.DataObject) -> None:
    whole = b"\0" + said + b"\r\n"
    auth, answers, closes, at = ServerAuth(UID, GUID), b"", False, 0
    while at < len(whole) and not closes:
        step = data.draw(st.integers(1, 20))
        try:
            answers += auth.feed(whole[at : at + step])
            closes = auth.closed
        except RemoteProtocolError:
            closes = True
        at += step
    expected, expected_close = talk(said)
    assert closes == expected_close
    assert answers == expected


def test_the_first_byte_is_nul() -> None:
    with pytest.raises(RemoteProtocolError):
        ServerAuth(UID, GUID).feed(b"AUTH\r\n")


def test_nothing_is_no_first_byte() -> None:
    auth = ServerAuth(UID, GUID)
    assert auth.feed(b"") == b"" and not auth.has_begun
    assert auth.feed(b"\0") == b"" and auth.has_begun


def test_more_than_16_kib_without_a_line_end_close() -> None:
    auth = ServerAuth(UID, GUID)
    auth.feed(b"\0" + b"A" * MAX_BUFFER)
    with pytest.raises(RemoteProtocolError):
        auth.feed(b"A")


def test_without_a_uid_from_the_kernel_nobody_is_let_in() -> None:
    auth = ServerAuth(None, GUID)
    assert auth.feed(b"\0AUTH EXTERNAL\r\nDATA\r\n") == b"DATA\r\nREJECTED EXTERNAL\r\n"
    assert auth.feed(SIGNED_IN) == b"REJECTED EXTERNAL\r\n"


def test_a_transport_without_descriptors_says_so() -> None:
    auth = ServerAuth(UID, GUID, can_pass_fds=False)
    answer = auth.feed(b"\0" + SIGNED_IN + b"NEGOTIATE_UNIX_FD\r\nBEGIN\r\n")
    assert keywords(answer) == [b"OK", b"ERROR", b""] and auth.done and not auth.takes_fds


def test_a_withdrawal_forgets_the_descriptors() -> None:
    auth = ServerAuth(UID, GUID)
    auth.feed(b"\0" + SIGNED_IN + b"NEGOTIATE_UNIX_FD\r\nCANCEL\r\n" + SIGNED_IN + b"BEGIN\r\n")
    assert auth.done and not auth.takes_fds


def test_nothing_is_answered_after_the_last_rejection() -> None:
    auth = ServerAuth(UID, GUID)
    answer = auth.feed(b"\0" + b"AUTH\r\n" * 9 + SIGNED_IN + b"BEGIN\r\n")
    assert answer == b"REJECTED EXTERNAL\r\n" * 6 and auth.closed and not auth.done
    assert auth.feed(SIGNED_IN) == b"" and not auth.done


@pytest.mark.parametrize("line", [b"", b"FOO", b"DATA", b"NEGOTIATE_UNIX_FD"])
def test_an_authentication_has_a_bounded_number_of_lines(line: bytes) -> None:
    auth = ServerAuth(UID, GUID)
    answer = auth.feed(b"\0" + (line + b"\r\n") * 3 * MAX_LINES)
    assert answer.count(b"\r\n") == MAX_LINES and auth.closed
    assert auth.feed(SIGNED_IN) == b"" and not auth.done


def test_begin_may_be_the_last_line_of_all() -> None:
    auth = ServerAuth(UID, GUID)
    auth.feed(b"\0" + b"FOO\r\n" * (MAX_LINES - 2) + SIGNED_IN + b"BEGIN\r\n")
    assert auth.done and not auth.closed


WORDS = [b"AUTH", b" ", b"EXTERNAL", b"\r\n", b"DATA", ME, b"BEGIN", b"CANCEL"]


@given(st.binary(max_size=60), st.lists(st.sampled_from(WORDS)))
def test_no_bytes_make_it_fail_or_let_anybody_in_without_ok(noise: bytes, words: list[bytes]) -> None:
    auth = ServerAuth(UID, GUID)
    try:
        answer = auth.feed(b"\0" + b"".join(words) + noise)
    except RemoteProtocolError:
        return
    assert not auth.done or b"OK " in answer
