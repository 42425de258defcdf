"""``bus1 migrate`` on every interface file of Debian's packages: fetched for the test, not installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from bus1_services.interface import spec_of
from bus1_services.introspection import node_xml
from bus1_services.migrate.reading import SourceError, read
from bus1_services.migrate.verb import MIGRATE
from migrated import check, load

from bus1.cli import parser_of, run_command

PACKAGES = (
    "accountsservice", "avahi-daemon", "bolt", "colord", "fprintd", "fwupd", "geoclue-2.0",
    "gnome-shell-common", "kwin-dev", "libflatpak-dev", "libkf5globalaccel-dev", "libkf5notifications-dev",
    "libkf5wallet-dev",
    "malcontent", "modemmanager-dev", "network-manager-dev", "packagekit", "plasma-workspace-dev", "rtkit",
    "tracker-miner-fs", "upower", "urfkill", "xdg-desktop-portal-dev",
)
"""Those that have files in /usr/share/dbus-1/interfaces."""
NO_DBUS = {"kf5_org.kde.KGlobalAccel.xml": "no type at position 0 of 'KGlobalAccel::MatchType'"}
"""Files with a type that is none."""


def fetched(folder: Path) -> list[Path]:
    """The interface files of the packages."""
    subprocess.run(["apt-get", "download", "-q", *PACKAGES], cwd=folder, check=True)
    for archive in folder.glob("*.deb"):
        into = archive.name.partition("_")[0]
        subprocess.run(["dpkg-deb", "-x", archive.name, into], cwd=folder, check=True)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set(PACKAGES)
    return sorted(folder.glob("*/usr/share/dbus-1/interfaces/*.xml"))


@pytest.mark.deep
@pytest.mark.timeout(1200)
def test_what_debian_ships_becomes_services_that_describe_themselves_as_before(tmp_path: Path) -> None:
    debs, written = tmp_path / "debs", tmp_path / "written"
    debs.mkdir()
    written.mkdir()
    parser, refused, names = parser_of("migrate", MIGRATE), dict[str, str](), set[str]()
    for number, file in enumerate(fetched(debs)):
        try:
            interfaces = read(file.name, file.read_bytes())
        except SourceError as error:
            refused[file.name] = str(error).partition(": ")[2]
            continue
        line = [str(file), f"--output={written}", f"--package=from_{number}"]
        assert run_command(parser, MIGRATE, line) == 0
        classes = load((written / f"from_{number}" / "service.py").read_text())
        assert read(file.name, node_xml(map(spec_of, classes)).encode()) == interfaces
        names.update(interface.name for interface in interfaces)
    assert refused == NO_DBUS
    assert len(names) > 100
    check(written, ".")
