"""dbus_values: hypothesis strategies for signatures, and for values that fit them.

Values are those of ``dbus_client.Writer``: a variant is a pair (signature, value), ``ay`` is bytes,
a dictionary is a dict, other arrays are lists, structs are tuples.
"""

from __future__ import annotations

import struct
from typing import Any

from bus1_services.types import Type, parse
from hypothesis import strategies as st

BASIC = "ybnqiuxtdsog"
KEYS = "ybnqiuxtsog"

elements = st.text("abcXYZ019_", min_size=1, max_size=5)
paths = st.lists(elements, max_size=4).map(lambda parts: "/" + "/".join(parts))
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def types(basic: str = BASIC) -> st.SearchStrategy[str]:
    """One complete type."""
    return st.recursive(
        st.sampled_from(basic + "v"),
        lambda inner: st.one_of(
            inner.map("a{}".format),
            st.lists(inner, min_size=1, max_size=3).map(lambda parts: "(" + "".join(parts) + ")"),
            st.tuples(st.sampled_from(KEYS), inner).map(lambda pair: "a{" + "".join(pair) + "}"),
        ),
        max_leaves=6,
    )


signatures = st.lists(types(), max_size=4).map("".join)

_INTEGERS = {
    code: st.integers(low, high)
    for code, low, high in (
        ("y", 0, 2**8 - 1), ("n", -(2**15), 2**15 - 1), ("q", 0, 2**16 - 1), ("i", -(2**31), 2**31 - 1),
        ("u", 0, 2**32 - 1), ("x", -(2**63), 2**63 - 1), ("t", 0, 2**64 - 1),
    )
}
_BASIC: dict[str, st.SearchStrategy[Any]] = {
    **_INTEGERS, "b": st.booleans(), "d": st.floats(allow_nan=False), "s": texts, "o": paths,
    "g": signatures.filter(lambda text: len(text) < 256),
}


def values(type_: Type, depth: int = 0) -> st.SearchStrategy[Any]:
    """Values of one type; variants within variants end soon."""
    if type_.code in _BASIC:
        return _BASIC[type_.code]
    if type_.code == "v":
        inside = st.sampled_from(BASIC) if depth else types()
        return inside.flatmap(lambda text: st.tuples(st.just(text), values(parse(text)[0], depth + 1)))
    inner = [values(part, depth) for part in type_.inside]
    if type_.code != "a":
        return st.tuples(*inner)
    if type_.inside[0].code == "y":
        return st.binary(max_size=9)
    if type_.inside[0].code == "{":
        key, value = (values(part, depth) for part in type_.inside[0].inside)
        return st.dictionaries(key, value, max_size=3)
    return st.lists(inner[0], max_size=3)


bodies = signatures.flatmap(
    lambda text: st.tuples(st.just(text), st.tuples(*(values(type_) for type_ in parse(text))))
)
"""(signature, values)."""


def mutated(data: bytes, edits: list[tuple[int, int]], cut: int | None) -> bytes:
    """``data`` with bytes replaced at positions (taken modulo its length), and perhaps cut off."""
    result = bytearray(data)
    for at, value in edits:
        if result:
            result[at % len(result)] = value
    return bytes(result if cut is None else result[:cut])


edits = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=4)
cuts = st.none() | st.integers(0, 64)


def u32(number: int, endian: str = "l") -> bytes:
    """A number as it lies in a body."""
    return struct.pack("<I" if endian == "l" else ">I", number)
