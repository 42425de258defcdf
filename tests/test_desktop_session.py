"""The comparison of desktops: which lines are of one kind, what counts against us, how a picture is made."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from desktop_screen import HEIGHT, WIDTH, Screen
from desktop_session import Life, kinds_of, report

FOLDER = "/tmp/bus1-desktop-x"


def life(kind: str, log: str) -> Life:
    return Life(kind, log, FOLDER, b"", ["org.example.Name"], 1, 120.0, 1.0)


def test_numbers_identifiers_and_the_folder_make_no_other_kind_of_line() -> None:
    one = (
        "(panel:12): WARN **: 17:42:08.652: GdkWindow 0xa07 of :1.7 in /tmp/bus1-desktop-x/home is lost\n"
        "dbus-daemon[7]: [session uid=0 pid=7] 0123456789abcdef0123456789abcdef\n"
    )
    other = (
        "\n(panel:345): WARN **: 1:2:3.4: GdkWindow 0xff of :1.99 in /tmp/bus1-desktop-y/home is lost\n"
        "bus1-bridge[88]: [session uid=0 pid=88] fedcba9876543210fedcba9876543210\n"
    )
    assert list(kinds_of(one, FOLDER)) == list(kinds_of(other, "/tmp/bus1-desktop-y"))
    assert len(set(kinds_of(one, FOLDER))) == 2


def test_what_a_service_says_of_another_bus_is_not_taken_for_the_words_of_this_one() -> None:
    line = "dbus-daemon[7]: Activating service name='org.example.Registry'"
    assert list(kinds_of(line, FOLDER)) == ["dbus-daemon[N]: Activating service name='org.example.Registry'"]


def test_a_kind_that_one_reference_shows_does_not_count_against_us() -> None:
    references = [life("dbus-daemon", "a 1\n"), life("dbus-daemon", "a 1\nb 2\n")]
    text, is_alike = report(life("bus1-bridge", "b 3\nb 4\na 5\n"), references)
    assert is_alike
    assert "kinds of lines only here: 0" in text


def test_a_kind_that_no_reference_shows_counts_against_us_and_is_shown() -> None:
    references = [life("dbus-daemon", "a 1\nb 2\n"), life("dbus-daemon", "a 1\n")]
    text, is_alike = report(life("bus1-bridge", "c 3\nc 4\n"), references)
    assert not is_alike
    assert "kinds of lines only here: 1\n    2 × c N" in text
    assert "not here: 1\n    0 × a N" in text


def test_the_picture_shows_what_the_x_server_keeps(tmp_path: Path) -> None:
    words = [0] * 25
    words[0], words[4], words[5], words[11], words[12], words[19] = 104, WIDTH, HEIGHT, 32, WIDTH * 4, 2
    blue, red = bytes([200, 1, 2, 0]), bytes([3, 4, 250, 0])
    dump = struct.pack(">25I", *words) + bytes(4) + bytes(24) + red + blue * (WIDTH * HEIGHT - 1)
    (tmp_path / "screen").write_bytes(dump)
    screen = Screen(":9", tmp_path / "screen")
    assert (screen.count((250, 4, 3)), screen.count((2, 1, 200)), screen.count((9, 9, 9))) == (
        1, WIDTH * HEIGHT - 1, 0
    )  # fmt: skip
    png = screen.png()
    assert png.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + struct.pack(">IIBB", WIDTH, HEIGHT, 8, 2))
    at = png.index(b"IDAT")
    (size,) = struct.unpack_from(">I", png, at - 4)
    assert zlib.decompress(png[at + 4 : at + 4 + size]).startswith(b"\0\xfa\x04\x03\x02\x01\xc8\x02\x01\xc8")
