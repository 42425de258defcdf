"""The tutorial and the page about migration: their reader can do what they say, and sees what they show."""

from __future__ import annotations

from pathlib import Path

import pages
import pytest


@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", ["tutorial.md", "migrating.md"])
def test_a_reader_who_follows_the_page_sees_what_it_shows(page: str, tmp_path: Path) -> None:
    pages.follow(page, tmp_path)
