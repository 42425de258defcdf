"""The house rules for the native body that clippy does not count: caps, heads, unsafe code, panics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CRATE = ROOT / "rust"
FILE_CAP = 450
GENERATOR = ROOT / "benchmarks" / "generator"
UNSAFE = ("rust/src/sys.rs", "rust/src/sys/", "benchmarks/generator/src/sys/")
"""The modules with unsafe code."""
STATEMENT = 3
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_TESTS = re.compile(r"^#\[cfg\(test\)\]\nmod ", re.M)
_PANIC = re.compile(r"\.unwrap\(\)|\.expect\(|\b(?:panic|unreachable|todo|unimplemented)!")


def sources() -> list[Path]:
    """Every Rust file of the body, and of the load of the benchmarks."""
    return sorted(
        path for crate in (CRATE, GENERATOR)
        for path in crate.rglob("*.rs") if not path.is_relative_to(crate / "target")
    )


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_of(line: str) -> str:
    """A line without its strings and its comment."""
    return _STRING.sub('""', line).partition("//")[0]


def says_why(lines: list[str], at: int) -> bool:
    """There is a comment on the line, or on the one above."""
    return any("//" in _STRING.sub('""', line) for line in lines[max(at - 1, 0) : at + 1])


def unexplained_panics(text: str) -> Iterator[int]:
    """Numbers of the lines, before the tests of the file, that may panic and do not say why they never do."""
    lines = _TESTS.split(text)[0].splitlines()
    for at, line in enumerate(lines):
        if _PANIC.search(code_of(line)) and not says_why(lines, at):
            yield at + 1


def unexplained_unsafe(text: str) -> Iterator[int]:
    """Numbers of the lines with unsafe code that no SAFETY comment stands above, or beside."""
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if not re.search(r"\bunsafe\b(?! extern)", code_of(line)):  # "unsafe extern" is a type of functions
            continue
        above = at
        while above and lines[above - 1].lstrip().startswith(("//", "#[")):
            above -= 1
        # a statement of several lines has its comment above the first
        if not any("SAFETY:" in before for before in lines[max(min(above, at - STATEMENT), 0) : at + 1]):
            yield at + 1


def test_there_are_files_to_look_at() -> None:
    assert CRATE / "src" / "lib.rs" in sources()


def test_no_file_is_longer_than_the_cap() -> None:
    long = {named(path): n for path in sources() if (n := len(path.read_text().splitlines())) > FILE_CAP}
    assert long == {}


def test_every_file_says_what_it_is_for() -> None:
    assert [named(path) for path in sources() if not path.read_text().startswith("//! ")] == []


def test_unsafe_code_is_in_one_place_and_each_use_says_why_it_is_sound() -> None:
    for path in sources():
        text = path.read_text()
        if named(path).startswith(UNSAFE):
            assert list(unexplained_unsafe(text)) == []
        else:
            code = "\n".join(map(code_of, text.splitlines()))
            assert not re.search(r"\bunsafe\b|allow\(unsafe_code\)", code), path


def test_what_may_panic_says_why_it_never_does() -> None:
    found = {
        named(path): numbers for path in sources()
        if path.is_relative_to(CRATE / "src") and path.stem != "tests"
        and (numbers := list(unexplained_panics(path.read_text())))
    }
    assert found == {}


def test_only_the_binding_knows_python() -> None:
    knowing = [named(path) for path in sources() if re.search(r"\bpyo3\b", path.read_text())]
    assert knowing and all(name.startswith(("rust/src/py/", *UNSAFE)) for name in knowing)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("let a = b.unwrap();", [1]),
        ("let a = b.expect(\"it\");", [1]),
        ("x\n    unreachable!()", [2]),
        ("let a = b.unwrap(); // never None: it was just set", []),
        ("// never None: it was just set\nlet a = b.unwrap();", []),
        ("let a = \"// b\".parse().unwrap();", [1]),
        ("let a = b.unwrap_or(1); // x\nlet c = \".unwrap()\";\n// .unwrap()", []),
        ("#[cfg(test)]\nuse a::b;\nlet a = b.unwrap();", [3]),
        ("fn a() {}\n#[cfg(test)]\nmod tests { fn b() { c.unwrap(); } }", []),
    ],
)
def test_panics_are_found(text: str, numbers: list[int]) -> None:
    assert list(unexplained_panics(text)) == numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("unsafe { f() }", [1]),
        ("// SAFETY: f is sound\n\n\n\nunsafe { f() }", [5]),
        ("// SAFETY: f is sound\nOk(S {\n    a: unsafe { f() },", []),
        ("// SAFETY: f is sound, and\n// so is g.\nunsafe { f() }", []),
        ("// SAFETY: S has no pointers\n#[allow(x)]\nunsafe impl Send for S {}", []),
        ("let a = unsafe { f() }; // SAFETY: f is sound", []),
        ("#![allow(unsafe_code)]\n// unsafe\nlet a = \"unsafe\";", []),
    ],
)
def test_unsafe_code_is_found(text: str, numbers: list[int]) -> None:
    assert list(unexplained_unsafe(text)) == numbers
