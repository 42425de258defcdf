"""Plain bodies are written and read at once as they are value by value."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from bus1_services import body, quick
from bus1_services.types import ObjectPath

from bus1.errors import Bus1Error

CODES = "ybnqiuxtds"
OTHERS = "oghv()a{}z"
VALUES: Sequence[Any] = (
    0, 1, 2, -1, 255, 256, -32769, 65535, 1 << 31, 1 << 32, -(1 << 63), 1 << 63, 1 << 64, True, False, 0.0,
    1.5, -0.0, float("inf"), "", "a", "text", "ä\U0001f600", "with \0", "\ud800", "x" * 70_000, b"bytes",
    None, [], (), ObjectPath("/a"),
)


@pytest.fixture(autouse=True)
def value_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``body`` does without a shorter way."""
    for name in ("_encode", "_decode"):
        monkeypatch.setattr(body, name, lambda *_: None)


def written(signature: str, values: Sequence[Any]) -> bytes | None:
    try:
        encoded = body.encode(signature, values)
    except Bus1Error:
        return None
    return encoded.data


def read(signature: str, data: bytes, endian: str) -> list[Any] | None:
    try:
        return body.decode(signature, data, endian)
    except Bus1Error:
        return None


def kinds(values: list[Any]) -> list[tuple[type, str]]:
    """Types and values, exactly: no number is like another, nor like a truth."""
    return [(type(value), repr(value)) for value in values]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_written_at_once_is_what_is_written_value_by_value(seed: int) -> None:
    chance, n_quick = random.Random(seed), 0
    for _ in range(300):
        signature = "".join(chance.choice(CODES) for _ in range(chance.randrange(5)))
        if chance.random() < 0.1:
            signature += chance.choice(OTHERS)
        values = [
            fitting(chance, code) if chance.random() < 0.9 else chance.choice(VALUES) for code in signature
        ]
        if chance.random() < 0.05:
            values.append(1)
        data = quick.encode(signature, values)
        if data is None:
            continue
        n_quick += 1
        assert data == written(signature, values)
        values_again = quick.decode(signature, data, True)
        assert values_again is not None
        assert kinds(values_again) == kinds(body.decode(signature, data, "l"))
    assert n_quick > 100


def fitting(chance: random.Random, code: str) -> Any:
    if code == "s":
        return chance.choice(("", "a", "some text", "ä\U0001f600"))
    if code == "d":
        return chance.choice((0.0, -1.5, float("inf")))
    return chance.random() < 0.5 if code == "b" else chance.randrange(128)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_read_at_once_is_what_is_read_value_by_value(seed: int) -> None:
    chance, n_quick = random.Random(seed), 0
    for _ in range(300):
        signature = "".join(chance.choice(CODES) for _ in range(chance.randrange(1, 5)))
        data = bytearray(quick.encode(signature, [fitting(chance, code) for code in signature]) or b"")
        for _ in range(chance.choice((0, 0, 1, 2))):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 2, 0x7F, 0xC3, 0xFF))
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        if chance.random() < 0.1:
            data += b"\0"
        if chance.random() < 0.1:
            signature += chance.choice(CODES + OTHERS)
        is_little = chance.random() < 0.9
        values = quick.decode(signature, bytes(data), is_little)
        if values is not None:
            n_quick += 1
            usual = read(signature, bytes(data), "l" if is_little else "B")
            assert usual is not None
            assert kinds(values) == kinds(usual)
    assert n_quick > 60
