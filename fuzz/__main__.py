"""The command ``python -m fuzz``: which target, how long, where new inputs go.

Theory. atheris is libFuzzer for Python: it counts branches of the instrumented modules, keeps inputs that
reach new ones, and changes them. It is imported here alone; the targets are plain functions, which the
tests run over the corpus without it.

Not here: what is fuzzed (frames_target, server_target, codec_target, texts_target, twins_target),
where the first inputs come from (seeds).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

CORPUS = Path(__file__).parent / "corpus"
TARGETS = {
    "frames": "codec and client of the native protocol", "server": "a whole bus",
    "codec": "the D-Bus codec, both bodies of it", "texts": "SASL and match rules",
    "twins": "D-Bus clients, on a bus with each body",
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fuzz", description="Feed the bus with bytes that nobody should send.",
        epilog="Further options go to libFuzzer, as -print_final_stats=1.", allow_abbrev=False,
    )
    parser.add_argument("target", choices=TARGETS, help="; ".join(map(": ".join, TARGETS.items())))
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


def run(target: str, argv: list[str]) -> None:
    """libFuzzer over one target; it ends the process."""
    atheris = libfuzzer()
    assert atheris is not None
    # what is in Python is seen by the fuzzer; the native body is held to it
    os.environ.setdefault("BUS1_ACCEL", "python" if target == "twins" else "auto")
    with atheris.instrument_imports(include=["bus1", "bus1_bridge", "bus1_services"]):
        module = importlib.import_module(f"fuzz.{target}_target")
    atheris.Setup(argv, module.one_input)
    atheris.Fuzz()


def itself(target: str, directory: str) -> str:
    """A program that is this command again: to merge, libFuzzer executes argv[0]."""
    program = Path(directory) / "fuzz"
    code = f"import sys; from fuzz.__main__ import run; run({target!r}, sys.argv[1:])"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$0" "$@"\n')
    program.chmod(0o700)
    return str(program)


def main() -> int:
    """Fuzz until the time is up or something is found."""
    chosen = arguments()
    if libfuzzer() is None:
        print("fuzz: atheris is not installed: pip install 'bus1[fuzz]'", file=sys.stderr)
        return 2
    known = CORPUS / chosen.target
    with tempfile.TemporaryDirectory() as forgotten:
        if chosen.merge is None:
            kept = chosen.corpus or Path(forgotten)
            # where an input takes long, large ones can't wait for small ones
            control = 0 if chosen.target == "twins" else 20
            options = [f"-max_total_time={chosen.seconds}", "-timeout=60", f"-len_control={control}"]
        else:
            kept, known, options = chosen.merge, chosen.corpus or known, ["-merge=1"]
        for folder in (kept, known):
            folder.mkdir(parents=True, exist_ok=True)
        program = itself(chosen.target, forgotten)
        run(chosen.target, [program, str(kept), str(known), "-max_len=2048", *options, *chosen.options])
    return 0


if __name__ == "__main__":
    sys.exit(main())
