"""What every daemon does around its work: signals."""

from __future__ import annotations

import subprocess
import sys

ENDING = """
import os, signal
from bus1.process import live

def serve(signals):
    os.kill(os.getpid(), signal.SIGTERM)
    assert os.read(signals, 64) == bytes([signal.SIGTERM])
    os.close(signals)
    os.kill(os.getpid(), signal.SIGTERM)

live([], serve, lambda: None)
"""


def test_a_signal_that_comes_when_all_is_closed_is_no_complaint() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDING], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
