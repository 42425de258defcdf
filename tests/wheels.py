"""wheels: what a wheel for publication must be; run as a program by ``make wheel``.

Theory. A wheel without the native module works, so nobody would notice that it was published. A wheel is fit
if its name, its metadata and its contents say the same: bus1 of this version with the native module, for
CPython from 3.11 on by the stable ABI, on any Linux that is not older than a manylinux tag says.

Not here: making it (``make wheel``), the tag that it gets (auditwheel).
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from pathlib import Path

from bus1 import __version__

MODULE = "bus1/_native.abi3.so"
_ELF = b"\x7fELF"
_TAG = "cp311-abi3"


class Unfit(Exception):
    """This wheel is not to be published; the text says why."""


def check(path: Path) -> None:
    """Look at a wheel; Unfit."""
    if not path.name.startswith(f"bus1-{__version__}-"):
        raise Unfit(f"it is not bus1 {__version__}")
    try:
        with zipfile.ZipFile(path) as wheel:
            _check_contents(path, wheel)
    except zipfile.BadZipFile as error:
        raise Unfit(f"it is no wheel: {error}") from error


def _check_contents(path: Path, wheel: zipfile.ZipFile) -> None:
    modules = [name for name in wheel.namelist() if name.startswith("bus1/_native.") and name.endswith(".so")]
    if not modules:
        raise Unfit("the native module is not in it")
    if modules != [MODULE]:
        raise Unfit(f"it has {' and '.join(modules)} and not {MODULE}")
    if not wheel.read(MODULE).startswith(_ELF):
        raise Unfit(f"{MODULE} is no shared library")
    text = wheel.read(f"bus1-{__version__}.dist-info/WHEEL").decode()
    tags = Parser().parsestr(text).get_all("Tag", [])
    platforms = path.stem.split("-")[-1].split(".")
    if sorted(tags) != sorted(f"{_TAG}-{platform}" for platform in platforms):
        raise Unfit(f"its name is not what it says of itself: {', '.join(tags)}")
    if not all(platform.startswith("manylinux") for platform in platforms):
        raise Unfit(f"it is for {' and '.join(platforms)}, which auditwheel has not granted")


def main(paths: Sequence[str]) -> int:
    """Check these wheels; returns the exit status."""
    for name in paths:
        try:
            check(Path(name))
        except Unfit as error:
            print(f"{name}: not to be published: {error}", file=sys.stderr)
            return 1
        print(f"{name}: fit to be published")
    return 0 if paths else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
