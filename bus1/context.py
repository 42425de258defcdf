"""context: the security context of a message: the kernel's label, and the endpoint behind it.

Theory. A receiver that asks for it (``PeerFlag.WANT_SECCTX``) gets the label that a security module of the
kernel gives to the sender. Where the sender has connected to an endpoint that somebody opened for it, the
bus puts the name of that endpoint behind the label, after a NUL. No label contains one, so whoever reads the
label as C does reads nothing else. The bus writes both; no sender can.

Not here: which endpoints there are (the bridge), to whom contexts are delivered (Core).
"""

from __future__ import annotations

ENDPOINT_MAX = 255
"""Bytes of an endpoint's name."""


def context_of(label: bytes | None, endpoint: str) -> bytes:
    """The context of a sender with this label, if any, behind this endpoint."""
    return (label or b"").rstrip(b"\0") + b"\0" + endpoint.encode()


def label_of(context: bytes | None) -> bytes:
    """The kernel's label of a context; empty if there is none."""
    return (context or b"").partition(b"\0")[0]


def endpoint_of(context: bytes | None) -> str:
    """The endpoint of a context; empty for the bus's own sockets."""
    return (context or b"").partition(b"\0")[2].decode(errors="replace")
