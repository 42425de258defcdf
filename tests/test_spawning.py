"""Programs as children: what they are given, and what is told of their end."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from bus1_bridge import spawning
from bus1_bridge.spawning import Child, spawn
from buses import eventually


@pytest.fixture
def children() -> Iterator[list[Child]]:
    """Nothing of them is left after the test."""
    started: list[Child] = []
    yield started
    for child in started:
        child.kill()


def ended(child: Child) -> int:
    """Its exit code, once it has ended."""
    statuses: list[int] = []

    def has_ended() -> bool:
        status = child.reap()
        statuses.extend([] if status is None else [status])
        return bool(statuses)

    eventually(has_ended, lambda: child.pid)
    return os.waitstatus_to_exitcode(statuses[0])


def run(*arguments: str, **options: object) -> Child:
    return spawn(arguments, {"PATH": os.environ["PATH"]}, **options)  # type: ignore[arg-type]


def test_a_program_that_ends_has_a_status_and_no_error() -> None:
    child = run("/bin/sh", "-c", "exit 7")
    assert (ended(child), child.exec_error) == (7, 0)


@pytest.mark.parametrize(
    ("program", "number"), [("/nowhere", errno.ENOENT), ("/", errno.EACCES), ("relative", errno.ENOENT)]
)
def test_a_program_that_cannot_be_executed_leaves_the_reason(program: str, number: int) -> None:
    child = run(program)
    ended(child)
    assert child.exec_error == number


def test_a_file_that_is_no_program_leaves_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("text")
    path.chmod(0o755)
    child = run(str(path))
    ended(child)
    assert child.exec_error == errno.ENOEXEC


def test_a_program_runs_until_it_is_killed_with_what_it_has_started(
    tmp_path: Path, children: list[Child]
) -> None:
    script = f"sleep 1000 & echo $! > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; wait"
    child = run("/bin/sh", "-c", script)
    children.append(child)
    assert child.reap() is None
    eventually((tmp_path / "pid").exists, lambda: child.pid)
    grandchild = int((tmp_path / "pid").read_text())
    child.kill()
    assert ended(child) == -signal.SIGKILL
    eventually(lambda: _has_ended(grandchild), lambda: grandchild)


def _has_ended(pid: int) -> bool:
    """It is gone, or it is a zombie that nobody reaps here."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_program_gets_the_limit_that_the_bus_found_and_no_open_descriptor(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    script = f"ulimit -n > {tmp_path}/limit; ls /proc/self/fd > {tmp_path}/fds"
    assert ended(run("/bin/sh", "-c", script, files=(123, 456))) == 0
    os.close(writing)
    os.close(reading)
    assert (tmp_path / "limit").read_text() == "123\n"
    # the last is that of the directory
    assert (tmp_path / "fds").read_text().split() == ["0", "1", "2", "3"]


@pytest.mark.parametrize(("score", "becomes"), [("-900\n", "0"), ("300\n", "300")])
def test_a_program_is_not_spared_by_the_memory_killer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: str, becomes: str
) -> None:
    path = tmp_path / "score"
    path.write_text(score)
    monkeypatch.setattr(spawning, "_OOM_SCORE", str(path))
    ended(run("/bin/true"))
    assert path.read_text().startswith(becomes)


def test_the_signals_of_the_caller_stay_as_they_were() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    ended(run("/bin/true"))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_process_that_cannot_be_made_leaves_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> int:
        raise OSError(errno.EAGAIN, "no process")

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    monkeypatch.setattr(os, "fork", fails)
    with pytest.raises(OSError, match="no process"):
        run("/bin/true")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_output_goes_to_the_journal_if_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawning, "_JOURNAL", str(tmp_path / "journal"))
    with socket.socket(socket.AF_UNIX) as journal:
        journal.bind(str(tmp_path / "journal"))
        journal.listen()
        child = run("/bin/sh", "-c", "echo out; echo err >&2", journal="com.example.A")
        stream, _ = journal.accept()
        with stream, stream.makefile() as lines:
            assert lines.read().split("\n") == [
                "com.example.A", "", "6", "0", "0", "0", "0", "out", "err", ""
            ]
        assert ended(child) == 0


def test_output_stays_where_it_is_without_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawning, "_JOURNAL", str(tmp_path / "nowhere"))
    same = "test /proc/$$/fd/2 -ef /proc/$PPID/fd/2"
    assert ended(run("/bin/sh", "-c", same, journal="com.example.A")) == 0
