"""running: a program that was written for dbus-fast or dbus-next, run natively as it is.

Theory. ``substitute`` puts the native ``MessageBus`` in the place of the library's, before a program imports
it. The program does the rest.

Not here: the GLib flavour of the libraries; it is left alone.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from .bus import message_bus
from .library import PACKAGES

_USAGE = "usage: python -m bus1_services.dbusfast run SCRIPT|MODULE [ARGUMENT...]"


def substitute() -> None:
    """Have ``from dbus_fast.aio import MessageBus`` give the native one, and so for dbus-next, if installed.

    For what is imported from now on; ImportError if a library is broken."""
    for package in PACKAGES:
        if find_spec(package) is not None:
            native = message_bus(package)
            for name in ("aio.message_bus", "aio"):
                vars(import_module(f"{package}.{name}"))["MessageBus"] = native


def main(arguments: Sequence[str]) -> None:
    """``run``: a script, or a module as by ``python -m``, with its arguments; SystemExit for a wrong use."""
    if len(arguments) < 2 or arguments[0] != "run":
        print(_USAGE, file=sys.stderr)
        raise SystemExit(2)
    program = arguments[1]
    sys.argv[:] = arguments[1:]
    substitute()
    if "/" in program or program.endswith(".py"):
        if not Path(program).is_file():
            raise SystemExit(f"{program}: no such file")
        sys.path[0] = str(Path(program).resolve().parent)
        runpy.run_path(program, run_name="__main__")
    else:
        try:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        except ImportError as error:
            if error.name is None and f"No module named {program}" in str(error):
                raise SystemExit(str(error)) from None
            raise
