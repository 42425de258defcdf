"""errors: every error of the contract, each with its errno.

Theory. The tree is cut by what the caller should do next: wait (``WouldBlock``), stop asking
(``Rejected``), come back later (``Overloaded``), get the capability anew (``Disconnected``), give up
the connection (``ProtocolError``), report a bug (``InternalError``). Contract classes also inherit
the builtin a reader expects. The errno is the manual page's (semantics E-1, E-2).

Invariants. 1. An operation that raises one of these has changed nothing on the bus (E-3).
2. Each errno of ``BY_ERRNO`` names exactly one class.

Not here: D-Bus error names (the bridge's driver has the one table).
"""

from __future__ import annotations

import errno as _e


class Bus1Error(Exception):
    """Root of all contract errors; ``errno`` is the positive code of the manual page."""

    errno: int = _e.EIO


class WouldBlock(Bus1Error, BlockingIOError):
    """Nothing to receive yet: not an error, wait (EAGAIN)."""

    errno = _e.EAGAIN


class Rejected(Bus1Error):
    """The request itself is wrong: do not retry it."""

    errno = _e.EINVAL


class InvalidArgument(Rejected, ValueError):
    """A flag, a combination or a value that the operation does not take (EINVAL)."""

    errno = _e.EINVAL


class NoSuchHandle(Rejected, LookupError):
    """The id names no handle, or the offset no published slice (ENXIO)."""

    errno = _e.ENXIO


class TooLarge(Rejected, ValueError):
    """A count or a size beyond what one message may have (EMSGSIZE)."""

    errno = _e.EMSGSIZE


class Denied(Rejected, PermissionError):
    """Not permitted (EPERM)."""

    errno = _e.EPERM


class Busy(Rejected):
    """The last reference of an own live node cannot be released (EBUSY, H-43, H-44)."""

    errno = _e.EBUSY


class NotUnique(Rejected, ValueError):
    """The same destination or node twice in one operation (ENOTUNIQ)."""

    errno = _e.ENOTUNIQ


class ForeignNode(Rejected):
    """Only its owner can destroy a node (EREMOTE)."""

    errno = _e.EREMOTE


class AlreadyDestroyed(Rejected):
    """The node has been destroyed before (ESTALE)."""

    errno = _e.ESTALE


class BadDescriptor(Rejected):
    """Not an open descriptor (EBADF)."""

    errno = _e.EBADF


class NotSupported(Rejected):
    """The descriptor is of a kind that may not travel (EOPNOTSUPP, T-30)."""

    errno = _e.EOPNOTSUPP


class OutOfRange(Rejected):
    """The message lies beyond ``max_offset``; it stays queued (ERANGE, R-4)."""

    errno = _e.ERANGE


class UnknownOperation(Rejected):
    """The bus does not know this operation (ENOTTY)."""

    errno = _e.ENOTTY


class Overloaded(Bus1Error):
    """A resource is used up: shed load, try later."""

    errno = _e.EDQUOT


class QuotaExceeded(Overloaded):
    """A quota or a limit of an account is exceeded (EDQUOT); the text names which."""

    errno = _e.EDQUOT


class OutOfMemory(Overloaded):
    """Memory for the message could not be reserved (ENOMEM)."""

    errno = _e.ENOMEM


class PoolFull(Overloaded):
    """No gap in the pool is large enough (EXFULL)."""

    errno = _e.EXFULL


class TooManyDescriptors(Overloaded):
    """The process cannot take more descriptors; the message stays queued (EMFILE)."""

    errno = _e.EMFILE


class Disconnected(Bus1Error):
    """The other side is gone: get the capability anew."""

    errno = _e.EHOSTUNREACH


class NodeDestroyed(Disconnected):
    """The node or its owner is gone (EHOSTUNREACH, T-40)."""

    errno = _e.EHOSTUNREACH


class PeerShutdown(Disconnected):
    """This peer has been disconnected (ESHUTDOWN)."""

    errno = _e.ESHUTDOWN


class BusGone(Disconnected, ConnectionError):
    """The bus process closed the connection (ECONNRESET)."""

    errno = _e.ECONNRESET


class ProtocolError(Bus1Error):
    """Bytes or a call order that the protocol does not allow."""

    errno = _e.EPROTO


class LocalProtocolError(ProtocolError):
    """This side broke the protocol."""


class RemoteProtocolError(ProtocolError):
    """The other side broke the protocol: close that connection, never the bus."""


class InternalError(Bus1Error):
    """A broken invariant of the bus itself: a bug here, the state is suspect, stop."""

    errno = _e.ENOTRECOVERABLE


BY_ERRNO: dict[int, type[Bus1Error]] = {
    kind.errno: kind
    for kind in (
        WouldBlock, InvalidArgument, NoSuchHandle, TooLarge, Denied, Busy, NotUnique, ForeignNode,
        AlreadyDestroyed, BadDescriptor, NotSupported, OutOfRange, UnknownOperation, QuotaExceeded,
        OutOfMemory, PoolFull, TooManyDescriptors, NodeDestroyed, PeerShutdown, BusGone,
        RemoteProtocolError, InternalError,
    )
}


def from_errno(code: int, text: str) -> Bus1Error:
    """The error for the positive errno ``code``; an unknown code gives an ``InternalError``."""
    kind = BY_ERRNO.get(code)
    return kind(text) if kind else InternalError(f"errno {code}: {text}")
