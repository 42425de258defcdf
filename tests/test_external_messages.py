"""The messages, good and bad, with which D-Bus tests its own parser, as Debian installs them.

They need Debian's package dbus-tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from bus1_bridge.codec import check_body, frame_length, parse
from bus1_bridge.walk import ANY_FD
from buses import Bus

from bus1.errors import RemoteProtocolError

DATA = Path("/usr/lib/dbus-1.0/installed-tests/dbus/data")


def messages(folder: str) -> dict[str, bytes]:
    """What is in the files of a folder, by their names."""
    return {path.stem: path.read_bytes() for path in sorted((DATA / folder).glob("*.message-raw"))}


VALID, INVALID = messages("valid-messages"), messages("invalid-messages")
def test_the_messages_are_installed() -> None:
    assert (len(VALID), len(INVALID)) >= (2, 6)


def check(raw: bytes) -> None:
    """Framing, header and body of the message at the start, as the bus does it; RemoteProtocolError."""
    raw = raw[: frame_length(raw)]
    header = parse(raw)
    check_body(header.signature, raw[header.header_length :], header.endian, ANY_FD)


@pytest.mark.parametrize("name", VALID)
def test_what_is_valid_there_is_valid_here(name: str) -> None:
    check(VALID[name])


@pytest.mark.parametrize("name", INVALID)
def test_what_is_invalid_there_is_invalid_here(name: str) -> None:
    with pytest.raises(RemoteProtocolError):
        check(INVALID[name])


@pytest.mark.parametrize("name", VALID)
def test_a_valid_message_costs_nobody_the_connection(bus: Bus, name: str) -> None:
    client = bus.connect()
    client.write(VALID[name])
    client.sync()


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_message_costs_its_sender_the_connection(bus: Bus, name: str) -> None:
    client = bus.connect()
    client.write(INVALID[name])
    with pytest.raises(EOFError):
        client.sync()
