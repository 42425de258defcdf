"""Clients that are written for dbus-fast and dbus-next use native services, by D-Bus and natively."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from buses import Bus
from foreign_ways import HERE, NATIVELY

EXAMPLES = Path(__file__).parent.parent / "examples"
CLIENT = str(HERE / "foreign_client.py")

EXPERIENCE = """\
% True
('org.example.Clock1', {'Zone': ('s', 'HERE')}, []) HERE
THERE 0
org.freedesktop.DBus.Error.UnknownProperty org.example.Clock1 has no property Missing
1 ['notify.py', 'bus1', '1', '1.2']
(1, 3) ['body', 'actions']
Missing ERROR org.freedesktop.DBus.Error.UnknownMethod s
Format ERROR org.freedesktop.DBus.Error.InvalidArgs s
Format ERROR org.freedesktop.DBus.Error.UnknownObject s
Ask ERROR org.freedesktop.DBus.Error.ServiceUnknown s
ListNames METHOD_RETURN None as
True
GetNameOwner METHOD_RETURN None s
NameHasOwner METHOD_RETURN None b
: [False]
GetNameOwner ERROR org.freedesktop.DBus.Error.NameHasNoOwner s
AddMatch ERROR org.freedesktop.DBus.Error.MatchRuleInvalid s
RemoveMatch ERROR org.freedesktop.DBus.Error.MatchRuleNotFound s
"""


@pytest.mark.parametrize("before", [(), NATIVELY], ids=["bridge", "native"])
@pytest.mark.parametrize("library", ["dbus_fast", "dbus_next"])
def test_a_client_of_a_library_uses_native_services(
    bus1_bus: Bus, library: str, before: tuple[str, ...]
) -> None:
    for service in (("clock.py",), ("notify.py", "serve")):
        started = bus1_bus.start(sys.executable, str(EXAMPLES / service[0]), *service[1:])
        assert started.stdout is not None
        assert "is served" in started.stdout.readline()
    found = bus1_bus.run(sys.executable, *before, CLIENT, library)
    assert (found.stdout, found.stderr) == (EXPERIENCE, "")
