"""The main job as the README shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parent.parent / "examples" / "demo.py"


def test_the_demo_tells_its_story_and_exits_0() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DBUS_")}
    told = subprocess.run(
        [sys.executable, str(DEMO)], env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
    for tool in ("busctl", "gdbus", "dbus-send", "notify-send"):
        assert f"{tool} (D-Bus)" in told.stdout
    assert "native -> bridge -> legacy" in told.stdout
    assert told.stdout.rstrip().endswith("everybody was understood")
    assert "Traceback" not in told.stderr
