"""The command ``python -m fuzz``: which target, how long, where new inputs go.

Theory. atheris is libFuzzer for Python: it counts branches of the instrumented modules, keeps inputs that
reach new ones, and changes them. It is imported here alone; the targets are plain functions, which the
tests run over the corpus without it.

Not here: what is fuzzed (frames_target, server_target), where the first inputs come from (seeds).
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path
from types import ModuleType

CORPUS = Path(__file__).parent / "corpus"
TARGETS = ("frames", "server")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fuzz", description="Feed the bus with bytes that nobody should send.",
        epilog="Further options go to libFuzzer, as -print_final_stats=1.", allow_abbrev=False,
    )
    parser.add_argument("target", choices=TARGETS, help="frames: codec and client; server: a whole bus")
    parser.add_argument("--seconds", type=int, default=60, help="stop after this time (default: 60)")
    parser.add_argument(
        "--corpus", type=Path, metavar="DIR",
        help="keep inputs that reach something new here (default: forget them)",
    )
    parser.add_argument("--merge", type=Path, metavar="DIR", help="do not fuzz: copy a minimal corpus to DIR")
    chosen, chosen_options = parser.parse_known_args()
    chosen.options = chosen_options
    return chosen


def libfuzzer() -> ModuleType | None:
    """atheris, if it is installed."""
    try:
        return importlib.import_module("atheris")
    except ImportError:
        return None


def main() -> int:
    """Fuzz until the time is up or something is found; libFuzzer's exit code."""
    chosen = arguments()
    atheris = libfuzzer()
    if atheris is None:
        print("fuzz: atheris is not installed: pip install 'bus1[fuzz]'", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["bus1"]):
        target = importlib.import_module(f"fuzz.{chosen.target}_target")
    with tempfile.TemporaryDirectory() as forgotten:
        known = CORPUS / chosen.target
        options = [f"-max_total_time={chosen.seconds}", "-timeout=60", "-max_len=2048", "-len_control=20"]
        kept = chosen.corpus or Path(forgotten)
        if chosen.merge is not None:
            options = ["-merge=1", "-max_len=2048"]
            kept, known = chosen.merge, chosen.corpus or known
        kept.mkdir(parents=True, exist_ok=True)
        atheris.Setup([sys.argv[0], str(kept), str(known), *options, *chosen.options], target.one_input)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
