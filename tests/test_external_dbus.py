"""D-Bus's own tests, as Debian installs them, on both buses: what passes and what is skipped is the same.

They need Debian's package dbus-tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from suites import Stand, run_on_both, stands

PROGRAMS = Path("/usr/lib/dbus-1.0/installed-tests/dbus")
ENVIRONMENT = {
    "DBUS_TEST_EXEC": str(PROGRAMS),
    "DBUS_TEST_DATA": str(PROGRAMS / "data"),
    "DBUS_TEST_DATADIR": "/usr/share",
}
SUITES = (
    "test-dbus-daemon", "test-monitor", "test-header-fields", "test-uid-permissions",
    "test-dbus-daemon-eavesdrop", "test-sd-activation", "test-containers",
)


pytestmark = pytest.mark.timeout(150)


@pytest.fixture(scope="module")
def both() -> Iterator[Sequence[Stand]]:
    with stands() as pair:
        yield pair


@pytest.mark.parametrize("suite", SUITES)
def test_the_bridge_passes_what_the_reference_passes(
    both: Sequence[Stand], suite: str, tmp_path: Path
) -> None:
    command = [str(PROGRAMS / suite), "--tap"]
    reference, ours = run_on_both(both, command, "DBUS_TEST_DAEMON", ENVIRONMENT, tmp_path)
    reference.check()
    ours.check()
    assert ours.report.outcomes == reference.report.outcomes, ours.end
    assert len(ours.served) == len(reference.served) >= reference.report.count("ok")
