"""Signatures and names: what the D-Bus specification allows, and nothing else (dbus-bus §3)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from bus1_services.types import (
    SignatureInvalid,
    is_bus_name,
    is_bus_namespace,
    is_error_name,
    is_interface_name,
    is_member_name,
    is_object_path,
    parse,
    single,
    split_signature,
)
from dbus_fast.errors import InvalidSignatureError
from dbus_fast.signature import SignatureTree
from dbus_values import signatures
from hypothesis import given
from hypothesis import strategies as st

from bus1.errors import RemoteProtocolError


@given(signatures.filter(lambda text: len(text) < 256))
def test_the_complete_types_joined_are_the_signature(signature: str) -> None:
    assert "".join(split_signature(signature)) == signature


@given(st.text("yvas(){}", max_size=12) | st.text(max_size=4))
def test_any_text_is_judged_as_dbus_fast_judges_it(text: str) -> None:
    try:
        SignatureTree(text)
        theirs = True
    except (InvalidSignatureError, IndexError, ValueError):
        theirs = False
    try:
        parse(text)
        ours = True
    except SignatureInvalid:
        ours = False
    # dbus_fast reads on behind a bracket that was not opened, and takes any key
    assert ours == theirs or (theirs and ("{" in text or ")" in text or "}" in text))


@pytest.mark.parametrize(
    "signature",
    ["a", "aa", "(", ")", "()", "(y", "y)", "{sv}", "a{s}", "a{}", "a{sss}", "a{vs}", "a{(y)s}", "a{asy}",
     "a({yy)}", "a{s(v})", "(a)", "a}", "z", "r", "e", "y y", "\0", "é", "*", "y" * 256],
)  # fmt: skip
def test_what_is_no_signature_is_refused(signature: str) -> None:
    with pytest.raises(SignatureInvalid):
        parse(signature)


def test_a_bad_signature_is_the_fault_of_whoever_wrote_it() -> None:
    assert issubclass(SignatureInvalid, RemoteProtocolError) and issubclass(SignatureInvalid, ValueError)


@pytest.mark.parametrize(
    ("arrays", "structs", "fits"), [(32, 32, True), (33, 0, False), (0, 33, False), (32, 33, False)]
)
def test_32_arrays_and_32_structs_nest(arrays: int, structs: int, fits: bool) -> None:
    signature = "a" * arrays + "(" * structs + "y" + ")" * structs
    if fits:
        assert single(signature).signature == signature
    else:
        with pytest.raises(SignatureInvalid):
            parse(signature)


def test_a_dict_entry_counts_as_a_struct() -> None:
    assert parse("a{y" * 16 + "(" * 16 + "y" + ")" * 16 + "}" * 16)
    with pytest.raises(SignatureInvalid):
        parse("a{y" * 16 + "(" * 17 + "y" + ")" * 17 + "}" * 16)


def test_a_signature_of_255_bytes_is_the_longest() -> None:
    assert len(parse("y" * 255)) == 255


@pytest.mark.parametrize("signature", ["", "yy", "sv"])
def test_a_variant_has_exactly_one_type(signature: str) -> None:
    with pytest.raises(SignatureInvalid):
        single(signature)


@pytest.mark.parametrize(
    ("signature", "alignment", "fixed"),
    [("y", 1, 1), ("b", 4, 4), ("n", 2, 2), ("q", 2, 2), ("i", 4, 4), ("u", 4, 4), ("x", 8, 8), ("t", 8, 8),
     ("d", 8, 8), ("h", 4, 4), ("s", 4, 0), ("o", 4, 0), ("g", 1, 0), ("v", 1, 0), ("ay", 4, 0),
     ("(y)", 8, 0)],
)  # fmt: skip
def test_each_type_knows_its_alignment_and_size(signature: str, alignment: int, fixed: int) -> None:
    assert (single(signature).alignment, single(signature).fixed) == (alignment, fixed)


def test_a_type_knows_what_is_inside() -> None:
    array = single("a{s(xv)}")
    (entry,) = array.inside
    assert (array.code, entry.code, entry.signature, entry.alignment) == ("a", "{", "{s(xv)}", 8)
    assert [part.signature for part in entry.inside] == ["s", "(xv)"]


NAMES: dict[Callable[[str], bool], tuple[list[str], list[str]]] = {
    is_bus_name: (
        ["a.b", "_.-", "a-b.c-d", "A.b1.c2", ":1.5", ":1", ":", ":a.1", "a." + "b" * 253],
        ["", "a", ".a", "a.", "a..b", "a.1", "1.a", "a.b ", "a.b\n", "é.b", ":1.", ":1..2", "a.:b",
         "a." + "b" * 254],
    ),
    is_bus_namespace: (["a", "a.b", "a-b", ":1.5"], ["", ".a", "a.", "1", "a..b"]),
    is_interface_name: (
        ["a.b", "_1._2", "a.b.c"], ["", "a", "a.b-c", "a.1b", ".a.b", "a.b.", "a..b", "a.b\n", ":1.5"]
    ),
    is_error_name: (["a.b"], ["a", "a-b.c"]),
    is_member_name: (["M", "_", "m1", "M" * 255], ["", "1", "a.b", "a-b", "M" * 256, "M\n", "é"]),
    is_object_path: (
        ["/", "/a", "/a/b_1", "/" + "a" * 300, "/a" * 200],
        ["", "a", "//", "/a/", "/a//b", "/a-b", "/a.b", "/é", "/a\n", "/a\0", "/a" * 200 + "/",
         "/a" * 200 + "//b",
         "/" + "é" * 300, "/" + "-" * 300, "x" * 300],
    ),
}  # fmt: skip


@pytest.mark.parametrize("check", NAMES)
def test_names_and_paths_follow_their_syntax(check: Callable[[str], bool]) -> None:
    valid, invalid = NAMES[check]
    assert [name for name in valid if not check(name)] == []
    assert [name for name in invalid if check(name)] == []
