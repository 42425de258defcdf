"""suites: foreign test programs, and the buses that they start, of either kind.

Theory. A program of a suite starts buses of its own and reports in TAP. As the daemon it gets that of a
``Stand``: a script that becomes dbus-daemon or bus1-bridge under the eyes of a witness. Some programs start
a bus as another user, so all that a stand consists of lies where every user may read it, a copy of
our packages included: a checkout and its .venv often lie in somebody's home.

Not here: which programs there are, and what they need (test_external_*).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import bus1_bridge
import bus1_services
import sortedcontainers
from tap import Report, parse
from witness import Process

import bus1

_WITNESS = Path(__file__).parent / "witness.py"
_PACKAGES = (bus1, bus1_services, bus1_bridge, sortedcontainers)
# no site-packages: how soon the bus is there is part of the test
_BRIDGE = """#!{python} -IS
import sys
sys.path.insert(0, {library!r})
from bus1_bridge.cli import main
sys.exit(main())
"""
_STAND = """#!/bin/sh
exec {python} -IS {witness} {record} {command} -- "$@"
"""


@dataclass(frozen=True)
class Stand:
    """One kind of bus, to be started as ``daemon``."""

    kind: str
    daemon: Path
    executable: str
    command: str
    record: Path

    def is_kind(self, process: Process) -> bool:
        """A process that a witness has seen is of this kind."""
        return process.executable == self.executable and self.command in process.arguments

    def seen(self) -> list[Process]:
        """The processes that listened since the last look."""
        processes = [Process(*json.loads(line)) for line in self.record.read_text().splitlines()]
        os.truncate(self.record, 0)
        return processes


@dataclass(frozen=True)
class Run:
    """One run of a program."""

    stand: Stand
    status: int | None
    """None: it was ended because it took too long."""
    report: Report
    served: list[Process]
    end: str
    """Of what it said; all of it lies in the folder where it ran."""

    def check(self) -> None:
        """It came to its end, nothing failed, and only buses of its kind served it."""
        strangers = [process for process in self.served if not self.stand.is_kind(process)]
        assert not strangers, strangers
        assert not self.report.complaints, "\n".join([*self.report.complaints, self.end])
        assert "not ok" not in self.report.outcomes.values(), self.end
        assert self.status in {0, _SKIPPED}, f"status {self.status}\n{self.end}"


_SKIPPED = 77
"""How automake's tests say that there was nothing to test."""
_END = 2000


@contextmanager
def stands() -> Iterator[tuple[Stand, Stand]]:
    """The reference's and ours."""
    with tempfile.TemporaryDirectory(prefix="bus1-suites-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        python = _python_for_all()
        bridge = _install_bridge(folder, python)
        witness = folder / _WITNESS.name
        shutil.copy(_WITNESS, witness)
        reference = shutil.which("dbus-daemon")
        assert reference is not None
        yield (
            _new_stand(folder, "dbus-daemon", python, witness, reference, reference),
            _new_stand(folder, "bus1-bridge", python, witness, python, str(bridge)),
        )


def _new_stand(folder: Path, kind: str, python: str, witness: Path, executable: str, command: str) -> Stand:
    record = folder / f"{kind}.seen"
    record.touch()
    record.chmod(0o666)
    daemon = folder / f"{kind}.stand"
    daemon.write_text(_STAND.format(python=python, witness=witness, record=record, command=command))
    daemon.chmod(0o755)
    return Stand(kind, daemon, os.path.realpath(executable), command, record)


def _install_bridge(folder: Path, python: str) -> Path:
    library = folder / "lib"
    for package in _PACKAGES:
        source = Path(package.__path__[0])
        shutil.copytree(source, library / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([python, "-IS", "-m", "compileall", "-q", library], check=True)
    script = folder / "bus1-bridge"
    script.write_text(_BRIDGE.format(python=python, library=str(library)))
    script.chmod(0o755)
    return script


def _python_for_all() -> str:
    """An interpreter that every user may run: this one or the system's; this one if there is none."""
    candidates = [os.path.realpath(path) for path in (sys.executable, "/usr/bin/python3")]
    return next(filter(_is_for_all, candidates), candidates[0])


def _is_for_all(path: str) -> bool:
    with suppress(FileNotFoundError):
        return all(part.stat().st_mode & stat.S_IXOTH for part in (Path(path), *Path(path).parents))
    return False


def run(
    stand: Stand, command: Sequence[str], environment: Mapping[str, str], folder: Path, patience: float
) -> Run:
    """Run a program that starts its buses as ``environment`` says, for ``patience`` seconds at most."""
    folder.mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DBUS_", "G_"))}
    # nor shall GLib look for a desktop's file systems on the buses
    private = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "GIO_USE_VFS": "local", "LC_ALL": "C"}
    with (folder / "output").open("w+") as out, (folder / "errors").open("w+") as err:
        process = subprocess.Popen(
            command, env={**inherited, **private, **environment}, cwd=folder, stdin=subprocess.DEVNULL,
            stdout=out, stderr=err, start_new_session=True,
        )
        status = None
        with suppress(subprocess.TimeoutExpired):
            status = process.wait(patience)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        out.seek(0)
        err.seek(0)
        text = out.read()
        end = f"{shlex.join(command)} on {stand.kind}: …\n{text[-_END:]}\n…\n{err.read()[-_END:]}"
        return Run(stand, status, parse(text), stand.seen(), end)


def run_on_both(
    both: Sequence[Stand], command: Sequence[str], daemon_variable: str, environment: Mapping[str, str],
    folder: Path, patience: float = 120,
) -> list[Run]:
    """Run a program on each kind of bus, side by side; ``daemon_variable`` tells it what to start."""

    def one(stand: Stand) -> Run:
        variables = {**environment, daemon_variable: str(stand.daemon)}
        return run(stand, command, variables, folder / stand.kind, patience)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, both))
