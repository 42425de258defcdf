"""The manual page: its examples are run as one program, and nothing that it must describe is missing."""

from __future__ import annotations

import doctest
import errno
import inspect
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import fields
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from docutils.core import publish_string
from native_bus import NativeBus

from bus1.core import api
from bus1.core.account import exceeds_peer_quota
from bus1.errors import BY_ERRNO, Bus1Error
from bus1.peer import Peer
from bus1.received import ReceivedMessage

PAGE = Path(__file__).parent.parent / "docs" / "bus1.7.rst"
TEXT = PAGE.read_text()
FLAGS = (api.PeerFlag, api.ResetFlag, api.DestroyFlag, api.SendFlag, api.RecvFlag, api.MessageFlag)
UNUSED = {"NONE"}
"""Never returned (R-7)."""


def sections(underline: str, text: str = TEXT) -> dict[str, str]:
    """Headings of one level, and what stands under each."""
    pieces = re.split(rf"^([^\n]+)\n{underline}{{3,}}\n", text, flags=re.M)[1:]
    return dict(zip(pieces[::2], pieces[1::2], strict=True))


CHAPTERS = sections("=")
OPERATIONS = sections("-", CHAPTERS["OPERATIONS"])


def public(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NativeBus]:
    bus = NativeBus(tmp_path)
    monkeypatch.setenv("BUS1_ADDRESS", bus.address)
    yield bus
    bus.close()


def run_examples(text: str) -> tuple[int, str]:
    """Runs the examples of ``text`` in one namespace; how many there were, and what failed.

    "..." stands for anything: who runs them, for example."""
    report = StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    program = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    runner.run(program, out=report.write, clear_globs=False)
    for value in program.globs.values():
        if isinstance(value, Peer):
            value.close()
    return len(program.examples), report.getvalue()


def test_the_examples_of_the_page_show_what_happens(bus: NativeBus) -> None:
    n_fds = bus.n_fds()
    n_examples, failures = run_examples(TEXT)
    assert failures == ""
    assert n_examples == TEXT.count("\n>>> ") > 80
    bus.wait_until_idle(n_fds)


def test_an_example_that_shows_something_else_fails(bus: NativeBus) -> None:
    opened = ">>> from bus1.peer import Peer\n>>> alice = Peer.connect()\n"
    assert run_examples(opened + ">>> alice.granted\n()\n") == (3, "")
    assert "Got:\n    ()" in run_examples(opened + ">>> alice.granted\n(11,)\n")[1]
    for error in ("Busy: nothing queued", "WouldBlock: it is not"):
        wrong = f">>> alice.recv()\nTraceback (most recent call last):\nbus1.errors.{error}\n"
        assert "WouldBlock: nothing queued" in run_examples(opened + wrong)[1]


def test_every_operation_is_described_with_an_example() -> None:
    described = {name for title in OPERATIONS for name in title.split(", ")}
    by_their_own = public(Peer) - {"granted"}  # what connect says
    assert described - {"poll"} == by_their_own and "``granted``" in OPERATIONS["connect"]
    for title, text in OPERATIONS.items():
        assert ">>> " in text, title
        for name in set(title.split(", ")) - {"poll"}:
            assert name in re.findall(r"^``Peer\.(\w+)\(", text, re.M)


def test_every_signature_is_that_of_the_library() -> None:
    told = {found[1]: found[2] for found in re.finditer(r"^``Peer\.(\w+)\((.*)\)``$", TEXT, re.M)}
    for name, parameters in told.items():
        real = list(inspect.signature(getattr(Peer, name)).parameters.values())
        shown = [word.partition("=")[0] for word in parameters.split(", ") if word not in {"", "*"}]
        assert shown == [parameter.name for parameter in real if parameter.name != "self"], name
        n_optional = sum(parameter.default is not inspect.Parameter.empty for parameter in real)
        assert parameters.count("=") == n_optional, name


def test_every_error_is_described_and_said_by_an_operation() -> None:
    listed = dict(re.findall(r"^``(\w+)`` \((E[A-Z0-9]+)\)$", CHAPTERS["ERRORS"], re.M))
    assert {name: getattr(errno, code) for name, code in listed.items()} == {
        kind.__name__: code for code, kind in BY_ERRNO.items()
    }
    of_the_link = {"UnknownOperation", "RemoteProtocolError", "InternalError"}
    for name in set(listed) - of_the_link:
        assert f"``{name}``" in CHAPTERS["OPERATIONS"], name
    for branch in Bus1Error.__subclasses__():
        assert f"``{branch.__name__}``" in TEXT


def test_every_flag_and_every_field_of_a_message_is_described() -> None:
    words = set(re.findall(r"\w+", TEXT))
    for kind in (*FLAGS, api.MessageType):
        assert set(kind.__members__) - UNUSED <= words, kind
    shown = {field.name for field in fields(ReceivedMessage) if not field.name.startswith("_")}
    headed = set(re.findall(r"^([a-z_, ]+)(?:\(\))?$", OPERATIONS["recv"], re.M))
    assert {name for line in headed for name in line.split(", ")} == shown | {"release"}


def test_the_numbers_of_the_page_are_those_of_the_bus() -> None:
    limits = api.Limits()
    for number in (limits.slices, limits.handles, limits.inflight_bytes, limits.inflight_fds):
        assert re.search(rf"^\* {number} ", CHAPTERS["QUOTAS"], re.M), number
    assert f"at most {api.VEC_MAX} buffers" in TEXT and f"at most {api.FD_MAX} open descriptors" in TEXT
    told = re.search(r"with (\d+) messages, (\d+) MiB, (\d+) handles or\s(\d+)\sdescriptors", TEXT)
    maxima = limits.slices, limits.inflight_bytes >> 20, limits.handles, limits.inflight_fds
    assert told and [int(number) for number in told.groups()] == [most(left) for left in maxima]
    left, first = limits.inflight_bytes * 3 // 4, limits.inflight_bytes // 4
    told = re.search(r"second user can send it (\d+) MiB, or the first one (\d+) MiB", CHAPTERS["QUOTAS"])
    assert told and [int(number) << 20 for number in told.groups()] == [most(left), most(left, first)]


def most(left: int, share: int = 0) -> int:
    """The largest charge that is admitted, of an idle receiving peer."""
    return bisect_left(range(left), True, key=lambda more: exceeds_peer_quota(left, share, 0, more)) - 1


def build() -> str:
    """The page as ``make man`` builds it; a warning is an error."""
    settings: dict[str, Any] = {"report_level": 1, "halt_level": 1, "syntax_highlight": "none"}
    page = publish_string(TEXT, source_path=str(PAGE), writer="manpage", settings_overrides=settings)
    return page.decode() if isinstance(page, bytes) else str(page)


def test_the_page_builds_without_a_warning() -> None:
    page = build()
    assert re.search(r'^\.TH "BUS1" "7"', page, re.M | re.I)
    assert "bus1 \\- capability message bus in user space" in page
    for title in CHAPTERS.keys() - {"bus1"}:
        assert re.search(rf'^\.SH "?{title}', page, re.M), title


def test_the_examples_fit_80_columns() -> None:
    margin = 7  # of man(1)
    examples = re.findall(r"^>>> .*?(?=^$)", TEXT, re.M | re.S)
    assert len(examples) > len(OPERATIONS)
    assert [line for text in examples for line in text.splitlines() if len(line) > 80 - margin] == []
