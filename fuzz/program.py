"""program: an input of the fuzzer, read as a program.

Theory. The targets do not feed their input to a socket as it is, for nearly all of it would fail at the
first header. They read it as a list of choices: which client acts, which operation, which value. A
``Program`` hands out the choices one after the other, zeros when there are no more. Small inputs are short
programs, and each byte that the fuzzer changes is another choice.

Numbers of the protocol are chosen among those that mean something (edges, small ids, and what the target has
*learned*, as handles that the bus has told) and raw ones.

Not here: what the choices do (frames_target, server_target), how programs are written (seeds).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
LEARNED = 0x80
"""From here on a selector chooses among the learned numbers."""
SHORT = 0xF0
"""From here on the number itself follows, in two bytes."""
RAW = 0xFC
"""From here on it follows in eight."""
INTERESTING = (
    0, 1, 2, 3, 4, 7, 8, 9, 0xB, 0x10, 0x13, 0x20, 0x30, 0x100, 253, 256, 257, 4096, 4104, 16384, 16385,
    65536, 65537, 1 << 20, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 8, 2**64 - 2, 2**64 - 1,
)


class Program:
    """The choices of one input."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_over(self) -> bool:
        """Only zeros follow."""
        return self._at >= len(self._data)

    def take(self, n: int) -> bytes:
        """The next ``n`` bytes, or as many as there are."""
        found = self._data[self._at : self._at + n]
        self._at += n
        return found

    def byte(self) -> int:
        """The next byte."""
        return int.from_bytes(self.take(1), "little")

    def short(self) -> int:
        """The next two bytes."""
        return int.from_bytes(self.take(2), "little")

    def one_of(self, choices: Sequence[T]) -> T:
        """One of at most 256."""
        return choices[self.byte() % len(choices)]

    def number(self, learned: Sequence[int] = ()) -> int:
        """A number of up to 64 bits."""
        selector = self.byte()
        if selector >= RAW:
            return int.from_bytes(self.take(8), "little")
        if selector >= SHORT:
            return self.short()
        if selector >= LEARNED and learned:
            return learned[-1 - (selector - LEARNED) % len(learned)]
        return INTERESTING[selector % len(INTERESTING)]

    def fields(self, layout: struct.Struct, learned: Sequence[int] = ()) -> list[int | bytes]:
        """A value for each field of a struct."""
        values: list[int | bytes] = []
        for count, code in re.findall(r"(\d*)([a-zA-Z])", layout.format):
            if code == "s":
                values.append(self.take(int(count)))
                continue
            bits = 8 * struct.calcsize(f"<{code}")
            values += [self.number(learned) & (1 << bits) - 1 for _ in range(int(count or 1))]
        return values
