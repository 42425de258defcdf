"""addresses: where a bus listens.

Theory. A native address is the path of a unix socket; a leading ``@`` means an abstract one. A bus that also
speaks D-Bus listens for native peers beside its D-Bus socket, under the same name with ``1`` appended, so one
environment variable leads to both.

Not here: connecting (links, aio), listening (the commands).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from .errors import InvalidArgument

SYSTEM_ADDRESS = "/run/bus1/bus"
_PLAIN = frozenset(b"-_/.\\*0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
"""Bytes that stand for themselves in the values of a D-Bus address."""


def escape(value: bytes) -> str:
    """A value as a D-Bus address has it."""
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in value)


def unescape(value: str) -> bytes:
    """The value behind its form in a D-Bus address; ValueError says what is wrong with it."""
    plain, *escaped = value.split("%")
    for char in value:
        if char != "%" and not (char.isascii() and ord(char) in _PLAIN):
            raise ValueError(f"character {char!r} must be escaped in address value '{value}'")
    out = plain.encode()
    for piece in escaped:
        digits = piece[:2]
        if len(digits) != 2 or digits.strip("0123456789abcdefABCDEF"):
            raise ValueError(f"'%' without two hex digits in address value '{value}'")
        out += bytes([int(digits, 16)]) + piece[2:].encode()
    return out


def native_address(dbus_address: str) -> str | None:
    """The native socket beside the first entry of a D-Bus address; None if that is not a unix socket."""
    transport, _, rest = dbus_address.split(";", 1)[0].partition(":")
    if transport != "unix":
        return None
    values = dict(pair.partition("=")[::2] for pair in rest.split(","))
    for key, prefix in (("path", ""), ("abstract", "@")):
        if values.get(key):
            try:
                return prefix + os.fsdecode(unescape(values[key])) + "1"
            except ValueError:
                return None
    return None


def default_address(environment: Mapping[str, str] = os.environ) -> str:
    """The bus of this session: $BUS1_ADDRESS, else beside the D-Bus session bus, else the usual places.

    InvalidArgument if there is a session bus, but none beside which a native socket could lie."""
    if chosen := environment.get("BUS1_ADDRESS"):
        return chosen
    if session := environment.get("DBUS_SESSION_BUS_ADDRESS"):
        address = native_address(session)
        if address is None:
            raise InvalidArgument(f"no native socket lies beside DBUS_SESSION_BUS_ADDRESS={session!r}")
        return address
    if directory := environment.get("XDG_RUNTIME_DIR"):
        return os.path.join(directory, "bus1")
    return SYSTEM_ADDRESS


def socket_name(address: str) -> str:
    """What bind and connect take for a native address: ``@`` becomes a zero byte."""
    return "\0" + address[1:] if address.startswith("@") else address
