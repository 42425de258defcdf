"""codec_target: the D-Bus codec, the one in Python and the native one, fed with whatever the fuzzer invents.

Theory. The first byte chooses one of three experiments. *Message*: bytes as they come. *Damaged*: a good
message of chosen fields, and then some bytes of it are others. *Body*: a signature and bytes. Each body of
the codec reads it, and all that is found is put side by side.

Oracles. 1. Nothing is raised but errors of the contract. 2. Both say the same, to the word. 3. A verdict does
not depend on the budgets; both stop at the same places.

Without a native module the one in Python has only itself to agree with.

Not here: what a bus makes of a message (twins_target).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bus1_bridge import walk, wire

from bus1 import acceleration
from bus1.errors import Bus1Error

from .program import Program

_SENDERS = (":1.42", ":1.4294967296")
_FDS = (0, 1, 5, walk.ANY_FD)
_TEXTS = (
    "", "/", "/a/b", "a.b", ":1.5", "M", "a", "s", "a{sv}", "(yv)", "/a/", "x" * 255, "a..b",
    "\u20ac", "x" * 256,
)
_SHORT_TEXTS = _TEXTS[:-1]
_FIELDS = {
    "path": "/a", "interface": "a.b", "member": "M", "error_name": "e.F", "destination": ":1.7",
    "sender": ":1.1", "signature": "s",
}


def one_input(data: bytes) -> None:
    """Run one experiment; an AssertionError, or what should not be raised, is a finding."""
    program = Program(data)
    program.one_of((_message, _damaged, _body))(program)


def _both(ours: Callable[[], Any], theirs: Callable[[Any], Any]) -> Any:
    """What comes of it, which is the same in both."""
    found = _outcome(ours)
    if acceleration.native is not None:
        native = _outcome(lambda: theirs(acceleration.native))
        assert native == found, f"native: {native}\nPython: {found}"
    return found


def _outcome(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except Bus1Error as error:
        return type(error).__name__, str(error)


def _message(program: Program) -> None:
    _read(program.take(1 << 20))


def _damaged(program: Program) -> None:
    fields: dict[str, Any] = {}
    for name, usual in _FIELDS.items():
        choice = program.byte()
        if choice & 1:
            texts = _SHORT_TEXTS if name == "signature" else _TEXTS
            fields[name] = usual if choice & 2 else program.one_of(texts)
    endian, kind, flags = program.one_of("lB"), program.byte() % 6, program.byte()
    body = program.take(program.byte() % 64)
    data = bytearray(wire.build(
        kind, endian=endian, flags=flags, serial=program.short(), body_length=len(body),
        reply_serial=program.byte() % 3, unix_fds=program.byte() % 3, **fields,
    ) + body)
    while not program.is_over:
        data[program.short() % len(data)] = program.byte()
    _read(bytes(data))


def _body(program: Program) -> None:
    endian, n_fds = program.one_of("lB"), program.one_of(_FDS)
    budgets = [1 + program.byte() for _ in range(1 + program.byte() % 4)]
    signature = program.take(program.byte() % 40).decode("latin-1")
    _check(signature, program.take(1 << 20), endian, n_fds, budgets)


def _read(raw: bytes) -> None:
    length = _both(lambda: wire.frame_length(raw), lambda native: native.frame_length(raw))
    told = _both(lambda: _told(wire.parse(raw)), lambda native: _told(native.parse_header(raw)))
    if isinstance(told, tuple):
        return
    _both(
        lambda: [wire.stamp(raw, wire.parse(raw), sender) for sender in _SENDERS],
        lambda native: [native.stamp_header(raw, native.parse_header(raw), sender) for sender in _SENDERS],
    )
    if length == len(raw):
        _check(told["signature"], raw[told["header_length"] :], told["endian"], told["unix_fds"], [1 << 62])


def _told(header: Any) -> dict[str, Any]:
    return {name: getattr(header, name) for name in wire.Header.__slots__}


def _check(signature: str, body: bytes, endian: str, n_fds: int, budgets: Sequence[int]) -> None:
    verdict = _both(
        lambda: walk.check_body(signature, body, endian, n_fds),
        lambda native: native.check_body(signature, body, endian, n_fds),
    )
    answers = _both(
        lambda: _stepped(walk.BodyCheck, budgets, signature, body, endian, n_fds),
        lambda native: _stepped(native.BodyCheck, budgets, signature, body, endian, n_fds),
    )
    if body or signature:  # else there is nothing to check, and a bad signature is none
        assert (answers[-1] is True) == (verdict is None) and (verdict is None or answers[-1] == verdict)
    if verdict is None:
        _both(
            lambda: _typed(walk.arguments(signature, body, endian)),
            lambda native: _typed(native.arguments(signature, body, endian)),
        )


def _stepped(check: Callable[..., Any], budgets: Sequence[int], *of: Any) -> list[Any]:
    """The paths on the way, what is left, then the answers of all steps."""
    paths: list[str] = []
    answers: list[Any] = []
    try:
        machine = check(*of, paths)
        while not answers or answers[-1] is False:
            answers.append(machine.step(budgets[len(answers) % len(budgets)]))
        return [paths, machine.left, *answers]
    except Bus1Error as error:
        return [paths, *answers, (type(error).__name__, str(error))]


def _typed(values: Sequence[Any]) -> list[Any]:
    return [(type(value).__name__, value) for value in values]
