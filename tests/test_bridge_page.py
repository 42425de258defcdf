"""The manual page bus1-bridge(1) says everything that the command's own tables say."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from pathlib import Path

import pytest
from bus1_bridge.cli import FLAGS
from bus1_bridge.verbs import VERBS, command_of
from docutils.core import publish_string

from bus1.cli import parser_of

PAGE = Path(__file__).parent.parent / "docs" / "bus1-bridge.1.rst"
TEXT = PAGE.read_text()


def chapter(name: str, underline: str) -> str:
    """What stands under a heading."""
    pieces = re.split(rf"^([^\n]+)\n{underline}{{3,}}\n", TEXT, flags=re.M)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))[name]


def documented(text: str) -> set[str]:
    """Flags that have an entry of an option list."""
    return set(re.findall(r"^(--?[a-z-]+)", text, flags=re.M))


def options_of(parser: ArgumentParser) -> set[str]:
    return {flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")}


def test_every_flag_has_an_entry_and_no_other_has() -> None:
    long = {flag for flag in FLAGS if flag.startswith("--")}
    assert documented(chapter("OPTIONS", "=")) == long
    assert all(f"``{flag}``" in TEXT for flag in FLAGS.keys() - long)


def test_every_verb_has_a_section_and_no_other_has() -> None:
    headings = re.findall(r"^([a-z-]+)\n-{3,}\n", chapter("VERBS", "="), flags=re.M)
    assert headings == list(VERBS)


def test_install_is_described_option_by_option() -> None:
    wanted = options_of(parser_of("install", command_of("install"))) - {"--help"}
    assert documented(chapter("install", "-")) == wanted


@pytest.mark.parametrize("verb", ["revert", "status", "explain", "who-can"])
def test_what_a_section_mentions_is_an_option_of_the_verb(verb: str) -> None:
    mentioned = set(re.findall(r"``(--[a-z-]+)``", chapter(verb, "-").partition("\nFILES\n")[0]))
    assert mentioned <= options_of(parser_of(verb, command_of(verb)))


def test_the_page_is_good_restructured_text() -> None:
    publish_string(
        TEXT, writer="manpage", settings_overrides={"halt_level": 2, "report_level": 2}
    )
