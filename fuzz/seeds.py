"""seeds: the first inputs, from which the fuzzer goes on. ``python -m fuzz.seeds DIR`` writes them.

Theory. Each is a program as an honest or nearly honest client would write it: every operation with fields
that make sense, one after the other, so that the fuzzer starts deep and changes single choices. ``Script``
writes the choices in the order in which the targets take them.

Not here: what the choices do (server_target, frames_target, texts_target).
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bus1.core.api import NO_LIMIT
from bus1.frames import REQUESTS, Operation

from .hostile_client import IN_ARENA, INLINE
from .program import INTERESTING, LEARNED, RAW
from .server_target import COUNTS, KINDS, OPERATIONS, STEPS
from .texts_target import KEYS, LIKELY, MECHANISMS, VALUES, WORDS, right_answer

ALL = NO_LIMIT
LAST = -1
"""Stands for the number that was learned last, -2 for the one before."""
PLAUSIBLE: dict[int, Sequence[Sequence[int]]] = {
    Operation.ARENA: [[4096], [1 << 20]],
    Operation.SEGMENT: [[1], [2]],
    Operation.SEGMENT_UNMAPPED: [[1], [2]],
    Operation.INSTALLED: [[1], [0]],
    Operation.CANCEL: [[]],
    Operation.DISCONNECT: [[0]],
    Operation.QUERY: [[0]],
    Operation.RESET: [[1, ALL, ALL, ALL, ALL, ALL], [0, ALL, 2, 3, ALL, ALL], [3, 1, ALL, ALL, 4096, 1]],
    Operation.RELEASE: [[0xB], [LAST], [0x10]],
    Operation.TRANSFER: [[0, 0x10, ALL], [0, LAST, ALL]],
    Operation.DESTROY: [[0, 1], [1, 2]],
    Operation.SLICE_RELEASE: [[0, 0, 0], [LAST, 1, 0], [-2, 0, 1]],
    Operation.RECV: [[4, ALL, 1], [4, ALL, 0x303], [5, ALL, 0], [4, ALL, 2], [6, ALL, 0], [0, 8, 0]],
    Operation.SEND: [[0, *[0] * 6], [1, *[0] * 6], [2, *[0] * 6]],
    Operation.CALL: [[*[0] * 7, 4, ALL, 1]],
    Operation.REPLY: [[*[0] * 7, 4, ALL, 1, LAST, 0, 0, ALL], [*[0] * 7, 4, ALL, 3, ALL, 0, 0, 0xB]],
    Operation.RESPOND: [[*[0] * 7, 0xB], [*[0] * 7, LAST]],
}
"""Fields that make sense; the lengths of SEND's tails are chosen otherwise."""


class Script:
    """Choices of a program, written down."""

    def __init__(self) -> None:
        self.written = bytearray()

    def step(self, name: str, *choices: int) -> None:
        """A step that takes single bytes."""
        self.written += bytes([STEPS.index(name), *choices])

    def number(self, value: int) -> None:
        """A number; negative ones are learned."""
        if value < 0:
            self.written.append(LEARNED - 1 - value)
        elif value in INTERESTING:
            self.written.append(INTERESTING.index(value))
        else:
            self.written.append(RAW)
            self.written += struct.pack("<Q", value)

    def request(
        self, client: int, operation: int, values: Sequence[int], *, n_fds: int = 0, kind: str = "pipe",
        ids: Sequence[int] = (0xB,), handles: Sequence[int] = (), inline: int = 8,
        in_arena: int = 0, how: int = 0,
    ) -> None:
        """One request; ``ids`` are destinations, or nodes to destroy."""
        self.step("request", client, COUNTS.index(n_fds))
        if n_fds:
            self.written += bytes([KINDS.index(kind), *([client + 1] if kind == "peer" else [])])
        self.written.append(OPERATIONS.index(operation))
        for value in values:
            self.number(value)
        if operation == Operation.DESTROY:
            self.written.append(how & ~3 | len(ids))
        elif operation in _SENDING:
            sizes = INLINE.index(inline), IN_ARENA.index(in_arena)
            self.written += bytes([how, len(ids), 0, len(handles), *sizes])
        else:
            self.written.append(how)
        for number in [*ids, *handles] if operation in {*_SENDING, Operation.DESTROY} else []:
            self.number(number)
        if operation in {Operation.INSTALLED, Operation.CANCEL}:
            self.written.append(0)
        if how & 0x40:
            self.written += b"\x14\0"


_SENDING = (Operation.SEND, Operation.CALL, Operation.REPLY, Operation.RESPOND)


def _beginning() -> Script:
    """Two clients that know each other and the bystander."""
    script = Script()
    script.step("open", 0, 1)
    script.step("open", 1, 1)
    script.step("introduce", 0, 1, INTERESTING.index(0x10))
    script.step("introduce", 1, 0, INTERESTING.index(0x20))
    return script


def server_seeds() -> Iterator[bytes]:
    """Each operation alone, messages with everything, and many random walks."""
    for operation, variants in PLAUSIBLE.items():
        script = _beginning()
        script.request(0, Operation.SEND, [0] * 7, ids=[0x13])
        for values in variants:
            script.request(1, operation, values)
        yield bytes(script.written)
    for n_fds, inline in ((1, 0), (254, 100), (2, 5000), (0, 5000)):
        script = _beginning()
        script.request(
            0, Operation.SEND, [0] * 7, ids=[0x13, 0x10], handles=[0x30], n_fds=n_fds, inline=inline
        )
        for operation in (Operation.RECV, Operation.INSTALLED, Operation.SLICE_RELEASE, Operation.DISCONNECT):
            script.request(1, operation, PLAUSIBLE[operation][0])
        yield bytes(script.written)
    yield from _large_messages()
    yield from _offers()
    for number in range(40):
        yield _walk(random.Random(number))


def _large_messages() -> Iterator[bytes]:
    """Segments of their own, unmapped by the client, by a flush, or never."""
    for operation in (Operation.SLICE_RELEASE, Operation.RESET, Operation.SEGMENT, Operation.DISCONNECT):
        script = _beginning()
        script.request(0, Operation.ARENA, [1 << 20])
        for _ in range(2):
            script.request(0, Operation.SEND, [0] * 7, ids=[0x13, 0x10], in_arena=1 << 20)
            script.request(1, Operation.RECV, [4, ALL, 0])
            script.request(1, Operation.SEGMENT, [1])
            script.request(1, operation, PLAUSIBLE[operation][0])
            script.request(1, Operation.SEGMENT_UNMAPPED, [1])
        yield bytes(script.written)


def _offers() -> Iterator[bytes]:
    """Descriptors on offer while something else happens; RECVs that wait, and some that do no longer."""
    meanwhile = Operation.RESET, Operation.RECV, Operation.DISCONNECT, Operation.CANCEL, Operation.SEND
    for operation in meanwhile:
        for is_installed in (0, 1):
            script = _beginning()
            script.request(0, Operation.SEND, [0] * 7, ids=[0x13], n_fds=2)
            script.request(1, Operation.RECV, [4, ALL, 1])
            script.request(1, operation, PLAUSIBLE[operation][0])
            script.request(1, Operation.INSTALLED, [is_installed])
            for _ in range(3):
                script.request(1, Operation.RECV, [4, ALL, 1])
            script.request(1, Operation.CANCEL, [])
            script.step("shortage", is_installed)
            script.written += script.written[-1:]
            yield bytes(script.written)


def _walk(chance: random.Random) -> bytes:
    script = _beginning()
    for _ in range(chance.randrange(4, 30)):
        client = chance.randrange(3)
        if chance.random() < 0.2:
            name = chance.choice(STEPS[5:])
            script.step(name, *[chance.randrange(8) for _ in range(3 if name == "introduce" else 2)])
            continue
        operation = chance.choice([*PLAUSIBLE, *[Operation.SEND, Operation.RECV] * 6, Operation.INSTALLED])
        takes_fds = (operation in _SENDING and chance.random() < 0.3) or operation == Operation.TRANSFER
        script.request(
            client, operation, chance.choice(PLAUSIBLE[operation]),
            n_fds=chance.choice((1, 2, 254)) if takes_fds and operation in _SENDING else int(takes_fds),
            kind="peer" if operation == Operation.TRANSFER else chance.choice(KINDS),
            ids=chance.choice(([0xB], [0x13, 0x20], [0x10], [LAST])),
            handles=chance.choice(([], [0x30], [0x10, LAST])),
            inline=chance.choice(INLINE), how=chance.choice((0, 0, 0, 0x40, 0xFC)),
        )
    return bytes(script.written)


def frames_seeds() -> Iterator[bytes]:
    """Each experiment with some plausible choices."""
    for number in range(60):
        chance = random.Random(number)
        choices = [chance.randrange(chance.choice((4, 16, 256))) for _ in range(chance.randrange(10, 120))]
        yield bytes([number % 3, *choices])
    for operation in REQUESTS:
        size = REQUESTS[operation].size
        request = struct.pack("<BBIHHQ", 0, 16 + size, 16 + size, operation, 0, 7) + bytes(size)
        yield bytes([0]) + request * 2


_END = b"NEGOTIATE_UNIX_FD\r\nBEGIN\r\n"
_ASK, _KNOW = b"AUTH DBUS_COOKIE_SHA1 31303030\r\n", b"DATA " + right_answer() + b"\r\n"
_BY_UID, _NOBODY = b"AUTH EXTERNAL 31303030\r\n", b"AUTH ANONYMOUS\r\n"
SIGN_INS: Sequence[Sequence[bytes]] = (
    (_BY_UID, _END, b"l\1\0\1"), (b"AUTH EXTERNAL\r\nDATA\r\n", _END), (_NOBODY, _END), (_ASK, _KNOW, _END),
    (_ASK, b"DATA " + right_answer(b"other") + b"\r\n", b"BEGIN\r\n"), (_BY_UID, b"BEGIN\r\n"),
    (_BY_UID, b"CANCEL", b"\r\n", _NOBODY, _END), (b"AUTH", b"\r\n", _BY_UID, b"ERROR", b"\r\n", _ASK),
)
"""What clients say: with and without an initial response, as nobody, with the cookie, with another one."""


def texts_seeds() -> Iterator[bytes]:
    """Every way to sign in, under all mechanisms; likely rules; rules that come and go, and messages."""
    for way in SIGN_INS:
        for number in range(len(MECHANISMS)):
            beginning = [0, 3, number, 0, 0, 7, 0]  # all is allowed; the pieces have 8 bytes
            yield bytes([*beginning, *map(WORDS.index, way)])
    for chance in map(random.Random, range(30)):
        rule = [0, chance.randrange(len(KEYS)), chance.randrange(len(VALUES))]
        yield bytes([1, 0, *rule, 0, chance.randrange(len(KEYS)), chance.randrange(len(VALUES))])
        script = [2]
        for _ in range(12):
            step, owner, n_parts = chance.choice((0, 0, 0, 4, 5, 6)), chance.randrange(4), chance.randrange(3)
            parts = [chance.randrange(len(LIKELY)) for _ in range(1 + n_parts)]
            script += [step, owner, *([n_parts, *parts] if step < 5 else [])]
        yield bytes([*script, 7, 0, *[chance.randrange(6) for _ in range(9)]])


def main(directory: str) -> None:
    """Write their corpora below ``directory``."""
    for name, seeds in (("frames", frames_seeds()), ("server", server_seeds()), ("texts", texts_seeds())):
        folder = Path(directory) / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds):
            (folder / f"seed-{number:03}").write_bytes(seed)


if __name__ == "__main__":
    main(sys.argv[1])
