"""outcomes: what is read out of the answers to requests.

Not here: the requests (client), the messages that answers to RECV bring (client, mapping).
"""

from __future__ import annotations

import mmap
import struct

from .errors import OutOfMemory, RemoteProtocolError, TooManyDescriptors
from .exchange import Answer
from .frames import words


def nothing(answer: Answer) -> None:
    """It has succeeded."""
    return


def whole(answer: Answer) -> Answer:
    """All of it, to be read later."""
    return answer


def check_fd(answer: Answer, what: str) -> None:
    """TooManyDescriptors unless its one descriptor has come."""
    if len(answer.fds) != 1:
        raise TooManyDescriptors(f"{what} did not fit into this process")


def opened(answer: Answer) -> tuple[int, tuple[int, ...]]:
    """Of OPEN: the peer's descriptor, and the granted handles."""
    check_fd(answer, "the peer's descriptor")
    granted = words(answer.tail, 0, answer.values[0])
    return answer.fds.take(), granted


def document(answer: Answer) -> bytes:
    """Of SNAPSHOT: what lies in the memory file."""
    with answer.fds:
        check_fd(answer, "the document")
        try:
            with mmap.mmap(answer.fds[0], answer.values[0], prot=mmap.PROT_READ) as memory:
                return bytes(memory)
        except (OSError, ValueError, OverflowError) as error:
            raise OutOfMemory(f"cannot map the document: {error}") from error


def slots(answer: Answer, n_slots: int) -> list[int]:
    """Of SEND: 0 or -errno for each destination."""
    n = answer.values[0]
    if not n:
        return [0] * n_slots
    if len(answer.tail) != 8 * n or n != n_slots:
        raise RemoteProtocolError("an answer to SEND with the wrong number of slots")
    return list(struct.unpack(f"<{n}q", answer.tail))
