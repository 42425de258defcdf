"""The tutorial and the page about migration: their reader can do what they say, and sees what they show."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bus1_services
import pages
import pytest
from bus1_services import Interface, Service, Str, interfaces_of, method, prop
from bus1_services.polkit import Polkit


@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", ["tutorial.md", "migrating.md"])
def test_a_reader_who_follows_the_page_sees_what_it_shows(page: str, tmp_path: Path) -> None:
    pages.follow(page, tmp_path)


def test_what_is_not_printed_as_shown_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    page = tmp_path / "page.md"
    for number, (shown, printed) in enumerate([("1 ...", "1 2"), ("...", "1"), ("...\n3", "1\\n2\\n3")]):
        page.write_text(f"```console\n$ printf '{printed}\\n'\n{shown}\n```\n")
        (tmp_path / f"good-{number}").mkdir()
        pages.follow("page.md", tmp_path / f"good-{number}")
    monkeypatch.setattr(pages, "PATIENCE", 0.1)
    for number, text in enumerate(["$ echo 1\n2", "$ echo 1", "$ true\n1", "$ { sleep 0.01; echo 1; } &"]):
        page.write_text(f"```console\n{text}\n```\n")
        (tmp_path / f"bad-{number}").mkdir()
        with pytest.raises(AssertionError, match=r"page\.md"):
            pages.follow("page.md", tmp_path / f"bad-{number}")
    monkeypatch.setattr(pages, "LONGEST", 0.1)
    page.write_text("```console\n$ sleep 600\n```\n")
    with pytest.raises(AssertionError, match="sleep 600 has not ended"):
        pages.follow("page.md", tmp_path)


def test_what_the_bus_says_meanwhile_is_left_out() -> None:
    log = "bus1-bridge[7]: [session uid=0 pid=7] Successfully activated service 'org.example.Room'\n"
    assert pages.without_log(f"{log}as 0\n{log}A room: the peer{log}\n") == "as 0\nA room: the peer\n"


PAGES = ("endpoints.md", "migrating.md", "services.md", "tutorial.md")
FRAGMENT = {"name-defined", "syntax", "top-level-await"}
"""Kinds of errors of what is not a whole program: it uses what stands elsewhere, or is in a function."""


def generations(page: str, folder: Path) -> Iterator[list[Path]]:
    """The Python of a page as files: those that can be there at the same time."""
    written: list[Path] = []
    for number, block in enumerate(pages.blocks(page)):
        if block.language == "python":
            path = folder / (block.file or f"at_line_{block.line}.py")
            if path in written:
                yield written
                written = []
                folder = folder.parent / f"{page}-{number}"
                path = folder / path.name
            folder.mkdir(exist_ok=True)
            path.write_text(block.text)
            written.append(path)
    yield written


def test_every_block_of_python_can_be_read() -> None:
    for page in PAGES:
        for block in pages.blocks(page):
            if block.language == "python":
                compile(block.text, f"{page}:{block.line}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.timeout(240)
def test_every_whole_program_is_typed(tmp_path: Path) -> None:
    whole, wrong = 0, []
    rooms = os.pathsep.join(str(pages.ROOT / room) for room in (".", "services", "bridge"))
    options = ["--strict", "--ignore-missing-imports", "--config-file=", f"--cache-dir={tmp_path}/cache"]
    for page in PAGES:
        for files in generations(page, tmp_path / page):
            done = subprocess.run(
                [sys.executable, "-m", "mypy", *options, *(path.name for path in files)],
                cwd=files[0].parent, env={**os.environ, "MYPYPATH": rooms}, capture_output=True, text=True,
            )
            assert done.returncode in {0, 1}, done.stdout + done.stderr
            errors = re.findall(r"^(\w+\.py):.* error: .*\[([\w-]+)\]$", done.stdout, re.M)
            fragments = {name for name, kind in errors if kind in FRAGMENT}
            whole += len({path.name for path in files} - fragments)
            wrong += [
                f"{page}: {line}" for line in done.stdout.splitlines()
                if " error: " in line and line.partition(":")[0] not in fragments
            ]
    assert wrong == []
    assert whole >= 13


class File(Interface, name="org.example.File1"):
    """What the fragments of the page about services speak of."""

    @method
    def read(self) -> Str:
        return "x"

    @prop
    def title(self) -> Str:
        return "x"

    @title.setter
    def _set_title(self, title: str) -> None:
        raise NotImplementedError


class Clock(Interface, name="org.example.Clock1"):
    @method
    def format(self, template: Str) -> Str:
        return template


@pytest.mark.parametrize(("start", "made"), [
    ("class Late(", ["Late"]),
    ("class Door(", ["Door"]),
    ("from bus1_services.caps import", ["reader", "writer", "minutes", "view", "brief", "lent", "named"]),
    ("from bus1_services import Service\n", ["lamp"]),
    ("from bus1_services.polkit", ["POLKIT", "Clock"]),
])
def test_a_fragment_runs_among_what_it_speaks_of(
    start: str, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its declarations can be read, and it comes to its end."""
    ran: list[str] = []
    # Classes of other tests stand for names of errors, too; those are not the page's.
    monkeypatch.setattr("bus1_services.errors._by_name", {})
    monkeypatch.setattr(Service, "run", lambda service: ran.append(service.title))
    (text,) = [block.text for block in pages.blocks("services.md") if block.text.startswith(start)]
    names: dict[str, object] = {name: getattr(bus1_services, name) for name in bus1_services.__all__}
    names |= {"File": File, "Clock": Clock, "file": File(), "folder": File(), "clock": Clock(),
              "Badge": File, "Room": Clock, "NAME": "org.example.Clock", "PATH": "/", "__name__": "fragment"}
    exec(compile(text, "services.md", "exec", dont_inherit=True), names)
    for name in made:
        value = names[name]
        assert isinstance(value, type | Interface | Polkit)
        if isinstance(value, type) and issubclass(value, Interface):
            assert interfaces_of(value)
    assert (".run()" in text) == bool(ran)


def anchors(path: Path) -> set[str]:
    """Where links into a page may lead, as GitHub names headings."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_link_between_pages_leads_somewhere() -> None:
    astray, n_links = [], 0
    for path in (*pages.DOCS.glob("*.md"), *pages.ROOT.glob("*.md")):
        for target, anchor in re.findall(r"\]\((?!https?:)([\w./-]*)#?([\w-]*)\)", path.read_text()):
            n_links += 1
            page = path.parent / target if target else path
            if not page.exists() or (anchor and anchor not in anchors(page)):
                astray.append(f"{path.name}: {target}#{anchor}")
    assert astray == []
    assert n_links > 30
