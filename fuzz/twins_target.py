"""twins_target: what D-Bus clients say, on a bus with the native body and on one without: they do the same.

Theory. The input becomes a script of the tests (``tests/twin_script.py``): a few clients who connect, say
messages of chosen fields or any bytes, in pieces, and leave. One bus runs in a thread of this process,
where the fuzzer sees which branches it takes; its body is the one in Python, if the command starts it. The
other runs in a process of its own with the other body, or with the same where there is no native one.

Oracles. 1. What every client gets is the same, byte by byte, and so is what is left in Core (twin_pair). 2.
Neither bus has a defect to report.

Not here: playing and comparing (tests/twin_stage.py, tests/twin_pair.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from bus1 import acceleration

from .program import Program
from .threaded_bus import started

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from twin_client import Idleness
from twin_pair import Pair
from twin_script import Term, made, term
from twin_scripts import BODIES, RULES, WRONG
from twin_stage import Place

CLIENTS = ("a", "b", "c")
STEPS = (
    "send", "send", "send", "send", "raw", "connect", "close", "shut", "rest", "monitor", "native", "stats",
)
WORDS = ("call", "signal", "answer", "ask", "call", "signal", "answer", "fail", "ret", "error", "other")
TO = (None, "@a", "@b", "@c", "t.N0", "t.N1", ":1.999999", "t.Nobody", "org.freedesktop.DBus")
ASKED: tuple[tuple[str, str], ...] = (
    ("AddMatch", "s"), ("RemoveMatch", "s"), ("RequestName", "su"), ("ReleaseName", "s"),
    ("NameHasOwner", "s"), ("GetNameOwner", "s"), ("ListNames", ""), ("GetId", ""), ("Hello", ""),
    ("Nothing", ""), ("GetConnectionUnixUser", "s"), ("GetConnectionUnixProcessID", "s"),
    ("GetConnectionCredentials", "s"),
)
NAMES = ("t.N0", "t.N1", ":1.0", "bad", "@a", "@c", "")
PATHS = ("/x", "/x/y", "/", "/org/freedesktop/DBus", "/org/bus1/cap/" + "1" * 32)
_MOST_STEPS = 40


def one_input(data: bytes) -> None:
    """Play one script; a Difference, or what should not be raised, is a finding."""
    program = Program(data)
    script = [term("connect", "a"), term("connect", "b"), term("connect", "c", fds=False)]
    while not program.is_over and len(script) < _MOST_STEPS:
        script.append(_step(program))
    _pair().play(script)


class _Threads(Pair):
    """One bus in this process, one in another."""

    def __init__(self, bodies: tuple[str, str]) -> None:
        self.folder = tempfile.TemporaryDirectory()
        super().__init__(Path(self.folder.name), bodies)

    def start(self, body: str, content: str) -> tuple[Place, Callable[[], str]]:
        folder = self.new_folder()
        is_here = body == _bodies()[0]
        where, end = _here(folder) if is_here else _there(folder, body)
        return Place(body, folder, Idleness(where)), end


def _bodies() -> tuple[str, str]:
    here = "python" if acceleration.native is None else "native"
    try:
        from bus1 import _native  # noqa: F401
    except ImportError:
        return here, "python"
    return here, "python" if here == "native" else "native"


def _here(folder: Path) -> tuple[str, Callable[[], str]]:
    bus, where = started(str(folder))

    def end() -> str:
        bus.close()
        return "\n".join(bus.log)

    return where, end


def _there(folder: Path, body: str) -> tuple[str, Callable[[], str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "fuzz.threaded_bus", str(folder)], cwd=Path(__file__).parent.parent,
        env={**os.environ, "BUS1_ACCEL": body}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    assert process.stdout is not None
    where = process.stdout.readline().strip()
    return where, lambda: process.communicate()[0]


def close() -> None:
    """End the buses; what they complained of is a finding."""
    pair = _pair()
    _pair.cache_clear()
    with pair.folder:
        pair.close()


@lru_cache
def _pair() -> _Threads:
    return _Threads(_bodies())


def _step(program: Program) -> Term:
    word, who = program.one_of(STEPS), program.one_of(CLIENTS)
    match word:
        case "send":
            said = [_message(program) for _ in range(1 + program.byte() % 4)]
            cuts = [program.short() for _ in range(program.byte() % 4)]
            return term("send", who, *said, cuts=cuts, keep=program.byte() & 0x80 and program.byte())
        case "raw":
            return term("send", who, term("raw", program.take(program.byte()).hex()))
        case "connect":
            return term("connect", who, hello=program.byte() % 4 != 1)
        case "monitor":
            return term("monitor", "m") if program.byte() & 1 else term("connect", "m")
        case "native":
            return _native(program)
    return term(word, who)


def _native(program: Program) -> Term:
    body, args = program.one_of(BODIES[:6])
    to, path = program.one_of(TO[1:]), program.one_of(PATHS)
    return program.one_of((
        term("native", "n"), term("publish", "n", ["t.N1"], ["/x"]), term("nanswer", "n", 0, body, args),
        term("ncall", "n", to, path, "M", body, args), term("nsignal", "n", path, "S", body, args),
        term("subscribe", "n", to, path), term("leave", "n"),
    ))


def _message(program: Program) -> Term:
    word = program.one_of(WORDS)
    if word == "ask":
        return _request(program)
    signature, args = program.one_of(BODIES)
    more: dict[str, Any] = {"signature": signature, "args": args}
    odd = program.byte()
    if odd & 1:
        more["flags"] = program.byte()
    if odd & 2:
        more["path"] = program.one_of(PATHS)
    if odd & 4:
        more["endian"] = "B"
    if odd & 8:
        more["fds"] = [0] * (program.byte() % 3)
    if odd & 16:
        more["serial"] = program.one_of((0, 1, 2, 3, 0xFFFF_FFFF))
    if odd & 32:
        more["extra"] = [(program.byte(), "s", "x")]
    if odd & 64:
        more |= program.one_of(WRONG)
    if odd & 128:
        more["damage"] = [(program.short(), program.byte())]
    if word in ("answer", "fail"):
        return made(word, [program.byte() % 3], more)
    more = {"to": program.one_of(TO)} | more
    if word in ("ret", "error"):
        more["reply_to"] = program.byte() % 5
    if word == "other":
        more["type"] = program.byte()
    return made(word, [], more)


def _request(program: Program) -> Term:
    member, signature = program.one_of(ASKED)
    about = program.one_of(RULES if "Match" in member else NAMES)
    args = {"": [], "s": [about], "su": [about, program.byte() % 8]}[signature]
    return made("ask", [member, signature, args], {"flags": program.byte() & 1 or None})
