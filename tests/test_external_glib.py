"""GLib's own tests, as Debian installs them, on both buses: what passes and what is skipped is the same.

They need Debian's package libglib2.0-tests. All of its programs that start a bus are run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from suites import Stand, run_on_both, stands
from tap import Report

DESCRIPTIONS = Path("/usr/share/installed-tests/glib")
ALONE = {"gapplication": "/gapplication/no-replace"}
"""Leaves a timer that a second later ends the process, and with it the cases that are still to come."""
START_NONE = {"gdbus-auth", "gdbus-close-pending", "gdbus-error", "gdbus-threading"}
"""They can, but in this version they do not."""
UNLUCKY = "Failed to reproduce race"
"""Said by a case that is "skipped" after it has run without an error."""


def suites() -> Iterator[tuple[str, list[str]]]:
    """The programs that start a bus, and how to run them."""
    for description in sorted(DESCRIPTIONS.glob("*.test")):
        (line,) = re.findall(r"^Exec=(.*)$", description.read_text(), re.MULTILINE)
        command = [*shlex.split(line), "--tap"]
        if b"g_test_dbus_up" not in Path(command[0]).read_bytes():
            continue
        if case := ALONE.get(description.stem):
            yield case, [*command, "-p", case]
            command += ["-s", case]
        yield description.stem, command


def outcomes(report: Report) -> dict[str, str]:
    """What a report says, luck aside."""
    lucky = {name: "ok" for name, reason in report.reasons.items() if reason.startswith(UNLUCKY)}
    return report.outcomes | lucky


SUITES = dict(suites())
NAMED = {
    "actions", "dbus-appinfo", "gapplication", "gdbus-connection", "gdbus-exit-on-close", "gdbus-export",
    "gdbus-introspection", "gdbus-names", "gdbus-proxy", "gdbus-subscribe", "gdbus-test-codegen",
    "gnotification",
}


pytestmark = pytest.mark.timeout(150)


@pytest.fixture(scope="module")
def both() -> Iterator[Sequence[Stand]]:
    with stands() as pair:
        yield pair


def test_the_suites_are_installed() -> None:
    assert set(SUITES) >= NAMED | START_NONE


@pytest.mark.parametrize("suite", SUITES)
def test_the_bridge_passes_what_the_reference_passes(
    both: Sequence[Stand], suite: str, tmp_path: Path
) -> None:
    reference, ours = run_on_both(both, SUITES[suite], "G_TEST_DBUS_DAEMON", {}, tmp_path)
    reference.check()
    ours.check()
    assert outcomes(ours.report) == outcomes(reference.report), ours.end
    assert len(ours.served) == len(reference.served)
    assert bool(ours.served) is (suite not in START_NONE), ours.end
