"""The means with which foreign tests are run: reading what they report, knowing which bus they had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from buses import eventually
from suites import Run, Stand, run, run_on_both, stands
from tap import parse

STARTS_A_BUS = r"""
"$DAEMON" --nofork --print-address=3 --session 3>address &
until grep -q unix: address; do :; done
export DBUS_SESSION_BUS_ADDRESS=$(cat address)
dbus-send --session --print-reply --dest=org.freedesktop.DBus / a.B.C >&2
echo ok 1 /it/runs
echo 1..1
kill $!
"""


@pytest.fixture(scope="module")
def both() -> Iterator[Sequence[Stand]]:
    with stands() as pair:
        yield pair


def shell(stand: Stand, script: str, folder: Path, patience: float = 20) -> Run:
    return run(stand, ["sh", "-c", script], {"DAEMON": str(stand.daemon)}, folder / "run", patience)


def is_running(pid: int) -> bool:
    with suppress(FileNotFoundError):
        # a dead one that nobody has waited for has no arguments
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    return False


# ---- reports ---------------------------------------------------------------------------------------


def test_a_report_tells_success_failure_and_what_was_skipped() -> None:
    report = parse("1..4\n# ok 9 no\nok 1 /a/b\nnot ok 2 - c d\nok 3 /e # SKIP not here\nok 4 /f # TODO\n")
    assert report.outcomes == {"/a/b": "ok", "c d": "not ok", "/e": "skip", "/f": "todo"}
    assert report.reasons == {"/e": "not here", "/f": ""}
    assert report.complaints == ()
    assert report.count("ok") == 1


def test_tests_without_a_name_are_told_apart() -> None:
    assert parse("ok 1\nok 2 # SKIP\n1..2\n").outcomes == {"(test 1)": "ok", "(test 2)": "skip"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1..2\nok 1 /a\n", "2 tests were planned and 1 reported"),
        ("ok 1 /a\nok 2 /a\n", "/a is reported twice"),
        ("ok 1 /a\nBail out! no more\n", "Bail out! no more"),
        ("1..0\n", "nothing is reported"),
    ],
)
def test_a_report_that_is_not_whole_says_so(text: str, complaint: str) -> None:
    assert complaint in parse(text).complaints


# ---- runs ------------------------------------------------------------------------------------------


def test_a_program_runs_on_each_kind_of_bus_under_the_eyes_of_a_witness(
    both: Sequence[Stand], tmp_path: Path
) -> None:
    runs = run_on_both(both, ["sh", "-c", STARTS_A_BUS], "DAEMON", {}, tmp_path)
    for done in runs:
        done.check()
        assert done.report.outcomes == {"/it/runs": "ok"}
        assert len(done.served) == 1
    assert {run.served[0].executable for run in runs} == {stand.executable for stand in both}


def test_a_bus_of_another_kind_is_noticed(both: Sequence[Stand], tmp_path: Path) -> None:
    reference, ours = both
    disguised = replace(ours, daemon=reference.daemon, record=reference.record)
    done = shell(disguised, STARTS_A_BUS, tmp_path)
    with pytest.raises(AssertionError, match="Process"):
        done.check()


def test_a_program_that_takes_too_long_is_ended_with_its_buses(
    both: Sequence[Stand], tmp_path: Path
) -> None:
    done = shell(both[0], STARTS_A_BUS.replace("kill $!", "wait"), tmp_path, patience=2)
    assert done.status is None
    eventually(lambda: not is_running(done.served[0].pid), lambda: done.served)
    with pytest.raises(AssertionError, match="status None"):
        done.check()


@pytest.mark.parametrize("script", ["echo ok 1 /a; echo 1..1; exit 3", "echo not ok 1 /a; echo 1..1"])
def test_a_failure_fails(both: Sequence[Stand], tmp_path: Path, script: str) -> None:
    done = shell(both[0], script, tmp_path)
    with pytest.raises(AssertionError, match="on dbus-daemon"):
        done.check()
