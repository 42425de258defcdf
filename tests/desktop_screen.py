"""desktop_screen: an X server without hardware, and the picture that it keeps.

Theory. Xvfb keeps its screen in a file that it maps: X's own window dump (XWD), a header of big-endian words,
a colour map, then lines of 32-bit pixels. So a picture needs no client: the session has no part in it.
"""

from __future__ import annotations

import os
import struct
import subprocess
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from buses import reap
from daemons import line

WIDTH, HEIGHT = 1024, 640
Colour = tuple[int, int, int]
"""Red, green, blue."""

_DUMP = struct.Struct(">25I")
_SIZE_OF_COLOUR = 12


@dataclass(frozen=True)
class Screen:
    """An X server with one screen."""

    display: str
    file: Path

    def pixels(self) -> bytes:
        """What is shown: blue, green, red and a byte that means nothing, line by line from the top."""
        dump = self.file.read_bytes()
        header = _DUMP.unpack_from(dump)
        width, height, order, bits, stride = header[4], header[5], header[7], header[11], header[12]
        assert (width, height, order, bits, stride) == (WIDTH, HEIGHT, 0, 32, WIDTH * 4)
        at = header[0] + header[19] * _SIZE_OF_COLOUR
        return dump[at : at + stride * height]

    def count(self, colour: Colour) -> int:
        """How many pixels have this colour."""
        pixels = self.pixels()
        wanted = bytes(reversed(colour))
        return sum(pixels[i : i + 3] == wanted for i in range(0, len(pixels), 4)) if wanted in pixels else 0

    def png(self) -> bytes:
        """What is shown, as a file for people."""
        pixels = self.pixels()
        rgb = bytearray(WIDTH * HEIGHT * 3)
        rgb[0::3], rgb[1::3], rgb[2::3] = pixels[2::4], pixels[1::4], pixels[0::4]
        lines = b"".join(b"\0" + rgb[at : at + WIDTH * 3] for at in range(0, len(rgb), WIDTH * 3))
        header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def start_screen(folder: Path, cleanup: ExitStack) -> Screen:
    """Start an X server on a display that is free; ended with ``cleanup``."""
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as told, open(writing, "wb") as telling:
        with (folder / "x.log").open("wb") as log:
            process = subprocess.Popen(
                ["Xvfb", "-displayfd", str(writing), "-fbdir", str(folder), "-nolisten", "tcp", "-noreset",
                 "-screen", "0", f"{WIDTH}x{HEIGHT}x24"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[writing],
            )
        cleanup.callback(reap, process)
        telling.close()
        return Screen(f":{line(told)}", folder / "Xvfb_screen0")
